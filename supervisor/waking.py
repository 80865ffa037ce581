"""The one timer behind all of the engine's: it wakes for what is due first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Waking:
    """`run` is called when it is time; `now_s` is the steady clock, in which the engine says what is due."""

    def __init__(self, run: Callable[[], None], now_s: Callable[[], float]) -> None:
        self._run = run
        self._now_s = now_s
        self._timer: asyncio.TimerHandle | None = None
        self._due_s = 0.0

    def at(self, due_steady_s: float | None) -> None:
        """Instead of what was due before; None: as it was."""
        if due_steady_s is None or (self._timer is not None and self._due_s == due_steady_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due_s = due_steady_s
        self.after(max(0.0, due_steady_s - self._now_s()))

    def after(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._run()
