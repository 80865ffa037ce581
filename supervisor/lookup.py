"""What people look up in the ledger: the store is asked, and who asked is answered. Decides and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from supervisor.bus import Link
from supervisor.errors import StoreError, UnknownId, UsageError
from supervisor.incidents import views
from supervisor.incidents.model import Execution, OutboxRow
from supervisor.incidents.replay import Past
from supervisor.incidents.views import stamp
from supervisor.messages import AuditFound, Body, FetchAudit, FetchIncident, IncidentFound, Nack, Request

AUDIT_LIMIT = 50


class _AuditArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = AUDIT_LIMIT


class _IncidentArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    incident_id: Annotated[str, msgspec.Meta(min_length=1, max_length=100)]


def look_up(store: Link, request: Request, answer: Callable[[dict[str, Any] | Exception], None]) -> None:
    """Asks for what `request` (an action of LOOKUPS) wants; `answer` is called once, now or later."""
    kind, ask, show = LOOKUPS[request.action]
    try:
        args = msgspec.json.decode(request.args, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        answer(UsageError(f"{request.action}: {error}"))
        return

    def told(done: asyncio.Future[Body]) -> None:
        if not done.cancelled():
            if isinstance(body := done.result(), Nack) and body.code == UnknownId.code:
                answer(UnknownId(body.message, "`healctl heal status` lists the open incidents"))
                return
            found = show(body)
            answer(found if found is not None else StoreError(f"the store cannot tell: {body}"))

    store.ask(ask(args)).add_done_callback(told)


def _audit(body: Body) -> dict[str, Any] | None:
    if not isinstance(body, AuditFound):
        return None
    entries = [
        {"id": it.id, "at": stamp(it.at_wall_s), "actor": it.actor, "action": it.action, "args": _args(it.args)}
        for it in body.entries
    ]
    return {"orders": entries}


def _args(text: str) -> Any:
    return msgspec.json.decode(text) if text else {}


def _incident(body: Body) -> dict[str, Any] | None:
    """The whole file of one incident: its trail, what was run, and what people were told."""
    if not isinstance(body, IncidentFound):
        return None
    past = msgspec.json.decode(body.past, type=Past)
    return {
        "incident": views.incident_json(past.incident, past.trail),
        "executions": [_execution(execution) for execution in past.executions],
        "messages": [_message(row) for row in body.messages],
    }


def _execution(execution: Execution) -> dict[str, Any]:
    """Evidence included: the reading on which it was decided."""
    reading = msgspec.to_builtins(execution.reading.data) if execution.reading is not None else None
    told = {
        "created_at": stamp(execution.created_wall_s),
        "ended_at": stamp(execution.ended_wall_s),
        "authority": execution.authority.value,
        "undoes": execution.undoes or None,
        "reading": reading,
    }
    return views.execution_answer(execution) | told


def _message(row: OutboxRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "channel": row.channel.value,
        "kind": row.kind,
        "subject": row.subject,
        "body": row.body,
        "created_at": stamp(row.created_wall_s),
        "delivered_at": stamp(row.delivered_wall_s),
        "receipt": row.receipt or None,
        "last_error": row.last_error or None,
    }


_Look = tuple[type[Any], Callable[[Any], Body], Callable[[Body], dict[str, Any] | None]]
LOOKUPS: dict[str, _Look] = {
    "incident": (_IncidentArgs, lambda args: FetchIncident(args.incident_id), _incident),
    "audit": (_AuditArgs, lambda args: FetchAudit(args.limit), _audit),
}
