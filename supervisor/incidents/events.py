"""What may happen to the engine: the events that `Engine.handle` takes, as values (DESIGN §2.5). Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents.matching import Meaning
from supervisor.incidents.model import (
    AnomalyType,
    Execution,
    Runbook,
    StepResult,
    Target,
)
from supervisor.incidents.orders import SignalReply
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import HealthReading


class ReadingSeen(msgspec.Struct, frozen=True):
    reading: HealthReading


class Hinted(msgspec.Struct, frozen=True):
    """Somebody outside says that something is wrong with this target (R16)."""

    target_id: str
    family: str


class Started(msgspec.Struct, frozen=True):
    """The engine has just been rebuilt: register the runbooks, pick up what was going on."""


class Reconfigured(msgspec.Struct, frozen=True):
    """Another configuration is in force."""

    targets: tuple[Target, ...]
    open_families: frozenset[str]
    policy: Policy
    runbooks: tuple[Runbook, ...]
    meanings: tuple[Meaning, ...] = ()


class ExecutorIs(msgspec.Struct, frozen=True):
    """The living executor's incarnation; empty while there is none."""

    incarnation: str


class NotifierIsBack(msgspec.Struct, frozen=True):
    """A notifier that knows of nothing: everything undelivered is handed to it again."""


class ExecutionClaimed(msgspec.Struct, frozen=True):
    execution_id: str
    incarnation: str


class StepEnded(msgspec.Struct, frozen=True):
    execution_id: str
    index: int
    result: StepResult
    last: bool


class ExecutionNotRun(msgspec.Struct, frozen=True):
    execution_id: str
    code: str
    message: str


class ProgramEnded(msgspec.Struct, frozen=True):
    execution_id: str
    step_id: str
    exit_text: str
    output: str


class ExecutionSeen(msgspec.Struct, frozen=True):
    """An execution as the ledger has it; `undone_by`: the one that has taken it back."""

    execution: Execution
    undone_by: str = ""


class ExecutionUnknown(msgspec.Struct, frozen=True):
    """The ledger has no execution of that id, or cannot tell (`trouble`)."""

    execution_id: str
    trouble: str = ""


class IncidentFound(msgspec.Struct, frozen=True):
    """The store's answer to FindIncident. Not `known` with a `trouble`: it cannot tell."""

    incident_id: str
    known: bool
    trouble: str = ""


class ExecutionSettled(msgspec.Struct, frozen=True):
    execution_id: str
    ok: bool
    running: bool
    ended: tuple[str, ...]


class Planned(msgspec.Struct, frozen=True):
    """The answer of a dry run, already as JSON-ready values."""

    token: str
    execution: Execution
    steps: tuple[dict[str, object], ...]
    error: str


class Delivered(msgspec.Struct, frozen=True):
    """One attempt's outcome; `receipt` is set exactly on success."""

    row_id: str
    attempts: int
    receipt: str
    error: str


class OwnPart(msgspec.Struct, frozen=True):
    """One of our own parts: what is wrong with it, or that it is not any more."""

    name: str
    anomaly: AnomalyType
    firing: bool
    evidence: str


class LimitIs(msgspec.Struct, frozen=True):
    """A limit of the process around the engine: reached (`evidence` says how), or (empty) not any more."""

    name: str
    evidence: str


class DrillTold(msgspec.Struct, frozen=True):
    """What `CarryDrill` asked for is done, or (`error`) could not be."""

    drill_id: str
    stage: str
    error: str = ""


class CancelTold(msgspec.Struct, frozen=True):
    """What `TellCancel` (`token`, `actor`) came to: it stops, or it goes on, or nobody can say: why, in words."""

    token: str
    actor: str
    target_id: str
    execution_id: str = ""
    goes_on: str = ""
    unsure: str = ""
    hint: str = ""


class Round(msgspec.Struct, frozen=True):
    """Nothing has happened. What is decided about it, nothing, must become durable like any decision: so it is known
    that engine and ledger work."""


class TimersDue(msgspec.Struct, frozen=True):
    """Some timer's time may have come."""


class Order(msgspec.Struct, frozen=True):
    """A person's request (FR-007), or an agent's (R15). `secret`: drawn by the healer, for a one-time code."""

    token: str
    action: str
    args: bytes
    actor: str
    secret: str = ""


class ReplySeen(msgspec.Struct, frozen=True):
    """Somebody has written to the account that pages; the same message may come again."""

    reply: SignalReply


Event = (
    ReadingSeen
    | Hinted
    | Started
    | Reconfigured
    | ExecutorIs
    | NotifierIsBack
    | ExecutionClaimed
    | StepEnded
    | ExecutionNotRun
    | ProgramEnded
    | ExecutionSeen
    | ExecutionUnknown
    | IncidentFound
    | ExecutionSettled
    | Planned
    | Delivered
    | OwnPart
    | LimitIs
    | DrillTold
    | CancelTold
    | Round
    | TimersDue
    | Order
    | ReplySeen
)
