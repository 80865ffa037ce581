"""Quiet hours: what need not wake anybody waits for their end (`[escalation] quiet_hours`). Pure.

Only Synapse messages of tiers 1 and 2 wait; tier 3 never does, nor does the answer to what somebody is doing right now
(EXEMPT). A message that waits is a row of the outbox like any other, marked `held`: durable, shown in `status`, and
delivered by nobody. One row for each incident: what is said later replaces it. When the hours end, an incident that is
still open is told as it then is; for one that is over there is one summary instead of a request that is out of date.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents import copies, wording
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import Channel, Incident, OutboxRow, Tier, TimerKind
from supervisor.incidents.world import Turn

EXEMPT = frozenset({"request", "proposal"})  # of an agent, which expires; of a person who waits for it
OUT_OF_DATE = frozenset({"approval", "summary"})  # what an incident's row says only as long as it is so
AT_ONCE_MAX = 100  # released in one decision, the rest in the next
QUIET = "quiet"


def waits(turn: Turn, row: OutboxRow) -> bool:
    hours = turn.world.policy.quiet_hours
    waits = row.channel is Channel.SYNAPSE and row.tier < Tier.PAGE and row.kind not in EXEMPT
    return waits and hours is not None and hours.is_quiet(turn.now.wall_s)


def keep(turn: Turn, row: OutboxRow) -> OutboxRow:
    """It waits; in the place of what waits about the same incident already."""
    world = turn.world
    key = row.incident_id or row.id
    earlier = world.outbox.get(world.quiet.get(key, ""))
    if earlier is not None:
        row = msgspec.structs.replace(row, id=earlier.id)
    world.quiet[key] = row.id
    if (TimerKind.QUIET, QUIET) not in world.timers:
        look_again(turn)
    return turn.put_row(row, held=True)


def look_again(turn: Turn) -> None:
    """After a restart, another configuration or another time on the wall: when does what waits leave?"""
    hours = turn.world.policy.quiet_hours
    until_s = hours.until_wall_s(turn.now.wall_s) if hours is not None else None
    if turn.world.quiet:
        turn.set_timer(TimerKind.QUIET, QUIET, until_s - turn.now.wall_s if until_s is not None else 0.0)


def due(turn: Turn) -> None:
    """The hours are over, or so it seemed when the timer was set."""
    world = turn.world
    hours = world.policy.quiet_hours
    if hours is None or not hours.is_quiet(turn.now.wall_s):
        for key in list(world.quiet)[:AT_ONCE_MAX]:
            row = world.outbox.get(world.quiet.pop(key))
            if row is not None:
                _release(turn, row)
    look_again(turn)


def closed(turn: Turn) -> None:
    """After every event: what waits about an incident that is over asks for nothing any more."""
    for incident in turn.closed:
        row = turn.world.outbox.get(turn.world.quiet.get(incident.id, ""))
        if row is not None and row.kind in OUT_OF_DATE:
            mine = turn.world.closed.get((incident.anomaly, incident.target_id), ())
            newest = next((it for it in mine if it.id == incident.id), incident)
            turn.put_row(_told(turn, row, newest, "summary", Tier.INFORM))


def _release(turn: Turn, row: OutboxRow) -> None:
    incident = turn.incident(row.incident_id) if row.incident_id else None
    if incident is not None and row.kind in OUT_OF_DATE:
        asks = incident.tier is Tier.ASK
        row = _told(turn, row, incident, "approval" if asks else "summary", Tier.ASK if asks else Tier.INFORM)
    row = turn.put_row(row, held=False, created_wall_s=turn.now.wall_s)
    turn.effects.append(DeliverRow(row))
    copies.post(turn, row)


def _told(turn: Turn, row: OutboxRow, incident: Incident, kind: str, tier: Tier) -> OutboxRow:
    return msgspec.structs.replace(
        row,
        kind=kind,
        tier=tier,
        priority=PRIORITY[tier],
        subject=wording.subject(turn.world, incident, row.channel, kind if incident.open else "outcome"),
        body=wording.body(turn.world, incident, row.channel, kind, turn.now.wall_s),
    )


PRIORITY = {Tier.INFORM: "info", Tier.ASK: "action", Tier.PAGE: "urgent"}
