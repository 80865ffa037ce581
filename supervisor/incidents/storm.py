"""Canaries (DESIGN §2.8): when many targets of a family fail at once, the first repairs must verify before the rest.

Pure. If a canary does not verify, or the family is one whose common cause is likely the network or us, automatic
`change` pauses for the family and one grouped page goes out.
"""

from __future__ import annotations

from supervisor.incidents import escalation
from supervisor.incidents.model import (
    Authority,
    Execution,
    FamilyPause,
    Incident,
    State,
    TierReason,
    TimerKind,
)
from supervisor.incidents.policy import PAUSED_IN_A_STORM
from supervisor.incidents.world import (
    Storm,
    Turn,
    World,
)

_UNSETTLED = frozenset({State.DETECTED, State.DIAGNOSING, State.REMEDIATING, State.VERIFYING})


def holds(turn: Turn, incident: Incident) -> bool:
    """True when this incident must not run now; it then waits, or has been escalated with its family."""
    world = turn.world
    if incident.family in world.pauses:
        _covered(turn, incident)
        return True
    storm = _storm(turn, incident)
    if storm is None:
        return False
    if incident.family in PAUSED_IN_A_STORM:
        pause(turn, incident.family, "so many at once: the likely cause is the network, or healctl itself")
        return True
    if len(storm.canaries) < world.policy.canary_count or len(storm.verified) >= world.policy.canary_count:
        return False
    why = f"the first {world.policy.canary_count} repairs of {incident.family} must verify first"
    if incident.waiting_for != why:
        turn.update(incident, waiting_for=why, held_as_canary=True)
    return True


def many(turn: Turn, incident: Incident) -> bool:
    """True when so many of a family of PAUSED_IN_A_STORM fail together that looking at each again tells nothing: then
    one page goes out for all (DESIGN §2.8). They are looked at one after another, so that it takes a while to see."""
    if incident.family not in PAUSED_IN_A_STORM:
        return False
    since = turn.now.steady_s - escalation.GATHER_S
    mine = [i for i in turn.world.incidents.values() if i.family == incident.family and not i.outside]
    recent = [i for i in mine if i.detected_steady_s >= since]
    if len(recent) < turn.world.policy.canary_from:
        return False
    for each in [i for i in recent if i.state is State.DIAGNOSING]:
        why = f"{len(recent)} targets of {incident.family} fail at once: the likely cause is the network, or healctl"
        escalation.escalate(turn, each, TierReason.AT_ONCE, why)
    return True


def began(world: World, execution: Execution, family: str) -> None:
    """The first automatic repairs of a storm are its canaries; what a person orders proves nothing about them."""
    storm = world.storms.get(family)
    if storm is None or execution.authority is Authority.PERSON:
        return
    if len(storm.canaries) < world.policy.canary_count:
        storm.canaries.append(execution.id)


def withdrawn(world: World, execution: Execution) -> None:
    """A canary ended without proving anything (not run, cancelled, or to be decided anew): another takes its place,
    first of all one that runs already, having begun before there were so many."""
    family = execution.target.family
    storm = world.storms.get(family)
    if storm is None or execution.id not in storm.canaries or execution.id in storm.verified:
        return
    storm.canaries.remove(execution.id)
    running = _automatic(world, [i for i in world.incidents.values() if i.family == family])
    storm.canaries += [one for one in running if one not in (*storm.canaries, execution.id)][:1]


def verified(world: World, execution: Execution) -> None:
    storm = world.storms.get(execution.target.family)
    if storm is not None and execution.id in storm.canaries:
        storm.verified.add(execution.id)


def failed(turn: Turn, execution: Execution) -> bool:
    """True when this failure was a canary's: the family is paused, and the grouped page covers the incident."""
    family = execution.target.family
    storm = turn.world.storms.get(family)
    if storm is None or execution.id not in storm.canaries:
        return False
    pause(turn, family, f"the repair of {execution.target.target_id}, tried first, did not hold")
    return True


