"""Who has a file open, by /proc: its descriptors and mappings. It only looks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

OURS = "healctl"  # our processes' titles begin so
NAMED_MAX = 5


class Opener(msgspec.Struct, frozen=True):
    pid: int
    command: str

    @property
    def ours(self) -> bool:
        return self.command.startswith(OURS)


class Seen(msgspec.Struct, frozen=True):
    """`hidden`: processes of other users, which this one may not look into."""

    found: tuple[Opener, ...]
    hidden: int


def of_file(path: Path) -> Seen:
    """Other processes that have this very file (not the name) open or mapped. Raises OSError for the file."""
    wanted = os.stat(path)
    key = (wanted.st_dev, wanted.st_ino)
    found, hidden = [], 0
    for pid in _others():
        try:
            if any(_key(link) == key for link in _links(pid)):
                found.append(Opener(pid, _command(pid)))
        except PermissionError:
            hidden += 1
        except OSError:
            continue  # it has ended
    return Seen(tuple(found), hidden)


def of_deleted(path: Path) -> tuple[Opener, ...]:
    """Those that still have a file open that was deleted under this name."""
    found = []
    for pid in _others():
        with suppress(OSError):
            if any(os.readlink(link) == f"{path} (deleted)" for link in _links(pid)):
                found.append(Opener(pid, _command(pid)))
    return tuple(found)


def of_pid(pid: int) -> Opener:
    """This process, which may have ended since."""
    try:
        return Opener(pid, _command(pid))
    except OSError:
        return Opener(pid, "?")


def words(found: Iterable[Opener]) -> str:
    """E.g. `process 4711 (python3 writer.py)`."""
    named = [f"process {one.pid} ({one.command})" for one in found]
    more = f" and {len(named) - NAMED_MAX} more" if len(named) > NAMED_MAX else ""
    return ", ".join(named[:NAMED_MAX]) + more or "a program that has ended since"


def _others() -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            yield int(entry)


def _links(pid: int) -> Iterator[str]:
    for kind in ("fd", "map_files"):
        for name in os.listdir(f"/proc/{pid}/{kind}"):
            yield f"/proc/{pid}/{kind}/{name}"


def _key(link: str) -> tuple[int, int] | None:
    try:
        found = os.stat(link)
    except PermissionError:
        return None  # of a mapping, which only a more privileged user may follow; its descriptor is seen
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _command(pid: int) -> str:
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()[:100] or "?"
