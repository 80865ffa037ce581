"""One log becomes an archive: written beside it, made durable, and only then taken out of its place (FR-003, R13).

A log that nobody writes goes as a whole. Of one that is written the whole blocks that stand are archived and given back
from within the file: no line of its writer is lost, however fast it writes, and archive and log together are what it
wrote. After a crash at any point `settle` finishes or undoes; nothing is archived twice or lost.

It never follows a link, never touches a file with a second name, and never truncates what somebody writes.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from types import TracebackType

import msgspec

from remediators import gzip_members, holes, safe_dir
from remediators.archive_dir import PART, PENDING, TAKEN, Folder
from remediators.gzip_members import MEMBER_BYTES, Record
from remediators.safe_dir import Unsafe
from supervisor import crashpoint

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
PASSES_MAX = 8  # over a log that grows while it is read
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class Late(Exception):
    """The time is over, or it is to stop; the present file is as it was."""


class Done(msgspec.Struct, frozen=True):
    """`archives` are names in `.archive`; `whole`: the log is gone from its place; `note`: what else is to be said."""

    archives: tuple[str, ...]
    log_bytes: int
    freed_bytes: int
    whole: bool
    note: str = ""


class _Ends(msgspec.Struct, frozen=True):
    """The first and the last member of what was archived, as it was read: up to 2 MiB that is all of it."""

    first: bytes
    last: bytes

    def stand_in(self, log: Log, record: Record) -> bool:
        """Does the log hold them still? Then nobody cut it off and wrote it anew meanwhile."""
        size = os.fstat(log.fd).st_size
        return size >= record.end and all(
            os.pread(log.fd, len(data), at) == data
            for at, data in ((record.start, self.first), (record.end - len(self.last), self.last))
        )


class _Tally:
    """What has been done to one log; as a context it keeps an error from hiding what was done before it."""

    def __init__(self, folder: Folder, log: Log) -> None:
        self.whole = False
        self.note = ""
        self._folder = folder
        self._log = log
        self._before = taken_bytes(log.fd)
        self._archives: list[str] = []
        self._log_bytes = 0

    def __enter__(self) -> _Tally:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> bool:
        if not self._archives or not isinstance(error, Late | Unsafe | OSError):
            return False
        self.note = f"only the first {self._log_bytes} bytes of it: {error or 'the time was over'}"
        return True

    def add(self, name: str, record: Record) -> None:
        self._archives.append(name)
        self._log_bytes += record.end - record.start
        self.whole = record.whole

    def done(self) -> Done:
        kept = (os.stat(name, dir_fd=self._folder.archive_fd, follow_symlinks=False) for name in self._archives)
        left = 0 if self.whole else taken_bytes(self._log.fd)
        freed = self._before - left - sum(status.st_blocks * 512 for status in kept)
        return Done(tuple(self._archives), self._log_bytes, freed, self.whole, self.note)


class Log:
    """One log, held open from its first look to its end."""

    def __init__(self, folder: Folder, name: str) -> None:
        """Raises Unsafe, OSError."""
        self.folder = folder
        self.name = name
        try:
            self.fd = os.open(name, _READ, dir_fd=folder.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise Unsafe("it is a link") from error
            raise
        try:
            self.status = os.fstat(self.fd)
            self._refuse()
        except BaseException:
            os.close(self.fd)
            raise

    def _refuse(self) -> None:
        status = self.status
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe("it is no file")
        if status.st_nlink != 1:
            raise Unsafe("it has a second name")
        if status.st_dev != self.folder.status.st_dev:
            raise Unsafe("it lies on another file system than its folder")
        if os.geteuid() not in (0, status.st_uid):
            raise Unsafe("it belongs to another user")
        safe_dir.refuse_strangers(self.folder.status, status)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def is_written(self) -> bool:
        try:
            with holes.unwritten(self.fd):
                return False
        except holes.HasWriter:
            return True

    def writable(self) -> int:
        """Another descriptor of the very same file, to give room back."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