def pause(turn: Turn, family: str, why: str) -> None:
    """No automatic change for this family from here on; everybody who waits is escalated under one page."""
    turn.put_pause(FamilyPause(family, turn.now.wall_s, why))
    turn.world.storms.pop(family, None)
    mine = [i for i in turn.world.incidents.values() if i.family == family and not i.outside]
    hit = [i for i in mine if i.state is not State.ESCALATED or i.id in turn.world.rerun]
    for incident in hit:
        _give_up(turn, incident, f"{family} is paused: {why}", grouped=incident.page_id is None)
    unpaged = [turn.incident(i.id) or i for i in hit if i.page_id is None]
    if unpaged:  # R2: what has its page by now gets no other
        escalation.grouped_page(turn, unpaged, why)


def look(turn: Turn) -> None:
    """After every event: whatever has settled the last of a storm, the next one has canaries anew. There may be
    thousands in it: the newest is the last to be settled, mostly."""
    world = turn.world
    for family, storm in [*world.storms.items()]:
        known = world.incidents.get(storm.witness)
        if known is not None and _unsettled(world, known):
            continue
        mine = (i for i in reversed(world.incidents.values()) if i.family == family)
        left = next((i for i in mine if _unsettled(world, i)), None)
        if left is None:
            del world.storms[family]
        else:
            storm.witness = left.id


def unpaused(turn: Turn, family: str) -> None:
    """Ends the pause once nothing of the family is open any more."""
    if family in turn.world.pauses and not any(i.family == family for i in reversed(turn.world.incidents.values())):
        turn.drop_pause(family)


def _storm(turn: Turn, incident: Incident) -> Storm | None:
    """The family's storm; a new one when enough of it fell ill at once, or was already held back before a restart."""
    world = turn.world
    storm = world.storms.get(incident.family)
    if storm is not None:
        return storm
    since = turn.now.steady_s - world.policy.canary_window_s
    unsettled = [i for i in world.incidents.values() if i.family == incident.family and _unsettled(world, i)]
    mine = [i for i in unsettled if not i.outside]  # what only others say makes no storm
    at_once = sum(1 for i in mine if i.detected_steady_s >= since or i.id in world.rerun)
    if at_once < world.policy.canary_from and not any(i.held_as_canary for i in mine):
        return None
    storm = Storm(canaries=_automatic(world, mine)[: world.policy.canary_count])
    world.storms[incident.family] = storm
    return storm


def _automatic(world: World, incidents: list[Incident]) -> list[str]:
    """What runs for them by nobody's order, in the order in which it began."""
    ids = {i.execution_id for i in incidents}
    return [e.id for e in world.executions.values() if e.id in ids and e.authority is not Authority.PERSON]


def _covered(turn: Turn, incident: Incident) -> None:
    """A later one of a paused family: escalated with a page of its own, since the grouped one has left."""
    _give_up(turn, incident, f"{incident.family} is paused: {turn.world.pauses[incident.family].reason}")


def _unsettled(world: World, incident: Incident) -> bool:
    """It is being repaired, or is about to be: an approval, or the end of a pause, lets many go on at once, too."""
    return incident.state in _UNSETTLED or incident.id in world.rerun


def _give_up(turn: Turn, incident: Incident, note: str, *, grouped: bool = False) -> None:
    """Nothing of its family is repaired for now: what was going to be waits for a person, and is probed for it no
    more. What runs is seen to its end."""
    if incident.state is State.DIAGNOSING:
        escalation.escalate(turn, incident, TierReason.CANARY_FAILED, note, grouped=grouped)
    elif incident.state is State.ESCALATED:
        turn.world.rerun.discard(incident.id)
        turn.drop_timer(TimerKind.RECHECK, incident.id)
        escalation.restate(turn, incident, TierReason.CANARY_FAILED, note, grouped=grouped)
