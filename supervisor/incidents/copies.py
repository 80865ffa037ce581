"""What a plugin's channel is told: a copy of what Synapse is told, from the tier on that its owner chose. Pure.

A row of its own in the same outbox, in the same decision, so that neither channel waits for the other, and only its own
receipt ends it.
"""

from __future__ import annotations

from msgspec.structs import replace

from supervisor.incidents import drill_run
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import Channel, OutboxRow
from supervisor.incidents.world import Turn


def post(turn: Turn, row: OutboxRow) -> None:
    """`row` leaves now. A drill proves the ways that healctl itself knows."""
    if row.channel is not Channel.SYNAPSE or row.kind == drill_run.KIND:
        return
    incident = turn.incident(row.incident_id) if row.incident_id else None
    for channel, from_tier in turn.world.policy.channels:
        if row.tier < from_tier or (incident is not None and incident.target_id == f"messages:{channel}"):
            continue  # that it does not deliver is not told by it: such messages would heap up
        copy = replace(row, id=turn.new_id("out"), channel=channel, held=False)
        turn.effects.append(DeliverRow(turn.put_row(copy)))
