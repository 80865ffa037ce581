"""Two ledgers with one face: the real one on a file in RAM, and a faster model of it in plain dictionaries.

Both are what `supervisor.store.process` asks. The model is written from what `supervisor/store/ledger.py` promises,
not by calling it; a share of the seeds runs on the real one, and both must lead to the same histories.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from supervisor.clock import SteadyClock, monotonic_s
from supervisor.incidents import drill_run
from supervisor.incidents import records as r
from supervisor.incidents.learning import PERSON
from supervisor.incidents.model import (
    Channel,
    Execution,
    ExecutionState,
    Halt,
    OutboxRow,
    OutboxState,
    State,
    TrailEntry,
    is_over,
)
from supervisor.incidents.orders import AuditEntry
from supervisor.messages import (
    Ack,
    Claim,
    ClaimAnswer,
    Commit,
    EpochOpened,
    LedgerTrouble,
    Nack,
    OpenEpoch,
)
from supervisor.store.ledger import Ledger

LEDGER_NAME = b"simulate"  # ids are derived from it: on both ledgers a run has the same
FULL = LedgerTrouble("database or disk is full (SQLITE_FULL)")
_encode = msgspec.json.encode


class _Row(msgspec.Struct):
    """An execution: the engine's view, and the store's own columns."""

    execution: Execution
    state: ExecutionState
    claimed_by: str
    programs: dict[tuple[int, int], Any]


class ModelLedger:
    """What is durable, by the kind of record. `full`: the disk is."""

    def __init__(self, watch: Any, reach: Any) -> None:
        self.ledger_id = LEDGER_NAME.hex()
        self.epoch = self._last_n = self.rev = 0
        self.full = False
        self._watch, self._reach = watch, reach
        self._epochs: dict[str, int] = {}
        self.clock = SteadyClock()
        self._anchor = self.clock.anchor()
        self.incidents: dict[str, Any] = {}
        self.closed_s: dict[str, float] = {}
        self.trail: dict[str, list[TrailEntry]] = {}
        self.executions: dict[str, _Row] = {}
        self.outbox: dict[str, OutboxRow] = {}
        self.first_rev: dict[str, int] = {}
        self.metrics: dict[str, Any] = {}
        self.audits: dict[str, AuditEntry] = {}
        self.tables: dict[type, dict[Any, Any]] = {kind: {} for kind in _TABLES}

    # -- what the store's process asks --

    path = Path("/sim/state/ledger.db")
    reserve_ok = True
    damage = ""

    def damaged(self) -> tuple[str, ...]:
        return ()

    bytes = 1_000_000

    def size_bytes(self) -> int:
        return self.bytes

    def mend_reserve(self) -> None:
        pass

    def close(self) -> None:
        pass

    def reopen(self) -> ModelLedger:
        """After the store's process died: its clock goes on from what was written down last."""
        self.clock = SteadyClock(self._anchor)
        return self

    def write(self, requests: Sequence[Any]) -> list[Any]:
        if self.full:
            return [FULL] * len(requests)
        self._reach("commit.before")
        last_n = self._last_n
        answers = [self._take(request) for request in requests]
        if self._last_n != last_n:
            self._anchor = self.clock.anchor()
        self._reach("commit.after")
        return answers

    def _take(self, request: Any) -> Any:
        if isinstance(request, Commit):
            return self._decision(request)
        if isinstance(request, Claim):
            return self._claim(request)
        row = self.executions.get(request.execution_id)
        if row is None:
            return Nack("unknown_id", f"no execution {request.execution_id}", exit_code=4)
        if row.state is not ExecutionState.CLAIMED:
            return Nack("not_claimed", f"execution {request.execution_id} is {row.state}")
        ref = request.program.process
        row.programs.setdefault((ref.pid, ref.start_ticks), request.program)
        return Ack()

    def _decision(self, request: Commit) -> Any:
        if request.epoch != self.epoch:
            return Nack("old_epoch", f"epoch {request.epoch} is over, {self.epoch} is open")
        if request.n <= self._last_n:
            return Ack()
        if request.n != self._last_n + 1:
            return Nack("gap", f"decision {request.n} came, {self._last_n + 1} is next")
        self._last_n = request.n
        if request.seed:
            self._replace(request)
        for record in request.records:
            self._put(record)
        self._watch.durable(request)
        return Ack()

    def _replace(self, request: Commit) -> None:
        """A healer that begins the ledger anew knows better than what is in it."""
        if request.n == 1:
            for kind in _TABLES:
                if kind not in (r.PutRunbook, r.PutTally):
                    self.tables[kind].clear()
            for incident_id in [it.id for it in self.incidents.values() if it.open]:
                del self.incidents[incident_id]
            for row_id in [row.id for row in self.outbox.values() if row.state is OutboxState.PENDING]:
                del self.outbox[row_id]
            alive = {it.execution.id for it in request.records if isinstance(it, r.PutExecution)}
            for row in list(self.executions.values()):
                if not is_over(self._merged(row)) and row.execution.id not in alive:
                    del self.executions[row.execution.id]
        for record in request.records:
            if isinstance(record, r.AddTrail):
                it = record.entry
                kept = [old for old in self.trail.get(it.incident_id, ()) if old.n != it.n]
                self.trail[it.incident_id] = kept

    def _claim(self, request: Claim) -> ClaimAnswer:
        row = self.executions.get(request.execution_id)
        if row is None:
            return ClaimAnswer(False, "no such execution")
        if row.state is ExecutionState.INTENDED and row.execution.expires_mono_s > monotonic_s():
            row.state, row.claimed_by = ExecutionState.CLAIMED, request.incarnation
            self._watch.claimed(row.execution, request.incarnation)
        mine = row.state is ExecutionState.CLAIMED and row.claimed_by == request.incarnation
        return ClaimAnswer(True) if mine else ClaimAnswer(False, f"it is {row.state}, or has expired")

    def _put(self, record: r.Record) -> None:
        self.rev += type(record) in _PROJECTED
        if (place := _TABLE_OF.get(type(record))) is not None:  # most are
            kind, key, value = place(record)
            if value is None:
                self.tables[kind].pop(key, None)
            else:
                self.tables[kind][key] = value
            return
        match record:
            case r.PutIncident(it):
                self.incidents[it.id] = it
                if not it.open:
                    self.closed_s.setdefault(it.id, self.clock.now().steady_s)
            case r.AddTrail(it):
                entries = self.trail.setdefault(it.incident_id, [])
                entries.append(it)
                entries.sort(key=lambda entry: entry.n)
            case r.AddLateTrail(incident_id, at_wall_s, actor, note, execution_id):
                if incident_id in self.incidents:
                    self.rev += 1
                    entries = self.trail.setdefault(incident_id, [])
                    state = State(self.incidents[incident_id].state)
                    entry = TrailEntry(incident_id, len(entries), at_wall_s, state, actor, note)
                    entries.append(msgspec.structs.replace(entry, execution_id=execution_id))
            case r.PutExecution(it):
                self._put_execution(it)
            case r.PutOutbox(it):
                self.outbox[it.id] = it
                self.first_rev.setdefault(it.id, self.rev)
            case r.AddMetric(it):
                self.metrics.setdefault(it.id, it)
            case r.AddAudit(it):
                self.audits.setdefault(it.id, it)
            case _:
                raise AssertionError(f"the model has no place for {record}")

    def _put_execution(self, it: Execution) -> None:
        row = self.executions.get(it.id)
        if row is None:
            self.executions[it.id] = _Row(it, it.state, it.claimed_by, {})
            return
        row.execution = it
        if it.state is not ExecutionState.INTENDED:
            row.state = it.state

    def _merged(self, row: _Row) -> Execution:
        programs = tuple(row.programs.values())
        return msgspec.structs.replace(row.execution, state=row.state, claimed_by=row.claimed_by, programs=programs)

    def open_epoch(self, request: OpenEpoch) -> Any:
        if self.full:
            return FULL
        self._reach("commit.before")
        known = self._epochs.get(request.incarnation)
        if known is None:
            self.epoch, self._last_n = self.epoch + 1, 0
            self._anchor = self.clock.anchor()
            self._epochs[request.incarnation] = self.epoch
            self._watch.epoch(self.epoch)
        self._reach("commit.after")
        if known not in (None, self.epoch):
            return Nack("old_epoch", f"{request.incarnation} had epoch {known}, {self.epoch} is open")
        return EpochOpened(self._snapshot(request), self.clock.anchor())

    def _snapshot(self, request: OpenEpoch) -> r.Snapshot:
        now_s = self.clock.now().steady_s
        closed = [
            it
            for it in self.incidents.values()
            if not it.open
            and (
                self.closed_s[it.id] >= now_s - request.closed_window_s
                or (it.dismiss_until_steady_s is not None and it.dismiss_until_steady_s > now_s)
            )
        ]
        every = sorted(
            (self._merged(row) for row in self.executions.values()), key=lambda e: (e.created_steady_s, e.id)
        )
        newest = {it.execution_id for it in self.incidents.values() if it.open}
        since_s = now_s - request.executions_window_s
        return r.Snapshot(
            ledger_id=self.ledger_id,
            epoch=self.epoch,
            open_incidents=tuple(sorted((it for it in self.incidents.values() if it.open), key=lambda it: it.id)),
            recent_closed=tuple(sorted(closed, key=lambda it: (it.changed_wall_s, it.id))),
            executions=tuple(e for e in every if not is_over(e) or e.id in newest),
            recent_executions=tuple(e for e in every if e.created_steady_s >= since_s),
            outbox=tuple(row for row in self.outbox.values() if row.state is OutboxState.PENDING),
            runbook_states=self._table(r.PutRunbookState),
            timers=self._table(r.SetTimer),
            breakers=self._table(r.PutBreaker),
            pauses=self._table(r.PutPause),
            operator_pauses=self._table(r.PutOperatorPause),
            requests=self._table(r.PutRequest),
            replies=self._table(r.PutReply),
            drafts=tuple(it for it in self.tables[r.PutRunbook].values() if it.author.startswith(PERSON)),
            stages=self._table(r.PutStage),
            known=self._table(r.PutKnown),
            halts=self._table(r.PutHalt),
            tallies=self._table(r.PutTally),
            last_signal_wall_s=self._last_wall_s(Channel.SIGNAL),
            last_synapse_wall_s=self._last_wall_s(Channel.SYNAPSE),
        )

    def _table(self, kind: type) -> tuple[Any, ...]:
        """In the order of its key, as SQLite keeps it."""
        return tuple(value for _, value in sorted(self.tables[kind].items()))

    def _last_wall_s(self, channel: Channel) -> float | None:
        """When a message over it was delivered last; one of a drill by Signal does not count."""
        rows = (it for it in self.outbox.values() if it.channel is channel and it.state is OutboxState.DELIVERED)
        told = (it for it in rows if channel is Channel.SYNAPSE or it.kind != drill_run.KIND)
        return max((it.delivered_wall_s or 0.0 for it in told), default=None)

    def execution(self, execution_id: str) -> Any:
        if self.full:
            return FULL
        row = self.executions.get(execution_id)
        return None if row is None else self._merged(row)

    def undone_by(self, execution_id: str) -> str:
        found = (
            row.execution.id
            for row in self.executions.values()
            if row.execution.undoes == execution_id and row.state is ExecutionState.SUCCEEDED
        )
        return next(found, "")

    def audit(self, limit: int) -> tuple[AuditEntry, ...]:
        return tuple(self.audits.values())[:limit]

    def halts(self) -> tuple[Halt, ...]:
        return tuple(self.tables[r.PutHalt].values())

    def trails(self, incident_ids: Sequence[str]) -> Any:
        return tuple(_encode(self.trail.get(incident_id, [])) for incident_id in incident_ids)

    def undelivered_synapse(self, up_to_rev: int, at_most: int) -> tuple[OutboxRow, ...]:
        rows = (it for it in self.outbox.values() if it.state is OutboxState.PENDING and it.channel == "synapse")
        return tuple(row for row in rows if self.first_rev[row.id] <= up_to_rev)[:at_most]


