"""What people read (NFR-003, R1, R2): plain words, no jargon, under 600 characters on Signal. Pure.

Text that comes from readings or programs is `clean`ed: no control characters, one line, bounded. Synapse bodies avoid
the words and marks that make the site's REST side create memory rows (SITE.md).
"""

from __future__ import annotations

import re

from supervisor.incidents import halt_words, ladder
from supervisor.incidents.model import (
    AnomalyType,
    Channel,
    Execution,
    ExecutionState,
    Incident,
    State,
    Tier,
    TierReason,
)
from supervisor.incidents.readings import ProcessData
from supervisor.incidents.world import (
    World,
)
from supervisor.synapse_text import harmless

SIGNAL_CHARS_MAX = 600
QUOTE_CHARS_MAX = 160
HALT_CHARS_MAX = 230
TOLD_CHARS_MAX = 300
PLAN_CHARS_MAX = 200  # of a dry run's words, on Signal
STEPS_CHARS_MAX = 400  # and on Synapse
GROUP_NAMES_MAX = 20

KIND = {Tier.SILENT: "", Tier.INFORM: "summary", Tier.ASK: "approval", Tier.PAGE: "page"}

_WHAT = {
    AnomalyType.PROCESS_DEAD: "{target} is down",
    AnomalyType.PROCESS_ZOMBIE: "{target} left a zombie process",
    AnomalyType.SIGNAL_STALE: "the live signal {target} is stale",
    AnomalyType.PHANTOM_POSITION: "{target} has an open trade that no live signal accounts for",
    AnomalyType.PIPELINE_STUCK: "{target} is stuck",
    AnomalyType.FLEET_UNREACHABLE: "{target} cannot be reached",
    AnomalyType.DISK_PRESSURE: "{target} is getting full",
    AnomalyType.DISK_CRITICAL: "{target} is nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory is getting short ({target})",
    AnomalyType.MEMORY_CRITICAL: "memory is nearly gone ({target})",
    AnomalyType.DB_CORRUPTION: "the database {target} is damaged",
    AnomalyType.LOG_BLOAT: "{target} holds a log file that has grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {target} does not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {target} keeps failing",
    AnomalyType.WORKER_FAILING: "healctl's own part {target} has failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl set {target} aside: handling it killed a worker twice",
    AnomalyType.PROBE_UNAVAILABLE: "healctl cannot check {target}",
    AnomalyType.DELIVERY_FAILING: "healctl cannot deliver its messages ({target})",
    AnomalyType.LEDGER_DAMAGED: "healctl's own ledger was damaged and begun anew ({target})",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's ledger runs out of room ({target})",
    AnomalyType.LIMIT_REACHED: "healctl has reached a limit of its own ({target})",
    AnomalyType.BACKUP_OVERDUE: "there is no recent good copy of a database ({target})",
    AnomalyType.DRILL: "DRILL, nothing is wrong ({target})",
    AnomalyType.DRILL_FAILED: "a drill of healctl's has failed ({target}): a real page might not reach you",
}
_WAS = {
    AnomalyType.PROCESS_DEAD: "{target} went down",
    AnomalyType.PROCESS_ZOMBIE: "{target} had left a zombie process",
    AnomalyType.SIGNAL_STALE: "the live signal {target} was stale",
    AnomalyType.PHANTOM_POSITION: "{target} had an open trade that no live signal accounted for",
    AnomalyType.PIPELINE_STUCK: "{target} was stuck",
    AnomalyType.FLEET_UNREACHABLE: "{target} could not be reached",
    AnomalyType.DISK_PRESSURE: "{target} was getting full",
    AnomalyType.DISK_CRITICAL: "{target} was nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory was getting short ({target})",
    AnomalyType.MEMORY_CRITICAL: "memory was nearly gone ({target})",
    AnomalyType.DB_CORRUPTION: "the database {target} was damaged",
    AnomalyType.LOG_BLOAT: "{target} held a log file that had grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {target} did not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {target} kept failing",
    AnomalyType.WORKER_FAILING: "healctl's own part {target} had failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl had set {target} aside",
    AnomalyType.PROBE_UNAVAILABLE: "healctl could not check {target}",
    AnomalyType.DELIVERY_FAILING: "healctl could not deliver its messages ({target})",
    AnomalyType.LEDGER_DAMAGED: "healctl's damaged ledger was taken away ({target})",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's ledger was running out of room ({target})",
    AnomalyType.LIMIT_REACHED: "healctl had reached a limit of its own ({target})",
    AnomalyType.BACKUP_OVERDUE: "there was no recent good copy of a database ({target})",
    AnomalyType.DRILL: "DRILL, nothing was wrong ({target})",
    AnomalyType.DRILL_FAILED: "a drill of healctl's had failed ({target})",
}
_STATE = {
    State.DETECTED: "just detected",
    State.DIAGNOSING: "being looked at",
    State.REMEDIATING: "being repaired",
    State.VERIFYING: "repaired, being checked",
    State.REMEDIATION_FAILED: "repair failed",
    State.ESCALATED: "waiting for you",
    State.RESOLVED: "resolved",
    State.SELF_RESOLVED: "recovered by itself",
    State.DISMISSED: "dismissed",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]+")


