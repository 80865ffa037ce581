"""What people look up in the ledger: the store is asked, and who asked is answered. Decides and writes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from supervisor.bus import Link
from supervisor.errors import StoreError, UsageError
from supervisor.incidents.views import stamp
from supervisor.messages import AuditFound, Body, FetchAudit, Request

AUDIT_LIMIT = 50


class _AuditArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = AUDIT_LIMIT


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
            found = show(done.result())
            answer(found if found is not None else StoreError(f"the store cannot tell: {done.result()}"))

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


_Look = tuple[type[Any], Callable[[Any], Body], Callable[[Body], dict[str, Any] | None]]
LOOKUPS: dict[str, _Look] = {
    "audit": (_AuditArgs, lambda args: FetchAudit(args.limit), _audit),
}
