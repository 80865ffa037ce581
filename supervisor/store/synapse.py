"""Synapse: messages in brain.db, in a table that belongs to other programs (SITE.md).

A message's id is derived from its outbox row, its thread's from the incident, so writing it again changes nothing. We
fill the columns that are there and never alter the tables; a table that wants what we do not have is a misfit, which
is said and tried again.
"""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path
from typing import Any

import msgspec

from supervisor.clock import local_naive_iso
from supervisor.errors import StoreError
from supervisor.incidents.model import OutboxRow
from supervisor.store.brain_db import columns_of
from supervisor.store.projection import BATCH_REVS, Batch, Target
from supervisor.synapse_ids import message_id as message_id

_OURS = """
CREATE TABLE IF NOT EXISTS threads (
    id TEXT PRIMARY KEY, subject TEXT, created_by TEXT NOT NULL, created_at TEXT NOT NULL,
    last_message_at TEXT, message_count INTEGER DEFAULT 0, status TEXT DEFAULT 'active', tags TEXT
);
CREATE TABLE IF NOT EXISTS messages (
    id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, parent_id TEXT, from_agent TEXT NOT NULL, to_agent TEXT,
    priority TEXT DEFAULT 'info', subject TEXT, body TEXT NOT NULL, created_at TEXT NOT NULL, updated_at TEXT,
    metadata TEXT, expires_at TEXT, task_status TEXT, result TEXT, context TEXT
)
"""
_MESSAGE = ("id", "thread_id", "from_agent", "to_agent", "priority", "subject", "body", "created_at", "metadata")
_MESSAGE_NEEDS = frozenset({"id", "thread_id", "from_agent", "body", "created_at"})
_THREAD = ("id", "subject", "created_by", "created_at", "last_message_at", "message_count", "status")
_THREAD_NEEDS = frozenset({"id", "created_at"})

_row = msgspec.json.Decoder(OutboxRow).decode
_encode = msgspec.json.Encoder().encode


def thread_id(row: OutboxRow) -> str:
    """`thr_` + 12 hex digits: one thread for an incident; a message of none has its own."""
    return f"thr_{hashlib.sha256((row.incident_id or row.id).encode()).hexdigest()[:12]}"


def _nobody_elses(connection: sqlite3.Connection) -> bool:
    """A database in which nobody but healctl has made a table is ours to complete."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return tables <= {"incidents", "runbooks", "heal_projection", "heal_metrics"}


class Synapse(Target):
    """`sender` and `to` are agents' names."""

    name = "synapse"

    def __init__(self, path: Path, *, own: bool, sender: str, to: str) -> None:
        super().__init__(path, own=own)
        self._sender = sender
        self._to = to
        self._message_columns: tuple[str, ...] = ()
        self._thread_columns: tuple[str, ...] = ()

    def prepare(self, connection: sqlite3.Connection) -> None:
        if self.own or _nobody_elses(connection):
            for statement in _OURS.split(";\n"):
                connection.execute(statement)
        self._message_columns = self._fit(connection, "messages", _MESSAGE, _MESSAGE_NEEDS)
        self._thread_columns = self._fit(connection, "threads", _THREAD, _THREAD_NEEDS)

    def _fit(
        self, connection: sqlite3.Connection, table: str, filled: tuple[str, ...], needed: frozenset[str]
    ) -> tuple[str, ...]:
        """Which of our columns the table has. Raises StoreError when a message would not fit into it."""
        present = columns_of(connection, table)
        where = f"table {table} of {self.path}"
        if not present:
            raise StoreError(f"{where} does not exist", "is this Synapse's database? see [store] brain_db")
        lacking = sorted(needed - present.keys())
        wanting = sorted(name for name, (must, _) in present.items() if must and name not in filled)
        if lacking:
            raise StoreError(f"{where} lacks {', '.join(lacking)}")
        if wanting:
            raise StoreError(f"{where} wants a value for {', '.join(wanting)}, which healctl does not know")
        if not present["id"][1]:
            raise StoreError(f"{where} has no primary key id: messages could be doubled")
        return tuple(name for name in filled if name in present)

    def read(self, ledger: sqlite3.Connection, after: int, head: int) -> Batch:
        found = ledger.execute(
            "SELECT first_rev, body FROM outbox WHERE first_rev > ? AND channel = 'synapse'"
            " AND NOT ifnull(json_extract(body, '$.held'), 0) ORDER BY first_rev LIMIT ?",
            (after, BATCH_REVS),
        ).fetchall()
        up_to = head if len(found) < BATCH_REVS else found[-1][0]
        return Batch(up_to, tuple(_row(body) for _, body in found))

    def write(self, connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
        # Fitted anew in each transaction: their tables may have changed since, and a misfit must be named.
        self.prepare(connection)
        for row in rows:
            self._write_one(connection, row)

    def _write_one(self, connection: sqlite3.Connection, row: OutboxRow) -> None:
        created_at = local_naive_iso(row.created_wall_s)
        thread = {
            "id": thread_id(row), "subject": row.subject, "created_by": self._sender, "created_at": created_at,
            "last_message_at": created_at, "message_count": 0, "status": "active",
        }  # fmt: skip
        _insert(connection, "threads", self._thread_columns, thread)
        metadata = {"outbox_id": row.id, "incident_id": row.incident_id, "covers": row.covers, "kind": row.kind,
                    "tier": int(row.tier)}  # fmt: skip
        message = {
            "id": message_id(row.id), "thread_id": thread["id"], "from_agent": self._sender, "to_agent": self._to,
            "priority": row.priority, "subject": row.subject, "body": row.body, "created_at": created_at,
            "metadata": _encode(metadata).decode(),
        }  # fmt: skip
        if not _insert(connection, "messages", self._message_columns, message):
            return  # it is there already: counted already, too
        if "last_message_at" in self._thread_columns:
            connection.execute("UPDATE threads SET last_message_at = ? WHERE id = ?", (created_at, thread["id"]))
        if "message_count" in self._thread_columns:
            connection.execute(
                "UPDATE threads SET message_count = coalesce(message_count, 0) + 1 WHERE id = ?", (thread["id"],)
            )


def _insert(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], row: dict[str, Any]) -> bool:
    """Inserts unless the id is there; whether it was inserted."""
    marks = ", ".join("?" * len(columns))
    query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
    return connection.execute(query, tuple(row[name] for name in columns)).rowcount == 1
