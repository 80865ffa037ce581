"""One integrity check of one SQLite database, in a thread, beside whoever uses it (FR-001, FR-002, R9).

`quick_check` first, since it takes a tenth of the time and its errors already count; the full `integrity_check` after
it, since it finds more, and only it can say OK. Either may report errors or raise (SQLITE_CORRUPT): both mean corrupt.
Whatever else keeps the check from being made (a lock, a hot journal, a permission) is a reason, and no verdict.

The check must not be felt. It runs at a low priority. A reader of a database with a rollback journal keeps everybody
else from committing, so the check gives way as soon as a writer waits for its lock, and tries again later; in WAL mode
nobody waits for a reader, only the log cannot be cut back meanwhile. It can be ended at any time.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum

import msgspec

from supervisor import clock
from supervisor.incidents.readings import Integrity, Unavailable
from supervisor.sqlite_file import (
    CannotOpen,
    Damaged,
    NotMade,
    Overtaken,
    open_readonly,
    primary_code,
    reason_of,
    writer_waits,
)

BUDGET_S = 3600.0  # of one attempt
LOCK_WAIT_S = 2.0
TICK_S = 0.02  # how long a writer waits for us at most, about
ATTEMPTS_MAX = 5
FIRST_PAUSE_S = 0.2  # between two attempts, doubling
PATIENCE_PAUSE_S = 0.1
ERRORS_MAX = 20
ERROR_CHARS_MAX = 300
PASSES = 6.0  # how often the pages of a file are read until the first check of it has told how often they really are
NICE = 5


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a check ended: with a verdict, or (`Integrity.UNKNOWN`) with the reason why there is none."""

    began_mono_s: float
    began_wall_s: float
    verdict: Integrity = Integrity.UNKNOWN
    check: str = ""
    errors: tuple[str, ...] = ()
    header_destroyed: bool = False
    took_s: float = 0.0
    reason: Unavailable = Unavailable.NONE
    error: str = ""
    file: tuple[int, int] | None = None  # device and inode: the verdict is about this file only
    size_bytes: int = 0
    read_bytes: int = 0


class _End(StrEnum):
    """Why an attempt was interrupted."""

    STOPPED = "the check was stopped"
    BUDGET = "the check did not end within its budget"
    GONE = "the file was deleted while it was checked"
    REPLACED = "the file was replaced while it was checked, again and again"
    WRITER = (
        "it is written too often for a whole check: its rollback journal lets nobody write while somebody reads, so "
        "the check gives way each time; in WAL mode (PRAGMA journal_mode=WAL) it could be checked"
    )
    CHANGED = "it was changed without a lock while it was checked, again and again"


_REASONS = {
    _End.BUDGET: Unavailable.DEADLINE,
    _End.GONE: Unavailable.MISSING,
    _End.WRITER: Unavailable.LOCKED,
    _End.CHANGED: Unavailable.LOCKED,
}
_AGAIN = (_End.REPLACED, _End.WRITER, _End.CHANGED)


class _Ended(Exception):
    def __init__(self, why: _End) -> None:
        super().__init__(str(why))
        self.why = why


class _Attempt:
    """What the thread that minds a running attempt has to know."""

    def __init__(self, connection: sqlite3.Connection, log: str) -> None:
        self.connection = connection
        self.log = log  # "" when nobody waits for readers
        self.log_was = _signature(log) if log else None
        self.lock = threading.Lock()
        self.over = threading.Event()
        self.why: _End | None = None


