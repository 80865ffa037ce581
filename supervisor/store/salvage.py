"""A damaged ledger is kept, and what can still be read of it goes into the new one (DESIGN §2.1).

The new ledger is made whole beside the damaged one before either is renamed: whatever happens in between, the next
start finds one or the other. Nothing here ever writes to the damaged file.

What is copied is checked row by row: a body that does not decode to its struct is left behind, and so is a closed
incident without its whole trail (brain.db has it as it was; telling it again from half of it would spoil that).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from supervisor.clock import Anchor, monotonic_s, wall_s
from supervisor.incidents import model as m
from supervisor.incidents.orders import AuditEntry, Offer, OperatorPause, TakenReply
from supervisor.incidents.records import PutKnown
from supervisor.store import sqlite

log = logging.getLogger(__name__)

WITHIN_S = 4.0  # a store must be READY, and answer, within some seconds: what is not copied by then stays behind
GAP_MAX = 1 << 40  # rows skipped at once behind a damaged page, before a table is given up
KEPT = ".damaged-"
_PARTS = ("-wal", "-shm", "")  # in this order: a WAL left beside a new file would be replayed into it
_OURS = {"head", "epochs", "rejected"}  # what a new ledger has of its own
_LAST = ("trail", "metrics")  # the largest
_BODIES: dict[str, type[Any]] = {
    "incidents": m.Incident,
    "trail": m.TrailEntry,
    "executions": m.Execution,
    "programs": m.Program,
    "outbox": m.OutboxRow,
    "runbooks": m.Runbook,
    "runbook_states": m.RunbookState,
    "metrics": m.Metric,
    "tallies": m.Tally,
    "timers": m.Timer,
    "breakers": m.Breaker,
    "pauses": m.FamilyPause,
    "operator_pauses": OperatorPause,
    "requests": Offer,
    "replies": TakenReply,
    "audit": AuditEntry,
    "stages": m.StageEntry,
    "known": PutKnown,
    "halts": m.Halt,
}

Decode = Callable[[str], Any]


class Salvaged(msgspec.Struct, frozen=True):
    """What came over: rows by table; `whole` when no row and no table was left behind; the old clock, if legible."""

    rows: dict[str, int]
    whole: bool
    anchor: Anchor | None

    def __str__(self) -> str:
        found = ", ".join(f"{count} {table}" for table, count in self.rows.items() if count)
        return f"{'everything' if self.whole else 'a part'} of it could be read: {found or 'nothing'}"


def kept_name(path: Path) -> Path:
    """A name for the damaged file that nothing has yet."""
    stem = f"{path.name}{KEPT}{int(wall_s())}"
    names = [stem, *(f"{stem}-{n}" for n in range(1, 1000))]
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def kept(path: Path) -> tuple[str, ...]:
    """The damaged ledgers that are kept beside `path`, oldest first."""
    found = path.parent.glob(f"{path.name}{KEPT}*")
    return tuple(sorted(str(it) for it in found if not it.name.endswith(("-wal", "-shm", "-journal"))))


def put_aside(path: Path, fresh: Path) -> Path:
    """Renames the damaged ledger out of the way, and the closed, complete `fresh` into its place."""
    to = kept_name(path)
    for part in _PARTS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{part}", f"{to}{part}")
    os.rename(fresh, path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return to


def finish_interrupted(path: Path, fresh: Path) -> None:
    """What a crash left of the exchange: the new one takes its place, or is done away with and made again."""
    if not fresh.exists():
        return
    if path.exists():
        for part in _PARTS:
            Path(f"{fresh}{part}").unlink(missing_ok=True)
    else:
        os.rename(fresh, path)


def salvage(damaged: Path, new: sqlite3.Connection, within_s: float = WITHIN_S) -> Salvaged:
    """Copies what `damaged` still holds into `new`, a ledger that is empty but for its head, in one transaction."""
    deadline_s = monotonic_s() + within_s
    try:
        old = sqlite.open_reader(damaged)
    except sqlite3.Error as error:
        log.error("nothing of the damaged ledger can be read: %s", sqlite.describe(error))
        return Salvaged({}, whole=False, anchor=None)
    try:
        anchor = _anchor(old)
        tables = [name for name in _tables(new) if name not in _OURS]
        tables.sort(key=lambda name: name in _LAST)
        rows: dict[str, int] = {}
        whole = True
        new.execute("BEGIN IMMEDIATE")
        try:
            for table in tables:
                rows[table], complete = _copy(table, old, new, deadline_s)
                whole = whole and complete
            if _drop_partial(new):
                whole = False
            new.execute("COMMIT")
        except BaseException:
            if new.in_transaction:
                new.execute("ROLLBACK")
            raise
    finally:
        old.close()
    return Salvaged(rows, whole, anchor)


def newest_rev(connection: sqlite3.Connection) -> int:
    """The largest number that any change in this ledger has."""
    queries = (
        "SELECT max(rev) FROM incidents",
        "SELECT max(rev) FROM trail",
        "SELECT max(rev) FROM metrics",
        "SELECT max(rev) FROM runbooks",
        "SELECT max(rev) FROM runbook_states",
        "SELECT max(first_rev) FROM outbox",
    )
    return max(int(connection.execute(query).fetchone()[0] or 0) for query in queries)


def _tables(connection: sqlite3.Connection) -> list[str]:
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE '\\_%' ESCAPE '\\' AND name NOT LIKE"
    return [name for (name,) in connection.execute(f"{query} 'sqlite\\_%' ESCAPE '\\'")]


def _anchor(old: sqlite3.Connection) -> Anchor | None:
    with contextlib.suppress(sqlite3.Error, TypeError):
        boot_id, mono_s, steady_s = old.execute("SELECT boot_id, mono_s, steady_s FROM head").fetchone()
        return Anchor(str(boot_id), float(mono_s), float(steady_s))
    return None


def _copy(table: str, old: sqlite3.Connection, new: sqlite3.Connection, deadline_s: float) -> tuple[int, bool]:
    """(rows copied, whether that is all of them)."""
    columns = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    (sql,) = new.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    put = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    decode: Decode | None = msgspec.json.Decoder(_BODIES[table]).decode if table in _BODIES else None
    source = (_by_key if "WITHOUT ROWID" in sql else _by_rowid)(table, columns, old)
    body = columns.index("body")
    count, complete = 0, True
    for row in source:
        if row is None:  # something there could not be read
            complete = False
            continue
        if monotonic_s() > deadline_s:
            return count, False
        try:
            if decode is not None:
                decode(row[body])
            count += new.execute(put, row).rowcount
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError, sqlite3.IntegrityError):
            complete = False
    return count, complete


def _by_rowid(table: str, columns: list[str], old: sqlite3.Connection) -> Iterator[tuple[Any, ...] | None]:
    """Row by row; behind a damaged page it goes on a little further, and further, until rows come again."""
    query = f"SELECT rowid, {', '.join(columns)} FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
    at, gap = -1, 0
    while gap < GAP_MAX:
        try:
            for row in old.execute(query, (at + gap,)):
                at, gap = row[0], 0
                yield row[1:]
            return
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and "no such table" in str(error):
                return  # an older schema
            yield None
            gap = gap * 2 or 1
    return


def _by_key(table: str, columns: list[str], old: sqlite3.Connection) -> Iterator[tuple[Any, ...] | None]:
    """A table without row numbers: from its beginning, and if that breaks off, from its end."""
    for order in ("ASC", "DESC"):
        query = f"SELECT {', '.join(columns)} FROM {table} ORDER BY {columns[0]} {order}"
        try:
            yield from old.execute(query)
            return
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and "no such table" in str(error):
                return
            yield None


def _drop_partial(new: sqlite3.Connection) -> int:
    """Closed incidents whose trail is not whole, trails without an incident, programs without an execution."""
    dropped = new.execute(
        "DELETE FROM incidents WHERE NOT is_open AND json_extract(body, '$.trail_length') >"
        " (SELECT count(*) FROM trail WHERE incident_id = incidents.id)"
    ).rowcount
    dropped += new.execute("DELETE FROM trail WHERE incident_id NOT IN (SELECT id FROM incidents)").rowcount
    new.execute("DELETE FROM programs WHERE execution_id NOT IN (SELECT id FROM executions)")
    return dropped
