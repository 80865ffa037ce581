"""Much work in slices, so that whatever else the loop has to do comes in between: a beat, an answer, another's word."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervisor.clock import monotonic_s
from supervisor.inbox import Handler
from supervisor.messages import Frame

SLICE_S = 0.05


def in_slices(handle: Callable[[str, Frame], None]) -> Handler:
    """A handler for a socket that handles its frames one after another, in their order, SLICE_S at a time.

    Thousands of targets that fail at once are many seconds of work, and the root kills who gives no sign of life.
    """

    async def handler(batch: list[tuple[str, Frame]]) -> None:
        until_s = monotonic_s() + SLICE_S
        for source, frame in batch:
            if monotonic_s() >= until_s:
                await asyncio.sleep(0)
                until_s = monotonic_s() + SLICE_S
            handle(source, frame)

    return handler
