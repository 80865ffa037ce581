"""What the programs that copy databases share: their folder under a lock, files made whole or not at all, progress.

Nothing here overwrites a file that counts: each is written beside, made durable, and renamed to a name nobody has.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor import at_work, backups, crashpoint
from supervisor.clock import monotonic_s
from supervisor.errors import StoreError
from supervisor.store import openers

PART = ".part"
BESIDE = ("", "-wal", "-shm", "-journal")
CHUNK_BYTES = 1024 * 1024
SECTOR_BYTES = 4096  # what is lost around a place that the device cannot read
SPARE_BYTES = 16 * 1024 * 1024  # free space that stays free: the ledger lives on this disk, too
LOCK_WITHIN_S = 20.0  # for others' locks: a writer at work, or the hold of a halt that is let go meanwhile
UNSEEN = 0o077


class Folder:
    """One database's folder of copies, ours alone while it is open (`opened`)."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self._teller = at_work.Teller(path / backups.PROGRESS)

    def part(self, name: str) -> Path:
        """A path for what is not finished; whatever an earlier program left there has been removed."""
        return self.path / f"{name}{PART}"

    def fresh_stamp(self, wall_s: float) -> str:
        """A stamp that nothing here has."""
        while True:
            stamp = backups.stamp(wall_s)
            taken = (f"{stamp}.db", f"{stamp}.json", f"{backups.DAMAGED}{stamp}")
            if not any((self.path / name).exists() for name in taken):
                return stamp
            wall_s += 0.001

    def need(self, wanted_bytes: int) -> None:
        """Raises StoreError when so much does not fit."""
        free = free_bytes(self.path)
        if free < wanted_bytes + SPARE_BYTES:
            raise StoreError(
                f"{self.path} has {free} bytes free, {wanted_bytes + SPARE_BYTES} are needed",
                "make room on that disk, or move state_dir",
            )

    def tell(self, stage: str, done: int, total: int, unit: str = "") -> None:
        """Says how far we are, and is a boundary: who tells has nothing half done but what is swept. Raises
        Stopped."""
        at_work.boundary()
        self._teller.tell(stage, done, total, unit)

    def no_return(self, stage: str) -> None:
        """From here on it goes on to its end. Raises Stopped."""
        at_work.no_return()
        self._teller.tell(stage, 0, 0)

    def quiet(self) -> None:
        self._teller.over()

    def retain(self) -> tuple[str, ...]:
        """Removes what is beyond the numbers kept; never the newest good copy. Returns the names."""
        gone = []
        for one in backups.good(self.path)[backups.GOOD_KEPT :]:
            one.path.with_suffix(".json").unlink()  # first: without its manifest it counts no more
            one.path.unlink()
            gone.append(one.path.name)
        for folder in backups.damaged(self.path)[backups.DAMAGED_KEPT :]:
            shutil.rmtree(folder)
            gone.append(folder.name)
        return tuple(gone)

    def sweep(self) -> None:
        """Removes what programs that were killed have left unfinished."""
        for path in self.path.iterdir():
            lonely = path.suffix == ".db" and not path.with_suffix(".json").exists()
            if path.name.endswith(PART) or (lonely and backups.STAMP.fullmatch(path.stem)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            elif path.name.endswith((f"{PART}-journal", f"{PART}-wal", f"{PART}-shm")):
                path.unlink()


class Patience:
    """For a copy by SQLite that others' locks hold up: it would otherwise be tried again for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._since_s = monotonic_s()

    def step(self, status: int) -> None:
        """After each step, with its result code. Raises StoreError when none has succeeded for `LOCK_WITHIN_S`."""
        now_s = monotonic_s()
        if status not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            self._since_s = now_s
        elif now_s - self._since_s > LOCK_WITHIN_S:
            found = openers.of_file(self._path).found
            who = openers.words([one for one in found if not one.ours] or found)
            raise StoreError(f"{self._path} stays locked by another program: {who}", "stop it, and try again")


@contextmanager
def opened(path: Path, name: str) -> Iterator[Folder]:
    """The folder, made when it is missing, under its lock. Raises StoreError while another program works there."""
    os.umask(UNSEEN)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StoreError(
                f"another program copies or restores {name} just now", "healctl db status tells how far it is"
            ) from error
        folder = Folder(path, name)
        folder.sweep()
        try:
            yield folder
        except at_work.Stopped:
            folder.sweep()  # what it had begun: nobody may come for it soon
            raise
        finally:
            folder.quiet()
    finally:
        os.close(fd)


def free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def size_with_log(path: Path) -> int:
    """Of a database and what lies beside it."""
    total = 0
    for suffix in BESIDE:
        with suppress(FileNotFoundError):
            total += os.stat(f"{path}{suffix}").st_size
    return total


def sha256_of(path: Path, told: Callable[[int], None] = lambda _: None) -> str:
    digest, done = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            done += len(chunk)
            told(done)
    return digest.hexdigest()


def raw_copies(folder: Folder, source: Path, wall_s: float) -> tuple[Path, int]:
    """Copies the file and what lies beside it as they are, with checksums: (their folder, bytes that were unreadable).

    For a process that has no connection to this database: closing a descriptor of it would drop the locks. Raises
    StoreError when there is nothing to copy, or no room; OSError.
    """
    folder.need(size_with_log(source))
    name = f"{backups.DAMAGED}{folder.fresh_stamp(wall_s)}"
    part = folder.part(name)
    part.mkdir(mode=0o700)
    sums, unreadable = [], 0
    for suffix in BESIDE:
        origin = Path(f"{source}{suffix}")
        if not origin.is_file():
            continue
        copy = part / origin.name
        lost = _copy(origin, copy, lambda done, total: folder.tell("raw copy", done, total, "bytes"))
        unreadable += lost
        sums.append(f"{sha256_of(copy)}  {copy.name}\n")
        crashpoint.reach("raw.file")
    if not sums:
        part.rmdir()
        raise StoreError(f"{source} does not exist: there is nothing to copy")
    (part / "SHA256SUMS").write_text("".join(sums))
    sync(part / "SHA256SUMS")
    sync(part)
    part.rename(folder.path / name)
    sync(folder.path)
    crashpoint.reach("raw.after")
    return folder.path / name, unreadable


def _copy(origin: Path, copy: Path, told: Callable[[int, int], None]) -> int:
    """Byte by byte; zeros stand for what the device cannot read, whose number is returned."""
    lost, at = 0, 0
    with origin.open("rb", buffering=0) as source, copy.open("xb", buffering=0) as target:
        total = os.fstat(source.fileno()).st_size
        while True:
            try:
                chunk = os.pread(source.fileno(), CHUNK_BYTES, at)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                chunk, missing = _around(source.fileno(), at, min(CHUNK_BYTES, total - at))
                lost += missing
            if not chunk:
                break
            target.write(chunk)
            at += len(chunk)
            told(at, total)
        os.fsync(target.fileno())
    return lost


def _around(fd: int, at: int, length: int) -> tuple[bytes, int]:
    """What can be had of a range with unreadable sectors in it."""
    found, lost = bytearray(), 0
    for start in range(at, at + length, SECTOR_BYTES):
        size = min(SECTOR_BYTES, at + length - start)
        try:
            found += os.pread(fd, size, start).ljust(size, b"\0")
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            found += bytes(size)
            lost += size
    return bytes(found), lost


def sync(path: Path) -> None:
    """Makes a file, or a directory's entries, durable."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
