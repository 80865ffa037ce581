"""Listens to the signal-cli daemons for what approvers answer, and hands it to the healer (FR-005, R15).

Only where `notify.signal.approvers` names somebody. A reply is given to the healer again and again until it has
acknowledged, which it does once its decision is durable; it knows a reply that comes twice. Nothing is decided here but
what is no reply at all. A daemon that ends is connected to again, for ever, at most 30 s apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable

from supervisor.config import SignalSection
from supervisor.http import HttpError
from supervisor.incidents.orders import SignalReply
from supervisor.messages import Ack, Body, ReplyReceived
from supervisor.notifier import envelopes, streams
from supervisor.transports import Transport, parse

FIRST_S, CAP_S = 0.5, 30.0  # between two connections
WELL_S = 5.0  # open for so long, and the next failure is the first again
WAITING_MAX = 200  # replies that the healer has not acknowledged
SEEN_MAX = 1_000  # remembered, since two ways to one daemon bring each message twice
STRANGERS_MAX, STRANGERS_WINDOW_S = 10, 3_600.0  # of whose messages the healer hears

log = logging.getLogger(__name__)


class Replies:
    """`ask` hands a message to the healer, and repeats it until it is answered."""

    def __init__(self, signal: SignalSection, ask: Callable[[Body], asyncio.Future[Body]]) -> None:
        self._signal = signal
        self._ask = ask
        self._tasks: list[asyncio.Task[None]] = []
        self._waiting: dict[str, asyncio.Future[Body]] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._strangers: deque[float] = deque()
        self.strangers = 0  # messages, those that nobody hears of included
        self.malformed = 0

    def start(self, failed: Callable[[BaseException], None]) -> None:
        """`failed`: for what must not happen, which ends the worker."""
        if not self._signal.approvers:
            return
        loop = asyncio.get_running_loop()
        for transport in map(parse, self._signal.transports):
            if transport.kind.is_daemon:
                task = loop.create_task(self._listen(transport), name=f"replies over {transport.text}")
                task.add_done_callback(lambda done: _tell(done, failed))
                self._tasks.append(task)

    async def close(self, timeout_s: float) -> None:
        """Takes nothing more, and gives what was taken some time to be acknowledged."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._waiting:
            await asyncio.wait(self._waiting.values(), timeout=max(timeout_s, 0.0))

    async def _listen(self, transport: Transport) -> None:
        pause_s, told = FIRST_S, ""
        loop = asyncio.get_running_loop()
        while True:
            opened = asyncio.Event()
            watch = loop.create_task(_say_open(transport, opened))
            began_s = loop.time()
            try:
                async with contextlib.aclosing(streams.received(transport, self._signal.account, opened)) as stream:
                    async for raw in stream:
                        self._take(raw)
            except HttpError as error:
                if opened.is_set() or str(error) != told:  # the same once is enough
                    log.warning("replies cannot be read: %s; trying again", error)
                told = str(error)
            finally:
                watch.cancel()
            pause_s = FIRST_S if opened.is_set() and loop.time() - began_s > WELL_S else min(2 * pause_s, CAP_S)
            await asyncio.sleep(pause_s)

    def _take(self, raw: bytes) -> None:
        try:
            reply = envelopes.read(raw, self._signal)
        except envelopes.Malformed as error:
            self.malformed += 1
            if self.malformed == 1:
                log.warning("signal-cli sent what is no envelope as we know them: %s", error)
            return
        if reply is None or reply.key in self._waiting or reply.key in self._seen:
            return
        if not reply.person and not self._is_told(reply):
            return
        if len(self._waiting) >= WAITING_MAX:
            log.error("%d replies wait for the healer, the limit: one more is dropped", WAITING_MAX)
            return
        answer = self._waiting[reply.key] = self._ask(ReplyReceived(reply))
        answer.add_done_callback(lambda done: self._answered(reply.key, done))

    def _is_told(self, reply: SignalReply) -> bool:
        """A stranger's message: counted, and so many an hour are logged and passed on for the audit."""
        self.strangers += 1
        now_s = asyncio.get_running_loop().time()
        while self._strangers and self._strangers[0] < now_s - STRANGERS_WINDOW_S:
            self._strangers.popleft()
        if len(self._strangers) >= STRANGERS_MAX:
            return False
        self._strangers.append(now_s)
        log.warning("a message of %s, who is no approver, was not read (%d so far)", reply.sender, self.strangers)
        return True

    def _answered(self, key: str, answer: asyncio.Future[Body]) -> None:
        del self._waiting[key]
        if answer.cancelled():
            return
        if not isinstance(answer.result(), Ack):
            log.error("the healer did not take the reply %s: %s", key, answer.result())
            return
        self._seen[key] = None
        if len(self._seen) > SEEN_MAX:
            self._seen.popitem(last=False)


async def _say_open(transport: Transport, opened: asyncio.Event) -> None:
    await opened.wait()
    log.info("replies are read over %s", transport.text)


def _tell(task: asyncio.Task[None], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error)
        failed(error)
