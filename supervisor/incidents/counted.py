"""What a report counts, as the store tells it: the few fields that it needs of what was recorded. Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents.model import ActedBy


class PastIncident(msgspec.Struct, frozen=True, gc=False):
    """What a report needs of an Incident, and is decoded from its body."""

    id: str
    anomaly: str
    target_id: str
    state: str
    detected_wall_s: float
    runbook_id: str | None = None
    acted_by: str = ActedBy.NOBODY
    resolved_wall_s: float | None = None
    well_wall_s: float | None = None
    looked_wall_s: float | None = None


class PastAction(msgspec.Struct, frozen=True, gc=False):
    """An execution. `acts`: it does more than look; `ran`: somebody took it up; `undoes`: the one it has taken back,
    set only when that was done."""

    id: str
    incident_id: str | None
    runbook_id: str
    target_id: str
    created_wall_s: float
    by_itself: bool
    acts: bool
    ran: bool
    undoes: str = ""


class PastPage(msgspec.Struct, frozen=True, gc=False):
    """A tier-3 message for Signal. `first`: no repetition of an earlier one; `delivered`: there is a receipt."""

    id: str
    incident_id: str | None
    created_wall_s: float
    first: bool
    delivered: bool


class PastMark(msgspec.Struct, frozen=True, gc=False):
    """A person's verdict (`marks`)."""

    incident_id: str
    verdict: str
    at_wall_s: float
