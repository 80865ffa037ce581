"""A thousand random interleavings: a service that heals itself between detection and action is not touched (NFR-002).

Readings, plans, reports and approvals come late, doubled, in any order, or not at all; the engine crashes in between.
Every dispatch is judged at the moment it happens by what the test itself has seen, not by what the engine says.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.effects import (
    Answer,
    DispatchExecution,
    FetchExecutionState,
    PlanExecution,
    SettleExecution,
)
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Effect,
    Execution,
    ExecutionState,
    Runbook,
    StepResult,
    StepSpec,
    Target,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import HealthReading, ProcessData, SignalData, Stamp
from tests.lab.engine import Lab, service

BLOCK, BLOCKS = 100, 10
STEPS = 200

RESTART = Runbook(
    id="rb-restart-service",
    label="Restart a service",
    applies_to=(AnomalyType.PROCESS_DEAD,),
    steps=(StepSpec("start", "start-service", Effect.CHANGE, idempotent=True),),
    resource="service:{service}",
    starts_service=True,
)
STALE = msgspec.structs.replace(RESTART, id="rb-restart-augur", applies_to=(AnomalyType.SIGNAL_STALE,))
WIPE = Runbook(
    id="rb-wipe",
    label="Begin with nothing",
    applies_to=(AnomalyType.PROCESS_DEAD,),
    steps=(StepSpec("wipe", "wipe", Effect.DESTROY, idempotent=True),),
    resource="service:{service}",
)
RUNBOOKS = (RESTART, STALE, WIPE)
AUTO, ASKS = service("auto"), service("asks", auto_restart=False)
SIGNALS = Target("auto-signals", "trading", recipe=AUTO.recipe, auto_restart=True, service="auto")
NAMES = ("auto", "asks", "auto-signals")


class Wild(Lab):
    """Its probes, its plans and its executor answer when the test lets them."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.questions: list[str] = []  # targets whose probe was asked
        self.readings: list[HealthReading] = []  # taken, not yet delivered
        self.taken: dict[tuple[str, float], HealthReading] = {}
        self.approved: set[tuple[str, str]] = set()
        self.held: dict[str, Execution] = {}
        self.claims: dict[str, str] = {}
        self.acted = self.spared = 0
        policy = Policy(settle_s=0.0, breaker_per_target=50, breaker_total=500)
        super().__init__(targets=(AUTO, ASKS, SIGNALS), policy=policy, runbooks=RUNBOOKS)

    def reading(self, name: str, **changes: Any) -> HealthReading:
        if name != "auto-signals":
            return super().reading(name, **changes)
        age_s = 0.0 if self.alive[name] is not None else 1_000.0
        data = SignalData(age_s, 300.0, Stamp.KEY, process="auto")
        at_s = self.instant().mono_s
        return HealthReading(name, "trading", at_s, self.now_s, 1.0, 60_000, True, data)

    def feed(self, event: e.Event) -> None:
        decision = self.engine.handle(event, self.instant())
        self.records += decision.records
        self.questions += [probe.target_id for probe in decision.probes]
        for effect in decision.effects:
            match effect:
                case DispatchExecution(execution):
                    self.judge(execution)
                    self.held[execution.id] = execution
                case PlanExecution():
                    self.planned.append(effect)
                case FetchExecutionState(execution_id) if known := self.engine.world.executions.get(execution_id):
                    claimed_by = self.claims.get(execution_id, "")
                    self.feed(e.ExecutionSeen(msgspec.structs.replace(known, claimed_by=claimed_by)))
                case SettleExecution(execution):
                    self.feed(e.ExecutionSettled(execution.id, True, False, ()))
                case Answer(token):
                    self.answers[token] = effect
        self.look()

    # -- what must always hold --

    def judge(self, execution: Execution) -> None:
        if execution.authority is Authority.PERSON or execution.id in self.held:
            return  # a person needs no reading; the same intent, handed to another executor
        self.acted += 1
        name = execution.target.target_id
        assert execution.grounds_mono_s is not None
        grounds = self.taken[name, execution.grounds_mono_s]
        assert not _well(grounds), "an action on a healthy target"
        incident = self.engine.world.incidents[execution.incident_id or ""]
        assert grounds.taken_wall_s >= incident.detected_wall_s, "the reading is of an earlier incident"
        newest = max(taken for target, taken in self.delivered if target == name)
        assert execution.grounds_mono_s == newest, "a newer reading was known"
        self.judge_by_r3(execution, grounds)

    def judge_by_r3(self, execution: Execution, grounds: HealthReading) -> None:
        match execution.authority:
            case Authority.NOT_RUNNING:
                assert execution.target.auto_restart
                assert execution.runbook.starts_service
                assert isinstance(grounds.data, ProcessData)
                assert grounds.data.alive is False
            case Authority.APPROVED:
                name = execution.target.target_id
                by_person = {(execution.runbook.id, name), (execution.runbook.id, "*")} & self.approved
                graduated = [r for r in self.good.get((execution.runbook.id, name), ())[-3:] if r]
                destroys = execution.runbook.steps[0].effect is Effect.DESTROY
                assert by_person or (len(graduated) == 3 and not destroys), "nobody allowed it"
            case other:
                raise AssertionError(f"{other} allows none of these")

    def look(self) -> None:
        world = self.engine.world
        keys = [(incident.anomaly, incident.target_id) for incident in world.incidents.values()]
        assert len(keys) == len(set(keys)), "two open incidents of one key"
        held = [execution.resource for execution in world.executions.values()]
        assert len(held) == len(set(held)), "two executions on one resource"
        for state in world.runbook_states.values():
            assert state.dry_run_count == max((streak.count for streak in state.streaks), default=0)
            assert sum(self.good.get((state.runbook_id, state.target_id), ())) >= state.dry_run_count

    # -- what happens --

    delivered: set[tuple[str, float]]
    good: dict[tuple[str, str], list[bool]]

    def a_service_changes(self) -> None:
        name = self.rng.choice(NAMES)
        dies = self.alive[name] is not None
        self._pid += 1
        self.alive[name] = None if dies else self._pid
        if not dies and self.questions:
            self.spared += 1

    def a_probe_looks(self) -> None:
        name = self.questions.pop(self.rng.randrange(len(self.questions))) if self.questions else self.rng.choice(NAMES)
        reading = self.reading(name)
        self.taken[name, reading.taken_mono_s] = reading
        self.readings.append(reading)
        self.now_s += 0.001  # no two looks at one moment

    def a_reading_arrives(self) -> None:
        if self.readings:
            reading = self.readings.pop(self.rng.randrange(len(self.readings)))
            self.delivered.add((reading.target_id, reading.taken_mono_s))
            self.feed(e.ReadingSeen(reading))
            if self.rng.random() < 0.2:
                self.feed(e.ReadingSeen(reading))

    def a_plan_arrives(self) -> None:
        if self.planned:
            asked = self.planned.pop(self.rng.randrange(len(self.planned)))
            clear = self.rng.random() < 0.8
            execution = asked.execution
            # What the engine may count at most: it must drop some of these, and may add none.
            self.good.setdefault((execution.runbook.id, execution.target.target_id), []).append(clear)
            steps: tuple[dict[str, object], ...] = ({"step_id": "s", "description": "d", "predicts_clear": clear},)
            for _ in range(self.rng.choice((1, 1, 2))):
                self.feed(e.Planned(asked.token, execution, steps, "" if self.rng.random() < 0.9 else "it cannot tell"))

    def the_executor_works(self) -> None:
        world = self.engine.world
        waiting = [x for x in self.held.values() if x.id in world.executions and world.executions[x.id].state in _OPEN]
        if not waiting:
            return
        execution = self.rng.choice(waiting)
        self.claims[execution.id] = self.executor
        self.feed(e.ExecutionClaimed(execution.id, self.executor))
        works = self.rng.random() < 0.7
        if works:
            self._pid += 1
            self.alive[execution.target.target_id] = self._pid
        if self.rng.random() < 0.85:
            self.feed(e.StepEnded(execution.id, 0, StepResult("start", works, "out", 1.0), True))

    def the_executor_dies(self) -> None:
        self.executor = f"exec-{self.rng.random()}"
        self.feed(e.ExecutorIs(""))
        self.feed(e.ExecutorIs(self.executor))

    def a_person_decides(self) -> None:
        runbook, name = self.rng.choice(RUNBOOKS).id, self.rng.choice(("auto", "asks", "auto-signals"))
        match self.rng.randrange(4):
            case 0:
                self.approved.add((runbook, name))
                self.order("approve", runbook_id=runbook, target_id=name)
            case 1:
                self.order("approve", runbook_id=runbook, target_id=name, revoke=True)
                self.approved.discard((runbook, name))
            case 2:
                self.order("execute", runbook_id=runbook, target_id=name, confirm=True)
            case _:
                for incident_id in list(self.engine.world.incidents)[:1]:
                    self.order("dismiss", incident_id=incident_id, reason="so")

    def the_engine_crashes(self) -> None:
        self.questions.clear()
        if self.rng.random() < 0.5:
            self.planned.clear()
        self.crash()

    def time_passes(self) -> None:
        self.advance(self.rng.choice((0.05, 0.5, 2.1, 7.0, 31.0, 4_000.0)))

    def order(self, action: str, actor: str = "matthew", token: str = "", **args: Any) -> Answer | None:
        return super().order(action, actor, token or f"t{self.rng.random()}", **args)

    def ends_well(self) -> None:
        """Once all is well and everybody answers, every incident is over: nothing was ever stuck."""
        for _ in range(12):
            for name in NAMES:
                self._pid += 1
                self.alive[name] = self.alive[name] or self._pid
                self.questions.append(name)
            while self.questions or self.planned or self.readings:
                if self.questions:
                    self.a_probe_looks()
                self.a_reading_arrives()
                self.a_plan_arrives()
            self.the_executor_works()
            self.advance(self.rng.choice((5.0, 600.0)))
        assert self.engine.world.incidents == {}


