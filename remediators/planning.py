"""The dry run of a whole execution (FR-003): what every step would do now.

It reads only: it starts, ends, creates and records nothing. It looks at files and processes that may hang in the kernel
(a dead NFS mount in a path, a process whose memory thrashes), so it is never done in the event loop: that would miss
the beats, and the root would abort every execution in hand. Whoever asks is answered in time, whatever hangs.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import partial

import msgspec

from remediators import registry
from remediators.base import StepFailed
from remediators.command import Programs
from remediators.run import Ties
from supervisor import clock
from supervisor.aside import aside
from supervisor.errors import HealError
from supervisor.incidents.model import Execution, Program
from supervisor.messages import Body, PlanAnswer, StepPlan

ANSWER_S = 6.0  # well before the healer stops waiting for it
LOOK_S = 5.0  # all steps together; what they have not looked at by then they say
AT_WORK_MAX = 4  # each is a thread, and all of them together slow down what acts


class _AtWork(msgspec.Struct, frozen=True):
    target_id: str
    end_mono_s: float


class Planner:
    """A dry run that hangs costs its own target the next ones, until it ends; the other targets have theirs."""

    def __init__(self) -> None:
        self._at_work: dict[Future[PlanAnswer], _AtWork] = {}

    async def plan(self, ties: Ties, execution: Execution) -> PlanAnswer:
        target_id, now_s = execution.target.target_id, clock.monotonic_s()
        self._at_work = {future: one for future, one in self._at_work.items() if not future.done()}
        if any(one.target_id == target_id and now_s >= one.end_mono_s for one in self._at_work.values()):
            return _refused(f"an earlier dry run for {target_id} still hangs: what it looks at does not answer")
        if len(self._at_work) >= AT_WORK_MAX:
            return _refused(f"{AT_WORK_MAX} dry runs are at work already, at most so many at once; ask again later")
        future = aside(partial(_plan, ties, execution), "dry run")
        self._at_work[future] = _AtWork(target_id, now_s + ANSWER_S)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            return _refused(f"the dry run took longer than {ANSWER_S:g} s")
        except OSError as error:  # no more threads
            return _refused(f"the dry run could not be begun: {error}")


def _refused(why: str) -> PlanAnswer:
    return PlanAnswer(ok=False, steps=(), error=why)


def _plan(ties: Ties, execution: Execution) -> PlanAnswer:
    """Blocking; beside the event loop."""
    plans: list[StepPlan] = []
    programs = Programs("", _record_nothing, ties.nursery.take)
    context = msgspec.structs.replace(
        ties.context(execution, programs),
        ask_healer=_ask_nobody,
        ask_store=_ask_nobody,
        look_until_mono_s=clock.monotonic_s() + LOOK_S,
    )
    try:
        for spec in execution.steps:
            plans.append(registry.step_of(spec).plan(msgspec.structs.replace(context, planned=tuple(plans))))
    except (HealError, OSError) as error:
        return PlanAnswer(ok=False, steps=tuple(plans), error=str(error))
    return PlanAnswer(ok=True, steps=tuple(plans))


async def _record_nothing(program: Program) -> None:
    raise StepFailed(f"a plan wanted to start {program.argv[0]}; a plan reads only")


async def _ask_nobody(body: Body) -> Body:
    raise StepFailed(f"a plan wanted to send a {type(body).__name__}; a plan reads only")
