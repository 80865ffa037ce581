"""What people read (NFR-003, R1, R2): plain words, under 600 on Signal, in the operator's time. Pure; the way in.

A Signal text says what broke and since when, what was tried and what came of it, and exactly what to decide. When it
grows too long, others' words shrink (a reading's, a program's); what broke and what to decide are never cut. A Synapse
text says anomaly, action, verification and state, each on its line.

What is wrong and what repairs do is said in `phrases`, what was tried in `attempts`, what to decide in `choices`, times
in `local_time`, and what is no incident's in `notices`; `plain_text` makes others' words harmless.
"""

from __future__ import annotations

from supervisor.incidents import local_time
from supervisor.incidents.attempts import DETAIL_CHARS_MIN, Part, execution_of, tried
from supervisor.incidents.choices import decide, of_many
from supervisor.incidents.judge import span
from supervisor.incidents.model import Channel, Execution, ExecutionState, Incident, State, Tier, TierReason
from supervisor.incidents.phrases import MANY, NAME_CHARS_MAX, STATE, do, name_of, opening, what
from supervisor.incidents.plain_text import QUOTE_CHARS_MAX, capital, clean, lines, sentence, units
from supervisor.incidents.world import World
from supervisor.synapse_text import harmless

SIGNAL_CHARS_MAX = 599  # NFR-003: under 600
SYNAPSE_CHARS_MAX = 4_000
SUBJECT_CHARS_MAX = 200
PLAN_CHARS_MAX = 200  # of a dry run's words, on Signal
STEPS_CHARS_MAX = 400  # and on Synapse
GROUP_NAMES_MAX = 20
GROUP_NAME_CHARS_MAX = 40
HOST_CHARS_MAX = 40

KIND = {Tier.SILENT: "", Tier.INFORM: "summary", Tier.ASK: "approval", Tier.PAGE: "page"}
_HEADS = {"repeat": "still: ", "closing": "over: "}


def finished(channel: Channel, text: str) -> str:
    """The last guard of whatever leaves: no control characters, bounded, harmless on its channel."""
    if channel is Channel.SIGNAL:
        return lines(text, SIGNAL_CHARS_MAX)
    return harmless(lines(text, SYNAPSE_CHARS_MAX))


def with_last_line(text: str, line: str) -> str:
    """A Signal text with a line that is never cut: what the text has too much of gives way."""
    return f"{lines(text, SIGNAL_CHARS_MAX - units(line) - 1)}\n{line}"


def on_host(world: World, text: str) -> str:
    """With the machine's name in front, where it was given one: "atlas: web is down"."""
    host = clean(world.policy.host, HOST_CHARS_MAX)
    return f"{host}: {text}" if host else capital(text)


def headline(world: World, incident: Incident, kind: str) -> str:
    """What is, or was, wrong, in one clause: a Signal text begins with it."""
    head = _HEADS.get(kind, "")
    return on_host(world, head + what(incident)) if head or world.policy.host else opening(incident)


def subject(world: World, incident: Incident, channel: Channel, kind: str) -> str:
    """One line; `kind` is the outbox row's. Signal's is what its text begins with, and so is not sent twice."""
    text = headline(world, incident, kind)
    runbook = world.runbooks.get(incident.runbook_id or "")
    if channel is Channel.SYNAPSE and kind == "outcome":
        return f"{text} ({'repaired' if incident.state is State.RESOLVED else STATE[incident.state]})"
    if channel is Channel.SYNAPSE and kind == "approval" and runbook is not None and _is_asked(incident):
        return f"{text}: {do(runbook, world.target(incident.target_id))}?"
    return text


def body(world: World, incident: Incident, channel: Channel, kind: str, now_wall_s: float, replies: str = "") -> str:
    """The whole text for one channel. `replies`: what can be answered from the phone, said in place of the commands."""
    if channel is Channel.SIGNAL:
        return finished(channel, _signal(world, incident, kind, now_wall_s, replies))
    return finished(channel, "\n".join((*_synapse(world, incident, now_wall_s), *_asked(world, incident, now_wall_s))))


def since(world: World, incident: Incident, now_wall_s: float) -> str:
    """ "(since 14:05)", and of what is over "(from 14:05, for 12 min)"."""
    began = local_time.at(world.policy.zone, incident.detected_wall_s, now_wall_s)
    if incident.open:
        return f"(since {began})"
    ended_s = incident.resolved_wall_s or incident.changed_wall_s
    return f"(from {began}, for {span(max(1.0, ended_s - incident.detected_wall_s))})"


def _signal(world: World, incident: Incident, kind: str, now_wall_s: float, replies: str) -> str:
    first = f"{headline(world, incident, kind)} {since(world, incident, now_wall_s)}"
    if kind == "closing":
        said = f"{first}.\n{tried(world, incident, now_wall_s).text(STEPS_CHARS_MAX)}"
        return f"{said}\n{replies}" if replies else said
    parts = [Part(f"{first}:", incident.evidence), tried(world, incident, now_wall_s), _plan(incident)]
    return _fitted(parts, decide(world, incident, now_wall_s).text(replies), SIGNAL_CHARS_MAX)


def _plan(incident: Incident) -> Part:
    """What the proposed repair would do, by its dry run."""
    would = _would(incident) if _is_asked(incident) else ""
    lead, _, detail = would.partition(": ")
    return Part(f"{lead}:" if would else "", detail, PLAN_CHARS_MAX)


