"""Several runbooks for one anomaly are a ladder, climbed in the registry's order (R2, R3, R10). Pure.

A rung is spent for an incident once it ran and did not end it: it failed, or it only told or protected; and while its
breaker is open. The next one runs when R3 lets it, and is proposed when not. A rung that may not run is passed over
only by a later one that was approved, or has graduated; and by one that destroys only if it was approved while this
very incident was open.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents.model import Authority, Incident, Runbook, RunbookState, State, Target, TierReason
from supervisor.incidents.policy import Permission, destroys, ladder, permission, resource_of, state_for
from supervisor.incidents.world import World

# A rung is spent, and the next one follows.
CLIMBS = frozenset(
    {
        TierReason.TELLS_ONLY,
        TierReason.REMEDIATION_FAILED,
        TierReason.VERIFICATION_FAILED,
        TierReason.BREAKER_OPEN,
    }
)
# Escalated for one of these, an incident goes on as soon as one of its rungs may run.
GOES_ON = CLIMBS | {
    TierReason.NEEDS_APPROVAL,
    TierReason.NO_RUNBOOK,
    TierReason.CANNOT_EXECUTE,
    TierReason.PAUSED,
}
_UNDER_WAY = frozenset({State.REMEDIATING, State.VERIFYING})


class Rung(msgspec.Struct, frozen=True):
    runbook: Runbook
    allowed: Permission

    @property
    def runs(self) -> bool:
        return self.allowed.authority is not None


def rest(world: World, incident: Incident) -> tuple[Runbook, ...]:
    """The rungs that are not spent."""
    every = ladder(world.runbooks.values(), incident.anomaly, incident.target_id)
    return tuple(runbook for runbook in every if runbook.id not in incident.spent)


def fits(runbook: Runbook, target: Target | None) -> bool:
    """Can it run for this target at all?"""
    return target is not None and (not runbook.starts_service or target.recipe is not None)


def decided(world: World, runbook: Runbook, incident: Incident) -> RunbookState | None:
    """What has been decided about this runbook, as far as it counts for this incident."""
    state = state_for(world.runbook_states, runbook, incident.target_id)
    return None if state is not None and runbook.once and not _approved_for(state, incident) else state


def _approved_for(state: RunbookState | None, incident: Incident) -> bool:
    """A person approved it while this incident was open."""
    return state is not None and (state.approved_at_wall_s or 0.0) >= incident.detected_wall_s


def choose(world: World, incident: Incident, rungs: Sequence[Runbook], *, not_running: bool) -> Rung | None:
    """The first of `rungs` (that fit) which may run now, else the first, which is then to be proposed."""
    target, first = world.target(incident.target_id), None
    for runbook in rungs:
        state = decided(world, runbook, incident)
        rung = Rung(runbook, permission(runbook, target, state, world.policy, not_running=not_running))
        passes = rung.allowed.authority is Authority.APPROVED and not destroys(runbook)
        if rung.runs and (first is None or passes or _approved_for(state, incident)):
            return rung
        first = first or rung
    return first


def first(world: World, incident: Incident) -> Rung | None:
    """What comes first for an incident that nothing was run for yet; None when there is nothing for it."""
    target = world.target(incident.target_id)
    if target is None:
        return None
    rungs = [runbook for runbook in rest(world, incident) if fits(runbook, target)]
    rungs = [it for it in rungs if breakers.standing(world, it.id, resource_of(it, target)) is None]
    return choose(world, incident, rungs, not_running=True)


def following(world: World, incident: Incident) -> Rung | None:
    """What comes when that which runs now, or has run last, does not end it; None when there is nothing more: a rung
    whose breaker stands is none."""
    target = world.target(incident.target_id)
    if target is None:
        return None
    now = incident.runbook_id if incident.state in _UNDER_WAY else None
    rungs = [runbook for runbook in rest(world, incident) if fits(runbook, target) and runbook.id != now]
    rungs = [it for it in rungs if breakers.standing(world, it.id, resource_of(it, target)) is None]
    if incident.state is State.DIAGNOSING:
        first = choose(world, incident, rungs, not_running=True)
        if first is not None and first.runs:
            rungs.remove(first.runbook)
    return choose(world, incident, rungs, not_running=False)


def goes_on(world: World, incident: Incident) -> bool:
    """It waits for a person, and would go on with one of its rungs if that might run."""
    waits = incident.state is State.ESCALATED and incident.tier_reason in GOES_ON
    return waits and bool(rest(world, incident))


def waits_for(world: World, incident: Incident, runbook: Runbook) -> bool:
    """Would this incident go on with this runbook, were it not spent? One that is escalated, or is looked at still."""
    reasons = GOES_ON | {TierReason.CANCELLED}  # whoever approves it has said what is to follow
    escalated = incident.state is State.ESCALATED and incident.tier_reason in reasons
    if not escalated and incident.state is not State.DIAGNOSING:
        return False
    unspent = unspend(incident, runbook.id)
    target = world.target(incident.target_id)
    rungs = [one for one in rest(world, unspent) if fits(one, target)]
    rung = choose(world, unspent, rungs, not_running=False)
    return rung is not None and rung.runs and rung.runbook.id == runbook.id


def unspend(incident: Incident, runbook_id: str) -> Incident:
    """Its runbook gets another try."""
    return msgspec.structs.replace(incident, spent=tuple(spent for spent in incident.spent if spent != runbook_id))
