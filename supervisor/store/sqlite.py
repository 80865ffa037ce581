"""The one way to open a database, and the one way to checkpoint one that others write too (docs/adr/0001-sqlite.md).

It loads Python's own SQLite and no other: two libraries on one file in one process drop each other's POSIX locks.
For the same reason nothing here opens a database's file by hand while a connection to it exists.

A checkpoint must never run beside another connection's commit: SQLite before 3.51.3 (3.50.7, 3.44.6) may then lose
committed pages. So the ledger has one writing connection, which alone checkpoints; and a database that other programs
write too is checkpointed by us only while we hold its write lock, so that nobody can commit.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

TARGET_BUSY_MS = 250  # longest wait for another program's lock before we let go and come back later
# The bytes that SQLite locks: in the -shm file a writer's, next to it that of who copies the log back; in the database
# itself a writer's without a log (sqlite.org/walformat.html, os.h).
WAL_WRITER, RESERVED = 120, 0x40000001
WAL_PAGES_MAX = 4_000  # the ledger's WAL is checkpointed beyond this (16 MiB)
WAL_BYTES_MAX = 16 * 1024 * 1024  # and cut back to this when it starts over

VERSION = sqlite3.sqlite_version
_RESET_FIXED = ((3, 51, 3), (3, 50, 7), (3, 44, 6))  # sqlite.org/wal.html#walresetbug


def has_wal_reset_bug(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """May commits beside a checkpoint be lost with this library (ADR 0001)? Ours are arranged so that none are."""
    newest, *maintained = _RESET_FIXED
    fixed_in_series = any(version[:2] == fixed[:2] and version >= fixed for fixed in maintained)
    return (3, 7, 0) <= version < newest and not fixed_in_series


class Fault(StrEnum):
    """What an SQLite error means for whoever has to go on."""

    FULL = "full"  # no space: may be over when some is made
    IO = "io"  # the device, or the file's permissions
    DAMAGED = "damaged"  # what is there is no database, or a broken one
    REFUSED = "refused"  # a constraint: this record, not the database, is wrong
    BUSY = "busy"  # another program holds a lock
    OTHER = "other"


DISK_FAULTS = (Fault.FULL, Fault.IO)  # they say nothing of what the database holds


_FAULTS = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_IOERR: Fault.IO,
    sqlite3.SQLITE_CANTOPEN: Fault.IO,
    sqlite3.SQLITE_READONLY: Fault.IO,
    sqlite3.SQLITE_PERM: Fault.IO,
    sqlite3.SQLITE_CORRUPT: Fault.DAMAGED,
    sqlite3.SQLITE_NOTADB: Fault.DAMAGED,
    sqlite3.SQLITE_CONSTRAINT: Fault.REFUSED,
    sqlite3.SQLITE_TOOBIG: Fault.REFUSED,
    sqlite3.SQLITE_BUSY: Fault.BUSY,
    sqlite3.SQLITE_LOCKED: Fault.BUSY,
}


def fault_of(error: sqlite3.Error) -> Fault:
    """The kind of `error`, by SQLite's primary result code (the low byte of the extended one)."""
    code = getattr(error, "sqlite_errorcode", None)
    return Fault.OTHER if code is None else _FAULTS.get(code & 0xFF, Fault.OTHER)


def describe(error: sqlite3.Error) -> str:
    """E.g. `database or disk is full (SQLITE_FULL)`."""
    name = getattr(error, "sqlite_errorname", "")
    return f"{error} ({name})" if name else str(error)


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=128, timeout=0)