def clean(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    """Text from a reading or a program, harmless and short enough to quote."""
    text = _CONTROL.sub(" ", text).strip()
    text = re.sub(r" {2,}", " ", text)
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def what(incident: Incident) -> str:
    """What is, or was, wrong: one clause."""
    words = _WHAT if incident.open else _WAS
    return words[incident.anomaly].format(target=clean(incident.target_id, 60))


def subject(incident: Incident, kind: str) -> str:
    """One line; `kind` is the outbox row's."""
    if kind in ("outcome", "closing"):
        return f"{what(incident)}: {_STATE[incident.state]}"
    if kind == "approval":
        return f"{what(incident)}: approve {incident.runbook_id}?"
    return what(incident)


def body(world: World, incident: Incident, channel: Channel, kind: str) -> str:
    """The whole text for one channel."""
    if channel is Channel.SIGNAL:
        text = _closing(incident) if kind == "closing" else _signal(world, incident, kind)
        return clean_lines(text, SIGNAL_CHARS_MAX)
    return harmless(_synapse(world, incident))


def clean_lines(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def _signal(world: World, incident: Incident, kind: str) -> str:
    execution = _execution(world, incident)
    head = "Still open: " if kind == "repeat" else ""
    parts = [
        f"{head}{what(incident)}. {_sentence(incident.evidence)}",
        _tried(incident, execution),
        _sentence(_would(incident), PLAN_CHARS_MAX) if _is_asked(incident) else "",
        _decide(world, incident),
    ]
    return "\n".join(part for part in parts if part)


def _tried(incident: Incident, execution: Execution | None) -> str:
    """What was tried and what came of it."""
    if execution is None or incident.tier_reason in (TierReason.NO_RUNBOOK, TierReason.CANNOT_EXECUTE):
        return "Nothing was tried." if incident.open else "Nothing was done."
    if incident.open and (told := halt_words.tried(execution)):
        return _sentence(told, HALT_CHARS_MAX)
    last = execution.results[-1] if execution.results else None
    if execution.exit_text and incident.open:
        return f"{_did(execution)}. It failed: {_sentence(execution.exit_text)}"
    did = _did(execution)
    if incident.state is State.RESOLVED:
        return f"Done: {execution.runbook.label.lower()} ({execution.runbook.id}). It works again, verified."
    if incident.state in (State.REMEDIATING, State.VERIFYING):
        return f"{did}. Not finished yet."
    if last is not None and not last.success:
        return f"{did}. It failed: {_sentence(last.output)}"
    if last is not None and execution.state is ExecutionState.SUCCEEDED and not execution.runbook.verifies:
        done = f"Done: {execution.runbook.label.lower()} ({execution.runbook.id})"
        return f"{done}. {_sentence(last.output, TOLD_CHARS_MAX)}"
    if execution.verified is False:
        return f"{did}. The steps worked, but it is still not well."
    return f"{did}. It was interrupted, the result is unknown."


def _did(execution: Execution) -> str:
    return f"Tried: {execution.runbook.label.lower()} ({execution.runbook.id})"


def _decide(world: World, incident: Incident) -> str:
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


def _is_asked(incident: Incident) -> bool:
    return incident.state is State.ESCALATED and incident.tier_reason is TierReason.NEEDS_APPROVAL


def _would(incident: Incident) -> str:
    """What the runbook that is proposed would do, by its dry run; empty when there is none."""
    run = next((run for run in incident.dry_runs if run.runbook_id == incident.runbook_id), None)
    if run is None:
        return ""
    if run.error:
        return f"{run.runbook_id} could not be tried dry: {run.error}"
    return f"proposed: {run.steps}" + ("" if run.predicts_clear else " (which would not end it, as it looks)")


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


def _closing(incident: Incident) -> str:
    return f"Over: {what(incident)}; it is {_STATE[incident.state]}."


def _synapse(world: World, incident: Incident) -> str:
    """NFR-003: anomaly, action taken, verification status, current state."""
    execution = _execution(world, incident)
    lines = [
        f"Anomaly: {what(incident)} ({incident.anomaly}, {incident.severity}). {_sentence(incident.evidence)}",
        f"Action: {_tried(incident, execution)}",
        f"Verification: {_verification(execution)}",
        f"State: {incident.state} ({_STATE[incident.state]})",
        f"Incident: {incident.id}",
    ]
    if _is_asked(incident):
        lines += _proposal(world, incident)
    elif incident.open:
        lines.append(_decide(world, incident))
    return "\n".join(lines)


def _proposal(world: World, incident: Incident) -> list[str]:
    """R1, tier 2: the proposed steps and how to approve them."""
    runbook = world.runbooks.get(incident.runbook_id or "")
    steps = ", ".join(step.step_id for step in runbook.steps) if runbook else ""
    would = _would(incident)
    dry = [f"Dry run: {_sentence(would.removeprefix('proposed: '), STEPS_CHARS_MAX)}"] if would else []
    return [f"Proposed: {incident.runbook_id}: {steps}", *dry, _decide(world, incident)]


def announcement(world: World, incident: Incident | None, says: str) -> str:
    """Something that is no incident's outcome, but came of one (`incident`), or of none."""
    text = says if incident is None else f"{says}\n{_synapse(world, incident)}"
    return harmless(text)


def _verification(execution: Execution | None) -> str:
    if execution is None:
        return "nothing ran"
    if not execution.runbook.verifies and execution.state is ExecutionState.SUCCEEDED:
        return "it tells or protects, there is nothing to verify"
    if execution.verified is None:
        return "not yet known"
    return "passed" if execution.verified else "failed"


def _execution(world: World, incident: Incident) -> Execution | None:
    wanted = incident.execution_id or ""
    return world.executions.get(wanted) or world.ended.get(wanted)


def _sentence(text: str, limit: int = QUOTE_CHARS_MAX) -> str:
    text = clean(text, limit)
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def group(incidents: list[Incident], *sentences: str) -> str:
    """DESIGN §5: a grouped page names every target when they are 20 or fewer. `sentences`: the likely cause, ..."""
    names = [clean(incident.target_id, 40) for incident in incidents]
    listed = ", ".join(names[:GROUP_NAMES_MAX])
    more = f" and {len(names) - GROUP_NAMES_MAX} more" if len(names) > GROUP_NAMES_MAX else ""
    family = incidents[0].family
    by_runbook = ", or repair one with `healctl heal execute`" if incidents[0].runbook_id else ""
    text = (
        f"{len(names)} {family} targets failed at once: {listed}{more}.\n"
        f"{' '.join(_sentence(sentence) for sentence in sentences if sentence)}\n"
        f"Decide: find the common cause{by_runbook}."
    )
    return clean_lines(text, SIGNAL_CHARS_MAX * 2)
