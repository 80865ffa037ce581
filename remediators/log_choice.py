"""Which logs does a rotation take? FR-003: what is older than `archive_after`; R13: and what has grown past `max_size`.

Reads only, for the dry run and for the real one alike. Left alone: compressed files (they are archives already), links,
and what only looks like a log: journald's files, wtmp and its kin, databases and what they wrote ahead.
"""

from __future__ import annotations

import os
import re
import stat
from enum import StrEnum

import msgspec

from remediators import archive_dir, holes, safe_dir
from supervisor import clock, logfiles

_NOT_TEXT = re.compile(
    r"(?:^(?:lastlog|faillog|tallylog|[bwu]tmp)(?:[.-].*)?$|\.journal~?$|\.(?:db|sqlite3?)(?:-wal|-shm|-journal)?$|^mysql-bin\."
    r"|^(?:\d{6,7}|\d{20})\.log$)"  # what LevelDB, RocksDB and Kafka wrote ahead: their data, not about them
)
_OF_A_DATABASE = re.compile(r"^(?:CURRENT$|MANIFEST-)")  # beside the logs that LevelDB or RocksDB is made of
_MAGIC = (b"SQLite format 3\0", b"LPKSHHRH", b"\xfebin")
JOURNAL_HINT = "journald's own files are left alone: `journalctl --vacuum-size=` shortens them"


class LogsJob(msgspec.Struct, frozen=True):
    """One `[logs.NAME]`, as the program that rotates needs it."""

    name: str
    paths: tuple[str, ...]
    archive_after_s: float
    max_bytes: int


class How(StrEnum):
    OLD = "old"  # as a whole, if nobody writes it
    GROWN = "grown"  # what stands in it; it goes on


class Chosen(msgspec.Struct, frozen=True):
    """`bytes`: the room that it takes."""

    path: str
    bytes: int
    how: How
    max_bytes: int
    written: tuple[str, ...]  # the folders of its patterns that stand in the configuration letter by letter

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


class Choice(msgspec.Struct, frozen=True):
    """The smallest first. `too_large`: judged too large by the probe, and not among the chosen; why, in words."""

    chosen: tuple[Chosen, ...]
    too_large: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def choose(logs: tuple[LogsJob, ...], device: int | None, written: dict[str, tuple[str, ...]], end_s: float) -> Choice:
    """`device`: only what lies there. `end_s` (monotonic): what has not been looked at by then is not chosen."""
    chosen: dict[tuple[int, int], Chosen] = {}
    databases = _Databases()
    too_large: list[str] = []
    notes: list[str] = []
    now_wall_s = clock.wall_s()
    for job in logs:
        found = logfiles.scan(job.paths, end_s)
        notes += [f"{job.name}: {found.cut_short}"] if found.cut_short else []
        notes += [f"{len(found.denied)} of {job.name} could not be looked at"] if found.denied else []
        for key, file in found.files.items():
            if clock.monotonic_s() > end_s:
                notes.append(f"{job.name}: there was no time to look into all of them")
                break
            if key in chosen or (device is not None and key[0] != device):
                continue
            how = _how(file, job, now_wall_s, databases)
            if how is not None:
                chosen[key] = Chosen(file.path, file.bytes, how, job.max_bytes, written[job.name])
            elif file.bytes > job.max_bytes and not logfiles.rotated(file.path):
                why = _why_not(file, databases)
                too_large.append(f"{logfiles.printable(file.path)} is not rotated by healctl: {why}")
    if any(".journal" in text for text in too_large):
        notes.append(JOURNAL_HINT)
    ordered = sorted(chosen.values(), key=lambda file: (file.bytes, file.path))
    return Choice(tuple(ordered), tuple(too_large), tuple(notes))


class _Databases:
    """Which folders are databases: each is looked at once, and again by the next choice."""

    def __init__(self) -> None:
        self._known: dict[str, bool] = {}

    def holds(self, path: str) -> bool:
        folder = os.path.dirname(path)
        if folder not in self._known:
            self._known[folder] = any(_OF_A_DATABASE.match(name) for name in _names(folder))
        return self._known[folder]


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # gone, or not ours to read: opening it to rotate what is in it will say so
        return []


def _how(file: logfiles.Found, job: LogsJob, now_wall_s: float, databases: _Databases) -> How | None:
    if _why_not(file, databases):
        return None
    try:
        status = os.lstat(file.path)
    except OSError:  # gone since
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size == 0:
        return None
    if now_wall_s - status.st_mtime > job.archive_after_s:
        return How.OLD
    if file.bytes > job.max_bytes and (not logfiles.rotated(file.path) or _is_written(file.path)):
        return How.GROWN
    return None


def _why_not(file: logfiles.Found, databases: _Databases) -> str:
    name = os.path.basename(file.path)
    if file.is_link:
        return "it is a link"
    if logfiles.compressed(name):
        return "it is compressed"
    if archive_dir.NAME in file.path.split("/"):
        return "it is an archive"
    if databases.holds(file.path):
        return "its folder is a database's"
    return "it is no text" if _NOT_TEXT.search(name) or _head(file.path).startswith(_MAGIC) else ""


def _head(path: str) -> bytes:
    try:
        fd = safe_dir.open_quietly(path)
    except OSError:  # gone, a link since, or not ours to read: opening it to rotate it will say so
        return b""
    try:
        return os.pread(fd, 16, 0)
    finally:
        os.close(fd)


def _is_written(path: str) -> bool:
    try:
        return holes.openers(os.lstat(path)).writers > 0
    except FileNotFoundError:
        return False
