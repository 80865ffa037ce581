"""While a database is restored nobody writes it: what others believe to be written is in it afterwards (R10)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor import backups, proc
from supervisor.errors import StoreError
from supervisor.store import copies, restore
from supervisor.store.sentry import Sentry, posted
from tests.lab.daemon import until
from tests.lab.databases import destroy_header, make, program
from tests.lab.halted import tried
from tests.process.restorelab import NAME, ROOT, Site
from tests.process.storelab import rows


@pytest.mark.req("AC-005", "R10")
def test_what_another_program_writes_during_a_restore_is_not_lost(tmp_path: Path) -> None:
    site = Site(tmp_path, 8000)
    site.ok("backup")
    site.add(8000, 1000)
    site.overwrite(40)
    argv = [sys.executable, "-m", "tests.lab.hard_writer", str(site.live), "6"]
    writer = subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT)
    until("its table", lambda: tried(site.live, "SELECT 1 FROM theirs") == "ok")
    report = site.ok("restore")
    assert writer.poll() is None, "it wrote all the time"
    assert "is now what could be salvaged" in report.said
    out, _ = writer.communicate(timeout=60)
    told = msgspec.json.decode(out)
    assert (told["errors"], told["rows"]) == ([], site.count("theirs"))
    assert site.whole()


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_while_a_sentry_stands_others_read_and_nobody_writes_whoever_copies(tmp_path: Path, wal: bool) -> None:
    path = make(tmp_path / "x.db", wal=wal)
    with posted(path) as sentry:
        assert tried(path) == "SQLITE_BUSY"
        path.read_bytes()  # a close of the file, which would drop a lock of ours
        assert (tried(path), tried(path, "SELECT count(*) FROM t")) == ("SQLITE_BUSY", "ok")
        sentry.let_go()
        assert tried(path) == "ok"


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_a_sentry_knows_that_somebody_has_written(tmp_path: Path, wal: bool) -> None:
    path = make(tmp_path / "x.db", wal=wal)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other, posted(path) as sentry:
        sentry.mark()
        other.execute("SELECT count(*) FROM t").fetchone()
        sentry.let_go()
        assert not sentry.moved()
        other.execute("INSERT INTO t (name) VALUES ('x')")
        assert sentry.moved()


@pytest.mark.req("R10")
@pytest.mark.parametrize("headless", [True, False])
def test_who_writes_between_the_two_locks_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headless: bool
) -> None:
    """Everything begins anew with what it wrote; if that does not end, nothing is restored and it is named."""
    monkeypatch.setattr(restore, "ANEW_MAX", 3)
    site = Site(tmp_path)
    site.ok("backup")
    site.overwrite(40)
    if headless:
        destroy_header(site.live)
    was, leave = site.live.stat().st_ino, Sentry.leave

    def too_late(self: Sentry) -> None:
        leave(self)
        os.utime(site.live)  # as a write would

    with copies.opened(site.copies, NAME) as folder:
        with monkeypatch.context() as patched:
            patched.setattr(Sentry, "leave", too_late)
            with pytest.raises(StoreError, match="it is written again and again"):
                restore.restore(folder, site.live)
        assert backups.damaged(site.copies) == ()
        assert site.live.read_bytes()[40 * 4096 - 10 : 40 * 4096] == b"\xff" * 10, "it is as it was"
        assert restore.restore(folder, site.live).ok
    assert site.live.stat().st_ino == was
    assert site.whole()


@pytest.mark.req("R10")
def test_an_emptied_database_makes_no_good_copy_that_would_be_restored(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.ok("backup")
    rows(site.live, "PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(site.live, 0)
    assert "is empty" in site.refused("backup")
    assert "no good copy of it can be made" in site.ok("backup", "--raw").said
    site.ok("restore")
    assert (site.count(), site.whole()) == (1000, True)


@pytest.mark.req("R10")
def test_a_sentry_dies_with_the_restore(tmp_path: Path) -> None:
    path = make(tmp_path / "x.db", wal=True)
    code = (
        "import sys, signal\nfrom pathlib import Path\nfrom supervisor.store.sentry import Sentry\n"
        "sentry = Sentry(Path(sys.argv[1]))\nprint('stands', flush=True)\nsignal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"stands\n"
        assert tried(path) == "SQLITE_BUSY"
        (child,) = [pid for pid in proc.pids() if (it := proc.stat(pid)) is not None and it.parent_pid == parent.pid]
        parent.kill()
        until("the lock is free", lambda: tried(path) == "ok")
        assert proc.stat(child) is None or not proc.stat(child).live  # type: ignore[union-attr]


@pytest.mark.req("R10")
def test_who_keeps_the_lock_from_a_sentry_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "LOCK_WITHIN_S", 0.3)
    path = make(tmp_path / "x.db", wal=True)
    with program("db.execute('BEGIN IMMEDIATE')", path) as other:
        named = f"stays locked by another program: process {other.pid} "
        with pytest.raises(StoreError, match=named):
            Sentry(path)
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert tried(path) == "ok"
