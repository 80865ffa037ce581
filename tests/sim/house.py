"""healctl's own processes in the simulation: the real workers, with the simulated bus, hands, phone and ledger.

Only what touches a socket, a thread or a file is replaced. Where a worker's `start` opens sockets, a start of ours
opens simulated ones in the same order; everything after that is the worker's own code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from remediators import planning
from remediators.executor import ExecutorWorker
from remediators.run import Ties
from remediators.runbooks import ladder
from remediators.watches import Watches
from supervisor import messages as m
from supervisor import proc
from supervisor.asking import Asking
from supervisor.clock import SteadyClock, monotonic_s
from supervisor.committer import Committer, open_epoch, reopening
from supervisor.desk import Desk
from supervisor.fresh import Fresh
from supervisor.halted import Halted
from supervisor.healer import HealerWorker
from supervisor.house import policy_of
from supervisor.incidents import events as e
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import AnomalyType, Channel, Execution, OutboxRow
from supervisor.incidents.records import AddMetric, AddTrail, PutExecution, PutIncident, PutOutbox
from supervisor.incidents.recover import rebuild
from supervisor.notifier.channel import Receipt, Retryable, Unreachable
from supervisor.notifier.gate import Gate
from supervisor.notifier.process import SLOTS, NotifierWorker
from supervisor.notifier.replies import Replies
from supervisor.outgoing import Outgoing
from supervisor.pinging import Pinging
from supervisor.progressing import Progressing
from supervisor.rounds import Rounds
from supervisor.showing import Showing
from supervisor.stopping import Stopping
from supervisor.store.process import HEALER, StoreWorker
from supervisor.store.synapse import Synapse
from supervisor.targets import open_families, targets
from supervisor.trails import fetch as trails_of
from supervisor.uplink import Up
from supervisor.worker import Boot
from tests.sim.drills import SimStaged
from tests.sim.wires import Hub, Link
from tests.sim.world import BRAIN, CHECK_S

PROJECT_S = 0.05  # what a projection is behind when it is well
SEND_S = 0.2  # one message to the phone
POLL_S = 300.0


def _nothing(*args: object, **named: object) -> None:
    """Of what is beside the point here."""


_TOLD = frozenset({PutIncident, AddTrail, PutExecution, PutOutbox, AddMetric})  # by the feed


class _Mixin:
    """What the root hears goes there without a socket. `sim` is the whole simulation."""

    sim: Any
    told: Callable[[Up], None]

    def _tell(self, message: Up) -> None:
        if self.boot_proc.alive:
            self.told(message)

    def fail(self, error: BaseException) -> None:
        """A worker of ours that gives up has met what it must never meet."""
        if self.boot_proc.alive:
            self.sim.worker_failed(self.boot_proc, error)

    boot_proc: Any


def _each(handle: Callable[[str, m.Frame], None]) -> Callable[[list[tuple[str, m.Frame]]], None]:
    """In one slice: virtual time does not pass while the engine works."""

    def handler(batch: list[tuple[str, m.Frame]]) -> None:
        for source, frame in batch:
            handle(source, frame)

    return handler


class _News:
    """The feed, to which nobody listens; numbered like the real one."""

    def __init__(self) -> None:
        self.seq = 0

    def tree(self, event: m.TreeEvent) -> None:
        self.seq += 1

    def records(self, records: list[Any], wall_s: float) -> None:
        self.seq += sum(map(_TOLD.__contains__, map(type, records)))

    def reloaded(self, news: m.Reloaded) -> None:
        self.seq += 1


class SimHealer(_Mixin, HealerWorker):
    def __init__(self, boot: Boot, sim: Any, proc_: Any, told: Callable[[Up], None]) -> None:
        self.sim, self.boot_proc, self.told = sim, proc_, told
        super().__init__(boot, None)  # type: ignore[arg-type]
        self._hub = None  # type: ignore[assignment]

    async def start(self) -> None:  # like HealerWorker.start, which see
        boot, config, net = self.boot, self.boot.config, self.sim.net
        self._store = Link(net, "store", HEALER, _each(self._from_store))  # type: ignore[assignment]
        policy = policy_of(config)
        wanted = m.OpenEpoch(boot.incarnation, policy.breaker_window_s, policy.reopen_window_s)
        opened = await open_epoch(self._store, wanted, self.alarm)
        snapshot = opened.snapshot
        trails = await trails_of(self._store, tuple(incident.id for incident in snapshot.open_incidents))
        self._clock = SteadyClock(opened.anchor)
        self._targets = targets(config)
        books = ladder(config.runbook.values())
        world = rebuild(snapshot, proc.this_boot(), policy, books, self._targets, open_families(config), trails)
        world.secret = "of the simulation"
        self._engine = Engine(world)
        quiet = SimpleNamespace(given=_nothing, decided=_nothing, anew=_nothing, ask=_nothing, look=_nothing)
        self._recorder = self._reporting = quiet  # type: ignore[assignment]
        self._staged = SimStaged(self.sim.world)
        self._capturing = SimpleNamespace(look=lambda world: None)  # type: ignore[assignment]
        self._metering = SimpleNamespace(durable=lambda records: None, moved=lambda listen: None)  # type: ignore[assignment]
        self._halted = Halted(snapshot.halts, self._tell)
        self._committer = Committer(
            self._store,
            snapshot.epoch,
            self._durable,
            self.fail,
            reopen=lambda: reopening(boot.incarnation, self._committer.beginnings, self._clock.anchor()),
            seed=self._seed,
            alarm=self.alarm,
        )
        self._news = _News()  # type: ignore[assignment]
        self._hub = Hub(net, "healer", _each(self._from_worker))  # type: ignore[assignment]
        self._pinging = Pinging(self._hub, lambda: self.boot.config, world, self._decide, monotonic_s())
        self._progressing = Progressing(world, _nothing)
        known = (self._clock, self._committer, self._news, self._metering, self._tree, self._samples, self._pinging)
        self._showing = Showing(world, *known, lambda: self.boot.config, self._progressing)
        self._desk = Desk(self._order, self._showing.by_name())
        self._outgoing = Outgoing(self._hub, lambda: self.boot.config)
        self._control = Hub(net, "control", self._desk.receive)  # type: ignore[assignment]
        self._desk.open(self._control)
        self._asking = Asking(self._hub, self._store, self._readings, self._decide)
        self._fresh = Fresh(self._hub, world, self._clock.now, self._desk.answer, self._readings)
        self._cancelling = Stopping(self._hub, self._decide)
        self._history = SimpleNamespace(ask=lambda token, args: None)  # type: ignore[assignment]
        self._rounds = Rounds(partial(self._decide, e.Round()), self._came_round, self.alarm)
        self._listen()

    def _decide(self, event: e.Event, ack: Callable[[], None] | None = None) -> None:
        super()._decide(event, ack)
        self.sim.watch.decided(self._engine.world)


class _Follower:
    """A projection: behind by a moment; not at all while its database is halted or locked by another program."""

    def __init__(self, target: Any, store: SimStore) -> None:
        self.target = target
        self._store = store
        self._done = ("", 0)
        self._held: Any = None
        self._due = False

    def start(self) -> None:
        pass

    def hold(self, halt: Any) -> None:
        if halt != self._held:
            self._held = halt
            self.wake("", 0)

    def wake(self, ledger_id: str, rev: int) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(PROJECT_S, self._catch_up)

    def _catch_up(self) -> None:
        self._due = False
        sim, ledger = self._store.sim, self._store.ledger
        if self._held is not None:
            return
        if sim.loop.time() < sim.synapse_locked_until_s or ledger.full:
            self.wake("", 0)
            return
        sim.watch.projects(self.target)
        self._done = (ledger.ledger_id, ledger.rev)
        self._store._on_projected()

    def done_rev(self, ledger_id: str) -> int:
        return self._done[1] if self._done[0] == ledger_id else 0

    def status(self, ledger_id: str, rev: int) -> m.ProjectionStatus:
        return m.ProjectionStatus(self.target.name, str(self.target.path), 0, 0.0, "")


class SimStore(_Mixin, StoreWorker):
    def __init__(self, boot: Boot, sim: Any, proc_: Any, told: Callable[[Up], None]) -> None:
        self.sim, self.boot_proc, self.told = sim, proc_, told
        super().__init__(boot, None)  # type: ignore[arg-type]

    @property
    def ledger(self) -> Any:
        return self.sim.ledger

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.sim.ledger = self.sim.ledger.reopen()
        self._ledger = self.sim.ledger
        path = Path(self.boot.state_dir) / "brain.db"
        synapse = Synapse(path, own=True, sender="helios", to="all")
        self._followers = [_Follower(synapse, self)]  # type: ignore[list-item]
        self._hub = Hub(self.sim.net, "store", self._on_frames)  # type: ignore[assignment]
        self._hub.slow = True  # type: ignore[attr-defined]
        self._mind_halts()


class SimExecutor(_Mixin, ExecutorWorker):
    def __init__(self, boot: Boot, sim: Any, proc_: Any, told: Callable[[Up], None]) -> None:
        self.sim, self.boot_proc, self.told = sim, proc_, told
        super().__init__(boot, None)  # type: ignore[arg-type]

    async def start(self) -> None:
        boot, net = self.boot, self.sim.net
        self._store = Link(net, "store", boot.name, self._unexpected, boot.incarnation)  # type: ignore[assignment]
        self._healer = Link(net, "healer", boot.name, self._take, boot.incarnation)  # type: ignore[assignment]
        self._ties = Ties(
            healer=self._healer,
            store=self._store,
            incarnation=boot.incarnation,
            state_dir=Path(boot.state_dir),
            exclude=frozenset(),
            watches=Watches(self._healer),
            nursery=SimpleNamespace(take=self.sim.hands.take),  # type: ignore[arg-type]
            config=lambda: self.boot.config,
        )
        self._planner = _Planner(self.sim)  # type: ignore[assignment]
        self._refill_soon()

    def _refill(self) -> None:
        pass


class _Planner:
    """A dry run takes a moment; the real `_plan` over the steps."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim

    async def plan(self, ties: Ties, execution: Execution) -> m.PlanAnswer:
        await asyncio.sleep(min(self._sim.plan_s, planning.ANSWER_S))
        if self._sim.plan_s > planning.ANSWER_S:
            return m.PlanAnswer(ok=False, steps=(), error="the dry run took longer than 6 s")
        return self._sim.watch.plans(execution, lambda: planning._plan(ties, execution))


