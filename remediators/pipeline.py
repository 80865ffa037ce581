"""The step that marks a stuck task's stage as blocked, by the pipeline's own command (FR-003, R11).

The stage and the task's id come from a file of others: they must match their patterns as a whole, and are single words
after the configured command. The file is read afresh; a task that has moved since is left alone.
"""

from __future__ import annotations

import asyncio

from remediators import command
from remediators.base import Context, Outcome, Step, StepFailed
from supervisor.aside import aside
from supervisor.config import PipelineSection
from supervisor.incidents.model import Effect, Recipe
from supervisor.incidents.readings import PipelineData
from supervisor.jsonfile import CannotRead, load
from supervisor.messages import StepPlan
from supervisor.tasks import STAGE, STATE_BYTES_MAX, TASK_ID, Task, decode

PREFIX = "pipeline:"
BLOCKED = "blocked"
OUTPUT_CHARS_MAX = 2000


class KickPipeline(Step):
    """`stage_done STAGE TASK blocked MESSAGE`, once it is certain that the task still stands in that stage."""

    kind = "kick-pipeline"
    effect = Effect.CHANGE

    def plan(self, ctx: Context) -> StepPlan:
        try:
            recipe = _recipe(ctx)
        except StepFailed as error:
            return StepPlan(self.spec.step_id, f"mark its stage {BLOCKED}: this would fail: {error.message}", False)
        problem = command.missing_program(recipe)
        text = f"run {command.words(recipe.argv)} to its end"
        return StepPlan(self.spec.step_id, f"{text}: this would fail: {problem}" if problem else text, not problem)

    async def run(self, ctx: Context) -> Outcome:
        recipe = await asyncio.wrap_future(aside(lambda: _recipe(ctx), "pipeline state"))
        code, output = await command.run_to_completion(ctx.programs, recipe)
        said = f"{command.words(recipe.argv)}: {command.exit_text(code)}\n{output[-OUTPUT_CHARS_MAX:]}".rstrip()
        if code != 0:
            raise StepFailed(said)
        return Outcome(said)


def _recipe(ctx: Context) -> Recipe:
    """The whole command. Blocking. Raises StepFailed when the task does not stand there any more."""
    task_id = ctx.target.target_id.removeprefix(PREFIX)
    if not TASK_ID.fullmatch(task_id):
        raise StepFailed(f"{task_id!r} is no task's id: nothing was run")
    reading = ctx.execution.reading
    seen = reading.data if reading is not None and isinstance(reading.data, PipelineData) else None
    name, section = _home(ctx, task_id, seen)
    task = _state(section).get(task_id)
    if task is None or not task.moving:
        why = task.why if task is not None else "it is not among the active tasks"
        raise StepFailed(f"{task_id} of {name} does not stand still any more: {why}; nothing was run")
    if seen is not None and seen.moving and seen.stage != task.stage:
        raise StepFailed(f"{task_id} has gone on from stage {seen.stage} to {task.stage}: nothing was run")
    if not STAGE.fullmatch(task.stage):
        raise StepFailed(f"{task.stage!r} is no stage's name: nothing was run")
    minutes = float(section.stuck_after) / 60
    message = f"healctl: in this stage for more than {minutes:g} min, and no message speaks of it"
    return Recipe((*section.stage_done, task.stage, task_id, BLOCKED, message))


def _home(ctx: Context, task_id: str, seen: PipelineData | None) -> tuple[str, PipelineSection]:
    """Its pipeline: as its probe found it, else the first that lists it. Raises StepFailed."""
    sections = ctx.config.pipeline
    if seen is not None and seen.pipeline in sections:
        return seen.pipeline, sections[seen.pipeline]
    for name, section in sections.items():
        if task_id in _state(section):
            return name, section
    raise StepFailed(f"no [pipeline.NAME] has an active task {task_id}: nothing was run")


def _state(section: PipelineSection) -> dict[str, Task]:
    try:
        return load(section.state_file, STATE_BYTES_MAX, decode)[0].tasks
    except CannotRead as error:
        raise StepFailed(f"{error}: nothing was run") from error
