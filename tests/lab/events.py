"""What a probe tells its runner, taken down; for tests that watch a probe without one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from probes.base import Probe


class Recorder:
    """Events of a probe; `wait` waits for what they should bring."""

    def __init__(self) -> None:
        self.soon: list[tuple[str, float]] = []
        self.changes = 0
        self._news = asyncio.Event()

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.soon.append((target_id, in_s))
        self._news.set()

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        self.changes += 1
        self._news.set()

    async def wait(self, what: Callable[[], bool], within_s: float = 60.0) -> None:
        async with asyncio.timeout(within_s):
            while not what():
                self._news.clear()
                await self._news.wait()


def watched(probe: Probe, story: Callable[[Recorder], Awaitable[None]]) -> None:
    """Plays `story` while the probe watches."""

    async def play() -> None:
        events = Recorder()
        probe.watch(events)
        try:
            await story(events)
        finally:
            probe.close()

    asyncio.run(play())
