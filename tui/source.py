"""Where the dashboard's news come from, and whom its questions go to: the daemon, from threads of its own.

The threads never wait for the screen, and the screen never for the daemon, nor for them when it is left: between them
stands a bounded inbox, which, when the screen is too slow for it, is emptied and begun anew with a snapshot.

The bus is loaded by them, not by who imports this: a first screen stands before.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from supervisor import clock
from supervisor.cli.item import Item
from supervisor.errors import HealError, NotRunning
from tui.model import STANDING

if TYPE_CHECKING:
    from supervisor.cli.feed import Feed

LOOK_MS = 200
RETRY_S = 0.5
INBOX_MAX = 20_000  # events that the screen has not taken yet
STANDING_EVERY_S = 2.0
STANDING_WITHIN_S = 3.0


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
        self._silence = ""

    def start(self) -> None:
        for work in (self._follow, self._stand):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def drain(self) -> list[Item]:
        with self._lock:
            items = list(self._inbox)
            self._inbox.clear()
        return items

    def trouble(self) -> str:
        return self._trouble or self._silence

    def ask(self, action: str, args: dict[str, Any], deadline_s: float = 10.0) -> dict[str, Any]:
        try:
            import zmq

            from supervisor.cli.client import Control
        except OSError as error:
            raise HealError(f"it cannot be asked: {error}") from error
        try:
            with Control(self._runtime_dir) as control:
                answer: dict[str, Any] = msgspec.json.decode(control.ask(action, args, deadline_s))
        except (OSError, zmq.ZMQError, msgspec.DecodeError) as error:
            raise HealError(f"it cannot be asked: {error}") from error
        return answer

    def close(self) -> None:
        self._closing.set()

    def _load(self) -> None:
        """The bus; as often as it takes, since a process without a file left cannot even do that."""
        while not self._closing.is_set():
            try:
                import supervisor.cli.feed  # noqa: F401, both threads have it from here on
            except OSError as error:
                self._trouble = f"it cannot be heard: {error}"
                self._closing.wait(RETRY_S)
            else:
                return

    def _follow(self) -> None:
        self._load()
        import zmq

        from supervisor.cli.feed import Feed

        while not self._closing.is_set():
            try:
                with Feed(self._runtime_dir) as feed:
                    self._put(feed.snapshot())
                    self._trouble = ""
                    self._listen(feed)
            except HealError as error:
                self._trouble = "not running; waiting for it" if isinstance(error, NotRunning) else error.message
            except (OSError, zmq.ZMQError, msgspec.DecodeError) as error:
                self._trouble = f"it cannot be heard: {error}"
            self._closing.wait(RETRY_S)

    def _listen(self, feed: Feed) -> None:
        """Until the daemon is gone: the next one is another, with a snapshot of its own."""
        from supervisor.cli.client import is_running

        while not self._closing.is_set():
            item = feed.next(LOOK_MS)
            if self._anew.is_set():
                self._anew.clear()
                item = feed.snapshot()
            if item is not None:
                self._put(item)
            elif not is_running(self._runtime_dir):
                raise NotRunning("the daemon is gone")

    def _stand(self) -> None:
        """Asks how it stands: a healer that hangs sends nothing, as one does for which nothing happens; what is paused
        or halted is no event; and a new healer counts its events from 1, so that they may seem to be the next ones."""
        self._load()
        from supervisor.cli.client import NoAnswer

        healer = None
        while not self._closing.wait(STANDING_EVERY_S):
            try:
                answer = self.ask("tree", {}, STANDING_WITHIN_S)
            except NoAnswer:
                self._silence = "it runs, but its healer does not answer"
            except HealError:
                self._silence = ""  # `_follow` says it
            else:
                self._silence = ""
                pid = next((row["pid"] for row in answer["children"] if row["name"] == "healer"), None)
                if healer is not None and pid != healer:
                    self._anew.set()
                healer = pid
                self._put(Item(0, STANDING, clock.wall_s(), answer))

    def _put(self, item: Item) -> None:
        with self._lock:
            if len(self._inbox) >= INBOX_MAX:
                self._inbox.clear()
                self._anew.set()
                return
            self._inbox.append(item)
