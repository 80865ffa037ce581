"""Synapse: messages in brain.db, in a table that belongs to other programs (SITE.md).

A message's id is derived from its outbox row, its thread's from the incident, so writing it again changes nothing. We
fill the columns that are there and never alter the tables; a table that wants what we do not have is a misfit, which
is said and tried again. Receipts, acknowledgements and the full-text index are the others' (their triggers run).

A thread stays `active`: nobody at the site ever gives it another state, and a list of theirs shows the active ones.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from supervisor.clock import local_naive_iso, rfc3339
from supervisor.errors import StoreError
from supervisor.incidents.model import OutboxRow
from supervisor.store.brain_db import columns_of
from supervisor.store.projection import BATCH_REVS, Batch, Target
from supervisor.synapse_ids import is_group, message_id, thread_id
from supervisor.synapse_text import harmless

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

BACK_MAX = timedelta(hours=1)  # local time without a zone goes back so far when summer time ends
_STEP = timedelta(microseconds=1)

_row = msgspec.json.Decoder(OutboxRow).decode
_encode = msgspec.json.Encoder().encode


def _nobody_elses(connection: sqlite3.Connection) -> bool:
    """A database in which nobody but healctl has made a table is ours to complete."""
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")}
    return tables <= {"incidents", "runbooks", "heal_projection", "heal_metrics"}


def _numbers_rows(connection: sqlite3.Connection, table: str) -> bool:
    """An `INTEGER PRIMARY KEY` is SQLite's row number; any other column takes text, whatever type it declares."""
    query = "SELECT upper(type) FROM pragma_table_info(?) WHERE name = 'id'"
    return bool(connection.execute(query, (table,)).fetchone() == ("INTEGER",))


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
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = ? AND type = 'view'", (table,)).fetchone():
            raise StoreError(f"{where} is a view, which takes no rows")
        lacking = sorted(needed - present.keys())
        wanting = sorted(name for name, (must, _) in present.items() if must and name not in filled)
        if lacking:
            raise StoreError(f"{where} lacks {', '.join(lacking)}")
        if wanting:
            raise StoreError(f"{where} wants a value for {', '.join(wanting)}, which healctl does not know")
        if not present["id"][1]:
            raise StoreError(f"{where} has no primary key id: messages could be doubled")
        if _numbers_rows(connection, table):
            raise StoreError(f"column id of {where} is an INTEGER key, which takes no text as Synapse's ids are")
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
        begun: list[str] = []
        for row in rows:
            try:
                begun += self._write_one(connection, row)
            except sqlite3.IntegrityError as error:  # a CHECK, a trigger, a strict type of theirs
                refused = f"the Synapse tables of {self.path} refuse message {message_id(row.id)}"
                raise StoreError(f"{refused}: {error}") from error
        self._recount(connection, begun)

    def _write_one(self, connection: sqlite3.Connection, row: OutboxRow) -> list[str]:
        """The thread that was begun with it, if one was."""
        ident, thread = message_id(row.id), thread_id(row)
        if connection.execute("SELECT 1 FROM messages WHERE id = ?", (ident,)).fetchone():
            return []  # told before: counted, too
        created_at = self._stamp(connection, thread, row)
        subject = harmless(row.subject)
        first = {
            "id": thread, "subject": subject, "created_by": self._sender, "created_at": created_at,
            "last_message_at": created_at, "message_count": 0, "status": "active",
        }  # fmt: skip
        new = _insert(connection, "threads", self._thread_columns, first)
        # When the message was decided, exactly: `created_at` has no zone, and is put after what stands before it.
        metadata = {"outbox_id": row.id, "incident_id": None if is_group(row) else row.incident_id,
                    "covers": row.covers, "kind": row.kind, "tier": int(row.tier),
                    "at": rfc3339(row.created_wall_s)}  # fmt: skip
        message = {
            "id": ident, "thread_id": thread, "from_agent": self._sender, "to_agent": self._to,
            "priority": row.priority, "subject": subject, "body": harmless(row.body), "created_at": created_at,
            "metadata": _encode(metadata).decode(),
        }  # fmt: skip
        _insert(connection, "messages", self._message_columns, message)
        self._count(connection, thread, created_at)
        return [thread] if new else []

    def _stamp(self, connection: sqlite3.Connection, thread: str, row: OutboxRow) -> str:
        """`created_at`: Synapse sorts by it. Within a thread it grows even in the hour that summer time repeats."""
        told = local_naive_iso(row.created_wall_s)
        if "last_message_at" not in self._thread_columns:
            return told
        found = connection.execute("SELECT last_message_at FROM threads WHERE id = ?", (thread,)).fetchone()
        try:
            at, last = datetime.fromisoformat(told), datetime.fromisoformat(found[0])
        except (TypeError, ValueError):  # no thread yet, or no time in it
            return told
        if last.tzinfo is not None or not at <= last <= at + BACK_MAX:
            return told
        return (last + _STEP).isoformat()

    def _count(self, connection: sqlite3.Connection, thread: str, created_at: str) -> None:
        """After one more message. Others count their replies themselves, in the same way."""
        if "last_message_at" in self._thread_columns:
            connection.execute(
                "UPDATE threads SET last_message_at = max(coalesce(last_message_at, ''), ?) WHERE id = ?",
                (created_at, thread),
            )
        if "message_count" in self._thread_columns:
            counted = "(SELECT count(*) FROM messages WHERE thread_id = threads.id)"
            query = f"UPDATE threads SET message_count = coalesce(message_count + 1, {counted}) WHERE id = ?"
            connection.execute(query, (thread,))

    def _recount(self, connection: sqlite3.Connection, begun: list[str]) -> None:
        """A thread that was taken away while some of its messages stayed, and is begun again. All of them at once:
        their table need not have an index of threads, and others wait for our transaction."""
        if begun and "message_count" in self._thread_columns:
            query = (
                "SELECT count(*), thread_id FROM messages WHERE thread_id IN (SELECT value FROM json_each(?))"
                " GROUP BY thread_id"
            )
            counts = connection.execute(query, (_encode(begun).decode(),)).fetchall()
            connection.executemany("UPDATE threads SET message_count = ? WHERE id = ?", counts)


def _insert(connection: sqlite3.Connection, table: str, columns: tuple[str, ...], row: dict[str, Any]) -> bool:
    """Inserts unless the id is there; whether it was inserted."""
    marks = ", ".join("?" * len(columns))
    query = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"
    return connection.execute(query, tuple(row[name] for name in columns)).rowcount == 1
