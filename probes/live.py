"""Every target of a configuration, read once without a daemon: for `healctl check --live`.

All families at once, each target within the few seconds that any reading may take (R9). A probe that wishes to look
again (a check in the background, a second try) is let do so until the time is up; what is still not known then is told
as such. It reads only: no ledger, no state directory, nothing that a running daemon could notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from probes.base import DEADLINE_S, Events, Probe, Source, begin
from probes.runner import probe_of
from supervisor import clock
from supervisor.clock import SteadyClock
from supervisor.config import Config
from supervisor.incidents.looks import Look, Outcome, judged
from supervisor.incidents.readings import HealthReading, Unavailable
from supervisor.messages import AtWork
from supervisor.targets import families, open_families

READS_MAX = 64  # at once, in each family
FOUND_WITHIN_S = 1.0  # a family that finds its targets by itself, and has none yet, is waited for so long
GRAIN_S = 0.02
LET_GO_S = 1.0
UNSETTLED = (Outcome.PENDING, Outcome.UNKNOWN)


class _Family(Events):
    """One probe, and what it wishes."""

    def __init__(self, family: str, config: Config, told: Callable[[Look], None]) -> None:
        self._probe: Probe = probe_of(family, config)
        self._dynamic = family in open_families(config)
        self._told = told
        self._clock = SteadyClock()
        self._loop = asyncio.get_running_loop()
        self._due_s: dict[str, float] = {}
        self._changed = asyncio.Event()
        self._places = asyncio.Semaphore(READS_MAX)
        self._reading: dict[str, asyncio.Task[None]] = {}

    def read_soon(self, target_id: str, in_s: float) -> None:
        at_s = self._loop.time() + in_s
        self._due_s[target_id] = min(at_s, self._due_s.get(target_id, at_s))

    def tell(self, work: AtWork) -> None:
        """Nobody follows it."""

    def sources_changed(self) -> None:
        self._changed.set()

    async def look(self) -> None:
        """Reads every target, those included that turn up on the way."""
        self._probe.watch(self)
        self._probe.remember({})  # there is no healer that could still tell more
        try:
            if self._dynamic and not self._probe.sources():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), FOUND_WITHIN_S)
            while True:
                self._changed.clear()
                for source in self._probe.sources():
                    if source.source_id not in self._reading:
                        self._reading[source.source_id] = self._loop.create_task(self._target(source))
                if self._reading:
                    await asyncio.gather(*self._reading.values())
                if not self._changed.is_set():
                    return
        finally:
            self._probe.close()

    async def _target(self, source: Source) -> None:
        async with self._places:
            self._told(await self._settled(source))

    async def _settled(self, source: Source) -> Look:
        """The newest look, taken again as the probe wishes while it says nothing definite."""
        name, end_s = source.source_id, self._loop.time() + DEADLINE_S
        look = self._judge(await self._read(source, DEADLINE_S))
        while look.outcome in UNSETTLED and self._loop.time() < end_s:
            if self._loop.time() < self._due_s.get(name, end_s):
                await asyncio.sleep(GRAIN_S)
            else:
                self._due_s.pop(name, None)  # none, if the time has just run out
                look = self._judge(await self._read(source, end_s - self._loop.time()), look)
        return look

    async def _read(self, source: Source, within_s: float) -> HealthReading:
        began = begin(source, self._probe.family)
        task = self._loop.create_task(self._probe.read(source.source_id, within_s))
        done, _ = await asyncio.wait({task}, timeout=within_s)
        if not done:
            task.cancel()
            return began.cannot(Unavailable.DEADLINE, f"the check did not end within {DEADLINE_S:g} s")
        error = task.exception()
        if error is not None:
            return began.cannot(Unavailable.ERROR, f"{type(error).__name__}: {error}")
        return task.result()

    def _judge(self, reading: HealthReading, before: Look | None = None) -> Look:
        if before is not None and reading.reason is Unavailable.DEADLINE:
            return before  # the second look did not end in time: the first one stands
        return judged(reading, self._clock.now())


async def read_all(config: Config, told: Callable[[Look], None] = lambda look: None) -> list[Look]:
    """Every target of the configuration, in the order of the families; `told` hears of each as it comes in."""
    looks: list[Look] = []

    def one(look: Look) -> None:
        looks.append(look)
        told(look)

    order = families(config)
    await asyncio.gather(*(_Family(family, config, one).look() for family in order))
    return sorted(looks, key=lambda look: (order.index(look.reading.family), look.reading.target_id))


async def _let_go() -> None:
    """Looks that hang: dropped while they wait, each would be complained about on stderr."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=LET_GO_S)


def run(config: Config, told: Callable[[Look], None] = lambda look: None) -> tuple[list[Look], float]:
    """`read_all` in a loop of its own, and how long it took (seconds). Waits for no thread that hangs in the kernel."""
    began_s = clock.monotonic_s()
    loop = asyncio.new_event_loop()
    try:
        looks = loop.run_until_complete(read_all(config, told))
    finally:
        loop.run_until_complete(_let_go())
        loop.close()
    return looks, clock.monotonic_s() - began_s
