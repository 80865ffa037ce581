"""`python -m supervisor.store.restore`: a good copy, or what can be salvaged, in a damaged database's place (R10).

    --source FILE --folder STATE/backups/NAME --name NAME [--unless-whole | --undo DAMAGED_FOLDER]

The newest good copy or what `rescue` finds, whichever holds more rows; both are checked before either is used, and the
file as it is now is kept first. Meanwhile nobody can write it (`sentry`); if somebody has, in the instant before it is
replaced, everything begins anew. Then one of three ways, each all or nothing:

* SQLite can open the file: its backup API into it, one transaction under its write lock. Who has it open goes on.
* Its header is destroyed: the same file (inode) is written anew, its header last, while nobody has it open; else this
  refuses and names them. Until the header stands it is no database for anybody, as it was before.
* There is no file: the copy gets its name, which must still be free.

With --unless-whole a file that is whole by now, and lacks no table of the newest good copy, is left alone: the check
that found it damaged may have begun minutes ago. With --undo the raw copies of an earlier restore are put back in the
same ways.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from supervisor import at_work, backups, clock, crashpoint
from supervisor.errors import StoreError
from supervisor.store import backup, candidates, copies, openers, pages, sqlite
from supervisor.store.backup import Report
from supervisor.store.copies import Folder, Patience
from supervisor.store.sentry import Sentry, posted

OPENERS_WITHIN_S = 10.0  # for our own workers to close what they have open
AGAIN_S = 0.1
SPIN_S = 0.1  # for the sentry's lock: its end takes the kernel some milliseconds
BUSY_S = 0.005  # between two attempts, behind a writer
BYTES_AT_ONCE = 1024 * 1024  # half of what SQLite keeps in memory before it writes
ANEW_MAX = 10  # others' writes between the sentry's lock and ours


class _Written(Exception):
    """Another program has written the file since it was copied: what it wrote would be lost."""


def restore(folder: Folder, live: Path, *, unless_whole: bool = False) -> Report:
    """Raises StoreError, sqlite3.Error, OSError; then the live file is as it was, or no database as before."""
    return _unwritten(folder, live, lambda sentry: _restored(folder, live, sentry, unless_whole=unless_whole))


def undo(folder: Folder, live: Path, damaged: Path) -> Report:
    """Puts an earlier damaged file back as it was, its log merged where SQLite can still open it."""
    original = damaged / live.name
    if damaged.parent != folder.path or not original.is_file():
        raise StoreError(f"{damaged} holds no raw copy of {live.name}", f"see {folder.path}")
    return _unwritten(folder, live, lambda sentry: _undone(folder, live, original, sentry))


def _unwritten(folder: Folder, live: Path, work: Callable[[Sentry | None], Report]) -> Report:
    """Does it under a sentry, again while others' writes come in between. Raises StoreError when they do not end."""
    for _ in range(ANEW_MAX):
        kept = backups.damaged(folder.path)
        try:
            if not live.is_file():
                return work(None)
            folder.tell("wait for the write lock", 0, 0)
            with posted(live) as sentry:
                return work(sentry)
        except (_Written, at_work.Stopped) as error:
            for one in set(backups.damaged(folder.path)).difference(kept):
                shutil.rmtree(one)  # it is not what will be replaced, and would push out what must be kept
            if isinstance(error, at_work.Stopped):
                raise
    who = openers.words(one for one in openers.of_file(live).found if not one.ours)
    raise StoreError(f"{live} was not restored: it is written again and again: {who}", "stop it, and restore again")


def _restored(folder: Folder, live: Path, sentry: Sentry | None, *, unless_whole: bool) -> Report:
    damaged = ""
    if any(Path(f"{live}{suffix}").is_file() for suffix in copies.BESIDE):
        damaged = _kept(folder, live, sentry)
        crashpoint.reach("restore.kept")
        if unless_whole and candidates.is_whole(folder, Path(damaged) / live.name):
            shutil.rmtree(damaged)
            return Report(ok=True, said=f"{live} is whole by now: nothing was replaced", replaced=False)
    with candidates.workplace(folder) as work:
        choices = candidates.choices(folder, live, work)
        if not choices:
            raise StoreError(
                f"there is no good copy of {live}, and nothing of it can be salvaged",
                f"it is kept in {damaged}" if damaged else "move it away, and healctl begins a new one",
            )
        chosen = max(choices, key=lambda one: one.weight)  # of two that hold as much the first, the good copy
        others = "; ".join(one.words() for one in choices if one is not chosen)
        crashpoint.reach("restore.chosen")
        how = put(chosen.path, live, folder, sentry)
    _proved(live, chosen.rows)
    said = f"{live} is now {chosen.words()}, {how}" + (f"; left aside: {others}" if others else "")
    said += f"; the file as it was is kept in {damaged}" if damaged else ""
    folder.retain()
    return Report(ok=True, said=said, good=str(chosen.path) if chosen.path.exists() else "", damaged=damaged)


