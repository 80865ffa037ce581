"""What is a person's to decide about an incident, with the shortest command for each choice (NFR-003). Pure."""

from __future__ import annotations

from supervisor.incidents import halt_words, ladder
from supervisor.incidents.model import AnomalyType, Incident, State, Tier, TierReason
from supervisor.incidents.plain_text import clean
from supervisor.incidents.readings import ProcessData
from supervisor.incidents.world import World


def decide(world: World, incident: Incident) -> str:
    """Exactly what is the person's to decide, with the shortest command for it."""
    return halt_words.decide(world, incident) or _reap(world, incident) or _by_state(world, incident)


def _reap(world: World, incident: Incident) -> str:
    """R12: what its parent did not reap when it was asked to goes with the parent: which one, and how to restart it."""
    tried = incident.tier_reason in (TierReason.VERIFICATION_FAILED, TierReason.BREAKER_OPEN)
    reading = world.readings.get(incident.target_id)
    data = reading.data if reading is not None else None
    if incident.state is not State.ESCALATED or incident.anomaly is not AnomalyType.PROCESS_ZOMBIE or not tried:
        return ""
    if not isinstance(data, ProcessData) or not data.zombies:
        return ""
    zombie = max(data.zombies, key=lambda zombie: zombie.seen_for_s)
    parent = f"{clean(zombie.parent_name, 40)} ({zombie.parent_pid})"
    service = _service_of(world, zombie.parent_pid)
    how = f"with `healctl heal execute rb-restart-service --target {service} --confirm`" if service else "by hand"
    return (
        f"Only its parent {parent} can reap it, and did not. Decide: restart the parent {how}, or "
        f"`healctl heal dismiss {incident.id} --reason ...`."
    )


def _service_of(world: World, pid: int) -> str:
    """The service with a recipe whose live process this is, by its newest reading; empty for none."""
    for target in world.targets.values():
        reading = world.readings.get(target.target_id)
        data = reading.data if reading is not None else None
        live = isinstance(data, ProcessData) and data.process is not None and data.process.pid == pid
        if live and target.recipe is not None:
            return target.target_id
    return ""


def _by_state(world: World, incident: Incident) -> str:
    """Exactly what is the person's to decide, with the shortest command for it."""
    more = ladder.following(world, incident)
    approve = f"`healctl heal approve {more.runbook.id} --target {incident.target_id}`" if more is not None else ""
    climbs = incident.state is State.ESCALATED and incident.tier_reason in ladder.CLIMBS
    if climbs and more is not None:
        if more.runs:
            return f"Nothing to decide yet: {more.runbook.label.lower()} ({more.runbook.id}) is tried next, by itself."
        return (
            f"Decide: let healctl go on with {approve} ({more.runbook.label.lower()}; `dry_run` instead of `approve` "
            "says what it would do), or repair it by hand."
        )
    match incident.state, incident.tier_reason:
        case ((State.RESOLVED | State.SELF_RESOLVED | State.DISMISSED), _):
            return "Nothing to decide."
        case ((State.DETECTED | State.DIAGNOSING | State.REMEDIATING | State.VERIFYING), _):
            if more is not None and not more.runs:
                return f"Nothing to decide yet. If it stays so, decide: {approve}."
            return "Nothing to decide yet; `healctl heal status` shows how it goes."
        case _, TierReason.NEEDS_APPROVAL:
            return (
                f"Decide: let healctl repair it with `healctl heal approve {incident.runbook_id} "
                f"--target {incident.target_id}`, or look yourself and "
                f"`healctl heal dismiss {incident.id} --reason ...`."
            )
        case _, TierReason.TELLS_ONLY if incident.tier is Tier.INFORM:
            return f"Nothing must be decided now; what can be done by hand: {clean(incident.hint, 80)}."
        case _, TierReason.BREAKER_OPEN:
            return (
                "Automatic repair has stopped; one more try comes within the hour. Decide: find out why it does not "
                f"last, or try now with `healctl heal execute {incident.runbook_id} --target {incident.target_id} "
                "--confirm`."
            )
        case _, reason if reason not in (TierReason.NO_RUNBOOK, TierReason.CANNOT_EXECUTE) and incident.runbook_id:
            return (
                "Decide: repair it by hand, or try again with "
                f"`healctl heal execute {incident.runbook_id} --target {incident.target_id} --confirm`."
            )
        case _:
            return (
                f"Decide: repair it by hand ({clean(incident.hint, 80)}), or "
                f"`healctl heal dismiss {incident.id} --reason ...`."
            )
