"""`python -m remediators.hosted NAME`: one method of a plugin's step, and one line of JSON about it.

A program of its own: what a plugin does there (hang, crash, leak, print) ends with it, and its end is the executor's to
force. The job comes in the environment, since it may hold the owner's secrets, which an argument list would show.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from remediators.base import Context, Outcome, Step
from remediators.command import Programs
from remediators.launcher import Held
from supervisor import clock, plugins
from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.incidents.model import Execution, Program, StepResult, StepSpec
from supervisor.messages import Body, StepPlan
from supervisor.plugins import Piece

JOB = "HEALCTL_STEP"  # the variable
DATA_BYTES_MAX = 1024 * 1024 * 1024  # RLIMIT_DATA


class Method(StrEnum):
    PLAN = "plan"
    RUN = "run"
    UNDO = "undo"


class Job(msgspec.Struct, frozen=True):
    """`tables`: `[plugin.NAME]` of its distribution, all that it sees of the configuration. `within_s`: its time."""

    method: Method
    piece: Piece
    spec: StepSpec
    execution: Execution
    planned: tuple[StepPlan, ...]
    tables: dict[str, dict[str, Any]]
    state_dir: str
    within_s: float
    result: StepResult | None = None


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of it; `error` tells why nothing did."""

    plan: StepPlan | None = None
    outcome: Outcome | None = None
    error: str = ""


def carry_out(job: Job) -> Answer:
    """Never raises: what the plugin raises is its answer."""
    try:
        step = plugins.load(job.piece, Step)(job.spec)  # type: ignore[type-abstract]
        context = _context(job)
        if job.method is Method.PLAN:
            return Answer(plan=step.plan(context))
        if job.method is Method.RUN:
            return Answer(outcome=asyncio.run(step.run(context)))
        assert job.result is not None
        return Answer(outcome=asyncio.run(step.undo(context, job.result)))
    except HealError as error:
        return Answer(error=str(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it is told, and the step has failed
        return Answer(error=plugins.told(error))


def _context(job: Job) -> Context:
    """A step that starts a program does so itself, in this session, which ends with it."""
    return Context(
        execution=job.execution,
        programs=Programs(job.spec.step_id, _record_nothing, _take_nothing),
        state_dir=Path(job.state_dir),
        exclude=frozenset({os.getpid(), os.getppid()}),
        config=Config(plugin=job.tables, piece={job.piece.name: job.piece}),
        ask_healer=_ask_nobody,
        ask_store=_ask_nobody,
        planned=job.planned,
        look_until_mono_s=clock.monotonic_s() + job.within_s,
    )


async def _record_nothing(program: Program) -> None:
    raise HealError(f"a plugin's step starts {program.argv[0]} by itself, in its own session")


def _take_nothing() -> Held:
    raise HealError("a plugin's step starts programs by itself, in its own session")


async def _ask_nobody(body: Body) -> Body:
    raise HealError(f"a plugin's step cannot send a {type(body).__name__}")


def main() -> None:
    answer = os.dup(1)
    os.dup2(2, 1)  # what it prints comes before the answer, or nowhere
    job = msgspec.json.decode(os.environ.pop(JOB), type=Job)
    resource.setrlimit(resource.RLIMIT_DATA, (DATA_BYTES_MAX, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job.within_s + 5.0)  # should nobody be left who would end it
    found = carry_out(job)
    try:
        raw = msgspec.json.encode(found)
    except (TypeError, ValueError, RecursionError) as error:
        raw = msgspec.json.encode(Answer(error=f"what it gave cannot be told: {plugins.told(error)}"))
    with os.fdopen(answer, "wb") as file:
        file.write(b"\n" + raw + b"\n")
    sys.stderr.flush()
    os._exit(0)  # whatever it has begun beside us


if __name__ == "__main__":
    main()
