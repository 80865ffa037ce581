"""The step that runs a declared command to its end: a `[command.NAME]` of the configuration, as it stands there (R11).

The whole command is in the step's parameters, put there when the runbook was read: what runs is what was approved, and
another command under the same name is another version of the runbook.
"""

from __future__ import annotations

from pathlib import Path

from remediators import command
from remediators.base import Context, NoParams, Outcome, Step, StepFailed, Stops
from supervisor.incidents.model import Effect, Recipe
from supervisor.messages import StepPlan


class CommandParams(NoParams, frozen=True):
    """`argv` begins with an absolute path; `env` holds NAME=value; `effect` is what its owner has declared."""

    command: str
    argv: tuple[str, ...]
    effect: Effect
    description: str = ""
    cwd: str = ""
    env: tuple[str, ...] = ()


class RunCommand(Step):
    """Exit 0 is the success. What it does to the system only its owner knows: the plan never predicts that it cures."""

    kind = "run-command"
    effect = Effect.OBSERVE
    stops = Stops.ENDED
    Params = CommandParams
    params: CommandParams

    @property
    def least(self) -> Effect:
        return self.params.effect

    def plan(self, ctx: Context) -> StepPlan:
        recipe = self._recipe()
        problem = command.missing_program(recipe)
        about = f" ({self.params.description})" if self.params.description else ""
        text = f"run {self.params.command}{about}: {command.words(recipe.argv)} in {recipe.cwd or '/'} to its end"
        more = f"this would fail: {problem}" if problem else "whether that is a cure, only its verification can tell"
        return StepPlan(self.spec.step_id, f"{text}: {more}", False)

    async def run(self, ctx: Context) -> Outcome:
        recipe = self._recipe()
        if not Path(recipe.argv[0]).is_absolute():
            raise StepFailed(f"{recipe.argv[0]} is no absolute path: the command was not resolved when it was read")
        code, output = await command.run_to_completion(ctx.programs, recipe)
        text = f"{command.words(recipe.argv)}: {command.exit_text(code)}\n{output}".rstrip()
        if code != 0:
            raise StepFailed(text)
        return Outcome(text)

    def _recipe(self) -> Recipe:
        pairs = (entry.partition("=") for entry in self.params.env)
        return Recipe(self.params.argv, self.params.cwd, tuple((name, value) for name, _, value in pairs))
