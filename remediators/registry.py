"""Step kinds by name, and what a runbook must fulfil to be registered (FR-003). A new kind is one module and one line.

It must never accept a runbook whose declared effects are milder than what its steps do: R3 decides by them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from remediators.base import Step, StepFailed
from remediators.cleanup import PruneFiles
from remediators.database import BackupDatabase, RestoreDatabase, VerifyBackup
from remediators.drill import ClearDrill
from remediators.foreign import Foreign
from remediators.gateway import RestartGateway
from remediators.halt import HaltWrites
from remediators.manual import Manual
from remediators.memory import EndLargest, RecordMemory
from remediators.phantom import ClearPhantom
from remediators.pipeline import KickPipeline
from remediators.reprobe import ProbeAgain
from remediators.rotation import RotateLogs
from remediators.run_command import RunCommand
from remediators.service import StartService, StopService
from remediators.zombie import KillZombie
from supervisor.errors import HealError
from supervisor.incidents.model import Effect, Runbook, StepSpec
from supervisor.schema import Key, Problem, dotted, near, shown

KINDS: Mapping[str, type[Step]] = {
    kind.kind: kind
    for kind in (
        StopService,
        StartService,
        KillZombie,
        RecordMemory,
        EndLargest,
        HaltWrites,
        BackupDatabase,
        VerifyBackup,
        RestoreDatabase,
        RotateLogs,
        PruneFiles,
        ClearPhantom,
        KickPipeline,
        ProbeAgain,
        RestartGateway,
        RunCommand,
        Manual,
        ClearDrill,
        Foreign,
    )
}

HARM = {effect: rank for rank, effect in enumerate((Effect.OBSERVE, Effect.PROTECT, Effect.CHANGE, Effect.DESTROY))}
STEPS_MAX = 32
_TIMEOUT_S_MAX = 3600.0
_PARAM = re.compile(r"at `\$\.(\w+)|field `(\w+)`")


class BadRunbook(HealError):
    """A runbook that cannot be registered."""

    code = "bad_runbook"


def step_of(spec: StepSpec) -> Step:
    """The step that `spec` describes. Raises BadRunbook for an unknown kind."""
    kind = KINDS.get(spec.kind)
    if kind is None:
        raise BadRunbook(f"step {spec.step_id}: no such kind {spec.kind!r}", f"kinds: {', '.join(sorted(KINDS))}")
    try:
        return kind(spec)
    except StepFailed as error:
        raise BadRunbook(error.message) from error


def faults(runbook: Runbook) -> Iterator[Problem]:
    """Everything that keeps it from being registered; the steps are numbered from 1 in the keys, as in a file."""
    if not 1 <= len(runbook.steps) <= STEPS_MAX:
        yield Problem(("step",), f"{len(runbook.steps)} steps, expected 1 to {STEPS_MAX}")
    seen: set[str] = set()
    for number, spec in enumerate(runbook.steps, 1):
        key = ("step", str(number))
        if not spec.step_id or spec.step_id in seen:
            text = f"the id {shown(spec.step_id)} is empty or not unique"
            yield Problem((*key, "id"), text, "give each step an id of its own")
        seen.add(spec.step_id)
        if not 0 < spec.timeout_s <= _TIMEOUT_S_MAX:
            text = f"timeout {spec.timeout_s:g} s, expected more than 0, at most {_TIMEOUT_S_MAX:g}"
            yield Problem((*key, "timeout"), text)
        yield from _faults_of_step(key, spec, runbook.steps[number:])
    if not runbook.resource:
        yield Problem(("resource",), "names no resource, so nothing would keep two of its runs apart")


def _faults_of_step(key: Key, spec: StepSpec, after: tuple[StepSpec, ...]) -> Iterator[Problem]:
    kind = KINDS.get(spec.kind)
    if kind is None:
        hint = near(spec.kind, KINDS) or f"kinds: {', '.join(sorted(KINDS))}"
        yield Problem((*key, "kind"), f"no such kind {shown(spec.kind)}", hint)
        return
    try:
        least = kind(spec).least
    except StepFailed as error:
        yield Problem((*key, *_param_of(error)), error.message, error.hint)
        return
    if kind is StopService and not any(later.kind == StartService.kind for later in after):
        least = Effect.DESTROY  # what it ends stays ended (R3)
    if kind is EndLargest and (spec.idempotent or any(later.kind == spec.kind for later in after)):
        yield Problem((*key, "kind"), f"a {spec.kind} stands once, and is not idempotent", "it ends one process, once")
    if HARM[spec.effect] < HARM[least]:
        text = f"declares {spec.effect}, a {spec.kind} is at least {least}" + (" here" if least != kind.effect else "")
        yield Problem((*key, "effect"), text, f'write effect = "{least}": what may run by itself is decided by it')


def _param_of(error: StepFailed) -> Key:
    """Which parameter msgspec complains of, as far as it says so."""
    found = _PARAM.search(str(error.__cause__ or ""))
    return ("params", found[1] or found[2]) if found else ("params",)


def validate(runbook: Runbook) -> None:
    """Raises BadRunbook with the first thing that is wrong."""
    for key, text, hint in faults(runbook):
        raise BadRunbook(f"{runbook.id}, {dotted(key)}: {text}", hint)
