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
    def _is_folder(self) -> bool:
        """A container's runtime binds files of the host's disk (/etc/hosts): that is not the container's."""
        return self.root == "/" or not self.local or os.path.isdir(self.point)

    @property
    def worth_watching(self) -> bool:
        """A real disk that can fill up. Not: memory, the network, an overlay (its upper layer's disk is counted once,
        and "/" is read by its name), images, what is read-only."""
        on_disk = not self.device.startswith("0:") or self.fs_type in POOLED
        return on_disk and not self.read_only and self.fs_type not in IMAGES and self._is_folder


# The table of a process in a chroot does not name what its root lies on, but that can be read all the same.
CHROOT = Mount(0, 0, "0:0", "/", "/", read_only=False, fs_type="", source="")


class MountTable:
    """What can be reached by its path; what another mount covers cannot."""

    def __init__(self, mounts: tuple[Mount, ...]) -> None:
        self.by_point = {"/": CHROOT} | {mount.point: mount for mount in _reachable(mounts)}

    def holding(self, path: str) -> Mount:
        """The mount on which this path (absolute, without links) lies."""
        return next(self.by_point[part] for part in upwards(path) if part in self.by_point)


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


def _reachable(mounts: tuple[Mount, ...]) -> Iterator[Mount]:
    """Those to which their path leads. What is mounted upon a mount covers all that is mounted at or below the same
    point, beside it; upon its very point it covers the mount itself."""
    upon: dict[int, list[Mount]] = {}
    ids = {mount.mount_id for mount in mounts}
    left = []
    for mount in mounts:
        if mount.parent_id in ids and mount.parent_id != mount.mount_id:  # the top may be its own parent
            upon.setdefault(mount.parent_id, []).append(mount)
        else:
            left.append(mount)
    while left:
        mount = left.pop()
        children = upon.get(mount.mount_id, [])
        points = {child.point for child in children}
        if mount.point not in points:
            yield mount
        left += (child for child in children if not any(part in points for part in upwards(_above(child.point))))


def upwards(path: str) -> Iterator[str]:
    """/a/b, /a, /. Nothing of ""."""
    while path not in ("/", ""):
        yield path
        path = _above(path)
    if path:
        yield path


def _above(path: str) -> str:
    return path[: path.rfind("/")] or ("/" if path != "/" else "")


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
            if not table.holding(here).local:
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
