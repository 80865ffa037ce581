"""A real store process: killed in the middle, asked again, beside a locked brain.db."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from supervisor import bus
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import (
    Ack,
    Body,
    Claim,
    ClaimAnswer,
    Commit,
    DeliveryReport,
    EpochOpened,
    ExecutionFound,
    FetchExecution,
    FetchTrail,
    Frame,
    Nack,
    OpenEpoch,
    ProgramStarted,
    Request,
    StoreStatus,
    TrailFound,
)
from supervisor.synapse_ids import message_id
from tests.process import storelab as lab


class Peer:
    """A healer or an executor as the store sees one: a Link that keeps what it gets, and acknowledges it."""

    def __init__(self, runtime_dir: Path, name: str) -> None:
        self._context = bus.new_context()
        self._arrived = asyncio.Event()
        self.status: StoreStatus | None = None
        self.reports: list[DeliveryReport] = []
        self.answers_reports = True
        address = bus.endpoint(runtime_dir, "store")
        self.link = bus.Link(self._context, address, name, self._on_frames, f"{name}-{os.urandom(3).hex()}")

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            if isinstance(frame.body, StoreStatus):
                self.status = frame.body
            elif isinstance(frame.body, DeliveryReport):
                self.reports.append(frame.body)
                if self.answers_reports:
                    self.link.post(Ack(), re=frame.id)
        self._arrived.set()

    async def ask(self, body: Body) -> Body:
        return await asyncio.wait_for(self.link.ask(body), lab.DEADLINE_S)

    async def open(self, incarnation: str = "healer-1") -> rec.Snapshot:
        answer = await self.ask(OpenEpoch(incarnation, 3600.0, 3600.0))
        assert isinstance(answer, EpochOpened)
        return answer.snapshot

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(lab.DEADLINE_S):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

    def close(self) -> None:
        self.link.close()
        self._context.term()


@asynccontextmanager
async def peer(store: lab.Store, name: str = "healer") -> AsyncIterator[Peer]:
    it = Peer(store.runtime_dir, name)
    try:
        yield it
    finally:
        it.close()


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hc"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(tmp_path: Path, runtime_dir: Path) -> Iterator[lab.Store]:
    it = lab.Store(tmp_path, runtime_dir)
    it.start()
    yield it
    it.close()


def test_a_decision_goes_all_the_way_and_the_store_stops_in_order(store: lab.Store) -> None:
    async def scenario() -> None:
        async with peer(store) as healer:
            snapshot = await healer.open()
            assert (snapshot.epoch, snapshot.open_incidents) == (1, ())
            assert await healer.ask(lab.decision(1, 1)) == Ack()
            healer.status = None  # what comes now was made after the commit
            found = await healer.ask(FetchTrail(("inc-000001",)))
            assert isinstance(found, TrailFound)
            assert b"process_dead was seen" in found.entries[0]
            unknown = await healer.ask(FetchExecution("nothing"))
            assert isinstance(unknown, Nack)
            assert unknown.exit_code == 4
            strange = await healer.ask(Request("status"))
            assert isinstance(strange, Nack)

            def caught_up() -> bool:
                status = healer.status
                return status is not None and not any(p.behind or p.last_error for p in status.projections)

            await healer.until(caught_up)
            assert healer.status is not None
            assert {p.name for p in healer.status.projections} == {"brain_db", "metrics", "synapse"}
            assert healer.status.reserve_ok

    asyncio.run(scenario())
    assert lab.rows(store.state_dir / "brain.db", "SELECT id, state FROM incidents") == [("inc-000001", "detected")]
    assert lab.rows(store.state_dir / "metrics.db", "SELECT count(*) FROM heal_metrics") == [(1,)]
    assert store.stop() == "exit 0"
    left = {path.name for path in store.state_dir.iterdir()}
    assert left == {"ledger.db", "ledger.reserve", "brain.db", "metrics.db", "store.log"}, "every database is closed"
    assert "Traceback" not in store.log()


@pytest.mark.req("FR-004")
def test_of_thousands_that_arrive_together_each_gets_its_own_answer(store: lab.Store) -> None:
    """More than one transaction takes, one of them refused in the middle of neighbours that share an answer."""
    many, bad = 1_500, 700

    async def scenario() -> None:
        async with peer(store) as healer:
            await healer.open()
            decisions = [lab.decision(1, n) for n in range(1, many + 1)]
            decisions[bad] = Commit(1, bad + 1, (rec.PutIncident(lab.incident(9_999, target="svc-1")),))
            answers = await asyncio.gather(*(healer.ask(one) for one in decisions))
            refused = answers.pop(bad)
            assert isinstance(refused, Nack)
            assert refused.code == "rejected"
            assert answers == [Ack()] * (many - 1)

    asyncio.run(scenario())
    assert lab.rows(store.state_dir / "ledger.db", "SELECT count(*) FROM incidents") == [(many - 1,)]


@pytest.mark.req("NFR-001")
def test_an_executor_claims_and_starts_through_its_own_link(store: lab.Store) -> None:
    async def scenario() -> None:
        async with peer(store) as healer, peer(store, "executor") as executor:
            epoch = (await healer.open()).epoch
            intended = lab.execution(1)
            assert await healer.ask(Commit(epoch, 1, (rec.PutExecution(intended),))) == Ack()
            assert await executor.ask(Claim(intended.id, "x-1")) == ClaimAnswer(True)
            assert await executor.ask(ProgramStarted(intended.id, lab.program(77))) == Ack()
            refused = await executor.ask(Claim(intended.id, "x-2"))
            assert refused == ClaimAnswer(False, "another executor has claimed it")
            found = await healer.ask(FetchExecution(intended.id))
            assert isinstance(found, ExecutionFound)
            assert (found.execution.claimed_by, found.execution.programs) == ("x-1", (lab.program(77),))

    asyncio.run(scenario())


@pytest.mark.req("FR-004")
def test_killed_in_the_middle_of_a_storm_and_sent_again_nothing_is_lost_or_doubled(store: lab.Store) -> None:
    total, window = 3000, 300

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            to_send = list(range(1, total + 1))
            waiting: dict[int, asyncio.Future[Body]] = {}
            while to_send or waiting:
                while to_send and len(waiting) < window:
                    n = to_send.pop(0)
                    waiting[n] = healer.link.ask(lab.decision(epoch, n))
                async with asyncio.timeout(lab.DEADLINE_S):
                    await asyncio.wait(waiting.values(), return_when=asyncio.FIRST_COMPLETED)
                for n in [n for n, answer in waiting.items() if answer.done()]:
                    answer = waiting.pop(n).result()
                    if isinstance(answer, Nack) and answer.code == "gap":
                        to_send.append(n)
                    else:
                        assert answer == Ack()
                        acked.add(n)
                to_send.sort()
                if kills and len(acked) > kills[0]:
                    kills.pop(0)
                    await asyncio.to_thread(store.kill)
                    await asyncio.to_thread(store.start)
            snapshot = await healer.open("healer-2")
            assert len(snapshot.open_incidents) == total

    kills, acked = [700, 1500, 2200], set[int]()
    asyncio.run(scenario())
    assert (kills, len(acked)) == ([], total)
    store.stop()
    assert lab.rows(store.state_dir / "brain.db", "SELECT count(*) FROM incidents") == [(total,)]
    assert lab.rows(store.state_dir / "metrics.db", "SELECT count(*), count(DISTINCT id) FROM heal_metrics") == [
        (total, total)
    ]
    assert lab.rows(store.state_dir / "ledger.db", "SELECT count(*) FROM trail") == [(total,)]


@pytest.mark.parametrize(
    "point", ["commit.before", "commit.after", "ack.before", "ack.after", "project.before", "project.after"]
)
def test_a_crash_at_every_boundary(tmp_path: Path, runtime_dir: Path, point: str) -> None:
    token = tmp_path / "token"
    store = lab.Store(tmp_path, runtime_dir)

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            token.touch()
            claim = lab.execution(1)
            first = Commit(epoch, 1, (*lab.decision(epoch, 1).records, rec.PutOutbox(lab.message(1))))
            answer = healer.link.ask(first)
            assert await asyncio.to_thread(store.ended) == "signal 9"
            assert not token.exists()
            await asyncio.to_thread(store.start)
            assert await asyncio.wait_for(answer, lab.DEADLINE_S) == Ack()
            assert (await healer.open()).epoch == epoch
            second = Commit(epoch, 2, (rec.PutExecution(claim), rec.PutOutbox(lab.message(0))))
            assert await healer.ask(second) == Ack()
            assert await healer.ask(Claim(claim.id, "x-1")) == ClaimAnswer(True)
            expected = {message_id("out-000001"), message_id("out-000000")}
            await healer.until(lambda: {report.receipt for report in healer.reports} == expected)
            snapshot = await healer.open("healer-2")
            assert [it.id for it in snapshot.open_incidents] == ["inc-000001"]

    store.start(crash=f"store:{point}:{token}")
    try:
        asyncio.run(scenario())
        assert store.stop() == "exit 0"
    finally:
        store.close()
    assert lab.rows(tmp_path / "brain.db", "SELECT count(*) FROM incidents") == [(1,)]
    assert lab.rows(tmp_path / "brain.db", "SELECT count(*) FROM messages") == [(2,)]
    assert lab.rows(tmp_path / "brain.db", "SELECT message_count FROM threads") == [(2,)], "one incident's thread"
    assert lab.rows(tmp_path / "metrics.db", "SELECT count(*) FROM heal_metrics") == [(1,)]


@pytest.mark.req("AC-011")
def test_a_locked_brain_db_delays_nothing_but_itself(store: lab.Store) -> None:
    path = store.state_dir / "brain.db"

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            assert await healer.ask(Commit(epoch, 1, (rec.PutOutbox(lab.message(1)),))) == Ack()
            await healer.until(lambda: len(healer.reports) == 1)
            with lab.holding_the_lock(path):
                for n in range(2, 42):
                    assert await healer.ask(Commit(epoch, n, (rec.PutOutbox(lab.message(n)),))) == Ack()

                def said() -> bool:
                    projections = healer.status.projections if healer.status else ()
                    return any("locked" in p.last_error and p.behind and p.behind_for_s for p in projections)

                await healer.until(said)
                assert len(healer.reports) == 1
            await healer.until(lambda: len(healer.reports) == 41)
            assert [report.row_id for report in healer.reports] == [f"out-{n:06d}" for n in range(1, 42)]

    asyncio.run(scenario())
    store.stop()
    assert lab.rows(path, "SELECT body FROM messages ORDER BY rowid") == [(f"message {n}",) for n in range(1, 42)]


def test_a_receipt_is_reported_until_it_is_acknowledged_and_again_after_a_restart(store: lab.Store) -> None:
    async def scenario() -> None:
        async with peer(store) as healer:
            healer.answers_reports = False
            epoch = (await healer.open()).epoch
            rows = (rec.PutOutbox(lab.message(1)), rec.PutOutbox(lab.message(2, channel=m.Channel.SIGNAL)))
            assert await healer.ask(Commit(epoch, 1, rows)) == Ack()
            await healer.until(lambda: len(healer.reports) >= 2)  # it is sent again
            await asyncio.to_thread(store.kill)
            healer.reports.clear()
            healer.answers_reports = True
            await asyncio.to_thread(store.start)
            await healer.open()
            await healer.until(lambda: healer.reports)
            report = healer.reports[0]
            assert (report.row_id, report.receipt) == ("out-000001", message_id("out-000001"))
            delivered = lab.message(1, state=m.OutboxState.DELIVERED, receipt=report.receipt, delivered_wall_s=1.0)
            assert await healer.ask(Commit(epoch, 2, (rec.PutOutbox(delivered),))) == Ack()
            await asyncio.to_thread(store.kill)
            healer.reports.clear()
            await asyncio.to_thread(store.start)
            await healer.open("healer-2")
            assert await healer.ask(Commit(epoch + 1, 1, (rec.PutOutbox(lab.message(3)),))) == Ack()
            await healer.until(lambda: healer.reports)
            assert [report.row_id for report in healer.reports] == ["out-000003"]

    asyncio.run(scenario())


def test_with_another_synapse_transport_no_message_goes_to_brain_db(tmp_path: Path, runtime_dir: Path) -> None:
    config = f'[store]\nbrain_db = "{tmp_path}/site.db"\n[notify.synapse]\ntransport = "http://127.0.0.1:8031"\n'
    store = lab.Store(tmp_path, runtime_dir, config)
    store.start()

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            records = (rec.PutOutbox(lab.message(1)), rec.PutIncident(lab.incident(1)))
            assert await healer.ask(Commit(epoch, 1, records)) == Ack()

    try:
        asyncio.run(scenario())
        assert store.stop() == "exit 0"
    finally:
        store.close()
    tables = {name for (name,) in lab.rows(tmp_path / "site.db", "SELECT name FROM sqlite_master WHERE type='table'")}
    assert tables == {"incidents", "runbooks", "heal_projection"}
    assert lab.rows(tmp_path / "site.db", "SELECT count(*) FROM incidents") == [(1,)]