# record -> (table, key, value; None drops it)
_TABLE_OF: dict[type, Any] = {
    r.PutRunbookState: lambda it: (r.PutRunbookState, (it.state.runbook_id, it.state.target_id), it.state),
    r.PutRunbook: lambda it: (r.PutRunbook, it.runbook.id, it.runbook),
    r.PutTally: lambda it: (r.PutTally, (it.tally.name, it.tally.stage, it.tally.result), it.tally),
    r.SetTimer: lambda it: (r.SetTimer, (it.timer.kind, it.timer.subject), it.timer),
    r.DropTimer: lambda it: (r.SetTimer, (it.kind, it.subject), None),
    r.PutBreaker: lambda it: (r.PutBreaker, (it.breaker.runbook_id, it.breaker.resource), it.breaker),
    r.DropBreaker: lambda it: (r.PutBreaker, (it.runbook_id, it.resource), None),
    r.PutPause: lambda it: (r.PutPause, it.pause.family, it.pause),
    r.DropPause: lambda it: (r.PutPause, it.family, None),
    r.PutOperatorPause: lambda it: (r.PutOperatorPause, it.pause.key, it.pause),
    r.DropOperatorPause: lambda it: (r.PutOperatorPause, it.key, None),
    r.PutRequest: lambda it: (r.PutRequest, it.request.id, it.request),
    r.DropRequest: lambda it: (r.PutRequest, it.request_id, None),
    r.PutReply: lambda it: (r.PutReply, it.reply.key, it.reply),
    r.DropReply: lambda it: (r.PutReply, it.key, None),
    r.PutStage: lambda it: (r.PutStage, it.stage.target_id, it.stage),
    r.DropStage: lambda it: (r.PutStage, it.target_id, None),
    r.PutKnown: lambda it: (r.PutKnown, it.target_id, it),
    r.DropKnown: lambda it: (r.PutKnown, it.target_id, None),
    r.PutHalt: lambda it: (r.PutHalt, it.halt.database, it.halt),
    r.DropHalt: lambda it: (r.PutHalt, it.database, None),
}
# What a projection follows; nothing else wakes one.
_PROJECTED = frozenset(
    {r.PutIncident, r.AddTrail, r.PutOutbox, r.PutRunbook, r.PutRunbookState, r.AddMetric}
)  # fmt: skip
_TABLES = (
    r.PutRunbookState, r.PutRunbook, r.PutTally, r.SetTimer, r.PutBreaker, r.PutPause, r.PutOperatorPause,
    r.PutRequest, r.PutReply, r.PutStage, r.PutKnown, r.PutHalt,
)  # fmt: skip


