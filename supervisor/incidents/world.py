"""The engine's memory (`World`) and one decision in the making (`Turn`).

A `Turn` changes the world and notes the same change as a record, so that memory and ledger cannot differ. Effects
leave only after the records are durable (DESIGN §2.1); `ask_probe` alone may go at once, since it changes nothing.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import msgspec

from supervisor.incidents import drill_run
from supervisor.incidents.classify import Classifier
from supervisor.incidents.drill_run import DrillRun
from supervisor.incidents.effects import AskProbe, Effect
from supervisor.incidents.lifecycle import Trigger, advance
from supervisor.incidents.matching import Meaning
from supervisor.incidents.model import (
    AnomalyType,
    Breaker,
    Channel,
    Execution,
    FamilyPause,
    Halt,
    Incident,
    Instant,
    OutboxRow,
    OutboxState,
    Runbook,
    RunbookState,
    StageEntry,
    StepResult,
    Tally,
    Target,
    Timer,
    TimerKind,
    TrailEntry,
    is_over,
)
from supervisor.incidents.orders import MarkArgs, Offer, OperatorPause, TakenReply
from supervisor.incidents.policy import Policy
from supervisor.incidents.putting import Putting
from supervisor.incidents.readings import HealthReading, ProcessRef
from supervisor.incidents.records import AddTrail, PutExecution, PutIncident, PutOutbox, PutRunbookState, Record

TRAIL_MAX = 500  # entries of one incident; beyond it only its transitions are still written
OPEN_INCIDENTS_MAX = 10_000
OUTPUT_CHARS_MAX = 4_000  # of a step's output in the trail
RECHECK_S = 6.0  # a reading comes within 5 s (R9); after this, ask again
HISTORY_MAX = 10_000  # executions remembered for the breakers

# Targets that a probe finds by itself, by the first part of their ids, and the family that does.
OPEN_FAMILIES = {"disk": "host", "pipeline": "pipeline", "fleet": "fleet"}


def open_family(target_id: str) -> str:
    """The family whose probe finds a target of this id by itself; of `FAMILY:NAME` that of a plugin; "" for none."""
    prefix, colon, _ = target_id.partition(":")
    if not colon:
        return ""
    return OPEN_FAMILIES.get(prefix, "" if prefix in OPEN_FAMILIES.values() else prefix)


Key = tuple[AnomalyType, str]


@dataclass
class Storm:
    """Many targets of one family failed at once: the first repairs must verify before the rest go on (DESIGN §2.8)."""

    canaries: list[str] = field(default_factory=list)  # executions
    verified: set[str] = field(default_factory=set)
    witness: str = ""  # an incident that is not settled yet, when last somebody looked for one


@dataclass
class Paging:
    """How much has been told by Signal lately (`pages`). All of it stands in the ledger, as timers and in incidents."""

    sent: set[str] = field(default_factory=set)  # outbox rows of the last two minutes
    urgent: set[str] = field(default_factory=set)  # of those in a storm that waited for nothing
    gather: str = ""  # the outbox row that will tell of what waits; empty: nothing does
    storm: bool = False
    groups: int = 0  # grouped messages of this storm that have left
    newest_steady_s: float = -math.inf  # when the newest incident that a page spoke of was detected
    lull_steady_s: float = math.inf  # what was detected from then on is no part of the storm
    covers: dict[str, dict[str, None]] = field(default_factory=dict)  # open incidents by their page


@dataclass
class World:
    """Everything the engine knows. Rebuilt from the ledger after a crash (`recover`)."""

    boot_id: str
    ledger_id: str
    epoch: int
    policy: Policy
    runbooks: dict[str, Runbook]
    targets: dict[str, Target]
    open_families: frozenset[str] = frozenset()  # those whose targets come and go by themselves (`OPEN_FAMILIES`)
    counter: int = 0
    classifier: Classifier = field(default_factory=Classifier)
    incidents: dict[str, Incident] = field(default_factory=dict)  # open ones
    by_key: dict[Key, str] = field(default_factory=dict)
    copies_overdue: set[str] = field(default_factory=set)  # targets of the open incidents of that kind
    by_target: dict[str, set[str]] = field(default_factory=dict)
    closed: dict[Key, list[Incident]] = field(default_factory=dict)  # within the reopening window, or dismissed
    trails: dict[str, list[TrailEntry]] = field(default_factory=dict)
    executions: dict[str, Execution] = field(default_factory=dict)  # not over, or not yet verified
    ended: dict[str, Execution] = field(default_factory=dict)  # over, within the breaker window
    history: deque[tuple[float, str, str, str]] = field(default_factory=deque)  # steady_s, runbook, resource, id
    outbox: dict[str, OutboxRow] = field(default_factory=dict)  # undelivered
    quiet: dict[str, str] = field(default_factory=dict)  # of those that are held: incident (or row) -> row
    runbook_states: dict[tuple[str, str], RunbookState] = field(default_factory=dict)
    timers: dict[tuple[TimerKind, str], Timer] = field(default_factory=dict)
    alarms: list[tuple[float, TimerKind, str]] = field(default_factory=list)  # heap; a stale one is skipped
    breakers: dict[tuple[str, str], Breaker] = field(default_factory=dict)
    pauses: dict[str, FamilyPause] = field(default_factory=dict)
    operator_pauses: dict[str, OperatorPause] = field(default_factory=dict)  # by key
    requests: dict[str, Offer] = field(default_factory=dict)  # what waits for a person's word, by a one-time code
    replies: dict[str, TakenReply] = field(default_factory=dict)  # those of the last days, by key
    strangers: list[float] = field(default_factory=list)  # steady_s of their audited messages
    secret: str = ""  # of this run of the healer: what the codes of pages are made of; without one they have none
    wrong_codes: list[float] = field(default_factory=list)  # steady_s
    drafts: dict[str, Runbook] = field(default_factory=dict)  # of runbooks, from what people did (FR-006)
    meanings: tuple[Meaning, ...] = ()  # what people's commands mean
    proposed: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)  # outbox row -> (token, answer)
    storms: dict[str, Storm] = field(default_factory=dict)
    paging: Paging = field(default_factory=Paging)
    readings: dict[str, HealthReading] = field(default_factory=dict)  # newest per target
    known: dict[str, ProcessRef] = field(default_factory=dict)  # target -> the process last seen to be it
    well: dict[Key, float] = field(default_factory=dict)  # wall_s of the newest look of ours that was well
    stages: dict[str, StageEntry] = field(default_factory=dict)  # of the pipelines' tasks
    halts: dict[str, Halt] = field(default_factory=dict)  # databases that nobody writes (R10)
    asked: dict[str, float] = field(default_factory=dict)  # target -> mono_s of the newest question
    hinted: dict[str, float] = field(default_factory=dict)  # target -> mono_s when others last made us ask
    refuted: dict[str, float] = field(default_factory=dict)  # target -> steady_s when our probe contradicted others
    planning: dict[str, set[str]] = field(default_factory=dict)  # incident -> runbooks whose dry run is under way
    rerun: set[str] = field(default_factory=set)  # escalated incidents that may run now
    mark_asked: dict[str, list[tuple[str, str, MarkArgs]]] = field(default_factory=dict)  # incident -> token, actor
    undo_asked: dict[str, list[tuple[str, str]]] = field(default_factory=dict)  # execution -> (token, actor)
    waiters: dict[str, list[str]] = field(default_factory=dict)  # execution -> tokens of people who wait for it
    executor: str = ""  # incarnation of the living executor
    settled: set[str] = field(default_factory=set)  # interrupted executions whose programs are over
    limits: dict[str, str] = field(default_factory=dict)  # limits of our own that were reached, and how
    turned_away: set[Key] = field(default_factory=set)  # wrong now, but beyond OPEN_INCIDENTS_MAX: counted and told
    set_aside: set[str] = field(default_factory=set)  # items that the root has quarantined
    tallies: dict[tuple[str, str, str], Tally] = field(default_factory=dict)  # by name, stage and result
    drill: DrillRun | None = None  # the newest since this engine was built
    drill_waiters: dict[str, int] = field(default_factory=dict)  # token -> how many of its stages the caller has seen
    last_remediation_wall_s: float | None = None
    last_escalation_wall_s: float | None = None
    last_signal_wall_s: float | None = None
    last_synapse_wall_s: float | None = None
    last_receipts: dict[Channel, float] = field(
        default_factory=dict
    )  # wall_s, of the plugins' channels; since the start
    started_steady_s: float = 0.0  # when this engine began

    def arm(self, timer: Timer) -> None:
        self.timers[timer.kind, timer.subject] = timer
        heapq.heappush(self.alarms, (timer.due_steady_s, timer.kind, timer.subject))

    def next_alarm(self) -> Timer | None:
        """The timer that is due first, None when there is none."""
        while self.alarms:
            due_s, kind, subject = self.alarms[0]
            timer = self.timers.get((kind, subject))
            if timer is not None and timer.due_steady_s == due_s:
                return timer
            heapq.heappop(self.alarms)
        return None

    def target(self, target_id: str) -> Target | None:
        """The target as configured, or one that a watched family finds by itself; None when nobody watches it."""
        found = self.targets.get(target_id)
        if target_id == drill_run.TARGET:
            found = Target(target_id, drill_run.FAMILY)
        elif found is None:
            family = open_family(target_id)
            if family in self.open_families:
                found = Target(target_id, family)
        return found

    def holder_of(self, resource: str) -> Execution | None:
        """The execution that holds this resource: one that runs, or whose result is not yet verified."""
        return next((execution for execution in self.executions.values() if execution.resource == resource), None)


@dataclass
class Decision:
    """What one event led to: `records` in one transaction, then `effects`; `probes` may go at once."""

    records: list[Record]
    effects: list[Effect]
    probes: list[AskProbe]


class Turn(Putting):
    """One event being handled at one instant."""

    def __init__(self, world: World, now: Instant) -> None:
        super().__init__(world, now)
        self.effects: list[Effect] = []
        self.closed: list[Incident] = []
        self._probes: dict[str, AskProbe] = {}

    def decision(self) -> Decision:
        return Decision(self.records, self.effects, list(self._probes.values()))

    # -- incidents --

    def incident(self, incident_id: str) -> Incident | None:
        return self.world.incidents.get(incident_id)

    def add_incident(self, incident: Incident) -> None:
        world = self.world
        world.incidents[incident.id] = incident
        world.by_key[incident.anomaly, incident.target_id] = incident.id
        if incident.anomaly is AnomalyType.BACKUP_OVERDUE:
            world.copies_overdue.add(incident.target_id)
        world.by_target.setdefault(incident.target_id, set()).add(incident.id)
        self.records.append(PutIncident(incident))

    def update(self, incident: Incident, **changes: Any) -> Incident:
        """A change of an incident that is not a transition."""
        new = self._remember(msgspec.structs.replace(incident, **changes))
        self.records.append(PutIncident(new))
        return new

    def _remember(self, incident: Incident) -> Incident:
        if incident.open:
            self.world.incidents[incident.id] = incident
            if incident.page_id is not None:
                self.world.paging.covers.setdefault(incident.page_id, {})[incident.id] = None
        elif mine := self.world.closed.get((incident.anomaly, incident.target_id)):
            mine[:] = [incident if it.id == incident.id else it for it in mine]
        return incident

    def move(
        self,
        incident: Incident,
        trigger: Trigger,
        actor: str,
        note: str,
        *,
        reading: HealthReading | None = None,
        **changes: Any,
    ) -> Incident:
        """A transition, with its trail entry; `reading` is what it rests on. Raises IllegalTransition before anything
        has changed."""
        state = advance(incident.state, trigger)
        new = msgspec.structs.replace(incident, state=state, changed_wall_s=self.now.wall_s, **changes)
        if not new.open:
            new = msgspec.structs.replace(new, resolved_wall_s=self.now.wall_s, waiting_for="")
        new = self._note(new, actor, note, transition=True, reading=reading)
        self.records.append(PutIncident(new))
        if not new.open:
            self._close(new)
        return new

    def note(
        self, incident: Incident, actor: str, note: str, result: StepResult | None = None, **more: Any
    ) -> Incident:
        """A trail entry without a transition."""
        new = self._note(incident, actor, note, result=result, **more)
        if new is not incident:
            self.records.append(PutIncident(new))
        return new

    def _note(
        self,
        incident: Incident,
        actor: str,
        note: str,
        *,
        transition: bool = False,
        result: StepResult | None = None,
        execution_id: str | None = None,
        reading: HealthReading | None = None,
    ) -> Incident:
        n = incident.trail_length
        if n >= TRAIL_MAX and not transition:
            return incident
        if n == TRAIL_MAX - 1 and not transition:
            note = f"trail full at {TRAIL_MAX} entries: from here on only transitions are written"
            self.world.limits["audit trail"] = f"the history of {incident.target_id} is full at {TRAIL_MAX} entries"
            result = None
        entry = TrailEntry(
            incident_id=incident.id,
            n=n,
            at_wall_s=self.now.wall_s,
            state=incident.state,
            actor=actor,
            note=note,
            step_id=result.step_id if result else None,
            execution_id=execution_id,
            success=result.success if result else None,
            output=result.output[:OUTPUT_CHARS_MAX] if result else None,
            duration_ms=result.duration_ms if result else None,
            reading=reading,
            stage=self.world.stages.get(reading.target_id) if reading is not None else None,
        )
        self.records.append(AddTrail(entry))
        if incident.open:
            self.world.trails.setdefault(incident.id, []).append(entry)
        return self._remember(msgspec.structs.replace(incident, trail_length=n + 1))

    def _close(self, incident: Incident) -> None:
        world = self.world
        key = (incident.anomaly, incident.target_id)
        world.incidents.pop(incident.id, None)
        world.by_key.pop(key, None)
        if incident.anomaly is AnomalyType.BACKUP_OVERDUE:
            world.copies_overdue.discard(incident.target_id)
        world.trails.pop(incident.id, None)
        world.rerun.discard(incident.id)
        world.planning.pop(incident.id, None)
        mine = world.by_target.get(incident.target_id, set())
        mine.discard(incident.id)
        if not mine:
            world.by_target.pop(incident.target_id, None)
        world.closed.setdefault(key, []).append(incident)
        self.closed.append(incident)
        if (covered := world.paging.covers.get(incident.page_id or "")) is not None:
            covered.pop(incident.id, None)
            if not covered:
                del world.paging.covers[incident.page_id or ""]
        self.hand_on_repeat(incident)
        for kind in (TimerKind.PAGE_HOLD, TimerKind.REPEAT, TimerKind.RECHECK, TimerKind.PLAN):
            self.drop_timer(kind, incident.id)

    def hand_on_repeat(self, incident: Incident) -> None:
        """A grouped page is repeated by one of those that it covers: by the next, once that is over or acknowledged."""
        if (repeat := self.world.timers.get((TimerKind.REPEAT, incident.id))) is not None:
            ids = self.world.paging.covers.get(incident.page_id or "", ())
            covered = (self.world.incidents[incident_id] for incident_id in ids)
            if heir := next((i for i in covered if i.acknowledged_wall_s is None), None):
                self.update(heir, repeats=incident.repeats)
                self.set_timer(TimerKind.REPEAT, heir.id, max(0.0, repeat.due_steady_s - self.now.steady_s))

    # -- the rest of the ledger --

    def put_execution(self, execution: Execution, **changes: Any) -> Execution:
        """Writes it; one that is over (ended, and nothing left to verify) leaves the active table."""
        new = msgspec.structs.replace(execution, **changes)
        world = self.world
        if is_over(new):
            world.executions.pop(new.id, None)
            world.ended[new.id] = new
            world.settled.discard(new.id)
            if len(world.ended) > HISTORY_MAX // 10:
                self.forget_ended()
        else:
            world.executions[new.id] = new
        self.records.append(PutExecution(new))
        return new

    def forget_ended(self) -> None:
        """Executions that no breaker, no caller and no open incident asks for any more."""
        since = self.now.wall_s - self.world.policy.breaker_window_s
        needed = {incident.execution_id for incident in self.world.incidents.values()}
        ended = self.world.ended.values()
        self.world.ended = {it.id: it for it in ended if it.created_wall_s >= since or it.id in needed}

    def want_run(self, incident: Incident) -> None:
        """An incident that waits for a person may run now: probe it afresh, again and again until one can tell."""
        self.world.rerun.add(incident.id)
        self.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        self.ask_probe(incident.target_id, incident.family)

    def put_row(self, row: OutboxRow, **changes: Any) -> OutboxRow:
        new = msgspec.structs.replace(row, **changes)
        if new.state is OutboxState.PENDING:
            self.world.outbox[new.id] = new
        else:
            self.world.outbox.pop(new.id, None)
        self.records.append(PutOutbox(new))
        return new

    def put_runbook_state(self, state: RunbookState) -> None:
        self.world.runbook_states[state.runbook_id, state.target_id] = state
        self.records.append(PutRunbookState(state))

    def ask_probe(self, target_id: str, family: str) -> None:
        """A fresh reading of our own (R7): one whose check begins from now on, or has begun since we first asked:
        asking again must not put off for ever what a slow background check will answer."""
        self.world.asked.setdefault(target_id, self.now.mono_s)
        self._probes[target_id] = AskProbe(target_id, family)