def _undone(folder: Folder, live: Path, original: Path, sentry: Sentry | None) -> Report:
    kept = _kept(folder, live, sentry) if sentry is not None else ""
    with candidates.workplace(folder) as work:
        copy = candidates.merged(original, work)
        how = put(copy, live, folder, sentry, legible=_is_legible(copy, work))
    return Report(ok=True, said=f"{live} is again what it was in {original.parent.name}, {how}", damaged=kept)


def _is_legible(copy: Path, work: Path) -> bool:
    """Can SQLite read its every page, whatever stands there? Else only its bytes can be put back."""
    try:
        with closing(sqlite.open_unchanging(copy)) as origin, closing(sqlite.open_copy(work / "trial.db")) as trial:
            origin.backup(trial)
    except sqlite3.Error:
        return False
    return True


def _kept(folder: Folder, live: Path, sentry: Sentry | None) -> str:
    """Where the file as it is now is kept; what is written to it from now on would not be in there."""
    if sentry is not None:
        sentry.mark()
    kept, _ = copies.raw_copies(folder, live, clock.wall_s())
    return str(kept)


# --- how to put it there ---------------------------------------------------------------------------------------------


def put(copy: Path, live: Path, folder: Folder, sentry: Sentry | None, *, legible: bool = True) -> str:
    """Puts `copy` in the place of `live`; how, in words. Nobody stops it any more. Raises StoreError when nobody may,
    and names who is in the way; _Written; Stopped."""
    folder.no_return("restore")
    if sentry is None:
        if live.exists() and not live.is_file():
            raise StoreError(f"{live} is no file", "move away what is there, and restore again")
        return _put_new(copy, live)
    if legible:
        try:
            return _put_through_sqlite(copy, live, folder, sentry)
        except sqlite3.Error as error:
            if sqlite.fault_of(error) is not sqlite.Fault.DAMAGED:
                raise
    return _rewrite(copy, live, sentry)


def _put_through_sqlite(copy: Path, live: Path, folder: Folder, sentry: Sentry) -> str:
    """One transaction of SQLite's: whoever dies, the file is the old one or the new one."""
    with closing(sqlite.open_unchanging(copy)) as origin, closing(sqlite.open_damaged(live)) as target:
        patience, locked = Patience(live), False

        def step(status: int, left: int, total: int) -> None:
            nonlocal locked
            patience.step(status)
            if status == sqlite3.SQLITE_OK and not locked:
                # From here on the lock is ours, and nothing of ours is in the file yet. Whoever came between the
                # sentry's lock and this one has written what nobody has copied.
                locked = True
                if sentry.moved():
                    raise _Written
            folder.tell("restore", total - left, total, "pages")
            if left:  # else it is committed already
                crashpoint.reach("restore.page")

        target.execute("PRAGMA busy_timeout=0")  # its pauses would let others go first
        sentry.leave()
        _wait_for_the_lock(target, patience)
        origin.backup(target, pages=_first_pages(origin), progress=step, sleep=AGAIN_S)
        crashpoint.reach("restore.after")
    return "put there through SQLite in one transaction"


