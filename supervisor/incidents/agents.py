"""What an agent (MCP, OpenClaw) may order, and the one-time codes by which a person confirms the rest (R15). Pure.

An agent reads, dry-runs, records and dismisses. Its `approve` and `execute` become requests: bound to the runbook's
version and the target, good for one confirmation within a day. The code goes to the person alone, never to Synapse
or into `status`, which agents read. `[mcp] trusted` lifts all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.errors import Refused
from supervisor.incidents import codes, notices, posting
from supervisor.incidents.model import AGENT, Channel, Runbook, Tier, TimerKind
from supervisor.incidents.orders import Offer
from supervisor.incidents.plain_text import clean
from supervisor.incidents.views import Json, stamp

if TYPE_CHECKING:
    from supervisor.incidents.world import Turn, World

FREE = frozenset({"status", "list_runbooks", "dry_run", "record_fix", "dismiss", "stats", "captured"})
ASKED = frozenset({"approve", "execute"})  # become requests; everything else is a person's alone
VALID_S = 86_400.0
OPEN_MAX = 10  # requests that wait for a person


class ConfirmArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    code: str


def limited(world: World, actor: str) -> bool:
    return actor.startswith(AGENT) and not world.policy.agents_trusted


def check(turn: Turn, action: str, actor: str) -> None:
    """Raises Refused for what an agent may not even ask for."""
    if limited(turn.world, actor) and action not in FREE and action not in ASKED:
        raise Refused(f"{action} is a person's to order, not an agent's", "see [mcp] trusted")


def ask(turn: Turn, action: str, args: str, runbook: Runbook, target_id: str | None, actor: str, secret: str) -> Json:
    """A request, told to the person with its code. `secret` makes the code unguessable; it comes from outside."""
    world, now = turn.world, turn.now
    open_now = [offer for offer in world.requests.values() if offer.of_agent]
    for waiting in open_now:
        if (waiting.action, waiting.args, waiting.version) == (action, args, runbook.version()):
            return _pending(waiting)
    if len(open_now) >= OPEN_MAX:
        raise Refused(f"{OPEN_MAX} requests of agents wait for a person already", "`healctl heal requests` lists them")
    request = Offer(
        id=turn.new_id("req"),
        code=codes.unused(world, secret),
        action=action,
        args=args,
        runbook_id=runbook.id,
        version=runbook.version(),
        target_id=target_id or "",
        by=actor,
        asked_wall_s=now.wall_s,
        until_wall_s=now.wall_s + VALID_S,
    )
    turn.put_request(request)
    turn.set_timer(TimerKind.REQUEST_OVER, request.id, VALID_S)
    target = world.target(target_id) if target_id is not None else None
    revoke = bool(msgspec.json.decode(args, type=dict[str, Any]).get("revoke"))
    wants = notices.wanted(runbook, target, action, revoke=revoke)
    posting.notice(turn, Channel.SYNAPSE, Tier.ASK, "request", *notices.requested(wants, actor, runbook))
    if world.policy.pages:
        told = notices.requested_of_you(wants, actor, runbook, request.code, by_reply=bool(world.policy.approvers))
        posting.notice(turn, Channel.SIGNAL, Tier.ASK, "request", *told, offer_id=request.id)
    return _pending(request)


def take(turn: Turn, code: str) -> Offer:
    """The request of this code, which is spent (`over`) once it is carried out. Raises Refused, UnknownId."""
    request = codes.find(turn, code, of_agent=True)
    runbook = turn.world.runbooks.get(request.runbook_id)
    if runbook is None or runbook.version() != request.version:
        over(turn, request.id)
        raise Refused(f"{request.runbook_id} was changed since it was asked for; nothing was done", "let it ask again")
    return request


def over(turn: Turn, request_id: str) -> None:
    """Its day has passed, or it is spent."""
    turn.drop_request(request_id)
    turn.drop_timer(TimerKind.REQUEST_OVER, request_id)


def pending(turn: Turn) -> Json:
    """For a person: with the codes."""
    waiting = sorted((it for it in turn.world.requests.values() if it.of_agent), key=lambda it: it.asked_wall_s)
    return {"requests": [_json(it) | {"code": it.code, "what": words(it)} for it in waiting]}


def words(request: Offer) -> str:
    where = f" for {clean(request.target_id, 60)}" if request.target_id else ""
    revoke = msgspec.json.decode(request.args, type=dict[str, Any]).get("revoke")
    return f"{'take back the approval of' if revoke else request.action} {request.runbook_id}{where}"


def _json(request: Offer) -> Json:
    return {
        "request_id": request.id,
        "action": request.action,
        "runbook_id": request.runbook_id,
        "target_id": request.target_id or None,
        "asked_by": request.by,
        "asked_at": stamp(request.asked_wall_s),
        "expires_at": stamp(request.until_wall_s),
    }


def _pending(request: Offer) -> Json:
    told = "a person must confirm this with the one-time code that was sent to them; nothing has been done"
    return {"success": False, "pending": True, "next_step": told} | _json(request)
