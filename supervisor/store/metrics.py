"""The metrics database: FR-008's events in a table of ours, since the site's own rejects them (R14, SITE.md)."""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from supervisor.clock import rfc3339
from supervisor.incidents.model import Metric
from supervisor.store.projection import BATCH_REVS, Batch, Target

_TABLE = """
CREATE TABLE IF NOT EXISTS heal_metrics (
    id TEXT PRIMARY KEY, task_id TEXT NOT NULL, stage TEXT NOT NULL, result TEXT NOT NULL,
    timestamp TEXT NOT NULL, incident_id TEXT
)
"""

_metric = msgspec.json.Decoder(Metric).decode


class MetricsDb(Target):
    name = "metrics"

    def prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(_TABLE)

    def read(self, ledger: sqlite3.Connection, after: int, head: int) -> Batch:
        found = ledger.execute(
            "SELECT rev, body FROM metrics WHERE rev > ? ORDER BY rev LIMIT ?", (after, BATCH_REVS)
        ).fetchall()
        up_to = head if len(found) < BATCH_REVS else found[-1][0]
        return Batch(up_to, tuple(_metric(body) for _, body in found))

    def write(self, connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
        connection.executemany(
            "INSERT INTO heal_metrics VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
            [(it.id, it.name, it.stage, it.result, rfc3339(it.at_wall_s), it.incident_id) for it in rows],
        )
