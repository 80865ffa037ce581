"""The ledger's tables, as migrations of sqlite-utils, applied once each and never edited afterwards.

Each table has typed columns for what is queried and the whole struct as JSON in `body`, so that what comes out is
exactly what went in. `rev` numbers every change that a projection follows; it only grows.

`migrate` imports sqlite-utils (0.1 s) only when something is to be done: a store that was killed must be back at once.
"""

from __future__ import annotations

import sqlite3
from typing import Any

SCHEMA_VERSION = 6  # the number of migrations below, kept in PRAGMA user_version

_LEDGER_1 = """
CREATE TABLE head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    ledger_id TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    last_n INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    boot_id TEXT NOT NULL, mono_s REAL NOT NULL, steady_s REAL NOT NULL
);
CREATE TABLE epochs (
    epoch INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL UNIQUE,
    opened_wall_s REAL NOT NULL
);
CREATE TABLE rejected (
    epoch INTEGER NOT NULL, n INTEGER NOT NULL, message TEXT NOT NULL,
    PRIMARY KEY (epoch, n)
) WITHOUT ROWID;
CREATE TABLE incidents (
    id TEXT PRIMARY KEY,
    anomaly TEXT NOT NULL, target_id TEXT NOT NULL, state TEXT NOT NULL,
    is_open INTEGER NOT NULL,
    closed_steady_s REAL, dismiss_until_steady_s REAL, escalated_wall_s REAL,
    rev INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX incidents_one_open ON incidents (anomaly, target_id) WHERE is_open;
CREATE INDEX incidents_closed ON incidents (closed_steady_s) WHERE NOT is_open;
CREATE INDEX incidents_dismissed ON incidents (dismiss_until_steady_s) WHERE dismiss_until_steady_s IS NOT NULL;
CREATE INDEX incidents_escalated ON incidents (escalated_wall_s) WHERE escalated_wall_s IS NOT NULL;
CREATE INDEX incidents_rev ON incidents (rev);
CREATE TABLE trail (
    rev INTEGER PRIMARY KEY,
    incident_id TEXT NOT NULL, n INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (incident_id, n)
);
CREATE TABLE executions (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL, is_over INTEGER NOT NULL,
    created_steady_s REAL NOT NULL, created_wall_s REAL NOT NULL,
    boot_id TEXT NOT NULL, expires_mono_s REAL NOT NULL,
    claimed_by TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX executions_unfinished ON executions (created_steady_s) WHERE NOT is_over;
CREATE INDEX executions_created ON executions (created_steady_s);
CREATE INDEX executions_claimed ON executions (created_wall_s) WHERE claimed_by <> '';
CREATE TABLE programs (
    execution_id TEXT NOT NULL,
    boot_id TEXT NOT NULL, pid INTEGER NOT NULL, start_ticks INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (execution_id, boot_id, pid, start_ticks)
);
CREATE TABLE outbox (
    id TEXT PRIMARY KEY,
    channel TEXT NOT NULL, state TEXT NOT NULL, delivered_wall_s REAL,
    first_rev INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX outbox_pending ON outbox (first_rev) WHERE state = 'pending';
CREATE INDEX outbox_delivered ON outbox (channel, delivered_wall_s) WHERE state = 'delivered';
CREATE INDEX outbox_first ON outbox (first_rev);
CREATE TABLE runbooks (
    id TEXT PRIMARY KEY,
    version TEXT NOT NULL, created_wall_s REAL NOT NULL,
    rev INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE runbook_states (
    runbook_id TEXT NOT NULL, target_id TEXT NOT NULL,
    rev INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (runbook_id, target_id)
) WITHOUT ROWID;
CREATE TABLE metrics (
    rev INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    body TEXT NOT NULL
);
CREATE TABLE timers (
    kind TEXT NOT NULL, subject TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, subject)
) WITHOUT ROWID;
CREATE TABLE breakers (
    runbook_id TEXT NOT NULL, resource TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (runbook_id, resource)
) WITHOUT ROWID;
CREATE TABLE pauses (
    family TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
"""

_LEDGER_2 = """
CREATE TABLE stages (
    target_id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE known (
    target_id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
"""

_LEDGER_3 = """
CREATE TABLE halts (
    database TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
"""

_LEDGER_4 = """
CREATE TABLE operator_pauses (
    key TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE requests (
    id TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at_wall_s REAL NOT NULL,
    body TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (at_wall_s);
ALTER TABLE executions ADD COLUMN undoes TEXT NOT NULL DEFAULT '';
CREATE INDEX executions_undoes ON executions (undoes) WHERE undoes <> '';
"""

# What an older healctl has moved to the archive it counted nowhere.
_LEDGER_5 = """
CREATE TABLE tallies (
    name TEXT NOT NULL, stage TEXT NOT NULL, result TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (name, stage, result)
) WITHOUT ROWID;
INSERT INTO tallies
SELECT name, stage, result, json_object('name', name, 'stage', stage, 'result', result, 'count', count(*))
FROM (
    SELECT json_extract(body, '$.name') AS name, json_extract(body, '$.stage') AS stage,
        json_extract(body, '$.result') AS result
    FROM metrics
)
GROUP BY name, stage, result;
"""

_LEDGER_6 = """
CREATE TABLE replies (
    key TEXT PRIMARY KEY,
    body TEXT NOT NULL
) WITHOUT ROWID;
"""


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the ledger to this program's schema. Raises LedgerUnusable when it is another program's, or a newer."""
    must_be_ours(connection)
    found = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if found == SCHEMA_VERSION:
        return
    from sqlite_utils import Database, Migrations

    migrations = Migrations("healctl_ledger")

    @migrations(name="0001_ledger")
    def _(db: Any) -> None:
        _run(db, _LEDGER_1)

    @migrations(name="0002_stages_and_known_processes")
    def _(db: Any) -> None:
        _run(db, _LEDGER_2)

    @migrations(name="0003_halts")
    def _(db: Any) -> None:
        _run(db, _LEDGER_3)

    @migrations(name="0004_orders")
    def _(db: Any) -> None:
        _run(db, _LEDGER_4)

    @migrations(name="0005_tallies")
    def _(db: Any) -> None:
        _run(db, _LEDGER_5)

    @migrations(name="0006_replies")
    def _(db: Any) -> None:
        _run(db, _LEDGER_6)

    # No plugins: what an operator installed beside us has no business on the ledger's connection.
    migrations.apply(Database(connection, recursive_triggers=False, execute_plugins=False))
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def must_be_ours(connection: sqlite3.Connection) -> None:
    """Raises LedgerUnusable; changes nothing."""
    from supervisor.errors import LedgerUnusable

    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> '_sqlite_migrations' ORDER BY name"
    tables = {name for (name,) in connection.execute(query)}
    if tables and "head" not in tables:
        raise LedgerUnusable(
            f"ledger.db is a database of another program, with the tables {', '.join(sorted(tables)[:5])}",
            "set state_dir in [healctl] to a directory of its own, or move that file away",
        )
    if version > SCHEMA_VERSION:
        raise LedgerUnusable(
            f"the ledger has schema {version}, this healctl knows {SCHEMA_VERSION}",
            "a newer healctl wrote it: run that one, or move ledger.db away to begin anew",
        )


def _run(db: Any, statements: str) -> None:
    for statement in statements.split(";\n"):  # not executescript: it would commit the migration's transaction
        if statement.strip():
            db.conn.execute(statement)
