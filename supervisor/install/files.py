"""Files that `healctl install` puts into their places, and takes away again only as long as they are its own.

The last line of each is a mark with the checksum of all above it: what was changed by hand, or came from somewhere
else, is told by it, without a record that could be lost. A set of files is written beside its places first, and moved
when all of it is on the disk: a full disk or a read-only folder changes nothing, a kill leaves each file whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from supervisor.errors import HealError

FILE_BYTES_MAX = 1024 * 1024  # more is no file of ours
KEPT = ".before~"  # no shell, no systemd and no man(1) reads a file of such a name
_MARK = re.compile(rb"(?:#|\.\\\") healctl install, sha256 of all above: ([0-9a-f]{64})\n")


class Wanted(msgspec.Struct, frozen=True):
    """A file to be. `comment` begins a line that its readers pass over."""

    path: Path
    text: str
    comment: str = "#"

    @property
    def content(self) -> bytes:
        body = self.text.encode()
        return body + f"{self.comment} healctl install, sha256 of all above: {_sum(body)}\n".encode()


class Found(StrEnum):
    """What stands in a file's place."""

    NOTHING = "nothing"
    SAME = "same"
    OURS = "ours"  # install wrote it, and nobody has changed it since
    FOREIGN = "foreign"


def found(wanted: Wanted) -> Found:
    """Raises HealError when it cannot be looked at."""
    raw = _read(wanted.path)
    if raw == wanted.content:
        return Found.SAME
    return _judged(wanted.path, raw)


def judged(path: Path) -> Found:
    """NOTHING, OURS or FOREIGN. Raises HealError when it cannot be looked at."""
    return _judged(path, _read(path))


def text(path: Path) -> str:
    """What stands there; empty for what is no file of a sensible size. Raises HealError when it cannot be read."""
    return (_read(path) or b"").decode(errors="replace")


def _judged(path: Path, raw: bytes | None) -> Found:
    if raw is None:
        return Found.FOREIGN if os.path.lexists(path) else Found.NOTHING
    body, last = _split(raw)
    match = _MARK.fullmatch(last)
    return Found.OURS if match is not None and match[1].decode() == _sum(body) else Found.FOREIGN


def _split(raw: bytes) -> tuple[bytes, bytes]:
    """All but the last line, and the last line."""
    at = raw.rfind(b"\n", 0, -1) + 1
    return raw[:at], raw[at:]


def _sum(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _read(path: Path) -> bytes | None:
    """None: no regular file of a sensible size, or nothing at all. A link is none: another file would be changed."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
            raw = source.read(FILE_BYTES_MAX + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        if path.is_symlink():
            return None
        raise HealError(f"{path}: cannot be read: {error.strerror}", "nothing was changed") from error
    return raw if len(raw) <= FILE_BYTES_MAX else None


def put(wanted: Sequence[Wanted]) -> list[Path]:
    """Puts all of them into their places, in their order. What others have put there is kept beside: returns where.

    Raises HealError: nothing was changed then, unless it says so.
    """
    files = [(one.path, one.content) for one in wanted]
    return place(files, mode=0o644, keep=lambda path: judged(path) is Found.FOREIGN, kept=KEPT)


def place(files: Sequence[tuple[Path, bytes]], *, mode: int, keep: Callable[[Path], bool], kept: str) -> list[Path]:
    """As `put`. `keep`: whether what is there is kept, under its name with `kept` at its end."""
    new = [_beside(path) for path, _ in files]
    copies: list[Path] = []
    made: list[Path] = []
    moved, at = 0, Path()
    try:
        for (at, content), beside in zip(files, new, strict=True):
            made += _absent(at.parent)
            _make_folder(at.parent)
            _write(beside, content, mode)
        for (at, _), beside in zip(files, new, strict=True):
            if os.path.lexists(at) and keep(at):
                copies.append(_free_name(at, kept))
                os.link(at, copies[-1], follow_symlinks=False)
            beside.replace(at)
            moved += 1
            _sync(at.parent)
    except OSError as error:
        what = (
            f"{moved} of {len(files)} files are in place; the same command goes on" if moved else "nothing was changed"
        )
        raise HealError(f"{error.filename or at}: {error.strerror}", what) from error
    finally:
        for beside in new:
            with contextlib.suppress(OSError):  # it was moved; or its folder is not there, or read-only: told already
                beside.unlink()
        for folder in sorted(made, reverse=True) if not moved else ():  # what is deeper comes first
            with contextlib.suppress(OSError):  # it could not be made either; or others have put something there
                folder.rmdir()
    return copies


def set_aside(paths: Iterable[Path]) -> list[Path]:
    """Gives each a second name beside its own. Returns these. Raises HealError."""
    copies: list[Path] = []
    for path in paths:
        copies.append(_free_name(path, KEPT))
        try:
            os.link(path, copies[-1], follow_symlinks=False)
        except OSError as error:
            raise HealError(f"{path}: {error.strerror}", "it was left as it is") from error
    return copies


def remove(paths: Iterable[Path]) -> None:
    """What is gone already is no error. Raises HealError."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
            _beside(path).unlink(missing_ok=True)  # of an install that was killed
            if path.parent.exists():
                _sync(path.parent)
        except OSError as error:
            raise HealError(f"{path}: {error.strerror}", "the same command goes on with what is left") from error


def _absent(folder: Path) -> list[Path]:
    """The folder and those above it that are not there yet."""
    return [it for it in (folder, *folder.parents) if not it.exists()]


def _make_folder(folder: Path) -> None:
    """For everybody to read: the umask of who installs is not meant for it."""
    before = os.umask(0o022)
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    finally:
        os.umask(before)


def _write(path: Path, content: bytes, mode: int) -> None:
    """To the disk. What a killed install has left there is written anew."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fchmod(out.fileno(), mode)
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    """So that a name survives a power cut, too."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _beside(path: Path) -> Path:
    """Where it is written first: a hidden name, which none of its readers looks at."""
    return path.with_name(f".{path.name}.healctl-new")


def _free_name(file: Path, kept: str) -> Path:
    """What was kept before is kept on: NAME.before, NAME.before1 ..."""
    stem, end = (kept[:-1], "~") if kept.endswith("~") else (kept, "")
    number = 0
    while os.path.lexists(name := file.with_name(f"{file.name}{stem}{number or ''}{end}")):
        number += 1
    return name
