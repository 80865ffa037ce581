"""The step of a drill (DESIGN §6): it takes away the made-up trouble, one file of our own, and touches nothing else."""

from __future__ import annotations

from remediators.base import Context, Outcome, Step
from supervisor.config import dirs
from supervisor.incidents.model import Effect
from supervisor.messages import StepPlan
from supervisor.staged import Staged


class ClearDrill(Step):
    """It can be run again at any time: what is not there needs no taking away."""

    kind = "clear-drill"
    effect = Effect.PROTECT

    def plan(self, ctx: Context) -> StepPlan:
        return StepPlan(self.spec.step_id, f"remove {_staged(ctx).path}, a file of the drill's own", True)

    async def run(self, ctx: Context) -> Outcome:
        drill_id = _staged(ctx).clear()
        if not drill_id:
            return Outcome("no drill's trouble was there", changed=False)
        return Outcome(f"took away the made-up trouble of {drill_id}")


def _staged(ctx: Context) -> Staged:
    return Staged(dirs(ctx.config).runtime_dir)
