"""What may be put in a damaged database's place, each checked from end to end; and whether anything must be (R10).

A part of `supervisor.store.restore`.
"""

from __future__ import annotations

import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import msgspec

from supervisor import backups
from supervisor.errors import StoreError
from supervisor.store import backup, copies, rescue, sqlite
from supervisor.store.copies import Folder

SAID_FIRST = ("incidents", "messages")  # what decides which copy holds more


class Choice(msgspec.Struct, frozen=True):
    """A verified database that could be put in place; `what` it is, in words."""

    path: Path
    what: str
    rows: dict[str, int]

    @property
    def weight(self) -> tuple[int, int]:
        """Without our own positions: what is salvaged comes without them, and is no poorer for that."""
        counted = {name: count for name, count in self.rows.items() if name != rescue.POSITION}
        return sum(counted.get(name, 0) for name in SAID_FIRST), sum(counted.values())

    def words(self) -> str:
        counted = [f"{self.rows[name]} {name}" for name in SAID_FIRST if name in self.rows]
        return f"{self.what} ({', '.join([*counted, f'{sum(self.rows.values())} rows in all'])})"


def choices(folder: Folder, live: Path, work: Path) -> list[Choice]:
    """The newest copy that is still good, and what can be salvaged; each checked from end to end."""
    found = []
    good = _newest_good(folder)
    if good is not None:
        found.append(good)
    newest = backups.damaged(folder.path)
    if live.is_file() and newest and (newest[0] / live.name).is_file():
        salvaged = _salvaged(folder, newest[0] / live.name, work, good.path if good is not None else None)
        if salvaged is not None:
            found.append(salvaged)
    return found


def _newest_good(folder: Folder) -> Choice | None:
    for one in backups.good(folder.path):
        if copies.sha256_of(one.path) != one.manifest.sha256:
            continue
        integrity, rows = backup.examine(one.path, folder)
        if integrity == "ok":
            return Choice(one.path, f"the good copy of {one.manifest.at}", rows)
    return None


def _salvaged(folder: Folder, original: Path, work: Path, like: Path | None) -> Choice | None:
    size = copies.size_with_log(original)
    folder.need(2 * size)
    copy, new = _copied(original, work), work / "salvaged.db"
    try:
        found = rescue.rescue(copy, new, like, lambda done, total: folder.tell("salvage", done, total, "pages"))
    except (StoreError, sqlite3.Error) as error:
        if isinstance(error, sqlite3.Error) and sqlite.fault_of(error) in sqlite.DISK_FAULTS:
            raise  # it could hold more than the good copy: with room, or on a disk that is well, that can be told
        sys.stderr.write(f"nothing can be salvaged of {original}: {error}\n")
        return None
    integrity, rows = backup.examine(new, folder)
    if integrity != "ok":
        return None
    lost = f", {found.pages_lost} pages and {found.rows_lost} rows lost" if not found.whole else ""
    notes = f" ({'; '.join(found.notes)})" if found.notes else ""
    return Choice(new, f"what could be salvaged{lost}{notes}", rows)


def is_whole(folder: Folder, original: Path) -> bool:
    """A file that was emptied is whole to SQLite, and not to us."""
    if not original.is_file():
        return False
    folder.need(copies.size_with_log(original))
    kept = backups.good(folder.path)
    with workplace(folder) as work:
        integrity, rows = backup.examine(merged(original, work), folder)
    return integrity == "ok" and bool(rows) and (not kept or kept[0].manifest.rows.keys() <= rows.keys())


def merged(original: Path, work: Path) -> Path:
    """`_copied`, with its log in it where SQLite can still open it."""
    copy = _copied(original, work)
    with suppress(sqlite3.Error), closing(sqlite.open_damaged(copy)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return copy


def _copied(original: Path, work: Path) -> Path:
    """A copy of a raw copy, with what lay beside it, to be changed; never the index of a log, which is made anew."""
    for suffix in ("", "-wal", "-journal"):
        part = Path(f"{original}{suffix}")
        if part.is_file():
            shutil.copyfile(part, work / part.name)
    return work / original.name


@contextmanager
def workplace(folder: Folder) -> Iterator[Path]:
    """A directory beside the copies, gone afterwards; a killed program's is swept by the next."""
    work = folder.part("work")
    work.mkdir(mode=0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work)
