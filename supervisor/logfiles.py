"""Which files do the patterns name, and how much room does each take? Blocking: for a thread (FR-001).

Not `glob` of the standard library: it passes over what it may not look into without a word, follows links for `**`
for ever, and cannot be stopped. Here every bound that is reached is told. It only looks (stat), opens no file, and
never waits for a FIFO or a device.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator

import msgspec

from supervisor import clock

FILES_MAX = 20_000
ENTRIES_MAX = 500_000  # of directories
TROUBLES_MAX = 20
DEPTH_MAX = 40

_MAGIC = re.compile(r"[*?\[]")
# What logrotate, savelog and the usual log libraries leave behind. Compressed: nobody writes it any more.
_COMPRESSED = re.compile(r"\.(?:gz|xz|bz2|zst|lz4|lzma|lz|Z|zip|7z)$", re.IGNORECASE)
_ROTATED = re.compile(
    r"(?:\.\d{1,3}|[-._]\d{4}-?\d{2}-?\d{2}(?:[-_.T]?\d{2}[-:_.]?\d{2}(?:[-:_.]?\d{2})?)?|[-._]\d{10}|\.old|\.bak|\.prev|~)$"
)


class Found(msgspec.Struct, frozen=True):
    """One file. `bytes`: what it really takes, so holes do not count, nor what is reserved beyond its end."""

    key: tuple[int, int]  # device, inode
    path: str
    bytes: int
    is_link: bool


class Scan(msgspec.Struct):
    """`cut_short`: which bound was reached, "" when all was seen. `denied`: what could not be looked at."""

    files: dict[tuple[int, int], Found] = msgspec.field(default_factory=dict)
    denied: list[str] = msgspec.field(default_factory=list)
    entries: int = 0
    cut_short: str = ""


class _CutShort(Exception):
    pass


def compressed(path: str) -> bool:
    return _COMPRESSED.search(path) is not None


def rotated(path: str) -> bool:
    """By its name it is what a rotation left behind: `.1`, `-20260101`, `.old`, compressed or not."""
    return compressed(path) or _ROTATED.search(path) is not None


def printable(path: str) -> str:
    """A name of any bytes as text that every encoder and terminal takes."""
    text = os.fsencode(path).decode(errors="replace")
    return "".join(char if char.isprintable() else "�" for char in text)


def scan(patterns: tuple[str, ...], end_s: float) -> Scan:
    """What is there, as far as the bounds and `end_s` (monotonic) allow. Raises nothing that a file may cause."""
    found = Scan()
    try:
        for pattern in patterns:
            for path in _expand("/", [part for part in pattern.split("/") if part], found, end_s):
                _take(path, found)
    except _CutShort as error:
        found.cut_short = str(error)
    return found


def _expand(folder: str, parts: list[str], found: Scan, end_s: float, depth: int = 0) -> Iterator[str]:
    """The paths below `folder` that `parts` name; `**` is any number of folders, and never goes through a link."""
    while parts and not _MAGIC.search(parts[0]):
        folder, parts = os.path.join(folder, parts[0]), parts[1:]
    if not parts:
        yield folder
        return
    first, rest = parts[0], parts[1:]
    deep = first == "**"
    if deep and rest:
        yield from _expand(folder, rest, found, end_s, depth)
    if deep and depth >= DEPTH_MAX:
        return
    matches = re.compile(fnmatch.translate("*" if deep else first)).match
    for name, is_link, is_folder in _entries(folder, found, end_s):
        if not matches(name) or (name.startswith(".") and not first.startswith(".")):
            continue
        path = os.path.join(folder, name)
        if deep and is_folder and not is_link:
            yield from _expand(path, parts, found, end_s, depth + 1)
        elif deep and not rest:
            yield path
        elif not deep and rest and (is_folder or is_link):
            yield from _expand(path, rest, found, end_s, depth)
        elif not deep and not rest:
            yield path


def _entries(folder: str, found: Scan, end_s: float) -> Iterator[tuple[str, bool, bool]]:
    """Name, is it a link, is it itself a folder."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                found.entries += 1
                if found.entries > ENTRIES_MAX:
                    raise _CutShort(f"only the first {ENTRIES_MAX} directory entries were looked at")
                if clock.monotonic_s() > end_s:
                    raise _CutShort("there was no time to look at all of them")
                yield entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError:
        _deny(folder, found)


def _take(path: str, found: Scan) -> None:
    try:
        status = os.stat(path)
        is_link = os.path.islink(path)
    except (FileNotFoundError, NotADirectoryError):
        return  # gone since, or a link to nowhere
    except OSError:
        _deny(path, found)
        return
    except ValueError:  # a name that no file can have
        return
    if not stat.S_ISREG(status.st_mode):
        return
    key = (status.st_dev, status.st_ino)
    known = found.files.get(key)
    if known is None and len(found.files) >= FILES_MAX:
        raise _CutShort(f"only the first {FILES_MAX} files were looked at")
    if known is None or (known.is_link and not is_link):
        found.files[key] = Found(key, path, min(status.st_size, status.st_blocks * 512), is_link)


def _deny(path: str, found: Scan) -> None:
    shown = printable(path)
    if len(found.denied) < TROUBLES_MAX and shown not in found.denied:
        found.denied.append(shown)
