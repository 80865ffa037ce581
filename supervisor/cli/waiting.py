"""What a command shows while it waits for the daemon: one line on stderr, written over again, on a terminal only; and
what it says when its person waits no longer."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from supervisor.cli import output

LOOK_MS = 250
CLEAR = "\r\x1b[K"


@contextmanager
def waiting(runtime_dir: Path, target_id: str = "") -> Iterator[None]:
    """For work on `target_id`; empty: on whatever the daemon works. Ctrl-C ends the waiting, not the work."""
    over = threading.Event()
    thread = threading.Thread(target=_follow, args=(runtime_dir, target_id, over), name="progress", daemon=True)
    if sys.stderr.isatty():
        thread.start()
    try:
        yield
    except KeyboardInterrupt:
        over.set()
        named = target_id or "ID"
        output.note(
            f"\nThe daemon works on; `healctl heal status` shows how far it is, `healctl heal cancel {named}` ends it."
        )
        raise
    finally:
        over.set()
        if thread.is_alive():
            thread.join(1.0)


def _follow(runtime_dir: Path, target_id: str, over: threading.Event) -> None:
    from supervisor.cli.feed import Feed
    from supervisor.errors import HealError

    shown = False
    try:
        with Feed(runtime_dir) as feed:
            while not over.is_set():
                item = feed.next(LOOK_MS)
                if item is None or item.kind != "progress" or target_id not in ("", item.data["target_id"]):
                    continue
                if not over.is_set() and not item.data["over"]:
                    sys.stderr.write(f"{CLEAR}{output.working(item.data)}")
                    sys.stderr.flush()
                    shown = True
    except HealError:
        pass  # the daemon is gone: whoever asked it says so
    if shown:
        sys.stderr.write(CLEAR)
        sys.stderr.flush()
