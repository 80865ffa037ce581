"""What may happen to a projection's file: restored, gone, corrupt, read-only, far behind, written hard by others."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.incidents import records as rec
from supervisor.store import projection
from supervisor.store.ledger import Ledger
from supervisor.store.metrics import MetricsDb
from tests.process import storelab as lab


@pytest.fixture
def book(tmp_path: Path) -> Iterator[lab.Book]:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield lab.Book(ledger)


def bodies(path: Path) -> list[str]:
    return [body for (body,) in lab.rows(path, "SELECT body FROM messages ORDER BY rowid")]


def test_a_restored_older_file_gets_what_it_lacks(book: lab.Book, tmp_path: Path) -> None:
    path, backup = tmp_path / "brain.db", tmp_path / "backup.db"

    def copy(source: Path, target: Path) -> None:
        with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as two:
            one.backup(two)

    with lab.following(lab.synapse(path), book.ledger.path) as it:
        book.add(rec.PutOutbox(lab.message(1)))
        it.reaches(*book.at)
        copy(path, backup)
        book.add(rec.PutOutbox(lab.message(2)))
        it.reaches(*book.at)
        copy(backup, path)
        assert bodies(path) == ["message 1"]
        book.add(rec.PutOutbox(lab.message(3)))
        it.reaches(*book.at)
    assert bodies(path) == ["message 1", "message 2", "message 3"]


def test_another_ledger_is_projected_from_its_beginning(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    for number in range(1, 4):
        book.add(rec.AddMetric(lab.metric(number)))
    with lab.following(MetricsDb(path, own=True), book.ledger.path) as it:
        it.reaches(*book.at)
    with closing(Ledger(tmp_path / "second.db")) as ledger:
        second = lab.Book(ledger)
        second.add(rec.AddMetric(lab.metric(3)), rec.AddMetric(lab.metric(9)))
        with lab.following(MetricsDb(path, own=True), ledger.path) as it:
            it.reaches(*second.at)
    assert lab.rows(path, "SELECT id FROM heal_metrics ORDER BY id") == [
        (f"met-{number:06d}",) for number in (1, 2, 3, 9)
    ]


def test_a_configured_file_that_vanished_is_not_made_anew(book: lab.Book, tmp_path: Path) -> None:
    path, aside = tmp_path / "metrics.db", tmp_path / "aside.db"
    with lab.following(MetricsDb(path, own=False), book.ledger.path) as it:
        book.add(rec.AddMetric(lab.metric(1)))
        it.reaches(*book.at)
        path.rename(aside)
        book.add(rec.AddMetric(lab.metric(2)))
        it.follower.wake(*book.at)
        it.fails("was there and is gone")
        assert not path.exists()
        aside.rename(path)
        it.reaches(*book.at)
    assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(2,)]


def test_a_configured_file_that_was_emptied_is_not_filled(book: lab.Book, tmp_path: Path) -> None:
    """What others had in it is gone: a new one in its place would be taken for it."""
    path, aside = tmp_path / "metrics.db", tmp_path / "aside.db"
    with lab.following(MetricsDb(path, own=False), book.ledger.path) as it:
        book.add(rec.AddMetric(lab.metric(1)))
        it.reaches(*book.at)
        lab.rows(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copy(path, aside)
        os.truncate(path, 0)
        book.add(rec.AddMetric(lab.metric(2)))
        it.follower.wake(*book.at)
        it.fails("is empty")
        assert path.stat().st_size == 0
        aside.rename(path)
        it.reaches(*book.at)
    assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(2,)]


def test_our_own_file_is_made_anew_and_filled_again(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    with lab.following(MetricsDb(path, own=True), book.ledger.path) as it:
        book.add(rec.AddMetric(lab.metric(1)))
        it.reaches(*book.at)
        for part in tmp_path.glob("metrics.db*"):
            part.unlink()
        book.add(rec.AddMetric(lab.metric(2)))
        it.reaches(*book.at)
    assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(2,)]


def test_a_corrupt_file_and_a_missing_directory_are_said_and_then_caught_up(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "later" / "metrics.db"
    book.add(rec.AddMetric(lab.metric(1)))
    with lab.following(MetricsDb(path, own=False), book.ledger.path) as it:
        it.fails("unable to open database file")
        path.parent.mkdir()
        path.write_bytes(b"garbage" * 1000)
        it.fails("not a database")
        path.unlink()
        it.reaches(*book.at)
    assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(1,)]


def test_a_ledger_that_was_set_aside_is_followed_no_longer(tmp_path: Path) -> None:
    path, ledger_path = tmp_path / "metrics.db", tmp_path / "ledger.db"
    with closing(Ledger(ledger_path)) as first:
        old = lab.Book(first)
        for number in range(1, 6):
            old.add(rec.AddMetric(lab.metric(number)))
        with lab.following(MetricsDb(path, own=True), ledger_path) as it:
            it.reaches(*old.at)
            for part in tmp_path.glob("ledger.db*"):
                part.rename(tmp_path / f"kept-{part.name}")
            with closing(Ledger(ledger_path)) as second:
                new = lab.Book(second)
                new.add(rec.AddMetric(lab.metric(9)))
                assert it.follower.done_rev(second.ledger_id) == 0
                it.reaches(*new.at)
    assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(6,)]


def test_a_read_only_file_system_is_said_and_then_caught_up(book: lab.Book, tmp_path: Path) -> None:
    with lab.small_disk(tmp_path / "disk", "8m") as disk:
        path = disk / "metrics.db"
        book.add(rec.AddMetric(lab.metric(1)))
        with lab.following(MetricsDb(path, own=False), book.ledger.path) as it:
            it.reaches(*book.at)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        book.add(rec.AddMetric(lab.metric(2)))
        with lab.following(MetricsDb(path, own=False), book.ledger.path) as it:
            it.until("an error", lambda f: f.error)
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            it.reaches(*book.at)
        assert lab.rows(path, "SELECT count(*) FROM heal_metrics") == [(2,)]


def test_a_large_arrear_comes_in_batches_and_the_wal_stays_bounded(
    book: lab.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "CHECKPOINT_REVS", 500)
    monkeypatch.setattr(projection, "CHECKPOINT_WAL_BYTES", 100_000)
    path = tmp_path / "brain.db"
    for number in range(2000):
        book.add(rec.PutIncident(lab.incident(number)), rec.AddTrail(lab.trail(number, 1)))
    with lab.following(lab.brain(path), book.ledger.path) as it:
        it.reaches(*book.at)
        assert path.stat().st_size > 500_000, "it was checkpointed while it was open"
        assert (tmp_path / "brain.db-wal").stat().st_size < 10_000_000
    assert lab.rows(path, "SELECT count(*), min(length(audit_trail)) > 2 FROM incidents") == [(2000, 1)]


HARD_WRITER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
c.execute("CREATE TABLE IF NOT EXISTS theirs (n INTEGER PRIMARY KEY, x BLOB)")
print("writing", flush=True)
for n in range(int(sys.argv[2])):
    c.execute("INSERT INTO theirs VALUES (?, ?)", (n, bytes(2000)))
print("done", flush=True)
"""


def test_another_program_that_writes_and_checkpoints_hard_beside_us(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
    count = 4000
    with (
        lab.following(lab.synapse(path, own=False), book.ledger.path) as it,
        subprocess.Popen(
            [sys.executable, "-c", HARD_WRITER, str(path), str(count)], stdout=subprocess.PIPE, text=True
        ) as writer,
    ):
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        number = 0
        while writer.poll() is None:
            book.add(rec.PutOutbox(lab.message(number)))
            it.follower.wake(*book.at)
            number += 1
        assert writer.stdout.read() == "done\n"
        it.reaches(*book.at)
    assert bodies(path) == [f"message {n}" for n in range(number)]
    assert lab.rows(path, "SELECT count(*) FROM theirs") == [(count,)]
    assert lab.rows(path, "PRAGMA integrity_check") == [("ok",)]
