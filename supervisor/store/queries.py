"""What the ledger is asked: the snapshot that a new healer begins with, and the trails of incidents."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from supervisor.incidents import drill_run
from supervisor.incidents.learning import PERSON
from supervisor.incidents.model import (
    AnomalyType,
    Breaker,
    FamilyPause,
    Halt,
    Incident,
    OutboxRow,
    Runbook,
    RunbookState,
    StageEntry,
    Tally,
    Timer,
)
from supervisor.incidents.orders import AuditEntry, Offer, OperatorPause, TakenReply
from supervisor.incidents.records import PutKnown, Snapshot
from supervisor.store import records

log = logging.getLogger(__name__)

RECENT_MAX = 2_000  # newest closed incidents, and newest executions, that a snapshot holds (one message: 16 MiB)

# What was tried last for each open incident, however long ago: the page that is repeated speaks of it.
_NEWEST = "SELECT json_extract(body, '$.execution_id') FROM incidents WHERE is_open"

# At most one row is being gathered for. Reduced: ten thousand of them must fit into one message.
_GATHERED = """
SELECT json_set(body, '$.evidence', '', '$.hint', '', '$.dry_runs', json('[]')) FROM incidents
WHERE NOT is_open AND EXISTS (
    SELECT 1 FROM timers WHERE kind = 'gather'
    AND subject IN (json_extract(incidents.body, '$.page_id'), json_extract(incidents.body, '$.told_in'))
) ORDER BY id
"""

_RUNBOOKS = "SELECT body FROM runbooks ORDER BY created_wall_s, id"

T = TypeVar("T")


def _bodies(
    connection: sqlite3.Connection, kind: type[T], query: str, parameters: tuple[object, ...] = ()
) -> tuple[T, ...]:
    decode = msgspec.json.Decoder(kind).decode
    return tuple(decode(body) for (body,) in connection.execute(query, parameters))


def snapshot(
    connection: sqlite3.Connection,
    *,
    ledger_id: str,
    epoch: int,
    now_steady_s: float,
    executions_since_steady_s: float,
    closed_since_steady_s: float,
) -> Snapshot:
    """Everything that is not over, and what is recent (both bounds in steady seconds)."""
    closed = _bodies(
        connection,
        Incident,
        "SELECT body FROM incidents WHERE NOT is_open AND closed_steady_s >= ?"
        " UNION SELECT body FROM incidents WHERE NOT is_open AND dismiss_until_steady_s > ?",
        (closed_since_steady_s, now_steady_s),
    )
    recent = records.executions(
        connection, "WHERE created_steady_s >= ? ORDER BY created_steady_s, id", (executions_since_steady_s,)
    )
    last_remediation, last_escalation, last_signal, last_synapse = (
        connection.execute(query).fetchone()[0]
        for query in (
            # Each the newest that is no drill's, by its index.
            "SELECT (SELECT created_wall_s FROM executions WHERE claimed_by <> ''"
            f" AND json_extract(body, '$.runbook.id') <> '{drill_run.RUNBOOK}' ORDER BY created_wall_s DESC LIMIT 1)",
            "SELECT (SELECT escalated_wall_s FROM incidents WHERE escalated_wall_s IS NOT NULL"
            f" AND anomaly <> '{AnomalyType.DRILL}' ORDER BY escalated_wall_s DESC LIMIT 1)",
            "SELECT (SELECT delivered_wall_s FROM outbox WHERE channel = 'signal' AND state = 'delivered'"
            f" AND json_extract(body, '$.kind') <> '{drill_run.KIND}' ORDER BY delivered_wall_s DESC LIMIT 1)",
            "SELECT max(delivered_wall_s) FROM outbox WHERE channel = 'synapse' AND state = 'delivered'",
        )
    )
    return Snapshot(
        ledger_id=ledger_id,
        epoch=epoch,
        open_incidents=_bodies(connection, Incident, "SELECT body FROM incidents WHERE is_open ORDER BY id"),
        recent_closed=_newest(sorted(closed, key=lambda it: (it.changed_wall_s, it.id)), "closed incidents"),
        executions=records.executions(
            connection, f"WHERE NOT is_over OR id IN ({_NEWEST}) ORDER BY created_steady_s, id", ()
        ),
        recent_executions=_newest(recent, "executions"),
        outbox=_bodies(connection, OutboxRow, "SELECT body FROM outbox WHERE state = 'pending' ORDER BY first_rev"),
        runbook_states=_bodies(connection, RunbookState, "SELECT body FROM runbook_states"),
        timers=_bodies(connection, Timer, "SELECT body FROM timers"),
        breakers=_bodies(connection, Breaker, "SELECT body FROM breakers"),
        pauses=_bodies(connection, FamilyPause, "SELECT body FROM pauses"),
        operator_pauses=_bodies(connection, OperatorPause, "SELECT body FROM operator_pauses"),
        drafts=tuple(it for it in _bodies(connection, Runbook, _RUNBOOKS) if it.author.startswith(PERSON)),
        requests=_bodies(connection, Offer, "SELECT body FROM requests"),
        replies=_bodies(connection, TakenReply, "SELECT body FROM replies"),
        stages=_bodies(connection, StageEntry, "SELECT body FROM stages"),
        known=_bodies(connection, PutKnown, "SELECT body FROM known"),
        halts=halts(connection),
        tallies=_bodies(connection, Tally, "SELECT body FROM tallies"),
        gathered=_gathered(connection),
        last_remediation_wall_s=last_remediation,
        last_escalation_wall_s=last_escalation,
        last_signal_wall_s=last_signal,
        last_synapse_wall_s=last_synapse,
    )


def _gathered(connection: sqlite3.Connection) -> tuple[Incident, ...]:
    """Asked only where something is being gathered: it reads every incident."""
    waits = connection.execute("SELECT EXISTS (SELECT 1 FROM timers WHERE kind = 'gather')").fetchone()[0]
    return _bodies(connection, Incident, _GATHERED) if waits else ()


def _newest(items: Sequence[T], what: str) -> tuple[T, ...]:
    if len(items) > RECENT_MAX:
        log.warning("the snapshot holds the newest %d of %d recent %s", RECENT_MAX, len(items), what)
    return tuple(items[-RECENT_MAX:])


def halts(connection: sqlite3.Connection) -> tuple[Halt, ...]:
    """The databases whose writing is halted (R10)."""
    return _bodies(connection, Halt, "SELECT body FROM halts")


def undone_by(connection: sqlite3.Connection, execution_id: str) -> str:
    """The execution that has taken this one back (R15); empty when none has."""
    query = "SELECT id FROM executions WHERE undoes = ? AND undoes <> '' AND state = 'succeeded'"
    found = connection.execute(query, (execution_id,)).fetchone()
    return "" if found is None else str(found[0])


def audit(connection: sqlite3.Connection, limit: int) -> tuple[AuditEntry, ...]:
    """The newest orders, the newest first."""
    return _bodies(connection, AuditEntry, "SELECT body FROM audit ORDER BY at_wall_s DESC LIMIT ?", (limit,))


def trails(connection: sqlite3.Connection, incident_ids: Sequence[str]) -> tuple[bytes, ...]:
    """For each incident its trail as a JSON array of TrailEntry; `[]` for one that is unknown."""
    query = "SELECT body FROM trail WHERE incident_id = ? ORDER BY n"
    return tuple(
        b"[" + b",".join(body.encode() for (body,) in connection.execute(query, (incident_id,))) + b"]"
        for incident_id in incident_ids
    )


def undelivered_synapse(connection: sqlite3.Connection, up_to_rev: int, at_most: int) -> tuple[OutboxRow, ...]:
    """Pending Synapse messages whose row was first written at `up_to_rev` or before, the oldest `at_most`."""
    return _bodies(
        connection,
        OutboxRow,
        "SELECT body FROM outbox WHERE state = 'pending' AND channel = 'synapse' AND first_rev <= ?"
        " AND NOT ifnull(json_extract(body, '$.held'), 0) ORDER BY first_rev LIMIT ?",
        (up_to_rev, at_most),
    )
