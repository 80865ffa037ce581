"""Where the dashboard's news come from, and whom its questions go to: the daemon, from a thread of its own.

The thread never waits for the screen, and the screen never for the daemon: between them stands a bounded inbox,
which, when the screen is too slow for it, is emptied and begun anew with a snapshot.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import Any, Protocol

import msgspec

from supervisor.cli.client import Control, is_running
from supervisor.cli.feed import Feed, Item
from supervisor.errors import HealError, NotRunning

LOOK_MS = 200
RETRY_S = 0.5
INBOX_MAX = 20_000  # events that the screen has not taken yet


class Source(Protocol):
    def start(self) -> None:
        """Begins to fill the inbox."""

    def drain(self) -> list[Item]:
        """What has come since, oldest first."""

    def trouble(self) -> str:
        """Why nothing comes; empty while it does."""

    def ask(self, action: str, args: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """One question or order; waits for the answer. Raises HealError."""

    def close(self) -> None: ...


class Daemon:
    """The running daemon of `runtime_dir`, and the one that comes after it."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._inbox: deque[Item] = deque()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._anew = threading.Event()  # the inbox overflowed, or the daemon is another one
        self._trouble = "connecting"
        self._thread = threading.Thread(target=self._follow, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> list[Item]:
        with self._lock:
            items = list(self._inbox)
            self._inbox.clear()
        return items

    def trouble(self) -> str:
        return self._trouble

    def ask(self, action: str, args: dict[str, Any], deadline_s: float = 10.0) -> dict[str, Any]:
        with Control(self._runtime_dir) as control:
            answer: dict[str, Any] = msgspec.json.decode(control.ask(action, args, deadline_s))
        return answer

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2.0)

    def _follow(self) -> None:
        while not self._closing.is_set():
            try:
                with Feed(self._runtime_dir) as feed:
                    self._put(feed.snapshot())
                    self._trouble = ""
                    self._listen(feed)
            except HealError as error:
                self._trouble = "not running; waiting for it" if isinstance(error, NotRunning) else error.message
            self._closing.wait(RETRY_S)

    def _listen(self, feed: Feed) -> None:
        """Until the daemon is gone: the next one is another, with a snapshot of its own."""
        while not self._closing.is_set():
            item = feed.next(LOOK_MS)
            if self._anew.is_set():
                self._anew.clear()
                item = feed.snapshot()
            if item is not None:
                self._put(item)
            elif not is_running(self._runtime_dir):
                raise NotRunning("the daemon is gone")

    def _put(self, item: Item) -> None:
        with self._lock:
            if len(self._inbox) >= INBOX_MAX:
                self._inbox.clear()
                self._anew.set()
                return
            self._inbox.append(item)
