"""`python -m remediators.pruning JOB`: removes old files from the configured places, and prints one line of JSON.

Only regular files that nobody has open, that neither their content nor anything else about them has changed for long,
and that have no other name. Never a socket, a pipe, a device, a link, a pid file, a lock, what the configuration names,
or a folder, but for a `__pycache__` that has become empty. It walks by descriptors, follows no link, and stays on the
file system of its place. JOB is JSON made of the configuration alone (R11).
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from collections.abc import Iterator
from enum import StrEnum

import msgspec

from remediators import holes, safe_dir
from remediators.safe_dir import Unsafe
from supervisor import at_work, clock, crashpoint, logfiles
from supervisor.incidents.judge import size

DEPTH_MAX = 40
ENTRIES_MAX = 500_000
TOLD_MAX = 20
PYCACHE = "__pycache__"
# What other programs find each other by, and the private folders that the service manager gives out.
_KEPT = re.compile(r"(?:\.(?:pid|lock|lck|sock|socket)$|^\.X\d+-lock$|^pid$|^lock$)", re.IGNORECASE)
_KEPT_FOLDERS = re.compile(
    r"^(?:systemd-private-.*|snap-private-tmp|\.(?:X11|ICE|XIM|font|Test)-unix|lost\+found|\.archive)$"
)
_COMPILED = re.compile(r"\.py[co]$")


class What(StrEnum):
    TMP = "tmp"
    PYCACHE = "pycache"


class Job(msgspec.Struct, frozen=True):
    """`keep`: paths that are not touched, nor what lies below them. `device`: only places that lie there."""

    what: What
    places: tuple[str, ...]
    keep: tuple[str, ...]
    older_than_s: float
    within_s: float
    device: int | None = None


class Report(msgspec.Struct, frozen=True):
    said: str
    files: int = 0
    freed_bytes: int = 0
    names: tuple[str, ...] = ()
    troubles: int = 0
    stopped: bool = False


class _Over(Exception):
    """The time, or a bound."""


class Walk:
    """`act` False: only counts what would be removed."""

    def __init__(self, job: Job, *, act: bool) -> None:
        self.files = 0
        self.freed_bytes = 0
        self.names: list[str] = []
        self.troubles: list[str] = []
        self._job = job
        self._act = act
        self._end_s = clock.monotonic_s() + job.within_s
        self._before_wall_s = clock.wall_s() - job.older_than_s
        self._entries = 0
        self.stopped = False
        self._keep = frozenset(_keys(job.keep))
        self._device = 0
        self._mount = ""

    def run(self) -> Report:
        said = ""
        try:
            for place in self._job.places:
                self._place(place)
        except _Over as error:
            said = f"; {error}, the rest is as it was"
        verb = "removed" if self._act else "to remove"
        text = f"{self.files} files with {size(self.freed_bytes)} {verb}{said}"
        text = "; ".join((text, *(f"not done: {trouble}" for trouble in self.troubles[:TOLD_MAX])))
        return Report(text, self.files, self.freed_bytes, tuple(self.names), len(self.troubles), self.stopped)

    def _place(self, place: str) -> None:
        try:
            fd = safe_dir.open_folder(place, (place,))
        except FileNotFoundError:
            return
        except (Unsafe, OSError) as error:
            self._trouble(place, error)
            return
        try:
            status = os.fstat(fd)
            if self._job.device not in (None, status.st_dev):
                return
            if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                raise Unsafe("everybody may exchange what is in it")
            self._device, self._mount = status.st_dev, _mount_of(fd)
            self._folder(fd, place, 0)
        except Unsafe as error:
            self._trouble(place, error)
        finally:
            os.close(fd)

    def _folder(self, fd: int, path: str, depth: int) -> None:
        inside = os.path.basename(path) == PYCACHE
        for name in self._names(fd, path):
            here = f"{path}/{name}"
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if status.st_dev != self._device or (status.st_dev, status.st_ino) in self._keep:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if depth < DEPTH_MAX and not _KEPT_FOLDERS.match(name):
                        self._deeper(fd, name, here, status, depth)
                elif self._may_go(name, status, inside=inside):
                    self._remove(fd, name, here, status)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._trouble(here, error)

    def _names(self, fd: int, path: str) -> Iterator[str]:
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in entries]
        except OSError as error:
            self._trouble(path, error)
            return
        for name in names:
            self._entries += 1
            if at_work.asked():
                self.stopped = True
                raise _Over("it was stopped")
            if clock.monotonic_s() > self._end_s:
                raise _Over("the time was over")
            if self._entries > ENTRIES_MAX:
                raise _Over(f"only {ENTRIES_MAX} names were looked at")
            yield name

    def _deeper(self, fd: int, name: str, path: str, seen: os.stat_result, depth: int) -> None:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        below = os.open(name, flags, dir_fd=fd)
        try:
            now = os.fstat(below)
            if (now.st_dev, now.st_ino) != (seen.st_dev, seen.st_ino):
                return  # it was exchanged
            if _mount_of(below) != self._mount:
                return  # another place of the same file system, bound here: not what was named
            self._folder(below, path, depth + 1)
        finally:
            os.close(below)
        if self._act and self._job.what is What.PYCACHE and name == PYCACHE:
            with contextlib.suppress(OSError):  # not empty, or not ours: it stays
                os.rmdir(name, dir_fd=fd)

    def _may_go(self, name: str, status: os.stat_result, *, inside: bool) -> bool:
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or _KEPT.search(name):
            return False
        if self._job.what is What.PYCACHE and not (inside and _COMPILED.search(name)):
            return False
        if os.geteuid() not in (0, status.st_uid):
            return False
        return max(status.st_mtime, status.st_ctime) < self._before_wall_s

    def _remove(self, fd: int, name: str, path: str, seen: os.stat_result) -> None:
        """unlinkat follows nothing: whoever exchanges the name in between loses what he has put there himself."""
        file = safe_dir.open_quietly(name, fd)
        try:
            now = os.fstat(file)
            if (now.st_ino, now.st_ctime_ns) != (seen.st_ino, seen.st_ctime_ns) or holes.is_open_elsewhere(file):
                return
            if self._act:
                crashpoint.reach("prune.before")
                os.unlink(name, dir_fd=fd)
        finally:
            os.close(file)
        self.files += 1
        self.freed_bytes += seen.st_blocks * 512
        if len(self.names) < TOLD_MAX:
            self.names.append(logfiles.printable(path))

    def _trouble(self, path: str, error: Exception) -> None:
        text = error.strerror if isinstance(error, OSError) else str(error)
        self.troubles.append(f"{logfiles.printable(path)}: {text}")


def _mount_of(fd: int) -> str:
    """Which mount this descriptor is on (proc(5), fdinfo): a bind mount has the device of what it shows."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(line for line in lines if line.startswith("mnt_id:"))


def _keys(paths: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for path in paths:
        with contextlib.suppress(OSError):  # what is not there needs no keeping
            status = os.stat(path)
            yield status.st_dev, status.st_ino


def main() -> int:
    crashpoint.i_am("prune")
    at_work.heed()
    report = Walk(msgspec.json.decode(sys.argv[1], type=Job), act=True).run()
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
