"""A blocking look that may hang for ever (a dead mount, a locked file), asked for from the event loop (R9).

A look has at most one thread, however often it is asked for and given up. Whoever asks while one is under way gets the
next, so that an answer never rests on what was seen before the question; all who ask before it begins share it. A look
that hangs delays no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from supervisor.aside import aside

T = TypeVar("T")


class Look(Generic[T]):
    """`call` runs in a thread; what it raises, `now` raises."""

    def __init__(self, name: str, call: Callable[[], T]) -> None:
        self._name = name
        self._call = call
        self._queued: asyncio.Task[T] | None = None
        self._under_way: Future[T] | None = None

    async def now(self) -> T:
        """What `call` returns when it begins after this question. Wait for it with a deadline."""
        if self._queued is None:
            self._queued = asyncio.get_running_loop().create_task(self._next())
            self._queued.add_done_callback(_heard)
        return await asyncio.shield(self._queued)

    async def _next(self) -> T:
        try:
            if self._under_way is not None:
                # Shielded, since a cancelled wait would cancel the thread's future under its hands.
                ended = asyncio.shield(_outcome(self._under_way))
                ended.add_done_callback(_heard)
                await asyncio.wait({ended})
        finally:
            self._queued = None  # whoever asks from here on may be later than what we are about to see
        self._under_way = aside(self._call, f"look {self._name}")
        return await asyncio.shield(_outcome(self._under_way))


def _outcome(job: Future[T]) -> asyncio.Future[T]:
    outcome = asyncio.wrap_future(job)
    outcome.add_done_callback(_heard)
    return outcome


def _heard(outcome: asyncio.Future[T]) -> None:
    """All who asked may have given up: an exception is then nobody's, and must not be complained about."""
    if not outcome.cancelled():
        outcome.exception()
