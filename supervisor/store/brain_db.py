"""brain.db, tables `incidents` and `runbooks`: what the site's tools query (SITE.md), each with its whole story.

An existing table keeps what it has; of ours, columns that are missing are added. One that lacks the site's own columns
is another table of that name: that is said, and nothing is written.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from supervisor.clock import rfc3339
from supervisor.errors import StoreError
from supervisor.incidents.model import Incident, Mode, Runbook, RunbookState, TrailEntry
from supervisor.incidents.policy import EVERY_TARGET
from supervisor.incidents.views import incident_json
from supervisor.store.projection import BATCH_REVS, Batch, Target

SCHEMA_VERSION = 1

_INCIDENTS = {
    "id": "TEXT PRIMARY KEY", "anomaly_type": "TEXT NOT NULL", "target_id": "TEXT NOT NULL",
    "severity": "TEXT NOT NULL", "state": "TEXT NOT NULL", "runbook_id": "TEXT", "detected_at": "TEXT NOT NULL",
    "state_changed_at": "TEXT NOT NULL", "resolved_at": "TEXT", "escalation_tier": "INTEGER",
    "escalated_at": "TEXT", "dismiss_until": "TEXT", "audit_trail": "TEXT", "details": "TEXT",
    "schema_version": "INTEGER",
}  # fmt: skip
_INCIDENTS_MORE = {"last_seen_at": "TEXT", "detections": "INTEGER"}  # R14
_RUNBOOKS = {
    "id": "TEXT PRIMARY KEY", "label": "TEXT", "applies_to": "TEXT", "mode": "TEXT", "confidence": "REAL",
    "dry_run_count": "INTEGER", "last_executed_at": "TEXT", "last_succeeded_at": "TEXT",
    "auto_approve_whitelist": "INTEGER", "created_at": "TEXT", "approved_at": "TEXT", "schema_version": "INTEGER",
}  # fmt: skip
_RUNBOOKS_MORE = {"version": "TEXT", "targets": "TEXT"}
_IN_DETAILS = (
    "evidence",
    "hint",
    "waiting_for",
    "escalation_reason",
    "execution_id",
    "intermittent",
    "acknowledged_at",
)

_CHANGED = """
SELECT rev FROM incidents WHERE rev > :after UNION ALL SELECT rev FROM trail WHERE rev > :after
UNION ALL SELECT rev FROM runbooks WHERE rev > :after UNION ALL SELECT rev FROM runbook_states WHERE rev > :after
ORDER BY 1 LIMIT :limit
"""
_WHICH_INCIDENTS = """
SELECT id FROM incidents WHERE rev > :after AND rev <= :up_to
UNION SELECT incident_id FROM trail WHERE rev > :after AND rev <= :up_to
"""
_INCIDENT_BODIES = f"SELECT body FROM incidents WHERE id IN ({_WHICH_INCIDENTS})"
_TRAIL_BODIES = f"SELECT incident_id, body FROM trail WHERE incident_id IN ({_WHICH_INCIDENTS}) ORDER BY incident_id, n"
_WHICH_RUNBOOKS = """
SELECT id FROM runbooks WHERE rev > :after AND rev <= :up_to
UNION SELECT runbook_id FROM runbook_states WHERE rev > :after AND rev <= :up_to
"""

_TRAIL_COLUMN = [*_INCIDENTS].index("audit_trail")

_incident = msgspec.json.Decoder(Incident).decode
_entry = msgspec.json.Decoder(TrailEntry).decode
_runbook = msgspec.json.Decoder(Runbook).decode
_state = msgspec.json.Decoder(RunbookState).decode
_encode = msgspec.json.Encoder().encode


def columns_of(connection: sqlite3.Connection, table: str) -> dict[str, tuple[bool, bool]]:
    """The columns of `table`: (must be given a value, is the primary key alone). Empty when there is no such table."""
    rows = connection.execute('SELECT name, "notnull", dflt_value, pk FROM pragma_table_info(?)', (table,)).fetchall()
    keys = sum(1 for row in rows if row[3])
    return {name: (bool(notnull) and default is None, bool(pk) and keys == 1) for name, notnull, default, pk in rows}


def _upsert(table: str, columns: Iterable[str]) -> str:
    names = list(columns)
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    marks = ", ".join("?" * len(names))
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT (id) DO UPDATE SET {changes}"


_PUT = {
    "incidents": _upsert("incidents", _INCIDENTS | _INCIDENTS_MORE),
    "runbooks": _upsert("runbooks", _RUNBOOKS | _RUNBOOKS_MORE),
}


class BrainDb(Target):
    """`whitelist`: the runbooks that run by configuration (R3 b)."""

    name = "brain_db"

    def __init__(self, path: Path, *, own: bool, whitelist: frozenset[str]) -> None:
        super().__init__(path, own=own)
        self._whitelist = whitelist

    def prepare(self, connection: sqlite3.Connection) -> None:
        for table, theirs, more in (
            ("incidents", _INCIDENTS, _INCIDENTS_MORE),
            ("runbooks", _RUNBOOKS, _RUNBOOKS_MORE),
        ):
            columns = ", ".join(f"{name} {kind}" for name, kind in (theirs | more).items())
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns})")
            present = columns_of(connection, table)
            missing = [name for name in theirs if name not in present]
            if missing:
                raise StoreError(f"table {table} of {self.path} lacks {', '.join(missing)}: another program's table?")
            if not present["id"][1]:
                raise StoreError(f"table {table} of {self.path} has no primary key id: rows could be doubled")
            for name in more.keys() - present.keys():
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {more[name]}")

    def read(self, ledger: sqlite3.Connection, after: int, head: int) -> Batch:
        found = ledger.execute(_CHANGED, {"after": after, "limit": BATCH_REVS}).fetchall()
        up_to = head if len(found) < BATCH_REVS else found[-1][0]
        between = {"after": after, "up_to": up_to}
        rows: list[tuple[str, tuple[Any, ...]]] = []
        if found:
            trails: defaultdict[str, list[TrailEntry]] = defaultdict(list)
            for incident_id, body in ledger.execute(_TRAIL_BODIES, between):
                trails[incident_id].append(_entry(body))
            for (body,) in ledger.execute(_INCIDENT_BODIES, between):
                it = _incident(body)
                rows.append(_incident_row(it, trails[it.id]))
            for (runbook_id,) in ledger.execute(_WHICH_RUNBOOKS, between).fetchall():
                rows += self._runbook_row(ledger, runbook_id)
        return Batch(up_to, tuple(rows))

    def _runbook_row(self, ledger: sqlite3.Connection, runbook_id: str) -> list[tuple[str, tuple[Any, ...]]]:
        found = ledger.execute(
            "SELECT version, created_wall_s, body FROM runbooks WHERE id = ?", (runbook_id,)
        ).fetchone()
        if found is None:  # decided about, but not registered (yet): its registration brings the row
            return []
        version, created_wall_s, body = found
        runbook = _runbook(body)
        query = "SELECT body FROM runbook_states WHERE runbook_id = ? ORDER BY target_id"
        states = [_state(text) for (text,) in ledger.execute(query, (runbook_id,))]
        everywhere = next((state for state in states if state.target_id == EVERY_TARGET), None)
        whitelisted = runbook_id in self._whitelist
        mode = Mode.AUTO_EXECUTE if whitelisted else everywhere.mode if everywhere else Mode.DRY_RUN
        row = (
            runbook_id,
            runbook.label,
            _text(runbook.applies_to),
            mode.value,
            1.0 if whitelisted else everywhere.confidence if everywhere else runbook.confidence,
            sum(state.dry_run_count for state in states),
            _newest(state.last_executed_wall_s for state in states),
            _newest(state.last_succeeded_wall_s for state in states),
            int(whitelisted),
            rfc3339(created_wall_s),
            _stamp(everywhere.approved_at_wall_s if everywhere else None),
            SCHEMA_VERSION,
            version,
            _text([state for state in states if state.target_id != EVERY_TARGET]),
        )
        return [("runbooks", row)]

    def write(self, connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
        execute = connection.cursor().execute
        for table, row in rows:
            if table == "partial":
                execute(_PUT["incidents"], _merged(connection, row))
            else:
                execute(_PUT[table], row)


def _merged(connection: sqlite3.Connection, row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The ledger was damaged, and lost entries of this trail: those that were told before it stay as they are."""
    *told, entries = row
    found = connection.execute("SELECT audit_trail FROM incidents WHERE id = ?", (told[0],)).fetchone()
    try:
        before = dict(enumerate(msgspec.json.decode(found[0], type=list[Any]))) if found is not None else {}
    except (msgspec.DecodeError, TypeError):  # not as we wrote it
        before = {}
    told[_TRAIL_COLUMN] = _text([entry for _, entry in sorted((before | entries).items())])
    return tuple(told)


def _incident_row(it: Incident, trail: list[TrailEntry]) -> tuple[str, tuple[Any, ...]]:
    told = incident_json(it, trail)
    details = {name: told[name] for name in _IN_DETAILS} | {"family": it.family, "acted_by": it.acted_by}
    row = (
        it.id,
        told["anomaly_type"],
        it.target_id,
        told["severity"],
        told["state"],
        it.runbook_id,
        told["detected_at"],
        told["state_changed_at"],
        _stamp(it.resolved_wall_s),
        told["escalation_tier"],
        _stamp(it.escalated_wall_s),
        _stamp(it.dismiss_until_wall_s),
        _text(told["audit_trail"]),
        _text(details),
        SCHEMA_VERSION,
        told["last_seen_at"],
        it.detections,
    )
    if len(trail) < it.trail_length:
        numbered = dict(zip((entry.n for entry in trail), told["audit_trail"], strict=True))
        return "partial", (*row, numbered)
    return "incidents", row


def _text(value: object) -> str:
    return _encode(value).decode()


def _stamp(wall_s: float | None) -> str | None:
    return None if wall_s is None else rfc3339(wall_s)


def _newest(times: Iterable[float | None]) -> str | None:
    return _stamp(max((time for time in times if time is not None), default=None))
