"""One run of one seed: the house on its virtual clock, the schedule, the quiet time after it, the verdict."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import hashlib
import logging
import random
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec

from supervisor import crashpoint, healer
from supervisor.config import Config
from supervisor.incidents import world as engine_world
from supervisor.incidents.lifecycle import Trigger, advance
from supervisor.incidents.model import AnomalyType, State
from supervisor.messages import Reply, Request
from supervisor.notifier import replies
from supervisor.notifier.flights import Flights
from supervisor.store import opening
from tests.sim.coverage import Coverage
from tests.sim.deeds import Deeds
from tests.sim.faults import OWNER, Fates
from tests.sim.hands import ACTING, Hands, at_work
from tests.sim.house import POLL_S, SimProbe
from tests.sim.invariants import Broken, Watch, critical_unpaged
from tests.sim.ledgers import LEDGER_NAME, ModelLedger, RealLedger, folder, remove
from tests.sim.loop import CURRENT, MONO_START_S, Killed, Proc, Stuck, VirtualLoop, replaced
from tests.sim.phone import Phone
from tests.sim.root import Child, Root
from tests.sim.schedule import Plan, generate
from tests.sim.site import site
from tests.sim.wires import Link, Net
from tests.sim.world import World

QUIET_S = 60.0  # how often it is looked whether everything is over, as long as every target is polled (300 s)
QUIET_S_MAX = 3 * 3_600.0  # by then everything is: breakers have half-opened, quarantined workers have been tried
QUIET_STEP_S = 600.0
PAGED_WITHIN_S = 100.0  # R2's hold of 60 s, and what a fault may add while the ledger takes records


class Outcome(msgspec.Struct):
    """What a run came to. `broken`: the invariant that did not hold, empty when all did."""

    seed: int
    broken: str = ""
    text: str = ""
    incidents: int = 0
    hours: float = 0.0  # virtual time
    incident_hours: float = 0.0
    decisions: int = 0
    races: int = 0
    faults: int = 0
    digest: str = ""
    counts: dict[str, int] = {}


class Simulation:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.site = self.config = _config(plan)
        self.loop = VirtualLoop()
        self.context = contextvars.Context()
        self.coverage = Coverage()
        self.fates = Fates(self.coverage)
        self.net = Net(self.loop, self.fates)
        self.world = World(self.loop, self.config)
        self.watch = Watch(self.world, self.coverage, self._broken)
        self.net.seen = self.watch.leaves
        self.net.acknowledged = self.watch.more.acknowledged
        self.watch.more.calm = lambda: self.fates.hits == 0
        self.hands = Hands(self.world, self.watch)
        self.world.acting = self._acting
        self.world.kernel_tells = self._kernel_tells
        self.broken: Broken | None = None
        self.quiet = False  # the faults are over
        self.ledger: Any = None
        self.root: Any = None
        self._roots = 0
        self._rng = random.Random(plan.seed)
        self._secrets = random.Random(f"secrets {plan.seed}")
        self.phone_off_until_s = self.phone_hangs_until_s = self.synapse_locked_until_s = 0.0
        self.probe_takes_s, self.plan_s = 0.01, 0.05
        self.flights = Flights()
        self.phone = Phone(self)
        self._cli: Link | None = None
        self._answers: list[Any] = []
        self._phases = {name: self._rng.random() for name in ("process", "trading", "gateway", "pipeline", "fleet")}

    # -- what the parts ask --

    def later(self, seconds: float, run: Callable[..., object], *args: object) -> None:
        """Of no process: it happens whoever dies meanwhile."""
        self.loop.call_later(seconds, run, *args, context=self.context)

    def secret(self, count: int) -> str:
        """What the healer draws."""
        return self._secrets.randbytes(count).hex()

    def jitter(self) -> float:
        return self._rng.random()

    def phase(self, family: str) -> float:
        return self._phases.get(family, 0.5)

    def probe_s(self, family: str) -> float:
        return self.probe_takes_s

    def reach(self, point: str) -> None:
        """A crash point of the real code."""
        if not self.fates.points:
            return
        name = OWNER.get(point)
        if name is None or not self.fates.dies_at(point, self.loop.time()):
            return
        child = self.root.children.get(name)
        if child is None or child.proc is not CURRENT.get():
            return
        self.root.kill(name)
        raise Killed(point)

    def died(self, proc: Proc) -> None:
        """A worker's process is no more: its programs at their gates go with it."""
        self.net.disturbed()
        if proc.name == "notifier":
            self.watch.notifier_deaths += 1
        if proc.name != "executor":
            return
        self.watch.executor_died(proc.incarnation)
        for process in list(self.world.processes.values()):
            if process.gated:
                self.world.ends(process, 0)

    def worker_failed(self, proc: Proc, error: BaseException) -> None:
        """A worker of ours has ended itself: in the simulation nothing may bring it to that, but an epoch that a dead
        healer had asked for and that is opened late: then the living one is refused, and the next opens its own."""
        late = self.coverage.counts["fault delay epoch"] or self.coverage.counts["fault double epoch"]
        if late and proc.name == "healer" and "old_epoch" in str(error):
            self.root.kill("healer")
            return
        text = "".join(traceback.format_exception(error)[-6:])
        self._broken(Broken("no part of healctl fails by itself", f"{proc.name}: {error!r}\n{text}"))

    def new_root(self) -> None:
        self._roots += 1
        self.root = Root(self, self._roots)

    def _acting(self, what: str, target_id: str, ends_live: bool) -> None:
        execution, index = ACTING.get() or (None, 0)
        proc = CURRENT.get()
        if proc is not None and not proc.alive:
            return
        self.watch.acts(execution, index, what, target_id, ends_live=ends_live)

    def _kernel_tells(self, target_id: str) -> None:
        probe = self._probe(target_id)
        if probe is not None:
            probe.tells(target_id)

    def look(self, target_id: str) -> None:
        """Its probe's turn comes."""
        self._kernel_tells(target_id)

    def outside(self, reading: Any) -> None:
        probe = self._probe(reading.target_id)
        if probe is not None:
            probe.outside(reading)

    def _probe(self, target_id: str) -> SimProbe | None:
        target = self.world.targets.get(target_id)
        child = self.root.children.get(target.family) if target is not None and self.root is not None else None
        return child.worker if child is not None and child.ready and child.proc.alive else None

    def _healer(self) -> Child | None:
        child = self.root.children.get("healer")
        return child if child is not None and child.ready and child.proc.alive else None

    def event(self, event: Any) -> None:
        """Straight to the engine, as the feed's server does."""
        child = self._healer()
        if child is not None:
            self.loop.call_soon(child.worker._decide, event, context=child.proc.context)

    def asks(self, request: Request) -> None:
        """A person's request, sent until it is answered."""
        assert self._cli is not None
        self._cli.ask(request).add_done_callback(partial(self._answered, request.action), context=self.context)

    def _answered(self, action: str, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled():
            return
        body = answer.result()
        self.coverage.see("answer", type(body).__name__)
        if action == "cancel" and isinstance(body, Reply):
            self.watch.cancels.answered(msgspec.json.decode(body.body))

    def code(self, pick: int) -> str:
        child = self._healer()
        known = list(child.worker._engine.world.requests.values()) if child is not None else []
        waiting = [it for it in known if it.of_agent] if pick else known  # a page's code is confirmed in no other way
        return waiting[pick % len(waiting)].code if waiting else ""

    def disk_full(self, full: bool) -> None:
        self.ledger.full = full

    def ledger_grows(self, count: int) -> None:
        """Its size, as the store tells it, and the store's word."""
        self.ledger.bytes = count
        child = self.root.children.get("store")
        if child is not None and child.ready and child.proc.alive:
            self.loop.call_soon(child.worker._something_changed, context=child.proc.context)

    def reload(self, config: Config) -> None:
        self.config = config
        self.world.known_targets(config)
        self.root.reload(config, frozenset())

    # -- the run --

    def _broken(self, broken: Broken) -> None:
        if self.broken is None:
            self.broken = broken
            self.loop.stop()
            self.loop.end_s = self.loop._now

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Killed) or "destroyed" in str(context.get("message")):
            return
        if error is None:
            error = RuntimeError(str(context.get("message")))
        self.worker_failed(CURRENT.get() or Proc("the simulation", ""), error)

    def _begin(self, ledger_folder: Any) -> None:
        self.loop.set_exception_handler(self._on_error)
        self.ledger = RealLedger(ledger_folder, self.watch) if ledger_folder else ModelLedger(self.watch, self.reach)
        self.new_root()
        person = Proc("cli", "1")
        person.context.run(self._sits_down)

    def _sits_down(self) -> None:
        self._cli = Link(self.net, "control", "cli", lambda batch: None, "1")

    def run(self, ledger_folder: Any = None) -> None:
        self._begin(ledger_folder)
        deeds = Deeds(self)
        for event in self.plan.events:
            self.loop.call_at(MONO_START_S + event.at_s, deeds.do, event.kind, event.args, context=self.context)
        end_s = MONO_START_S + (self.plan.events[-1].at_s if self.plan.events else 0.0) + 60.0
        at_s = MONO_START_S
        while at_s < end_s and self.broken is None:
            at_s = min(end_s, at_s + 120.0)
            self.loop.run_until(at_s)
        if self.broken is None:
            self._quiet(deeds)
        if self.broken is None:
            self.watch.final()

    def _quiet(self, deeds: Deeds) -> None:
        """The faults are over, the world is well, people lift what they have put in the way: everything must close."""
        self.quiet = True
        self.fates.clear()
        self.ledger_grows(1_000_000)
        self.phone_off_until_s = self.phone_hangs_until_s = self.synapse_locked_until_s = 0.0
        self.probe_takes_s, self.plan_s, self.hands.evidence_s = 0.01, 0.05, 0.01
        self.disk_full(False)
        self.world.mend()
        if self.config is not self.site:
            self.reload(self.site)
        self.loop.run_until(self.loop.time() + 30.0)
        self.world.mend()
        for key in list(self.watch.pauses):
            scope, _, name = key.partition(":")
            deeds._order(
                "resume", **{"target": {"target_id": name}, "family": {"family": name}, "all": {"all": True}}[scope]
            )
        began_s = self.loop.time()
        step_s = QUIET_S
        while self.broken is None:
            self.loop.run_until(self.loop.time() + step_s)
            if self.broken is not None:
                return
            if self.loop.time() - began_s > PAGED_WITHIN_S and (
                unpaged := critical_unpaged(self.watch, PAGED_WITHIN_S)
            ):
                self.watch.fail("a page is never lost", unpaged)
            self._do_what_waits_for_that(deeds)
            unfinished = self.watch.unfinished()
            if not unfinished and self.root.settled():
                return
            if self.loop.time() - began_s > QUIET_S_MAX:
                self.watch.fail("nothing is stuck for ever", "; ".join(unfinished) or "the tree is not settled")
            step_s = QUIET_S if self.loop.time() - began_s < POLL_S else QUIET_STEP_S

    def _do_what_waits_for_that(self, deeds: Deeds) -> None:
        """A message that was set aside stays so until a person has seen it, a drill's failure until a good one; nothing
        else waits for a person."""
        for incident in list(self.watch.incidents.values()):
            if incident.open and incident.anomaly is AnomalyType.ITEM_QUARANTINED:
                deeds._order("dismiss", incident_id=incident.id, reason="seen")
            elif incident.open and incident.anomaly is AnomalyType.DRILL_FAILED:
                deeds.do_drill("all", 60.0, "matthew")


