"""The store's guarded write: all rows by their keys or none, and a clear word in every other case."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import clock
from supervisor.config import Config, TradingSection
from supervisor.errands import Cell, GuardedRow
from supervisor.messages import Ack, GuardedWrite, Nack
from supervisor.store import guarded
from tests.lab.daemon import locked
from tests.lab.mounts import mounted, run, tmpfs

pytestmark = pytest.mark.req("FR-003", "R15")
TABLE = "CREATE TABLE Trades (id INTEGER PRIMARY KEY, symbol TEXT, status TEXT, closed_at TEXT)"


@pytest.fixture(params=["wal", "delete"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made = tmp_path / "trades.db"
    with closing(sqlite3.connect(made)) as db:
        db.execute(f"PRAGMA journal_mode={request.param}")
        db.execute(TABLE)
        db.executemany("INSERT INTO Trades VALUES (?, ?, 'open', NULL)", [(n, f"S{n}") for n in range(1, 5)])
        db.commit()
    return made


def rows(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT * FROM Trades ORDER BY 1").fetchall()


def config(path: Path, table: str = "trades") -> Config:
    return Config(trading={"a": TradingSection(signal_file="/x", trades_db=str(path), table=table)})


def row(key: int | str, **put: Cell) -> GuardedRow:
    expect: dict[str, Cell] = {"symbol": f"S{key}", "status": "open", "closed_at": None}
    return GuardedRow(key, expect, put or {"status": "closed", "closed_at": "2026"})


def ask(path: Path, *wanted: GuardedRow, key: str = "id", table: str = "trades", late: bool = False) -> Ack | Nack:
    until_s = clock.monotonic_s() + (-1 if late else 5)
    return guarded.write(GuardedWrite("a", key, wanted, until_s), config(path, table), frozenset())


def refused(answer: Ack | Nack, words: str, code: str = "refused") -> None:
    assert isinstance(answer, Nack)
    assert answer.code == code
    assert words in answer.message, answer.message


def test_all_rows_are_written_and_asking_again_changes_nothing(path: Path) -> None:
    assert ask(path, row(1), row(3)) == Ack()
    after = rows(path)
    assert [r[2] for r in after] == ["closed", "open", "closed", "open"]
    assert ask(path, row(1), row(3)) == Ack()
    assert rows(path) == after
    assert {p.name for p in path.parent.iterdir()} == {"trades.db"}, "nothing is left beside it"


def test_taken_back_it_is_as_it_was_and_only_if_nobody_changed_it(path: Path) -> None:
    before = rows(path)
    assert ask(path, row(1), row(2)) == Ack()
    back = [
        GuardedRow(k, {"status": "closed", "closed_at": "2026"}, {"status": "open", "closed_at": None}) for k in (1, 2)
    ]
    assert ask(path, *back) == Ack()
    assert rows(path) == before
    assert ask(path, row(1), row(2)) == Ack()
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE Trades SET closed_at = 'by hand' WHERE id = 2")
        db.commit()
    after = rows(path)
    refused(ask(path, *back), "row 2 has been changed")
    assert rows(path) == after, "not the first one either"


@pytest.mark.parametrize(
    "statement", ["UPDATE Trades SET status = 'held' WHERE id = 3", "DELETE FROM Trades WHERE id = 3"]
)
def test_one_that_was_changed_meanwhile_keeps_all_from_being_written(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()
    before = rows(path)
    refused(ask(path, row(1), row(3)), "row 3 has been changed or removed")
    assert rows(path) == before


def test_some_that_stand_already_and_some_that_do_not_are_nobodys_whole_write(path: Path) -> None:
    assert ask(path, row(1)) == Ack()
    before = rows(path)
    refused(ask(path, row(1), row(2)), "some of the rows have been changed")
    assert rows(path) == before


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"table": "nothing"}, "no table nothing"),
        ({"key": "symbol"}, "symbol is not the primary key"),
        ({"key": 'id" = id OR 1=1 --'}, "is not the primary key"),
        ({"late": True}, "too late"),
    ],
)
def test_what_does_not_fit_is_refused(path: Path, keys: dict[str, Any], words: str) -> None:
    before = rows(path)
    refused(ask(path, row(1), **keys), words)
    assert rows(path) == before


def test_a_column_that_is_not_there_is_refused_and_none_is_made(path: Path) -> None:
    refused(ask(path, row(1, status="closed", **{'x" = 1, "status': "y"})), "has no column")
    refused(ask(path, row(1, colour="red")), "has no column colour")
    assert rows(path)[0][2] == "open"


def test_a_database_that_is_missing_halted_or_no_trades_database_is_refused(path: Path, tmp_path: Path) -> None:
    wanted = GuardedWrite("a", "id", (row(1),), clock.monotonic_s() + 5)
    refused(guarded.write(wanted, config(tmp_path / "none.db"), frozenset()), "unable to open")
    assert not (tmp_path / "none.db").exists()
    link = tmp_path / "link"
    link.symlink_to(path)
    refused(guarded.write(wanted, config(path), frozenset({str(link)})), "is halted")
    refused(guarded.write(wanted, Config(), frozenset()), "has no trades_db")
    refused(guarded.write(msgspec.structs.replace(wanted, rows=()), config(path), frozenset()), "0 rows")
    (tmp_path / "text.db").write_text("not a database, and long enough to be looked at" * 10)
    refused(guarded.write(wanted, config(tmp_path / "text.db"), frozenset()), "not a database")


def test_a_locked_database_is_busy_and_untouched(path: Path) -> None:
    with locked(path):
        began_s = clock.monotonic_s()
        refused(ask(path, row(1)), "locked", code="busy")
        assert clock.monotonic_s() - began_s < 5
    assert ask(path, row(1)) == Ack()


def test_two_columns_as_a_key_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE trades (id INTEGER, n INTEGER, symbol, status, closed_at, PRIMARY KEY (id, n))")
    refused(ask(path, row(1)), "id is not the primary key")


@pytest.mark.parametrize("value", ["'; DROP TABLE Trades; --", "\x00", "x" * 100_000, "\u202eopen", "{0.__class__}"])
def test_a_value_is_a_value_whatever_it_says(path: Path, value: str) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE Trades SET symbol = ? WHERE id = 1", (value,))
        db.commit()
    wanted = GuardedRow(1, {"symbol": value, "status": "open"}, {"status": "closed"})
    assert ask(path, wanted) == Ack()
    assert rows(path)[0] == (1, value, "closed", None)
    assert len(rows(path)) == 4


def _small(folder: Path, mode: str) -> Path:
    """A database on a small file system that is full to the last byte."""
    path = folder / "trades.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA journal_mode={mode}")
        db.execute(TABLE)
        db.executemany("INSERT INTO Trades VALUES (?, ?, 'open', NULL)", [(n, f"S{n}") for n in range(1, 5)])
        db.commit()
    return path


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_on_a_full_disk_nothing_is_written_and_it_is_said(tmp_path: Path, mode: str) -> None:
    with tmpfs(tmp_path / "small", "size=256k") as small:
        path = _small(small, mode)
        before = rows(path)
        with suppress(OSError), (small / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        answer = ask(path, row(1), row(3))
        assert isinstance(answer, Nack)
        (small / "filler").unlink()
        assert rows(path) == before
        assert ask(path, row(1), row(3)) == Ack()


def test_on_a_read_only_mount_nothing_is_written_and_it_is_said(tmp_path: Path) -> None:
    path = _small(tmp_path, "delete")
    before = rows(path)
    with mounted(tmp_path / "mount", "--bind", str(tmp_path)) as mount:
        run("mount", "-o", "remount,ro,bind", str(mount))
        refused(ask(mount / "trades.db", row(1)), "readonly")
    assert rows(path) == before
