"""What is long over leaves the ledger, and nothing else does; the file gets smaller; a crash doubles nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor.clock import rfc3339, wall_s
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import LedgerTrouble
from supervisor.store import archive, care, sqlite
from supervisor.store.care import Care
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab

ALL = 1 << 60


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as it:
        yield it


def close(book: lab.Book, number: int, **more: object) -> None:
    """One incident that is over, with what belongs to it."""
    execution = lab.execution(number, state=m.ExecutionState.SUCCEEDED, verified=True, claimed_by="x")
    sent = lab.message(number, state=m.OutboxState.DELIVERED, delivered_wall_s=1.0 + number)
    closed = lab.incident(number, state=m.State.RESOLVED, trail_length=2, **more)
    book.add(
        rec.PutExecution(execution),
        rec.PutOutbox(sent),
        rec.AddMetric(lab.metric(number)),
        rec.AddTrail(lab.trail(number, 0)),
        rec.AddTrail(lab.trail(number, 1, "resolved")),
        rec.PutIncident(closed),
    )


def count(path: Path, table: str) -> int:
    ((found,),) = lab.rows(path, f"SELECT count(*) FROM {table}")
    return int(found)


def ids(path: Path) -> set[str]:
    return {row[0] for row in lab.rows(path, "SELECT id FROM incidents")}


def archived(ledger: Ledger) -> Path:
    return ledger.path.with_name(f"archive-{rfc3339(wall_s())[:4]}.db")


def all_of(ledger: Ledger, keep_s: float, up_to_rev: int = ALL) -> int:
    moved = 0
    while found := ledger.archive(keep_s, up_to_rev):
        assert isinstance(found, int)
        moved += found
    return moved


@pytest.mark.req("R14")
def test_what_is_over_and_projected_moves_whole_and_the_rest_stays(ledger: Ledger) -> None:
    book = lab.Book(ledger)
    now_s = ledger.clock.now().steady_s
    close(book, 1)
    close(book, 2, dismiss_until_steady_s=now_s + 1000)
    book.add(rec.PutIncident(lab.incident(3)), rec.PutOutbox(lab.message(3)), rec.PutExecution(lab.execution(3)))
    projected = ledger.rev
    close(book, 4)
    assert all_of(ledger, keep_s=1e6) == 3 + 3, "the metrics and messages of these tests are old, the rest is not"
    assert all_of(ledger, -1.0, projected) > 0
    assert ids(ledger.path) == {"inc-000002", "inc-000003", "inc-000004"}
    (row,) = lab.rows(archived(ledger).with_name("archive-2023.db"), "SELECT id, body, trail FROM incidents")
    assert msgspec.json.decode(row[1], type=m.Incident) == lab.incident(1, state=m.State.RESOLVED, trail_length=2)
    assert msgspec.json.decode(row[2], type=list[m.TrailEntry]) == [lab.trail(1, 0), lab.trail(1, 1, "resolved")]
    assert count(ledger.path, "trail") == 4
    assert {row[0] for row in lab.rows(ledger.path, "SELECT id FROM executions")} >= {"exe-000003", "exe-000004"}
    assert "out-000003" in {row[0] for row in lab.rows(ledger.path, "SELECT id FROM outbox")}, "it is pending"
    all_of(ledger, -1.0)
    assert ids(ledger.path) == {"inc-000002", "inc-000003"}


def test_a_crash_between_archive_and_ledger_doubles_nothing(ledger: Ledger) -> None:
    book = lab.Book(ledger)
    for number in range(1, 4):
        close(book, number)
    now = ledger.clock.now()
    batch = archive.old(
        ledger._connection,
        before_steady_s=now.steady_s + 1,
        before_wall_s=now.wall_s,
        now_steady_s=now.steady_s,
        up_to_rev=ALL,
    )
    archive.write(ledger.path.parent, batch)  # and here it died
    assert len(ids(ledger.path)) == 3
    all_of(ledger, -1.0)
    assert ids(ledger.path) == set()
    files = ledger.path.parent.glob("archive-*.db")
    names = [row[0] for path in files for row in lab.rows(path, "SELECT id FROM incidents")]
    assert sorted(names) == ["inc-000001", "inc-000002", "inc-000003"]


def test_the_space_goes_back_and_status_still_knows_what_was_last(ledger: Ledger) -> None:
    book = lab.Book(ledger)
    for number in range(1, 400):
        close(book, number, escalated_wall_s=float(number))
    before, used = ledger.size_bytes(), ledger.used_bytes()
    all_of(ledger, -1.0)
    ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert ledger.used_bytes() < used / 2
    assert ledger.size_bytes() < before / 2
    assert ids(ledger.path) == {"inc-000399"}, "the newest escalation"
    assert lab.rows(ledger.path, "PRAGMA integrity_check") == [("ok",)]


def test_an_archive_that_cannot_be_written_costs_nothing(ledger: Ledger) -> None:
    book = lab.Book(ledger)
    close(book, 1)
    for year in (2023, rfc3339(wall_s())[:4]):
        ledger.path.with_name(f"archive-{year}.db").write_bytes(b"no database" * 1000)
    assert isinstance(ledger.archive(-1.0, ALL), LedgerTrouble)
    assert ids(ledger.path) == {"inc-000001"}
    book.add(rec.AddMetric(lab.metric(9)))


class Upkeep:
    def __init__(self, ledger: Ledger, bytes_max: int = 1 << 30, keep_s: float = 90 * care.DAY_S) -> None:
        self.said: list[str] = []
        self.care = Care(ledger, lambda: ledger.rev, self.said.append, lambda: (keep_s, bytes_max))


def test_a_ledger_that_is_nearly_full_keeps_less_but_never_less_than_a_day(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(care, "PAUSE_S", 0.0)
    asked: list[float] = []

    def archive_(keep_s: float, up_to_rev: int) -> int:
        asked.append(keep_s / care.DAY_S)
        return 0

    monkeypatch.setattr(ledger, "archive", archive_)
    asyncio.run(Upkeep(ledger).care.archive())
    assert asked == [90]
    asked.clear()
    asyncio.run(Upkeep(ledger, bytes_max=100).care.archive())
    assert asked == [90, 45, 22.5, 11.25, 5.625, 2.8125, 1.40625, 1.0]


def test_the_check_at_the_start_finds_damage_that_no_query_has_met(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        book = lab.Book(ledger)
        for number in range(1, 100):
            close(book, number)
        upkeep = Upkeep(ledger)
        asyncio.run(upkeep.care.check())
        assert upkeep.said == []
        ((page,),) = lab.rows(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'metrics'")
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    with closing(Ledger(path)) as ledger:
        upkeep = Upkeep(ledger)
        asyncio.run(upkeep.care.check())
        assert len(upkeep.said) == 1
        ledger.set_aside(upkeep.said[0])
        assert len(ids(path)) == 99
        assert "a part" in ledger.damage
        assert lab.rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_check_that_takes_too_long_says_nothing(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        for number in range(1, 300):
            close(book, number)
        assert care.whats_wrong(ledger.path, care.Check.QUICK, -1.0) == ""
        assert care.whats_wrong(tmp_path / "missing.db", care.Check.QUICK, 1.0) == ""


@pytest.mark.parametrize(
    ("version", "affected"),
    [((3, 40, 1), True), ((3, 44, 5), True), ((3, 44, 6), False), ((3, 45, 0), True), ((3, 50, 6), True),
     ((3, 50, 7), False), ((3, 51, 2), True), ((3, 51, 3), False), ((3, 52, 0), False), ((3, 6, 23), False)],
)  # fmt: skip
def test_which_sqlite_has_the_wal_reset_bug(version: tuple[int, ...], affected: bool) -> None:
    assert sqlite.has_wal_reset_bug(version) is affected


def test_the_archive_is_private_and_leaves_no_wal(ledger: Ledger) -> None:
    close(lab.Book(ledger), 1)
    all_of(ledger, -1.0)
    (path, *_) = ledger.path.parent.glob("archive-*.db")
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(ledger.path.parent.glob("archive-*-wal"))
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