def _config(plan: Plan) -> Config:
    config = site(plan.size)
    if plan.page_healed:
        return config
    section = msgspec.structs.replace(config.escalation, page_healed_critical=False)
    return msgspec.structs.replace(config, escalation=section)


def run_plan(plan: Plan, engine_hooks: AbstractContextManager[Any] | None = None) -> Outcome:
    """`engine_hooks`: entered for the time of the run, e.g. with a mutant of the engine in place."""
    logged, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()
    sim = Simulation(plan)
    ledger_folder = folder() if plan.real else None

    def advanced(state: State, trigger: Trigger) -> State:
        new = advance(state, trigger)
        sim.coverage.transition(state, trigger)
        return new

    try:
        with at_work(sim.hands), engine_hooks or nullcontext(), replaced(
            (crashpoint, "reach", sim.reach),
            (healer, "reach", sim.reach),
            (healer, "secrets", SimpleNamespace(token_hex=sim.secret)),
            (engine_world, "advance", advanced),
            (replies, "streams", SimpleNamespace(received=sim.phone.received)),
            (opening, "os", SimpleNamespace(urandom=lambda count: LEDGER_NAME)),
        ):  # fmt: skip
            try:
                sim.run(ledger_folder)
            except Stuck as stuck:
                sim.broken = Broken("virtual time gets on", str(stuck))
            return _outcome(sim)
    finally:
        if ledger_folder is not None:
            sim.ledger.close()
            remove(ledger_folder)
        sim.loop.let_go()
        if collects:
            gc.enable()
        logging.disable(logged)


