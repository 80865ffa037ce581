"""Frames that have come over the bus and wait for their handler, each of them once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from supervisor.messages import Frame

Handler = Callable[[list[tuple[str, Frame]]], Awaitable[None] | None]


class Inbox:
    """One socket's. A sender that has no answer yet sends again: while its frame waits here, the second is dropped.
    With thousands of them a slow worker would otherwise be given ever more to do, and to hold, the slower it is.
    """

    def __init__(self, name: str, handler: Handler) -> None:
        self._name = name
        self._handler = handler
        self._waiting: list[tuple[str, Frame]] = []
        self._ids: set[tuple[str, str]] = set()  # of those that wait, and of those at work
        self._work: asyncio.Task[None] | None = None

    def put(self, source: str, frame: Frame) -> None:
        if (source, frame.id) not in self._ids:
            self._ids.add((source, frame.id))
            self._waiting.append((source, frame))

    def handle(self) -> None:
        """What waits is handled from the loop's next turn on, a whole batch at a time."""
        if self._waiting and self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._handle())
            self._work.add_done_callback(self._report)

    def _report(self, work: asyncio.Task[None]) -> None:
        """A handler that raised ends the worker (its loop's exception handler does): no error stays in a task."""
        if not work.cancelled() and (error := work.exception()) is not None:
            context = {"message": f"{self._name}: handler failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    async def _handle(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                result = self._handler(batch)
                if result is not None:
                    await result
                self._ids.difference_update((source, frame.id) for source, frame in batch)
        finally:
            self._work = None
