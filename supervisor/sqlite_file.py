"""The one way in which a probe opens somebody's SQLite database: to read, and leaving no trace (FR-001, R9).

It blocks, so it is called in a thread. It never creates a file, never writes, rolls back or checkpoints, and never
waits for what stands in a database's place (a directory, a FIFO, a device).

A read-only open is not harmless by itself: of a database in WAL mode that nobody has open it makes -wal and -shm, and
leaves them. Such a one is opened `immutable`, which takes no locks and looks at neither; so whoever begins to write it
meanwhile makes what was read worthless, and `open_readonly` says so at the end of its block.

POSIX locks belong to the process: closing *any* descriptor of a file drops all locks that the process has on it, those
of SQLite's connections included. So a worker that probes holds no locks on databases but those of connections made
here, and the descriptor by which a header was read stays open until the last connection to that file has gone.

What remains: if the last writer closes in the instant between our look at its -wal and -shm and our open, we make them
anew, empty; the next writer removes them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

import msgspec

from supervisor import clock
from supervisor.incidents.readings import Unavailable

AGAIN_S = 0.02  # between two tries, while a writer comes or goes
HEADER_BYTES = 100
MAGIC = b"SQLite format 3\0"
WAL_VERSION = 2  # bytes 18 and 19 of the header
PENDING_BYTE = 0x40000000  # SQLite's file format: where its locks are
_FLOCK = "hhqqi0q"  # struct flock of fcntl(2): type, whence, start, length, process
OURS = sqlite3.sqlite_version_info[0] * 1_000_000 + sqlite3.sqlite_version_info[1] * 1000

_REASONS = {
    sqlite3.SQLITE_BUSY: Unavailable.LOCKED,
    sqlite3.SQLITE_LOCKED: Unavailable.LOCKED,
    sqlite3.SQLITE_PERM: Unavailable.PERMISSION,
    sqlite3.SQLITE_AUTH: Unavailable.PERMISSION,
    sqlite3.SQLITE_NOTADB: Unavailable.BAD_DATA,
    sqlite3.SQLITE_CORRUPT: Unavailable.BAD_DATA,
}


class CannotOpen(Exception):
    """The database cannot be read now; the text is a sentence that says why.

    `reason`: MISSING, LOCKED, PERMISSION, BAD_DATA (not a database, or unusable as it stands) or ERROR.
    """

    def __init__(self, reason: Unavailable, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotMade(CannotOpen):
    """There is no database there, or not yet: MISSING, or BAD_DATA for a file of 0 bytes."""


class Damaged(CannotOpen):
    """SQLite itself says that it is no database, or a malformed one. `header_destroyed`: its first bytes are gone."""

    def __init__(self, message: str, *, header_destroyed: bool) -> None:
        super().__init__(Unavailable.BAD_DATA, message)
        self.header_destroyed = header_destroyed


class _Trouble(CannotOpen):
    """What a writer that comes or goes may just have caused; looked at again until the time is up."""


class Overtaken(_Trouble):
    """Somebody wrote meanwhile what was taken for unchanging: what was read of it is worth nothing."""


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (the low byte of the extended one); 0 when Python's module raised by itself."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def reason_of(error: sqlite3.Error) -> Unavailable:
    """Why SQLite refused, as a reading has to say it."""
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_ROLLBACK:
        return Unavailable.BAD_DATA
    return _REASONS.get(primary_code(error), Unavailable.ERROR)


class _Header(msgspec.Struct, frozen=True):
    """What the file's first bytes say. `wal`: it is in WAL mode."""

    size: int
    wal: bool
    written_by: int  # SQLITE_VERSION_NUMBER of its last writer


class _Beside(msgspec.Struct, frozen=True):
    """What lies beside the database: sizes in bytes, None for what is not there."""

    wal: int | None
    shm: int | None


