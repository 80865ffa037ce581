"""Decisions on their way to the ledger have a limit (DESIGN §2.6): the oldest are kept, in order."""

from __future__ import annotations

import asyncio

import pytest

from supervisor import committer
from supervisor.committer import Committer
from supervisor.incidents.world import Decision
from supervisor.messages import Ack, Body, Commit, LedgerTrouble


class Store:
    """Takes no records until it is told to."""

    def __init__(self) -> None:
        self.works = False
        self.taken: list[int] = []

    def ask(self, body: Commit) -> asyncio.Future[Body]:
        answer: asyncio.Future[Body] = asyncio.get_running_loop().create_future()
        if self.works:
            self.taken.append(body.n)
        answer.set_result(Ack() if self.works else LedgerTrouble("disk full"))
        return answer


@pytest.mark.req("FR-004")
def test_what_waits_is_counted_and_goes_on_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "WAITING_MAX", 3)
    monkeypatch.setattr(committer, "AGAIN_S", 0.01)
    durable: list[Decision] = []

    async def test() -> None:
        store = Store()
        one = Committer(store, 1, durable.append, pytest.fail)  # type: ignore[arg-type]
        decisions = [Decision([], [], []) for _ in range(3)]
        for n, decision in enumerate(decisions):
            assert (one.waiting, one.full) == (n, False)
            one.commit(decision, None)
        assert one.full
        await asyncio.sleep(0)
        store.works = True
        await asyncio.wait_for(_until(lambda: one.waiting == 0), 10)
        assert not one.full
        assert store.taken == [1, 2, 3]
        assert all(a is b for a, b in zip(durable, decisions, strict=True))

    asyncio.run(test())


async def _until(look: object) -> None:
    while not look():  # type: ignore[operator]
        await asyncio.sleep(0.001)
