"""The facts about SQLite on which docs/adr/0001-sqlite.md rests, on the library that this Python loads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.store import sqlite
from supervisor.store.sqlite import Fault


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "shared.db"


def filled(path: Path) -> sqlite3.Connection:
    connection = sqlite.open_target(path, create=True)
    connection.execute("CREATE TABLE t (x)")
    connection.executemany("INSERT INTO t VALUES (?)", [(bytes(4000),) for _ in range(50)])
    return connection


def frames(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """(busy, frames in the WAL, frames copied back), by a checkpoint in a database that nobody writes now."""
    found: tuple[int, int, int] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    return found


def test_a_target_is_never_checkpointed_by_a_commit_of_ours(path: Path) -> None:
    with closing(filled(path)) as connection:
        for _ in range(2000):
            connection.execute("INSERT INTO t VALUES (1)")
        assert path.stat().st_size <= 4096, "nothing was copied back"
        assert sqlite.wal_bytes(path) > 2000 * 4096


def test_a_checkpoint_under_the_write_lock_copies_everything_and_the_wal_starts_over(path: Path) -> None:
    with closing(filled(path)) as ours, closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("SELECT count(*) FROM t").fetchone()
        assert sqlite.checkpoint_alone(path, ours)
        size = sqlite.wal_bytes(path)
        other.execute("INSERT INTO t VALUES (2)")
        assert sqlite.wal_bytes(path) == size, "the file is written from its beginning again"
        assert frames(ours)[1] == 1
        assert ours.execute("SELECT count(*) FROM t").fetchone() == (51,)


def test_nobody_commits_while_we_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second connection is watched: when it checkpoints, the write lock is held."""
    seen: list[str] = []
    real = sqlite.open_target

    def watched(where: Path, *, create: bool) -> sqlite3.Connection:
        connection = real(where, create=create)
        with closing(sqlite3.connect(where, isolation_level=None, timeout=0)) as other:
            try:
                other.execute("INSERT INTO t VALUES (3)")
            except sqlite3.OperationalError as error:
                seen.append(sqlite.fault_of(error))
        return connection

    with closing(filled(path)) as ours:
        monkeypatch.setattr(sqlite, "open_target", watched)
        assert sqlite.checkpoint_alone(path, ours)
    assert seen == [Fault.BUSY]


def test_a_checkpoint_is_put_off_while_another_program_writes(path: Path) -> None:
    with closing(filled(path)) as ours, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not sqlite.checkpoint_alone(path, ours)
        other.execute("ROLLBACK")
        assert sqlite.checkpoint_alone(path, ours)
        assert not ours.in_transaction


def test_a_connection_cannot_checkpoint_in_its_own_transaction(path: Path) -> None:
    with closing(filled(path)) as ours:
        ours.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            frames(ours)
        ours.execute("ROLLBACK")


def test_the_other_modes_go_on_without_the_write_lock(path: Path) -> None:
    """Why PASSIVE under a lock of our own, and not TRUNCATE: that one copies beside a writer, too."""
    with closing(filled(path)) as ours, closing(sqlite3.connect(path, isolation_level=None)) as other:
        ours.execute("PRAGMA busy_timeout=0")
        other.execute("BEGIN IMMEDIATE")
        busy, total, copied = ours.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert (busy, copied) == (1, total)
        assert copied > 0
        other.execute("ROLLBACK")


def test_the_last_writing_connection_checkpoints_when_it_closes_a_reader_never(path: Path) -> None:
    filled(path).close()
    assert sqlite.wal_bytes(path) == 0
    writer, reader = sqlite.open_target(path, create=False), sqlite.open_reader(path)
    writer.execute("INSERT INTO t VALUES (1)")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (51,)
    writer.close()
    reader.close()
    assert sqlite.wal_bytes(path) > 0
    with closing(sqlite.open_target(path, create=False)) as again:
        assert again.execute("SELECT count(*) FROM t").fetchone() == (51,)


def test_a_reader_cannot_write_and_a_missing_file_is_not_created(path: Path) -> None:
    filled(path).close()
    with closing(sqlite.open_reader(path)) as reader:
        with pytest.raises(sqlite3.OperationalError) as caught:
            reader.execute("INSERT INTO t VALUES (1)")
        assert sqlite.fault_of(caught.value) is Fault.IO
    missing = path.with_name("missing.db")
    for opening in (lambda: sqlite.open_reader(missing), lambda: sqlite.open_target(missing, create=False)):
        with pytest.raises(sqlite3.OperationalError):
            opening()
    assert not missing.exists()


def test_another_programs_journal_mode_is_kept_and_then_synced_in_full(path: Path) -> None:
    with closing(sqlite3.connect(path)) as theirs:
        theirs.execute("CREATE TABLE t (x)")
    with closing(sqlite.open_target(path, create=False)) as ours:
        assert ours.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert ours.execute("PRAGMA synchronous").fetchone() == (2,)