class Check:
    """`run` in a thread; everything else from the event loop. `expected_bytes` is what the last check had to read.

    `patience_s`: so long is a file awaited that is about to be created.
    """

    def __init__(self, path: str, expected_bytes: int = 0, patience_s: float = 0.0) -> None:
        self._path = path
        self._expected_bytes = expected_bytes
        self._patience_s = patience_s
        self._stop = threading.Event()
        self._stopped_by = ""
        self._task_id = 0
        self._base_bytes = 0
        self.stage = ""
        self.opened = False  # since then it is a matter of reading
        self.awaits_creation = False
        self.file: tuple[int, int] | None = None
        self.size_bytes = 0
        self.progress = 0.0  # an estimate, by the bytes read; it only grows
        self.moved_s = clock.monotonic_s()  # when it last did

    def stop(self, by: str = "") -> None:
        """`by`: who has had it cancelled; nobody where it is not wanted any more."""
        self._stopped_by = by
        self._stop.set()

    # --- the thread ----------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Blocks until there is an outcome; raises nothing that SQLite or the file system may cause."""
        self._task_id = threading.get_native_id()
        # Linux: of this thread alone. Who is nicer already stays so: going back takes a privilege.
        nice = max(NICE, os.getpriority(os.PRIO_PROCESS, self._task_id))
        os.setpriority(os.PRIO_PROCESS, self._task_id, nice)
        self._base_bytes = self._read_bytes()
        give_up_s = clock.monotonic_s() + self._patience_s
        tries = 0
        while True:
            began = Outcome(began_mono_s=clock.monotonic_s(), began_wall_s=clock.wall_s())
            self.moved_s = began.began_mono_s
            try:
                return self._finished(self._attempt(began, last=tries + 1 >= ATTEMPTS_MAX))
            except CannotOpen as error:
                self.awaits_creation = isinstance(error, NotMade) and clock.monotonic_s() < give_up_s
                pause_s = PATIENCE_PAUSE_S
                if not self.awaits_creation:
                    if not isinstance(error, Overtaken) or tries + 1 >= ATTEMPTS_MAX:
                        return self._failed(began, error.reason, str(error))
                    pause_s, tries = FIRST_PAUSE_S * 2**tries, tries + 1
            except _Ended as error:
                if error.why not in _AGAIN or tries + 1 >= ATTEMPTS_MAX:
                    return self._failed(began, _REASONS.get(error.why, Unavailable.ERROR), f"{self._path}: {error.why}")
                pause_s, tries = FIRST_PAUSE_S * 2**tries, tries + 1
            except (OSError, ValueError) as error:
                return self._failed(began, Unavailable.ERROR, f"{self._path}: {error}")
            if self._stop.wait(pause_s):
                return self._failed(began, Unavailable.ERROR, str(_End.STOPPED))

    def _finished(self, outcome: Outcome) -> Outcome:
        return msgspec.structs.replace(
            outcome,
            took_s=clock.monotonic_s() - outcome.began_mono_s,
            file=self.file,
            size_bytes=self.size_bytes,
            read_bytes=self._read_bytes() - self._base_bytes,
        )

    def _failed(self, began: Outcome, reason: Unavailable, error: str) -> Outcome:
        if self._stopped_by:
            error = f"{self._path}: its check was cancelled by {self._stopped_by}"
        return self._finished(msgspec.structs.replace(began, reason=reason, error=error))

    def _attempt(self, began: Outcome, *, last: bool) -> Outcome:
        """Raises CannotOpen, _Ended."""
        before = _signature(self._path)
        if before is not None:
            self.file, self.size_bytes = before[:2], before[2]
        try:
            with open_readonly(self._path, LOCK_WAIT_S) as db:
                self.opened = True
                found = self._minded(began, db)
        except Damaged as error:
            found = msgspec.structs.replace(
                began,
                verdict=Integrity.CORRUPT,
                check="opening it",
                errors=(str(error)[:ERROR_CHARS_MAX],),
                header_destroyed=error.header_destroyed,
            )
        after = _signature(self._path)
        if after is None:
            raise _Ended(_End.GONE)
        if before is None or before[:2] != after[:2]:
            raise _Ended(_End.REPLACED)
        if found.verdict is Integrity.CORRUPT and before != after and not last:
            raise _Ended(_End.CHANGED)  # half of what a copy over the file has written looks just like damage
        return found

    def _minded(self, began: Outcome, db: sqlite3.Connection) -> Outcome:
        """The check itself, while another thread watches over it."""
        wal = db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        real = os.path.realpath(self._path)
        # "delete" is also what a closed WAL database says, which is read without locks: its log shows a writer.
        attempt = _Attempt(db, "" if wal else f"{real}-wal")
        mind = threading.Thread(target=self._mind, args=(attempt, began), name="check minder", daemon=True)
        mind.start()
        try:
            return self._verdict(began, db)
        except sqlite3.Error as error:
            if attempt.why is not None:
                raise _Ended(attempt.why) from error
            if primary_code(error) == sqlite3.SQLITE_READONLY:  # a journal was deleted just when SQLite looked at it
                raise _Ended(_End.WRITER) from error
            return msgspec.structs.replace(began, reason=reason_of(error), error=f"it cannot be checked: {error}")
        finally:
            with attempt.lock:
                attempt.over.set()
            if attempt.why is not None:  # whatever was found, it was found while being interrupted
                raise _Ended(attempt.why)

    def _verdict(self, began: Outcome, db: sqlite3.Connection) -> Outcome:
        for check in ("quick_check", "integrity_check"):
            self.stage = check
            errors = _errors(db, check)
            if errors:
                return msgspec.structs.replace(began, verdict=Integrity.CORRUPT, check=check, errors=errors)
        return msgspec.structs.replace(began, verdict=Integrity.OK, check="integrity_check")

    # --- the thread beside it ------------------------------------------------------------------------------------

    def _mind(self, attempt: _Attempt, began: Outcome) -> None:
        """Ends the attempt when it must not go on. SQLite 3.40 calls no progress handler while it walks a tree, but it
        heeds an interrupt there."""
        while not attempt.over.wait(TICK_S):
            self._note_progress()
            try:
                why = self._why_not(attempt, began)
            except OSError:  # it has gone in this very moment, or its disk fails: the check itself will tell
                continue
            with attempt.lock:
                if attempt.over.is_set():
                    return
                attempt.why = attempt.why or why
                if attempt.why is not None:
                    attempt.connection.interrupt()  # again each tick: between two statements it is not heard

    def _why_not(self, attempt: _Attempt, began: Outcome) -> _End | None:
        if self._stop.is_set():
            return _End.STOPPED
        if clock.monotonic_s() - began.began_mono_s > BUDGET_S:
            return _End.BUDGET
        now = _signature(self._path)
        if now is None:
            return _End.GONE
        if attempt.log and (_signature(attempt.log) not in (None, attempt.log_was) or writer_waits(self._path)):
            return _End.WRITER
        return _End.REPLACED if now[:2] != self.file else None

    def _note_progress(self) -> None:
        done = self._read_bytes() - self._base_bytes
        expected = self._expected_bytes or PASSES * self.size_bytes
        progress = min(done / expected, 0.99) if expected else 0.0
        if progress > self.progress:
            self.progress = progress
            self.moved_s = clock.monotonic_s()
        elif self.progress >= 0.99:
            self.moved_s = clock.monotonic_s()  # the estimate was too low; it may well go on

    def _read_bytes(self) -> int:
        """What this check's thread has read from files: the kernel counts it for each thread (proc(5), io: rchar)."""
        try:
            with open(f"/proc/self/task/{self._task_id}/io", "rb", buffering=0) as file:
                return int(file.read(64).split()[1])
        except (FileNotFoundError, PermissionError, ProcessLookupError):  # a kernel without it: no estimate
            return 0


@contextmanager
def _loose(db: sqlite3.Connection) -> Iterator[None]:
    """CHECK constraints are not looked at: they call functions that only the database's own program has."""
    db.execute("PRAGMA ignore_check_constraints=ON")
    try:
        yield
    finally:
        db.execute("PRAGMA ignore_check_constraints=OFF")


def _errors(db: sqlite3.Connection, check: str) -> tuple[str, ...]:
    """What the check found; empty when all is well. Raises sqlite3.Error when it could not be made."""
    try:
        return _rows(db, check)
    except sqlite3.Error as error:
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        with _loose(db):
            return _rows(db, check)


def _rows(db: sqlite3.Connection, check: str) -> tuple[str, ...]:
    found: list[str] = []
    try:
        for row in db.execute(f"PRAGMA {check}({ERRORS_MAX})"):
            found.append(str(row[0])[:ERROR_CHARS_MAX])
    except sqlite3.Error as error:
        if primary_code(error) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
        found.append(f"{error} ({error.sqlite_errorname})")
    return () if found == ["ok"] else tuple(found)


def _signature(path: str) -> tuple[int, int, int, int] | None:
    """Device, inode, size, time of change; None when it is not there. Raises OSError."""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