class _Phone:
    """Signal, as the notifier's outlet."""

    def __init__(self, sim: Any) -> None:
        self._sim = sim

    async def deliver(self, row: OutboxRow) -> Receipt:
        sim = self._sim
        await asyncio.sleep(SEND_S)
        if sim.loop.time() < sim.phone_hangs_until_s:
            await asyncio.sleep(10.0)
            raise Retryable("no answer within 10 s")
        if sim.loop.time() < sim.phone_off_until_s:
            raise Unreachable("nobody is there")
        sim.flights.begin(row.id)
        sim.watch.received(row)
        receipt = Receipt(sim.phone.receipt(row))
        sim.flights.arrived(row.id, receipt)
        return receipt

    async def close(self) -> None:
        pass


class SimNotifier(_Mixin, NotifierWorker):
    def __init__(self, boot: Boot, sim: Any, proc_: Any, told: Callable[[Up], None]) -> None:
        self.sim, self.boot_proc, self.told = sim, proc_, told
        super().__init__(boot, None)  # type: ignore[arg-type]

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = Gate(SLOTS)
        self._flights = self.sim.flights  # on the disk: it outlives the process
        self._kept = self._flights.receipts()
        self._outlets[Channel.SIGNAL] = _Phone(self.sim)
        boot = self.boot
        self._link = Link(self.sim.net, "healer", boot.name, self._on_frames, boot.incarnation)  # type: ignore[assignment]
        self._replies = Replies(boot.config.notify.signal, self._link.ask)
        self._replies.start(self.fail)


