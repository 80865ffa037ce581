"""The trails of the open incidents, fetched from the store a few at a time when the healer begins."""

from __future__ import annotations

import msgspec

from supervisor.bus import Link
from supervisor.errors import StoreError
from supervisor.incidents.model import TrailEntry
from supervisor.messages import FetchTrail, TrailFound

TRAILS_PER_FETCH = 5  # a full trail is 2 MB, an answer at most 16 MiB


async def fetch(store: Link, ids: tuple[str, ...]) -> dict[str, list[TrailEntry]]:
    """By incident. Raises StoreError."""
    trails: dict[str, list[TrailEntry]] = {}
    for first in range(0, len(ids), TRAILS_PER_FETCH):
        part = ids[first : first + TRAILS_PER_FETCH]
        found = await store.ask(FetchTrail(part))
        if not isinstance(found, TrailFound):
            raise StoreError(f"the store did not give the trails: {found}")
        for incident_id, raw in zip(part, found.entries, strict=True):
            trails[incident_id] = msgspec.json.decode(raw, type=list[TrailEntry])
    return trails