class _Held:
    """One database file of which this process has connections: the descriptors that must stay open so long."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.fds: list[int] = []
        self.users = 0


_held: dict[tuple[int, int], _Held] = {}
_held_lock = threading.Lock()  # never held over a system call: a dead mount must not stop the others


@contextmanager
def open_readonly(path: str, timeout_s: float = 0.5) -> Iterator[sqlite3.Connection]:
    """A connection that can only read. Waits at most about `timeout_s` for locks; raises CannotOpen.

    `Overtaken`, a CannotOpen, may also come at the *end* of the block: what was read must then be thrown away. Text
    that is not UTF-8 is read with replacement characters.
    """
    end_s = clock.monotonic_s() + timeout_s
    real = _resolved(path)
    with _descriptor(real) as fd:
        while True:
            try:
                connection, before = _open(real, _header(real, fd), max(end_s - clock.monotonic_s(), 0.0))
                break
            except _Trouble:
                if clock.monotonic_s() + AGAIN_S > end_s:
                    raise
            time.sleep(AGAIN_S)
        try:
            yield connection
        except sqlite3.Error as error:
            if before is not None:
                _still(real, before, error)
            raise
        else:
            if before is not None:
                _still(real, before)
        finally:
            connection.close()


def writer_waits(path: str) -> bool:
    """Does another process wait until all readers have gone (a rollback journal's PENDING lock), or write just now?

    For a path that is open here by `open_readonly`; False otherwise. It asks the kernel and takes no lock itself.
    Raises OSError.
    """
    found = os.stat(path)
    with _held_lock:
        held = _held.get((found.st_dev, found.st_ino))
    if held is None:
        return False
    with held.lock:
        if not held.fds:
            return False
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, PENDING_BYTE, 1, 0)
        answer = struct.unpack(_FLOCK, fcntl.fcntl(held.fds[0], fcntl.F_GETLK, asked))
        return bool(answer[0] != fcntl.F_UNLCK)


def _resolved(path: str) -> str:
    """As SQLite does it: what belongs to the database lies beside the file, not beside a link to it."""
    try:
        real = os.path.realpath(path, strict=True)
        mode = os.stat(real).st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotMade(Unavailable.MISSING, f"{path} does not exist") from error
    except PermissionError as error:
        raise CannotOpen(Unavailable.PERMISSION, f"{path} may not be looked at by this user") from error
    except (OSError, ValueError) as error:
        raise CannotOpen(Unavailable.ERROR, f"{path} cannot be looked at: {error}") from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a FIFO" if stat.S_ISFIFO(mode) else "not a regular file"
        raise CannotOpen(Unavailable.BAD_DATA, f"{path} is {kind}, not a database")
    return real


@contextmanager
def _descriptor(real: str) -> Iterator[int]:
    """One for reading the header, which outlives every connection of this process to the file."""
    try:  # non-blocking: a FIFO may have come into its place
        fd = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise NotMade(Unavailable.MISSING, f"{real} does not exist") from error
        if isinstance(error, PermissionError):
            raise CannotOpen(Unavailable.PERMISSION, f"{real} may not be read by this user") from error
        raise CannotOpen(Unavailable.ERROR, f"{real} cannot be read: {error.strerror}") from error
    found = os.fstat(fd)
    key = (found.st_dev, found.st_ino)
    with _held_lock:
        held = _held.setdefault(key, _Held())
        held.users += 1
    with held.lock:  # waits while others' descriptors of it are being closed: our connection comes after that
        held.fds.append(fd)
    try:
        yield fd
    finally:
        _let_go(key, held)


def _let_go(key: tuple[int, int], held: _Held) -> None:
    with held.lock:
        with _held_lock:
            held.users -= 1
            last = held.users == 0
        if last:
            for fd in held.fds:
                os.close(fd)
            held.fds.clear()
        with _held_lock:
            if held.users == 0:
                _held.pop(key, None)


def _header(real: str, fd: int) -> _Header:
    try:
        size, start = os.fstat(fd).st_size, os.pread(fd, HEADER_BYTES, 0)
    except OSError as error:
        raise CannotOpen(Unavailable.ERROR, f"{real} cannot be read: {error.strerror}") from error
    wal = start.startswith(MAGIC) and WAL_VERSION in start[18:20]
    return _Header(size, wal, written_by=int.from_bytes(start[96:100], "big"))


def _open(real: str, header: _Header, timeout_s: float) -> tuple[sqlite3.Connection, tuple[int, ...] | None]:
    """A connection that has read its first page; and, when it takes no locks, by what a change would be seen."""
    if header.size == 0:
        raise NotMade(Unavailable.BAD_DATA, f"{real} is empty: it has not become a database yet, or was cut off")
    if header.size < HEADER_BYTES:
        raise Damaged(f"{real} is not a database: it has {header.size} bytes only", header_destroyed=True)
    beside = _beside(real)
    if not (header.wal or beside.wal):  # a rollback journal: a read-only open makes nothing
        return _connect(real, header, "mode=ro", timeout_s), None
    if beside.wal is None and beside.shm is None:
        return _immutable(real, header, beside)
    if beside.wal is None:
        raise _Trouble(
            Unavailable.BAD_DATA,
            f"the index of a write-ahead log lies beside {real}, but not the log itself: it was removed or not copied",
        )
    if beside.shm is not None:
        return _connect(real, header, "mode=ro", timeout_s), None
    return _without_index(real, header, beside, timeout_s)


def _without_index(
    real: str, header: _Header, beside: _Beside, timeout_s: float
) -> tuple[sqlite3.Connection, tuple[int, ...] | None]:
    """A log without its index: either of a writer that holds the file for itself alone, or left by nobody alive."""
    try:
        return _connect(real, header, "mode=ro&readonly_shm=1", timeout_s), None
    except CannotOpen as error:
        cause = error.__cause__
        if not isinstance(cause, sqlite3.Error) or primary_code(cause) != sqlite3.SQLITE_CANTOPEN:
            raise
    if beside.wal == 0:
        return _immutable(real, header, beside)
    raise _Trouble(
        Unavailable.BAD_DATA,
        f"a write-ahead log lies beside {real} without its index, so that it cannot be read without making one; "
        "the next program that opens it to write mends that",
    )


def _immutable(real: str, header: _Header, beside: _Beside) -> tuple[sqlite3.Connection, tuple[int, ...]]:
    before = _state(real, beside)
    connection = _connect(real, header, "mode=ro&immutable=1", 0.0)
    try:
        _still(real, before)
    except CannotOpen:
        connection.close()
        raise
    return connection, before


def _connect(real: str, header: _Header, query: str, timeout_s: float) -> sqlite3.Connection:
    uri = f"file:{quote(os.fsencode(real))}?{query}"
    try:
        connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=timeout_s, check_same_thread=False)
    except sqlite3.Error as error:
        raise _refused(real, header, error) from error
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA mmap_size=0")  # a file cut off under a mapping would kill us (SIGBUS)
        # trusted_schema stays on: else an index on an expression (json_extract, say) reads as a malformed schema.
        # This connection has no functions of its own and loads no extensions: there is nothing to misuse.
        connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
    except sqlite3.Error as error:
        connection.close()
        raise _refused(real, header, error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _refused(real: str, header: _Header, error: sqlite3.Error) -> CannotOpen:
    """The first look at the file failed: why, in a sentence."""
    name = f"{error} ({getattr(error, 'sqlite_errorname', 'no code')})"
    reason, code = reason_of(error), primary_code(error)
    if reason is Unavailable.LOCKED:
        return CannotOpen(reason, f"{real} is locked by another program: {name}")
    if code == sqlite3.SQLITE_READONLY:
        return _Trouble(  # SQLite says so too of a journal that is deleted while it looks (its ticket 3883)
            reason,
            f"{real} was left in the middle of a transaction: its journal is hot, and only a program that writes it "
            f"can roll it back: {name}",
        )
    if code == sqlite3.SQLITE_CORRUPT and header.written_by // 1000 > OURS // 1000:
        return CannotOpen(reason, f"{real} was written by a newer SQLite than {sqlite3.sqlite_version}: {name}")
    if reason is Unavailable.BAD_DATA:
        return Damaged(f"{real}: {name}", header_destroyed=code == sqlite3.SQLITE_NOTADB)
    if code == sqlite3.SQLITE_CANTOPEN and not _may_read(real):
        return CannotOpen(Unavailable.PERMISSION, f"the files beside {real} may not be read by this user: {name}")
    return CannotOpen(reason, f"{real} cannot be opened: {name}")


def _may_read(real: str) -> bool:
    for path in (real, f"{real}-wal", f"{real}-shm"):
        with suppress(OSError):
            os.lstat(path)
            if not os.access(path, os.R_OK, effective_ids=True):
                return False
    return True


def _beside(real: str) -> _Beside:
    return _Beside(*(_size(f"{real}{suffix}") for suffix in ("-wal", "-shm")))


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = Unavailable.PERMISSION if isinstance(error, PermissionError) else Unavailable.ERROR
        raise CannotOpen(reason, f"{path} cannot be looked at: {error.strerror}") from error


def _state(real: str, beside: _Beside) -> tuple[int, ...]:
    try:
        found = os.stat(real)
    except OSError as error:
        raise _Trouble(Unavailable.MISSING, f"{real} has just gone") from error
    return (found.st_ino, found.st_size, found.st_mtime_ns, beside.wal or 0, beside.shm or 0)


def _still(real: str, before: tuple[int, ...], cause: sqlite3.Error | None = None) -> None:
    """Raises when somebody has the file open to write, or did, since `before`: then no lock kept them apart from us."""
    beside = _beside(real)
    if beside.shm is not None or _state(real, beside) != before:
        raise Overtaken(Unavailable.LOCKED, f"{real} was written while it was read") from cause
