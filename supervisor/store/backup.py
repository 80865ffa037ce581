"""`python -m supervisor.store.backup`: one good copy of a database, or raw ones of a damaged one (R10).

    --source FILE --folder STATE/backups/NAME --name NAME [--raw] [--verify]

A program of its own, so that it can be killed at any moment and so that no descriptor of it drops anybody's locks. A
good copy is made by SQLite's backup API, and counts only when its integrity check said ok, its checksum is written
down and both are durable. With --raw the file and what lies beside it are copied as they are first, and it is no
failure that no good copy can be had. With --verify the newest good copy is checked again, and nothing is written.

It never writes the source, never checkpoints it, and never makes its writers wait long: in WAL mode they do not notice.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sqlite3
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from supervisor import at_work, backups, clock, crashpoint
from supervisor.backups import Manifest
from supervisor.errors import HealError, StoreError
from supervisor.store import copies, sqlite
from supervisor.store.copies import Folder, Patience

PAGES_AT_ONCE = 2_000  # between two words about progress (8 MiB)
PAGES_WHILE_LOCKING = 64  # of a database without WAL: its writers wait while a step reads
STARTED_OVER_MAX = 5  # by writers; then we make them wait once, for as long as the copy takes
BUSY_MS = 5_000
ROTTED = ".rotted"
TABLES_MAX = 200  # whose rows are counted


class Report(msgspec.Struct, frozen=True):
    """What was done, as one line of JSON on stdout. `error` is empty when all that was asked was done."""

    ok: bool
    said: str
    good: str = ""  # the path of the good copy
    damaged: str = ""  # the folder of the raw copies
    replaced: bool = True  # of a restore: the database is another than before
    manifest: Manifest | None = None
    removed: tuple[str, ...] = ()
    took_s: float = 0.0
    error: str = ""


class _StartedOver(Exception):
    """Writers changed the source so often that the copy could not be finished beside them."""


class NotGood(StoreError):
    """The source was read, and the copy of it is damaged: so is the source."""

    code = "damaged"


def good_copy(folder: Folder, source: Path) -> Manifest:
    """Raises StoreError, sqlite3.Error, OSError; then nothing new is there that counts."""
    began_s = clock.monotonic_s()
    if not source.is_file():
        raise StoreError(f"{source} does not exist or is no file", "healctl db restore puts a copy in its place")
    if source.stat().st_size == 0:  # for SQLite a database, and whole; as the newest copy it would be restored
        raise NotGood(f"{source} is empty", "healctl db restore puts a copy in its place")
    folder.need(copies.size_with_log(source))
    stamp = folder.fresh_stamp(clock.wall_s())
    part = folder.part(f"{stamp}.db")
    try:
        copy_pages(source, part, lambda done, total: folder.tell("copy", done, total, "pages"))
        crashpoint.reach("backup.copied")
        integrity, rows = examine(part, folder)
        if integrity != "ok":
            raise NotGood(f"the copy of {source} is damaged: {integrity}", "healctl db restore, or see its incident")
        size = part.stat().st_size
        found = Manifest(
            name=folder.name,
            source=str(source),
            stamp=stamp,
            at=clock.rfc3339(clock.wall_s()),
            bytes=size,
            pages=size // (_page_size(part) or 1),
            sha256=copies.sha256_of(part, lambda done: folder.tell("checksum", done, size, "bytes")),
            integrity=integrity,
            took_s=round(clock.monotonic_s() - began_s, 3),
            sqlite=sqlite.VERSION,
            rows=rows,
        )
        _make_it_count(folder, part, found)
    except BaseException:
        for suffix in copies.BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{part}{suffix}")
        raise
    return found


def _make_it_count(folder: Folder, part: Path, found: Manifest) -> None:
    """The manifest comes last: only with it is the copy a good one."""
    copies.sync(part)
    told = folder.part(f"{found.stamp}.json")
    told.write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    copies.sync(told)
    crashpoint.reach("backup.verified")
    part.rename(folder.path / f"{found.stamp}.db")
    crashpoint.reach("backup.renamed")
    told.rename(folder.path / f"{found.stamp}.json")
    copies.sync(folder.path)
    crashpoint.reach("backup.after")


def copy_pages(source: Path, target: Path, told: Callable[[int, int], None]) -> None:
    """SQLite's backup API into a new file. In WAL mode from one snapshot; else in small steps beside the writers."""
    origin = sqlite.open_reader(source)
    try:
        origin.execute(f"PRAGMA busy_timeout={BUSY_MS}")
        if origin.execute("PRAGMA journal_mode").fetchone()[0] == "wal":
            _copy_of_a_snapshot(origin, source, target, told)
            return
        try:
            _copy(origin, Patience(source), target, PAGES_WHILE_LOCKING, told, STARTED_OVER_MAX)
        except _StartedOver:
            _copy_of_a_snapshot(origin, source, target, told)
    finally:
        origin.close()


def _copy_of_a_snapshot(
    origin: sqlite3.Connection, source: Path, target: Path, told: Callable[[int, int], None]
) -> None:
    origin.execute("BEGIN")
    origin.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    _copy(origin, Patience(source), target, PAGES_AT_ONCE, told, None)


def _copy(
    origin: sqlite3.Connection,
    patience: Patience,
    target: Path,
    pages: int,
    told: Callable[[int, int], None],
    over_max: int | None,
) -> None:
    least_left, over = 0, 0

    def step(status: int, left: int, total: int) -> None:
        nonlocal least_left, over
        patience.step(status)
        if left > least_left and least_left:
            over += 1
            if over_max is not None and over > over_max:
                raise _StartedOver
        least_left = left
        told(total - left, total)
        crashpoint.reach("backup.page")

    copy = sqlite.open_copy(target)
    try:
        origin.backup(copy, pages=pages, progress=step, sleep=0.01)
    finally:
        copy.close()


