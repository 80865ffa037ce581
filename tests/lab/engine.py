"""A bench for the pure engine: virtual time, services that live or die by hand, an executor that obeys at once.

Nothing here decides anything: it carries effects to the scripted world and brings back what that world would say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents.effects import (
    Answer,
    DeliverRow,
    DispatchExecution,
    Effect,
    FetchExecutionState,
    PlanExecution,
    SettleExecution,
    TellCancel,
)
from supervisor.incidents.engine import Engine
from supervisor.incidents.model import (
    Execution,
    Incident,
    Instant,
    OutboxRow,
    Recipe,
    Runbook,
    State,
    StepResult,
    Target,
    TrailEntry,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import (
    Endpoint,
    HealthReading,
    PidFile,
    ProcessData,
    ProcessRef,
    Unavailable,
)
from supervisor.incidents.records import (
    AddMetric,
    AddTrail,
    PutIncident,
    PutKnown,
    PutOutbox,
    Record,
    Snapshot,
)
from supervisor.incidents.recover import rebuild

BOOT = "boot-1"
START = 1_000_000.0
EMPTY = Snapshot("ledger-1", 1, (), (), (), (), (), (), (), (), ())


def service(name: str, *, auto_restart: bool = True, recipe: bool = True) -> Target:
    return Target(
        target_id=name,
        family="process",
        auto_restart=auto_restart,
        recipe=Recipe(argv=("/usr/bin/start", name)) if recipe else None,
    )


OPEN = frozenset({"host", "pipeline", "fleet"})


class Lab:
    """`alive[name]` is the pid that lives, None when it is dead. `heals`: what a restart does to a service. `outages`:
    a channel whose messages nobody gives receipts for is out (`outage`)."""

    def __init__(
        self,
        *names: str,
        policy: Policy | None = None,
        targets: tuple[Target, ...] = (),
        runbooks: tuple[Runbook, ...] = RUNBOOKS,
        outages: bool = False,
    ) -> None:
        self.targets = targets or tuple(service(name) for name in names)
        self.policy = policy or Policy()
        if not outages:  # nobody receives anything here but by hand
            self.policy = msgspec.structs.replace(self.policy, undelivered_after_s=1e12)
        self.runbooks = runbooks
        self.now_s = START
        self.wall_ahead_s = 0.0  # of where the wall clock would be, had nobody touched it
        self.alive: dict[str, int | None] = {target.target_id: 100 + i for i, target in enumerate(self.targets)}
        self.endpoint: dict[str, Endpoint] = {}
        self.stop_file: set[str] = set()
        self.heals: dict[str, bool] = {}
        self.silent: set[str] = set()  # targets whose probe never answers
        self.executor_works = True
        self.step_fails = ""
        self.hold_dispatch = False
        self.refuses_cancel = ""  # why whoever is at work goes on
        self.hold_cancel = False
        self.told_to_stop: list[TellCancel] = []
        self.predicts: dict[str, bool] = {}  # runbook -> what its dry run says; True unless said otherwise
        self.plan_error = ""
        self.hold_plans = False
        self.planned: list[PlanExecution] = []
        self.records: list[Record] = []
        self.effects: list[Effect] = []
        self.dispatched: list[Execution] = []
        self.answers: dict[str, Answer] = {}
        self._pid = 1_000
        self.executor = "exec-1"
        self.engine = Engine(rebuild(EMPTY, BOOT, self.policy, self.runbooks, self.targets, OPEN, {}))
        self.feed(e.Started())
        self.feed(e.ExecutorIs(self.executor))

    # -- the world --

    def instant(self) -> Instant:
        return Instant(steady_s=self.now_s, wall_s=self.now_s + self.wall_ahead_s, mono_s=self.now_s - START + 50.0)

    def reading(self, name: str, **changes: Any) -> HealthReading:
        pid = self.alive[name]
        data = ProcessData(
            alive=pid is not None,
            process=ProcessRef(BOOT, pid, pid) if pid is not None else None,
            pid_file=PidFile.OK if pid is not None else PidFile.STALE,
            endpoint=self.endpoint.get(name, Endpoint.UNSET),
            endpoint_failures=2 if self.endpoint.get(name, Endpoint.OK) is not Endpoint.OK else 0,
            meant_to_stop=name in self.stop_file,
        )
        reading = HealthReading(
            target_id=name,
            family="process",
            taken_mono_s=self.instant().mono_s,
            taken_wall_s=self.now_s,
            took_ms=1.0,
            freshness_ms=60_000,
            available=True,
            data=data,
        )
        return msgspec.structs.replace(reading, **changes)

    def unavailable(self, name: str) -> HealthReading:
        return self.reading(name, available=False, data=None, reason=Unavailable.ERROR, error="permission denied")

    # -- driving --

    def feed(self, event: e.Event) -> None:
        """One event, and everything that follows from it without time passing."""
        decision = self.engine.handle(event, self.instant())
        self.records += decision.records
        self.effects += decision.effects
        for probe in decision.probes:
            if probe.target_id in self.alive and probe.target_id not in self.silent:
                self.feed(e.ReadingSeen(self.reading(probe.target_id)))
        for effect in decision.effects:
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case DispatchExecution(execution):
                self.dispatched.append(execution)
                if self.executor_works and not self.hold_dispatch:
                    self.run(execution)
            case Answer(token):
                self.answers[token] = effect
            case PlanExecution():
                self.planned.append(effect)
                if not self.hold_plans:
                    self.answer_plan(effect)
            case TellCancel(token, actor, target_id, execution_id):
                self.told_to_stop.append(effect)
                if not self.hold_cancel:
                    self.feed(e.CancelTold(token, actor, target_id, execution_id, self.refuses_cancel))
            case DeliverRow() | FetchExecutionState() | SettleExecution():
                pass

    def answer_plan(self, asked: PlanExecution) -> None:
        """What the executor says of a dry run."""
        runbook = asked.execution.runbook
        steps: tuple[dict[str, object], ...] = tuple(
            {
                "step_id": step.step_id,
                "description": f"would {step.step_id} {asked.execution.target.target_id}",
                "predicts_clear": self.predicts.get(runbook.id, True),
            }
            for step in runbook.steps
        )
        self.feed(e.Planned(asked.token, asked.execution, () if self.plan_error else steps, self.plan_error))

    def run(self, execution: Execution) -> None:
        """What the executor does with an execution."""
        self.feed(e.ExecutionClaimed(execution.id, "exec-1"))
        steps = execution.runbook.steps
        for index, step in enumerate(steps):
            failed = step.step_id == self.step_fails
            last = failed or index == len(steps) - 1
            if last and not failed and self.heals.get(execution.target.target_id, True):
                self._pid += 1
                self.alive[execution.target.target_id] = self._pid
            result = StepResult(step.step_id, not failed, "no such file" if failed else "done", 1.0)
            self.feed(e.StepEnded(execution.id, index, result, last))
            if last:
                return

    def kill(self, name: str) -> None:
        self.alive[name] = None
        self.feed(e.ReadingSeen(self.reading(name)))

    def poll(self, name: str) -> None:
        self.feed(e.ReadingSeen(self.reading(name)))

    def advance(self, seconds: float, *, events: int = 10_000) -> None:
        """Virtual time passes; timers fire when they are due."""
        end = self.now_s + seconds
        for _ in range(events):
            due = self.engine.next_due_steady_s()
            if due is None or due > end:
                break
            self.now_s = max(self.now_s, due)
            self.feed(e.TimersDue())
        else:
            raise AssertionError("the timers never came to rest")
        self.now_s = end

    def order(self, action: str, actor: str = "matthew", token: str = "", **args: Any) -> Answer | None:
        token = token or f"t{len(self.answers)}.{len(self.records)}"
        self.feed(e.Order(token, action, msgspec.json.encode(args), actor))
        return self.answers.get(token)

    def crash(self) -> None:
        """The engine dies and is rebuilt from what is durable."""
        world = self.engine.world
        latest: dict[str, Incident] = {}
        trails: dict[str, list[TrailEntry]] = {}
        for record in self.records:
            if isinstance(record, PutIncident):
                latest[record.incident.id] = record.incident
            elif isinstance(record, AddTrail):
                trails.setdefault(record.entry.incident_id, []).append(record.entry)
        snapshot = msgspec.structs.replace(
            EMPTY,
            epoch=world.epoch + 1,
            open_incidents=tuple(i for i in latest.values() if i.open),
            recent_closed=tuple(i for i in latest.values() if not i.open),
            executions=tuple(world.executions.values()),
            recent_executions=tuple(world.ended.values()),
            outbox=tuple(world.outbox.values()),
            runbook_states=tuple(world.runbook_states.values()),
            timers=tuple(world.timers.values()),
            breakers=tuple(world.breakers.values()),
            pauses=tuple(world.pauses.values()),
            stages=tuple(world.stages.values()),
            halts=tuple(world.halts.values()),
            drafts=tuple(world.drafts.values()),
            tallies=tuple(world.tallies.values()),
            requests=tuple(world.requests.values()),
            replies=tuple(world.replies.values()),
            operator_pauses=tuple(world.operator_pauses.values()),
            last_signal_wall_s=world.last_signal_wall_s,
            last_synapse_wall_s=world.last_synapse_wall_s,
            known=tuple(PutKnown(name, ref, world.targets[name].sought) for name, ref in world.known.items()),
        )
        trails = {i: t for i, t in trails.items() if latest[i].open}
        self.engine = Engine(rebuild(snapshot, BOOT, self.policy, self.runbooks, self.targets, OPEN, trails))
        self.feed(e.Started())
        self.feed(e.ExecutorIs(self.executor))

    # -- looking --

    def incidents(self, name: str = "") -> list[Incident]:
        """Every incident there ever was (of this target), in its newest form, oldest first."""
        latest: dict[str, Incident] = {}
        for record in self.records:
            if isinstance(record, PutIncident):
                latest[record.incident.id] = record.incident
        return [i for i in latest.values() if name in ("", i.target_id)]

    def only(self, name: str) -> Incident:
        (incident,) = self.incidents(name)
        return incident

    def states(self, incident: Incident) -> list[State]:
        entries = [r.entry for r in self.records if isinstance(r, AddTrail) and r.entry.incident_id == incident.id]
        states: list[State] = []
        for entry in entries:
            if not states or states[-1] is not entry.state:
                states.append(entry.state)
        return states

    def messages(self, channel: str = "") -> list[OutboxRow]:
        first: dict[str, OutboxRow] = {}
        for record in self.records:
            if isinstance(record, PutOutbox):
                first.setdefault(record.row.id, record.row)
        return [row for row in first.values() if channel in ("", row.channel.value)]

    def metrics(self) -> list[str]:
        return [record.metric.name for record in self.records if isinstance(record, AddMetric)]
