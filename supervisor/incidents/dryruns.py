"""The dry run before a person is asked (R4, FR-003): what a runbook that may not run by itself would do. Pure.

It happens while the incident is `diagnosing`, changes nothing, and is bounded by a timer: a critical incident is
escalated after a moment, with or without the plan. What a plan says counts (`graduation`) only once a fresh probe
finds the anomaly still there: one that healed itself meanwhile counts neither way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from supervisor.incidents.effects import PlanExecution
from supervisor.incidents.model import (
    Authority,
    DryRun,
    Execution,
    ExecutionState,
    Incident,
    Runbook,
    Severity,
    State,
    Target,
    TimerKind,
)
from supervisor.incidents.policy import may_graduate, resource_of
from supervisor.incidents.world import RECHECK_S, Turn

WITHIN_S = 10.0  # the executor's answer, and the probe's after it
CRITICAL_WITHIN_S = 2.0  # a page waits no longer
PLANS_MAX = 4  # of one incident
STEPS_CHARS_MAX = 400


def sketch(turn: Turn, runbook: Runbook, target: Target, incident: Incident | None) -> Execution:
    """What a dry run is asked of: no intent, never written, never dispatched. `incident`: for which the engine asks."""
    return Execution(
        id="dry-run",
        incident_id=incident.id if incident is not None else None,
        runbook=runbook,
        version=runbook.version(),
        target=target,
        resource=resource_of(runbook, target),
        authority=Authority.PERSON,
        state=ExecutionState.INTENDED,
        created_steady_s=turn.now.steady_s,
        created_wall_s=turn.now.wall_s,
        boot_id=turn.world.boot_id,
        expires_mono_s=turn.now.mono_s,
        grounds_mono_s=None,
        known=turn.world.known.get(target.service_id),
        reading=turn.world.readings.get(target.target_id),
    )


def predicts_clear(steps: Sequence[Mapping[str, Any]]) -> bool:
    """A plan predicts the cure when every step's plan sees nothing that would make it fail."""
    return bool(steps) and all(step["predicts_clear"] for step in steps)


def awaited(turn: Turn, incident: Incident, rungs: Sequence[Runbook]) -> bool:
    """True while a plan is still to come; asks for those that nobody has asked for.

    Planned are the rung that will be proposed, and those behind it that may graduate.
    """
    world, target = turn.world, turn.world.target(incident.target_id)
    if incident.id in world.planning:
        return True
    if incident.state is not State.DIAGNOSING or target is None:
        return False
    known = {run.runbook_id for run in incident.dry_runs}
    wanted = [runbook for n, runbook in enumerate(rungs) if n == 0 or may_graduate(runbook)][:PLANS_MAX]
    missing = [runbook for runbook in wanted if runbook.id not in known]
    if not missing:
        return False
    world.planning[incident.id] = {runbook.id for runbook in missing}
    turn.effects.extend(PlanExecution(sketch(turn, runbook, target, incident), "") for runbook in missing)
    turn.drop_timer(TimerKind.RECHECK, incident.id)
    if (TimerKind.PLAN, incident.id) not in world.timers:  # a crash does not begin the time anew
        critical = incident.severity is Severity.CRITICAL
        turn.set_timer(TimerKind.PLAN, incident.id, CRITICAL_WITHIN_S if critical else WITHIN_S)
    return True


def on_planned(turn: Turn, execution: Execution, steps: Sequence[Mapping[str, Any]], error: str) -> None:
    """The executor's answer, or that none came. With the last one, a fresh probe says whether it matters still."""
    incident = turn.incident(execution.incident_id or "")
    outstanding = turn.world.planning.get(execution.incident_id or "", set())
    if incident is None or execution.runbook.id not in outstanding:
        return
    outstanding.discard(execution.runbook.id)
    said = "; ".join(str(step["description"]) for step in steps)
    clear = not error and predicts_clear(steps)
    incident = _record(turn, incident, DryRun(execution.runbook.id, execution.version, clear, said, error))
    if outstanding:
        return
    del turn.world.planning[incident.id]
    if incident.state is State.DIAGNOSING:
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        turn.ask_probe(incident.target_id, incident.family)
    elif incident.state is State.ESCALATED:
        turn.want_run(incident)


def _record(turn: Turn, incident: Incident, run: DryRun) -> Incident:
    run = msgspec.structs.replace(run, steps=run.steps[:STEPS_CHARS_MAX], error=run.error[:STEPS_CHARS_MAX])
    verdict = f"failed: {run.error}" if run.error else f"would {'' if run.predicts_clear else 'not '}clear it"
    note = f"dry run of {run.runbook_id} {verdict}" + (f" ({run.steps})" if run.steps else "")
    kept = tuple(old for old in incident.dry_runs if old.runbook_id != run.runbook_id)
    incident = msgspec.structs.replace(incident, dry_runs=(*kept, run))
    return turn.note(incident, "executor", note)


def overdue(turn: Turn, incident: Incident) -> Incident:
    """No answer in time. For what is not critical that is a dry run that failed; the page of what is does not wait."""
    if incident.severity is Severity.CRITICAL:
        return incident
    for runbook_id in sorted(turn.world.planning.pop(incident.id, ())):
        runbook = turn.world.runbooks.get(runbook_id)
        if runbook is not None:
            error = f"no answer within {WITHIN_S:.0f} s"
            incident = _record(turn, incident, DryRun(runbook_id, runbook.version(), False, error=error))
    return incident
