"""What a report counts, a page at a time, from the archives and the ledger: compact rows instead of whole bodies.

Reads only. A page is so many rows of one table, whatever they hold, so that a writer waits some milliseconds for it at
most. An archive or a row that cannot be read is named and passed over.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from supervisor.incidents import drill_run, marks
from supervisor.incidents.counted import PastAction, PastIncident, PastMark, PastPage
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Channel,
    Effect,
    ExecutionState,
    OutboxState,
    Tier,
)
from supervisor.incidents.orders import AuditEntry, MarkArgs
from supervisor.messages import FetchReport, ReportFound
from supervisor.store import sqlite
from supervisor.store.history import LEDGER, first_source, next_source

PAGE_ROWS = 1_000
NOBODY_CALLED = frozenset({"closing", drill_run.KIND})  # it is over, or nothing was wrong
REPEAT = "repeat"


class _Step(msgspec.Struct, gc=False):
    effect: str


class _Runbook(msgspec.Struct, gc=False):
    id: str
    steps: tuple[_Step, ...] = ()


class _Target(msgspec.Struct, gc=False):
    target_id: str
    family: str = ""


class _Result(msgspec.Struct, gc=False):
    step_id: str


class _Execution(msgspec.Struct, gc=False):
    id: str
    incident_id: str | None
    runbook: _Runbook
    target: _Target
    authority: str
    state: str
    created_wall_s: float
    results: tuple[_Result, ...] = ()
    undoes: str = ""


class _Row(msgspec.Struct, gc=False):
    id: str
    channel: str
    tier: int
    kind: str
    created_wall_s: float
    state: str
    incident_id: str | None = None


def _incident(it: PastIncident) -> tuple[float, PastIncident | None]:
    return it.detected_wall_s, None if it.anomaly == AnomalyType.DRILL else it


def _action(it: _Execution) -> tuple[float, PastAction | None]:
    """An undo that failed has taken nothing back, and is no action of ours either; what a drill does is made up."""
    if (it.undoes and it.state != ExecutionState.SUCCEEDED) or it.target.family == drill_run.FAMILY:
        return it.created_wall_s, None
    action = PastAction(
        it.id, it.incident_id, it.runbook.id, it.target.target_id, it.created_wall_s,
        by_itself=it.authority != Authority.PERSON and it.incident_id is not None,
        acts=any(step.effect != Effect.OBSERVE for step in it.runbook.steps),
        ran=bool(it.results),
        undoes=it.undoes,
    )  # fmt: skip
    return it.created_wall_s, action


def _page(it: _Row) -> tuple[float, PastPage | None]:
    if it.channel != Channel.SIGNAL or it.tier != Tier.PAGE or it.kind in NOBODY_CALLED:
        return it.created_wall_s, None
    delivered = it.state == OutboxState.DELIVERED
    return it.created_wall_s, PastPage(it.id, it.incident_id, it.created_wall_s, it.kind != REPEAT, delivered)


def _mark(it: AuditEntry) -> tuple[float, PastMark | None]:
    if it.action != marks.ACTION:
        return it.at_wall_s, None
    args = msgspec.json.decode(it.args, type=MarkArgs)
    return it.at_wall_s, PastMark(args.incident_id, args.verdict, it.at_wall_s)


# In this order: the field of the answer, the table in the ledger and in an archive, and how its rows are read.
_Read = Callable[[Any], tuple[float, Any]]
TABLES: tuple[tuple[str, str, str, msgspec.json.Decoder[Any], _Read], ...] = (
    ("incidents", "incidents", "incidents", msgspec.json.Decoder(PastIncident), _incident),
    ("actions", "executions", "executions", msgspec.json.Decoder(_Execution), _action),
    ("pages", "outbox", "messages", msgspec.json.Decoder(_Row), _page),
    ("marks", "audit", "audit", msgspec.json.Decoder(AuditEntry), _mark),
)


def page(ledger: sqlite3.Connection, folder: Path, asked: FetchReport) -> ReportFound:
    """The next of what is asked for. Raises sqlite3.Error of the ledger alone."""
    source = asked.source or first_source(folder, asked.since_wall_s)
    if source == LEDGER:
        return _of(ledger, source, asked, LEDGER)
    try:
        with closing(sqlite.open_reader(folder / source)) as archive:
            return _of(archive, source, asked, next_source(folder, source))
    except sqlite3.Error as error:
        passed_over = f"{source}: {sqlite.describe(error)}"
        return ReportFound(source=next_source(folder, source), more=True, passed_over=passed_over)


def _of(connection: sqlite3.Connection, source: str, asked: FetchReport, following: str) -> ReportFound:
    name, mine, archived, decoder, read = TABLES[asked.table]
    table = mine if source == LEDGER else archived
    query = f"SELECT rowid, body FROM {table} WHERE rowid > ? ORDER BY rowid LIMIT {PAGE_ROWS}"
    rows = connection.execute(query, (asked.after,)).fetchall()
    kept, oldest, bad = [], None, 0
    for _, body in rows:
        try:
            at_wall_s, row = read(decoder.decode(body))
        except msgspec.DecodeError:
            bad += 1
            continue
        oldest = at_wall_s if oldest is None else min(oldest, at_wall_s)
        # A verdict, or an undo, may be younger than what it is about, never older.
        if row is not None and at_wall_s >= asked.since_wall_s:
            kept.append(row)
    passed_over = f"{source}: {bad} rows of {table} cannot be read" if bad else ""
    stage, (done, total) = f"{name} in {source}", _how_far(connection, table, rows[-1][0] if rows else None)
    at, after, more = asked.table, rows[-1][0] if rows else 0, True
    if len(rows) < PAGE_ROWS:  # this table has no more
        at, after = asked.table + 1, 0
        if at == len(TABLES):
            at, more = 0, source != LEDGER
            source = following
    answer = ReportFound(
        source=source, table=at, after=after, more=more, oldest_wall_s=oldest, passed_over=passed_over,
        stage=stage, done=done, total=total,
    )  # fmt: skip
    return msgspec.structs.replace(answer, **{name: tuple(kept)})


def _how_far(connection: sqlite3.Connection, table: str, at: int | None) -> tuple[int, int]:
    """(done, total) by the numbers of the rows, which SQLite knows without counting; some of them may be gone."""
    (first,), (last,) = (connection.execute(f"SELECT {it}(rowid) FROM {table}").fetchone() for it in ("min", "max"))
    return (at - first + 1, last - first + 1) if at is not None and first is not None else (0, 0)
