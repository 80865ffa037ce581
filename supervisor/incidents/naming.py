"""What every order of a person needs (FR-007): the things it names, or an error that says which there are. Pure."""

from __future__ import annotations

from supervisor.errors import Refused, UnknownId
from supervisor.incidents.ladder import fits
from supervisor.incidents.model import Incident, Runbook, Target
from supervisor.incidents.world import Turn


def runbook_of(turn: Turn, runbook_id: str) -> Runbook:
    runbook = turn.world.runbooks.get(runbook_id)
    if runbook is None:
        raise UnknownId(f"no runbook {runbook_id!r}", f"known: {', '.join(turn.world.runbooks) or 'none'}")
    return runbook


def target_of(turn: Turn, target_id: str) -> Target:
    target = turn.world.target(target_id)
    if target is None:
        known = ", ".join(sorted(turn.world.targets)[:20]) or "none configured"
        raise UnknownId(f"no target {target_id!r}", f"known: {known}")
    return target


def open_incident_of(turn: Turn, named: str) -> Incident:
    """By its id, or by the name of its target where that has one open incident only: that is what a page says."""
    incident = turn.incident(named)
    if incident is not None:
        return incident
    mine = [it for it in turn.world.incidents.values() if it.target_id == named]
    if len(mine) > 1:
        raise UnknownId(f"{named} has {len(mine)} open incidents", f"name one: {', '.join(it.id for it in mine)}")
    if not mine:
        raise UnknownId(f"no open incident {named!r}", "`healctl heal status` lists the open ones")
    return mine[0]


def must_be_for(runbook: Runbook, target: Target) -> None:
    if not runbook.is_for(target.target_id):
        raise Refused(f"{runbook.id} is not for {target.target_id}", f"its targets: {', '.join(runbook.targets)}")


def must_fit(runbook: Runbook, target: Target) -> None:
    must_be_for(runbook, target)
    if not fits(runbook, target):
        raise Refused(
            f"{target.target_id} has no restart recipe, so {runbook.id} cannot run for it",
            target.recipe_hint,
        )
