"""What a person did becomes the draft of a runbook (FR-006): told by `record_fix`, or captured by a hook. Pure.

A draft is proposed on Synapse, starts in dry_run, and gains its way like any other runbook: by approval or graduation
(R4). Secrets are gone before anything is kept (`redact`). What was captured stands in the trail of the incident, so a
crash loses none of it.
"""

from __future__ import annotations

import shlex
from typing import Annotated

import msgspec

from supervisor import redact
from supervisor.errors import Refused, UnknownId, UsageError
from supervisor.incidents import matching, notices, posting
from supervisor.incidents.effects import Answer
from supervisor.incidents.matching import Command
from supervisor.incidents.model import (
    AGENT,
    ActedBy,
    Channel,
    Incident,
    Mode,
    OutboxRow,
    Runbook,
    State,
    StepResult,
    Target,
    Tier,
    TimerKind,
    TrailEntry,
)
from supervisor.incidents.plain_text import clean
from supervisor.incidents.views import Json
from supervisor.incidents.world import RECHECK_S, Turn

OWN_FAMILY = "tree"
CAPTURE = "capture:"  # of the actor of a trail entry that holds a captured command
PERSON = "person:"  # of the author of a draft
DRAFTS_MAX = 200
DESCRIPTION_CHARS_MAX = 1_000
CONCERNED_MAX = 20  # open incidents that a command may be noted for
LATE_S = 60.0  # so long after an incident's end a hook's report may still be about it
RECEIPT_S = 3.0  # so long `record_fix` waits to be able to say that its message has arrived
HAND_STATES = (State.DETECTED, State.DIAGNOSING, State.ESCALATED)  # no runbook is at work


class RecordFixArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    incident_id: str
    description: str
    commands: Annotated[tuple[Command, ...], msgspec.Meta(max_length=matching.COMMANDS_MAX)] = ()


class CapturedArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Commands that have just ended with exit 0, by what reported them (bash, zsh, openclaw ...)."""

    commands: Annotated[tuple[Command, ...], msgspec.Meta(max_length=matching.COMMANDS_MAX)]
    source: Annotated[str, msgspec.Meta(max_length=40)] = "shell"


def record_fix(turn: Turn, token: str, args: RecordFixArgs, actor: str) -> Json | None:
    """AC-006. Answered once the proposal has arrived, or after a moment without."""
    description = redact.text(clean(args.description, DESCRIPTION_CHARS_MAX))
    if not description:
        raise UsageError("record_fix needs a description", "e.g. --description 'restarted the database first'")
    incident = _incident(turn, args.incident_id)
    commands = tuple(matching.harmless(command) for command in args.commands if command) or captured_for(turn, incident)
    if incident.open:
        incident = turn.note(incident, actor, f"fix recorded: {description}")
        incident = _by_hand(turn, incident)
    runbook, row = _propose(turn, incident, commands, description, actor)
    body: Json = {
        "success": True,
        "incident_id": incident.id,
        "incident_resolved": not incident.open,
        "draft_runbook_id": runbook.id,
        "draft_runbook_mode": Mode.DRY_RUN.value,
        "synapse_message_sent": False,
        "synapse_message_id": row.id,
        "steps": [{"step_id": step.step_id, "kind": step.kind} for step in runbook.steps],
        "next_step": _next_step(incident, runbook),
    }
    turn.world.proposed[row.id] = (token, body)
    turn.set_timer(TimerKind.PROPOSED, row.id, RECEIPT_S)
    return None


def captured(turn: Turn, token: str, args: CapturedArgs, actor: str) -> Json:
    """A hook's report: kept with the open incidents that it may be about, if it did more than look."""
    del token
    noted: dict[str, None] = {}
    who = (AGENT if actor.startswith(AGENT) else "") + args.source
    for raw in args.commands:
        command = matching.harmless(raw)
        if not command or matching.looks_only(command):
            continue
        meaning = matching.meaning_of(command, turn.world.meanings)
        target_id = meaning.target_id if meaning is not None else ""
        concerned = _concerned(turn, target_id)
        if not concerned and meaning is not None:
            noted |= dict.fromkeys(_late(turn, target_id, command, who))
        for incident in concerned:
            words = shlex.join(command)
            kept = StepResult("", True, msgspec.json.encode(command).decode(), 0.0)
            incident = turn.note(incident, CAPTURE + who, f"{actor} ran: {clean(words)}", kept)
            noted[incident.id] = None
            if meaning is not None:
                _by_hand(turn, incident)
    return {"success": True, "noted_for": list(noted)}


