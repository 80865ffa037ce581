"""What a command shows while it waits for the daemon: one line on stderr, written over again, on a terminal only; and
what it says when its person waits no longer."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.cli import output
from supervisor.wire import HISTORY

LOOK_MS = 250
CLEAR = "\r\x1b[K"
COLUMNS = 80  # of a terminal that does not say


class Line:
    """Written over again on stderr; nothing at all where that is no terminal. `clear` leaves no trace of it."""

    def __init__(self) -> None:
        self.seen = sys.stderr.isatty()
        self._shown = False

    def show(self, text: str) -> None:
        if self.seen:
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
            sys.stderr.write(CLEAR + text[: columns - 1])  # of what is wrapped, only its end would be cleared
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()
            self._shown = False


@contextmanager
def waiting(runtime_dir: Path, target_id: str = "") -> Iterator[None]:
    """For work on `target_id`; empty: on whatever the daemon works. Ctrl-C ends the waiting, not the work."""
    over, line = threading.Event(), Line()
    thread = threading.Thread(target=_follow, args=(runtime_dir, target_id, over, line), name="progress", daemon=True)
    if line.seen:
        thread.start()
    try:
        yield
    except KeyboardInterrupt:
        over.set()
        if target_id != HISTORY:  # a report changes nothing: there is nothing to end
            named = target_id or "ID"
            output.note(
                "\nThe daemon works on; `healctl heal status` shows how far it is, "
                f"`healctl heal cancel {named}` ends it."
            )
        raise
    finally:
        over.set()
        if thread.is_alive():
            thread.join(1.0)


def _follow(runtime_dir: Path, target_id: str, over: threading.Event, line: Line) -> None:
    from supervisor.cli.feed import Feed
    from supervisor.errors import HealError

    try:
        with Feed(runtime_dir) as feed:
            while not over.is_set():
                item = feed.next(LOOK_MS)
                if item is None or item.kind != "progress" or target_id not in ("", item.data["target_id"]):
                    continue
                if not over.is_set() and not item.data["over"]:
                    line.show(output.working(item.data))
    except HealError:
        pass  # the daemon is gone: whoever asked it says so
    line.clear()