def _fitted(parts: list[Part], end: str, limit: int) -> str:
    """The lines, with as much of their details as fits before `end`, which is never cut: the longest give way first."""
    said = [part for part in parts if part.lead or part.detail]
    room = limit - units(end) - sum(units(part.text(0)) + 1 for part in said)
    texts: dict[int, str] = {}
    waiting = sorted(range(len(said)), key=lambda n: said[n].wanted)
    for left, n in zip(range(len(said), 0, -1), waiting, strict=True):
        share = max(0, room // left)
        text = said[n].text(share - 2 if share > DETAIL_CHARS_MIN + 2 else 0)
        room -= units(text) - units(said[n].text(0))
        texts[n] = text
    return "\n".join((*(texts[n] for n in range(len(said)) if texts[n]), end))


def _is_asked(incident: Incident) -> bool:
    return incident.state is State.ESCALATED and incident.tier_reason is TierReason.NEEDS_APPROVAL


def _would(incident: Incident) -> str:
    """What the repair that is proposed would do, by its dry run; empty when there is none."""
    run = next((run for run in incident.dry_runs if run.runbook_id == incident.runbook_id), None)
    if run is None:
        return ""
    if run.error:
        return f"What it would do is not known: {run.error}"
    doubt = "" if run.predicts_clear else ", though it does not look as if that would help"
    return f"It would{doubt}: {_plain(run.steps)}"


def _plain(steps: str) -> str:
    """A plan's steps begin with "would" here and there: it is said once."""
    return "; ".join(step.removeprefix("would ") for step in steps.split("; "))


def _synapse(world: World, incident: Incident, now_wall_s: float) -> list[str]:
    """NFR-003: anomaly, action taken, verification status, current state."""
    first = f"{headline(world, incident, '')} {since(world, incident, now_wall_s)}"
    return [
        f"Anomaly: {Part(f'{first}:', incident.evidence).text(QUOTE_CHARS_MAX)}",
        f"Kind: {incident.anomaly}, {incident.severity}{_repair(world, incident)}",
        f"Action: {tried(world, incident, now_wall_s).text(STEPS_CHARS_MAX)}",
        f"Verification: {_verification(incident, execution_of(world, incident))}",
        f"State: {incident.state} ({STATE[incident.state]})",
        f"Incident: {incident.id} ({clean(incident.target_id, NAME_CHARS_MAX)})",
    ]


def _repair(world: World, incident: Incident) -> str:
    """What was run, as programs call it that read this."""
    execution = execution_of(world, incident)
    return f"; ran {execution.runbook.id}" if execution is not None and execution.results else ""


def _asked(world: World, incident: Incident, now_wall_s: float) -> list[str]:
    """What the person is asked, in the lines behind it."""
    proposal = _proposal(world, incident) if _is_asked(incident) else []
    return [*proposal, decide(world, incident, now_wall_s).text()] if incident.open else []


def _proposal(world: World, incident: Incident) -> list[str]:
    """R1, tier 2: the proposed steps."""
    runbook = world.runbooks.get(incident.runbook_id or "")
    if runbook is None:
        return []
    steps = ", ".join(step.step_id for step in runbook.steps)
    would = _would(incident)
    dry = [f"Dry run: {sentence(would, STEPS_CHARS_MAX)}"] if would else []
    proposed = f"{do(runbook, world.target(incident.target_id))} ({runbook.id}: {steps})"
    return [f"Proposed: {proposed}", *dry]


def _verification(incident: Incident, execution: Execution | None) -> str:
    if execution is None:
        return "nothing ran"
    if not execution.to_be_proved and execution.state is ExecutionState.SUCCEEDED:
        return "nothing to verify: it only tells or protects"
    if execution.verified is not None:
        return "passed" if execution.verified else "failed"
    if incident.tier_reason is TierReason.INTERRUPTED:
        return "none, the repair was interrupted"
    ended = {ExecutionState.FAILED: "none, the repair failed", ExecutionState.EXPIRED: "none, nothing ran"}
    return ended.get(execution.state, "not yet known")


def announcement(world: World, incident: Incident | None, says: str, now_wall_s: float) -> str:
    """Something that is no incident's outcome, but came of one (`incident`), or of none; for Synapse."""
    return says if incident is None else "\n".join((says, *_synapse(world, incident, now_wall_s)))


def group_subject(world: World, incidents: list[Incident]) -> str:
    """What the page for many begins with."""
    many = MANY.get(incidents[0].family, f"{clean(incidents[0].family)} targets")
    return on_host(world, f"{len(incidents)} {many} failed at once")


def group(world: World, incidents: list[Incident], now_wall_s: float, *sentences: str) -> str:
    """DESIGN §5: a page for many names every target when they are 20 or fewer, as far as there is room.
    `sentences`: the likely cause, ..."""
    first = min(incident.detected_wall_s for incident in incidents)
    began = local_time.at(world.policy.zone, first, now_wall_s)
    head = f"{group_subject(world, incidents)} (since {began}):"
    said = " ".join(sentence(text) for text in sentences if text)
    end = "\n".join(text for text in (said, of_many(world, incidents).text()) if text)
    names = [name_of(incident.target_id, GROUP_NAME_CHARS_MAX) for incident in incidents]
    for shown in range(min(len(names), GROUP_NAMES_MAX), 0, -1):
        more = f" and {len(names) - shown} more" if len(names) > shown else ""
        text = f"{head} {', '.join(names[:shown])}{more}.\n{end}"
        if units(text) <= SIGNAL_CHARS_MAX:
            break
    return text
