"""Disks: `disk:MOUNT`, how full each file system is, in bytes and in inodes, and when it will be (FR-001, FR-002).

**Which ones.** Those that `[disk] mounts` names, whatever they are; with `discover` also every disk that can fill up
(`Mount.worth_watching`). A named path that is no mount point stands for the mount it lies on. A file system that is
seen in several places is read once, under the name it was found by first: named before discovered, then the shortest.

**What is gone.** A named mount that is not there is a reading without data (MISSING), never another disk's figures: a
path stays with the mount on which it was found once, and a mount point of fstab(5) is one even while nothing is mounted
there. A discovered one that has gone reads `mounted=False`: then nothing is wrong with it any more.

**How.** As df counts: used / (used + available), so that what is reserved for root is not available (PARTS: 95.6 %
where others say 87.7 %). statvfs(3) waits for a server that may be dead: `hanging`. It never judges and never unmounts.
"""

from __future__ import annotations

import errno
import logging
import os

import msgspec

from probes.base import Began
from probes.growth import Growth
from probes.hanging import Hanging, Hangs
from probes.mounts import Mount, MountTable, in_fstab, read_table, upwards, without_links
from supervisor.config import DiskSection
from supervisor.incidents.readings import DiskData, HealthReading, Unavailable

log = logging.getLogger(__name__)

PREFIX = "disk:"
FOUND_MAX = 128  # discovered at once; each may cost a thread
OWN_SHARE = 0.9  # of the deadline: our answer, with the reason, comes before the runner gives up
LOOKS_MAX = 3  # at a mount that comes or goes while it is looked at
NEAR = 0.05  # this little below the first limit, and beyond it, it is read more often
NEAR_AGAIN_S = 60.0
AUTOMOUNT = "autofs"
REASONS = {
    errno.ENOENT: Unavailable.MISSING,
    errno.ENOTDIR: Unavailable.MISSING,
    errno.EACCES: Unavailable.PERMISSION,
    errno.EPERM: Unavailable.PERMISSION,
    errno.ETIMEDOUT: Unavailable.TIMEOUT,
}


class _Place(msgspec.Struct, frozen=True):
    """Where a named path is read. `error`: why it cannot be (it is read nonetheless, which says so)."""

    point: str
    error: OSError | None = None


