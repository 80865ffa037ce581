"""A person ends what is at work (R15): which work is meant, and what is written down of it. Pure.

The healer asks the executor first, or the probe, which may refuse; the order comes here once it has been told to stop.
What becomes of the step is its own report; the incident then goes the way of every step that did not do its work.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import Refused, UnknownId
from supervisor.incidents import drill, drill_run
from supervisor.incidents.model import Execution, ExecutionState
from supervisor.incidents.views import Json
from supervisor.incidents.world import Turn, World

CHECK = "integrity check"


class CancelArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """`id`: of an execution, an incident or a drill, or the name of a target. `check`: its integrity check was told to
    stop, and not what may have begun on it since."""

    id: str
    check: bool = False


class Found(msgspec.Struct, frozen=True):
    """What is meant: an execution, a drill, or (neither) the integrity check of the database `target_id`."""

    target_id: str
    execution: Execution | None = None
    drill: bool = False


def find(world: World, named: str) -> Found:
    """Raises UnknownId; Refused for what is not at work, or must not be stopped."""
    run = world.drill
    if run is not None and not run.over and named in {run.id, run.incident_id or run.id, drill_run.TARGET}:
        return Found(drill_run.TARGET, drill=True)
    incident = world.incidents.get(named)
    target_id = incident.target_id if incident is not None else named
    found = list(world.executions.values())
    mine = [it for it in found if named in (it.id, it.incident_id)] or [
        it for it in found if it.target.target_id == target_id
    ]
    at_work = [it for it in mine if it.state in (ExecutionState.INTENDED, ExecutionState.CLAIMED)]
    if len(at_work) > 1:
        raise Refused(f"{len(at_work)} are at work on {named}", f"name one: {', '.join(it.id for it in at_work)}")
    if at_work:
        return Found(at_work[0].target.target_id, at_work[0])
    if any(it.state is ExecutionState.SUCCEEDED for it in mine):
        raise Refused(f"the steps for {named} are over, and a check is to prove what they did", "`healctl heal undo`")
    if mine:
        raise Refused(f"what was run for {named} was interrupted: it is ended or awaited already")
    target = world.target(target_id)
    if target is not None and target.family == "database":
        return Found(target_id)
    if target is None and incident is None and named not in world.ended:
        hint = "an execution, an incident or a target: `healctl heal status` shows what is at work"
        raise UnknownId(f"nothing is called {named!r}", hint)
    raise Refused(f"nothing is at work on {named}", "`healctl heal status` shows what is")


def order(turn: Turn, token: str, args: CancelArgs, actor: str) -> Json:
    """It was told to stop. It may have ended by now, of which its own report tells."""
    found = Found(args.id) if args.check else find(turn.world, args.id)
    answer: Json = {"success": True, "target_id": found.target_id}
    execution = found.execution
    if found.drill:
        drill.cancel(turn, actor)
        return answer | {"what": "drill"}
    if execution is None:
        return answer | {"what": CHECK}
    # Should the executor die now, or the healer: it is not begun anew.
    turn.put_execution(execution, cancelled_by=actor)
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    if incident is not None:
        turn.note(incident, actor, f"{execution.runbook.id} is to be cancelled", execution_id=execution.id)
    return answer | {
        "what": execution.runbook.id,
        "execution_id": execution.id,
        "incident_id": execution.incident_id,
    }
