"""The notifier: takes rows of the outbox from the healer and tries until each has a receipt (FR-005, R2, DESIGN §5).

One task per row, so that a delivery that hangs delays no other; `gate` bounds how many are in work at once. The
ledger is not touched here: every attempt's outcome goes to the healer, again and again until it is acknowledged.
It must never report a receipt that a channel did not give, drop a row, or give up on one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket

from supervisor import bus, crashpoint
from supervisor.config import SignalSection
from supervisor.incidents.model import Channel, OutboxRow
from supervisor.messages import Ack, Body, Deliver, DeliveryReport, Frame, Nack, PingNow
from supervisor.notifier import backoff, flights
from supervisor.notifier.channel import Channel as Outlet
from supervisor.notifier.channel import DeliveryError, Permanent, Receipt
from supervisor.notifier.dead_man import DeadMan
from supervisor.notifier.flights import Flights
from supervisor.notifier.gate import Gate
from supervisor.notifier.plugin import PluginChannel
from supervisor.notifier.replies import Replies
from supervisor.notifier.signal_cli import NO_TRANSPORT, SignalCli
from supervisor.notifier.synapse_rest import SynapseRest
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

SLOTS = 16  # rows of one channel in work at once
ROWS_MAX = 5_000  # beyond it, a row is left unacknowledged: the healer keeps it and asks again
RECEIPTS_MAX = 10_000  # remembered, so that a row handed in again is not sent again
CLOSE_S = 1.0  # of `[tree] shutdown`, kept for closing after the last attempt


class _Work:
    """A row without a receipt, and where it stands."""

    def __init__(self, row: OutboxRow, suspect: bool) -> None:
        self.row = row
        self.suspect = suspect
        self.attempts = row.attempts
        self.began_s: float | None = None  # the loop's time at which the attempt in work began
        self.retry = asyncio.Event()  # set: its channel works again, do not wait any longer
        self.task: asyncio.Task[None] | None = None


class NotifierWorker(Worker):
    """`Link` to the healer under the name that the tree gave it: `notifier`, or that of a plugin's channel, over which
    alone such a worker delivers."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._outlets: dict[Channel, Outlet] = {}
        self._works: dict[str, _Work] = {}
        self._receipts: dict[str, DeliveryReport] = {}
        self._reports: dict[str, asyncio.Future[Body]] = {}  # the last unacknowledged report of each row
        self._closing = False
        self._full = False

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._gate = Gate(SLOTS)
        plugin = self.boot.name in self.boot.config.piece
        self._flights = Flights(None if plugin else self.boot.state_dir / flights.FILE)
        self._kept = self._flights.receipts()  # an earlier notifier got them, and may not have been heard
        if plugin:
            self._outlets[Channel(self.boot.name)] = PluginChannel(self.boot.name, self.boot.config)
        else:
            self._open_ours()
        self._context = bus.new_context()
        address = bus.endpoint(self.boot.runtime_dir, "healer")
        self._link = bus.Link(self._context, address, self.boot.name, self._on_frames, self.boot.incarnation)
        self._dead_man = DeadMan(lambda: self.boot.config.escalation.dead_man_url, self._link.post)
        signal = SignalSection() if plugin else self.boot.config.notify.signal
        self._replies = Replies(signal, self._link.ask)
        self._replies.start(self.fail)

    def _open_ours(self) -> None:
        notify = self.boot.config.notify
        self._outlets[Channel.SIGNAL] = SignalCli(notify.signal, flights=self._flights)
        if notify.synapse.transport.startswith("http"):
            self._outlets[Channel.SYNAPSE] = SynapseRest(notify.synapse)

    async def stop(self) -> None:
        """Attempts in work are ended well within the deadline, their receipts acknowledged; waiting rows just stop."""
        self._closing = True
        await self._dead_man.close()
        deadline_s = self._loop.time() + max(0.5, float(self.boot.config.tree.shutdown) - CLOSE_S)
        tasks = {work.task for work in self._works.values() if work.task is not None}
        for work in self._works.values():
            if work.began_s is None and work.task is not None:
                work.task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=deadline_s - self._loop.time())
        receipts = {self._reports[row_id] for row_id in self._receipts if row_id in self._reports}
        if receipts:
            await asyncio.wait(receipts, timeout=max(0.1, deadline_s - self._loop.time()))
        await self._replies.close(deadline_s - self._loop.time())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for outlet in self._outlets.values():
            await outlet.close()
        self._link.close()
        self._context.term()

    def oldest_work_s(self) -> float:
        began = [work.began_s for work in self._works.values() if work.began_s is not None]
        return self._loop.time() - min(began) if began else 0.0

    # -- from the healer --

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            if isinstance(frame.body, PingNow):
                self._dead_man.take(frame.id)
            elif not isinstance(frame.body, Deliver):
                name = type(frame.body).__name__
                self._link.post(Nack("unexpected", f"the notifier does not take a {name}"), re=frame.id)
            elif self._take(frame.body):
                self._link.post(Ack(), re=frame.id)

    def _take(self, deliver: Deliver) -> bool:
        """Whether the row is in good hands: taken now, taken before, or not to be delivered by us."""
        row = deliver.row
        item = f"outbox:{row.id}"
        if self._closing:
            return False
        if item in self.boot.quarantined:
            log.error("%s is quarantined: it was in work at two deaths of this worker; not delivered", item)
            return True
        if row.channel not in self._outlets:
            log.warning("%s is for %s, which the store writes itself; ignored", item, row.channel)
            return True
        if row.channel is Channel.SIGNAL and not self.boot.config.notify.signal.transports:
            # Nothing can change that but another configuration, with which this worker starts anew: no use in trying.
            if row.last_error != NO_TRANSPORT:
                self._report(DeliveryReport(row.id, row.attempts, error=NO_TRANSPORT))
            return True
        if receipt := self._kept.pop(row.id, ""):
            self._receipts[row.id] = DeliveryReport(row.id, row.attempts + 1, receipt=receipt)
        if row.id in self._receipts:
            self._report(self._receipts[row.id])
            return True
        if row.id in self._works:
            return True
        if len(self._works) >= ROWS_MAX:
            if not self._full:
                log.error("%d rows wait for delivery, the limit; more are left with the healer", ROWS_MAX)
            self._full = True
            return False
        work = _Work(row, item in self.boot.suspects)
        self._works[row.id] = work
        work.task = self._loop.create_task(self._work_on(work), name=item)
        work.task.add_done_callback(self._ended)
        return True

    def _ended(self, task: asyncio.Task[None]) -> None:
        """An unforeseen error ends the worker, with the row still marked as in work: twice, and it is quarantined."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s failed", task.get_name(), exc_info=error)
            self.fail(error)

    # -- one row --

    async def _work_on(self, work: _Work) -> None:
        row = work.row
        tries = 0
        while True:
            async with self._gate.turn(row.channel, row.tier, work.suspect):
                tries += 1
                began_s = work.began_s = self._loop.time()
                outcome = await self._attempt(work)
                work.began_s = None
            work.suspect = False  # it has been in work and we are alive
            self.done += 1
            if not isinstance(outcome, DeliveryError):
                self._delivered(work, outcome)
                return
            log.warning("outbox:%s, attempt %d: %s", row.id, work.attempts, outcome)
            self._report(DeliveryReport(row.id, work.attempts, error=str(outcome)))
            if self._closing:
                return
            permanent = isinstance(outcome, Permanent)
            due_s = backoff.next_attempt_s(began_s, self._loop.time(), tries, row.tier, permanent, outcome.pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await work.retry.wait()
            work.retry.clear()

    async def _attempt(self, work: _Work) -> Receipt | DeliveryError:
        item = f"outbox:{work.row.id}"
        self.working(item)
        work.attempts += 1
        work.retry.clear()
        crashpoint.reach("send.before")
        try:
            outcome: Receipt | DeliveryError = await self._outlets[work.row.channel].deliver(work.row)
            crashpoint.reach("send.after")
        except DeliveryError as error:
            outcome = error
        except asyncio.CancelledError:
            self.finished(item)
            raise
        self.finished(item)
        return outcome

    def _delivered(self, work: _Work, receipt: Receipt) -> None:
        row = work.row
        report = DeliveryReport(row.id, work.attempts, receipt=receipt)
        del self._works[row.id]
        self._full = False
        self._receipts[row.id] = report
        if len(self._receipts) > RECEIPTS_MAX:
            del self._receipts[next(iter(self._receipts))]
        self._report(report)
        for other in self._works.values():
            if other.row.channel is row.channel:
                other.retry.set()

    # -- to the healer --

    def _report(self, report: DeliveryReport) -> None:
        """Until acknowledged; a row's newer report replaces its older one, so that a long outage heaps up nothing."""
        if (earlier := self._reports.pop(report.row_id, None)) is not None:
            earlier.cancel()
        if report.receipt:
            crashpoint.reach("receipt.before")
        answer = self._link.ask(report)
        self._reports[report.row_id] = answer
        answer.add_done_callback(lambda done: self._reported(report, done))

    def _reported(self, report: DeliveryReport, answer: asyncio.Future[Body]) -> None:
        if answer.cancelled():
            return
        if self._reports.get(report.row_id) is answer:
            del self._reports[report.row_id]
        if report.receipt:
            crashpoint.reach("receipt.after")
        body = answer.result()
        if report.receipt and isinstance(body, Ack):
            self._flights.forget(report.row_id)
        if not isinstance(body, Ack):
            log.error("the healer did not take the report on outbox:%s: %s", report.row_id, body)
