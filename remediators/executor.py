"""The executor: the hands of healctl. It takes executions from the healer, claims them at the store, runs their steps.

It decides nothing: what to run, and on whose authority, is in the Execution. It never runs one that it has not
claimed, that has expired, whose grounds are stale, that is quarantined, or that it has already seen; never more than
eight at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import OrderedDict
from collections.abc import Coroutine

import zmq

from remediators.base import StepFailed
from remediators.keeper import Nursery
from remediators.planning import Planner
from remediators.run import Refusal, Run, Ties
from remediators.settle import settle
from remediators.watches import Watches, tell
from supervisor import bus, clock
from supervisor.errors import UnknownId
from supervisor.incidents.model import Execution
from supervisor.messages import (
    Ack,
    Body,
    Cancel,
    Dispatch,
    ExecutionRefused,
    Frame,
    Nack,
    PlanRequest,
    Settle,
)
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

RUNNING_MAX = 8  # DESIGN §2.7
QUEUED_MAX = 1_000  # beyond it a Dispatch is not acknowledged, so that the healer sends it again
REFILL_S = 0.05  # after the last execution
STOP_MARGIN_S = 0.5  # of `[tree] shutdown`, kept for closing


class ExecutorWorker(Worker):
    """`working`/`finished` name the executions in hand: one that kills two executors is quarantined by the root."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._seen: OrderedDict[str, float] = OrderedDict()  # execution id -> when it expires (monotonic)
        self._in_hand: set[str] = set()  # executions that were taken and are not over, expired or not
        self._runs: dict[str, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._cancelled: dict[str, str] = {}  # in hand and not begun -> who cancelled it
        self._answering: dict[str, set[str]] = {}  # what is being answered -> the frames that asked for it
        self._slots = asyncio.Semaphore(RUNNING_MAX)
        self._suspicion = asyncio.Lock()
        self._planner = Planner()

    async def start(self) -> None:
        boot = self.boot
        self._context: zmq.Context[zmq.Socket[bytes]] = bus.new_context()
        store, healer = (bus.endpoint(boot.runtime_dir, name) for name in ("store", "healer"))
        self._store = bus.Link(self._context, store, boot.name, self._unexpected, boot.incarnation)
        self._healer = bus.Link(self._context, healer, boot.name, self._take, boot.incarnation)
        self._ties = Ties(
            healer=self._healer,
            store=self._store,
            incarnation=boot.incarnation,
            state_dir=boot.state_dir,
            exclude=frozenset({os.getpid(), boot.root_pid}),
            watches=Watches(self._healer),
            nursery=Nursery(),
            config=lambda: self.boot.config,
        )
        self._refill_soon()

    async def stop(self) -> None:
        """Steps in hand may end; what is still at work then is left running and settled by our successor."""
        if self._tasks:
            patience_s = max(0.0, float(self.boot.config.tree.shutdown) - STOP_MARGIN_S)
            await asyncio.wait(self._tasks, timeout=patience_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._refilling.cancel()
        self._ties.nursery.let_go()
        self._ties.watches.close()
        await asyncio.sleep(0)  # the cancelled watches let go of their keepers
        self._healer.close()
        self._store.close()
        self._context.term()

    def oldest_work_s(self) -> float:
        """How long a step has overrun its own timeout: until then it is at work, however long that takes."""
        now_s = clock.monotonic_s()
        overruns = [
            now_s - run.step_began_mono_s - run.step_timeout_s
            for run in self._runs.values()
            if run.step_began_mono_s is not None
        ]
        return max([0.0, *overruns])

    def _unexpected(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            log.warning("dropped a %s: not for the executor", type(frame.body).__name__)

    def _take(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            body = frame.body
            if isinstance(body, Dispatch):
                self._dispatch(frame, body.execution)
            elif isinstance(body, Settle):
                self._answer(f"settle:{body.execution.id}", frame, self._settle(body.execution))
            elif isinstance(body, PlanRequest):
                self._answer(f"plan:{frame.id}", frame, self._planner.plan(self._ties, body.execution))
            elif isinstance(body, Cancel):
                self._answer(f"cancel:{frame.id}", frame, self._cancel(body))
            else:
                self._unexpected([("", frame)])

    def _dispatch(self, frame: Frame, execution: Execution) -> None:
        """Idempotent by the execution's id. What is forgotten is over and has expired: it would be refused for that."""
        if execution.id not in self._seen and execution.id not in self._in_hand:
            if len(self._tasks) >= QUEUED_MAX:
                log.warning("%d executions are waiting; %s must be sent again", QUEUED_MAX, execution.id)
                return
            self._forget_expired()
            self._seen[execution.id] = execution.expires_mono_s
            self._in_hand.add(execution.id)
            self._spawn(self._run(execution))
        self._healer.post(Ack(), re=frame.id)

    def _forget_expired(self) -> None:
        now_s = clock.monotonic_s()
        while self._seen and next(iter(self._seen.values())) < now_s:
            self._seen.popitem(last=False)

    async def _run(self, execution: Execution) -> None:
        try:
            await self._in_turn(execution)
        finally:
            self._in_hand.discard(execution.id)

    async def _in_turn(self, execution: Execution) -> None:
        """An execution with which an executor has died once takes every slot: should it kill again, it dies alone."""
        item = f"execution:{execution.id}"
        async with contextlib.AsyncExitStack() as slots:
            if item in self.boot.suspects:
                await slots.enter_async_context(self._suspicion)  # two of them would take each other's slots
                for _ in range(RUNNING_MAX - 1):
                    await slots.enter_async_context(self._slots)
            await slots.enter_async_context(self._slots)
            if item in self.boot.quarantined:
                text = "two executors have died with it in work; it is not touched again"
                tell(self._healer, ExecutionRefused(execution.id, "quarantined", text))
                return
            if by := self._cancelled.pop(execution.id, ""):
                tell(self._ties.healer, ExecutionRefused(execution.id, "cancelled", f"cancelled by {by}"))
                return
            run = self._runs[execution.id] = Run(self._ties, execution)
            self.working(item)
            try:
                await run.run()
            except Refusal as refusal:
                log.info("execution %s refused: %s", execution.id, refusal.message)
                await self._healer.ask(ExecutionRefused(execution.id, refusal.code, refusal.message))
            finally:
                del self._runs[execution.id]
            self._refilling.cancel()
            self._refill_soon()
            self.done += 1
            self.finished(item)

    def _refill_soon(self) -> None:
        """The next spare, once nothing is at work: it must not take the processor from what is."""
        self._refilling = asyncio.get_running_loop().call_later(REFILL_S, self._refill)

    def _refill(self) -> None:
        if self._runs:
            return
        try:
            self._ties.nursery.refill()
        except (OSError, StepFailed) as error:
            log.warning("no spare process: %s; the next start will try again", error)

    def _answer(self, key: str, frame: Frame, work: Coroutine[object, object, Body]) -> None:
        """Does the work once, however often it is asked for meanwhile; then answers everyone who has asked."""
        if key in self._answering:
            work.close()
            self._answering[key].add(frame.id)
            return
        self._answering[key] = {frame.id}

        async def answer() -> None:
            try:
                body = await work
                for frame_id in self._answering[key]:
                    self._healer.post(body, re=frame_id)
            finally:
                del self._answering[key]

        self._spawn(answer())

    async def _settle(self, execution: Execution) -> Body:
        if execution.id in self._runs:
            return Nack("refused", f"execution {execution.id} is not interrupted: this executor is working on it")
        return await settle(execution, self._ties.exclude)

    async def _cancel(self, cancel: Cancel) -> Body:
        run = self._runs.get(cancel.execution_id)
        if run is not None:
            return await run.cancel(cancel.by)
        if cancel.execution_id in self._in_hand:
            self._cancelled[cancel.execution_id] = cancel.by
            return Ack()
        return Nack(UnknownId.code, f"{cancel.execution_id} is not at work", "`healctl heal status` shows what is")

    def _spawn(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)
