"""What has long been over leaves the ledger for `archive-YYYY.db` beside it, so that the ledger does not grow for ever.

First it is written there, durably and under its own id, then it is deleted here: a crash in between leaves it in both,
and the next time writes the same rows again. Never taken: what is open, pending or still to be verified, what a
projection has not yet, a dismissal whose window still runs, and the newest of each kind, from which `status` tells
when something was done last.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from supervisor.clock import rfc3339
from supervisor.incidents.model import Execution, Incident, Metric, OutboxRow
from supervisor.incidents.orders import AuditEntry
from supervisor.store import queries, records, sqlite

INCIDENTS = 50  # in one transaction of the ledger: some milliseconds
OTHERS = 500

_SCHEMA = """
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY, anomaly TEXT, target_id TEXT, state TEXT, detected_at TEXT, resolved_at TEXT,
    body TEXT NOT NULL, trail TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS executions (id TEXT PRIMARY KEY, incident_id TEXT, created_at TEXT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS messages (id TEXT PRIMARY KEY, incident_id TEXT, created_at TEXT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS metrics (id TEXT PRIMARY KEY, incident_id TEXT, at TEXT, body TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS audit (id TEXT PRIMARY KEY, actor TEXT, at TEXT, body TEXT NOT NULL);
"""
_INCIDENTS = """
SELECT body FROM incidents
WHERE NOT is_open AND closed_steady_s < :before_steady_s AND rev <= :up_to_rev
  AND coalesce(dismiss_until_steady_s, 0) < :now_steady_s
  AND coalesce(escalated_wall_s, 0) < coalesce((SELECT max(escalated_wall_s) FROM incidents), 1e99)
  AND NOT EXISTS (SELECT 1 FROM trail WHERE trail.incident_id = incidents.id AND trail.rev > :up_to_rev)
ORDER BY closed_steady_s LIMIT :limit
"""
_EXECUTIONS = """
WHERE is_over AND created_steady_s < :before_steady_s
  AND created_wall_s < coalesce((SELECT max(created_wall_s) FROM executions WHERE claimed_by <> ''), 1e99)
  AND id NOT IN (SELECT coalesce(json_extract(body, '$.execution_id'), '') FROM incidents WHERE is_open)
ORDER BY created_steady_s LIMIT :limit
"""
# In the order in which they were written, so that the first that is too young ends it.
_OUTBOX = """
SELECT body FROM outbox WHERE state <> 'pending' AND first_rev <= :up_to_rev
  AND coalesce(delivered_wall_s, 0) <
      coalesce((SELECT max(delivered_wall_s) FROM outbox WHERE channel = 'signal' AND state = 'delivered'), 1e99)
ORDER BY first_rev LIMIT :limit
"""
_AUDIT = "SELECT body FROM audit WHERE at_wall_s < :before_wall_s ORDER BY at_wall_s LIMIT :limit"
_METRICS = "SELECT body FROM metrics WHERE rev <= :up_to_rev ORDER BY rev LIMIT :limit"

_encode = msgspec.json.Encoder().encode
_incident = msgspec.json.Decoder(Incident).decode
_row = msgspec.json.Decoder(OutboxRow).decode
_order = msgspec.json.Decoder(AuditEntry).decode
_metric = msgspec.json.Decoder(Metric).decode


class Batch(msgspec.Struct, frozen=True):
    """What leaves the ledger in one transaction. `trails`: of the incidents, each a JSON array."""

    incidents: tuple[Incident, ...]
    trails: tuple[bytes, ...]
    executions: tuple[Execution, ...]
    messages: tuple[OutboxRow, ...]
    metrics: tuple[Metric, ...]
    audit: tuple[AuditEntry, ...]

    def __len__(self) -> int:
        return sum(map(len, (self.incidents, self.executions, self.messages, self.metrics, self.audit)))


def old(
    ledger: sqlite3.Connection, *, before_steady_s: float, before_wall_s: float, now_steady_s: float, up_to_rev: int
) -> Batch:
    """The oldest that may go: over before both times, and in every projection up to `up_to_rev`."""
    given: dict[str, float] = {
        "before_steady_s": before_steady_s,
        "before_wall_s": before_wall_s,
        "now_steady_s": now_steady_s,
        "up_to_rev": up_to_rev,
        "limit": INCIDENTS,
    }
    incidents = tuple(_incident(body) for (body,) in ledger.execute(_INCIDENTS, given))
    given["limit"] = OTHERS
    rows = (_row(body) for (body,) in ledger.execute(_OUTBOX, given).fetchall())
    metrics = (_metric(body) for (body,) in ledger.execute(_METRICS, given).fetchall())
    return Batch(
        incidents,
        queries.trails(ledger, [it.id for it in incidents]),
        records.executions(ledger, _EXECUTIONS, given),
        tuple(row for row in rows if row.created_wall_s < before_wall_s),
        tuple(metric for metric in metrics if metric.at_wall_s < before_wall_s),
        tuple(_order(body) for (body,) in ledger.execute(_AUDIT, given)),
    )


def write(folder: Path, batch: Batch) -> None:
    """Durable in the archive of each row's year. Raises sqlite3.Error, OSError."""
    for year in sorted({year for year, _, _ in _rows(batch)}):
        with closing(sqlite.open_archive(folder / f"archive-{year}.db")) as archive:
            archive.execute("BEGIN IMMEDIATE")
            for statement in _SCHEMA.split(";\n"):
                archive.execute(statement)
            for its_year, table, row in _rows(batch):
                if its_year == year:
                    archive.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
            archive.execute("COMMIT")


def _rows(batch: Batch) -> Iterator[tuple[str, str, tuple[str | None, ...]]]:
    """(year, table, row)."""
    for incident, trail in zip(batch.incidents, batch.trails, strict=True):
        detected, ended = rfc3339(incident.detected_wall_s), rfc3339(incident.changed_wall_s)
        row = (incident.id, incident.anomaly, incident.target_id, incident.state, detected, ended, _text(incident))
        yield ended[:4], "incidents", (*row, trail.decode())
    for execution in batch.executions:
        at = rfc3339(execution.created_wall_s)
        yield at[:4], "executions", (execution.id, execution.incident_id, at, _text(execution))
    for message in batch.messages:
        at = rfc3339(message.created_wall_s)
        yield at[:4], "messages", (message.id, message.incident_id, at, _text(message))
    for metric in batch.metrics:
        at = rfc3339(metric.at_wall_s)
        yield at[:4], "metrics", (metric.id, metric.incident_id, at, _text(metric))
    for order in batch.audit:
        at = rfc3339(order.at_wall_s)
        yield at[:4], "audit", (order.id, order.actor, at, _text(order))


def drop(ledger: sqlite3.Connection, batch: Batch) -> int:
    """Deletes what was archived, inside the caller's transaction; how many rows that were."""
    for table, key, ids in (
        ("trail", "incident_id", [it.id for it in batch.incidents]),
        ("incidents", "id", [it.id for it in batch.incidents]),
        ("programs", "execution_id", [it.id for it in batch.executions]),
        ("executions", "id", [it.id for it in batch.executions]),
        ("outbox", "id", [it.id for it in batch.messages]),
        ("metrics", "id", [it.id for it in batch.metrics]),
        ("audit", "id", [it.id for it in batch.audit]),
    ):
        ledger.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(it,) for it in ids])
    return len(batch)


def _text(value: object) -> str:
    return _encode(value).decode()
