"""The `host` family: disks and memory of this machine (FR-001). What is looked at, and how, stands in `disk` and
`memory`; here are the targets, and what the kernel tells by itself (R8): mounts that come and go, memory that stalls.

It must never block the loop, never act, and never judge.
"""

from __future__ import annotations

import asyncio
import logging
import os

from probes import memory
from probes.base import Began, Events, Probe, Source, begin
from probes.disk import PREFIX, Disks
from probes.exceptional import Exceptional
from probes.memory import Memory
from probes.mounts import MOUNTINFO
from supervisor import clock
from supervisor.config import Config, dirs
from supervisor.incidents import drill_run
from supervisor.incidents.readings import DiskData, DrillData, HealthReading, MemoryData, Unavailable
from supervisor.staged import Staged

log = logging.getLogger(__name__)

MOUNTS_SETTLE_S = 0.05  # mounts come in bursts: one look for all of them
DRILL_FRESH_MS = 60_000  # it is never polled
STALL_GAP_S = 5.0  # a stall lasts: it is looked at this often at most


class HostProbe(Probe):
    """Reads `disk:MOUNT` and `system-memory`."""

    family = "host"

    def __init__(self, config: Config) -> None:
        self._disks = Disks(config.disk)
        self._memory = Memory(config.memory)
        self._drills = Staged(dirs(config).runtime_dir)
        self._events: Events | None = None
        self._watches: list[Exceptional] = []
        self._settling: asyncio.TimerHandle | None = None
        self._stall_read_s = -STALL_GAP_S

    def reconfigure(self, config: Config) -> None:
        """What has other limits now is read at once."""
        points = self._disks.points if config.disk != self._disks.section else ()
        changed = [PREFIX + point for point in points]
        if config.memory != self._memory.section:
            changed.append(memory.TARGET)
        self._disks.configure(config.disk)
        self._memory.section = config.memory
        if self._events is not None:
            for target_id in changed:  # one that is no longer ours is read once more, too
                self._events.read_soon(target_id, 0.0)

    def sources(self) -> tuple[Source, ...]:
        return (*(self._disk_source(point) for point in self._disks.points), self._memory_source())

    def source(self, target_id: str) -> Source | None:
        """Any mount point may be asked for: one that is not there reads `mounted=False`, which closes what is open."""
        if target_id == memory.TARGET:
            return self._memory_source()
        if target_id == drill_run.TARGET:
            return Source(target_id, DRILL_FRESH_MS, DRILL_FRESH_MS)
        point = target_id.removeprefix(PREFIX)
        return self._disk_source(point) if target_id != point and self._disks.may_be_ours(point) else None

    def _disk_source(self, point: str) -> Source:
        interval_ms = round(float(self._disks.section.interval) * 1000)
        return Source(PREFIX + point, interval_ms, interval_ms)

    def _memory_source(self) -> Source:
        interval_ms = round(float(self._memory.section.interval) * 1000)
        return Source(memory.TARGET, interval_ms, interval_ms)

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        source = self.source(target_id)
        if source is None:
            return begin(Source(target_id, 1000, 1000), self.family).cannot(Unavailable.MISSING, "no target of ours")
        if target_id == drill_run.TARGET:
            return self._staged(begin(source, drill_run.FAMILY))
        began = begin(source, self.family)
        if target_id == memory.TARGET:
            reading = await self._memory.read(began, deadline_s)
        else:
            reading = await self._disks.read(target_id.removeprefix(PREFIX), began, deadline_s)
            if reading.reason is Unavailable.MISSING and self._events is not None:
                self._mounts_changed()  # what a named path lies on may be there without having been mounted just now
        self._plan(reading)
        return reading

    def _staged(self, began: Began) -> HealthReading:
        """A drill's made-up trouble: a file of our own, read only when it is asked for."""
        try:
            return began.tells(DrillData(self._drills.read()))
        except OSError as error:
            return began.cannot(Unavailable.ERROR, f"{self._drills.path}: {error.strerror}")

    def _plan(self, reading: HealthReading) -> None:
        """What is short is read more often than its interval says."""
        match reading.data:
            case DiskData():
                in_s = self._disks.again_in_s(reading.data)
            case MemoryData():
                in_s = self._memory.again_in_s(reading.data)
            case _:
                in_s = None
        if in_s is not None and self._events is not None:
            self._events.read_soon(reading.target_id, in_s)

    # -- what the kernel tells --

    def watch(self, events: Events) -> None:
        self._events = events
        try:
            mounts = os.open(MOUNTINFO, os.O_RDONLY | os.O_CLOEXEC)
            self._watches.append(Exceptional(mounts, self._mounts_soon))
        except OSError as error:
            log.warning("mounts that come or go are seen only at the next poll: %s", error)
        trigger = memory.open_trigger()
        if trigger is not None:
            self._watches.append(Exceptional(trigger, self._stalled))
        self._mounts_changed()  # since the first look, before anybody watched

    def _mounts_soon(self) -> None:
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(MOUNTS_SETTLE_S, self._mounts_changed)

    def _mounts_changed(self) -> None:
        assert self._events is not None
        self._settling = None
        before = self._disks.points
        changed = self._disks.refresh()
        if self._disks.points != before:
            self._events.sources_changed()
        for point in changed & set(before):  # read now: it is another disk, or none
            self._events.read_soon(PREFIX + point, 0)

    def _stalled(self) -> None:
        assert self._events is not None
        now_s = clock.monotonic_s()
        wait_s = self._stall_read_s + STALL_GAP_S - now_s
        if wait_s <= 0:
            self._stall_read_s = now_s
            self._events.read_soon(memory.TARGET, 0)
        else:
            self._events.read_soon(memory.TARGET, wait_s)

    def close(self) -> None:
        if self._settling is not None:
            self._settling.cancel()
        for watch in self._watches:
            watch.close()
        self._watches.clear()
