"""The ledger: healctl's own durable memory, one SQLite file with one writing connection (DESIGN §2.1, ADR 0002).

A batch of requests is one transaction and one fsync; only after it are the answers given. A decision is taken whole or
refused alone: nearly always all are good, so they are first taken as they are; when one cannot be, everything is rolled
back and taken once more, each decision in a savepoint of its own. Whatever is sent twice acts
once: decisions by (epoch, n), claims by incarnation, programs by process.

The ledger never waits for a projection, never loses what it acknowledged, and never answers for what it could not
write: then every request of the batch gets LedgerTrouble and is sent again by its owner.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from supervisor import crashpoint
from supervisor.clock import Anchor, SteadyClock, wall_s
from supervisor.incidents.model import Execution, Halt, OutboxRow
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
    ProgramStarted,
)
from supervisor.store import archive, claims, queries, records, salvage, sqlite
from supervisor.store.opening import at_start, begin
from supervisor.store.reserve import Reserve
from supervisor.store.schema import migrate, must_be_ours
from supervisor.store.sqlite import Fault

log = logging.getLogger(__name__)

T = TypeVar("T")

Write = Commit | Claim | ProgramStarted
Answer = Ack | Nack | ClaimAnswer | LedgerTrouble

VACUUM_PAGES = 500  # given back to the file system at once

_HEAD = "SELECT ledger_id, epoch, last_n, rev, boot_id, mono_s, steady_s FROM head"
_SET_HEAD = "UPDATE head SET epoch = ?, last_n = ?, rev = ?, boot_id = ?, mono_s = ?, steady_s = ?"


class _Refused(Exception):
    """A decision of the batch cannot be taken; which one, and the others' fate, the savepoints will tell."""


