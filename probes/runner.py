"""The worker of one probe family: reads its targets when they are due and sends the readings to the healer.

Every read ends within 5 s (R9): one that does not return is cancelled and reported as unavailable. The worker never
judges a reading and never acts on one. Before a target is touched the root is told (`reading:TARGET`), so that a
target that kills its probe twice is left alone and reported (DESIGN §1).
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import socket

import msgspec

from probes.base import DEADLINE_S, Events, Probe, Refused, Source, begin
from probes.outbound import Outbound
from probes.plugin import PluginProbe, bound_memory
from probes.schedule import Schedule
from supervisor import clock
from supervisor.bus import Link, endpoint, new_context
from supervisor.config import Config
from supervisor.incidents.readings import HealthReading, SourceReading, Unavailable
from supervisor.messages import Ack, AtWork, Cancel, Frame, Known, Nack, Outside, ProbeNow, Readings, Resync
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

READS_MAX = 128  # polls at once, a bound on descriptors; events and questions do not wait for them
AT_ONCE_MAX = 512  # with events and questions: what comes beyond it is due, and begins in its turn
HUNG_AGAIN_S = 1.0  # at least, for the read after one that hung: whoever asked meanwhile has waited long enough
OUTSIDE_MAX = 64  # readings handed in that wait to be understood
READS_A_TURN = 4  # begun in one turn of the loop, so that an event comes in between

# A new family is one module and one line here. Each is imported before the fork, and only when it has targets.
FAMILIES = {
    "process": "ProcessProbe",
    "trading": "TradingProbe",
    "gateway": "GatewayProbe",
    "pipeline": "PipelineProbe",
    "fleet": "FleetProbe",
    "host": "HostProbe",
    "database": "DatabaseProbe",
    "logs": "LogsProbe",
}


def probe_of(family: str, config: Config) -> Probe:
    """The probe of one family, with its targets of this configuration."""
    if family in config.piece:
        return PluginProbe(family, config)
    made = getattr(importlib.import_module(f"probes.{family}"), FAMILIES[family])(config)
    assert isinstance(made, Probe)
    return made


class _Flight(msgspec.Struct, eq=False):
    """One read under way."""

    target_id: str
    began_s: float
    within_s: float
    task: asyncio.Task[HealthReading]
    deadline: asyncio.TimerHandle


def item_of(target_id: str) -> str:
    """The name under which the root knows a target in work."""
    return f"reading:{target_id}"


class ProbeWorker(Worker, Events):
    """`boot.name` is the family."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._flights: dict[str, _Flight] = {}
        self._abandoned: dict[asyncio.Task[HealthReading], float] = {}  # cancelled, not ended yet; began (s)
        self._suspects: set[str] = set()
        self._hung: set[str] = set()  # their last read did not end in time
        self._timer: asyncio.TimerHandle | None = None
        self._pumping = False
        self._ending = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.boot.name in self.boot.config.piece:
            bound_memory()
        self._probe = probe_of(self.boot.name, self.boot.config)
        self._sources: dict[str, Source] = {source.source_id: source for source in self._probe.sources()}
        # No longer sources, but to be read once more, by a read that begins from then (monotonic seconds) on.
        self._parting: dict[str, float] = {}
        self._suspects = {name for name in self._sources if self._is_suspect(name)}
        self._outside_tasks: set[asyncio.Task[tuple[HealthReading, ...]]] = set()
        intervals = {name: source.poll_interval_ms / 1000 for name, source in self._sources.items()}
        self._schedule = Schedule(intervals, clock.monotonic_s())
        self._context = new_context()
        address = endpoint(self.boot.runtime_dir, "healer")
        self._link = Link(self._context, address, self.boot.name, self._on_frames, self.boot.incarnation)
        self._outbound = Outbound(self._link)
        self._probe.watch(self)
        self._pump_soon()

    async def stop(self) -> None:
        self._ending = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._outside_tasks:
            task.cancel()
        tasks = [flight.task for flight in self._flights.values()]
        for flight in list(self._flights.values()):
            self._give_up(flight)
        if tasks:
            await asyncio.wait(tasks, timeout=1.0)
        self._probe.close()
        self._link.close()
        self._context.destroy(linger=0)

    def oldest_work_s(self) -> float:
        began = [flight.began_s for flight in self._flights.values()] + list(self._abandoned.values())
        return clock.monotonic_s() - min(began) if began else 0.0

    # -- what is asked of us --

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            match frame.body:
                case ProbeNow(target_id=target_id):
                    self._probe_now(frame, target_id)
                case Resync():
                    now_s = clock.monotonic_s()
                    for name in self._sources:
                        if name not in self._flights:  # a read under way will be sent as it is
                            self._schedule.soon(name, now_s)
                    self._link.post(Ack(), re=frame.id)
                case Known(processes=processes):
                    self._probe.remember(processes)
                    self._link.post(Ack(), re=frame.id)
                case Outside(reading=given):
                    self._outside(frame, given)
                case Cancel(by, target_id=target_id):
                    why = self._probe.cancel(target_id, by)
                    self._link.post(Nack("refused", why) if why else Ack(), re=frame.id)
                case _:
                    log.debug("a %s is not for a probe", type(frame.body).__name__)
        self._pump_soon()

    def _is_suspect(self, name: str) -> bool:
        return item_of(name) in self.boot.suspects and item_of(name) not in self.boot.quarantined

    def sources_changed(self) -> None:
        """Sources that have come are read at once; one that has gone is read once more, which says that it has."""
        if self._ending:
            return
        now_s = clock.monotonic_s()
        new = {source.source_id: source for source in self._probe.sources()}
        gone = [name for name in self._sources if name not in new and name not in self._parting]
        self._parting = {name: from_s for name, from_s in self._parting.items() if name not in new}
        self._sources = {**{name: self._sources[name] for name in [*self._parting, *gone]}, **new}
        for name, source in new.items():
            if name not in self._schedule and self._is_suspect(name):
                self._suspects.add(name)
            self._schedule.put(name, source.poll_interval_ms / 1000, now_s)
        for name in gone:
            known = self._probe.source(name) is not None
            self._parting[name] = now_s if known else 0.0
            if known:
                self._schedule.soon(name, now_s)
            elif name not in self._flights:
                self._part(name)
        self._pump_soon()

    def on_reload(self, config: Config) -> None:
        self._probe.reconfigure(config)
        self.sources_changed()

    def _part(self, name: str) -> None:
        """Nothing is to be read of it any more."""
        self._parting.pop(name, None)
        self._sources.pop(name, None)
        self._suspects.discard(name)
        self._hung.discard(name)
        for question in self._schedule.drop(name):
            self._link.post(Nack("unknown_id", f"{name} is not watched any more"), re=question)

    def _outside(self, frame: Frame, given: SourceReading) -> None:
        """A reading that was handed in stands in for our polls of the same targets while it is fresh (NFR-004).

        In a task of its own: whatever it makes the probe raise refuses this one reading, and no more.
        """
        if self._ending or len(self._outside_tasks) >= OUTSIDE_MAX:
            self._link.post(Nack("busy", "too many readings from outside wait already"), re=frame.id)
            return
        task = self._loop.create_task(self._understand(given))
        self._outside_tasks.add(task)
        task.add_done_callback(lambda _: self._understood(frame, given, task))

    async def _understand(self, given: SourceReading) -> tuple[HealthReading, ...]:
        return self._probe.outside(given)

    def _understood(self, frame: Frame, given: SourceReading, task: asyncio.Task[tuple[HealthReading, ...]]) -> None:
        self._outside_tasks.discard(task)
        if task.cancelled() or self._ending:
            return
        error = task.exception()
        if error is not None:
            if not isinstance(error, Refused):
                log.error("a reading of %r from outside made the probe raise", given.source_id, exc_info=error)
            text = str(error) if isinstance(error, Refused) else f"it cannot be understood ({type(error).__name__})"
            self._link.post(Nack("refused", text), re=frame.id)
            return
        readings = task.result()
        taken = [reading for reading in readings if reading.target_id in self._schedule]
        for reading in taken:
            if given.available:  # a poll of theirs that failed stands in for none of ours
                self._schedule.hold(reading.target_id, reading.taken_mono_s + reading.freshness_ms / 1000)
            self._outbound.put(msgspec.structs.replace(reading, external=True))
        if readings and not taken:
            text = f"{readings[0].target_id} is not watched"
            self._link.post(Nack("unknown_id", text, "see `healctl check`", 4), re=frame.id)
        else:
            self._link.post(Ack(), re=frame.id)
        self._pump_soon()

    def _probe_now(self, frame: Frame, target_id: str) -> None:
        if target_id not in self._schedule and (source := self._probe.source(target_id)) is not None:
            self._sources[target_id] = source
            self._parting[target_id] = clock.monotonic_s()
            self._schedule.put(target_id, source.poll_interval_ms / 1000, clock.monotonic_s())
        if target_id not in self._schedule:
            nack = Nack("unknown_id", f"{self.boot.name} has no target {target_id!r}", "see `healctl check`", 4)
            self._link.post(nack, re=frame.id)
        elif not self._schedule.ask(target_id, frame.id, clock.monotonic_s()):
            self._link.post(Nack("busy", f"too many questions about {target_id!r} wait already"), re=frame.id)
        elif target_id not in self._flights or self._schedule.serves_nobody(target_id):
            self._read_now(target_id)

    def tell(self, work: AtWork) -> None:
        if not self._ending:
            self._link.post(work)

    def read_soon(self, target_id: str, in_s: float) -> None:
        """The probe's wish; 0 is an event, and a read that began before it may have missed it."""
        if target_id not in self._schedule:
            return  # it has just gone
        self._schedule.soon(target_id, clock.monotonic_s() + max(in_s, 0.0))
        if in_s <= 0:
            self._read_now(target_id)
        self._pump_soon()

    def _read_now(self, target_id: str) -> None:
        """For what cannot wait until others have been read; a read under way came too early and is begun anew."""
        if self._suspects or self._ending:
            return
        now_s = clock.monotonic_s()
        flight = self._flights.get(target_id)
        if flight is None and len(self._flights) >= AT_ONCE_MAX:
            return
        if flight is not None:
            self._give_up(flight)
            self._schedule.abandon(target_id, now_s)
        self._schedule.begin(target_id, now_s)
        self._begin(target_id, now_s)

    # -- reading --

    def _pump_soon(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Begins what is due, then sleeps until the next is. Suspects go first, each alone: whoever kills this
        process is then known for sure."""
        self._pumping = False
        if self._ending:
            return
        now_s = clock.monotonic_s()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._suspects:
            if not self._flights:
                suspect = min(self._suspects)
                self._schedule.begin(suspect, now_s)
                self._begin(suspect, now_s)
            return
        for target_id in self._schedule.take(now_s, min(READS_A_TURN, READS_MAX - len(self._flights))):
            self._begin(target_id, now_s)
        due_s = self._schedule.next_s()
        if due_s is None or len(self._flights) >= READS_MAX:
            return  # a read that ends pumps again
        if due_s <= now_s:
            self._pump_soon()
        else:
            self._timer = self._loop.call_at(due_s, self._pump)

    def _begin(self, target_id: str, now_s: float) -> None:
        if item_of(target_id) in self.boot.quarantined:
            began = begin(self._sources[target_id], self.boot.name)
            why = "reading this target killed its probe twice; it is left alone"
            self._deliver(began.cannot(Unavailable.ERROR, why))
            return
        self.working(item_of(target_id))
        within_s = self._within_s(target_id, now_s)
        task = self._loop.create_task(self._probe.read(target_id, within_s))
        deadline = self._loop.call_at(now_s + within_s, self._too_late, target_id)
        flight = _Flight(target_id, now_s, within_s, task, deadline)
        self._flights[target_id] = flight
        task.add_done_callback(lambda _: self._landed(flight))

    def _within_s(self, target_id: str, now_s: float) -> float:
        """A question that came during a read that then hung is not to wait for a second whole deadline."""
        asked_s = self._schedule.asked_s(target_id) if target_id in self._hung else None
        if asked_s is None:
            return DEADLINE_S
        return min(DEADLINE_S, max(HUNG_AGAIN_S, asked_s + DEADLINE_S - now_s))

    def _landed(self, flight: _Flight) -> None:
        if self._flights.get(flight.target_id) is not flight:
            self._ended_late(flight.task)
            return
        flight.deadline.cancel()
        del self._flights[flight.target_id]
        self.finished(item_of(flight.target_id))
        self._suspects.discard(flight.target_id)
        self._hung.discard(flight.target_id)
        error = asyncio.CancelledError() if flight.task.cancelled() else flight.task.exception()
        if error is None:
            self._deliver(flight.task.result())
        else:
            log.error("%s: the probe raised, which it must not", flight.target_id, exc_info=error)
            self._deliver(self._cannot(flight, Unavailable.ERROR, f"{type(error).__name__}: {error}"))
        self._pump_soon()

    def _too_late(self, target_id: str) -> None:
        flight = self._flights[target_id]
        self._give_up(flight)
        self._suspects.discard(target_id)
        self._hung.add(target_id)
        why = f"the check did not end within {flight.within_s:.2g} s"
        self._deliver(self._cannot(flight, Unavailable.DEADLINE, why))
        self._pump_soon()

    def _give_up(self, flight: _Flight) -> None:
        flight.deadline.cancel()
        flight.task.cancel()
        self._abandoned[flight.task] = flight.began_s
        del self._flights[flight.target_id]
        self.finished(item_of(flight.target_id))

    def _ended_late(self, task: asyncio.Task[HealthReading]) -> None:
        self._abandoned.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a read that was given up raised", exc_info=error)

    def _cannot(self, flight: _Flight, reason: Unavailable, error: str) -> HealthReading:
        began = begin(self._sources[flight.target_id], self.boot.name)
        behind_s = began.mono_s - flight.began_s
        began = msgspec.structs.replace(began, mono_s=flight.began_s, wall_s=began.wall_s - behind_s)
        return began.cannot(reason, error)

    def _deliver(self, reading: HealthReading) -> None:
        self.done += 1
        finished = self._schedule.end(reading.target_id)
        for question in finished.answers:
            self._link.post(Readings((reading,)), re=question)
        if finished.owed:
            self._outbound.put(reading)
        gone_s = self._parting.get(reading.target_id)
        if gone_s is None:
            return
        if reading.taken_mono_s >= gone_s:
            self._part(reading.target_id)
        else:  # it was under way when its target went, and may have looked before
            self._schedule.soon(reading.target_id, clock.monotonic_s())
            self._pump_soon()
