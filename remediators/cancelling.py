"""How a running step is cancelled, and how its progress gets to the healer.

A step whose program is asked goes on until that program has ended by itself; it is never killed for being slow, since
only it knows where nothing is half done. What is refused here goes on as if nobody had asked.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine

from remediators.base import Context, Outcome, Step, Stops
from supervisor import proc
from supervisor.aside import aside
from supervisor.at_work import Progress
from supervisor.bus import Link
from supervisor.messages import AtWork

log = logging.getLogger(__name__)

LOOK_S = 0.5  # between two looks at how far a program is
LOOK_WITHIN_S = 2.0  # at its file


class Ended(Exception):
    """The step was ended in the middle of its work, as at its timeout."""


class Live:
    """A step at work."""

    def __init__(self, step: Step, context: Context) -> None:
        self._step = step
        self._context = context
        self._work: asyncio.Task[Outcome] | None = None
        self._ended = False
        self._told: Progress | None = None

    async def run(self, acting: Coroutine[object, object, Outcome], healer: Link) -> Outcome:
        """Raises what the step raises, and Ended."""
        if self._step.stops is Stops.NEVER:
            return await acting
        self._work = asyncio.create_task(acting)
        telling = asyncio.create_task(self._tell(healer)) if self._step.stops is Stops.ASKED else None
        try:
            return await self._work
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if self._ended and me is not None and not me.cancelling():
                raise Ended from None
            raise
        finally:
            if telling is not None:
                telling.cancel()
                (error,) = await asyncio.gather(telling, return_exceptions=True)
                if self._told is not None:
                    execution = self._context.execution
                    healer.post(AtWork(execution.target.target_id, "", execution_id=execution.id, over=True))
                if isinstance(error, Exception):
                    log.error("progress of step %s: it can be told no more", self._step.spec.step_id, exc_info=error)

    async def stop(self) -> str:
        """Stops it; why not, in words, when it goes on. Raises OSError."""
        spec = self._step.spec
        if self._step.stops is Stops.NEVER:
            return (
                f"step {spec.step_id} ({spec.kind}) is all or nothing, and over within {spec.timeout_s:g} s:"
                " to leave it half done would be worse"
            )
        programs = self._context.programs.running()
        if self._step.stops is Stops.ENDED or not programs:  # what has not been released never runs
            assert self._work is not None
            self._ended = True
            self._work.cancel()
            return ""
        told = await self._progress()
        if told is not None and told.final:
            return f"step {spec.step_id} is past the point where it can be stopped: {words(told)}"
        for program in programs:
            proc.send_signal(program, signal.SIGTERM)
        return ""

    async def _tell(self, healer: Link) -> None:
        """Until it is cancelled."""
        execution = self._context.execution
        while True:
            await asyncio.sleep(LOOK_S)
            told = await self._progress()
            if told is not None and told != self._told:
                self._told = told
                healer.post(
                    AtWork(
                        target_id=execution.target.target_id,
                        stage=told.stage,
                        done=told.done,
                        total=told.total,
                        unit=told.unit,
                        execution_id=execution.id,
                        final=told.final,
                    )
                )

    async def _progress(self) -> Progress | None:
        """None where it cannot be told now: its disk hangs, say."""
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                return await asyncio.wrap_future(aside(lambda: self._step.progress(self._context), "progress"))
        except (TimeoutError, OSError):
            return None


def words(told: Progress) -> str:
    """E.g. `restore, 40 of 900 pages`."""
    return f"{told.stage}, {told.done} of {told.total} {told.unit}" if told.total else told.stage
