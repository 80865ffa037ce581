"""Brings the ledger to a database that others read: in order, exactly once, and never in the ledger's way.

A follower is a thread with a connection of its own. It reads ledger rows newer than its position, writes them in one
short transaction, and keeps the position in that same transaction, in the database itself: a crash before the commit
leaves both as they were, a restored older file comes back with its own position and gets what it lacks.

A target that is locked, gone, damaged or of another shape hurts nobody: the follower says since when and why, and
tries again. It never makes a configured file anew that vanished or was emptied, and never swallows an error. While
its database is halted (R10) it commits nothing there, and does not even close its connection, which could checkpoint.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from supervisor import crashpoint
from supervisor.clock import monotonic_s
from supervisor.errors import StoreError
from supervisor.incidents.model import Halt, HaltPhase
from supervisor.messages import ProjectionStatus
from supervisor.store import sqlite
from supervisor.store.sqlite import Fault

log = logging.getLogger(__name__)

BATCH_REVS = 500  # ledger changes in one transaction of the target: a few milliseconds of its write lock
YIELD = 9  # pauses are this many times what the work took: in a storm the ledger has the processor, not we
YIELD_S_MAX = 0.25
LINGER_S = 0.01  # a repair is a burst of decisions: they go first, and are then projected at once
PACE_S = 0.1  # between our transactions: each can meet a write of another program, which then waits 1 ms or more
STORM_REVS = 1_000  # in a window: the ledger first, a batch of ours only after each pause
STORM_WINDOW_S = 0.5
STORM_PAUSE_S = 0.5
STORM_OVER_S = 0.2  # without a decision: then nobody needs the processor more than we do
RETRY_S = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)  # after failures in a row; the last one for ever
LOCKED_QUIETLY = 3  # meetings with another program's lock in a row, about a second, before it is an error
DRAIN_S = 1.0  # at the stop: longest time to bring what is already in the ledger
CHECKPOINT_WAL_BYTES = 4 * 1024 * 1024
CHECKPOINT_REVS = 2_000  # not again before so many changes more, however large the file stayed

_POSITION = "CREATE TABLE IF NOT EXISTS heal_projection (name TEXT PRIMARY KEY, ledger_id TEXT NOT NULL, rev INTEGER)"

_kept: list[sqlite3.Connection] = []  # never closed, not even by the collector: a last close writes to the file
_opening = threading.Lock()  # two followers that make one new file together would only lock each other out


class Batch(msgspec.Struct, frozen=True):
    """Rows ready to be written, and the position of the target once they are."""

    up_to_rev: int
    rows: tuple[Any, ...]


class Target(ABC):
    """What one follower writes, and where. `own`: the database is ours alone, so it may be made anew."""

    name: str

    def __init__(self, path: Path, *, own: bool) -> None:
        self.path = path
        self.own = own

    @abstractmethod
    def prepare(self, connection: sqlite3.Connection) -> None:
        """Make our tables, check theirs. Raises StoreError on a misfit."""

    @abstractmethod
    def read(self, ledger: sqlite3.Connection, after: int, head: int) -> Batch:
        """What changed after revision `after`, at most `BATCH_REVS` of it; `up_to_rev` is `head` at the end."""

    @abstractmethod
    def write(self, connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
        """Write them, inside the follower's transaction; the same row again changes nothing."""


class _Halted(Exception):
    """The target must not be written now."""


