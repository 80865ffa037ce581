"""Decisions on their way to the ledger: in order, each one transaction, again until it is durable (DESIGN §2.1).

While the ledger is in trouble, decisions wait here in order; nothing of what they lead to happens before. A ledger that
was begun anew, since the old one is damaged, is first given everything that the engine has in memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from supervisor.bus import Link
from supervisor.clock import Anchor, monotonic_s
from supervisor.errors import StoreError
from supervisor.incidents.records import Record
from supervisor.incidents.world import Decision
from supervisor.messages import Ack, Body, Commit, EpochOpened, LedgerTrouble, Nack, OpenEpoch

log = logging.getLogger(__name__)

WAITING_MAX = 10_000
AGAIN_S = 0.25  # the ledger is in trouble: the same decisions again, in order
ALARM_AFTER_S = 30.0  # so long in trouble: nothing may leave any more, so the root is asked to say so
ALARM_AGAIN_S = 3600.0
STARTING_S = 7.0  # the same for a healer that cannot begin: before the root takes it for hung

Seed = Callable[[EpochOpened, list[Record]], list[tuple[Record, ...]]]


class _Item(msgspec.Struct):
    commit: Commit
    decision: Decision
    acks: list[Callable[[], None]]
    taken: bool = False


async def open_epoch(store: Link, request: OpenEpoch, alarm: Callable[[str], None]) -> EpochOpened:
    """Asks until the ledger is well. Raises StoreError when it is refused."""
    began_s = monotonic_s()
    told = False
    while True:
        answer = await store.ask(request)
        if isinstance(answer, EpochOpened):
            return answer
        if not isinstance(answer, LedgerTrouble):
            raise StoreError(f"the store did not open an epoch: {answer}")
        if not told and monotonic_s() - began_s > STARTING_S:
            told = True
            alarm(_cannot_tell(answer.message))
        await asyncio.sleep(AGAIN_S)


def reopening(incarnation: str, beginnings: int, anchor: Anchor) -> OpenEpoch:
    """Of a ledger that is begun anew, each time under a name of its own: under the last one it would take what is new
    for repeated, and drop it."""
    return OpenEpoch(f"{incarnation}.{beginnings}", 0.0, 0.0, anchor)


def _cannot_tell(trouble: str) -> str:
    return (
        f"healctl cannot write its own ledger: {trouble}. Nothing is healed and no other page can leave until it can;"
        " make room on its disk, or look at it: healctl status"
    )


class Committer:
    """`durable` is called once per decision, in their order, when it is; `refused` when the store will never take it.

    `reopen` is what opens an epoch in a new ledger; `seed` then gives the records that it begins with. `alarm` is told
    when the ledger has taken nothing for `ALARM_AFTER_S`.
    """

    def __init__(
        self,
        store: Link,
        epoch: int,
        durable: Callable[[Decision], None],
        refused: Callable[[Exception], None],
        *,
        reopen: Callable[[], OpenEpoch],
        seed: Seed,
        alarm: Callable[[str], None],
    ) -> None:
        self._store = store
        self._reopen = reopen
        self._seed = seed
        self._alarm = alarm
        self._alarm_timer: asyncio.TimerHandle | None = None
        self._reopening = False
        self.beginnings = 0  # how often a ledger was begun anew: each is an epoch of its own
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
        commit = self._add(tuple(decision.records), decision, [ack] if ack else [])
        if self._again is None and not self._reopening:
            self._send(commit)

    def when_all_durable(self, run: Callable[[], None]) -> None:
        """After everything that is on its way now; at once when nothing is."""
        if self._items:
            self._items[next(reversed(self._items))].acks.append(run)
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
        for timer in (self._again, self._alarm_timer):
            if timer is not None:
                timer.cancel()

    def begin_anew(self) -> None:
        """The ledger is another one: it is given everything that we know, then what waits goes on."""
        if self._reopening or self._over:
            return
        self._reopening = True
        self.beginnings += 1
        if self._again is not None:
            self._again.cancel()
            self._again = None
        log.error("the ledger does not hold what it acknowledged: it is given everything that is in memory")
        self._ask_for_epoch()

    def _ask_for_epoch(self) -> None:
        self._again = None
        self._store.ask(self._reopen()).add_done_callback(self._reopened)

    def _reopened(self, answer: asyncio.Future[Body]) -> None:
        if answer.cancelled() or self._over:
            return
        opened = answer.result()
        if isinstance(opened, LedgerTrouble):
            self._in_trouble(opened.message)
            self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._ask_for_epoch)
            return
        if not isinstance(opened, EpochOpened):
            self._over = True
            self._refused(StoreError(f"the new ledger opened no epoch: {opened}"))
            return
        waiting = [self._items[n] for n in sorted(self._items)]
        parts = self._seed(opened, [record for item in waiting for record in item.commit.records])
        self._reopening = False
        self._epoch, self._n, self._items = opened.snapshot.epoch, 0, {}
        for part in parts:
            self._add(part, Decision([], [], []), [], seed=True)
        for item in waiting:  # what they wrote is in the seed; what they lead to comes after it
            self._add((), item.decision, item.acks)
        self._send_all()

    def _add(
        self, records: tuple[Record, ...], decision: Decision, acks: list[Callable[[], None]], *, seed: bool = False
    ) -> Commit:
        self._n += 1
        commit = Commit(self._epoch, self._n, records, seed)
        self._items[self._n] = _Item(commit, decision, acks)
        return commit

    def _send(self, commit: Commit) -> None:
        self._store.ask(commit).add_done_callback(lambda answer: self._answered(commit, answer))

    def _answered(self, commit: Commit, answer: asyncio.Future[Body]) -> None:
        item = self._items.get(commit.n)
        if answer.cancelled() or self._over or self._reopening or item is None or item.commit is not commit:
            return  # over, acknowledged already, or of a ledger that is no more
        body = answer.result()
        if isinstance(body, Ack):
            item.taken = True
            self._carry_on()
        elif isinstance(body, LedgerTrouble):
            self._wait(body.message)
        elif isinstance(body, Nack) and body.code == "gap" and commit.n > min(self._items):
            self._wait(self.trouble or body.message)  # what an earlier decision met is the cause
        elif isinstance(body, Nack) and body.code in ("gap", "new_ledger"):
            self.begin_anew()  # what it misses it had acknowledged: it was damaged, and is another one or set back
        else:
            self._over = True  # what was decided after it may rest on it: nothing of that is carried out
            self._refused(StoreError(f"the store refused decision {commit.n} of epoch {commit.epoch}: {body}"))

    def _in_trouble(self, message: str) -> None:
        if not self.trouble:
            log.error("the ledger takes no records: %s; nothing new is done until it does", message)
            self._alarm_timer = asyncio.get_running_loop().call_later(ALARM_AFTER_S, self._on_alarm)
        self.trouble = message

    def _on_alarm(self) -> None:
        self._alarm_timer = asyncio.get_running_loop().call_later(ALARM_AGAIN_S, self._on_alarm)
        self._alarm(_cannot_tell(self.trouble))

    def _wait(self, message: str) -> None:
        self._in_trouble(message)
        if self._again is None:
            self._again = asyncio.get_running_loop().call_later(AGAIN_S, self._send_all)

    def _send_all(self) -> None:
        self._again = None
        for n in sorted(self._items):
            self._send(self._items[n].commit)

    def _carry_on(self) -> None:
        """With what is durable, in the order in which it was decided: the answer to an earlier one may be late, and say
        that it was refused; and what has ended must not be begun after its end."""
        while self._items and (item := self._items[n := next(iter(self._items))]).taken:
            del self._items[n]
            if self.trouble and not self._items:
                log.info("the ledger takes records again")
                self.trouble = ""
                if self._alarm_timer is not None:
                    self._alarm_timer.cancel()
                    self._alarm_timer = None
            for ack in item.acks:
                ack()
            self._durable(item.decision)
