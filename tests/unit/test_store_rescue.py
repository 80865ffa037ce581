"""What is rescued from damaged databases: every whole row, nothing that was deleted, nothing invented (R10)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor.errors import StoreError
from supervisor.store import pages, rescue
from supervisor.store.rescue import Rescued

PAGE = 1024
ROWS = 2000

SCHEMA = """
CREATE TABLE messages (id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, body TEXT NOT NULL, size REAL, raw BLOB, n INTEGER,
                       double INTEGER GENERATED ALWAYS AS (n * 2) VIRTUAL);
CREATE INDEX messages_thread ON messages (thread_id);
CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT);
CREATE TABLE pairs (a TEXT, b INTEGER, c TEXT, PRIMARY KEY (b, a)) WITHOUT ROWID;
CREATE VIRTUAL TABLE messages_fts USING fts5 (body, content='messages');
CREATE TRIGGER messages_ai AFTER INSERT ON messages BEGIN
    INSERT INTO messages_fts (rowid, body) VALUES (new.rowid, new.body); END;
CREATE VIEW large AS SELECT id FROM messages WHERE size > 100;
CREATE TABLE heal_projection (name TEXT PRIMARY KEY, ledger_id TEXT NOT NULL, rev INTEGER);
"""


def make(path: Path, rows: int = ROWS, *, encoding: str = "UTF-8", auto_vacuum: str = "none") -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE}")
        db.execute(f"PRAGMA encoding='{encoding}'")
        db.execute(f"PRAGMA auto_vacuum={auto_vacuum}")
        db.executescript(SCHEMA)
        db.execute("PRAGMA user_version=7")
        db.execute("BEGIN")
        put = "INSERT INTO messages (id, thread_id, body, size, raw, n) VALUES (?, ?, ?, ?, ?, ?)"
        db.executemany(put, (message(n) for n in range(rows)))
        db.executemany("INSERT INTO counted (what) VALUES (?)", ((f"ünï {n}",) for n in range(rows)))
        db.executemany("INSERT INTO pairs VALUES (?, ?, ?)", ((f"a{n}", n // 3, "c" * (n % 50)) for n in range(rows)))
        db.execute("INSERT INTO heal_projection VALUES ('brain_db', 'abc', 99)")
        db.execute("COMMIT")
        db.execute("ALTER TABLE counted ADD COLUMN later TEXT DEFAULT 'then'")
    return path


def message(n: int) -> tuple[Any, ...]:
    long = "long " * 700 if n % 97 == 0 else "short"
    raw = None if n % 5 else bytes([n % 256]) * 9
    return (f"syn_{n:06}", f"thr_{n % 7}", f"{long} {n}", n / 2, raw, -n)


def rows(path: Path, table: str, columns: str = "*") -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return sorted(db.execute(f"SELECT {columns} FROM {table}").fetchall())


def rescued(tmp_path: Path, work: Path, like: Path | None = None) -> tuple[Path, Rescued]:
    new = tmp_path / "new.db"
    found = rescue.rescue(work, new, like, lambda done, total: None)
    with closing(sqlite3.connect(new)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return new, found


def overwrite(path: Path, page: int, content: bytes = b"\xff" * PAGE) -> None:
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def page_where(path: Path, kind: int, holds: Callable[[bytes], bool] = lambda page: True) -> int:
    """The number of a page of this kind in the middle of the file."""
    content = path.read_bytes()
    found = [
        n + 1
        for n in range(1, len(content) // PAGE)
        if content[n * PAGE] == kind and holds(content[n * PAGE : (n + 1) * PAGE])
    ]
    return found[len(found) // 2]


def root_of(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()[0])


@pytest.mark.req("R10")
@pytest.mark.parametrize("encoding", ["UTF-8", "UTF-16le", "UTF-16be"])
@pytest.mark.parametrize("auto_vacuum", ["none", "full"])
def test_of_a_whole_database_everything_comes_over(tmp_path: Path, encoding: str, auto_vacuum: str) -> None:
    work = make(tmp_path / "whole.db", 500, encoding=encoding, auto_vacuum=auto_vacuum)
    new, found = rescued(tmp_path, work)
    assert found.whole, found
    for table in ("messages", "counted", "pairs", "sqlite_sequence"):
        assert rows(new, table) == rows(work, table), table
    assert rows(new, "messages", "rowid, id") == rows(work, "messages", "rowid, id")
    assert rows(new, "counted", "later")[0] == ("then",)
    assert len(rows(new, "large")) == len(rows(work, "large")) > 0
    assert rows(new, "heal_projection") == []  # our own records are told again from the ledger
    with closing(sqlite3.connect(new)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (7,)
        assert db.execute("PRAGMA encoding").fetchone() == (encoding,)
        assert db.execute("SELECT count(*) FROM messages_fts WHERE messages_fts MATCH 'long'").fetchone()[0] > 0
        db.execute(
            "INSERT INTO messages (id, thread_id, body, n) VALUES ('x', 't', 'brandnew', 4)"
        )  # the trigger works
        assert db.execute("SELECT rowid FROM messages_fts WHERE messages_fts MATCH 'brandnew'").fetchone() is not None
        assert db.execute("SELECT double FROM messages WHERE id = 'x'").fetchone() == (8,)


@pytest.mark.req("R10")
def test_a_bad_leaf_costs_its_own_rows_only(tmp_path: Path) -> None:
    work = make(tmp_path / "bad.db")
    before = rows(work, "messages")
    overwrite(work, page_where(work, pages.TABLE_LEAF, lambda page: b"syn_" in page))
    new, found = rescued(tmp_path, work)
    after = rows(new, "messages")
    assert 1 <= len(before) - len(after) < 40
    assert set(after) < set(before)
    assert found.pages_lost == 1
    assert rows(new, "counted") == rows(work, "counted")


@pytest.mark.req("R10")
@pytest.mark.parametrize("what", ["interior", "root"])
def test_under_a_bad_interior_page_the_leaves_are_found_again(tmp_path: Path, what: str) -> None:
    work = make(tmp_path / "bad.db", 6000)
    before = rows(work, "messages")
    root = root_of(work, "messages")
    if what == "interior":
        content = work.read_bytes()
        root = int.from_bytes(content[(root - 1) * PAGE + 8 : (root - 1) * PAGE + 12], "big")
        assert content[(root - 1) * PAGE] == pages.TABLE_INTERIOR
    overwrite(work, root)
    new, found = rescued(tmp_path, work)
    assert rows(new, "messages") == before
    assert found.pages_lost == 1


@pytest.mark.req("R10")
def test_what_was_deleted_does_not_come_back(tmp_path: Path) -> None:
    work = make(tmp_path / "bad.db")
    with closing(sqlite3.connect(work)) as db:
        db.execute("DELETE FROM counted WHERE id BETWEEN 500 AND 1500")
        db.commit()
    before = rows(work, "counted")
    overwrite(work, root_of(work, "counted"))
    new, _ = rescued(tmp_path, work)
    assert rows(new, "counted") == before


@pytest.mark.req("R10")
def test_a_destroyed_page_1_is_taken_from_the_good_copy(tmp_path: Path) -> None:
    good, work = make(tmp_path / "good.db", 100), make(tmp_path / "bad.db", 100)
    with closing(sqlite3.connect(work)) as db:
        db.executemany("INSERT INTO counted (what) VALUES (?)", ((f"newer {n}",) for n in range(3000)))
        db.commit()
    before = rows(work, "counted"), rows(work, "pairs"), rows(work, "messages")
    overwrite(work, 1)
    with pytest.raises(StoreError, match="header is destroyed"):
        rescue.rescue(work, tmp_path / "none.db", None, lambda done, total: None)
    new, found = rescued(tmp_path, work, good)
    assert (rows(new, "counted"), rows(new, "pairs"), rows(new, "messages")) == before
    assert "page 1 was destroyed" in found.notes[0]


@pytest.mark.req("R10")
def test_what_stood_in_the_log_only_comes_over_too(tmp_path: Path) -> None:
    live, work = make(tmp_path / "live.db", 200), tmp_path / "work.db"
    with closing(sqlite3.connect(live)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA wal_autocheckpoint=0")
        db.execute("INSERT INTO counted (what) VALUES ('in the log')")
        db.commit()
        for suffix in ("", "-wal"):
            Path(f"{work}{suffix}").write_bytes(Path(f"{live}{suffix}").read_bytes())
        assert b"in the log" not in work.read_bytes()
    new, found = rescued(tmp_path, work)
    assert found.whole, found
    assert rows(new, "counted", "what")[-1] != ("in the log",)
    assert ("in the log",) in rows(new, "counted", "what")


@pytest.mark.req("R10")
def test_half_of_a_file_gives_half_of_its_rows(tmp_path: Path) -> None:
    work = make(tmp_path / "cut.db")
    before = set(rows(work, "messages"))
    with work.open("r+b") as file:
        file.truncate(work.stat().st_size // 3 // PAGE * PAGE)
    new, found = rescued(tmp_path, work)
    after = set(rows(new, "messages"))
    assert after < before
    assert len(after) > 100
    assert found.pages_lost > 0


@pytest.mark.req("R10")
@pytest.mark.parametrize("seed", range(12))
def test_whatever_is_overwritten_nothing_is_invented(tmp_path: Path, seed: int) -> None:
    """Garbage over pages and within them: what comes over is a part of what was there."""
    work = make(tmp_path / "bad.db", 800)
    before = {table: set(rows(work, table)) for table in ("counted", "pairs")}
    content = bytearray(work.read_bytes())
    state = seed * 7919 + 1
    for _ in range(6):
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        at = PAGE + state % (len(content) - PAGE - 300)
        content[at : at + 1 + state % 299] = bytes((state >> n % 24) & 0xFF for n in range(1 + state % 299))
    work.write_bytes(content)
    new = tmp_path / "new.db"
    rescue.rescue(work, new, make(tmp_path / "good.db", 1), lambda done, total: None)
    with closing(sqlite3.connect(new)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    for table, had in before.items():
        strange = {row for row in set(rows(new, table)) - had if not _flipped(row, had)}
        assert not strange, strange


def _flipped(row: tuple[Any, ...], had: set[Any]) -> bool:
    """A row whose own bytes were overwritten, its lengths unharmed: nobody can see that it is not what it was."""
    return any(sum(a == b for a, b in zip(row, other, strict=True)) >= 1 for other in had)


OTHERS = """
CREATE TABLE strict (id INTEGER PRIMARY KEY, number INT NOT NULL) STRICT;
CREATE VIRTUAL TABLE places USING rtree (id, x0, x1);
CREATE VIRTUAL TABLE old_texts USING fts4 (body);
CREATE VIRTUAL TABLE no_texts USING fts5 (body, content='');
CREATE TABLE vectors_chunks (chunk_id INTEGER PRIMARY KEY, vectors BLOB NOT NULL);
"""
VECTORS = "CREATE VIRTUAL TABLE vectors USING vec0 (embedding float[4])"  # of a module that is not here


def make_others(path: Path, size: int = PAGE, rows: int = 300) -> Path:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={size}")
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.executescript(OTHERS)
        db.execute("BEGIN")
        for n in range(rows):
            db.execute("INSERT INTO strict VALUES (?, ?)", (n, n))
            db.execute("INSERT INTO places VALUES (?, ?, ?)", (n, n, n + 1))
            db.execute("INSERT INTO old_texts (rowid, body) VALUES (?, ?)", (n, f"old text {n}"))
            db.execute("INSERT INTO no_texts (rowid, body) VALUES (?, ?)", (n, f"hidden text {n}"))
            db.execute("INSERT INTO vectors_chunks VALUES (?, ?)", (n, bytes(16)))
        db.execute("COMMIT")
        db.execute("PRAGMA writable_schema=ON")
        put = "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('table', ?, ?, 0, ?)"
        db.execute(put, ("vectors", "vectors", VECTORS))
    return path


@pytest.mark.req("R10")
@pytest.mark.parametrize("size", [512, 65536])
def test_virtual_tables_of_every_kind_come_over(tmp_path: Path, size: int) -> None:
    """Those that can be built from their texts are, any other is kept as its module stored it, known here or not."""
    new, found = rescued(tmp_path, make_others(tmp_path / "whole.db", size))
    assert found.whole, found
    with closing(sqlite3.connect(new)) as db:
        assert db.execute("SELECT count(*) FROM places WHERE x0 >= 100").fetchone() == (200,)
        assert db.execute("SELECT count(*) FROM old_texts WHERE old_texts MATCH 'old'").fetchone() == (300,)
        assert db.execute("SELECT count(*) FROM no_texts WHERE no_texts MATCH 'hidden'").fetchone() == (300,)
        assert db.execute("SELECT count(*) FROM vectors_chunks").fetchone() == (300,)
        assert db.execute("SELECT sql FROM sqlite_schema WHERE name = 'vectors'").fetchone() == (VECTORS,)
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)


@pytest.mark.req("R10")
def test_that_a_table_is_kept_with_a_page_less_is_said(tmp_path: Path) -> None:
    work = make_others(tmp_path / "bad.db")
    overwrite(work, root_of(work, "places_rowid"))
    _, found = rescued(tmp_path, work)
    assert "places is no longer whole: pages of places_rowid are lost" in found.notes


@pytest.mark.req("R10")
def test_a_row_that_a_strict_table_refuses_and_a_page_that_only_looks_like_a_leaf_cost_nothing_else(
    tmp_path: Path,
) -> None:
    work = make_others(tmp_path / "bad.db")
    with closing(sqlite3.connect(work)) as db:
        db.execute("CREATE TABLE gone (a)")
        db.execute("INSERT INTO gone VALUES (zeroblob(5000))")  # pages of a long value: any bytes
        db.execute("INSERT INTO strict VALUES (2000, 2000)")
        db.commit()
    content = bytearray(work.read_bytes())
    at = content.rindex((2000).to_bytes(2, "big"))
    content[at - 1] = 17  # its number becomes a text of two characters
    root = root_of(work, "gone")
    content[(root - 1) * PAGE : root * PAGE] = b"\xff" * PAGE
    long = content.rindex(bytes(PAGE - 4))
    content[long // PAGE * PAGE] = pages.TABLE_LEAF
    content[long // PAGE * PAGE + 3 : long // PAGE * PAGE + 5] = (PAGE).to_bytes(2, "big")
    work.write_bytes(content)
    new, found = rescued(tmp_path, work)
    assert rows(new, "strict") == [(n, n) for n in range(300)]
    assert found.rows_lost == 1


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"no database " * 1000)
    with pytest.raises(StoreError, match="header is destroyed"):
        rescue.rescue(junk, tmp_path / "new.db", None, lambda done, total: None)