def _first_pages(origin: sqlite3.Connection) -> int:
    """So few at once that SQLite still has the first ones in memory, and that they are not all there are."""
    size, count = (int(origin.execute(f"PRAGMA {what}").fetchone()[0]) for what in ("page_size", "page_count"))
    return max(1, min(BYTES_AT_ONCE // size, count - 1))


def _wait_for_the_lock(target: sqlite3.Connection, patience: Patience) -> None:
    """At once when it is free, before others; or when writers that are at it are done. Raises StoreError,
    sqlite3.Error."""
    spin_s, pause = clock.monotonic_s() + SPIN_S, threading.Event()
    while True:
        try:
            target.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if sqlite.fault_of(error) is not sqlite.Fault.BUSY:
                raise
            patience.step(sqlite3.SQLITE_BUSY)
            if clock.monotonic_s() > spin_s:
                pause.wait(BUSY_S)
            continue
        target.execute("ROLLBACK")  # a backup begins its own transaction
        return


def _rewrite(copy: Path, live: Path, sentry: Sentry) -> str:
    """The same inode, written anew while nobody has it open; its header comes last, and makes it a database again."""
    sentry.let_go()  # who had it open is kept from it until here
    unseen = _nobody_has(live)
    if sentry.moved():
        raise _Written
    fd = os.open(live, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, copy.stat().st_size)  # or no space: then nothing has happened yet
        os.pwrite(fd, bytes(pages.HEADER_BYTES), 0)  # for everybody no database from here on, as it was before
        os.fsync(fd)
        crashpoint.reach("restore.cleared")
        _remove_beside(live)
        with copy.open("rb", buffering=0) as source:
            header = source.read(pages.HEADER_BYTES)
            at = pages.HEADER_BYTES
            while chunk := source.read(copies.CHUNK_BYTES):
                os.pwrite(fd, chunk, at)
                at += len(chunk)
        os.ftruncate(fd, at)
        os.fsync(fd)
        crashpoint.reach("restore.written")
        os.pwrite(fd, header, 0)
        os.fsync(fd)
        crashpoint.reach("restore.header")
    finally:
        os.close(fd)
    return "written anew in the same file, which nobody had open" + unseen


def _nobody_has(live: Path) -> str:
    """Raises StoreError with the names of those that have the file open. Returns who could not be looked at, in words.

    Our own workers look at it now and then: they are waited for.
    """
    end_s = clock.monotonic_s() + OPENERS_WITHIN_S
    while True:
        seen = openers.of_file(live)
        if not seen.found:
            return f" ({seen.hidden} processes of other users could not be looked at)" if seen.hidden else ""
        others = [one for one in seen.found if not one.ours]
        if others or clock.monotonic_s() > end_s:
            raise StoreError(
                f"{live} was not restored: its header is destroyed, and {openers.words(others or seen.found)}"
                " has it open",
                "stop that program, and restore again",
            )
        threading.Event().wait(AGAIN_S)


def _put_new(copy: Path, live: Path) -> str:
    """There is no file: the copy is made durable beside the place, and linked to the name, which must be free."""
    part = live.with_name(f".{live.name}.healctl{copies.PART}")
    with suppress(FileNotFoundError):
        part.unlink()
    shutil.copyfile(copy, part)
    part.chmod(0o600)
    copies.sync(part)
    crashpoint.reach("restore.written")
    _remove_beside(live)  # a log that was left behind would be replayed into the new file
    os.link(part, live)
    part.unlink()
    copies.sync(live.parent)
    crashpoint.reach("restore.header")
    still = openers.of_deleted(live)
    lost = f"; {openers.words(still)} still writes the deleted file and must be restarted" if still else ""
    return f"as a new file{lost}"


def _remove_beside(live: Path) -> None:
    for suffix in copies.BESIDE[1:]:
        with suppress(FileNotFoundError):
            os.unlink(f"{live}{suffix}")


def _proved(live: Path, rows: dict[str, int]) -> None:
    """The live file, as SQLite now sees it. Raises StoreError when it is not whole."""
    with closing(sqlite.open_reader(live)) as connection:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
        missing = rows.keys() - backup.rows_of(connection).keys()
    if found != ["ok"] or missing:
        raise StoreError(f"{live} was restored, and is not whole: {'; '.join([*found, *sorted(missing)])}")


def _work(args: argparse.Namespace) -> Report:
    live = Path(os.path.realpath(args.source))
    with copies.opened(args.folder, args.name) as folder:
        return undo(folder, live, args.undo) if args.undo else restore(folder, live, unless_whole=args.unless_whole)


def main() -> int:
    crashpoint.i_am("restore")
    parser = argparse.ArgumentParser(prog="supervisor.store.restore")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--undo", type=Path)
    parser.add_argument("--unless-whole", action="store_true")
    return backup.run(sys.argv[1:], _work, parser)


if __name__ == "__main__":
    sys.exit(main())
