"""Calls that may hang (a file system whose server is gone), each in a thread of its own, at most one for each key.

A thread that hangs cannot be ended. So nothing waits for it beyond the deadline, no second one is started for the same
key while it lasts, and it is a daemon thread: it keeps neither another target nor the end of the process waiting.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from supervisor import clock
from supervisor.aside import aside

T = TypeVar("T")
HUNG_S = 1.0  # for a call that was too late before: does it end after all?


class Hangs(Exception):
    """The call did not end in time; it, or an earlier one for the same key, still runs."""


class Hanging:
    """The calls under way, by key."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[float, Future[Any]]] = {}

    async def call(self, key: str, function: Callable[[], T], within_s: float) -> T:
        """What `function` returns or raises; it begins after this was called. Raises Hangs: within `within_s`, and
        sooner for what hangs already."""
        now_s = clock.monotonic_s()
        end_s = now_s + within_s
        while (before := self._running.get(key)) is not None and not before[1].done():
            hangs = now_s - before[0] >= within_s
            await _wait(*before, min(end_s, now_s + HUNG_S) if hangs else end_s)
        began_s, future = clock.monotonic_s(), aside(function, f"look at {key}")
        self._running[key] = (began_s, future)
        await _wait(began_s, future, end_s)
        if self._running.get(key) == (began_s, future):
            del self._running[key]
        return future.result()


async def _wait(began_s: float, future: Future[Any], end_s: float) -> None:
    ended = asyncio.wrap_future(future)
    try:
        await asyncio.wait((ended,), timeout=max(0.0, end_s - clock.monotonic_s()))
        if not ended.done():
            raise Hangs(f"no answer for {clock.monotonic_s() - began_s:.1f} s")
        ended.exception()  # whoever asked takes it from the thread's own future
    finally:
        ended.cancel()
