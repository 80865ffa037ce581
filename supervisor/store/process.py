"""The store process: the only writer of any database; first up, last down (DESIGN §1, §2.1).

It takes what arrived together in one transaction and answers afterwards, answers questions from the ledger, wakes the
projections, and tells the healer which Synapse messages arrived. It decides nothing, and it never waits for brain.db.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sqlite3
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

from supervisor import bus, crashpoint
from supervisor.aside import aside
from supervisor.clock import monotonic_s
from supervisor.config import Config
from supervisor.errors import BusError, StoreError
from supervisor.incidents.records import DropHalt, PutHalt
from supervisor.messages import (
    Ack,
    AuditFound,
    Body,
    Commit,
    DeliveryReport,
    ExecutionFound,
    FetchAudit,
    FetchExecution,
    FetchHistory,
    FetchIncident,
    FetchReport,
    FetchTrail,
    Frame,
    GuardedWrite,
    Hello,
    LedgerTrouble,
    Nack,
    OpenEpoch,
    ProbeNow,
    StoreStatus,
    TrailFound,
)
from supervisor.store import guarded, history, reporting, sqlite
from supervisor.store.brain_db import BrainDb
from supervisor.store.care import Care, Check
from supervisor.store.ledger import Answer, Ledger, Write
from supervisor.store.metrics import MetricsDb
from supervisor.store.projection import DRAIN_S, Follower, Target
from supervisor.store.synapse import Synapse
from supervisor.synapse_ids import message_id
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

AUDIT_MAX = 10_000  # lines in one answer
STATUS_S = 1.0  # at most one StoreStatus in this time
WRITES_MAX = 500  # in one transaction: who sent them can go on while the next are written
REPORTS_MAX = 500  # delivery reports under way at once

Taken = list[tuple[str, Frame]]


def targets(config: Config, state_dir: Path) -> tuple[Target, ...]:
    """What the configuration wants projected."""
    brain = Path(config.store.brain_db or state_dir / "brain.db")
    metrics = Path(config.store.metrics_db or state_dir / "metrics.db")
    own = not config.store.brain_db
    found: list[Target] = [
        BrainDb(brain, own=own, whitelist=frozenset(config.policy.auto_execute)),
        MetricsDb(metrics, own=not config.store.metrics_db),
    ]
    synapse = config.notify.synapse
    if synapse.transport == "brain_db":
        found.append(Synapse(brain, own=own, sender=synapse.sender, to=synapse.to))
    return tuple(found)


_HALTING = frozenset({PutHalt, DropHalt})


def _halts(commit: Commit) -> bool:
    return not _HALTING.isdisjoint(map(type, commit.records))


HEALER = "healer"  # the name it connects with; one that was here before us does not say Hello again


class StoreWorker(Worker):
    """Answers on the bus's `store` endpoint."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._reports: dict[str, asyncio.Future[Body]] = {}  # by outbox row, not yet answered
        self._reported: set[str] = set()  # answered, but still pending in the ledger
        self._told: StoreStatus | None = None
        self._told_at_s = 0.0
        self._status_timer: asyncio.TimerHandle | None = None
        self._woken_rev = -1
        self._hearing = False
        self._guarded: dict[str, asyncio.Future[Ack | Nack]] = {}  # by the frame that asked

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._ledger = Ledger(self.boot.state_dir / "ledger.db")

        def changed() -> None:
            loop.call_soon_threadsafe(self._on_projected)

        self._followers = [
            Follower(target, self._ledger.path, changed) for target in targets(self.boot.config, self.boot.state_dir)
        ]
        self._context = bus.new_context()
        self._hub = bus.Hub(self._context, bus.endpoint(self.boot.runtime_dir, "store"), "store", self._on_frames)
        self._mind_halts()
        for follower in self._followers:
            follower.start()
        self._care = Care(self._ledger, self._projected, self._set_aside, self._limits)
        self._caring = loop.create_task(self._care.run())
        self._caring.add_done_callback(self._on_care_over)
        self._doubting: asyncio.Task[None] | None = None
        shared = self.boot.config.store.brain_db or self.boot.config.store.metrics_db
        if sqlite.has_wal_reset_bug() and (shared or any(it.trades_db for it in self.boot.config.trading.values())):
            log.warning(
                "SQLite %s can lose commits of a WAL database that several programs write (sqlite.org/wal.html):"
                " healctl never checkpoints beside a commit, the others may; 3.51.3, 3.50.7 and 3.44.6 are fixed",
                sqlite.VERSION,
            )
        if self._ledger.damage:
            self._something_changed()  # a healer that lives must hear of it before it decides anything

    def _limits(self) -> tuple[float, int]:
        section = self.boot.config.store
        return float(section.keep), int(section.ledger_max)

    def _projected(self) -> int:
        """How far every projection has the ledger."""
        return min(follower.done_rev(self._ledger.ledger_id) for follower in self._followers)

    def _set_aside(self, why: str) -> None:
        """The check found what no query has met yet."""
        try:
            self._ledger.set_aside(why)
        except (sqlite3.Error, OSError) as error:
            self.fail(StoreError(f"the ledger is damaged ({why}), and no new one can be begun: {error}"))
            return
        self._wake_followers()
        self._something_changed()

    def _doubted(self) -> None:
        """The database probe calls the ledger damaged. Nothing is set aside on its word: we look as closely as it."""
        if self._doubting is None or self._doubting.done():
            log.error("the database probe calls the ledger damaged: it is checked")
            self._doubting = self._loop.create_task(self._care.check(Check.FULL))
            self._doubting.add_done_callback(self._on_care_over)

    def _on_care_over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def stop(self) -> None:
        for task in (self._caring, self._doubting):
            if task is not None:
                task.cancel()
        if self._status_timer is not None:
            self._status_timer.cancel()
        for follower in self._followers:
            follower.stop()
        for follower in self._followers:
            await asyncio.to_thread(follower.join, 2 * DRAIN_S)
        self._hub.close()
        self._context.term()
        self._ledger.close()

    # --- what arrives --------------------------------------------------------------------------------------------

    def _on_frames(self, batch: Taken) -> None:
        writes: Taken = []
        for source, frame in batch:
            if isinstance(frame.body, Write):
                writes.append((source, frame))
                if len(writes) < WRITES_MAX:
                    continue
            self._flush(writes)
            writes = []
            if isinstance(frame.body, GuardedWrite):
                self._begin_guarded(source, frame, frame.body)
            elif not isinstance(frame.body, Write):
                self._answer(source, frame, self._ask(frame.body))
        self._flush(writes)

    def _flush(self, writes: Taken) -> None:
        """One transaction for all of them, then the answers."""
        if not writes:
            return
        requests = [frame.body for _, frame in writes if isinstance(frame.body, Write)]
        answers = self._ledger.write(requests)
        if any(isinstance(request, Commit) and _halts(request) for request in requests):
            self._mind_halts()  # before the answer: whoever hears of a halt can rely on it
        crashpoint.reach("ack.before")
        self._give(writes, answers)
        crashpoint.reach("ack.after")
        self.done += len(writes)
        self._wake_followers()
        self._something_changed()

    def _give(self, writes: Taken, answers: Sequence[Answer]) -> None:
        """Each its answer, in order; neighbours that are all acknowledged share a message."""
        told = zip(writes, answers, strict=True)
        for (source, acked), group in groupby(told, lambda one: (one[0][0], isinstance(one[1], Ack))):
            if acked:
                self._hub.acknowledge(source, [frame for (_, frame), _ in group])
                continue
            for (_, frame), answer in group:
                self._hub.answer(source, frame, answer)

    def _mind_halts(self) -> None:
        """R10: a follower of a halted database commits nothing more. By the ledger: a decision may be sent again."""
        halts = {Path(halt.path): halt for halt in self._ledger.halts()}
        for follower in self._followers:
            follower.hold(halts.get(follower.target.path))

    def _begin_guarded(self, source: str, frame: Frame, request: GuardedWrite) -> None:
        """In a thread: another program's lock must not keep the ledger waiting. One frame, however often it comes, is
        written once at a time."""
        if frame.id in self._guarded:
            return
        halted = frozenset(halt.path for halt in self._ledger.halts())
        job = asyncio.wrap_future(aside(partial(guarded.write, request, self.boot.config, halted), "guarded write"))
        self._guarded[frame.id] = job

        def ended(done: asyncio.Future[Ack | Nack]) -> None:
            del self._guarded[frame.id]
            if done.cancelled():
                return
            error = done.exception()
            if isinstance(error, OSError):  # no more threads, or no such directory
                self._hub.answer(source, frame, Nack("refused", f"nothing was written: {error}"))
            elif error is not None:
                self.fail(error)
            else:
                self._hub.answer(source, frame, done.result())

        job.add_done_callback(ended)

    def _ask(self, body: Body) -> Body | None:
        """The answer to what is no write; None for what wants none."""
        match body:
            case OpenEpoch():
                answer = self._ledger.open_epoch(body)
                self._reported.clear()
                self._told = None
                self._wake_followers()
                self._loop.call_soon(self._on_projected)
                return answer
            case FetchExecution():
                execution = self._ledger.execution(body.execution_id)
                if isinstance(execution, LedgerTrouble):
                    return execution
                if execution is None:
                    return Nack("unknown_id", f"no execution {body.execution_id}", exit_code=4)
                return ExecutionFound(execution, self._ledger.undone_by(execution.id))
            case FetchAudit():
                entries = self._ledger.audit(min(body.limit, AUDIT_MAX))
                return entries if isinstance(entries, LedgerTrouble) else AuditFound(entries)
            case FetchIncident(incident_id):
                found = self._ledger.past(partial(history.incident, incident_id=incident_id))
                return found or Nack("unknown_id", f"no incident {incident_id}", exit_code=4)
            case FetchTrail():
                trails = self._ledger.trails(body.incident_ids)
                return trails if isinstance(trails, LedgerTrouble) else TrailFound(trails)
            case FetchHistory():
                return self._ledger.past(partial(history.page, asked=body))
            case FetchReport():
                return self._ledger.past(partial(reporting.page, asked=body))
            case Hello():
                return None
            case ProbeNow():
                self._doubted()
                return None
            case _:
                return Nack("usage", f"the store does not take {type(body).__name__}", exit_code=2)

    def _answer(self, source: str, frame: Frame, answer: Body | None) -> None:
        if answer is None:
            return
        try:
            self._hub.answer(source, frame, answer)
        except BusError as error:  # larger than a message may be
            log.error("an answer to %s was not sent: %s", source, error)
            self._hub.refuse(source, frame, error)

    # --- projections ---------------------------------------------------------------------------------------------

    def _wake_followers(self) -> None:
        rev = self._ledger.rev
        if rev == self._woken_rev:
            return
        self._woken_rev = rev
        for follower in self._followers:
            follower.wake(self._ledger.ledger_id, rev)

    def _on_projected(self) -> None:
        """Each of the projections says so many times a second in a storm: they are heard together, once a turn."""
        if not self._hearing:
            self._hearing = True
            self._loop.call_soon(self._hear_projections)

    def _hear_projections(self) -> None:
        self._hearing = False
        if self._stopping.is_set():
            return
        for follower in self._followers:
            if isinstance(follower.target, Synapse):
                self._report_deliveries(follower.done_rev(self._ledger.ledger_id))
        self._something_changed()

    def _report_deliveries(self, up_to_rev: int) -> None:
        """Tells the healer of messages that are in Synapse and that the ledger does not know to be delivered."""
        room = REPORTS_MAX + len(self._reports) + len(self._reported)  # thousands wait in a storm: not all, each time
        waiting = self._ledger.undelivered_synapse(up_to_rev, room)
        self._reported &= {row.id for row in waiting}
        for row in waiting:
            if row.id in self._reports or row.id in self._reported:
                continue
            if len(self._reports) >= REPORTS_MAX:
                return  # goes on when one of them is answered
            report = DeliveryReport(row.id, row.attempts + 1, receipt=message_id(row.id))
            answer = self._hub.request(HEALER, report)
            self._reports[row.id] = answer
            answer.add_done_callback(partial(self._on_reported, row.id))

    def _on_reported(self, row_id: str, answer: asyncio.Future[Body]) -> None:
        del self._reports[row_id]
        if answer.cancelled():
            return
        self._reported.add(row_id)
        if isinstance(body := answer.result(), Nack):
            log.error("the healer refused the receipt of %s: %s", row_id, body.message)
        if len(self._reports) == REPORTS_MAX - 1:
            self._loop.call_soon(self._on_projected)

    # --- status --------------------------------------------------------------------------------------------------

    def _something_changed(self) -> None:
        if self._status_timer is None:
            wait_s = max(0.0, self._told_at_s + STATUS_S - monotonic_s())
            self._status_timer = self._loop.call_later(wait_s, self._tell_status)

    def _tell_status(self) -> None:
        self._status_timer = None
        self._ledger.mend_reserve()
        rev = self._ledger.rev
        status = StoreStatus(
            ledger_path=str(self._ledger.path),
            ledger_bytes=self._ledger.size_bytes(),
            reserve_ok=self._ledger.reserve_ok,
            sqlite_version=sqlite.VERSION,
            projections=tuple(follower.status(self._ledger.ledger_id, rev) for follower in self._followers),
            ledger_id=self._ledger.ledger_id,
            damaged=self._ledger.damaged(),
            damage=self._ledger.damage,
        )
        self._told_at_s = monotonic_s()
        if status != self._told:
            dropped = self._hub.dropped
            self._hub.send(HEALER, status)
            self._told = status if self._hub.dropped == dropped else None  # the healer was not there
        behind = any(projection.behind for projection in status.projections)
        # What was kept of a damaged ledger goes when a person takes it away: nothing but a look tells.
        if behind or self._told is None or not status.reserve_ok or status.damaged:
            self._something_changed()
