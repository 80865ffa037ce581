"""One durable outbox row, delivered after the decision is (DESIGN §2.1). Pure."""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.incidents import copies, offers, quiet, wording
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import Channel, Incident, OutboxRow, Tier
from supervisor.incidents.world import Turn


def about(turn: Turn, incident: Incident, channel: Channel, kind: str, row_id: str = "") -> OutboxRow:
    """One message about one incident, with what can be answered to it."""
    offer = offers.make(turn, (incident,), channel)
    subject = wording.subject(turn.world, incident, channel, kind)
    body = wording.body(turn.world, incident, channel, kind, turn.now.wall_s, offers.choices(turn, offer))
    offer_id = offer.id if offer is not None else ""
    return post(turn, channel, incident.tier, kind, subject, body, (incident.id,), row_id, offer_id=offer_id)


def for_many(
    turn: Turn, incidents: Sequence[Incident], tier: Tier, kind: str, subject: str, body: str, row_id: str = ""
) -> OutboxRow:
    """One message over Signal about all of these, with what can be answered for those that are open."""
    still = [incident for incident in incidents if incident.open]
    offer = offers.make(turn, still, Channel.SIGNAL) if still else None
    if offer is not None:
        body = wording.with_last_line(body, offers.choices(turn, offer))
    covers = tuple(incident.id for incident in incidents)
    offer_id = offer.id if offer is not None else ""
    return post(turn, Channel.SIGNAL, tier, kind, subject, body, covers, row_id, offer_id=offer_id)


def notice(
    turn: Turn,
    channel: Channel,
    tier: Tier,
    kind: str,
    subject: str,
    body: str,
    covers: tuple[str, ...] = (),
    *,
    offer_id: str = "",
    to: str = "",
) -> OutboxRow:
    """A message in words of its own, about no incident or about those that it `covers`, with the host's name if any."""
    subject, body = (wording.on_host(turn.world, text) for text in (subject, body))
    return post(turn, channel, tier, kind, subject, body, covers, offer_id=offer_id, to=to)


def post(
    turn: Turn,
    channel: Channel,
    tier: Tier,
    kind: str,
    subject: str,
    body: str,
    covers: tuple[str, ...] = (),
    row_id: str = "",
    *,
    offer_id: str = "",
    to: str = "",
) -> OutboxRow:
    """The row of a message that is worded already; in quiet hours it may wait. `to`: on Signal the one who asked."""
    row = OutboxRow(
        id=row_id or turn.new_id("out"),
        incident_id=covers[0] if covers else None,
        covers=covers,
        channel=channel,
        tier=tier,
        kind=kind,
        priority=quiet.PRIORITY[tier],
        subject=wording.finished(channel, subject),
        body=wording.finished(channel, body),
        created_wall_s=turn.now.wall_s,
        offer_id=offer_id,
        to=to,
    )
    if quiet.waits(turn, row):
        return quiet.keep(turn, row)
    turn.put_row(row)
    turn.effects.append(DeliverRow(row))
    copies.post(turn, row)
    return row