def examine(path: Path, folder: Folder) -> tuple[str, dict[str, int]]:
    """What the integrity check says ("ok" or its first findings), and the rows of each table. For a file of ours."""
    copy = sqlite.open_unchanging(path)
    try:
        folder.tell("check", 0, 0)
        with at_work.interruptible(copy):
            lines = [str(row[0]) for row in copy.execute("PRAGMA integrity_check(10)")]
            if lines != ["ok"]:
                return "; ".join(lines), {}
            return "ok", rows_of(copy)
    except sqlite3.DatabaseError as error:
        return sqlite.describe(error), {}
    finally:
        copy.close()


def rows_of(connection: sqlite3.Connection) -> dict[str, int]:
    """The number of rows of each ordinary table; those in which an index of texts is stored are none, whose rows say
    how it has grown, not what is in it."""
    query = (
        "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'"
        " AND name NOT LIKE 'sqlite@_%' ESCAPE '@'"
    )
    names = [str(row[0]) for row in connection.execute(f"{query} ORDER BY name LIMIT {TABLES_MAX}")]
    return {name: int(connection.execute(f"SELECT count(*) FROM {quoted(name)}").fetchone()[0]) for name in names}


def quoted(name: str) -> str:
    """A name as SQL has it."""
    return '"' + name.replace('"', '""') + '"'


def _page_size(path: Path) -> int:
    with path.open("rb") as file:
        raw = int.from_bytes(file.read(18)[16:18], "big")
    return 65536 if raw == 1 else raw


def verify(folder: Folder) -> Report:
    """The newest good copy again: its checksum and its integrity. A file can rot where it lies, too."""
    kept = backups.good(folder.path)
    if not kept:
        raise StoreError(f"there is no good copy of {folder.name}", f"healctl db backup {folder.name} makes one")
    newest = kept[0]
    size = newest.manifest.bytes
    found = copies.sha256_of(newest.path, lambda done: folder.tell("checksum", done, size, "bytes"))
    if found != newest.manifest.sha256:
        raise NotGood(
            f"{newest.path} is not what was written: its checksum differs",
            f"healctl db backup {folder.name} makes another",
        )
    integrity, _ = examine(newest.path, folder)
    if integrity != "ok":
        raise NotGood(f"{newest.path} is damaged: {integrity}", f"healctl db backup {folder.name} makes another")
    said = f"{newest.path.name} of {newest.manifest.at} is good: {size} bytes, checksum and integrity hold"
    return Report(ok=True, said=said, good=str(newest.path), manifest=newest.manifest)


def check_newest(folder: Folder) -> str:
    """Has the newest good copy rotted where it lies? Then it counts no more, and keeps another name. In words."""
    kept = backups.good(folder.path)
    if not kept or copies.sha256_of(kept[0].path) == kept[0].manifest.sha256:
        return ""
    for path in (kept[0].path.with_suffix(".json"), kept[0].path):  # in this order: without its manifest it is no copy
        path.rename(f"{path}{ROTTED}")
    return f"{kept[0].path.name} has rotted: its checksum differs; it counts no more"


def back_up(folder: Folder, source: Path, *, raw: bool) -> Report:
    damaged, said = "", []
    if not raw and (rotted := check_newest(folder)):
        said.append(rotted)
    if raw:
        where, unreadable = copies.raw_copies(folder, source, clock.wall_s())
        damaged = str(where)
        lost = f" ({unreadable} bytes could not be read)" if unreadable else ""
        said.append(f"raw copies with checksums are in {damaged}{lost}")
    found, error = None, ""
    try:
        found = good_copy(folder, source)
        said.append(f"good copy {found.stamp}.db, {found.bytes} bytes, verified")
    except (StoreError, sqlite3.Error) as caught:
        error = sqlite.describe(caught) if isinstance(caught, sqlite3.Error) else caught.message
        if not raw:
            raise
        said.append(f"no good copy of it can be made: {error}")
    return Report(
        ok=True,
        said="; ".join(said),
        good=str(folder.path / f"{found.stamp}.db") if found is not None else "",
        damaged=damaged,
        manifest=found,
        removed=folder.retain(),
        error=error,
    )


def run(argv: Sequence[str], work: Callable[[argparse.Namespace], Report], parser: argparse.ArgumentParser) -> int:
    """Does the work and prints its report; 0 when it was done, 1 when not."""
    at_work.heed()
    began_s = clock.monotonic_s()
    try:
        report = work(parser.parse_args(argv))
    except HealError as error:
        report = Report(ok=False, said=str(error), error=error.message)
    except sqlite3.Error as error:
        report = Report(ok=False, said=sqlite.describe(error), error=sqlite.describe(error))
    except OSError as error:
        report = Report(ok=False, said=str(error), error=str(error))
    report = msgspec.structs.replace(report, took_s=round(clock.monotonic_s() - began_s, 3))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0 if report.ok else 1


def _work(args: argparse.Namespace) -> Report:
    source = Path(os.path.realpath(args.source))
    with copies.opened(args.folder, args.name) as folder:
        return verify(folder) if args.verify else back_up(folder, source, raw=args.raw)


def main() -> int:
    crashpoint.i_am("backup")
    parser = argparse.ArgumentParser(prog="supervisor.store.backup")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--verify", action="store_true")
    return run(sys.argv[1:], _work, parser)


if __name__ == "__main__":
    sys.exit(main())
