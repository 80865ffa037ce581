"""The step of a plugin: one of ours on the outside, its own code in a program of its own (`remediators.hosted`).

Everything that holds for a step holds for it: it is data in a runbook, approved in this version, planned, claimed, kept
apart by its resource's lock, recorded before it runs its first instruction, ended with its session at its timeout,
proved by the probe. Which code it is stands in its parameters, put there when the runbook was read, as a run-command's
argv does: another version of the distribution, or other settings, is another runbook, and waits for its own approval.
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import msgspec

from remediators import command
from remediators.base import Context, NoParams, Outcome, Step, StepFailed
from remediators.hosted import JOB, Answer, Job, Method
from supervisor import clock, plugins
from supervisor.config import Config
from supervisor.incidents.model import PLUGIN, Effect, ParamValue, Recipe, StepResult, StepSpec
from supervisor.messages import StepPlan
from supervisor.plugins import Piece

HOST = (sys.executable, "-P", "-m", "remediators.hosted")  # -P: what is installed is what runs
JOB_BYTES_MAX = 100_000  # one variable of the environment has 128 KiB (execve(2))
PLAN_S = 4.0
OUTPUT_CHARS_MAX = 20_000


class ForeignParams(NoParams, frozen=True):
    """`entry` is "module:attribute"; `effect` the least of this very step, as it said when the runbook was read;
    `settings` a digest of its distribution's `[plugin.NAME]`s; `params` JSON of its own parameters."""

    name: str
    distribution: str
    version: str
    entry: str
    effect: Effect
    undoable: bool
    settings: str
    params: str = "{}"


class Foreign(Step):
    kind = PLUGIN
    effect = Effect.OBSERVE
    undoable = True
    Params = ForeignParams
    params: ForeignParams

    @property
    def least(self) -> Effect:
        return self.params.effect

    def plan(self, ctx: Context) -> StepPlan:
        """Its own dry run, and whose word that is: in a program, too, which reads only and ends within seconds."""
        within_s = min(PLAN_S, ctx.look_until_mono_s - clock.monotonic_s())
        recipe = self._recipe(self._job(ctx, Method.PLAN, within_s))
        try:
            answer = self._answer(*command.run_aside(recipe, within_s))
        except TimeoutError as error:
            raise StepFailed(f"{self._piece.words}: {error}") from error
        if answer.plan is None:
            raise StepFailed(f"{self._piece.words}: its dry run gave nothing")
        text = f"{answer.plan.description} (in the words of {self._piece.words})"
        return StepPlan(self.spec.step_id, text[:OUTPUT_CHARS_MAX], answer.plan.predicts_clear)

    async def run(self, ctx: Context) -> Outcome:
        return await self._act(ctx, self._job(ctx, Method.RUN, self.spec.timeout_s))

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        job = self._job(ctx, Method.UNDO, self.spec.timeout_s)
        return await self._act(ctx, msgspec.structs.replace(job, result=result))

    async def _act(self, ctx: Context, job: Job) -> Outcome:
        answer = self._answer(*await command.run_to_completion(ctx.programs, self._recipe(job)))
        if answer.outcome is None:
            raise StepFailed(f"{self._piece.words}: it gave no Outcome, so that nobody knows what it did")
        # What it started is over, and no reading of ours stands behind its word: the probe decides (R6).
        undo = answer.outcome.undo if self.params.undoable else ""
        return msgspec.structs.replace(answer.outcome, process=None, cleared=False, undo=undo)

    def _recipe(self, job: Job) -> Recipe:
        return Recipe((*HOST, self.params.name), env=((JOB, _encoded(job)),))

    @property
    def _piece(self) -> Piece:
        params = self.params
        return Piece(params.name, plugins.Part.STEP, params.distribution, params.version, params.entry)

    def _job(self, ctx: Context, method: Method, within_s: float) -> Job:
        """Raises StepFailed where what is installed or configured now is not what was approved."""
        found = ctx.config.piece.get(self.params.name)
        if found is None or (found.distribution, found.version, found.entry) != (
            self.params.distribution,
            self.params.version,
            self.params.entry,
        ):
            raise StepFailed(f"{self._piece.words}: no such piece is configured now", "healctl check, then reload")
        sees = seen(ctx.config, found)
        if digest(sees) != self.params.settings:
            hint = "healctl reload, then approve its runbook again"
            raise StepFailed(f"{self._piece.words}: its settings have changed since the runbook was read", hint)
        spec = msgspec.structs.replace(
            self.spec, kind=self.params.name, params=tuple(_pairs(msgspec.json.decode(self.params.params)))
        )
        return Job(method, found, spec, ctx.execution, ctx.planned, sees, str(ctx.state_dir), within_s)

    def _answer(self, code: int | None, output: str) -> Answer:
        """Raises StepFailed."""
        said, _, last = output.rstrip().rpartition("\n")
        try:
            answer = msgspec.json.decode(last, type=Answer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            words = output[-1_000:].strip() or "no word"
            raise StepFailed(f"{self._piece.words}: {command.exit_text(code)}, {words}") from None
        if answer.error:
            raise StepFailed(f"{self._piece.words}: {answer.error}\n{said}"[:OUTPUT_CHARS_MAX].rstrip())
        return answer


def params_of(piece: Piece, given: dict[str, ParamValue], config: Config) -> tuple[Effect, dict[str, Any]]:
    """The least effect of this very step, and the parameters that stand for it, in the process that reads runbooks.

    Imports the piece. Raises StepFailed for parameters that are not its own.
    """
    made = plugins.load(piece, Step)(StepSpec(piece.name, piece.name, Effect.DESTROY, params=tuple(given.items())))  # type: ignore[type-abstract]
    least = Effect(made.least)
    params: dict[str, Any] = {
        "name": piece.name,
        "distribution": piece.distribution,
        "version": piece.version,
        "entry": piece.entry,
        "effect": str(least),
        "undoable": made.undoable,
        "settings": digest(seen(config, piece)),
        "params": msgspec.json.encode(given, order="sorted").decode(),
    }
    return least, params


def seen(config: Config, piece: Piece) -> dict[str, dict[str, Any]]:
    """What a step sees of the configuration: the tables of its own distribution."""
    brought = {name for name, other in config.piece.items() if other.distribution == piece.distribution}
    return {name: table for name, table in config.plugin.items() if name in brought}


def digest(tables: dict[str, dict[str, Any]]) -> str:
    """Of tables that may hold secrets: it is compared, and told to nobody."""
    return hashlib.sha256(msgspec.json.encode(tables, order="sorted")).hexdigest()[:16]


def _pairs(given: dict[str, Any]) -> list[tuple[str, ParamValue]]:
    return [(name, tuple(value) if isinstance(value, list) else value) for name, value in given.items()]


def _encoded(job: Job) -> str:
    raw = msgspec.json.encode(job).decode()
    if len(raw) > JOB_BYTES_MAX:
        raise StepFailed(f"what the step is about has {len(raw)} bytes, at most {JOB_BYTES_MAX} can be handed over")
    return raw
