"""What a Signal page lets a person answer, and the code that stands for it (R15, FR-005). Pure.

An offer is bound to what the page spoke of: its incidents, and the runbook that is proposed for its target, in this
version. It is good for a day, and for each choice that changes something once. Its code goes over Signal alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from supervisor.incidents import codes, ladder
from supervisor.incidents.model import (
    Channel,
    Execution,
    Incident,
    OutboxRow,
    Runbook,
    State,
    TierReason,
    TimerKind,
    is_over,
)
from supervisor.incidents.orders import Offer

if TYPE_CHECKING:
    from supervisor.incidents.world import Turn, World

REPLY = "reply"  # the action of an offer that a page makes
VALID_S = 86_400.0
OFFERS_MAX = 500  # of pages; beyond it the oldest is taken back
SENT_MAX = 16  # messages that can be quoted for one offer
_RECEIPT = re.compile(r"signal:(\d{10,16}) ")
_NOTHING_FITS = (TierReason.NO_RUNBOOK, TierReason.CANNOT_EXECUTE)


def make(turn: Turn, incidents: Sequence[Incident], channel: Channel) -> Offer | None:
    """The offer of a message about these incidents; None where there is nothing to choose, or nobody who may."""
    world, now = turn.world, turn.now
    if channel is not Channel.SIGNAL or not (world.policy.pages and world.policy.approvers):
        return None
    (first, *more) = incidents
    runbook = None if more else proposed(world, first)
    last = None if more else undoable(world, first.id)
    if not first.open and last is None:
        return None
    offer_id = turn.new_id("off")
    offer = Offer(
        id=offer_id,
        code=codes.unused(world, f"{world.secret}:{offer_id}") if world.secret else "",
        action=REPLY,
        args="",
        runbook_id=runbook.id if runbook is not None else "",
        version=runbook.version() if runbook is not None else "",
        target_id=first.target_id if not more else "",
        by="engine",
        asked_wall_s=now.wall_s,
        until_wall_s=now.wall_s + VALID_S,
        incident_ids=tuple(incident.id for incident in incidents),
        execution_id=last.id if last is not None else first.execution_id or "",
    )
    _make_room(turn)
    turn.put_request(offer)
    turn.set_timer(TimerKind.REQUEST_OVER, offer.id, VALID_S)
    return offer


def _make_room(turn: Turn) -> None:
    pages = [offer for offer in turn.world.requests.values() if not offer.of_agent]
    if len(pages) >= OFFERS_MAX:
        turn.world.limits["replies"] = f"{OFFERS_MAX} pages can be answered, of older ones none any more"
        oldest = min(pages, key=lambda offer: offer.asked_wall_s)
        turn.drop_request(oldest.id)
        turn.drop_timer(TimerKind.REQUEST_OVER, oldest.id)


def choices(turn: Turn, offer: Offer | None) -> str:
    """The line that ends a page; empty where there is no offer."""
    if offer is None:
        return ""
    verbs = ", ".join(_verbs(turn.world, offer))
    return f"Reply (quote this) {verbs}" + (f" - or with code {offer.code}." if offer.code else ".")


def _verbs(world: World, offer: Offer) -> list[str]:
    incidents = [world.incidents[one] for one in offer.incident_ids if one in world.incidents]
    if not incidents:
        return ["undo", "why"]
    if len(offer.incident_ids) > 1:
        return ["ok", "why"]
    (incident,) = incidents
    found = ["ok"]
    if offer.runbook_id:
        found += ["run", "approve"] if incident.state is State.ESCALATED else ["approve"]
    if undoable(world, incident.id) is not None:
        found.append("undo")
    return [*found, "dismiss 4h", "why"]


def proposed(world: World, incident: Incident) -> Runbook | None:
    """What a person may let run for it: what waits for an approval, is the next rung, or may be tried once more."""
    if not incident.open:
        return None
    escalated = incident.state is State.ESCALATED
    if escalated and incident.tier_reason is TierReason.NEEDS_APPROVAL:
        return world.runbooks.get(incident.runbook_id or "")
    if (more := ladder.following(world, incident)) is not None:
        return more.runbook
    if escalated and incident.tier_reason not in _NOTHING_FITS:
        last = world.runbooks.get(incident.runbook_id or "")
        return last if last is not None and ladder.fits(last, world.target(incident.target_id)) else None
    return None


def undoable(world: World, incident_id: str) -> Execution | None:
    """The incident's newest execution that has left what an undo needs, as far as it is remembered."""
    every = (*world.executions.values(), *world.ended.values())
    taken_back = {it.undoes for it in every if it.undoes and it.verified is not False}
    found = [
        it
        for it in every
        if it.incident_id == incident_id
        and not it.undoes
        and it.id not in taken_back
        and is_over(it)
        and any(result.undo for result in it.results)
    ]
    return max(found, key=lambda it: it.created_steady_s, default=None)


def delivered(turn: Turn, row: OutboxRow, receipt: str) -> None:
    """From now on this message can be quoted."""
    offer = turn.world.requests.get(row.offer_id)
    told = _RECEIPT.match(receipt)
    if offer is not None and told is not None:
        sent = (*offer.sent_ms, int(told[1]))[-SENT_MAX:]
        turn.put_request(msgspec.structs.replace(offer, sent_ms=sent))
