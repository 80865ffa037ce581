"""What one decision of the engine writes to the ledger, and what the ledger gives back after a crash."""

from __future__ import annotations

import msgspec

from supervisor.incidents.model import (
    Breaker,
    Execution,
    FamilyPause,
    Halt,
    Incident,
    Metric,
    OutboxRow,
    Runbook,
    RunbookState,
    StageEntry,
    Tally,
    Timer,
    TimerKind,
    TrailEntry,
)
from supervisor.incidents.orders import AuditEntry, Offer, OperatorPause, TakenReply
from supervisor.incidents.readings import ProcessRef


class PutIncident(msgspec.Struct, frozen=True, tag="incident"):
    incident: Incident


class AddTrail(msgspec.Struct, frozen=True, tag="trail"):
    entry: TrailEntry


class AddLateTrail(msgspec.Struct, frozen=True, tag="late_trail"):
    """A line for an incident that is closed, which the engine does not remember: the ledger gives it its number."""

    incident_id: str
    at_wall_s: float
    actor: str
    note: str
    execution_id: str


class PutExecution(msgspec.Struct, frozen=True, tag="execution"):
    """The engine's view of an execution. Claim and programs are the store's own columns and are not overwritten."""

    execution: Execution


class PutOutbox(msgspec.Struct, frozen=True, tag="outbox"):
    row: OutboxRow


class PutRunbookState(msgspec.Struct, frozen=True, tag="runbook_state"):
    state: RunbookState


class PutRunbook(msgspec.Struct, frozen=True, tag="runbook"):
    """A registered runbook, so that brain.db's `runbooks` lists it; written at start when it changed."""

    runbook: Runbook
    version: str


class AddMetric(msgspec.Struct, frozen=True, tag="metric"):
    metric: Metric


class PutTally(msgspec.Struct, frozen=True, tag="tally"):
    tally: Tally


class SetTimer(msgspec.Struct, frozen=True, tag="set_timer"):
    timer: Timer


class DropTimer(msgspec.Struct, frozen=True, tag="drop_timer"):
    kind: TimerKind
    subject: str


class PutBreaker(msgspec.Struct, frozen=True, tag="breaker"):
    breaker: Breaker


class DropBreaker(msgspec.Struct, frozen=True, tag="drop_breaker"):
    runbook_id: str
    resource: str


class PutPause(msgspec.Struct, frozen=True, tag="pause"):
    pause: FamilyPause


class DropPause(msgspec.Struct, frozen=True, tag="drop_pause"):
    family: str


class PutOperatorPause(msgspec.Struct, frozen=True, tag="operator_pause"):
    pause: OperatorPause


class DropOperatorPause(msgspec.Struct, frozen=True, tag="drop_operator_pause"):
    key: str


class PutRequest(msgspec.Struct, frozen=True, tag="request"):
    request: Offer


class DropRequest(msgspec.Struct, frozen=True, tag="drop_request"):
    request_id: str


class PutReply(msgspec.Struct, frozen=True, tag="reply"):
    reply: TakenReply


class DropReply(msgspec.Struct, frozen=True, tag="drop_reply"):
    key: str


class AddAudit(msgspec.Struct, frozen=True, tag="audit"):
    entry: AuditEntry


class PutStage(msgspec.Struct, frozen=True, tag="stage"):
    stage: StageEntry


class DropStage(msgspec.Struct, frozen=True, tag="drop_stage"):
    target_id: str


class PutKnown(msgspec.Struct, frozen=True, tag="known"):
    """The process that was last seen to be a service: nothing is started in its place while it lives.

    `sought`: the pid_file and match by which it was found. By others it is another program, and no memory of this one.
    """

    target_id: str
    process: ProcessRef
    sought: tuple[str, str] = ("", "")


class DropKnown(msgspec.Struct, frozen=True, tag="drop_known"):
    target_id: str


class PutHalt(msgspec.Struct, frozen=True, tag="halt"):
    """The store stops writing this database before it acknowledges the decision that has this record (R10)."""

    halt: Halt


class DropHalt(msgspec.Struct, frozen=True, tag="drop_halt"):
    database: str


Record = (
    PutIncident
    | AddTrail
    | PutExecution
    | PutOutbox
    | PutRunbookState
    | PutRunbook
    | AddMetric
    | PutTally
    | SetTimer
    | DropTimer
    | PutBreaker
    | DropBreaker
    | PutPause
    | DropPause
    | PutStage
    | DropStage
    | PutKnown
    | DropKnown
    | PutHalt
    | DropHalt
    | PutOperatorPause
    | DropOperatorPause
    | PutRequest
    | DropRequest
    | PutReply
    | DropReply
    | AddAudit
    | AddLateTrail
)


class Snapshot(msgspec.Struct, frozen=True):
    """All that the engine needs to go on after a crash: what the ledger holds that is not over.

    `recent_executions`: those that began within the longest breaker window. `recent_closed`: incidents closed within
    the last hour (R6's reopening) or dismissed with a window still running. `gathered`: closed incidents that a message
    which has not left yet is to tell of, without their evidence.
    """

    ledger_id: str
    epoch: int
    open_incidents: tuple[Incident, ...]
    recent_closed: tuple[Incident, ...]
    executions: tuple[Execution, ...]
    recent_executions: tuple[Execution, ...]
    outbox: tuple[OutboxRow, ...]
    runbook_states: tuple[RunbookState, ...]
    timers: tuple[Timer, ...]
    breakers: tuple[Breaker, ...]
    pauses: tuple[FamilyPause, ...]
    stages: tuple[StageEntry, ...] = ()
    known: tuple[PutKnown, ...] = ()
    halts: tuple[Halt, ...] = ()
    operator_pauses: tuple[OperatorPause, ...] = ()
    requests: tuple[Offer, ...] = ()
    replies: tuple[TakenReply, ...] = ()
    drafts: tuple[Runbook, ...] = ()
    tallies: tuple[Tally, ...] = ()
    gathered: tuple[Incident, ...] = ()
    last_remediation_wall_s: float | None = None
    last_escalation_wall_s: float | None = None
    last_signal_wall_s: float | None = None
    last_synapse_wall_s: float | None = None
