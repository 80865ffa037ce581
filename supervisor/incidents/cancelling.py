"""A person ends what is at work (R15): which work is meant, and what is written down of it. Pure.

The order is written down first (`Execution.cancelled_by`); then whoever is at it is told, and may refuse, which takes
the mark back. What becomes of the step is its own report; the incident then goes the way of every step that did not do
its work.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import Refused, UnknownId
from supervisor.incidents import drill, drill_run
from supervisor.incidents.effects import Answer, FetchExecutionState, TellCancel
from supervisor.incidents.events import CancelTold
from supervisor.incidents.model import Execution, ExecutionState
from supervisor.incidents.views import Json
from supervisor.incidents.world import Turn, World

CHECK = "integrity check"


class CancelArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`id`: of an execution, an incident or a drill, or the name of a target."""

    id: str


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
    at_work = [it for it in mine if it.state is not ExecutionState.SUCCEEDED]
    if len(at_work) > 1:
        raise Refused(f"{len(at_work)} are at work on {named}", f"name one: {', '.join(it.id for it in at_work)}")
    if at_work:
        return Found(at_work[0].target.target_id, at_work[0])
    if mine:
        raise Refused(f"the steps for {named} are over, and a check is to prove what they did", "`healctl heal undo`")
    target = world.target(target_id)
    if target is not None and target.family == "database":
        return Found(target_id)
    if target is None and incident is None and named not in world.ended:
        hint = "an execution, an incident or a target: `healctl heal status` shows what is at work"
        raise UnknownId(f"nothing is called {named!r}", hint)
    raise Refused(f"nothing is at work on {named}", "`healctl heal status` shows what is")


def order(turn: Turn, token: str, args: CancelArgs, actor: str) -> Json | None:
    """None: it is answered when whoever is at it has said that it stops it, or goes on."""
    found = find(turn.world, args.id)
    execution = found.execution
    if found.drill:  # nobody is at it but the engine
        drill.cancel(turn, actor)
        return {"success": True, "target_id": found.target_id, "what": "drill"}
    if execution is None:
        turn.effects.append(TellCancel(token, actor, found.target_id))
        return None
    dead = execution.state is ExecutionState.INTERRUPTED  # what it had started is ended or awaited already
    # Before anybody is told: should executor and healer die now, it is not begun anew.
    if not execution.cancelled_by:
        execution = turn.put_execution(execution, cancelled_by=actor, cancel_order="" if dead else token)
    _note(turn, execution, actor, f"{execution.runbook.id} is to be cancelled")
    if dead:
        return _told_to_stop(execution)
    turn.effects.append(tell(execution, token, actor))
    return None


def tell(execution: Execution, token: str, actor: str) -> TellCancel:
    """What has its executor stop it."""
    return TellCancel(token, actor, execution.target.target_id, execution.id)


def told(turn: Turn, event: CancelTold) -> None:
    """What whoever is at it says. A refusal takes back the mark of its own order alone: another's may have been agreed
    to meanwhile."""
    world, why = turn.world, event.goes_on or event.unsure
    execution = world.executions.get(event.execution_id)
    if not event.execution_id:
        body = {"success": True, "target_id": event.target_id, "what": CHECK}
        _answer(turn, event, None if why else body, why)
        return
    if execution is not None and not why:
        execution = turn.put_execution(execution, cancelled_by=execution.cancelled_by or event.actor, cancel_order="")
    elif execution is not None and event.goes_on and execution.cancel_order == event.token:
        execution = turn.put_execution(execution, cancelled_by="", cancel_order="")
        _note(turn, execution, "executor", event.goes_on)
    elif execution is not None and event.unsure:
        turn.effects.append(FetchExecutionState(execution.id))  # the ledger knows whether somebody is at it
        why = f"{why}; nothing follows it by itself"
    ended = world.ended.get(event.execution_id)
    stopped = execution if not why else None
    if ended is not None and ended.cancelled and ended.state is ExecutionState.FAILED:
        stopped = ended
    _answer(turn, event, _told_to_stop(stopped) if stopped is not None else None, why)


def _answer(turn: Turn, event: CancelTold, body: Json | None, why: str) -> None:
    hint = event.hint or "`healctl heal status` shows what is at work"
    error = Refused(why or f"{event.execution_id} was over before", hint) if body is None else None
    turn.effects.append(Answer(event.token, body, error))


def _told_to_stop(execution: Execution) -> Json:
    return {
        "success": True,
        "target_id": execution.target.target_id,
        "what": execution.runbook.id,
        "execution_id": execution.id,
        "incident_id": execution.incident_id,
    }


def _note(turn: Turn, execution: Execution, actor: str, note: str) -> None:
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    if incident is not None:
        turn.note(incident, actor, note, execution_id=execution.id)