class Ledger:
    """Open from the constructor to `close`. Belongs to one thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reserve = Reserve(path.with_name("ledger.reserve"))
        self._trouble = ""  # what was logged last, so that a lasting fault is said once
        self.damage = ""  # what is known of the damaged ledger that was set aside in this process's time
        salvage.finish_interrupted(path, self._fresh)
        try:
            self._open()
        except (sqlite3.DatabaseError, OSError) as error:
            self._open_all_the_same(error)
        self._reserve.hold()

    def _open_all_the_same(self, error: sqlite3.Error | OSError) -> None:
        fault = sqlite.fault_of(error) if isinstance(error, sqlite3.Error) else Fault.IO
        if fault is Fault.DAMAGED:
            self.set_aside(str(error))
            return
        # A full disk shows as an I/O error, too: there is no room for the shared memory beside the ledger.
        if fault in (Fault.FULL, Fault.IO) and self._reserve.hold() and self._reserve.release():
            log.error("no space for the ledger, it seems: its reserve was given back; make space")
            try:
                self._open()
                return
            except (sqlite3.DatabaseError, OSError) as again:
                error = again
        raise at_start(self.path, error) from error

    @property
    def _fresh(self) -> Path:
        """Where a new ledger is made before it takes a damaged one's place."""
        return self.path.with_name(f"{self.path.name}.new")

    def _open(self) -> None:
        self._connection = sqlite.open_ledger(self.path, must_be_ours)
        try:
            migrate(self._connection)
            row = self._connection.execute(_HEAD).fetchone()
            if row is None:
                row = begin(self._connection, epoch=0, rev=0, anchor=None)
        except BaseException:
            self._connection.close()
            raise
        self.ledger_id, self.epoch, self._last_n, rev = row[:4]
        self.clock = SteadyClock(Anchor(*row[4:]))
        self._records = records.Records(self._connection, rev)

    def set_aside(self, why: str) -> None:
        """Keeps a damaged ledger, and begins a new one with what can be read of it.

        Its first epoch is the time, so that no old decision fits it. The healer learns of it by the new `ledger_id`
        and writes down again what it has in memory. Raises sqlite3.Error or OSError when no new one can be made; then
        the damaged one stands where it stood.
        """
        log.error("the ledger is damaged: %s; a new one begins", why)
        anchor = self.clock.anchor() if hasattr(self, "clock") else None
        if hasattr(self, "_connection"):
            self._connection.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._fresh}{suffix}").unlink(missing_ok=True)
        new = sqlite.open_ledger(self._fresh)
        try:
            migrate(new)
            found = salvage.salvage(self.path, new)
            begin(new, epoch=int(wall_s() * 1000), rev=salvage.newest_rev(new), anchor=anchor or found.anchor)
        finally:
            new.close()
        kept = salvage.put_aside(self.path, self._fresh)
        self.damage = str(found).partition(":")[0]
        log.error("the damaged ledger is kept as %s; %s", kept, found)
        self._open()

    @property
    def rev(self) -> int:
        """The number of the newest change that a projection follows."""
        return self._records.rev

    @property
    def reserve_ok(self) -> bool:
        return self._reserve.held

    def damaged(self) -> tuple[str, ...]:
        """The damaged ledgers that are kept, oldest first."""
        return salvage.kept(self.path)

    def size_bytes(self) -> int:
        """What the ledger takes on disk, its WAL included."""
        return self.path.stat().st_size + sqlite.wal_bytes(self.path)

    def used_bytes(self) -> int:
        """What of the ledger's file is in use: less than its size where rows were deleted."""
        (pages,), (free,), (page_bytes,) = (
            self._connection.execute(f"PRAGMA {name}").fetchone()
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * page_bytes)

    def archive(self, keep_s: float, up_to_rev: int) -> int | LedgerTrouble:
        """Moves some of what was over for longer than `keep_s` to its archive; how many rows, 0 when none is left."""
        now = self.clock.now()
        found = self._reading(
            lambda: archive.old(
                self._connection,
                before_steady_s=now.steady_s - keep_s,
                before_wall_s=now.wall_s - keep_s,
                now_steady_s=now.steady_s,
                up_to_rev=up_to_rev,
            )
        )
        if isinstance(found, LedgerTrouble):
            return found
        if not found:
            return 0
        try:
            archive.write(self.path.parent, found)
        except (sqlite3.Error, OSError) as error:
            return LedgerTrouble(f"{self.path.parent}: {error}")
        moved = self._durably(lambda: archive.drop(self._connection, found))
        if not isinstance(moved, LedgerTrouble):
            self._reading(lambda: self._connection.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall())
        return moved

    def close(self) -> None:
        """Everything acknowledged is durable already; closing checkpoints, alone on the file."""
        self._connection.close()

    def mend_reserve(self) -> None:
        """Takes the reserve again once there is space."""
        if not self._reserve.held and self._reserve.hold():
            log.info("the ledger holds its reserve again")

    # --- writing -------------------------------------------------------------------------------------------------

    def write(self, requests: Sequence[Write]) -> list[Answer]:
        """One transaction for all; the answers in the same order. LedgerTrouble for every one when it cannot be."""
        try:
            answers = self._durably(lambda: [self._take(request, self._put_all) for request in requests])
        except _Refused:
            answers = self._durably(lambda: [self._take(request, self._put_or_refuse) for request in requests])
        return [answers] * len(requests) if isinstance(answers, LedgerTrouble) else answers

    def _durably(self, work: Callable[[], T]) -> T | LedgerTrouble:
        """Runs `work` in a transaction and commits it; a full disk gets the reserve once."""
        try:
            answer = self._transaction(work)
        except sqlite3.Error as error:
            if sqlite.fault_of(error) is not Fault.FULL or not self._reserve.release():
                return self._in_trouble(error)
            log.error("no space for the ledger: its reserve was given back; make space")
            try:
                answer = self._transaction(work)
            except sqlite3.Error as again:
                return self._in_trouble(again)
        if self._trouble:
            log.info("the ledger takes records again")
            self._trouble = ""
        return answer

    def _in_trouble(self, error: sqlite3.Error) -> LedgerTrouble:
        text = sqlite.describe(error)
        if text != self._trouble:
            log.error("the ledger cannot take records: %s", text)
            self._trouble = text
        if sqlite.fault_of(error) is Fault.DAMAGED:
            try:
                self.set_aside(text)
            except (sqlite3.Error, OSError) as again:  # no space for a new one: this one must do for now
                log.error("no new ledger can be begun: %s", again)
                self._open()
        return LedgerTrouble(text)

    def _reading(self, read: Callable[[], T]) -> T | LedgerTrouble:
        try:
            return read()
        except sqlite3.Error as error:
            return self._in_trouble(error)

    def _transaction(self, work: Callable[[], T]) -> T:
        epoch, last_n, rev = self.epoch, self._last_n, self._records.rev
        now = self.clock.now()
        self._records.now = (now.steady_s, now.wall_s)
        if self._connection.in_transaction:  # the rollback of the one before met the same fault
            self._connection.execute("ROLLBACK")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            answer = work()
            if (self.epoch, self._last_n) != (epoch, last_n):
                self._write_head()
            crashpoint.reach("commit.before")
            self._connection.execute("COMMIT")
            crashpoint.reach("commit.after")
        except BaseException:
            self.epoch, self._last_n, self._records.rev = epoch, last_n, rev
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        return answer

    def _write_head(self) -> None:
        anchor = self.clock.anchor()
        self._connection.execute(
            _SET_HEAD,
            (self.epoch, self._last_n, self._records.rev, anchor.boot_id, anchor.mono_s, anchor.steady_s),
        )

    def _take(self, request: Write, put: Callable[[Commit], Answer]) -> Answer:
        if isinstance(request, Commit):
            return self._take_decision(request, put)
        if isinstance(request, Claim):
            return claims.take(self._connection, request)
        return self._take_program(request)

    def _take_decision(self, request: Commit, put: Callable[[Commit], Answer]) -> Answer:
        if request.epoch != self.epoch and not self._had_epoch(request.epoch):
            return Nack("new_ledger", f"this ledger never had epoch {request.epoch}", "open one, and seed it")
        if request.epoch != self.epoch:
            return Nack("old_epoch", f"epoch {request.epoch} is over, {self.epoch} is open", "open a new epoch")
        if request.n <= self._last_n:
            return self._repeated(request)
        if request.n != self._last_n + 1:
            return Nack("gap", f"decision {request.n} came, {self._last_n + 1} is next", "send them again in order")
        answer = put(request)
        self._last_n = request.n
        return answer

    def _put_all(self, request: Commit) -> Ack:
        """Raises _Refused when it cannot be taken, and sqlite3.Error when nothing can."""
        records = self._records
        try:
            if request.seed:
                records.replace_salvaged(request.records, first=request.n == 1)
            for record in request.records:
                records.put(record)
        except (sqlite3.Error, OverflowError) as error:
            if isinstance(error, sqlite3.Error) and sqlite.fault_of(error) is not Fault.REFUSED:
                raise
            raise _Refused(str(error)) from error
        return Ack()

    def _put_or_refuse(self, request: Commit) -> Answer:
        """In a savepoint: what cannot be taken leaves nothing behind but the memory that it was refused."""
        execute, rev = self._connection.execute, self._records.rev
        execute("SAVEPOINT decision")
        answer: Answer
        try:
            answer = self._put_all(request)
        except _Refused as error:
            execute("ROLLBACK TO decision")
            self._records.rev = rev
            answer = Nack("rejected", str(error))
            execute("INSERT INTO rejected VALUES (?, ?, ?)", (request.epoch, request.n, answer.message))
            log.error("decision %d.%d was rejected: %s", request.epoch, request.n, error)
        execute("RELEASE decision")
        return answer

    def _had_epoch(self, epoch: int) -> bool:
        query = "SELECT 1 FROM epochs WHERE epoch = ?"
        return self._connection.execute(query, (epoch,)).fetchone() is not None

    def _repeated(self, request: Commit) -> Answer:
        row = self._connection.execute(
            "SELECT message FROM rejected WHERE epoch = ? AND n = ?", (request.epoch, request.n)
        ).fetchone()
        return Ack() if row is None else Nack("rejected", row[0])

    def _take_program(self, request: ProgramStarted) -> Answer:
        row = self._connection.execute("SELECT state FROM executions WHERE id = ?", (request.execution_id,)).fetchone()
        if row is None:
            return Nack("unknown_id", f"no execution {request.execution_id}", exit_code=4)
        if row[0] != "claimed":  # given up while its executor was away: the gate stays shut
            return Nack("not_claimed", f"execution {request.execution_id} is {row[0]}")
        try:
            self._records.add_program(request.execution_id, request.program)
        except OverflowError as error:
            return Nack("rejected", str(error))
        return Ack()

    def open_epoch(self, request: OpenEpoch) -> EpochOpened | Nack | LedgerTrouble:
        """A new epoch for a new incarnation, the same one for the same; an earlier incarnation is refused."""
        refused = self._durably(lambda: self._take_epoch(request.incarnation, request.anchor))
        if refused is not None:
            return refused
        now_steady_s = self.clock.now().steady_s
        snapshot = self._reading(
            lambda: queries.snapshot(
                self._connection,
                ledger_id=self.ledger_id,
                epoch=self.epoch,
                now_steady_s=now_steady_s,
                executions_since_steady_s=now_steady_s - request.executions_window_s,
                closed_since_steady_s=now_steady_s - request.closed_window_s,
            )
        )
        return snapshot if isinstance(snapshot, LedgerTrouble) else EpochOpened(snapshot, self.clock.anchor())

    def _take_epoch(self, incarnation: str, anchor: Anchor | None) -> Nack | None:
        execute = self._connection.execute
        if anchor is not None and execute("SELECT 1 FROM epochs").fetchone() is None:
            self.clock = SteadyClock(anchor)
        row = execute("SELECT epoch FROM epochs WHERE incarnation = ?", (incarnation,)).fetchone()
        if row is None:
            self.epoch, self._last_n = self.epoch + 1, 0
            execute("DELETE FROM rejected")
            execute("INSERT INTO epochs VALUES (?, ?, ?)", (self.epoch, incarnation, wall_s()))
            return None
        if row[0] != self.epoch:
            return Nack("old_epoch", f"{incarnation} had epoch {row[0]}, {self.epoch} is open")
        return None

    # --- reading -------------------------------------------------------------------------------------------------

    def execution(self, execution_id: str) -> Execution | LedgerTrouble | None:
        """The execution as it stands: the engine's view, and the store's own state, claim and programs."""
        found = self._reading(lambda: records.executions(self._connection, "WHERE id = ?", (execution_id,)))
        if isinstance(found, LedgerTrouble):
            return found
        return found[0] if found else None

    def undone_by(self, execution_id: str) -> str:
        found = self._reading(lambda: queries.undone_by(self._connection, execution_id))
        return "" if isinstance(found, LedgerTrouble) else found

    def audit(self, limit: int) -> tuple[AuditEntry, ...] | LedgerTrouble:
        return self._reading(lambda: queries.audit(self._connection, limit))

    def halts(self) -> tuple[Halt, ...]:
        """The databases that nobody may write (R10)."""
        found = self._reading(lambda: queries.halts(self._connection))
        return queries.halts(self._connection) if isinstance(found, LedgerTrouble) else found

    def trails(self, incident_ids: Sequence[str]) -> tuple[bytes, ...] | LedgerTrouble:
        return self._reading(lambda: queries.trails(self._connection, incident_ids))

    def past(self, ask: Callable[[sqlite3.Connection, Path], T]) -> T | LedgerTrouble:
        """`ask` gets the ledger and the folder of its archives (`history`)."""
        return self._reading(lambda: ask(self._connection, self.path.parent))

    def undelivered_synapse(self, up_to_rev: int, at_most: int) -> tuple[OutboxRow, ...]:
        """Messages for Synapse written at `up_to_rev` or before whose delivery the ledger does not know of yet."""
        found = self._reading(lambda: queries.undelivered_synapse(self._connection, up_to_rev, at_most))
        return () if isinstance(found, LedgerTrouble) else found