class Rotation:
    """Rotates logs of one folder. `read` is told of each piece that it goes on to (bytes), and raises Late when it must
    not go on."""

    def __init__(self, folder: Folder, run: int, read: Callable[[int], None]) -> None:
        self._folder = folder
        self._run = run
        self._read = read

    def whole(self, log: Log) -> Done:
        """Archives it and takes it out of its place. Raises Unsafe, Late, OSError: then it is as it was."""
        work = _Tally(self._folder, log)
        with work:
            while not work.whole:
                start = holes.first_data(log.fd, log.status.st_size)
                name, record, ends = self._archive(log, start, log.status.st_size, whole=True)
                if record.whole:
                    self._remove(log, name, record)
                else:  # the disk is full: what has been archived makes room for the rest
                    work.note = self._free_part(log, name, record, ends)
                    log.status = os.fstat(log.fd)
                work.add(name, record)
        return work.done()

    def part(self, log: Log, enough_bytes: int, at_most: int | None = None) -> Done:
        """Archives what stands in a log that is being written, until at most `enough_bytes` are left in it, or so much
        of it is archived. Raises Unsafe, Late, OSError: then it is as it was."""
        work = _Tally(self._folder, log)
        with work:
            for _ in range(PASSES_MAX):
                log.status = os.fstat(log.fd)
                block = holes.block_bytes(log.fd)
                start = holes.first_data(log.fd, log.status.st_size) // block * block
                end = max(log.status.st_size - 1, 0) // block * block  # at least one byte stays: `holes.collapse`
                end = end if at_most is None else min(end, start + at_most // block * block)
                if end <= start:
                    break
                name, record, ends = self._archive(log, start, end, whole=False)
                work.note = self._free_part(log, name, record, ends)
                work.add(name, record)
                if taken_bytes(log.fd) <= enough_bytes or at_most is not None:
                    break
        return work.done()

    def _archive(self, log: Log, start: int, end: int, *, whole: bool) -> tuple[str, Record, _Ends]:
        """A pending archive of [start, end), or of as much of it as the disk has room for: never less than a member."""
        folder, status = self._folder, log.status
        name = folder.fresh_name(log.name)
        part = f".{name}{PART}"
        base = Record(
            device=status.st_dev,
            inode=status.st_ino,
            start=start,
            end=end,
            size=status.st_size,
            mtime_ns=status.st_mtime_ns,
            crc=0,
            whole=whole,
            run=self._run,
            name=os.fsencode(log.name),
        )
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(part, flags, 0o600, dir_fd=folder.archive_fd)
        try:
            record, ends = self._fill(fd, log, base)
            same_owner(fd, status)
            crashpoint.reach("rotate.written")
            folder.name_part(fd, part, f".{name}{PENDING}")
        except BaseException:
            folder.drop_part(fd, part)
            raise
        finally:
            os.close(fd)
        crashpoint.reach("rotate.pending")
        return name, record, ends

    def _fill(self, fd: int, log: Log, base: Record) -> tuple[Record, _Ends]:
        writer = gzip_members.Writer(fd, base)
        at, end = base.start, base.end
        first = last = b""
        while at < end:
            wanted = min(MEMBER_BYTES, end - at)
            self._read(wanted)
            chunk = os.pread(log.fd, wanted, at)
            if not chunk:
                raise Unsafe("it was cut off while it was read")
            try:
                writer.add(chunk)
            except OSError as error:
                if error.errno not in FULL or not writer.taken:
                    raise
                break
            at += len(chunk)
            first, last = first or chunk, chunk
            crashpoint.reach("rotate.member")
        record = msgspec.structs.replace(base, end=at, crc=writer.crc, whole=base.whole and at == end)
        writer.close(record)
        return record, _Ends(first, last)

    def _remove(self, log: Log, name: str, record: Record) -> None:
        """Takes the log out of its folder, if it still is the very file that stands in the archive."""
        try:
            take_out(self._folder, log, record, name)
        except Unsafe:
            os.unlink(f".{name}{PENDING}", dir_fd=self._folder.archive_fd)
            raise
        publish(self._folder, name)

    def _free_part(self, log: Log, name: str, record: Record, ends: _Ends) -> str:
        if not ends.stand_in(log, record):  # the archive may be all that is left of what stood there
            publish(self._folder, name)
            raise Unsafe(f"it was cut off while it was archived, and is left alone; what was read stands in {name}")
        free_part(log, record)
        publish(self._folder, name)
        return close_up(log)


def publish(folder: Folder, name: str) -> None:
    """From now on it is the only one that has what it holds."""
    os.rename(f".{name}{PENDING}", name, src_dir_fd=folder.archive_fd, dst_dir_fd=folder.archive_fd)
    os.fsync(folder.archive_fd)
    crashpoint.reach("rotate.after")


def free_part(log: Log, record: Record) -> None:
    """Gives back the blocks of what stands in a pending archive; doing it twice changes nothing."""
    fd = log.writable()
    try:
        if record.end > record.start:
            holes.punch(fd, record.start, record.end)
        os.fsync(fd)
    finally:
        os.close(fd)
    crashpoint.reach("rotate.freed")


def take_out(folder: Folder, log: Log, record: Record, name: str) -> None:
    """The log leaves its folder, if it still is the very file that stands in the pending archive `name`, and nobody
    writes it. Raises Unsafe; then it stands where it was."""
    taken = f".{name}{TAKEN}"
    try:
        with holes.unwritten(log.fd):
            now = os.fstat(log.fd)
            if (now.st_size, now.st_mtime_ns, now.st_nlink) != (record.size, record.mtime_ns, 1):
                raise Unsafe("it was written while it was archived")
            os.rename(log.name, taken, src_dir_fd=folder.fd, dst_dir_fd=folder.archive_fd)
            crashpoint.reach("rotate.taken")
            found = os.stat(taken, dir_fd=folder.archive_fd, follow_symlinks=False)
            if (found.st_dev, found.st_ino) != (now.st_dev, now.st_ino):
                safe_dir.rename_if_free(folder.archive_fd, taken, folder.fd, log.name)
                raise Unsafe("another file had come into its place, and was put back")
            os.unlink(taken, dir_fd=folder.archive_fd)
    except holes.HasWriter as error:
        raise Unsafe("somebody began to write it") from error
    os.fsync(folder.fd)
    crashpoint.reach("rotate.freed")


def close_up(log: Log) -> str:
    """Takes the hole at a log's head out of it, where its writers cannot notice; else says why it stays."""
    status = os.fstat(log.fd)
    block = holes.block_bytes(log.fd)
    hole = min(holes.first_data(log.fd, status.st_size), max(status.st_size - 1, 0)) // block * block
    if not hole:
        return ""
    stays = f"its first {hole} bytes stay as a hole, which takes no room"
    if log.is_written() and not holes.openers(status).append_only:
        return f"not all of its writers are seen to append: {stays}"
    fd = log.writable()
    try:
        return "" if holes.collapse(fd, hole) else f"its file system cannot shorten a file at its head: {stays}"
    finally:
        os.close(fd)


def taken_bytes(fd: int) -> int:
    return os.fstat(fd).st_blocks * 512


def same_owner(fd: int, status: os.stat_result) -> None:
    """Owner, mode, access list and times of the log. Raises OSError."""
    own = os.fstat(fd)
    if (own.st_uid, own.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(fd, status.st_uid, status.st_gid)
    os.fchmod(fd, stat.S_IMODE(status.st_mode) & 0o777)
    os.utime(fd, ns=(status.st_atime_ns, status.st_mtime_ns))
