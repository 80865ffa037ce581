"""What people read (NFR-003, R1, R2): plain words, no jargon, under 600 characters on Signal. Pure.

Text that comes from readings or programs is `clean`ed: no control characters, one line, bounded. Synapse bodies avoid
the words and marks that make the site's REST side create memory rows (SITE.md).
"""

from __future__ import annotations

import re

from supervisor.incidents import halt_words
from supervisor.incidents.choices import decide
from supervisor.incidents.model import (
    Channel,
    Execution,
    ExecutionState,
    Incident,
    State,
    Tier,
    TierReason,
)
from supervisor.incidents.phrases import STATE, what
from supervisor.incidents.plain_text import clean, clean_lines, sentence
from supervisor.incidents.world import (
    World,
)

SIGNAL_CHARS_MAX = 600
HALT_CHARS_MAX = 230
TOLD_CHARS_MAX = 300
PLAN_CHARS_MAX = 200  # of a dry run's words, on Signal
STEPS_CHARS_MAX = 400  # and on Synapse
GROUP_NAMES_MAX = 20

KIND = {Tier.SILENT: "", Tier.INFORM: "summary", Tier.ASK: "approval", Tier.PAGE: "page"}

_MEMORY_MARKS = re.compile(r"@(?=remember|insight|decision|atom)", re.IGNORECASE)
_MEMORY_WORDS = re.compile(r"(?<![\w-])(because|triggers?)(?![\w-])", re.IGNORECASE)  # not within a name: rb-gc-trigger


def subject(incident: Incident, kind: str) -> str:
    """One line; `kind` is the outbox row's."""
    if kind in ("outcome", "closing"):
        return f"{what(incident)}: {STATE[incident.state]}"
    if kind == "approval":
        return f"{what(incident)}: approve {incident.runbook_id}?"
    return what(incident)


def body(world: World, incident: Incident, channel: Channel, kind: str) -> str:
    """The whole text for one channel."""
    if channel is Channel.SIGNAL:
        text = _closing(incident) if kind == "closing" else _signal(world, incident, kind)
        return clean_lines(text, SIGNAL_CHARS_MAX)
    return _for_synapse(_synapse(world, incident))


def _for_synapse(text: str) -> str:
    return _MEMORY_WORDS.sub(_softer, _MEMORY_MARKS.sub("(at)", text))


def _softer(match: re.Match[str]) -> str:
    return "since" if match.group().lower() == "because" else "causes"


def _signal(world: World, incident: Incident, kind: str) -> str:
    execution = _execution(world, incident)
    head = "Still open: " if kind == "repeat" else ""
    parts = [
        f"{head}{what(incident)}. {sentence(incident.evidence)}",
        _tried(incident, execution),
        sentence(_would(incident), PLAN_CHARS_MAX) if _is_asked(incident) else "",
        decide(world, incident),
    ]
    return "\n".join(part for part in parts if part)


def _tried(incident: Incident, execution: Execution | None) -> str:
    """What was tried and what came of it."""
    if execution is None or incident.tier_reason in (TierReason.NO_RUNBOOK, TierReason.CANNOT_EXECUTE):
        return "Nothing was tried." if incident.open else "Nothing was done."
    if incident.open and (told := halt_words.tried(execution)):
        return sentence(told, HALT_CHARS_MAX)
    last = execution.results[-1] if execution.results else None
    if execution.exit_text and incident.open:
        return f"{_did(execution)}. It failed: {sentence(execution.exit_text)}"
    did = _did(execution)
    if incident.state is State.RESOLVED:
        return f"Done: {execution.runbook.label.lower()} ({execution.runbook.id}). It works again, verified."
    if incident.state in (State.REMEDIATING, State.VERIFYING):
        return f"{did}. Not finished yet."
    if last is not None and not last.success:
        return f"{did}. It failed: {sentence(last.output)}"
    if last is not None and execution.state is ExecutionState.SUCCEEDED and not execution.runbook.verifies:
        done = f"Done: {execution.runbook.label.lower()} ({execution.runbook.id})"
        return f"{done}. {sentence(last.output, TOLD_CHARS_MAX)}"
    if execution.verified is False:
        return f"{did}. The steps worked, but it is still not well."
    return f"{did}. It was interrupted, the result is unknown."


def _did(execution: Execution) -> str:
    return f"Tried: {execution.runbook.label.lower()} ({execution.runbook.id})"


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


def _closing(incident: Incident) -> str:
    return f"Over: {what(incident)}; it is {STATE[incident.state]}."


def _synapse(world: World, incident: Incident) -> str:
    """NFR-003: anomaly, action taken, verification status, current state."""
    execution = _execution(world, incident)
    lines = [
        f"Anomaly: {what(incident)} ({incident.anomaly}, {incident.severity}). {sentence(incident.evidence)}",
        f"Action: {_tried(incident, execution)}",
        f"Verification: {_verification(execution)}",
        f"State: {incident.state} ({STATE[incident.state]})",
        f"Incident: {incident.id}",
    ]
    if _is_asked(incident):
        lines += _proposal(world, incident)
    elif incident.open:
        lines.append(decide(world, incident))
    return "\n".join(lines)


def _proposal(world: World, incident: Incident) -> list[str]:
    """R1, tier 2: the proposed steps and how to approve them."""
    runbook = world.runbooks.get(incident.runbook_id or "")
    steps = ", ".join(step.step_id for step in runbook.steps) if runbook else ""
    would = _would(incident)
    dry = [f"Dry run: {sentence(would.removeprefix('proposed: '), STEPS_CHARS_MAX)}"] if would else []
    return [f"Proposed: {incident.runbook_id}: {steps}", *dry, decide(world, incident)]


def announcement(world: World, incident: Incident | None, says: str) -> str:
    """Something that is no incident's outcome, but came of one (`incident`), or of none."""
    text = says if incident is None else f"{says}\n{_synapse(world, incident)}"
    return _for_synapse(text)


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


def group(incidents: list[Incident], *sentences: str) -> str:
    """DESIGN §5: a grouped page names every target when they are 20 or fewer. `sentences`: the likely cause, ..."""
    names = [clean(incident.target_id, 40) for incident in incidents]
    listed = ", ".join(names[:GROUP_NAMES_MAX])
    more = f" and {len(names) - GROUP_NAMES_MAX} more" if len(names) > GROUP_NAMES_MAX else ""
    family = incidents[0].family
    by_runbook = ", or repair one with `healctl heal execute`" if incidents[0].runbook_id else ""
    text = (
        f"{len(names)} {family} targets failed at once: {listed}{more}.\n"
        f"{' '.join(sentence(text) for text in sentences if text)}\n"
        f"Decide: find the common cause{by_runbook}."
    )
    return clean_lines(text, SIGNAL_CHARS_MAX * 2)
