"""Decisions on their way to the ledger: in order, each one transaction, again until it is durable (DESIGN §2.1).

While the ledger is in trouble, decisions wait here in order; nothing of what they lead to happens before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from supervisor.bus import Link
from supervisor.errors import StoreError
from supervisor.incidents.world import (
    Decision,
)
from supervisor.messages import Ack, Body, Commit, LedgerTrouble, Nack

log = logging.getLogger(__name__)

WAITING_MAX = 10_000
AGAIN_S = 0.25  # the ledger is in trouble: the same decisions again, in order


class _Item(msgspec.Struct):
    commit: Commit
    decision: Decision
    acks: list[Callable[[], None]]


class Committer:
    """`durable` is called once per decision, when it is; `refused` when the store will never take it."""

    def __init__(
        self,
        store: Link,
        epoch: int,
        durable: Callable[[Decision], None],
        refused: Callable[[Exception], None],
    ) -> None:
        self._store = store
        self._epoch = epoch
        self._durable = durable
        self._refused = refused
        self._n = 0
        self._items: dict[int, _Item] = {}
        self._again: asyncio.TimerHandle | None = None
        self._over = False
        self.trouble = ""

    @property
    def waiting(self) -> int:
        """Decisions that are not yet durable."""
        return len(self._items)

    @property
    def full(self) -> bool:
        """Nothing more should be decided until the ledger has taken what waits."""
        return len(self._items) >= WAITING_MAX

    def commit(self, decision: Decision, ack: Callable[[], None] | None) -> None:
        """Sends the decision's records; `ack` is called when they are durable."""
        self._n += 1
        commit = Commit(self._epoch, self._n, tuple(decision.records))
        self._items[self._n] = _Item(commit, decision, [ack] if ack else [])
        if self._again is None:
            self._send(commit)

    def when_all_durable(self, run: Callable[[], None]) -> None:
        """After everything that is on its way now; at once when nothing is."""
        if self._items:
            self._items[max(self._items)].acks.append(run)
        else:
            run()

    async def flush(self, within_s: float) -> None:
        """At a stop: wait for what is not yet durable."""
        flushed = asyncio.Event()
        self.when_all_durable(flushed.set)
        try:
            await asyncio.wait_for(flushed.wait(), within_s)
        except TimeoutError:
            log.error("stopped with %d decisions that are not durable: %s", len(self._items), self.trouble)
        if self._again is not None:
            self._again.cancel()

    def _send(self, commit: Commit) -> None:
        self._store.ask(commit).add_done_callback(lambda answer: self._answered(commit, answer))

    def _answered(self, commit: Commit, answer: asyncio.Future[Body]) -> None:
        if answer.cancelled() or self._over:
            return
        body = answer.result()
        if isinstance(body, Ack):
            self._done(commit.n)
        elif isinstance(body, LedgerTrouble):
            self._wait(body.message)
        elif isinstance(body, Nack) and body.code == "gap":
            self._wait(self.trouble or body.message)  # what an earlier decision met is the cause
        else:
            self._over = True  # what was decided after it may rest on it: nothing of that is carried out
            self._refused(StoreError(f"the store refused decision {commit.n} of epoch {commit.epoch}: {body}"))

    def _wait(self, message: str) -> None:
        if not self.trouble:
            log.error("the ledger takes no records: %s; nothing new is done until it does", message)
        self.trouble = message
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._send_all)

    def _send_all(self) -> None:
        self._again = None
        for n in sorted(self._items):
            self._send(self._items[n].commit)

    def _done(self, n: int) -> None:
        item = self._items.pop(n, None)
        if item is None:  # acknowledged twice
            return
        if self.trouble and not self._items:
            log.info("the ledger takes records again")
            self.trouble = ""
        for ack in item.acks:
            ack()
        self._durable(item.decision)
