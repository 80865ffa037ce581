"""What waits to be told, in the ledger: held rows reach nobody, and what is gathered survives a crash (FR-005, R2)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import EpochOpened, OpenEpoch
from supervisor.store.ledger import Ledger
from supervisor.store.process import StoreWorker
from tests.process import storelab as lab


@pytest.fixture
def book(tmp_path: Path) -> Iterator[lab.Book]:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield lab.Book(ledger)


def snapshot(book: lab.Book) -> rec.Snapshot:
    opened = book.ledger.open_epoch(OpenEpoch(os.urandom(4).hex(), 5_000.0, 5_000.0))
    assert isinstance(opened, EpochOpened)
    return opened.snapshot


@pytest.mark.req("FR-005")
def test_a_held_message_reaches_synapse_once_when_it_is_let_go(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    with lab.following(lab.synapse(path), book.ledger.path) as it:
        book.add(rec.PutOutbox(lab.message(1, held=True)))
        book.add(rec.PutOutbox(lab.message(2)))
        it.reaches(*book.at)
        query = "SELECT body FROM messages ORDER BY rowid"
        assert lab.rows(path, query) == [("message 2",)]
        _, rev = book.at
        assert [row.id for row in book.ledger.undelivered_synapse(rev, 10)] == ["out-000002"]
        assert {row.id for row in snapshot(book).outbox} == {"out-000001", "out-000002"}
    book = lab.Book(book.ledger)
    with lab.following(lab.synapse(path), book.ledger.path) as it:
        book.add(rec.PutOutbox(lab.message(1, held=True)))
        book.add(rec.PutOutbox(msgspec.structs.replace(lab.message(1), body="as it is in the morning")))
        it.reaches(*book.at)
        assert lab.rows(path, query) == [("message 2",), ("as it is in the morning",)]
        book.add(rec.PutOutbox(lab.message(1, state=m.OutboxState.DELIVERED, receipt="syn_x")))
        it.reaches(*book.at)
        assert len(lab.rows(path, query)) == 2


@pytest.mark.req("R2")
def test_closed_incidents_that_a_message_is_to_tell_of_are_in_the_snapshot_however_old(book: lab.Book) -> None:
    over = {"state": m.State.RESOLVED, "resolved_wall_s": 2.0}
    book.add(
        rec.PutIncident(lab.incident(1, page_id="out-g", **over)),
        rec.PutIncident(lab.incident(2, page_id="out-x", told_in="out-g", **over)),
        rec.PutIncident(lab.incident(3, page_id="out-x", **over)),
        rec.PutIncident(lab.incident(4, page_id="out-g")),
    )
    assert snapshot(book).gathered == ()
    book = lab.Book(book.ledger)
    book.add(rec.SetTimer(m.Timer(m.TimerKind.GATHER, "out-g", 9_999.0)))
    found = snapshot(book)
    assert [incident.id for incident in found.gathered] == ["inc-000001", "inc-000002"]
    assert [incident.evidence for incident in found.gathered] == ["", ""]
    assert [incident.id for incident in found.open_incidents] == ["inc-000004"]


@pytest.mark.req("NFR-003")
def test_of_thousands_that_wait_the_oldest_are_read_so_many_at_a_time(book: lab.Book) -> None:
    for n in range(1, 6):
        book.add(rec.PutOutbox(lab.message(n)))
    _, rev = book.at
    assert [row.id for row in book.ledger.undelivered_synapse(rev, 2)] == ["out-000001", "out-000002"]


@pytest.mark.req("NFR-003")
def test_projections_that_say_so_many_times_in_a_turn_of_the_loop_are_heard_once() -> None:
    """In a storm each look reads thousands of rows: a store that looked for each of them gave no beat for 20 s."""

    class Looks(StoreWorker):
        def __init__(self) -> None:
            self.looks = 0
            self._hearing = False

        def _hear_projections(self) -> None:
            self._hearing = False
            self.looks += 1

    async def script() -> int:
        worker = Looks()
        worker._loop = asyncio.get_running_loop()
        for _ in range(100):
            worker._on_projected()
        await asyncio.sleep(0)
        return worker.looks

    assert asyncio.run(script()) == 1
