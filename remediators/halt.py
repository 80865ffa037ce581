"""The step that sees a database halted (R10).

Nothing is halted here: the store stopped writing it before this execution could even be claimed, and the root's
`hold:NAME` takes the write lock. The step waits until no program can write it any more, and says since when.
"""

from __future__ import annotations

import sys

import msgspec

from remediators import command
from remediators.base import Context, Outcome, Step, StepFailed
from remediators.database import is_ledger
from supervisor import backups, clock
from supervisor.incidents.model import Effect, Recipe
from supervisor.messages import StepPlan

WITHIN_S = 8.0  # so that the page, which waits 10 s for it, can say who keeps the lock
MODULE = "supervisor.store.witness"


class _Seen(msgspec.Struct, frozen=True):
    """What the witness prints."""

    ok: bool
    said: str


class HaltWrites(Step):
    """Waits until a second program is refused the write lock, or can never have it. Raises StepFailed: neither."""

    kind = "halt-writes"
    effect = Effect.PROTECT

    def plan(self, ctx: Context) -> StepPlan:
        if not ctx.target.written:
            return StepPlan(self.spec.step_id, _not_ours(ctx), False)
        text = f"stop writing {ctx.target.path}, and keep every other program from it by its write lock; readers go on"
        return StepPlan(self.spec.step_id, text, False)

    async def run(self, ctx: Context) -> Outcome:
        if not ctx.target.written:
            return Outcome(_not_ours(ctx), changed=False)
        words = (ctx.target.path, ctx.target.target_id, f"{WITHIN_S:g}")
        recipe = Recipe((sys.executable, "-P", "-m", MODULE, *words))
        code, output = await command.run_to_completion(ctx.programs, recipe)
        try:
            seen = msgspec.json.decode(output.strip().rpartition("\n")[2], type=_Seen)
        except msgspec.DecodeError as error:
            raise StepFailed(f"{MODULE}: {command.exit_text(code)}: {output[-500:].strip()}") from error
        if code != 0 or not seen.ok:
            raise StepFailed(f"healctl writes {ctx.target.target_id} no more, but {seen.said}")
        return Outcome(f"Halted within {_since(ctx)}: {seen.said}. Copies go to {_folder(ctx)}")


def _folder(ctx: Context) -> str:
    return str(backups.folder(ctx.state_dir, ctx.target.target_id))


def _since(ctx: Context) -> str:
    grounds_s = ctx.execution.grounds_mono_s
    if grounds_s is None:
        return f"{max(0.0, clock.wall_s() - ctx.execution.created_wall_s):.2f} s of the order"
    return f"{clock.monotonic_s() - grounds_s:.2f} s of the reading"


def _not_ours(ctx: Context) -> str:
    if is_ledger(ctx):
        return "healctl's own ledger is not halted: the store checks it, sets it aside, and goes on in a new one"
    return f"healctl does not write {ctx.target.target_id}: nothing of ours to halt, other programs go on writing it"
