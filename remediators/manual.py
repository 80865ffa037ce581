"""A step that only a person can do: what somebody did by hand, kept as a note (FR-006). It never changes anything."""

from __future__ import annotations

from remediators.base import Context, NoParams, Outcome, Step, StepFailed
from supervisor.incidents.model import MANUAL, Effect
from supervisor.messages import StepPlan


class ManualParams(NoParams, frozen=True):
    text: str


class Manual(Step):
    """Its text is for people and is never run, whatever it looks like (R11)."""

    kind = MANUAL
    effect = Effect.OBSERVE
    Params = ManualParams
    params: ManualParams

    def plan(self, ctx: Context) -> StepPlan:
        return StepPlan(self.spec.step_id, f"a person has to do this: {self.params.text}", False)

    async def run(self, ctx: Context) -> Outcome:
        raise StepFailed(f"nothing was done: only a person can do this: {self.params.text}")
