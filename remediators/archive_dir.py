"""`.archive` beside the logs of one folder, and what may stand in it under which name.

    NAME.gz                what a log held, and holds no more
    .NAME.gz.pending       complete and durable; the log may still hold it, too: `rotate_file.settle` ends that
    .NAME.gz.part          incomplete: worth nothing
    .NAME.taken            a log on its way out, whose pending archive is complete

One rotation at a time works in a folder, wherever its archives are made; another one is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType

from remediators import safe_dir
from remediators.safe_dir import Unsafe
from supervisor import clock

NAME = ".archive"
NAME_BYTES_MAX = 255
ROOM_IN_A_NAME = 40  # for a stamp and the suffixes
PART, PENDING, TAKEN = ".part", ".pending", ".taken"
SAME_NAME_MAX = 1_000


class Folder:
    """A folder with logs, held by descriptor. `archive_fd` is there once something is to be archived."""

    def __init__(self, path: str, written: tuple[str, ...]) -> None:
        self.path = path
        self.archive_fd = -1
        self.fd = safe_dir.open_folder(path, written)
        self.status = os.fstat(self.fd)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for fd in (self.archive_fd, self.fd):
            if fd >= 0:
                os.close(fd)

    def open_archive(self, *, make: bool) -> bool:
        """Opens `.archive`, for us alone; False when there is none, and none is to be made. Raises Unsafe, OSError."""
        if self.archive_fd >= 0:
            return True
        lock_alone(self.fd)  # not `.archive`: who makes archives elsewhere works on the same logs
        fd = self._open_archive(make=make)
        if fd is None:
            return False
        try:
            status = os.fstat(fd)
            if status.st_dev != self.status.st_dev:
                raise Unsafe(f"{NAME} lies on another file system")
            if status.st_uid not in (0, os.geteuid(), self.status.st_uid) or status.st_mode & 0o022:
                raise Unsafe(f"others may write {NAME}")
        except BaseException:
            os.close(fd)
            raise
        self.archive_fd = fd
        return True

    def archive_elsewhere(self, place: Path) -> None:
        """A folder of ours stands in for `.archive`. Raises Unsafe, OSError."""
        lock_alone(self.fd)
        self.archive_fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _open_archive(self, *, make: bool) -> int | None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(NAME, flags, dir_fd=self.fd)
        except FileNotFoundError:
            if not make:
                return None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise Unsafe(f"{NAME} is no folder") from error
            raise
        os.mkdir(NAME, 0o700, dir_fd=self.fd)
        fd = os.open(NAME, flags, dir_fd=self.fd)
        status = os.fstat(fd)
        if status.st_uid == os.geteuid():  # it is the one that we have just made
            if os.geteuid() == 0:
                os.fchown(fd, self.status.st_uid, self.status.st_gid)
            os.fchmod(fd, stat.S_IMODE(self.status.st_mode) & 0o755)
        os.fsync(self.fd)
        return fd

    def entries(self, *suffixes: str) -> list[str]:
        """Hidden ones of ours, with one of these ends."""
        return sorted(name for name in os.listdir(self.archive_fd) if name.startswith(".") and name.endswith(suffixes))

    def sweep(self) -> None:
        """What was never finished."""
        for name in self.entries(PART):
            os.unlink(name, dir_fd=self.archive_fd)

    def name_part(self, fd: int, part: str, name: str) -> None:
        """The finished `part`, open as `fd`, gets its name; what another one has put there does not. Raises Unsafe,
        OSError."""
        if not self._is(fd, part):
            raise Unsafe("its unfinished archive was exchanged for another")
        os.rename(part, name, src_dir_fd=self.archive_fd, dst_dir_fd=self.archive_fd)
        os.fsync(self.archive_fd)

    def drop_part(self, fd: int, part: str) -> None:
        """Removes it, if it is still the one that is open as `fd`."""
        if self._is(fd, part):
            os.unlink(part, dir_fd=self.archive_fd)

    def _is(self, fd: int, name: str) -> bool:
        try:
            found = os.stat(name, dir_fd=self.archive_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def fresh_name(self, log: str) -> str:
        """A name for its archive under which nothing stands yet."""
        kept = shortened(log)
        stamp = clock.rfc3339(clock.wall_s())[:19].replace("-", "").replace(":", "")
        choices = [f"{kept}.gz", f"{kept}.{stamp}.gz", *(f"{kept}.{stamp}-{n}.gz" for n in range(2, SAME_NAME_MAX))]
        taken = set(os.listdir(self.archive_fd))
        for choice in choices:
            if not {choice, f".{choice}{PENDING}"} & taken:
                return choice
        raise Unsafe("it has too many archives of this second")


def lock_alone(fd: int) -> None:
    """This folder is ours until it is closed. Raises Unsafe."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Unsafe("another rotation is at work there") from error


def shortened(log: str) -> str:
    """The log's name, or where it is too long for a suffix its beginning and a hash of it all."""
    raw = os.fsencode(log)
    if len(raw) <= NAME_BYTES_MAX - ROOM_IN_A_NAME:
        return log
    digest = hashlib.sha256(raw).hexdigest()[:16]
    return f"{os.fsdecode(raw[: NAME_BYTES_MAX - ROOM_IN_A_NAME - 17])}~{digest}"
