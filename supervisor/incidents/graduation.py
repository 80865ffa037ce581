"""What a runbook may do by itself is learnt and unlearnt here (R4, R5): counted, graduated, demoted, revoked. Pure.

Whatever changes by itself is said on Synapse, with the command that changes it back. A dry run is never a success: it
counts towards graduation only, once for each incident.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents import notices, posting, wording
from supervisor.incidents.model import (
    Channel,
    DryRun,
    Execution,
    Incident,
    Mode,
    Runbook,
    RunbookState,
    Streak,
    Tier,
)
from supervisor.incidents.policy import (
    CONFIDENCE_APPROVED,
    CONFIDENCE_PRIOR,
    EVERY_TARGET,
    may_graduate,
    state_for,
    undecided,
)
from supervisor.incidents.world import Turn


def count(turn: Turn, incident: Incident) -> Incident:
    """The dry runs of an incident that a fresh probe still finds; enough of them in a row graduate their runbook."""
    for run in incident.dry_runs:
        runbook = turn.world.runbooks.get(run.runbook_id)
        if runbook is not None and may_graduate(runbook) and run.version == runbook.version():
            incident = _count(turn, incident, runbook, run)
    return incident


def _count(turn: Turn, incident: Incident, runbook: Runbook, run: DryRun) -> Incident:
    state = turn.world.runbook_states.get((runbook.id, incident.target_id)) or undecided(runbook, incident.target_id)
    if state.version != runbook.version():
        state = msgspec.structs.replace(state, version=runbook.version(), streaks=())
    streak = next((s for s in state.streaks if s.anomaly is incident.anomaly), Streak(incident.anomaly, 0, ""))
    if streak.incident_id == incident.id or state.taken_back:  # what was undone waits for a person's approval
        return incident
    streak = Streak(incident.anomaly, streak.count + 1 if run.predicts_clear else 0, incident.id)
    state = _with(state, *(s for s in state.streaks if s.anomaly is not incident.anomaly), streak)
    if streak.count < turn.world.policy.graduation_count or state.mode is Mode.AUTO_EXECUTE:
        turn.put_runbook_state(state)
        return incident
    turn.put_runbook_state(
        msgspec.structs.replace(
            state, mode=Mode.AUTO_EXECUTE, confidence=max(CONFIDENCE_APPROVED, state.confidence), demoted=False
        )
    )
    turn.metric("heal_runbook_graduated", runbook.id, "graduated", incident.id)
    why = f"{streak.count} dry runs in a row said that it would clear {incident.anomaly}"
    incident = turn.note(incident, "engine", f"{runbook.id} has graduated for {incident.target_id}: {why}")
    _announce(
        turn,
        incident,
        "graduated",
        *notices.graduated(runbook, incident, turn.world.target(incident.target_id), streak.count),
    )
    return incident


def _with(state: RunbookState, *streaks: Streak) -> RunbookState:
    longest = max((streak.count for streak in streaks), default=0)
    return msgspec.structs.replace(state, streaks=streaks, dry_run_count=longest)


def reset(state: RunbookState) -> RunbookState:
    """Nothing of what was counted counts any more; the incidents that were counted are not counted again."""
    return _with(state, *(msgspec.structs.replace(streak, count=0) for streak in state.streaks))


def back_to_dry_run(state: RunbookState, *, demoted: bool) -> RunbookState:
    return msgspec.structs.replace(
        reset(state), mode=Mode.DRY_RUN, confidence=CONFIDENCE_PRIOR, approved_at_wall_s=None, demoted=demoted
    )


def failed(turn: Turn, execution: Execution, state: RunbookState, incident: Incident | None, *, approved: bool) -> None:
    """A repair did not hold (R4): what was counted is void; one that ran on an approval is demoted for this target."""
    runbook, target_id = execution.runbook, execution.target.target_id
    state = reset(state)
    in_force = state_for(turn.world.runbook_states, runbook, target_id)
    if not approved or in_force is None:
        turn.put_runbook_state(state)
        return
    turn.put_runbook_state(back_to_dry_run(state, demoted=True))
    if incident is not None:
        incident = turn.note(incident, "engine", f"{runbook.id} is back in dry_run for this target")
    _announce(turn, incident, "demoted", *notices.demoted(runbook, execution.target))


def refit(turn: Turn) -> None:
    """At the start, and under another configuration: what was decided about another version of a runbook is void."""
    world = turn.world
    for state in list(world.runbook_states.values()):
        runbook = world.runbooks.get(state.runbook_id)
        if runbook is None or state.version == runbook.version():
            continue
        new = msgspec.structs.replace(state, version=runbook.version(), streaks=(), dry_run_count=0)
        if state.mode is not Mode.AUTO_EXECUTE:
            turn.put_runbook_state(new)
            continue
        turn.put_runbook_state(back_to_dry_run(new, demoted=False))
        scope = state.target_id if state.target_id != EVERY_TARGET else None
        _announce(turn, None, "revoked", *notices.changed(runbook, scope, state.version))


def _announce(turn: Turn, incident: Incident | None, kind: str, subject: str, says: str) -> None:
    body = wording.announcement(turn.world, incident, says, turn.now.wall_s)
    covers = (incident.id,) if incident is not None else ()
    posting.notice(turn, Channel.SYNAPSE, Tier.INFORM, kind, subject, body, covers)
