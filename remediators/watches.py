"""What becomes of the programs that a finished step has left running, until its timeout: evidence, nothing more.

A watch never ends, restarts or judges a program; verification does the judging (R6).
"""

from __future__ import annotations

import asyncio
import logging

from remediators.command import LeftRunning, exit_text
from supervisor import clock, crashpoint
from supervisor.bus import Link
from supervisor.messages import Body, Nack, ProgramExited

log = logging.getLogger(__name__)

WATCHES_MAX = 256  # each holds two sockets; beyond it the oldest is let go of, which costs evidence only


class Watches:
    """Of one executor. Programs outlive it."""

    def __init__(self, healer: Link) -> None:
        self._healer = healer
        self._tasks: dict[asyncio.Task[None], LeftRunning] = {}

    def add(self, execution_id: str, step_id: str, left: LeftRunning, until_mono_s: float) -> None:
        """Reports an end with a failure until CLOCK_MONOTONIC reads `until_mono_s`."""
        if len(self._tasks) >= WATCHES_MAX:
            oldest = next(iter(self._tasks))
            log.warning("%d programs are watched already; the oldest is watched no more", WATCHES_MAX)
            oldest.cancel()
        task = asyncio.create_task(self._watch(execution_id, step_id, left, until_mono_s))
        self._tasks[task] = left
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task).held.let_go()
        if not task.cancelled() and (error := task.exception()) is not None:
            loop = asyncio.get_running_loop()
            loop.call_exception_handler({"message": "watching a program failed", "exception": error})

    async def _watch(self, execution_id: str, step_id: str, left: LeftRunning, until_mono_s: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until_mono_s - clock.monotonic_s())):
                code = await left.held.ended()
        except TimeoutError:
            return
        crashpoint.reach("program.ended")
        if code == 0:  # a starter that has done its work
            return
        tell(self._healer, ProgramExited(execution_id, step_id, exit_text(code), left.last_words()))

    def close(self) -> None:
        """Lets go of all."""
        for task in list(self._tasks):
            task.cancel()


def tell(healer: Link, body: Body) -> None:
    """Re-sent until acknowledged, without waiting for it; a refusal is logged."""

    def answered(future: asyncio.Future[Body]) -> None:
        if not future.cancelled() and isinstance(answer := future.result(), Nack):
            log.warning("the healer refused a %s: %s: %s", type(body).__name__, answer.code, answer.message)

    healer.ask(body).add_done_callback(answered)
