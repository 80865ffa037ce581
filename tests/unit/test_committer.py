"""Decisions on their way to the ledger: they have a limit, wait in order, and outlive a ledger that was begun anew."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from supervisor import committer
from supervisor.bus import Link
from supervisor.clock import SteadyClock
from supervisor.committer import Committer, reopening
from supervisor.errors import HealError
from supervisor.incidents import records as rec
from supervisor.incidents.world import Decision
from supervisor.messages import Ack, Body, Commit, EpochOpened, LedgerTrouble, Nack, OpenEpoch
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab


class Store:
    """Takes no records until it is told to; `ledger` is asked when there is one."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self.works = False
        self.taken: list[int] = []
        self.ledger = ledger

    def ask(self, body: Body) -> asyncio.Future[Body]:
        answer: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        answer.set_result(self._answer(body))
        return answer

    def _answer(self, body: Body) -> Body:
        if not self.works:
            return LedgerTrouble("disk full")
        if self.ledger is not None and isinstance(body, OpenEpoch):
            return self.ledger.open_epoch(body)
        assert isinstance(body, Commit)
        self.taken.append(body.n)
        return Ack() if self.ledger is None else self.ledger.write([body])[0]


class Healer:
    """Who commits: keeps what became durable, what was refused, what was said."""

    def __init__(self, store: Store, epoch: int) -> None:
        self.durable: list[Decision] = []
        self.refused: list[Exception] = []
        self.alarms: list[str] = []
        self.seeded: list[rec.Record] = []
        self.committer = Committer(
            store,  # type: ignore[arg-type]
            epoch,
            self.durable.append,
            self.refused.append,
            reopen=self._reopen,
            seed=self._seed,
            alarm=self.alarms.append,
        )

    def _reopen(self) -> OpenEpoch:
        return reopening("healer", self.committer.beginnings, SteadyClock().anchor())

    def _seed(self, opened: EpochOpened, waiting: list[rec.Record]) -> list[tuple[rec.Record, ...]]:
        self.seeded = waiting
        return [(rec.PutIncident(lab.incident(77)),), tuple(waiting)]

    async def until(self, look: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not look():
                await asyncio.sleep(0.001)


def decision(*records: rec.Record) -> Decision:
    return Decision(list(records), [], [])


@pytest.mark.req("FR-004")
def test_what_waits_is_counted_and_goes_on_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "WAITING_MAX", 3)
    monkeypatch.setattr(committer, "AGAIN_S", 0.01)

    async def test() -> None:
        store = Store()
        healer = Healer(store, 1)
        one = healer.committer
        decisions = [decision() for _ in range(3)]
        for n, it in enumerate(decisions):
            assert (one.waiting, one.full) == (n, False)
            one.commit(it, None)
        assert one.full
        await asyncio.sleep(0)
        store.works = True
        await healer.until(lambda: one.waiting == 0)
        assert not one.full
        assert store.taken == [1, 2, 3]
        assert all(a is b for a, b in zip(healer.durable, decisions, strict=True))
        assert healer.alarms == []

    asyncio.run(test())


@pytest.mark.req("FR-004", "NFR-001")
@pytest.mark.parametrize("first", [Ack(), Nack("rejected", "no such column")])
def test_what_is_durable_is_carried_out_in_the_order_in_which_it_was_decided(first: Body) -> None:
    """A drill that was cancelled was begun after its end: the answer about its beginning had come late."""

    async def test() -> None:
        answers: list[asyncio.Future[Body]] = []
        store = Store()
        healer = Healer(store, 1)

        def ask(body: Body) -> asyncio.Future[Body]:
            answers.append(asyncio.get_running_loop().create_future())
            return answers[-1]

        store.ask = ask  # type: ignore[method-assign]
        one, decisions, acks = healer.committer, [decision() for _ in range(3)], list[int]()
        for n, it in enumerate(decisions):
            one.commit(it, lambda n=n: acks.append(n))  # type: ignore[misc]
        for answer in (answers[1], answers[2]):
            answer.set_result(Ack())
        await asyncio.sleep(0)
        assert (healer.durable, acks, one.waiting) == ([], [], 3)
        answers[0].set_result(first)
        await asyncio.sleep(0)
        if isinstance(first, Nack):
            assert (healer.durable, acks, len(healer.refused)) == ([], [], 1)
        else:
            assert all(a is b for a, b in zip(healer.durable, decisions, strict=True))
            assert (acks, one.waiting) == ([0, 1, 2], 0)

    asyncio.run(test())


