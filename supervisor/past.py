"""What the healer asks the store about what has been: people's orders, trails, incidents for a replay or a report.

A part of `supervisor.messages`; nothing here writes, and each answer fits into one message.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents.counted import PastAction, PastIncident, PastMark, PastPage
from supervisor.incidents.model import OutboxRow
from supervisor.incidents.orders import AuditEntry


class FetchAudit(msgspec.Struct, frozen=True, tag="fetch_audit"):
    """Healer -> store: the newest `limit` orders of people. Answer: AuditFound."""

    limit: int


class AuditFound(msgspec.Struct, frozen=True, tag="audit_found"):
    entries: tuple[AuditEntry, ...]


class FetchTrail(msgspec.Struct, frozen=True, tag="fetch_trail"):
    """Healer -> store: the trails of these incidents. Answer: TrailFound."""

    incident_ids: tuple[str, ...]


class TrailFound(msgspec.Struct, frozen=True, tag="trail_found"):
    """`entries` are msgspec-JSON arrays of TrailEntry by incident, in the order asked."""

    entries: tuple[bytes, ...]


class FetchHistory(msgspec.Struct, frozen=True, tag="fetch_history"):
    """Healer -> store: the next page of past and open incidents of these types, of one target or ("") of all, detected
    since. Answer: HistoryFound, whose `source` and `after` ask for the page behind it; the first has neither."""

    anomalies: tuple[str, ...]
    target_id: str
    since_wall_s: float
    source: str = ""
    after: int = 0


class HistoryFound(msgspec.Struct, frozen=True, tag="history_found"):
    """`rows` are msgspec-JSON of `replay.Past`; an empty page with `more` is not the last. `passed_over`: what could
    not be read, and why."""

    rows: tuple[bytes, ...]
    source: str
    after: int
    more: bool
    passed_over: str = ""


class FetchReport(msgspec.Struct, frozen=True, tag="fetch_report"):
    """Healer -> store: the next page of what a report counts since then, from the archives and the ledger, a table at a
    time. Answer: ReportFound, whose `source`, `table` and `after` ask for the page behind it; the first has none."""

    since_wall_s: float
    source: str = ""
    table: int = 0
    after: int = 0


class ReportFound(msgspec.Struct, frozen=True, tag="report_found"):
    """An empty page with `more` is not the last. `oldest_wall_s`: of what was looked at, counted or not.
    `passed_over`: what could not be read, and why. `stage`, `done`, `total`: how far that table is, by row numbers."""

    source: str
    more: bool
    table: int = 0
    after: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    incidents: tuple[PastIncident, ...] = ()
    actions: tuple[PastAction, ...] = ()
    pages: tuple[PastPage, ...] = ()
    marks: tuple[PastMark, ...] = ()
    oldest_wall_s: float | None = None
    passed_over: str = ""


class FetchIncident(msgspec.Struct, frozen=True, tag="fetch_incident"):
    """Healer -> store: all that is known of one incident, open or over. Answer: IncidentFound, or Nack `unknown_id`."""

    incident_id: str


class IncidentFound(msgspec.Struct, frozen=True, tag="incident_found"):
    """`past` is msgspec-JSON of `replay.Past`; `messages` are the newest outbox rows that speak of it, oldest first."""

    past: bytes
    messages: tuple[OutboxRow, ...] = ()
