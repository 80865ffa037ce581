"""The step that has a gateway restart itself: its own command, run to its end, and its answer judged (FR-003).

`gateway restart` may exit 0 with `"ok": true` and have restarted nothing (`not-loaded`, SITE.md): that is a failure. It
takes half a minute, and hangs for many with a gateway that hangs: the step's time is the target's own, and ends it.
"""

from __future__ import annotations

import json

import msgspec

from remediators import command
from remediators.base import Context, Fenced, Outcome, Step, StepFailed
from supervisor import http
from supervisor.incidents.model import Authority, Effect
from supervisor.messages import StepPlan

WORDS_CHARS_MAX = 200
OUTPUT_CHARS_MAX = 2000
LOOK_S = 2.0
NOT_LOADED = "not-loaded"


class _Answer(msgspec.Struct, frozen=True):
    """`openclaw gateway restart --json`; other fields are passed by."""

    ok: bool | None = None
    result: str = ""
    error: str = ""


class RestartGateway(Step):
    """By R3 (c) only while nobody accepts at its address: what accepts and hangs is a live process."""

    kind = "restart-gateway"
    effect = Effect.CHANGE

    def plan(self, ctx: Context) -> StepPlan:
        _must_be_gateway(ctx)
        problem = command.missing_program(ctx.recipe)
        text = f"run {command.words(ctx.recipe.argv)} to its end, at most {self.spec.timeout_s:g} s"
        return StepPlan(self.spec.step_id, f"{text}: this would fail: {problem}" if problem else text, not problem)

    async def run(self, ctx: Context) -> Outcome:
        _must_be_gateway(ctx)

        async def check() -> None:
            if ctx.execution.authority is Authority.NOT_RUNNING:
                await _refuse_alive(ctx)

        await check()
        code, output = await command.run_to_completion(ctx.programs, ctx.recipe, check)
        text = f"{command.words(ctx.recipe.argv)}: {command.exit_text(code)}"
        answer = _answer_of(output)
        if answer is None:
            said = f"{text}\n{output[-OUTPUT_CHARS_MAX:]}".rstrip()
        else:
            words = "; ".join(repr(part[:WORDS_CHARS_MAX]) for part in (answer.result, answer.error) if part)
            said = f"{text}; it says {words or 'nothing'}"
        if code != 0:
            raise StepFailed(said)
        if answer is not None and answer.result == NOT_LOADED:
            raise StepFailed(f"{said}: its service is not installed, nothing was restarted")
        if answer is not None and answer.ok is False:
            raise StepFailed(said)
        return Outcome(said)


def _must_be_gateway(ctx: Context) -> None:
    """The recipe of anything else starts that service: run here it would be a second one, ended when its time is up."""
    if ctx.target.family != "gateway":
        raise StepFailed(f"{ctx.target.target_id} is no gateway; a service is restarted by stop-service, start-service")


async def _refuse_alive(ctx: Context) -> None:
    """Raises Fenced when somebody has come to accept connections since the reading. Without an address the reading,
    at most 5 s old, is all there is."""
    section = ctx.config.gateway.get(ctx.target.target_id)
    if section is None or not section.health_url:
        return
    try:
        await http.request(section.health_url, timeout_s=LOOK_S)
    except http.ConnectFailed:
        return
    except http.HttpError as error:
        raise Fenced(
            f"fence: {error}: something of {ctx.target.target_id} is alive; it was not restarted",
            "only a person's execute, or an approved runbook, may end a live process",
        ) from error
    raise Fenced(f"fence: {ctx.target.target_id} answers again; it was not restarted")


def _answer_of(output: str) -> _Answer | None:
    """The last JSON object that begins a line: banners and log lines may stand around it. None: there is none."""
    decoder = json.JSONDecoder()
    found = None
    for at in (0, *(index + 1 for index, letter in enumerate(output) if letter == "\n")):
        if output[at : at + 1] != "{":
            continue
        try:
            value, _ = decoder.raw_decode(output, at)
            found = msgspec.convert(value, _Answer)
        except (ValueError, RecursionError, msgspec.ValidationError):
            continue
    return found
