"""Copies of real databases, and what takes a damaged one's place, by the real programs, killed at every point (R10)."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor import backups
from supervisor.errors import StoreError
from supervisor.incidents import records as rec
from supervisor.store import backup, copies, restore, sqlite
from supervisor.store.backup import Report
from supervisor.store.ledger import Ledger
from tests.lab.databases import PAGE, cut_off, destroy_header, listing, program
from tests.process.restorelab import KILLED, NAME, ROOT, Site
from tests.process.storelab import (
    Book,
    brain,
    following,
    holding_the_lock,
    incident,
    message,
    rows,
    small_disk,
    synapse,
    trail,
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


# --- backup ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("R10")
def test_a_good_copy_is_verified_and_says_what_it_holds(site: Site) -> None:
    before = site.live.read_bytes()
    report = site.ok("backup")
    (kept,) = backups.good(site.copies)
    assert report.manifest == kept.manifest
    assert kept.manifest.rows == {"incidents": 1000, "messages": 1000}
    assert kept.manifest.sha256 == hashlib.sha256(kept.path.read_bytes()).hexdigest()
    assert (kept.path.stat().st_mode & 0o777, site.copies.stat().st_mode & 0o777) == (0o600, 0o700)
    assert site.live.read_bytes() == before
    assert sorted(path.name for path in site.copies.iterdir()) == [
        ".lock", kept.path.with_suffix(".db").name, kept.path.with_suffix(".json").name,
    ]  # fmt: skip
    assert "is good" in site.ok("backup", "--verify").said
    with kept.path.open("r+b") as file:
        file.seek(5 * PAGE + 2000)
        file.write(b"rot")
    assert "checksum differs" in site.refused("backup", "--verify")
    assert f"{kept.path.name} has rotted" in site.ok("backup").said
    (newer,) = backups.good(site.copies)
    assert newer.path != kept.path
    assert kept.path.with_name(f"{kept.path.name}.rotted").exists()


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_the_copy_is_of_one_moment_while_another_program_writes(tmp_path: Path, wal: bool) -> None:
    site = Site(tmp_path, wal=wal)
    writes = (
        "import threading\n"
        "def write():\n"
        "    w = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)\n"
        "    n = 0\n"
        "    while True:\n"
        "        w.execute('BEGIN IMMEDIATE')\n"
        "        for table in ('incidents', 'messages'):\n"
        "            w.execute(f'INSERT INTO {table} VALUES (?, ?)', (f'w{n}', 'y' * 100))\n"
        "        w.execute('COMMIT')\n"
        "        n += 1\n"
        "        time.sleep(0.001)\n"
        "threading.Thread(target=write, daemon=True).start()"
    )
    with program(writes, site.live):
        manifest = site.ok("backup").manifest
    assert manifest is not None
    assert manifest.rows["incidents"] == manifest.rows["messages"] >= 1000


@pytest.mark.req("R10")
def test_a_damaged_database_gives_no_good_copy_but_raw_ones_with_checksums(site: Site) -> None:
    site.ok("backup")
    site.overwrite(40)
    assert "is damaged" in site.refused("backup")
    assert len(backups.good(site.copies)) == 1
    report = site.ok("backup", "--raw")
    (folder,) = backups.damaged(site.copies)
    assert report.damaged == str(folder)
    assert (folder / "notes.db").read_bytes() == site.live.read_bytes()
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=True)
    assert "no good copy of it can be made" in report.said


@pytest.mark.req("R10")
def test_seven_good_copies_and_three_raw_ones_are_kept(tmp_path: Path) -> None:
    site = Site(tmp_path, 10)
    made = [site.ok("backup", *(["--raw"] if n < 5 else [])) for n in range(9)]
    assert [str(one.path) for one in backups.good(site.copies)] == [report.good for report in reversed(made[2:])]
    assert [str(path) for path in backups.damaged(site.copies)] == [r.damaged for r in reversed(made[2:5])]
    assert len(made[-1].removed) == 1


@pytest.mark.req("R10")
def test_two_do_not_work_in_one_folder(site: Site) -> None:
    site.ok("backup")
    lock = (
        "import fcntl\n"
        "f = open(sys.argv[2], 'w')\n"
        "fcntl.flock(f, fcntl.LOCK_EX)"
    )  # fmt: skip
    with program(lock, site.live, site.copies / ".lock"):
        assert "another program copies or restores notes" in site.refused("backup")


@pytest.mark.req("R10")
def test_a_missing_database_and_a_strange_one_are_refused(site: Site) -> None:
    site.live.unlink()
    assert "does not exist" in site.refused("backup")
    assert "does not exist" in site.refused("backup", "--raw")
    os.mkfifo(site.live)
    assert "is no file" in site.refused("backup")
    assert backups.good(site.copies) == ()


@pytest.mark.req("R10")
def test_a_full_disk_costs_no_good_copy(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "32m") as disk:
        site = Site(disk, 4000)
        site.ok("backup")
        before = listing(site.copies)
        with (disk / "filler").open("wb") as filler:
            filler.truncate(0)
            os.posix_fallocate(filler.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - 20 * PAGE)
        assert "are needed" in site.refused("backup")
        assert listing(site.copies) == before
        site.overwrite(40)
        said = site.refused("restore")
        assert "are needed" in said
        assert listing(site.copies) == before
        (disk / "filler").unlink()
        site.ok("restore")
        assert site.whole()


@pytest.mark.req("R10")
@pytest.mark.parametrize(
    "point",
    ["raw.file", "raw.after", "backup.page", "backup.copied", "backup.verified", "backup.renamed", "backup.after"],
)
def test_a_backup_killed_anywhere_loses_no_good_copy_and_leaves_no_half_one(site: Site, point: str) -> None:
    first = site.ok("backup")
    before = Path(first.good).read_bytes()
    live = site.live.read_bytes()
    assert site.run("backup", "--raw", crash=point) == (KILLED, None)
    for one in backups.good(site.copies):
        assert hashlib.sha256(one.path.read_bytes()).hexdigest() == one.manifest.sha256
    assert Path(first.good).read_bytes() == before
    assert site.live.read_bytes() == live
    last = site.ok("backup")
    assert backups.good(site.copies)[0].path == Path(last.good)
    strange = [p.name for p in site.copies.iterdir() if ".part" in p.name or (p.suffix == ".db" and not p.with_suffix(".json").exists())]  # fmt: skip  # noqa: E501
    assert strange == []


# --- restore ---------------------------------------------------------------------------------------------------------


def schema_page(site: Site) -> None:
    """Page 1 but for its header: SQLite can open it, and read nothing."""
    rows(site.live, "PRAGMA wal_checkpoint(TRUNCATE)")
    with site.live.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * (PAGE - 100))


def cut(site: Site) -> None:
    rows(site.live, "PRAGMA wal_checkpoint(TRUNCATE)")
    cut_off(site.live)


def header(site: Site) -> None:
    rows(site.live, "PRAGMA wal_checkpoint(TRUNCATE)")
    destroy_header(site.live)


def short_and_headless(site: Site) -> None:
    cut(site)
    destroy_header(site.live)


def pages(site: Site) -> None:
    site.overwrite(30, 40, 50)


def gone(site: Site) -> None:
    site.live.unlink()


@pytest.mark.req("R10")
@pytest.mark.parametrize(
    ("damage", "wal"),
    [*((damage, True) for damage in (pages, schema_page, cut, header, gone)), (pages, False), (header, False)],
)
def test_whatever_happened_to_it_the_good_copy_takes_its_place(
    tmp_path: Path, damage: Callable[[Site], None], wal: bool
) -> None:
    site = Site(tmp_path, wal=wal)
    site.ok("backup")
    inode = site.live.stat().st_ino
    damage(site)
    was = site.live.read_bytes() if site.live.exists() else b""
    report = site.ok("restore")
    assert "is now the good copy" in report.said
    assert site.whole()
    assert (site.count(), site.count("messages")) == (1000, 1000)
    assert rows(site.live, "PRAGMA journal_mode") == [("wal" if wal else "delete",)]
    if was:
        assert site.live.stat().st_ino == inode
        assert (Path(report.damaged) / "notes.db").read_bytes() == was


@pytest.mark.req("R10")
@pytest.mark.parametrize("damage", [pages, header])
def test_what_can_be_salvaged_is_taken_when_it_holds_more(site: Site, damage: Callable[[Site], None]) -> None:
    site.ok("backup")
    site.add(1000, 800)
    damage(site)
    report = site.ok("restore")
    assert "is now what could be salvaged" in report.said
    assert "left aside: the good copy" in report.said
    assert "1000 incidents" in report.said
    assert site.whole()
    assert site.count() + site.count("messages") > 3300
    assert rows(site.live, "PRAGMA journal_mode") == [("wal",)]


@pytest.mark.req("R10")
def test_how_an_index_of_texts_has_grown_and_our_own_positions_count_as_no_rows(site: Site) -> None:
    """What is salvaged has its index built anew, smaller, and comes without positions: it holds no less for that."""
    with closing(sqlite3.connect(site.live, isolation_level=None)) as db:
        db.execute("CREATE VIRTUAL TABLE texts USING fts5 (body)")
        for n in range(100):
            db.execute("INSERT INTO texts VALUES (?)", (f"text {n}",))
        db.execute("CREATE TABLE heal_projection (name TEXT PRIMARY KEY, ledger_id TEXT NOT NULL, rev INTEGER)")
        db.execute("INSERT INTO heal_projection VALUES ('brain_db', 'x', 1), ('synapse', 'x', 1)")
        db.execute("CREATE TABLE atoms (body)")
    site.ok("backup")
    with closing(sqlite3.connect(site.live, isolation_level=None)) as db:
        db.execute("INSERT INTO atoms VALUES ('newer')")
    header(site)
    assert "is now what could be salvaged" in site.ok("restore").said
    assert site.count("atoms") == 1
    assert rows(site.live, "SELECT count(*) FROM texts WHERE texts MATCH 'text'") == [(100,)]


@pytest.mark.req("R10")
def test_without_a_good_copy_it_is_salvaged_or_refused(site: Site) -> None:
    site.overwrite(30)
    assert "is now what could be salvaged, 1 pages" in site.ok("restore").said
    assert site.whole()
    assert site.count() + site.count("messages") > 1900
    header(site)
    shutil.rmtree(site.copies)
    was = site.live.read_bytes()
    assert "nothing of it can be salvaged" in site.refused("restore")
    assert site.live.read_bytes() == was


@pytest.mark.req("R10")
def test_a_good_copy_that_has_rotted_is_not_taken(site: Site) -> None:
    older = site.ok("backup")
    site.add(1000, 500)
    newer = site.ok("backup")
    with Path(newer.good).open("r+b") as file:
        file.seek(7 * PAGE + 50)
        file.write(b"\xff" * 200)
    gone(site)
    report = site.ok("restore")
    assert report.good == older.good
    assert site.count() == 1000


@pytest.mark.req("R10")
@pytest.mark.parametrize("damage", [pages, schema_page, cut])
def test_another_program_that_has_it_open_goes_on_with_the_restored_one(
    site: Site, damage: Callable[[Site], None]
) -> None:
    site.ok("backup")
    reads = (
        "db.execute('SELECT count(*) FROM incidents').fetchone()\n"
        "import threading\n"
        "def answer():\n"
        "    for line in sys.stdin:\n"
        "        pass\n"
    )
    with program(reads, site.live) as other:
        damage(site)
        site.ok("restore")
        assert site.whole()
        assert site.count() == 1000
        assert other.poll() is None


@pytest.mark.req("R10")
def test_a_destroyed_header_and_a_program_that_has_it_open_is_refused_and_named(site: Site) -> None:
    site.ok("backup")
    with program("db.execute('SELECT count(*) FROM incidents').fetchone()", site.live) as other:
        header(site)
        was = site.live.read_bytes()
        said = site.refused("restore")
        assert f"process {other.pid} (" in said
        assert "has it open" in said
        assert site.live.read_bytes() == was
    assert "which nobody had open" in site.ok("restore").said
    assert site.whole()


@pytest.mark.req("R10")
def test_a_deleted_file_that_another_program_still_writes_is_told(site: Site) -> None:
    site.ok("backup")
    with program("db.execute('SELECT count(*) FROM incidents').fetchone()", site.live) as other:
        gone(site)
        said = site.ok("restore").said
        assert f"process {other.pid} (" in said
        assert "still writes the deleted file" in said
    assert site.whole()


@pytest.mark.req("R10")
def test_a_log_left_behind_by_a_deleted_file_is_not_replayed_into_the_new_one(site: Site) -> None:
    site.ok("backup")
    with program("db.execute('PRAGMA wal_autocheckpoint=0')\ndb.execute('DELETE FROM incidents')", site.live):
        pass  # killed: its log stays
    assert Path(f"{site.live}-wal").stat().st_size > 0
    gone(site)
    report = site.ok("restore")
    assert site.count() == 1000
    assert (Path(report.damaged) / "notes.db-wal").stat().st_size > 0


@pytest.mark.req("R10")
def test_a_writer_is_waited_for(site: Site) -> None:
    site.ok("backup")
    site.overwrite(40)
    with holding_the_lock(site.live):
        argv = [sys.executable, "-m", "supervisor.store.restore", "--source", site.live, "--folder", site.copies]
        waiting = subprocess.Popen([*map(str, argv), "--name", NAME], stdout=subprocess.PIPE, cwd=ROOT)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
    out, _ = waiting.communicate(timeout=60)
    assert msgspec.json.decode(out, type=Report).ok
    assert site.whole()


@pytest.mark.req("R10")
@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "BEGIN"])
def test_who_keeps_it_locked_is_named_and_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """With a rollback journal even a reader that never ends keeps a restore from being finished."""
    monkeypatch.setattr(copies, "LOCK_WITHIN_S", 0.5)
    site = Site(tmp_path, wal=False)
    site.ok("backup")
    site.overwrite(40)
    was = rows_of_pages(site)
    holds = f"db.execute('{lock}')\ndb.execute('SELECT count(*) FROM sqlite_schema').fetchone()"
    refused = pytest.raises(StoreError, match="stays locked by another program: process ")
    with copies.opened(site.copies, NAME) as folder, program(holds, site.live) as other, refused as error:
        restore.restore(folder, site.live)
    assert f"process {other.pid} (" in str(error.value)
    assert rows_of_pages(site) == was
    site.ok("restore")
    assert site.whole()


@pytest.mark.req("R10")
def test_a_backup_waits_for_a_lock_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOCK_WITHIN_S", 0.5)
    site = Site(tmp_path, wal=False)
    monkeypatch.setattr(backup, "BUSY_MS", 100)
    refused = pytest.raises((StoreError, sqlite3.OperationalError), match="locked")
    with program("db.execute('BEGIN EXCLUSIVE')", site.live), refused:
        backup.copy_pages(site.live, tmp_path / "copy.db", lambda done, total: None)
    site.ok("backup")


@pytest.mark.req("R10")
@pytest.mark.parametrize("damage", [cut, short_and_headless])
def test_where_the_database_s_own_disk_is_full_it_stays_as_it_was(
    tmp_path: Path, damage: Callable[[Site], None]
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        site = Site(disk, 4000)
        site.copies = backups.folder(tmp_path / "elsewhere", NAME)
        site.ok("backup")
        damage(site)
        was = rows_of_pages(site)
        with (disk / "filler").open("wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - 40 * PAGE)
        assert ("full" in (said := site.refused("restore"))) or "No space left" in said
        (disk / "filler").unlink()
        assert rows_of_pages(site) == was
        site.ok("restore")
        assert site.whole()
        assert site.count() == 4000


@pytest.mark.req("R10", "R15")
@pytest.mark.parametrize("damage", [pages, header, cut])
def test_putting_the_damaged_file_back_is_the_undo(site: Site, damage: Callable[[Site], None]) -> None:
    site.ok("backup")
    damage(site)
    was = site.live.read_bytes()
    report = site.ok("restore")
    site.ok("restore", "--undo", report.damaged)
    again = site.live.read_bytes()
    if damage is header:
        assert again == was
    else:
        assert b"\xff" * 500 in again or len(again) == len(was)
    site.ok("restore")
    assert site.whole()
    assert "holds no raw copy" in site.refused("restore", "--undo", site.copies / "damaged-20000101T000000000Z")


OPENABLE = [
    "raw.file",
    "raw.after",
    "restore.kept",
    "restore.chosen",
    "restore.page",
    "restore.after",
]
REWRITTEN = ["restore.cleared", "restore.written", "restore.header"]


@pytest.mark.req("R10")
@pytest.mark.parametrize(("damage", "point"), [*((pages, p) for p in OPENABLE), *((header, p) for p in REWRITTEN)])
def test_a_restore_killed_anywhere_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, damage: Callable[[Site], None], point: str
) -> None:
    site = Site(tmp_path, 8_000 if point == "restore.page" else 1000)
    good = site.ok("backup")
    held = Path(good.good).read_bytes()
    damage(site)
    was = rows_of_pages(site)
    assert site.run("restore", crash=point) == (KILLED, None)
    if damage is header:
        if point == "restore.header":
            assert site.whole()
        else:  # no database for anybody, as before; the file as it was is kept
            with pytest.raises(sqlite3.DatabaseError, match="not a database"):
                site.count()
            assert (backups.damaged(site.copies)[0] / "notes.db").stat().st_size > 0
    elif point == "restore.after":
        assert site.whole()
    else:
        assert rows_of_pages(site) == was
    assert Path(good.good).read_bytes() == held
    site.ok("restore")
    assert site.whole()
    assert site.count() == site.count("messages")


def rows_of_pages(site: Site) -> bytes:
    """The file as SQLite sees it, hot journals rolled back: by its own copy of every page."""
    if site.live.read_bytes()[:6] != b"SQLite":
        return site.live.read_bytes()
    with closing(sqlite.open_damaged(site.live)) as db, closing(sqlite3.connect(":memory:")) as copy:
        db.backup(copy)
        return copy.serialize()


# --- and then the ledger ---------------------------------------------------------------------------------------------


@pytest.mark.req("R10", "R14")
@pytest.mark.parametrize("salvaged", [False, True])
def test_after_a_restore_every_record_is_there_exactly_once(tmp_path: Path, salvaged: bool) -> None:
    """Records from before the copy, between copy and damage, while it was damaged, and after it."""
    path = tmp_path / "notes.db"
    site = Site.__new__(Site)
    site.live, site.copies, site._token = path, backups.folder(tmp_path / "state", NAME), tmp_path / "token"
    ledger = Ledger(tmp_path / "ledger.db")
    book = Book(ledger)

    def work(first: int, count: int) -> None:
        for n in range(first, first + count):
            book.add(rec.PutIncident(incident(n)), rec.AddTrail(trail(n, 1)), rec.PutOutbox(message(n)))

    work(0, 200)
    with following(synapse(path), ledger.path) as told, following(brain(path), ledger.path) as kept:
        for it in (told, kept):
            it.reaches(*book.at)
    if not salvaged:
        site.ok("backup")
    work(200, 200)
    with following(synapse(path), ledger.path) as told, following(brain(path), ledger.path) as kept:
        for it in (told, kept):
            it.reaches(*book.at)
    size = path.stat().st_size // PAGE
    site.overwrite(size // 3, size // 2, size - 20)
    work(400, 25)  # while it is damaged
    if salvaged:
        site.ok("backup", "--raw")
    report = site.ok("restore")
    work(425, 25)
    with following(synapse(path), ledger.path) as told, following(brain(path), ledger.path) as kept:
        for it in (told, kept):
            it.reaches(*book.at)
    found = rows(path, "SELECT id, audit_trail FROM incidents ORDER BY id")
    assert [row[0] for row in found] == [f"inc-{n:06d}" for n in range(450)], report.said
    assert all(row[1].count('"note"') == 1 for row in found)
    assert len(rows(path, "SELECT body FROM messages")) == 450
    assert sorted(rows(path, "SELECT body FROM messages")) == sorted((f"message {n}",) for n in range(450))
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    ledger.close()
