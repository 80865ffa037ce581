"""Where copies of a database lie and what is known of them: `state_dir/backups/NAME/` (R10).

    STAMP.db, STAMP.json      a good copy, verified, and its manifest; without the manifest it does not count
    damaged-STAMP/            raw copies of the file and of what lay beside it, with SHA256SUMS, for forensics and undo
    progress.json             what a program that is at work there has done so far

Reads only, and never a database: the store's programs write here, the command line and the hands look.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from supervisor import at_work
from supervisor.clock import rfc3339

GOOD_KEPT = 7
DAMAGED_KEPT = 3
DAMAGED = "damaged-"
PROGRESS = "progress.json"
STAMP = re.compile(r"\d{8}T\d{9}Z")
_BYTES_MAX = 1024 * 1024  # of a manifest


class Manifest(msgspec.Struct, frozen=True):
    """What was verified of a good copy. `rows` are counts by table, `integrity` what `PRAGMA integrity_check` said."""

    name: str
    source: str
    stamp: str
    at: str
    bytes: int
    pages: int
    sha256: str
    integrity: str
    took_s: float
    sqlite: str
    rows: dict[str, int]


class Good(msgspec.Struct, frozen=True):
    """A good copy: its file, and its manifest."""

    path: Path
    manifest: Manifest


_manifest = msgspec.json.Decoder(Manifest)


def folder(state_dir: Path, name: str) -> Path:
    return state_dir / "backups" / name


def stamp(wall_s: float) -> str:
    """UTC to milliseconds, in an order that sorts: `20260218T093000123Z`."""
    return re.sub(r"[-:.]", "", rfc3339(wall_s))


def good(where: Path) -> tuple[Good, ...]:
    """The good copies, newest first. A manifest that cannot be read makes none. Raises OSError for the folder."""
    found = []
    for path in _entries(where):
        if path.suffix != ".json" or STAMP.fullmatch(path.stem) is None or not path.with_suffix(".db").is_file():
            continue
        with path.open("rb") as file:
            raw = file.read(_BYTES_MAX)
        try:
            found.append(Good(path.with_suffix(".db"), _manifest.decode(raw)))
        except msgspec.DecodeError:
            continue  # cut off by a power failure: then the copy does not count
    return tuple(sorted(found, key=lambda one: one.path.name, reverse=True))


def damaged(where: Path) -> tuple[Path, ...]:
    """The folders of raw copies, newest first."""
    named = [path for path in _entries(where) if STAMP.fullmatch(path.name.removeprefix(DAMAGED))]
    return tuple(sorted((path for path in named if path.is_dir()), reverse=True))


def progress(where: Path) -> at_work.Progress | None:
    """What the program that works there has told last; None when it has told nothing (it may also have died)."""
    return at_work.read(where / PROGRESS)


def _entries(where: Path) -> list[Path]:
    try:
        return list(where.iterdir())
    except FileNotFoundError:
        return []
