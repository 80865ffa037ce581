"""A person's approval of a runbook, and taking it back (AC-007, R3 d, R4, R5, R7). Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents import graduation, ladder, pauses, remedy, views
from supervisor.incidents.model import Incident, Mode, Runbook, RunbookState
from supervisor.incidents.naming import must_be_for, runbook_of, target_of
from supervisor.incidents.policy import CONFIDENCE_APPROVED, EVERY_TARGET, changes, resource_of, undecided
from supervisor.incidents.world import Turn


class ApproveArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runbook_id: str
    target_id: str | None = None
    revoke: bool = False


def approve(turn: Turn, token: str, args: ApproveArgs, actor: str) -> views.Json:
    """AC-007, R7: approval is for this version; whatever waits for it is probed afresh and then runs."""
    runbook = runbook_of(turn, args.runbook_id)
    scope = EVERY_TARGET
    if args.target_id is not None:
        target = target_of(turn, args.target_id)
        if not args.revoke:
            must_be_for(runbook, target)
        scope = target.target_id
    waiting: list[Incident] = []
    if args.revoke:
        _revoke(turn, runbook, scope)
    else:
        _allow(turn, runbook, scope)
        waiting = [i for i in turn.world.incidents.values() if _waits(turn, i, runbook, scope)]
    free = [incident.id for incident in waiting if not _stopped(turn, incident, runbook)]
    for incident in waiting:
        remedy.try_again(turn, turn.note(incident, actor, f"{runbook.id} approved"), runbook.id)
    state = turn.world.runbook_states[runbook.id, scope]
    return {
        "success": True,
        "runbook_id": runbook.id,
        "mode": state.mode.value,
        "approved_at": views.stamp(state.approved_at_wall_s),
        "target_id": args.target_id,
        "version": runbook.version(),
        "running_for": free,
    }


def _state(turn: Turn, runbook: Runbook, scope: str) -> RunbookState:
    return turn.world.runbook_states.get((runbook.id, scope)) or undecided(runbook, scope)


def _allow(turn: Turn, runbook: Runbook, scope: str) -> None:
    old = _state(turn, runbook, scope)
    turn.put_runbook_state(
        msgspec.structs.replace(
            old,
            mode=Mode.AUTO_EXECUTE,
            confidence=max(CONFIDENCE_APPROVED, old.confidence),
            version=runbook.version(),
            approved_at_wall_s=turn.now.wall_s,
            demoted=False,
            taken_back=False,
        )
    )
    if old.mode is not Mode.AUTO_EXECUTE:
        turn.metric("heal_runbook_graduated", runbook.id, "graduated")


def _revoke(turn: Turn, runbook: Runbook, scope: str) -> None:
    """Revoking one target's must hold against an approval for all; revoking all takes back every target's own, too."""
    for (runbook_id, target_id), state in list(turn.world.runbook_states.items()):
        if runbook_id == runbook.id and scope == EVERY_TARGET != target_id:
            turn.put_runbook_state(graduation.back_to_dry_run(state, demoted=state.demoted))
    state = msgspec.structs.replace(_state(turn, runbook, scope), version=runbook.version())
    turn.put_runbook_state(graduation.back_to_dry_run(state, demoted=scope != EVERY_TARGET))


def _waits(turn: Turn, incident: Incident, runbook: Runbook, scope: str) -> bool:
    """Does it go on with that? An approval for all does not lift a target's own demotion."""
    return scope in (EVERY_TARGET, incident.target_id) and ladder.waits_for(turn.world, incident, runbook)


def _stopped(turn: Turn, incident: Incident, runbook: Runbook) -> bool:
    """An approval lifts neither a breaker nor a pause: then that is said, and the breaker's one try comes in its time,
    or the pause is ended."""
    target = turn.world.target(incident.target_id)
    if target is None or (changes(runbook) and pauses.standing(turn.world, target) is not None):
        return True
    return breakers.forbids(turn.world, turn.now.steady_s, runbook.id, resource_of(runbook, target))
