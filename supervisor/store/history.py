"""What has been: incidents with their trails and executions, a page at a time, from the archives and the ledger (R4).

Reads only. A page is bounded in bytes, so that a writer never waits long for it; the caller asks for the next one. An
archive that cannot be read is named and passed over: it is not the ledger that is damaged.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from supervisor.clock import rfc3339
from supervisor.errors import StoreError
from supervisor.incidents.model import OutboxRow
from supervisor.messages import FetchHistory, HistoryFound, IncidentFound, Nack
from supervisor.store import sqlite

PAGE_INCIDENTS = 50
PAGE_BYTES = 2 * 1024 * 1024
LEDGER = "ledger"
MESSAGES_LOOKED_AT_MAX = 20_000  # the newest: no index leads from an incident to its messages
MESSAGES_MAX = 50

_WHERE = (
    "WHERE rowid > ? AND anomaly IN (SELECT value FROM json_each(?)) AND ? IN ('', target_id)"
    " AND json_extract(body, '$.detected_wall_s') >= ? ORDER BY rowid LIMIT ?"
)
_TRAIL = "SELECT body FROM trail WHERE incident_id = ? ORDER BY n"
# What ran for it is named by its steps' entries, and by the incident itself.
_EXECUTIONS = (
    "SELECT body FROM executions WHERE id IN (SELECT json_extract(value, '$.execution_id') FROM json_each(?)"
    " UNION SELECT json_extract(?, '$.execution_id')) ORDER BY rowid"
)


def page(ledger: sqlite3.Connection, folder: Path, asked: FetchHistory) -> HistoryFound:
    """The next of what is asked for. Raises sqlite3.Error of the ledger alone."""
    source = asked.source or first_source(folder, asked.since_wall_s)
    if source == LEDGER:
        rows = list(_of_ledger(ledger, asked))
        return HistoryFound(tuple(row for _, row in rows), source, rows[-1][0] if rows else 0, more=bool(rows))
    try:
        with closing(sqlite.open_reader(folder / source)) as archive:
            rows = list(_of_archive(archive, ledger, asked))
    except sqlite3.Error as error:
        return HistoryFound(
            (), next_source(folder, source), 0, more=True, passed_over=f"{source}: {sqlite.describe(error)}"
        )
    if not rows:
        return HistoryFound((), next_source(folder, source), 0, more=True)
    return HistoryFound(tuple(row for _, row in rows), source, rows[-1][0], more=True)


def _archives(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("archive-[0-9][0-9][0-9][0-9].db"))


def first_source(folder: Path, since_wall_s: float) -> str:
    """The oldest archive that may hold some of it: they are named for the year in which what they hold was over."""
    name = f"archive-{rfc3339(since_wall_s)[:4]}.db"
    return min((archive for archive in _archives(folder) if archive >= name), default=LEDGER)


def next_source(folder: Path, source: str) -> str:
    """What comes behind it."""
    return min((archive for archive in _archives(folder) if archive > source), default=LEDGER)


def _bounded(rows: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    size = 0
    for row in rows:
        yield row
        size += len(row[1])
        if size > PAGE_BYTES:
            return


def _parameters(asked: FetchHistory) -> tuple[object, ...]:
    kinds = msgspec.json.encode(asked.anomalies).decode()
    return (asked.after, kinds, asked.target_id, asked.since_wall_s, PAGE_INCIDENTS)


def _of_ledger(ledger: sqlite3.Connection, asked: FetchHistory) -> Iterator[tuple[int, bytes]]:
    found = ledger.execute(f"SELECT rowid, id, body FROM incidents {_WHERE}", _parameters(asked)).fetchall()

    def rows() -> Iterator[tuple[int, bytes]]:
        for rowid, incident_id, body in found:
            trail = f"[{','.join(text for (text,) in ledger.execute(_TRAIL, (incident_id,)))}]"
            yield rowid, _row(body, trail, ledger.execute(_EXECUTIONS, (trail, body)).fetchall())

    return _bounded(rows())


def _of_archive(
    archive: sqlite3.Connection, ledger: sqlite3.Connection, asked: FetchHistory
) -> Iterator[tuple[int, bytes]]:
    """Its executions may be there already, or in the ledger still."""
    found = archive.execute(f"SELECT rowid, body, trail FROM incidents {_WHERE}", _parameters(asked)).fetchall()

    def rows() -> Iterator[tuple[int, bytes]]:
        for rowid, body, trail in found:
            there = archive.execute(_EXECUTIONS, (trail, body)).fetchall()
            yield rowid, _row(body, trail, there or ledger.execute(_EXECUTIONS, (trail, body)).fetchall())

    return _bounded(rows())


def _row(incident: str, trail: str, executions: list[tuple[str]]) -> bytes:
    bodies = ",".join(body for (body,) in executions)
    return f'{{"incident":{incident},"trail":{trail},"executions":[{bodies}]}}'.encode()


def incident(ledger: sqlite3.Connection, folder: Path, incident_id: str) -> IncidentFound | Nack | None:
    """One incident with its trail, executions and messages, from the ledger or an archive; None: there is none. A Nack
    when an archive in which it may be cannot be read. Raises sqlite3.Error of the ledger alone: else a damaged archive
    would have a sound ledger set aside."""
    found = ledger.execute("SELECT body FROM incidents WHERE id = ?", (incident_id,)).fetchone()
    if found is not None:
        trail = f"[{','.join(text for (text,) in ledger.execute(_TRAIL, (incident_id,)))}]"
        executions = ledger.execute(_EXECUTIONS, (trail, found[0])).fetchall()
        return IncidentFound(_row(found[0], trail, executions), _messages(ledger, incident_id))
    for name in reversed(_archives(folder)):
        try:
            past = _archived(folder / name, incident_id)
        except sqlite3.Error as error:
            return Nack(StoreError.code, f"{name} cannot be read, and it may be there: {sqlite.describe(error)}")
        if past is not None:
            return IncidentFound(past, _messages(ledger, incident_id))
    return None


def _archived(path: Path, incident_id: str) -> bytes | None:
    with closing(sqlite.open_reader(path)) as archive:
        found = archive.execute("SELECT body, trail FROM incidents WHERE id = ?", (incident_id,)).fetchone()
        if found is None:
            return None
        return _row(found[0], found[1], archive.execute(_EXECUTIONS, (found[1], found[0])).fetchall())


def _messages(ledger: sqlite3.Connection, incident_id: str) -> tuple[OutboxRow, ...]:
    query = (
        "SELECT body FROM (SELECT first_rev, body FROM outbox ORDER BY first_rev DESC LIMIT ?)"
        " WHERE instr(body, ?) ORDER BY first_rev DESC LIMIT ?"
    )
    named = msgspec.json.encode(incident_id).decode()
    rows = ledger.execute(query, (MESSAGES_LOOKED_AT_MAX, named, MESSAGES_MAX)).fetchall()
    return tuple(msgspec.json.decode(body, type=OutboxRow) for (body,) in reversed(rows))
