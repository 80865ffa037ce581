"""Memory: `system-memory`, what can still be had before something is killed for it (FR-001, FR-002).

That is MemAvailable of /proc/meminfo, or what is left below the limit of our own control group, or of one above it,
where that is less: in a container the machine's figure says nothing. Inactive file pages are given back under pressure
and count as available, as in `docker stats` and the kubelet.

The kernel tells when memory stalls (PSI, R8): a trigger on /proc/pressure/memory where it lets us set one. It must
never end or limit anything.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import msgspec

from probes.base import Began
from probes.hanging import Hanging, Hangs
from probes.mounts import Mount, MountTable, read_table, read_text, upwards
from supervisor import cgroups
from supervisor.cgroups import V1, V2, Room
from supervisor.config import MemorySection
from supervisor.incidents.readings import HealthReading, MemoryData, Unavailable

log = logging.getLogger(__name__)

TARGET = "system-memory"
MEMINFO = "/proc/meminfo"
OWN_GROUPS = "/proc/self/cgroup"
PRESSURE = "/proc/pressure/memory"
# Some task waits for memory 0.2 s of 2 s. Windows are multiples of 2 s for who has no privileges (psi.rst).
TRIGGER = b"some 200000 2000000\0"
OWN_SHARE = 0.9  # of the deadline
NEAR = 1.25  # times the first limit: from there on it is read more often
NEAR_AGAIN_S = 10.0


class BadData(Exception):
    """A file of the kernel does not hold what it should."""


class _Look(msgspec.Struct, frozen=True):
    room: Room
    stalled_share: float | None
    detail: str


class Memory:
    """The one target of memory."""

    def __init__(self, section: MemorySection) -> None:
        self.section = section
        self._calls = Hanging()

    async def read(self, began: Began, deadline_s: float) -> HealthReading:
        try:
            look = await self._calls.call(TARGET, _look, deadline_s * OWN_SHARE)
        except Hangs as error:
            return began.cannot(Unavailable.DEADLINE, str(error))
        except FileNotFoundError as error:
            return began.cannot(Unavailable.MISSING, str(error))
        except PermissionError as error:
            return began.cannot(Unavailable.PERMISSION, str(error))
        except BadData as error:
            return began.cannot(Unavailable.BAD_DATA, str(error))
        except OSError as error:
            return began.cannot(Unavailable.ERROR, str(error))
        return began.tells(self._data(look))

    def _data(self, look: _Look) -> MemoryData:
        room, details = look.room, [look.detail] if look.detail else []
        if room.total_bytes < self.section.pressure:
            details.append("there is less in all than [memory] pressure: set it lower")
        return MemoryData(
            available_bytes=room.available_bytes,
            total_bytes=room.total_bytes,
            pressure_bytes=int(self.section.pressure),  # a Size does not travel
            critical_bytes=int(self.section.critical),
            limited_by=room.limited_by,
            stalled_share=look.stalled_share,
            detail="; ".join(details),
        )

    def again_in_s(self, data: MemoryData) -> float | None:
        """When it should be looked at again, if that may be before its interval is over."""
        return NEAR_AGAIN_S if data.available_bytes < data.pressure_bytes * NEAR else None


def _look() -> _Look:
    """Raises OSError, BadData."""
    whole = machine(read_text(MEMINFO))
    details: list[str] = []
    try:
        rooms = [room for room in groups(read_text(OWN_GROUPS), read_table(), details) if smaller(room, whole)]
    except OSError as error:
        rooms = []
        details.append(f"limits of control groups are not known: {error}")
    tightest = min((whole, *rooms), key=lambda room: room.available_bytes)
    return _Look(tightest, stalled(), "; ".join(details))


def machine(meminfo: str) -> Room:
    """MemAvailable and MemTotal (proc_meminfo(5)), which stand there in kB and mean KiB. Raises BadData."""
    found: dict[str, int] = {}
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name in ("MemAvailable", "MemTotal"):
            words = rest.split()
            if len(words) == 2 and words[0].isascii() and words[0].isdigit() and words[1] == "kB":
                found[name] = int(words[0]) * 1024
    if len(found) < 2:
        raise BadData(f"{MEMINFO} has no MemAvailable and MemTotal in kB")
    return Room(found["MemAvailable"], found["MemTotal"])


def smaller(room: Room, whole: Room) -> bool:
    """ "No limit" is a number larger than any machine (v1)."""
    return room.total_bytes < whole.total_bytes


def groups(own_groups: str, table: MountTable, details: list[str]) -> Iterator[Room]:
    """The limits on us (cgroups(7)): of our own group and of each above it, as far as they can be seen.

    What cannot be read is put into `details`; a group without these files has no limit.
    """
    for line in own_groups.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            version, mount = V2, _hierarchy(table, "cgroup2", "")
        elif "memory" in controllers.split(","):
            version, mount = V1, _hierarchy(table, "cgroup", "memory")
        else:
            continue
        if mount is None:
            continue
        for folder in _folders(mount, path):
            try:
                room = cgroups.room(f"{folder}/{version.limit}")
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, ValueError) as error:
                details.append(f"a limit of memory is not known: {folder}: {error}")
                continue
            if room is not None:
                yield room


def _hierarchy(table: MountTable, fs_type: str, controller: str) -> Mount | None:
    fitting = (
        mount
        for mount in table.by_point.values()
        if mount.fs_type == fs_type and (not controller or controller in mount.super_options.split(","))
    )
    return min(fitting, key=lambda mount: len(mount.point), default=None)


def _folders(mount: Mount, path: str) -> Iterator[str]:
    """Our group's folder and those above, up to where the hierarchy is mounted; in a container that may be a part of
    it (`root`), and our path may lie outside of what we see."""
    if path == mount.root or path.startswith(mount.root.rstrip("/") + "/"):
        path = path[len(mount.root.rstrip("/")) :]
    inside = "/" if "/../" in path + "/" else os.path.normpath(path or "/")
    for part in upwards(inside):
        yield mount.point.rstrip("/") + part.rstrip("/")


def stalled() -> float | None:
    """The share of the last 10 s in which everything waited for memory (psi.rst); None: the kernel does not tell."""
    try:
        text = read_text(PRESSURE)
    except OSError as error:
        log.debug("%s: %s", PRESSURE, error)
        return None
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        for word in rest.split():
            name, _, value = word.partition("=")
            if kind == "full" and name == "avg10" and value.replace(".", "", 1).isdigit():
                return float(value) / 100
    return None


def open_trigger() -> int | None:
    """A descriptor that tells of memory stalls by POLLPRI; None where it may not be had: then the polls must do."""
    try:
        fd = os.open(PRESSURE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        log.debug("no events of memory stalls: %s", error)
        return None
    try:
        os.write(fd, TRIGGER)
    except OSError as error:
        os.close(fd)
        log.debug("no events of memory stalls: %s", error)
        return None
    return fd
