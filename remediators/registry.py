"""Step kinds by name, and what a runbook must fulfil to be registered (FR-003). A new kind is one module and one line.

It must never accept a runbook whose declared effects are milder than what its steps do: R3 decides by them.
"""

from __future__ import annotations

from collections.abc import Mapping

from remediators.base import Step, StepFailed
from remediators.cleanup import PruneFiles
from remediators.database import BackupDatabase, RestoreDatabase, VerifyBackup
from remediators.halt import HaltWrites
from remediators.rotation import RotateLogs
from remediators.service import RunRecipe, StartService, StopService
from supervisor.errors import HealError
from supervisor.incidents.model import Effect, Runbook, StepSpec

KINDS: Mapping[str, type[Step]] = {
    kind.kind: kind
    for kind in (
        StopService,
        StartService,
        RunRecipe,
        HaltWrites,
        BackupDatabase,
        VerifyBackup,
        RestoreDatabase,
        RotateLogs,
        PruneFiles,
    )
}

_HARM = {effect: rank for rank, effect in enumerate((Effect.OBSERVE, Effect.PROTECT, Effect.CHANGE, Effect.DESTROY))}
_STEPS_MAX = 32
_TIMEOUT_S_MAX = 3600.0


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


def validate(runbook: Runbook) -> None:
    """Raises BadRunbook with the first thing that is wrong."""
    if not 1 <= len(runbook.steps) <= _STEPS_MAX:
        raise BadRunbook(f"{runbook.id}: {len(runbook.steps)} steps, expected 1 to {_STEPS_MAX}")
    seen: set[str] = set()
    for spec in runbook.steps:
        where = f"{runbook.id}, step {spec.step_id!r}"
        if not spec.step_id or spec.step_id in seen:
            raise BadRunbook(f"{where}: its id is empty or not unique")
        seen.add(spec.step_id)
        least = step_of(spec).effect
        if _HARM[spec.effect] < _HARM[least]:
            raise BadRunbook(f"{where}: declares {spec.effect}, a {spec.kind} is at least {least}")
        if not 0 < spec.timeout_s <= _TIMEOUT_S_MAX:
            raise BadRunbook(f"{where}: timeout {spec.timeout_s:g} s, expected more than 0, at most {_TIMEOUT_S_MAX:g}")
    if not runbook.resource:
        raise BadRunbook(f"{runbook.id}: names no resource, so nothing would keep two of its runs apart")
