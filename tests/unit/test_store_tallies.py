"""The totals behind Prometheus' counters (FR-008): neither the archive nor a crash nor damage sets them back."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from supervisor.incidents import records as rec
from supervisor.incidents import seed
from supervisor.incidents.model import Tally
from supervisor.incidents.policy import Policy
from supervisor.incidents.world import World
from supervisor.messages import EpochOpened, OpenEpoch
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab

pytestmark = pytest.mark.req("FR-008", "R14")
COUNTER = Tally("heal_anomaly_detected", "process_dead", "detected", 3)
DURATIONS = Tally("heal_delivery_duration_seconds", "signal", "", 2, 1.25, (1, 0, 1))


def tallies(ledger: Ledger) -> set[Tally]:
    answer = ledger.open_epoch(OpenEpoch("again", 1.0, 1.0))
    assert isinstance(answer, EpochOpened)
    return set(answer.snapshot.tallies)


def test_the_newest_of_each_is_kept_whole(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        for count in (1, 2, 3):
            book.add(rec.PutTally(Tally(COUNTER.name, COUNTER.stage, COUNTER.result, count)))
        book.add(rec.PutTally(DURATIONS))
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        assert tallies(ledger) == {COUNTER, DURATIONS}


def test_what_moves_to_the_archive_is_counted_on(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        book = lab.Book(ledger)
        for number in (1, 2, 3):
            book.add(rec.AddMetric(lab.metric(number)))
        book.add(rec.PutTally(COUNTER))
        assert ledger.archive(-1.0, 1 << 60) == 3
        assert lab.rows(ledger.path, "SELECT count(*) FROM metrics") == [(0,)]
        assert tallies(ledger) == {COUNTER}


def test_a_ledger_of_an_older_healctl_is_counted_once(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        book = lab.Book(ledger)
        book.add(*(rec.AddMetric(lab.metric(number)) for number in (1, 2, 3)))
        book.add(rec.AddMetric(lab.metric(4, "heal_signal_sent")))
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE tallies")
        db.execute("DELETE FROM _sqlite_migrations WHERE name = '0005_tallies'")
        db.execute("PRAGMA user_version=4")
        db.commit()
    for _ in range(2):
        with closing(Ledger(path)) as ledger:
            assert tallies(ledger) == {COUNTER, Tally("heal_signal_sent", "process_dead", "detected", 1)}


def test_they_are_salvaged_from_a_damaged_ledger(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        lab.Book(ledger).add(rec.PutTally(COUNTER), rec.PutTally(DURATIONS))
        ledger.set_aside("the test says so")
        assert tallies(ledger) == {COUNTER, DURATIONS}


def test_an_engine_that_lives_sows_them_into_a_new_ledger() -> None:
    world = World("boot", "ledger-1", 1, Policy(), {}, {})
    world.tallies = {(it.name, it.stage, it.result): it for it in (COUNTER, DURATIONS)}
    sown = [record for part in seed.parts(world, ()) for record in part]
    assert sown == [rec.PutTally(COUNTER), rec.PutTally(DURATIONS)]
