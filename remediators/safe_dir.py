"""Folders by descriptor: the only way in which a step that works on files comes to them (DESIGN §2.4).

A path is walked part by part from the root. A link is followed only where the operator wrote it himself (in the part of
a configured path before its first wildcard) and only if it belongs to root or to us; everything else that is no folder
ends the walk. Whoever swaps a folder for a link afterwards changes nothing: the descriptor stays where it was.
"""

from __future__ import annotations

import ctypes
import os
import re
import stat
from collections.abc import Iterable

LINKS_MAX = 40
_MAGIC = re.compile(r"[*?\[]")
_NOREPLACE = 1  # renameat2(2)
_libc = ctypes.CDLL(None, use_errno=True)
_WALK = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


class Unsafe(Exception):
    """It will not be touched; the message says why, for people."""


def written_folders(patterns: Iterable[str]) -> tuple[str, ...]:
    """The folders that stand in the patterns letter by letter."""
    return tuple(_MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0] for pattern in patterns)


def open_folder(path: str, written: tuple[str, ...]) -> int:
    """A descriptor of the folder. `written`: the folders up to which links may be followed. Raises Unsafe, OSError."""
    left = _parts(path, written)[::-1]
    links = 0
    fd = os.open("/", _WALK)
    try:
        while left:
            part, is_written = left.pop()
            try:
                deeper = os.open(part, _WALK, dir_fd=fd)
            except NotADirectoryError:
                links += 1
                target = _link(fd, part, may_follow=is_written and links <= LINKS_MAX)
                left += [(step, True) for step in target.split("/")[::-1] if step not in ("", ".")]
                deeper = os.open("/" if target.startswith("/") else ".", _WALK, dir_fd=fd)
            os.close(fd)
            fd = deeper
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=fd)
    finally:
        os.close(fd)


def _parts(path: str, written: tuple[str, ...]) -> list[tuple[str, bool]]:
    """Each part of the path, and whether the operator wrote it letter by letter."""
    out: list[tuple[str, bool]] = []
    here = ""
    for part in path.split("/"):
        if part not in ("", "."):
            here = f"{here}/{part}"
            out.append((part, any(folder == here or folder.startswith(here + "/") for folder in written)))
    return out


def _link(fd: int, name: str, *, may_follow: bool) -> str:
    """Where the link leads that stands in the place of a folder."""
    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode) or not may_follow or status.st_uid not in (0, os.geteuid()):
        raise Unsafe("a link stands in its path" if stat.S_ISLNK(status.st_mode) else "its path leads through a file")
    return os.readlink(name, dir_fd=fd)


def open_quietly(name: str, folder_fd: int | None = None) -> int:
    """To look into a file, so that not even its time of last access changes where we may keep it. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=folder_fd)
    except PermissionError:
        return os.open(name, flags, dir_fd=folder_fd)


def refuse_strangers(folder: os.stat_result, file: os.stat_result) -> None:
    """Raises Unsafe where others than the file's owner, root and we may exchange what stands in the folder (in a sticky
    one, like /tmp, nobody may exchange what is another's)."""
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise Unsafe("everybody may write its folder")
    if folder.st_uid not in (0, os.geteuid(), file.st_uid):
        raise Unsafe("its folder belongs to another user")


def rename_if_free(from_fd: int, old: str, to_fd: int, new: str) -> None:
    """Raises FileExistsError when the new name is taken, OSError."""
    names = os.fsencode(old), os.fsencode(new)
    if _libc.renameat2(from_fd, names[0], to_fd, names[1], _NOREPLACE) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), new)
