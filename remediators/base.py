"""What a step is: one atomic piece of a runbook, with a plan that only reads and a run that acts (FR-003).

A step must never build a command from a reading (R11), start a program other than through `Context.programs`, signal a
process without a fence, or report success for something it did not see happen: it raises `StepFailed` instead.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import msgspec

from supervisor import plugins
from supervisor.at_work import Progress
from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.incidents.model import Effect, Execution, Recipe, StepResult, StepSpec, Target
from supervisor.incidents.readings import ProcessRef
from supervisor.messages import Body, StepPlan

Ask = Callable[[Body], Awaitable[Body]]

if TYPE_CHECKING:
    from remediators.command import Programs


class StepFailed(HealError):
    """The step did not do what it is for; the message becomes its recorded output."""

    code = "step_failed"


class Fenced(StepFailed):
    """Acting would have hit a live process that this execution may not touch, or doubled a service (R3, R15)."""

    code = "fence"


class Cut(StepFailed):
    """It was stopped in the middle, and stands by what it has done by then: `undo` is what taking that back needs."""

    def __init__(self, message: str, undo: str = "") -> None:
        super().__init__(message)
        self.undo = undo


class Stops(StrEnum):
    """How a step is stopped when a person cancels it."""

    NEVER = "never"  # it is short, and half of it would be worse than all or nothing of it
    ASKED = "asked"  # its program is asked, and ends where nothing is half done (`supervisor.at_work`)
    ENDED = "ended"  # as at its timeout, with whatever it has started


class NoRecipe(StepFailed):
    """The target has no restart recipe: there is nothing that may be started for it (R11)."""

    code = "no_recipe"


class Context(msgspec.Struct, frozen=True):
    """What a step may know and use. `exclude`: our own pids, never the target's, whatever a pid file says.

    `execution.reading` is evidence, not ground truth: what a step acts on it looks up itself, and nothing in a reading
    ever becomes a part of a command but as R11 allows. `config` is the operator's own text. `ask_healer`, `ask_store`:
    a message and its answer, asked again until it is there; a plan asks nobody.
    For a plan alone: `planned`, what the steps before it would do, and `look_until_mono_s`, when it must have looked.
    """

    execution: Execution
    programs: Programs
    state_dir: Path
    exclude: frozenset[int]
    config: Config
    ask_healer: Ask
    ask_store: Ask
    planned: tuple[StepPlan, ...] = ()
    look_until_mono_s: float = math.inf

    @property
    def target(self) -> Target:
        return self.execution.target

    @property
    def recipe(self) -> Recipe:
        """Raises NoRecipe."""
        if self.target.recipe is None:
            raise NoRecipe(f"{self.target.service_id} has no restart recipe", self.target.recipe_hint)
        return self.target.recipe


class Outcome(msgspec.Struct, frozen=True):
    """What a step that succeeded has to say. `process`: what it started and left running; `changed`: it did a thing;
    `undo`: what its undo needs, as JSON of the step's own; `cleared`: a fresh reading says that the anomaly is over."""

    output: str
    artifacts: tuple[str, ...] = ()
    process: ProcessRef | None = None
    changed: bool = True
    undo: str = ""
    cleared: bool = False


class NoParams(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of a kind that has none; the base of every other kind's."""


class Step(ABC):
    """One kind of step. `effect` is the least that a runbook may declare for it (R3).

    `leaves_running`: the programs it starts are services or their starters; after a crash of ours they are left alive.
    `undoable`: it implements `undo`, for what it puts into `Outcome.undo`.
    `needs_evidence`: it does not run where the snapshot before the first change could not be written.
    `stops`: how it is cancelled.
    A plugin's says the `api`, and the struct of its own table (`Section`); it runs in a program of its own
    (`remediators.hosted`), in which `ctx.config` holds its distribution's tables alone, and nobody can be asked.
    """

    kind: ClassVar[str]
    effect: ClassVar[Effect]
    leaves_running: ClassVar[bool] = False
    undoable: ClassVar[bool] = False
    needs_evidence: ClassVar[bool] = False
    stops: ClassVar[Stops] = Stops.NEVER
    Params: ClassVar[type[msgspec.Struct]] = NoParams
    api: ClassVar[int]
    Section: ClassVar[type[msgspec.Struct]] = plugins.Nothing

    def __init__(self, spec: StepSpec) -> None:
        """Raises StepFailed for parameters that are not this kind's."""
        self.spec = spec
        try:
            self.params = msgspec.convert(dict(spec.params), self.Params)
        except msgspec.ValidationError as error:
            raise StepFailed(f"step {spec.step_id} ({spec.kind}): {error}") from error

    @property
    def least(self) -> Effect:
        """The least effect that a runbook may declare for this very step."""
        return self.effect

    @abstractmethod
    def plan(self, ctx: Context) -> StepPlan:
        """The dry run: reads only. `predicts_clear` is False when something seen now would make the step fail.

        It is called in a thread, beside other plans and runs, and is to end by `ctx.look_until_mono_s`.
        Raises StepFailed when no plan can be made at all.
        """

    @abstractmethod
    async def run(self, ctx: Context) -> Outcome:
        """Acts. Raises StepFailed, or OSError; the executor cancels it at its timeout and ends what it started."""

    def progress(self, ctx: Context) -> Progress | None:
        """How far its program is. Called in a thread while it runs, where `stops` is ASKED. Raises OSError."""
        return None

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        """Takes back what `run` reported in `result` (R15), all or nothing like `run`. Only of an `undoable` kind.

        Raises StepFailed when what is there now is not what the step had left: then nothing is touched.
        """
        raise StepFailed(f"step {result.step_id}: a {self.kind} cannot be undone")
