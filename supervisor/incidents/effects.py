"""What leaves the engine, once the records of its decision are durable; `AskProbe` alone may go at once. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.incidents.model import Execution, OutboxRow


class AskProbe(msgspec.Struct, frozen=True):
    """Read this target now; the answer comes back as an ordinary reading."""

    target_id: str
    family: str


class DispatchExecution(msgspec.Struct, frozen=True):
    execution: Execution


class SettleExecution(msgspec.Struct, frozen=True):
    execution: Execution


class FetchExecutionState(msgspec.Struct, frozen=True):
    execution_id: str


class FindIncident(msgspec.Struct, frozen=True):
    """Was there ever such an incident? The engine remembers the recent ones only."""

    incident_id: str


class PlanExecution(msgspec.Struct, frozen=True):
    """A dry run: `token` names who asked; of an execution with an incident, it is the engine itself (R4)."""

    execution: Execution
    token: str


class DeliverRow(msgspec.Struct, frozen=True):
    row: OutboxRow


class Answer(msgspec.Struct, frozen=True):
    """The reply to a person's request: `body` is JSON-ready, or an error that the caller may see."""

    token: str
    body: dict[str, Any] | None = None
    error: Exception | None = None


class CarryDrill(msgspec.Struct, frozen=True):
    """A drill, outside of the engine: its trouble is to be made or taken away, or what came before is durable by now;
    `DrillTold` answers."""

    drill_id: str
    stage: str


class TellCancel(msgspec.Struct, frozen=True):
    """The executor, or the probe whose check of `target_id` it is, is to stop it; `CancelTold` answers. May be carried
    out twice."""

    token: str
    actor: str
    target_id: str
    execution_id: str = ""


Effect = (
    DispatchExecution
    | SettleExecution
    | FetchExecutionState
    | FindIncident
    | PlanExecution
    | DeliverRow
    | Answer
    | CarryDrill
    | TellCancel
)