def _outcome(sim: Simulation) -> Outcome:
    watch, now_s = sim.watch, sim.loop.time()
    spans = ((it.resolved_wall_s or sim.loop.wall()) - it.detected_wall_s for it in watch.incidents.values())
    history = repr([(it.id, it.state, it.trail_length) for it in watch.incidents.values()])
    history += repr([(it.id, it.state) for it in watch.executions.values()]) + repr(sorted(watch.phone))
    return Outcome(
        seed=sim.plan.seed,
        broken=sim.broken.name if sim.broken is not None else "",
        text=str(sim.broken) if sim.broken is not None else "",
        incidents=len(watch.incidents),
        hours=(now_s - MONO_START_S) / 3600.0,
        incident_hours=sum(min(max(0.0, span), now_s) for span in spans) / 3600.0,
        decisions=sum(1 for _ in watch.trail),
        races=watch.races,
        faults=sim.fates.hits,
        digest=hashlib.sha256(history.encode()).hexdigest()[:16],
        counts=dict(sim.coverage.counts),
    )


def run_seed(seed: int, engine_hooks: AbstractContextManager[Any] | None = None, *, real_every: int = 50) -> Outcome:
    """The run of this seed, from its generated schedule."""
    return run_plan(generate(seed, real_every=real_every), engine_hooks)
