"""Room given back from within a file, without touching what other programs write at its end (fallocate(2)).

Both calls hold the file's own lock in the kernel: what is appended meanwhile is neither lost nor moved wrongly. That is
why a log that is being written is never truncated here.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from supervisor import proc

KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, INSERT_RANGE = 0x01, 0x02, 0x08, 0x20
CANNOT = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.ENOTTY})
_F_SETSIG = 10  # the kernel's word that somebody waits for a lease: SIGIO would end us, SIGURG passes by unheard
_libc = ctypes.CDLL(None, use_errno=True)


def _fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    """Raises OSError."""
    while _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def punch(fd: int, start: int, end: int) -> None:
    """The blocks of [start, end) become a hole; every other byte keeps its place. Raises OSError."""
    _fallocate(fd, KEEP_SIZE | PUNCH_HOLE, start, end - start)


def collapse(fd: int, length: int) -> bool:
    """The first `length` bytes are taken out, and what follows moves to the front; False where the kind of file system
    cannot (tmpfs, btrfs). `length` is whole blocks, and less than the file has. A writer that does not append goes on
    where it was: that leaves a hole again, and loses nothing."""
    try:
        _fallocate(fd, COLLAPSE_RANGE, 0, length)
    except OSError as error:
        if error.errno in CANNOT:
            return False
        raise
    return True


def first_data(fd: int, size: int) -> int:
    """Where the data begin; `size` when there are none."""
    try:
        return min(os.lseek(fd, 0, os.SEEK_DATA), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        if error.errno in CANNOT:
            return 0
        raise


def block_bytes(fd: int) -> int:
    return os.fstatvfs(fd).f_bsize


class Openers(msgspec.Struct, frozen=True):
    """Who else has a file open for writing, as far as may be seen. `append_only`: there are some, and each appends.
    `unseen`: so many processes, or more, could not be looked at."""

    writers: int
    append_only: bool
    unseen: int


def openers(status: os.stat_result) -> Openers:
    """Looks at every descriptor of every process. A writer that is not seen loses nothing either (see `collapse`)."""
    key, writers, append_only = (status.st_dev, status.st_ino), 0, True
    pids = proc.pids()
    unseen = int(1 not in pids)  # then those of others are not even listed (proc(5), hidepid)
    for pid in pids:
        if pid == os.getpid():
            continue
        try:
            for flags in _flags_on(f"/proc/{pid}", key):
                if flags & os.O_ACCMODE:
                    writers += 1
                    append_only = append_only and bool(flags & os.O_APPEND)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
        except PermissionError:
            unseen += 1
    return Openers(writers, append_only and writers > 0, unseen)


def _flags_on(process: str, key: tuple[int, int]) -> Iterator[int]:
    """The open flags of each of its descriptors on this very file."""
    for number in os.listdir(f"{process}/fd"):
        try:
            status = os.stat(f"{process}/fd/{number}")
            if (status.st_dev, status.st_ino) != key:
                continue
            with open(f"{process}/fdinfo/{number}", "rb") as info:
                yield next(int(line.split()[1], 8) for line in info if line.startswith(b"flags:"))
        except FileNotFoundError:
            continue  # closed since


def is_open_elsewhere(fd: int) -> bool:
    """Has anybody else this file open, for whatever? A write lease is granted to a sole holder only; in doubt yes."""
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class HasWriter(Exception):
    """Somebody has the file open for writing, or it cannot be known that nobody has."""


@contextmanager
def unwritten(fd: int) -> Iterator[None]:
    """While the block lasts nobody has the file (`fd`, read only) open for writing, and whoever wants to waits
    (a read lease, fcntl(2)). Short: the kernel breaks it after 45 s. Raises HasWriter.

    Where a file system has no leases the descriptors of all processes are looked at instead.
    """
    fcntl.fcntl(fd, _F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EPERM):
            raise HasWriter from error
        if error.errno not in (*CANNOT, errno.ENOLCK):
            raise
        found = openers(os.fstat(fd))
        if found.writers or found.unseen:
            raise HasWriter from error
        yield
        return
    try:
        yield
    finally:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