@pytest.mark.req("FR-005")
def test_a_ledger_that_takes_nothing_is_told_once_by_the_only_way_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "AGAIN_S", 0.01)
    monkeypatch.setattr(committer, "ALARM_AFTER_S", 0.02)

    async def test() -> None:
        store = Store()
        healer = Healer(store, 1)
        healer.committer.commit(decision(), None)
        await healer.until(lambda: healer.alarms)
        assert "disk full" in healer.alarms[0]
        store.works = True
        await healer.until(lambda: not healer.committer.trouble)
        assert len(healer.alarms) == 1

    asyncio.run(test())


@pytest.mark.req("FR-004")
@pytest.mark.parametrize("how", ["damaged", "set back"])
def test_another_ledger_is_given_all_that_is_known_and_what_waits_goes_on_after_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    monkeypatch.setattr(committer, "AGAIN_S", 0.01)

    async def test() -> None:
        ledger = Ledger(tmp_path / "ledger.db")
        opened = ledger.open_epoch(OpenEpoch("healer", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        store = Store(ledger)
        store.works = True
        healer = Healer(store, opened.snapshot.epoch)
        healer.committer.commit(decision(rec.AddMetric(lab.metric(1))), None)
        await healer.until(lambda: len(healer.durable) == 1)
        if how == "damaged":
            old_id = ledger.ledger_id
            ledger.set_aside("a test says so")
            assert ledger.ledger_id != old_id
        else:  # as when the end of its log cannot be read
            ledger._last_n = 0
        acked: list[int] = []
        later = [decision(rec.AddMetric(lab.metric(n))) for n in (2, 3)]
        for n, it in enumerate(later):
            healer.committer.commit(it, lambda n=n: acked.append(n))  # type: ignore[misc]
        await healer.until(lambda: healer.committer.waiting == 0)
        assert healer.refused == []
        assert [it for it in healer.durable if it.records] == [decision(rec.AddMetric(lab.metric(1))), *later]
        assert acked == [0, 1]
        assert len(healer.seeded) == 2
        assert healer.committer.beginnings == 1
        found = lab.rows(ledger.path, "SELECT id FROM metrics ORDER BY id")
        assert found == [(f"met-{n:06d}",) for n in (1, 2, 3)]
        assert lab.rows(ledger.path, "SELECT id FROM incidents") == [("inc-000077",)]
        healer.committer.commit(decision(rec.AddMetric(lab.metric(4))), None)
        await healer.until(lambda: healer.committer.waiting == 0)
        ledger.close()

    asyncio.run(test())


@pytest.mark.req("FR-004")
def test_a_ledger_that_is_begun_anew_twice_loses_nothing_although_nobody_was_told_between(tmp_path: Path) -> None:
    """Each beginning is an epoch of its own: in an old one everything new would count as repeated (found by the
    simulator, which delays answers)."""

    async def test() -> None:
        ledger = Ledger(tmp_path / "ledger.db")
        opened = ledger.open_epoch(OpenEpoch("healer", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        store = Store(ledger)
        store.works = True
        healer = Healer(store, opened.snapshot.epoch)
        # Of the first no feed tells.
        for record in (rec.SetTimer(lab.timer(1)), rec.AddMetric(lab.metric(1))):
            healer.committer.begin_anew()
            await healer.until(lambda: not healer.committer.waiting and not healer.committer._reopening)
            healer.committer.commit(decision(record), None)
            await healer.until(lambda: not healer.committer.waiting)
        assert lab.rows(ledger.path, "SELECT id FROM metrics") == [("met-000001",)]
        ledger.close()

    asyncio.run(test())


def test_a_healer_that_another_has_followed_is_not_heard(tmp_path: Path) -> None:
    async def test() -> None:
        ledger = Ledger(tmp_path / "ledger.db")
        for incarnation in ("old", "new"):
            assert isinstance(ledger.open_epoch(OpenEpoch(incarnation, 0.0, 0.0)), EpochOpened)
        store = Store(ledger)
        store.works = True
        healer = Healer(store, 1)
        healer.committer.commit(decision(rec.AddMetric(lab.metric(1))), None)
        await healer.until(lambda: healer.refused)
        assert healer.committer.beginnings == 0
        ledger.close()

    asyncio.run(test())


def test_a_healer_begins_when_the_ledger_is_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "AGAIN_S", 0.001)
    monkeypatch.setattr(committer, "STARTING_S", 0.01)
    alarms: list[str] = []

    class Slow:
        def __init__(self) -> None:
            self.refuses = False

        def ask(self, body: Body) -> asyncio.Future[Body]:
            answer: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
            answer.set_result(Nack("usage", "no") if alarms else LedgerTrouble("disk full"))
            return answer

    async def test(store: Link) -> None:
        with pytest.raises(HealError, match="did not open"):
            await committer.open_epoch(store, OpenEpoch("healer", 0.0, 0.0), alarms.append)

    asyncio.run(test(Slow()))  # type: ignore[arg-type]
    assert len(alarms) == 1
