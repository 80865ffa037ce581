"""How each kind of record is written to the ledger and read back. Only `Ledger` calls this, inside its transactions.

Enumerations are bound as the plain text they are: sqlite3 would look for an adapter of each, every time.

What must never happen here: an entry of the audit trail is overwritten; a claim is taken back by a decision that did
not know of it; a record changes on its way (`body` decodes to exactly the struct that was sent).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from supervisor.incidents import records
from supervisor.incidents.model import Execution, ExecutionState, Program, State, TrailEntry, is_over

_encode = msgspec.json.Encoder().encode
_executions = msgspec.json.Decoder(Execution)
_programs = msgspec.json.Decoder(Program)

_INCIDENT = """
INSERT INTO incidents (id, anomaly, target_id, state, is_open, closed_steady_s, dismiss_until_steady_s,
                       escalated_wall_s, rev, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    anomaly = excluded.anomaly, target_id = excluded.target_id, state = excluded.state, is_open = excluded.is_open,
    closed_steady_s = CASE WHEN excluded.is_open THEN NULL ELSE coalesce(closed_steady_s, excluded.closed_steady_s) END,
    dismiss_until_steady_s = excluded.dismiss_until_steady_s, escalated_wall_s = excluded.escalated_wall_s,
    rev = excluded.rev, body = excluded.body
"""
_TRAIL = "INSERT INTO trail (rev, incident_id, n, body) VALUES (?, ?, ?, ?)"
# An execution's claim belongs to the store: no decision changes `claimed_by`, none makes it `intended` again.
_EXECUTION = """
INSERT INTO executions (id, state, is_over, created_steady_s, created_wall_s, boot_id, expires_mono_s, claimed_by,
                        undoes, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    is_over = excluded.is_over,
    state = CASE WHEN excluded.state = 'intended' THEN state ELSE excluded.state END,
    created_steady_s = excluded.created_steady_s, created_wall_s = excluded.created_wall_s,
    boot_id = excluded.boot_id, expires_mono_s = excluded.expires_mono_s, body = excluded.body
"""
_PROGRAM = "INSERT OR IGNORE INTO programs (execution_id, boot_id, pid, start_ticks, body) VALUES (?, ?, ?, ?, ?)"
_OUTBOX = """
INSERT INTO outbox (id, channel, state, delivered_wall_s, first_rev, body) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    channel = excluded.channel, state = excluded.state, delivered_wall_s = excluded.delivered_wall_s,
    -- What was held counts as written when it is let go: the projection has passed by.
    first_rev = iif(json_extract(body, '$.held'), excluded.first_rev, first_rev),
    body = excluded.body
"""
_RUNBOOK = """
INSERT INTO runbooks (id, version, created_wall_s, rev, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET version = excluded.version, rev = excluded.rev, body = excluded.body
"""
_RUNBOOK_STATE = """
INSERT INTO runbook_states (runbook_id, target_id, rev, body) VALUES (?, ?, ?, ?)
ON CONFLICT (runbook_id, target_id) DO UPDATE SET rev = excluded.rev, body = excluded.body
"""
_METRIC = "INSERT INTO metrics (rev, id, body) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING"
_TALLY = "INSERT OR REPLACE INTO tallies (name, stage, result, body) VALUES (?, ?, ?, ?)"
_AUDIT = "INSERT OR IGNORE INTO audit (id, at_wall_s, body) VALUES (?, ?, ?)"
_TIMER = "INSERT OR REPLACE INTO timers (kind, subject, body) VALUES (?, ?, ?)"
_BREAKER = "INSERT OR REPLACE INTO breakers (runbook_id, resource, body) VALUES (?, ?, ?)"
_PAUSE = "INSERT OR REPLACE INTO pauses (family, body) VALUES (?, ?)"


class Records:
    """Writes records through one connection. `rev` is the number of the newest change that a projection follows.

    `now` tells when a record is written: (steady seconds, wall seconds), set once for each transaction.
    """

    def __init__(self, connection: sqlite3.Connection, rev: int) -> None:
        self._execute = connection.cursor().execute  # the connection's own makes a cursor for each statement
        self.rev = rev
        self.now = (0.0, 0.0)
        self._writers: dict[type[Any], Callable[[Any], None]] = {
            records.PutIncident: self._incident,
            records.AddTrail: self._trail,
            records.PutExecution: self._execution,
            records.PutOutbox: self._outbox,
            records.PutRunbookState: self._runbook_state,
            records.PutRunbook: self._runbook,
            records.AddMetric: self._metric,
            records.PutTally: self._tally,
            records.SetTimer: self._timer,
            records.DropTimer: self._drop_timer,
            records.PutBreaker: self._breaker,
            records.DropBreaker: self._drop_breaker,
            records.PutPause: self._pause,
            records.DropPause: self._drop_pause,
            records.PutOperatorPause: self._operator_pause,
            records.DropOperatorPause: self._drop_operator_pause,
            records.PutRequest: self._request,
            records.DropRequest: self._drop_request,
            records.PutReply: self._reply,
            records.DropReply: self._drop_reply,
            records.AddAudit: self._audit,
            records.AddLateTrail: self._late_trail,
            records.PutStage: self._stage,
            records.DropStage: self._drop_stage,
            records.PutKnown: self._known,
            records.DropKnown: self._drop_known,
            records.PutHalt: self._halt,
            records.DropHalt: self._drop_halt,
        }

    def put(self, record: records.Record) -> None:
        """Raises sqlite3.IntegrityError or OverflowError when this record cannot be taken."""
        self._writers[type(record)](record)

    def replace_salvaged(self, seed: tuple[records.Record, ...], *, first: bool) -> None:
        """Makes room for what the healer has in memory: it knows better than what a damaged ledger gave.

        The first part of a seed replaces everything that is not over, and names every execution that is not; what is
        over stays, as history.
        """
        if first:
            for table in (
                "timers",
                "breakers",
                "pauses",
                "operator_pauses",
                "requests",
                "replies",
                "stages",
                "known",
                "halts",
                "runbook_states",
            ):
                self._execute(f"DELETE FROM {table}")
            self._execute("DELETE FROM incidents WHERE is_open")
            self._execute("DELETE FROM outbox WHERE state = 'pending'")
            alive = [it.execution.id for it in seed if isinstance(it, records.PutExecution)]
            self._execute(
                "DELETE FROM executions WHERE NOT is_over AND id NOT IN (SELECT value FROM json_each(?))",
                (_encode(alive).decode(),),
            )
        for record in seed:
            if isinstance(record, records.AddTrail):
                it = record.entry
                self._execute("DELETE FROM trail WHERE incident_id = ? AND n = ?", (it.incident_id, it.n))

    def add_program(self, execution_id: str, program: Program) -> None:
        """Adds a started program; the same process again changes nothing."""
        ref = program.process
        self._execute(_PROGRAM, (execution_id, ref.boot_id, ref.pid, ref.start_ticks, _encode(program).decode()))

    def _next_rev(self) -> int:
        self.rev += 1
        return self.rev

    def _incident(self, record: records.PutIncident) -> None:
        it = record.incident
        closed_steady_s = None if it.open else self.now[0]
        self._execute(
            _INCIDENT,
            (it.id, str(it.anomaly), it.target_id, str(it.state), int(it.open), closed_steady_s,
             it.dismiss_until_steady_s, it.escalated_wall_s, self._next_rev(), _encode(it).decode()),
        )  # fmt: skip

    def _trail(self, record: records.AddTrail) -> None:
        it = record.entry
        self._execute(_TRAIL, (self._next_rev(), it.incident_id, it.n, _encode(it).decode()))

    def _execution(self, record: records.PutExecution) -> None:
        it = record.execution
        self._execute(
            _EXECUTION,
            (it.id, str(it.state), int(is_over(it)), it.created_steady_s, it.created_wall_s, it.boot_id,
             it.expires_mono_s, it.claimed_by, it.undoes, _encode(it).decode()),
        )  # fmt: skip
        for program in it.programs:
            self.add_program(it.id, program)

    def _outbox(self, record: records.PutOutbox) -> None:
        it = record.row
        self._execute(
            _OUTBOX,
            (it.id, str(it.channel), str(it.state), it.delivered_wall_s, self._next_rev(), _encode(it).decode()),
        )

    def _runbook(self, record: records.PutRunbook) -> None:
        it = record.runbook
        self._execute(_RUNBOOK, (it.id, record.version, self.now[1], self._next_rev(), _encode(it).decode()))

    def _runbook_state(self, record: records.PutRunbookState) -> None:
        it = record.state
        self._execute(_RUNBOOK_STATE, (it.runbook_id, it.target_id, self._next_rev(), _encode(it).decode()))

    def _metric(self, record: records.AddMetric) -> None:
        it = record.metric
        self._execute(_METRIC, (self._next_rev(), it.id, _encode(it).decode()))

    def _tally(self, record: records.PutTally) -> None:
        it = record.tally
        self._execute(_TALLY, (it.name, it.stage, it.result, _encode(it).decode()))

    def _timer(self, record: records.SetTimer) -> None:
        it = record.timer
        self._execute(_TIMER, (str(it.kind), it.subject, _encode(it).decode()))

    def _drop_timer(self, record: records.DropTimer) -> None:
        self._execute("DELETE FROM timers WHERE kind = ? AND subject = ?", (record.kind, record.subject))

    def _breaker(self, record: records.PutBreaker) -> None:
        it = record.breaker
        self._execute(_BREAKER, (it.runbook_id, it.resource, _encode(it).decode()))

    def _drop_breaker(self, record: records.DropBreaker) -> None:
        self._execute(
            "DELETE FROM breakers WHERE runbook_id = ? AND resource = ?", (record.runbook_id, record.resource)
        )

    def _pause(self, record: records.PutPause) -> None:
        it = record.pause
        self._execute(_PAUSE, (it.family, _encode(it).decode()))

    def _drop_pause(self, record: records.DropPause) -> None:
        self._execute("DELETE FROM pauses WHERE family = ?", (record.family,))

    def _operator_pause(self, record: records.PutOperatorPause) -> None:
        it = record.pause
        self._execute("INSERT OR REPLACE INTO operator_pauses VALUES (?, ?)", (it.key, _encode(it).decode()))

    def _drop_operator_pause(self, record: records.DropOperatorPause) -> None:
        self._execute("DELETE FROM operator_pauses WHERE key = ?", (record.key,))

    def _request(self, record: records.PutRequest) -> None:
        it = record.request
        self._execute("INSERT OR REPLACE INTO requests VALUES (?, ?)", (it.id, _encode(it).decode()))

    def _drop_request(self, record: records.DropRequest) -> None:
        self._execute("DELETE FROM requests WHERE id = ?", (record.request_id,))

    def _reply(self, record: records.PutReply) -> None:
        it = record.reply
        self._execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (it.key, _encode(it).decode()))

    def _drop_reply(self, record: records.DropReply) -> None:
        self._execute("DELETE FROM replies WHERE key = ?", (record.key,))

    def _audit(self, record: records.AddAudit) -> None:
        it = record.entry
        self._execute(_AUDIT, (it.id, it.at_wall_s, _encode(it).decode()))

    def _late_trail(self, record: records.AddLateTrail) -> None:
        """Of an incident that is in the archive by now there is no trail here to go on with."""
        found = self._execute(
            "SELECT state, (SELECT coalesce(max(n), -1) FROM trail WHERE incident_id = id) FROM incidents WHERE id = ?",
            (record.incident_id,),
        ).fetchone()
        if found is not None:
            state, n = found
            entry = TrailEntry(record.incident_id, n + 1, record.at_wall_s, State(state), record.actor, record.note)
            self._trail(records.AddTrail(msgspec.structs.replace(entry, execution_id=record.execution_id)))

    def _stage(self, record: records.PutStage) -> None:
        it = record.stage
        self._execute("INSERT OR REPLACE INTO stages VALUES (?, ?)", (it.target_id, _encode(it).decode()))

    def _drop_stage(self, record: records.DropStage) -> None:
        self._execute("DELETE FROM stages WHERE target_id = ?", (record.target_id,))

    def _known(self, record: records.PutKnown) -> None:
        self._execute("INSERT OR REPLACE INTO known VALUES (?, ?)", (record.target_id, _encode(record).decode()))

    def _drop_known(self, record: records.DropKnown) -> None:
        self._execute("DELETE FROM known WHERE target_id = ?", (record.target_id,))

    def _halt(self, record: records.PutHalt) -> None:
        it = record.halt
        self._execute("INSERT OR REPLACE INTO halts VALUES (?, ?)", (it.database, _encode(it).decode()))

    def _drop_halt(self, record: records.DropHalt) -> None:
        self._execute("DELETE FROM halts WHERE database = ?", (record.database,))


def executions(
    connection: sqlite3.Connection, where: str, parameters: tuple[object, ...] | Mapping[str, float]
) -> tuple[Execution, ...]:
    """The executions that `where` selects, the engine's view merged with the store's own: state, claim, programs."""
    query = f"SELECT id, state, claimed_by, body FROM executions {where}"
    found = []
    for execution_id, state, claimed_by, body in connection.execute(query, parameters).fetchall():
        programs = connection.execute(
            "SELECT body FROM programs WHERE execution_id = ? ORDER BY rowid", (execution_id,)
        ).fetchall()
        found.append(
            msgspec.structs.replace(
                _executions.decode(body),
                state=ExecutionState(state),
                claimed_by=claimed_by,
                programs=tuple(_programs.decode(text) for (text,) in programs),
            )
        )
    return tuple(found)
