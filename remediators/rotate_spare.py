"""Room for the first archive where the disk has none at all: in our own state directory.

On another disk an archive is made there, the log's room is given back, and the archive then goes home. On the same disk
a few megabytes are held in reserve, and let go of for as long as the rotation takes. What lies here is complete or
nothing, and each run begins by bringing home what an earlier one has left. All runs share it, whichever logs they are
for: one at a time makes archives here or brings them home (`alone`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from remediators import archive_dir, gzip_members, rotate_settle
from remediators.archive_dir import PART, Folder
from remediators.gzip_members import NoArchive
from remediators.rotate_file import same_owner

RESERVE_BYTES = 4 * 1024**2
TIMES_FREE = 5  # so many times the reserve must be free before it is taken
LOG_BYTES_MAX = 64 * 1024**2  # of one log by this way: what that frees is room enough for the next
HOME, RESERVE = "home", "reserve"


class Spare:
    """`path` is a folder of ours, closed to others; made when it is first needed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """No other rotation makes archives here meanwhile, settles them or brings them home. Raises Unsafe, OSError."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            archive_dir.lock_alone(fd)
            yield
        finally:
            os.close(fd)

    def hold(self) -> None:
        """Takes the reserve, where the disk has plenty. Raises OSError."""
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        reserve = self._path / RESERVE
        now = os.statvfs(self._path)
        if now.f_bavail * now.f_frsize < TIMES_FREE * RESERVE_BYTES:
            return
        fd = os.open(reserve, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_blocks * 512 < RESERVE_BYTES:
                os.posix_fallocate(fd, 0, RESERVE_BYTES)
        finally:
            os.close(fd)

    def release(self, device: int) -> bool:
        """Gives the reserve back, if there is one on that very disk."""
        reserve = self._path / RESERVE
        try:
            status = reserve.stat()
        except FileNotFoundError:
            return False
        if status.st_dev != device or not status.st_blocks:
            return False
        os.truncate(reserve, 0)
        return True

    def beside(self, folder: Folder) -> bool:
        """Within `alone`: makes a folder here stand in for its `.archive`; False: this is the same disk. Raises Unsafe,
        OSError."""
        if self._path.stat().st_dev == folder.status.st_dev:
            return False
        place = self._path / hashlib.sha256(os.fsencode(folder.path)).hexdigest()[:16]
        place.mkdir(mode=0o700, exist_ok=True)
        part = place / f"{HOME}{PART}"
        part.write_bytes(os.fsencode(folder.path))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(place / HOME)
        folder.archive_elsewhere(place)
        return True

    def places(self) -> list[tuple[Path, str]]:
        """What an earlier run has left here: where it lies, and the folder whose it is. Outside of `alone` it may be
        what another one is at work on."""
        with contextlib.suppress(FileNotFoundError):
            return [(home.parent, os.fsdecode(home.read_bytes())) for home in sorted(self._path.glob(f"*/{HOME}"))]
        return []


def settle(place: Path, folder: Folder) -> None:
    """Within `Spare.alone`: finishes what was begun here for this folder; its archives are then complete. Raises
    OSError, Unsafe."""
    folder.archive_elsewhere(place)
    rotate_settle.settle(folder)


def bring_home(place: Path, folder: Folder) -> int:
    """Within `Spare.alone`: its archives go to their folder's own `.archive`, which is open; how many. Raises OSError:
    no room yet."""
    count = 0
    for archive in sorted(path for path in place.iterdir() if path.name.endswith(".gz") and path.name[0] != "."):
        fd = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _copy_home(fd, folder)
        except NoArchive:
            continue  # nothing of ours: it stays
        finally:
            os.close(fd)
        archive.unlink()
        count += 1
    with contextlib.suppress(OSError):  # another archive came meanwhile
        (place / HOME).unlink()
        place.rmdir()
    return count


def _copy_home(fd: int, folder: Folder) -> None:
    record = gzip_members.read_record(fd)
    name = folder.fresh_name(os.fsdecode(record.name))
    part = f".{name}{PART}"
    out = os.open(
        part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder.archive_fd
    )
    try:
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            at += os.pwrite(out, os.pread(fd, 1024**2, at), at)
        same_owner(out, os.fstat(fd))
        os.fsync(out)
        folder.name_part(out, part, name)
    except BaseException:
        folder.drop_part(out, part)
        raise
    finally:
        os.close(out)