class SimProbe(_Mixin):
    """The worker of one family: polls, is told by the kernel, answers questions within 5 s."""

    def __init__(self, boot: Boot, sim: Any, proc_: Any, told: Callable[[Up], None]) -> None:
        self.boot, self.sim, self.boot_proc, self.told = boot, sim, proc_, told
        self.family = boot.name
        self._checking: set[str] = set()

    async def start(self) -> None:
        boot = self.boot
        self._loop = asyncio.get_running_loop()
        self._link = Link(self.sim.net, "healer", boot.name, self._on_frames, boot.incarnation)
        self._loop.call_later(POLL_S * self.sim.phase(self.family), self._poll)

    def _mine(self) -> list[str]:
        return [name for name, target in self.sim.world.targets.items() if target.family == self.family]

    def _poll(self) -> None:
        self._loop.call_later(POLL_S, self._poll)
        self._send_all()

    def _send_all(self) -> None:
        for name in self._mine():
            self._check(name)
        self._send(*self._mine())

    def _send(self, *names: str) -> None:
        known = [name for name in names if name in self.sim.world.targets]  # a reload may have taken it away
        if known:
            self._link.ask(m.Readings(tuple(self.sim.world.read(name) for name in known)))

    def tells(self, target_id: str) -> None:
        """The kernel's word: look at it now."""
        self._loop.call_later(0.001, self._send, target_id, context=self.boot_proc.context)

    def outside(self, reading: Any) -> None:
        """Another program's reading, handed in through the feed."""
        self._link.ask(m.Readings((reading,)))

    def _check(self, name: str) -> None:
        if self.family != "database" or name in self._checking:
            return
        if name != BRAIN:  # small, and always well
            self.sim.world.check_database(name, self._loop.time(), False)
            return
        self._checking.add(name)
        world, began_s = self.sim.world, self._loop.time()
        found = world.ill(AnomalyType.DB_CORRUPTION, name)

        def over() -> None:
            if name not in self._checking:  # it was cancelled, and has found nothing
                return
            self._checking.discard(name)
            world.check_database(name, began_s, found)
            self._send(name)

        self._loop.call_later(CHECK_S, over)

    def _on_frames(self, batch: list[tuple[str, m.Frame]]) -> None:
        for _, frame in batch:
            match frame.body:
                case m.ProbeNow(target_id):
                    self._answer(frame.id, target_id)
                case m.Resync():
                    self._link.post(m.Ack(), re=frame.id)
                    self._send_all()
                case m.Cancel(target_id=target_id) if target_id not in self._checking:
                    self._link.post(m.Nack("refused", f"no check of {target_id} is at work"), re=frame.id)
                case m.Cancel(target_id=target_id):
                    self._checking.discard(target_id)
                    self._link.post(m.Ack(), re=frame.id)
                case _:
                    self._link.post(m.Ack(), re=frame.id)

    def _answer(self, frame_id: str, target_id: str) -> None:
        if target_id not in self.sim.world.targets:
            self._link.post(m.Nack("unknown_id", f"no target {target_id}", exit_code=4), re=frame_id)
            return
        self._check(target_id)
        reading = self.sim.world.read(target_id)  # of the moment at which the look began
        answer = partial(self._link.post, m.Readings((reading,)), re=frame_id)
        self._loop.call_later(self.sim.probe_s(self.family), answer)


WORKERS: dict[str, type] = {
    "store": SimStore,
    "healer": SimHealer,
    "executor": SimExecutor,
    "notifier": SimNotifier,
}
