"""The step `clear-spool`: sets the oldest files of a spool aside (into `set-aside` in it), until `keep` are left.

It runs in a program of its own, which healctl ends at its timeout. Nothing is lost, and `undo` puts them back.
"""

from __future__ import annotations

import os

import msgspec

from acme_spool.settings import FAMILY, SpoolSection, waiting
from remediators.base import Context, NoParams, Outcome, Step, StepFailed
from supervisor import plugins
from supervisor.incidents.model import Effect, StepResult
from supervisor.messages import StepPlan

ASIDE = "set-aside"


class Keep(NoParams, frozen=True):
    keep: int = 0


class ClearSpool(Step):
    api = 1
    kind = "clear-spool"
    effect = Effect.CHANGE  # the least that a runbook may declare for it
    undoable = True
    Params = Keep
    params: Keep

    def plan(self, ctx: Context) -> StepPlan:
        """Reads only."""
        folder, section = self._folder(ctx)
        count = len(self._chosen(folder))
        left = len(waiting(folder)) - count
        text = f"set {count} files of {folder} aside, {left} stay"
        return StepPlan(self.spec.step_id, text, predicts_clear=left <= section.max_files)

    async def run(self, ctx: Context) -> Outcome:
        folder, _ = self._folder(ctx)
        os.makedirs(os.path.join(folder, ASIDE), mode=0o700, exist_ok=True)
        moved = []
        for name in self._chosen(folder):  # each by one rename: at any moment a file is in one place or the other
            os.rename(os.path.join(folder, name), os.path.join(folder, ASIDE, name))
            moved.append(name)
        undo = msgspec.json.encode(moved).decode() if moved else ""
        return Outcome(f"set {len(moved)} files of {folder} aside", changed=bool(moved), undo=undo)

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        folder, _ = self._folder(ctx)
        names = msgspec.json.decode(result.undo, type=list[str])
        for name in names:
            if os.path.lexists(os.path.join(folder, name)):
                raise StepFailed(f"{name} is there again: nothing was touched")
        for name in names:
            os.rename(os.path.join(folder, ASIDE, name), os.path.join(folder, name))
        return Outcome(f"put {len(names)} files back into {folder}")

    def _folder(self, ctx: Context) -> tuple[str, SpoolSection]:
        """The folder is the owner's word for this target, never a text of a reading."""
        section = plugins.section(ctx.config, FAMILY, SpoolSection)
        try:
            return section.folder(ctx.target.target_id), section
        except KeyError:
            raise StepFailed(f"{ctx.target.target_id} is no spool of [plugin.{FAMILY}]") from None

    def _chosen(self, folder: str) -> list[str]:
        files = waiting(folder)
        return files[: max(0, len(files) - self.params.keep)]