class Disks:
    """The disks of one configuration. `refresh` finds them, `read` reads one."""

    def __init__(self, section: DiskSection) -> None:
        self._calls = Hanging()
        self._growth: dict[tuple[str, str], Growth] = {}  # (mount point, device)
        self._held: dict[str, str] = {}  # named path -> the mount point on which it was found
        self._found: dict[str, str] = {}  # device -> the mount point under which it was discovered
        self._full = False
        self._table = MountTable(())
        self._named: dict[str, _Place] = {}
        self.points: tuple[str, ...] = ()
        self.configure(section)

    def configure(self, section: DiskSection) -> None:
        self.section = section
        self._held = {path: point for path, point in self._held.items() if path in section.mounts}
        self.refresh()

    # -- which ones --

    def refresh(self) -> frozenset[str]:
        """Looks at the mount table again; the mount points at which something else is mounted now than before, or
        nothing. One that cannot be read leaves everything as it was."""
        try:
            table = read_table()
        except OSError as error:
            log.warning("the mount table cannot be read: %s", error)
            return frozenset()
        before, self._table = self._table.by_point, table
        self._choose()
        points = before.keys() | table.by_point.keys()
        return frozenset(point for point in points if _id(before.get(point)) != _id(table.by_point.get(point)))

    def _choose(self) -> None:
        self._named = {}
        devices: set[str] = set()
        fstab = in_fstab() if self.section.mounts else frozenset()
        for path in self.section.mounts:
            place = self._place(_tidy(path), fstab)
            if isinstance(place.error, FileNotFoundError) and path == os.path.expanduser("~"):
                continue  # named by default; users of services have none
            mount = self._table.by_point.get(place.point)
            if mount is None or mount.device not in devices:
                self._named.setdefault(place.point, place)
            if mount is not None:
                devices.add(mount.device)
        self._discover(devices)
        self.points = (*self._named, *self._found.values())
        kept = {(point, mount.device) for point, mount in self._table.by_point.items()}
        self._growth = {key: growth for key, growth in self._growth.items() if key in kept}

    def _place(self, path: str, fstab: frozenset[str]) -> _Place:
        if path in self._table.by_point:
            self._held[path] = path
            return _Place(path)
        held = self._held.get(path)
        if held is not None and held not in self._table.by_point:
            return _Place(held)
        try:
            real = without_links(path, self._table)
        except OSError as error:
            missing = next((part for part in upwards(path) if part in fstab and part not in self._table.by_point), None)
            return _Place(missing) if missing is not None else _Place(os.path.normpath(path), error)
        point = next(part for part in upwards(real) if part in self._table.by_point or part in fstab)
        self._held[path] = point
        return _Place(point)

    def _discover(self, devices: set[str]) -> None:
        """One that was discovered stays under its name as long as it is mounted there, also when it is made read-only
        (as a failing disk is) or bound to a shorter name."""
        found: dict[str, str] = {}
        if self.section.discover and self.section.mounts:
            mounts = sorted(self._table.by_point.values(), key=lambda m: (not self._known(m), len(m.point), m.point))
            for mount in mounts:
                if mount.device not in devices and (mount.worth_watching or self._known(mount)):
                    devices.add(mount.device)
                    found[mount.device] = mount.point
        if len(found) > FOUND_MAX and not self._full:
            log.warning("%d disks were found; %d of them are watched", len(found), FOUND_MAX)
        self._full = len(found) > FOUND_MAX
        self._found = dict(list(found.items())[:FOUND_MAX])

    def _known(self, mount: Mount) -> bool:
        return self._found.get(mount.device) == mount.point

    def may_be_ours(self, point: str) -> bool:
        """Can there be a disk of this name? It may have been mounted when nobody looked."""
        return point.startswith("/") and os.path.normpath(point) == point

    # -- one of them --

    async def read(self, point: str, began: Began, deadline_s: float) -> HealthReading:
        watched = point in self.points or (self.section.mounts and point not in self._table.by_point)
        if not watched:  # taken out of the configuration, full or not
            limits = self.section
            detail = "not watched any more"
            return began.tells(DiskData(point, limits.pressure, limits.critical, mounted=False, detail=detail))
        try:
            mount, usage = await self._calls.call(point, lambda: _look(point), deadline_s * OWN_SHARE)
        except Hangs as error:
            return began.cannot(Unavailable.DEADLINE, f"{point} does not tell how full it is: {error}")
        except OSError as error:
            return began.cannot(REASONS.get(error.errno or 0, Unavailable.ERROR), f"{point}: {error.strerror or error}")
        if mount is not None and usage is not None:
            return began.tells(self._data(mount, usage, began.mono_s))
        place = self._named.get(point)
        if place is None:
            section = self.section
            return began.tells(DiskData(point, section.pressure, section.critical, mounted=False))
        if place.error is not None:
            reason = REASONS.get(place.error.errno or 0, Unavailable.ERROR)
            return began.cannot(reason, f"{point}: {place.error.strerror or place.error}")
        return began.cannot(Unavailable.MISSING, f"{point} is not mounted")

    def _data(self, mount: Mount, usage: os.statvfs_result, now_s: float) -> DiskData:
        used = (usage.f_blocks - usage.f_bfree) * usage.f_frsize
        # Where more is taken than root's reserve leaves, some file systems wrap below zero.
        free_blocks = usage.f_bavail if usage.f_bavail <= usage.f_blocks else 0
        available = free_blocks * usage.f_frsize
        growth = self._growth.setdefault((mount.point, mount.device), Growth())
        growth.add(now_s, used)
        return DiskData(
            mount=mount.point,
            pressure=self.section.pressure,
            critical=self.section.critical,
            device=mount.source,
            fs_type=mount.fs_type,
            size_bytes=usage.f_blocks * usage.f_frsize,
            available_bytes=available,
            used_share=used / (used + available) if used + available else 0.0,
            inodes_used_share=(usage.f_files - usage.f_ffree) / usage.f_files if usage.f_files else None,
            full_in_s=growth.full_in_s(available),
            detail="read-only" if mount.read_only else "",
        )

    def again_in_s(self, data: DiskData) -> float | None:
        """When it should be looked at again, if that may be before its interval is over."""
        share = max(data.used_share, data.inodes_used_share or 0.0)
        return NEAR_AGAIN_S if data.mounted and share > data.pressure - NEAR else None


def _tidy(path: str) -> str:
    """Without empty parts; ".." is left, since after a link it is not what it looks like."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _look(point: str) -> tuple[Mount | None, os.statvfs_result | None]:
    """The mount at `point` and its figures, which are then sure to be its own: it is the same before and after. None:
    nothing is mounted there (an automount that is not mounted is left so). Raises OSError."""
    mount = read_table().by_point.get(point)
    for _ in range(LOOKS_MAX):
        if mount is None or mount.fs_type == AUTOMOUNT:
            return None, None
        usage = os.statvfs(point)
        before, mount = mount, read_table().by_point.get(point)
        if _id(mount) == _id(before):
            return mount, usage
    raise OSError(errno.EBUSY, "it is mounted and unmounted all the time")


def _id(mount: Mount | None) -> tuple[int, str] | None:
    return None if mount is None else (mount.mount_id, mount.device)