_OPEN = (ExecutionState.INTENDED, ExecutionState.CLAIMED)
ACTIONS = (
    (Wild.a_service_changes, 5),
    (Wild.a_probe_looks, 16),
    (Wild.a_reading_arrives, 16),
    (Wild.a_plan_arrives, 5),
    (Wild.the_executor_works, 5),
    (Wild.the_executor_dies, 1),
    (Wild.a_person_decides, 2),
    (Wild.the_engine_crashes, 1),
    (Wild.time_passes, 3),
)


def _well(reading: HealthReading) -> bool:
    data = reading.data
    if isinstance(data, SignalData):
        return data.age_s <= data.max_age_s
    assert isinstance(data, ProcessData)
    return data.alive is True


def play(seed: int) -> Wild:
    rng = random.Random(seed)
    Wild.delivered, Wild.good = set(), {}
    lab = Wild(rng)
    actions, weights = [a for a, _ in ACTIONS], [w for _, w in ACTIONS]
    for action in rng.choices(actions, weights, k=STEPS):
        action(lab)
    lab.ends_well()
    return lab


@pytest.mark.req("NFR-002", "R3", "R4", "R7")
@pytest.mark.parametrize("block", [0, *(pytest.param(n, marks=pytest.mark.soak) for n in range(1, BLOCKS))])
def test_in_a_thousand_interleavings_nothing_healthy_is_touched_and_nothing_is_done_twice(block: int) -> None:
    acted = spared = 0
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        try:
            lab = play(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        acted, spared = acted + lab.acted, spared + lab.spared
    assert acted > BLOCK / 2, "else the test would show nothing"
    assert spared > BLOCK
