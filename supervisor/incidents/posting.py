"""One durable outbox row, delivered after the decision is (DESIGN §2.1). Pure."""

from __future__ import annotations

from supervisor.incidents import quiet, wording
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import Channel, Incident, OutboxRow, Tier
from supervisor.incidents.world import Turn


def about(turn: Turn, incident: Incident, channel: Channel, kind: str, row_id: str = "") -> OutboxRow:
    """One message about one incident."""
    subject, body = wording.subject(incident, kind), wording.body(turn.world, incident, channel, kind)
    return post(turn, channel, incident.tier, kind, subject, body, (incident.id,), row_id)


def post(
    turn: Turn,
    channel: Channel,
    tier: Tier,
    kind: str,
    subject: str,
    body: str,
    covers: tuple[str, ...] = (),
    row_id: str = "",
) -> OutboxRow:
    """A message in words of its own, about no incident or about those that it `covers`; in quiet hours it may wait."""
    row = OutboxRow(
        id=row_id or turn.new_id("out"),
        incident_id=covers[0] if covers else None,
        covers=covers,
        channel=channel,
        tier=tier,
        kind=kind,
        priority=quiet.PRIORITY[tier],
        subject=subject,
        body=body,
        created_wall_s=turn.now.wall_s,
    )
    if quiet.waits(turn, row):
        return quiet.keep(turn, row)
    turn.put_row(row)
    turn.effects.append(DeliverRow(row))
    return row
