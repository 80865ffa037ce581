"""The mount table of this process (proc_pid_mountinfo(5)): what is mounted where, and which of it is worth watching.

It reads /proc only. Nothing here touches a file system that may hang: symbolic links are followed on local ones alone.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

import msgspec

MOUNTINFO = "/proc/self/mountinfo"
FSTAB = "/etc/fstab"
READ_BYTES_MAX = 8 * 1024**2
LINKS_MAX = 40  # as the kernel (path_resolution(7))
POINT_CHARS_MAX = 500

# Their device numbers are anonymous, and yet they lie on disks of this machine.
POOLED = frozenset({"btrfs", "zfs", "bcachefs"})
# Images: always full, and nobody can make room in them.
IMAGES = frozenset({"squashfs", "erofs", "iso9660", "udf", "cramfs", "romfs"})
# In memory, or the kernel's own: a look at them never waits for anybody.
IN_MEMORY = frozenset({"rootfs", "tmpfs", "ramfs", "devtmpfs", "overlay", "proc", "sysfs", "cgroup", "cgroup2"})
# What a container's runtime binds from the host's disk: files, whose disk is not the container's to watch.
BOUND_FILES = frozenset({"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/termination-log"})
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Mount(msgspec.Struct, frozen=True):
    """One line of the table. `device` is "major:minor", `root` the part of its file system that is seen at `point`."""

    mount_id: int
    parent_id: int
    device: str
    root: str
    point: str
    read_only: bool
    fs_type: str
    source: str
    super_options: str = ""

    @property
    def local(self) -> bool:
        """Reading a directory of it waits for a disk of this machine at most: not for a network, not for a program."""
        on_disk = not self.device.startswith("0:") or self.fs_type in POOLED
        return (on_disk and not self.fs_type.startswith("fuse")) or self.fs_type in IN_MEMORY

    @property
    def worth_watching(self) -> bool:
        """A real disk that can fill up. Not: memory, the network, an overlay (its upper layer's disk is counted once,
        and "/" is read by its name), images, what is read-only."""
        on_disk = not self.device.startswith("0:") or self.fs_type in POOLED
        return on_disk and not self.read_only and self.fs_type not in IMAGES and self.point not in BOUND_FILES


class MountTable:
    """What can be reached by its path; what another mount covers cannot."""

    def __init__(self, mounts: tuple[Mount, ...]) -> None:
        by_id = {mount.mount_id: mount for mount in mounts}
        # The top of the tree is its own parent, and does not cover itself.
        covers = {(mount.parent_id, mount.point) for mount in mounts if mount.parent_id != mount.mount_id}
        seen = (mount for mount in mounts if not _covered(mount, by_id, covers))
        self.by_point = {mount.point: mount for mount in seen}

    def holding(self, path: str) -> Mount | None:
        """The mount on which this path (absolute, without links) lies."""
        return next((self.by_point[part] for part in upwards(path) if part in self.by_point), None)


def read_table() -> MountTable:
    """Raises OSError."""
    return MountTable(parse(read_text(MOUNTINFO)))


def parse(text: str) -> tuple[Mount, ...]:
    """A line that is no mount is left out, and so is one whose name nobody could read in a message."""
    return tuple(mount for line in text.splitlines() if (mount := _mount(line)) is not None)


def _mount(line: str) -> Mount | None:
    before, _, after = line.partition(" - ")
    fields, tail = before.split(" "), after.split(" ")
    if len(fields) < 6 or len(tail) < 3 or not (fields[0].isdigit() and fields[1].isdigit()):
        return None
    point = unescaped(fields[4])
    if not point.isprintable() or len(point) > POINT_CHARS_MAX or point.endswith("//deleted"):
        return None
    return Mount(
        mount_id=int(fields[0]),
        parent_id=int(fields[1]),
        device=fields[2],
        root=unescaped(fields[3]),
        point=point,
        read_only="ro" in fields[5].split(",") or "ro" in tail[2].split(","),
        fs_type=tail[0],
        source=unescaped(tail[1]),
        super_options=tail[2],
    )


def _covered(mount: Mount, by_id: dict[int, Mount], covers: set[tuple[int, str]]) -> bool:
    """Does the way to it lead into another mount, at its own point or above?"""
    if (mount.mount_id, mount.point) in covers:
        return True
    here: Mount | None = mount
    for _ in range(len(by_id)):  # no table is deeper; one that goes in a circle is damaged
        if here is None:
            return False
        if any((here.parent_id, part) in covers for part in upwards(here.point) if part != here.point):
            return True
        here = by_id.get(here.parent_id) if here.parent_id != here.mount_id else None
    return False


def upwards(path: str) -> Iterator[str]:
    """/a/b, /a, /."""
    while path != "/":
        yield path
        path = os.path.dirname(path)
    yield "/"


def unescaped(field: str) -> str:
    """Octal escapes, which both tables have for white space, backslashes and hashes: \\040 is a space."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), field) if "\\" in field else field


def in_fstab() -> frozenset[str]:
    """The mount points that somebody has written down (fstab(5)); none where that file cannot be read."""
    try:
        text = read_text(FSTAB)
    except OSError:
        return frozenset()  # many machines have none; it only helps to tell an unmounted disk from a folder
    lines = (line.split() for line in text.splitlines() if not line.lstrip().startswith("#"))
    return frozenset(os.path.normpath(unescaped(fields[1])) for fields in lines if len(fields) > 1 and "/" in fields[1])


def without_links(path: str, table: MountTable) -> str:
    """`path` with every symbolic link followed that can be followed without waiting (`Mount.local`).

    Raises OSError: FileNotFoundError when there is nothing there.
    """
    done, left, links = "/", path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name in ("", "."):
            continue
        if name == "..":
            done = os.path.dirname(done)
            continue
        here = os.path.join(done, name)
        if here not in table.by_point:
            mount = table.holding(here)
            if mount is not None and not mount.local:
                return os.path.normpath(os.path.join(here, *left[::-1]))
            if stat.S_ISLNK(os.lstat(here).st_mode):
                links += 1
                if links > LINKS_MAX:
                    raise OSError(f"{path}: too many symbolic links")
                target = os.readlink(here)
                left += target.split("/")[::-1]
                here = "/" if target.startswith("/") else done
        done = here
    return done


def read_text(path: str) -> str:
    """A small file, whole; it never waits for the other end of what stands in its place. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        raw = bytearray()
        while len(raw) < READ_BYTES_MAX and (more := os.read(fd, 65536)):
            raw += more
    finally:
        os.close(fd)
    return raw.decode(errors="surrogateescape")