class RealLedger(Ledger):
    """The real one. A store that is killed leaves its file as it is; the next opens it."""

    def __init__(self, folder: Path, watch: Any) -> None:
        self.full = False
        self._watch = watch
        self._folder = folder
        self._claimed: set[str] = set()
        super().__init__(folder / "ledger.db")

    def reopen(self) -> RealLedger:
        self._connection.close()  # what was not committed is rolled back, as after a kill
        again = RealLedger(self._folder, self._watch)
        again._claimed, again.bytes, again.full = self._claimed, self.bytes, self.full
        return again

    bytes = 1_000_000

    def size_bytes(self) -> int:
        return self.bytes

    def write(self, requests: Sequence[Any]) -> list[Any]:
        if self.full:
            return [FULL] * len(requests)
        epoch, last_n = self.epoch, self._last_n
        try:
            answers = super().write(requests)
        finally:
            self._tell(requests, epoch, last_n)
        return answers

    def _tell(self, requests: Sequence[Any], epoch: int, last_n: int) -> None:
        """What has become durable, once each, although the process may have died right after it."""
        (head,) = self._connection.execute("SELECT last_n FROM head").fetchone()
        for request in requests:
            if isinstance(request, Commit) and request.epoch == epoch and last_n < request.n <= head:
                last_n = request.n
                self._watch.durable(request)
            elif isinstance(request, Claim) and request.execution_id not in self._claimed:
                found = self.execution(request.execution_id)
                if isinstance(found, Execution) and found.claimed_by == request.incarnation:
                    self._claimed.add(found.id)
                    self._watch.claimed(found, request.incarnation)

    def open_epoch(self, request: OpenEpoch) -> Any:
        if self.full:
            return FULL
        before = self.epoch
        answer = super().open_epoch(request)
        if self.epoch != before:
            self._watch.epoch(self.epoch)
        return answer

    def execution(self, execution_id: str) -> Any:
        return FULL if self.full else super().execution(execution_id)


def folder() -> Path:
    """In RAM where there is any."""
    shm = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="hcsim", dir=shm if shm.is_dir() else None))


def remove(path: Path) -> None:
    shutil.rmtree(path)
