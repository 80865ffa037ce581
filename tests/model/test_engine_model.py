"""The engine under any order of events (Hypothesis): DESIGN §8's invariants after every one of them."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from supervisor.incidents import events as e
from supervisor.incidents.effects import (
    DispatchExecution,
    FetchExecutionState,
    SettleExecution,
)
from supervisor.incidents.model import (
    Authority,
    Execution,
    ExecutionState,
    Mode,
    StepResult,
    Target,
)
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.records import AddTrail, PutIncident
from tests.lab.engine import Lab, service

NAMES = ("auto-a", "auto-b", "asks", "bare")
TARGETS = (
    service("auto-a"),
    service("auto-b"),
    service("asks", auto_restart=False),
    service("bare", auto_restart=False, recipe=False),
)
names = st.sampled_from(NAMES)


class WatchedLab(Lab):
    """Checks every dispatch at the moment it happens; answers for the ledger and the executor unless they are mute."""

    mute = False
    settles = True
    runs = False

    def __init__(self, targets: tuple[Target, ...]) -> None:
        self.claims: dict[str, str] = {}
        super().__init__(targets=targets)

    def _carry_out(self, effect: Any) -> None:
        if isinstance(effect, DispatchExecution):
            self.check(effect.execution)
        super()._carry_out(effect)
        if self.mute:
            return
        if isinstance(effect, FetchExecutionState):
            execution = self.engine.world.executions.get(effect.execution_id)
            if execution is not None:
                claimed_by = self.claims.get(execution.id, "")
                self.feed(e.ExecutionSeen(msgspec.structs.replace(execution, claimed_by=claimed_by)))
        elif isinstance(effect, SettleExecution):
            self.feed(e.ExecutionSettled(effect.execution.id, self.settles, self.runs, ("a line",)))

    def check(self, execution: Execution) -> None:
        target = execution.target
        assert target.recipe is not None, "nothing can be run without a recipe"
        if execution.authority is Authority.PERSON:
            return
        if execution.id in {old.id for old in self.dispatched}:
            return  # the same intent, handed to another executor
        assert self.alive[target.target_id] is None, "an action on a healthy target"
        if execution.authority is Authority.NOT_RUNNING:
            assert target.auto_restart
        else:
            assert execution.authority is Authority.APPROVED
            states = self.engine.world.runbook_states
            scopes = [states.get((execution.runbook.id, scope)) for scope in (target.target_id, "*")]
            assert any(state is not None and state.mode is Mode.AUTO_EXECUTE for state in scopes)


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lab = WatchedLab(targets=TARGETS)
        self.lab.hold_dispatch = True
        self.incarnation = 1
        self.late: list[HealthReading] = []

    # -- the world --

    @rule(name=names)
    def dies(self, name: str) -> None:
        self.lab.kill(name)

    @rule(name=names)
    def dies_unseen(self, name: str) -> None:
        self.lab.alive[name] = None

    @rule(name=names)
    def comes_back_by_itself(self, name: str) -> None:
        self.lab._pid += 1
        self.lab.alive[name] = self.lab._pid

    @rule(name=names)
    def is_polled(self, name: str) -> None:
        self.lab.poll(name)

    @rule(name=names)
    def cannot_be_read(self, name: str) -> None:
        self.lab.feed(e.ReadingSeen(self.lab.unavailable(name)))

    @rule(name=names)
    def is_read_but_the_reading_is_on_its_way(self, name: str) -> None:
        self.late.append(self.lab.reading(name))
        self.lab.advance(0.01)

    @rule(again=st.booleans())
    def a_late_reading_arrives(self, again: bool) -> None:
        """One that began before the question; a fresh one that is overtaken by events is for the executor's fence."""
        asked = self.lab.engine.world.asked
        stale = [r for r in self.late if r.taken_mono_s < asked.get(r.target_id, 0.0)]
        if stale:
            self.lab.feed(e.ReadingSeen(stale[0]))
            if not again:
                self.late.remove(stale[0])

    @rule(name=names)
    def is_fed_from_outside(self, name: str) -> None:
        self.lab.feed(e.ReadingSeen(self.lab.reading(name, external=True)))

    @rule(name=names, silent=st.booleans())
    def its_probe_is_slow(self, name: str, silent: bool) -> None:
        (self.lab.silent.add if silent else self.lab.silent.discard)(name)

    @rule(seconds=st.sampled_from([0.3, 1.1, 7.0, 31.0, 70.0, 3700.0]))
    def time_passes(self, seconds: float) -> None:
        self.lab.advance(seconds)

    # -- the executor --

    def waiting(self) -> list[Execution]:
        active = self.lab.engine.world.executions
        seen: dict[str, Execution] = {x.id: x for x in self.lab.dispatched if x.id in active}
        return [x for x in seen.values() if active[x.id].state in (ExecutionState.INTENDED, ExecutionState.CLAIMED)]

    @rule(works=st.booleans(), shows=st.booleans())
    def executor_runs_one(self, works: bool, shows: bool) -> None:
        for execution in self.waiting()[:1]:
            lab = self.lab
            if self.lab.claims.get(execution.id, self.me) != self.me or lab.instant().mono_s > execution.expires_mono_s:
                continue
            lab.feed(e.ExecutionClaimed(execution.id, self.me))
            for _ in range(2):  # doubled on the way
                lab.feed(e.StepEnded(execution.id, 0, StepResult("stop", True, "", 1.0), False))
            assert len(lab.engine.world.executions[execution.id].results) == 1
            if works and shows:
                lab._pid += 1
                lab.alive[execution.target.target_id] = lab._pid
            report = e.StepEnded(execution.id, 1, StepResult("start", works, "out", 1.0), True)
            lab.feed(report)
            lab.feed(report)  # doubled on the way

    @rule()
    def executor_claims_one(self) -> None:
        for execution in self.waiting()[:1]:
            self.lab.claims.setdefault(execution.id, self.me)

    @rule(running=st.booleans(), ok=st.booleans())
    def executor_dies(self, running: bool, ok: bool) -> None:
        self.lab.settles, self.lab.runs = ok, running
        self.lab.feed(e.ExecutorIs(""))
        self.incarnation += 1
        self.lab.feed(e.ExecutorIs(self.me))

    @rule(mute=st.booleans())
    def answers_are_lost(self, mute: bool) -> None:
        self.lab.mute = mute

    @property
    def me(self) -> str:
        return f"exec-{self.incarnation}"

    @rule(hold=st.booleans())
    def its_plans_come_late(self, hold: bool) -> None:
        self.lab.hold_plans = hold

    @rule(again=st.booleans(), clear=st.booleans())
    def a_late_plan_arrives(self, again: bool, clear: bool) -> None:
        if self.lab.planned:
            self.lab.predicts = {} if clear else {"rb-restart-service": False}
            self.lab.answer_plan(self.lab.planned[-1])
            if not again:
                self.lab.planned.pop()

    # -- people, the notifier, a crash --

    @rule(name=names, revoke=st.booleans())
    def a_person_approves(self, name: str, revoke: bool) -> None:
        self.lab.order("approve", runbook_id="rb-restart-service", target_id=name, revoke=revoke)

    @rule(name=names)
    def a_person_executes(self, name: str) -> None:
        self.lab.order("execute", runbook_id="rb-restart-service", target_id=name, confirm=True)

    @rule(first=st.booleans())
    def a_person_dismisses(self, first: bool) -> None:
        open_ids = list(self.lab.engine.world.incidents)
        if open_ids:
            self.lab.order("dismiss", incident_id=open_ids[0 if first else -1], reason="so")

    @rule(receipt=st.booleans())
    def the_notifier_reports(self, receipt: bool) -> None:
        for row_id in list(self.lab.engine.world.outbox)[:1]:
            self.lab.feed(e.Delivered(row_id, 1, "signal:1" if receipt else "", "" if receipt else "refused"))

    @rule()
    def the_engine_crashes(self) -> None:
        self.lab.executor = self.me
        self.lab.crash()

    def teardown(self) -> None:
        """Nothing is ever stuck: once all is well and everybody answers, hours later every incident is over."""
        lab = self.lab
        lab.mute, lab.settles, lab.hold_plans = False, True, False
        lab.silent.clear()
        for name in NAMES:
            lab._pid += 1
            lab.alive[name] = lab._pid
        for _ in range(4):
            lab.advance(3_600)
            for name in NAMES:
                lab.poll(name)
            for row_id in list(lab.engine.world.outbox):
                lab.feed(e.Delivered(row_id, 1, "taken", ""))
        assert lab.engine.world.incidents == {}
        assert lab.engine.world.executions == {}

    # -- what must always hold --

    @invariant()
    def one_open_incident_per_key(self) -> None:
        world = self.lab.engine.world
        keys = [(i.anomaly, i.target_id) for i in world.incidents.values()]
        assert len(keys) == len(set(keys))
        assert {world.by_key[key] for key in keys} == set(world.incidents)
        assert set(world.by_key) == set(keys)
        assert all(i.open for i in world.incidents.values())

    @invariant()
    def one_execution_per_resource(self) -> None:
        held = [x.resource for x in self.lab.engine.world.executions.values()]
        assert len(held) == len(set(held))
        assert len(held) <= 8 + len(NAMES)

    @invariant()
    def the_trail_is_whole(self) -> None:
        newest = {r.incident.id: r.incident for r in self.lab.records if isinstance(r, PutIncident)}
        numbers: dict[str, list[int]] = {}
        for record in self.lab.records:
            if isinstance(record, AddTrail):
                numbers.setdefault(record.entry.incident_id, []).append(record.entry.n)
        for incident_id, incident in newest.items():
            assert numbers[incident_id] == list(range(incident.trail_length))

    @invariant()
    def one_page_per_incident(self) -> None:
        pages: dict[str, int] = {}
        for row in self.lab.messages("signal"):
            if row.kind in ("page", "outcome") and row.incident_id:
                pages[row.incident_id] = pages.get(row.incident_id, 0) + 1
        assert all(count == 1 for count in pages.values())

    @invariant()
    def nothing_is_stuck(self) -> None:
        """Whatever is not over has something that will move it: an alarm, an execution, or a person."""
        world = self.lab.engine.world
        for incident in world.incidents.values():
            subjects = {timer.subject for timer in world.timers.values()}
            moved_by = {incident.id, incident.execution_id or ""} & subjects
            alive = incident.execution_id in world.executions
            assert moved_by or alive or incident.state == "escalated", incident


EngineMachine.TestCase.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestEngine = EngineMachine.TestCase
