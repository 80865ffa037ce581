"""What a rotation that was cut off left behind is finished or undone, before the next one begins.

An unfinished archive is removed: its log was not touched. A pending one is complete; whether its log still holds the
same is looked up in the log itself, by inode and checksum. In doubt both stay: a line may be twice then, never lost.
"""

from __future__ import annotations

import os

from remediators import gzip_members, holes, safe_dir
from remediators.archive_dir import PENDING, TAKEN, Folder
from remediators.gzip_members import NoArchive, Record
from remediators.rotate_file import Log, close_up, free_part, publish, take_out
from remediators.safe_dir import Unsafe


def settle(folder: Folder) -> list[str]:
    """What was done, in words for people. Raises OSError."""
    folder.sweep()
    return [_settle(folder, name[1 : -len(PENDING)]) for name in folder.entries(PENDING)]


def _settle(folder: Folder, name: str) -> str:
    fd = os.open(f".{name}{PENDING}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.archive_fd)
    try:
        record = gzip_members.read_record(fd)
    except NoArchive as error:
        return f".{name}{PENDING} was left alone: {error}"
    finally:
        os.close(fd)
    _put_back_or_end(folder, name, record)
    log = _log_of(folder, record)
    if log is None:  # it left its place, or somebody else removed it: this is all there is of it
        publish(folder, name)
        return f"{name} was finished"
    with log:
        return _finish(folder, name, log, record)


def _finish(folder: Folder, name: str, log: Log, record: Record) -> str:
    if not record.whole and holes.first_data(log.fd, log.status.st_size) >= record.end:
        publish(folder, name)
        close_up(log)
        return f"{name} was finished"
    if gzip_members.crc_of(log.fd, record.start, record.end) != record.crc:
        publish(folder, name)
        return f"{name} was kept: its log holds something else by now"
    if record.whole:
        try:
            take_out(folder, log, record, name)
        except Unsafe as error:
            os.unlink(f".{name}{PENDING}", dir_fd=folder.archive_fd)
            return f"{name} was given up, its log holds all of it: {error}"
        publish(folder, name)
        return f"{name} was finished"
    free_part(log, record)
    publish(folder, name)
    close_up(log)
    return f"{name} was finished"


def _put_back_or_end(folder: Folder, name: str, record: Record) -> None:
    """A log on its way out: the one in the archive is removed now, another goes back to its place."""
    taken = f".{name}{TAKEN}"
    try:
        found = os.stat(taken, dir_fd=folder.archive_fd, follow_symlinks=False)
    except FileNotFoundError:
        return
    if (found.st_ino, found.st_size, found.st_mtime_ns) == (record.inode, record.size, record.mtime_ns):
        os.unlink(taken, dir_fd=folder.archive_fd)
    else:
        safe_dir.rename_if_free(folder.archive_fd, taken, folder.fd, os.fsdecode(record.name))


def _log_of(folder: Folder, record: Record) -> Log | None:
    """The log by its inode, whatever it is called by now; None when it is not in the folder any more."""
    with os.scandir(folder.fd) as entries:
        names = [entry.name for entry in entries if entry.inode() == record.inode]
    return Log(folder, names[0]) if names else None