def _late(turn: Turn, target_id: str, command: Command, who: str) -> list[str]:
    """A hook's report can come after the probe has seen the service back: its incident has just closed."""
    since = turn.now.wall_s - LATE_S
    just = [it for closed in turn.world.closed.values() for it in closed if (it.resolved_wall_s or 0.0) > since]
    mine = [it for it in just if it.state is not State.DISMISSED and it.execution_id is None]
    found = [it for it in mine if target_id in _targets(turn, it)]
    for incident in found:
        if len(turn.world.drafts) < DRAFTS_MAX:
            _propose(turn, incident, (command,), "", who)
    return [incident.id for incident in found]


def closing(turn: Turn, incident: Incident) -> None:
    """The probe reads clear: if a person's commands came before that, and no runbook ran, they are worth keeping."""
    if incident.execution_id is not None or incident.family == OWN_FAMILY:
        return
    commands = captured_for(turn, incident)
    if commands and len(turn.world.drafts) < DRAFTS_MAX:
        sources = {it.actor.removeprefix(CAPTURE) for it in _captures(turn, incident)}
        # What an agent had a hand in is an agent's: such a draft never graduates by itself (R4).
        _propose(turn, incident, commands, "", min(sources, key=lambda source: (not source.startswith(AGENT), source)))


def delivered(turn: Turn, row_id: str) -> None:
    """The proposal has arrived: whoever recorded the fix hears so."""
    _answer(turn, row_id, sent=True)


def receipt_due(turn: Turn, row_id: str) -> None:
    _answer(turn, row_id, sent=False)


def captured_for(turn: Turn, incident: Incident) -> tuple[Command, ...]:
    """The commands that were captured while it was open, oldest first."""
    return tuple(msgspec.json.decode(it.output or "[]", type=Command) for it in _captures(turn, incident))


def _captures(turn: Turn, incident: Incident) -> list[TrailEntry]:
    return [it for it in turn.world.trails.get(incident.id, ()) if it.actor.startswith(CAPTURE) and it.output]


def _propose(
    turn: Turn, incident: Incident, commands: tuple[Command, ...], description: str, actor: str
) -> tuple[Runbook, OutboxRow]:
    """The draft, new or known, and the message about it. Raises Refused when there are too many."""
    world = turn.world
    target = world.target(incident.target_id) or Target(incident.target_id, incident.family)
    runbook = matching.draft(
        commands, description, incident.anomaly, target, PERSON + actor, world.runbooks, world.meanings
    )
    if runbook.id not in world.runbooks:
        if len(world.drafts) >= DRAFTS_MAX:
            raise Refused(f"{DRAFTS_MAX} drafts are kept already", "make runbook files of those that are worth it")
        turn.put_draft(runbook)
        turn.metric("heal_runbook_created", runbook.id, "created", incident.id)
    runbook = world.runbooks[runbook.id]
    subject, body = notices.proposed(incident, runbook)
    row = posting.notice(turn, Channel.SYNAPSE, Tier.ASK, "proposal", subject, body, (incident.id,))
    return runbook, row


def _next_step(incident: Incident, runbook: Runbook) -> str:
    until = "" if not incident.open else "the incident closes when its probe reads clear; "
    if runbook.by_hand:
        return f"{until}the draft has steps that only a person can do, and is kept as a note"
    return f"{until}approve it with: healctl heal approve {runbook.id} --target {incident.target_id}"


def _incident(turn: Turn, incident_id: str) -> Incident:
    """An open one, or one that has lately closed: whoever repairs by hand often records it afterwards."""
    found = turn.incident(incident_id)
    if found is None:
        every = (it for closed in turn.world.closed.values() for it in closed)
        found = next((it for it in every if it.id == incident_id), None)
    if found is None:
        raise UnknownId(f"no incident {incident_id!r} is open or has lately closed", "see `healctl heal status`")
    return found


def _by_hand(turn: Turn, incident: Incident) -> Incident:
    """A person is at it: its end is theirs, and its probe is asked at once."""
    if incident.state not in HAND_STATES:
        return incident
    incident = turn.update(incident, acted_by=ActedBy.PERSON)
    if incident.family != OWN_FAMILY:
        turn.ask_probe(incident.target_id, incident.family)
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
    return incident


def _concerned(turn: Turn, target_id: str) -> list[Incident]:
    """The open incidents that this command may be about: of its target, or any where it is of none."""
    found = [it for it in turn.world.incidents.values() if it.family != OWN_FAMILY]
    return [it for it in found if not target_id or target_id in _targets(turn, it)][:CONCERNED_MAX]


def _targets(turn: Turn, incident: Incident) -> tuple[str, str]:
    target = turn.world.target(incident.target_id)
    return incident.target_id, target.service_id if target is not None else incident.target_id


def _answer(turn: Turn, row_id: str, *, sent: bool) -> None:
    waiting = turn.world.proposed.pop(row_id, None)
    turn.drop_timer(TimerKind.PROPOSED, row_id)
    if waiting is not None:
        token, body = waiting
        turn.effects.append(Answer(token, body=body | {"synapse_message_sent": sent}))