def open_ledger(path: Path, check: Callable[[sqlite3.Connection], None] | None = None) -> sqlite3.Connection:
    """The ledger's only writing connection. Creates the file 0600 (its -wal and -shm take over the mode).

    `check` raises what is to be raised when this is no file of ours, before anything in it is changed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    new = os.fstat(descriptor).st_size == 0
    os.close(descriptor)
    connection = _connect(path, "rw")
    try:
        connection.execute("PRAGMA busy_timeout=5000")  # a reader's lock at its opening; nobody else ever writes
        if check is not None:
            check(connection)
        if new:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # what is archived gives its space back
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES_MAX}")
        connection.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
        connection.execute("PRAGMA temp_store=MEMORY")  # no temporary file that a full disk could refuse
        connection.execute("PRAGMA cache_size=-16384")
    except BaseException:
        connection.close()
        raise
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that can only read; it never checkpoints, not even when it is the last one to close."""
    connection = _connect(path, "ro")
    try:
        connection.execute("PRAGMA busy_timeout=1000")
        connection.execute("PRAGMA query_only=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_archive(path: Path) -> sqlite3.Connection:
    """A database that is written seldom and by us alone: no WAL stays beside it. Creates the file 0600."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = _connect(path, "rw")
    try:
        connection.execute("PRAGMA busy_timeout=1000")
        connection.execute("PRAGMA synchronous=FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def open_target(path: Path, *, create: bool) -> sqlite3.Connection:
    """A database that other programs may write too: their journal mode is kept, and we never checkpoint by ourselves.

    With `create` a missing file is made, in WAL mode as SITE.md has it; without, it is an error.
    """
    new = create and not path.exists()
    connection = _connect(path, "rwc" if create else "rw")
    try:
        connection.execute(f"PRAGMA busy_timeout={TARGET_BUSY_MS}")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        if new:
            connection.execute("PRAGMA journal_mode=WAL")
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        # In WAL mode NORMAL cannot corrupt; what a power failure takes back it takes back with our position, and
        # it is written again. A rollback journal needs the full sync.
        connection.execute(f"PRAGMA synchronous={'NORMAL' if mode == 'wal' else 'FULL'}")
        connection.execute("PRAGMA foreign_keys=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def open_copy(path: Path) -> sqlite3.Connection:
    """A new file that does not count yet: no journal, no fsync; whoever makes it count makes it durable first."""
    connection = _connect(path, "rwc")
    connection.execute("PRAGMA journal_mode=OFF")
    connection.execute("PRAGMA synchronous=OFF")
    return connection


def open_damaged(path: Path) -> sqlite3.Connection:
    """One whose pages may be bad, and whose size may not be what its header says: to merge its log, or to be written
    over as a whole. It never checkpoints by itself."""
    connection = _connect(path, "rw")
    try:
        connection.execute("PRAGMA writable_schema=ON")  # before anything is read: then the size does not matter
        connection.execute(f"PRAGMA busy_timeout={TARGET_BUSY_MS}")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # synchronous is FULL; to ask for it would read the file
    except BaseException:
        connection.close()
        raise
    return connection


def open_unchanging(path: Path) -> sqlite3.Connection:
    """A file that nobody writes, a finished copy: read without locks, and nothing is made beside it."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    connection.execute("PRAGMA query_only=ON")
    return connection


def open_lock(path: Path) -> sqlite3.Connection:
    """A connection that is only there to take the write lock: it never creates, never checkpoints, never waits.

    It may be used in any thread, one at a time.
    """
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, check_same_thread=False)
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


def checkpoint_alone(path: Path, connection: sqlite3.Connection) -> bool:
    """Copies the WAL back while `connection` holds the write lock, so that no commit can run beside it.

    A connection cannot checkpoint inside its own transaction, so a second one does, in PASSIVE mode: the other modes
    silently go on without the write lock when they do not get it. False when the lock is not to be had now.
    """
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        if fault_of(error) is Fault.BUSY:
            return False
        raise
    try:
        second = open_target(path, create=False)
        try:
            busy, _, _ = second.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            second.close()
    finally:
        connection.execute("ROLLBACK")
    return not busy


def beside(path: Path, suffix: str) -> str:
    """The file with this suffix that SQLite keeps beside the database itself, and not beside a symbolic link to it."""
    return os.path.realpath(path) + suffix


def wal_bytes(path: Path) -> int:
    """Size of the -wal file beside `path`, 0 when there is none."""
    try:
        return os.stat(beside(path, "-wal")).st_size
    except FileNotFoundError:
        return 0