class Follower(threading.Thread):
    """Keeps one target up to the ledger. `on_change` is called in this thread after progress or a new error."""

    def __init__(self, target: Target, ledger_path: Path, on_change: Callable[[], None]) -> None:
        super().__init__(name=f"projection {target.name}", daemon=True)
        self.target = target
        self._on_change = on_change
        self._ledger_path = ledger_path
        self._ledger: sqlite3.Connection | None = None
        self._ledger_is: tuple[int, int] | None = None
        self._connection: sqlite3.Connection | None = None
        self._connection_is: tuple[int, int] | None = None
        self._wake = threading.Event()
        self._halt = threading.Event()
        self._asked_rev = 0
        self._window = (0.0, 0)  # when it began, and the ledger's revision then: how fast it grows
        self._woken_s = 0.0
        self._behind_since_s = monotonic_s()
        self._checkpointed_rev = 0
        self._wrote = 0
        self._wrote_s = 0.0  # when, the last time
        self._fails = 0
        self._held: Halt | None = None  # set by the worker, in one assignment
        # Read by the worker's thread; set by this one only, in one assignment each.
        self.error = ""
        self._done = ("", 0)  # the ledger, and how far of it is in the target

    # --- called by the worker ------------------------------------------------------------------------------------

    def done_rev(self, ledger_id: str) -> int:
        """How far the target has this ledger: everything up to this revision is in it, durably."""
        done_ledger, rev = self._done
        return rev if done_ledger == ledger_id else 0

    def wake(self, ledger_id: str, rev: int) -> None:
        """The ledger has reached `rev`."""
        if self.done_rev(ledger_id) >= self._asked_rev:
            self._behind_since_s = monotonic_s()
        now_s = self._woken_s = monotonic_s()
        if now_s - self._window[0] > STORM_WINDOW_S:
            # What a start finds unwritten is no storm: nobody writes beside it.
            self._window = (now_s, self._asked_rev or rev)
        self._asked_rev = rev
        self._wake.set()

    def hold(self, halt: Halt | None) -> None:
        """R10: from now on nothing more is committed to the target; None: it goes on from where the target stands."""
        if halt != self._held:
            self._held = halt
            self._wake.set()

    def stop(self) -> None:
        """Brings what it can within `DRAIN_S` and ends."""
        self._halt.set()
        self._wake.set()

    def status(self, ledger_id: str, rev: int) -> ProjectionStatus:
        """How far this projection is behind the ledger at `rev`."""
        behind = max(0, rev - self.done_rev(ledger_id))
        return ProjectionStatus(
            name=self.target.name,
            path=str(self.target.path),
            behind=behind,
            behind_for_s=round(monotonic_s() - self._behind_since_s, 3) if behind else 0.0,
            last_error=self.error,
        )

    # --- the thread ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        try:
            while not self._halt.is_set():
                began_s = monotonic_s()
                self._round()
                if self._fails:
                    self._halt.wait(RETRY_S[min(self._fails, len(RETRY_S)) - 1])
                else:
                    if self._asked_rev > self._done[1]:
                        self._yield(began_s)  # commits that follow closely are taken together
                    self._wake.wait()
                    self._halt.wait(max(LINGER_S, self._wrote_s + PACE_S - monotonic_s()))
                self._wake.clear()
            self._round()
        finally:
            self._drop_ledger()
            if self._held is not None and self._held.phase is HaltPhase.HELD and self._connection is not None:
                _kept.append(self._connection)
            else:
                self._drop_target()

    def _round(self) -> None:
        error, locked = "", False
        try:
            self._catch_up()
        except _Halted as caught:
            error = str(caught)
            if self._held is not None and self._held.phase is HaltPhase.RESTORING:
                self._drop_target()  # the file may be rewritten whole, which needs that nobody has it open
        except sqlite3.Error as caught:
            fault, error = sqlite.fault_of(caught), sqlite.describe(caught)
            locked = fault is Fault.BUSY
            if locked:
                error = f"locked by another program: {error}"
            elif fault is Fault.IO:
                error += _not_writable(self.target.path.parent)
            if not locked:
                self._drop_target()  # opened anew next time: its permissions or its content may have changed
                self._drop_ledger()
        except StoreError as caught:
            error = caught.message
            self._drop_target()
        except OSError as caught:
            error = str(caught)
            self._drop_target()
        except Exception as caught:  # a defect of ours must not end healing; it is logged and stays in the status
            log.exception("projection %s failed", self.target.name)
            error = f"{type(caught).__name__}: {caught}"
            self._drop_target()
        self._fails = self._fails + 1 if error and self._held is None else 0
        if locked and not self.error and self._fails <= LOCKED_QUIETLY:
            return  # another program's turn: nobody need hear of it unless it lasts
        if error != self.error:
            if error:
                log.error("projection %s to %s: %s", self.target.name, self.target.path, error)
            else:
                log.info("projection %s to %s works again", self.target.name, self.target.path)
            self.error = error
            self._on_change()

    def _catch_up(self) -> None:
        deadline_s = None
        while True:
            began_s = monotonic_s()
            self._refuse_if_halted()
            connection = self._open_target()
            ledger = self._open_ledger()
            ledger.execute("BEGIN")
            try:
                ledger_id, head = ledger.execute("SELECT ledger_id, rev FROM head").fetchone()
                position = self._position(connection, ledger_id, head)
                batch = self.target.read(ledger, position, head)
            finally:
                if ledger.in_transaction:
                    ledger.execute("ROLLBACK")
            if not batch.rows and batch.up_to_rev == head:
                self._advance(ledger_id, head)
                return
            self._write(connection, batch, ledger_id, position)
            if self._storm():
                self._stand_back()
            elif self._done == (ledger_id, head):
                return  # what has come meanwhile has its turn after PACE_S
            elif self._asked_rev > head:
                self._yield(began_s)
            if self._halt.is_set():
                now_s = monotonic_s()
                deadline_s = deadline_s or now_s + DRAIN_S
                if now_s > deadline_s:
                    return

    def _refuse_if_halted(self) -> None:
        """Raises _Halted."""
        halt = self._held
        if halt is not None:
            raise _Halted(f"halted, what is new waits in the ledger: {halt.why}")

    def _storm(self) -> bool:
        return self._asked_rev - self._window[1] > STORM_REVS and monotonic_s() - self._woken_s < STORM_OVER_S

    def _stand_back(self) -> None:
        end_s = monotonic_s() + STORM_PAUSE_S
        while self._storm() and monotonic_s() < end_s and not self._halt.is_set():
            self._halt.wait(STORM_OVER_S / 2)

    def _yield(self, began_s: float) -> None:
        self._halt.wait(min(YIELD * (monotonic_s() - began_s), YIELD_S_MAX))

    def _advance(self, ledger_id: str, rev: int) -> None:
        if (ledger_id, rev) != self._done:
            self._done = (ledger_id, rev)
            self._on_change()

    def _position(self, connection: sqlite3.Connection, ledger_id: str, head: int) -> int:
        """Where this target stands. Another ledger, or one set back behind it, is told from the start."""
        row = connection.execute(
            "SELECT ledger_id, rev FROM heal_projection WHERE name = ?", (self.target.name,)
        ).fetchone()
        return int(row[1]) if row is not None and row[0] == ledger_id and row[1] <= head else 0

    def _write(self, connection: sqlite3.Connection, batch: Batch, ledger_id: str, position: int) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Nobody else moves the position but a restore, which must not be mixed with rows read before it.
            row = connection.execute(
                "SELECT ledger_id, rev FROM heal_projection WHERE name = ?", (self.target.name,)
            ).fetchone()
            if position and row != (ledger_id, position):
                connection.execute("ROLLBACK")
                return
            self.target.write(connection, batch.rows)
            connection.execute(
                "INSERT OR REPLACE INTO heal_projection (name, ledger_id, rev) VALUES (?, ?, ?)",
                (self.target.name, ledger_id, batch.up_to_rev),
            )
            crashpoint.reach("project.before")
            self._refuse_if_halted()
            connection.execute("COMMIT")
            crashpoint.reach("project.after")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self._advance(ledger_id, batch.up_to_rev)
        self._wrote += len(batch.rows)
        self._wrote_s = monotonic_s()
        self._checkpoint(connection)

    def _checkpoint(self, connection: sqlite3.Connection) -> None:
        """Keeps the WAL from growing without end where nobody else checkpoints."""
        if self._held is not None or self._wrote - self._checkpointed_rev < CHECKPOINT_REVS:
            return
        if sqlite.wal_bytes(self.target.path) < CHECKPOINT_WAL_BYTES:
            return
        if sqlite.checkpoint_alone(self.target.path, connection):
            self._checkpointed_rev = self._wrote

    # --- the two connections -------------------------------------------------------------------------------------

    def _open_ledger(self) -> sqlite3.Connection:
        identity = _identity(self._ledger_path)
        if self._ledger is not None and identity != self._ledger_is:
            self._drop_ledger()  # a damaged ledger was set aside; a reader's close touches no file
        if self._ledger is None:
            self._ledger = sqlite.open_reader(self._ledger_path)
            self._ledger_is = identity
        return self._ledger

    def _open_target(self) -> sqlite3.Connection:
        path = self.target.path
        identity = _identity(path)
        if self._connection is not None and identity != self._connection_is:
            self._drop_target()
        if identity is not None and not self.target.own and os.stat(path).st_size == 0:
            if self._connection is not None:
                _kept.append(self._connection)  # its close could put what is left in the log into the emptied file
                self._connection = None
            raise StoreError(f"{path} is empty", "healctl db restore, or take it away: then a new one is begun")
        if self._connection is None:
            if identity is None and self._connection_is is not None and not self.target.own:
                raise StoreError(f"{path} was there and is gone", "put it back, or restart healctl to begin a new one")
            with _opening:
                self._connection = self._opened(create=identity is None)
                self._connection_is = _identity(path)
        return self._connection

    def _opened(self, *, create: bool) -> sqlite3.Connection:
        connection = sqlite.open_target(self.target.path, create=create)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(_POSITION)
            self.target.prepare(connection)
            self._refuse_if_halted()
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.close()
            raise
        return connection

    def _drop_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def _drop_target(self) -> None:
        """Closes the connection, unless its file was replaced: SQLite would then remove the WAL of the new one."""
        if self._connection is None:
            return
        if _identity(self.target.path) == self._connection_is:
            self._connection.close()
        else:
            _kept.append(self._connection)
        self._connection = None


def _not_writable(folder: Path) -> str:
    """What SQLite does not say: it calls a database whose log it cannot make one that it cannot open."""
    try:
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            return f"; {folder} is mounted read-only"
        return "" if os.access(folder, os.W_OK) else f"; healctl may not write in {folder}"
    except OSError as error:
        return f"; {folder}: {error.strerror}"


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
