"""The step that looks a few more times before somebody is told (FR-003 `rb-probe-then-alert`).

It probes nothing itself: the target's own probe does, and the healer says what its reading means. It only waits.
"""

from __future__ import annotations

import asyncio

from remediators.base import Context, Outcome, Step, StepFailed, Stops
from supervisor.incidents.model import Effect
from supervisor.messages import Nack, ReadNow, ReadSays, StepPlan

READ_WITHIN_S = 12.0  # the healer answers within this time, whatever its probe does


class ProbeAgain(Step):
    """`retries` more readings, `retry_interval` apart ([fleet]); the first that reads clear ends it."""

    kind = "probe-again"
    effect = Effect.OBSERVE
    stops = Stops.ENDED

    def plan(self, ctx: Context) -> StepPlan:
        fleet = ctx.config.fleet
        text = f"look at {ctx.target.target_id} {fleet.retries} more times, {float(fleet.retry_interval):g} s apart"
        return StepPlan(self.spec.step_id, f"{text}, and tell when it still cannot be reached", False)

    async def run(self, ctx: Context) -> Outcome:
        tries, interval_s = ctx.config.fleet.retries, float(ctx.config.fleet.retry_interval)
        heard = []
        for number in range(1, tries + 1):
            await asyncio.sleep(interval_s)
            says = await _read(ctx)
            if isinstance(says, ReadSays) and set(ctx.execution.runbook.applies_to) & set(says.clear):
                return Outcome(f"try {number} of {tries}: it reads clear again", changed=False, cleared=True)
            heard.append(f"try {number}: {says.says if isinstance(says, ReadSays) else says}")
        return Outcome(f"still not clear after {tries} tries: {'; '.join(heard)}", changed=False)


async def _read(ctx: Context) -> ReadSays | str:
    """What the reading says; a text where nobody could read it."""
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            answer = await ctx.ask_healer(ReadNow(ctx.target.target_id))
    except TimeoutError:
        return f"no answer within {READ_WITHIN_S:g} s"
    if isinstance(answer, Nack):
        return answer.message
    if not isinstance(answer, ReadSays):
        raise StepFailed(f"the healer answered with a {type(answer).__name__}")
    return answer
