"""What a person may order (FR-007): status, list_runbooks, approve, dry_run, execute, dismiss, ack, stats. Pure.

Every order is answered exactly once, by an `Answer` effect; one that changes something is answered only after its
decision is durable. A wrong id is an error, never a success (SITE.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from supervisor import redact
from supervisor.errors import HealError, NeedsConfirm, Refused, UsageError
from supervisor.incidents import (
    agents,
    approvals,
    cancelling,
    choices,
    drill,
    dryruns,
    learning,
    marks,
    matching,
    outcome,
    pauses,
    remedy,
    undoing,
    views,
)
from supervisor.incidents.effects import (
    Answer,
    PlanExecution,
)
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    ExecutionState,
    Incident,
    Runbook,
    State,
    Target,
    TimerKind,
)
from supervisor.incidents.naming import must_be_for, must_fit, open_incident_of, runbook_of, target_of
from supervisor.incidents.orders import MarkArgs
from supervisor.incidents.policy import changes, resource_of
from supervisor.incidents.world import (
    Turn,
)

REASON_CHARS_MAX = 500
DISMISS_S_MIN, DISMISS_S_MAX = 60.0, 30 * 86_400.0
ENDS = "stop-service"  # the kind of step that ends a live process


class NoArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


class DryRunArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runbook_id: str
    target_id: str


class ExecuteArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    runbook_id: str
    target_id: str
    confirm: bool = False


class DismissArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    incident_id: str
    reason: str
    for_s: float | None = None  # how long to be quiet; None: `[policy] dismiss_window`


class AckArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    incident_id: str


def handle(turn: Turn, token: str, action: str, args: bytes, actor: str, secret: str = "") -> None:
    """Carries out one order; `token` is unique for the request and the same when it is sent again. `secret` is what a
    one-time code is made of."""
    entry = TABLE.get(action)
    try:
        if entry is None:
            raise UsageError(f"unknown action {action!r}", f"known: {', '.join(sorted(TABLE))}")
        kind, run = entry
        try:
            parsed: Any = msgspec.json.decode(args, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise UsageError(f"{action}: {error}") from error
        agents.check(turn, action, actor)
        body: views.Json | None
        if action in agents.ASKED and agents.limited(turn.world, actor):
            body = _ask_person(turn, action, parsed, actor, secret)
        else:
            body = run(turn, token, parsed, actor)
        if action in AUDITED:
            turn.audit(token, actor, action, _for_audit(parsed))
    except HealError as error:
        turn.effects.append(Answer(token, error=error))
        return
    if body is not None:
        turn.effects.append(Answer(token, body=body))


def _for_audit(args: msgspec.Struct) -> str:
    """The arguments as JSON, without secrets: a person's own words and commands may hold some."""
    if isinstance(args, learning.RecordFixArgs):
        commands = tuple(matching.harmless(command) for command in args.commands)
        args = learning.RecordFixArgs(args.incident_id, args.description, commands)
    return redact.text(msgspec.json.encode(args).decode())


def _ask_person(
    turn: Turn, action: str, args: approvals.ApproveArgs | ExecuteArgs, actor: str, secret: str
) -> views.Json:
    """R15: what an agent may only ask for. What could not be done anyway is refused at once."""
    runbook = runbook_of(turn, args.runbook_id)
    target = target_of(turn, args.target_id) if args.target_id is not None else None
    if isinstance(args, ExecuteArgs):
        if not args.confirm:
            raise NeedsConfirm("Safety check: must pass confirm=true to force-execute a runbook")
        assert target is not None
        must_fit(runbook, target)
    elif target is not None and not args.revoke:
        must_be_for(runbook, target)
    text = msgspec.json.encode(args).decode()
    return agents.ask(turn, action, text, runbook, args.target_id, actor, secret)


def _requests(turn: Turn, token: str, args: NoArgs, actor: str) -> views.Json:
    return agents.pending(turn)


def _confirm(turn: Turn, token: str, args: agents.ConfirmArgs, actor: str) -> views.Json | None:
    """R15: a person confirms what an agent asked for. The same request sent again runs nothing twice: `execute` is
    idempotent by the token, and the code is spent."""
    execution_id = turn.id_of("exe", token)
    if execution_id in turn.world.executions or execution_id in turn.world.ended:
        known = turn.world.ended.get(execution_id) or turn.world.executions[execution_id]
        return _execute(turn, token, ExecuteArgs(known.runbook.id, known.target.target_id, True), actor)
    request = agents.take(turn, args.code)
    kind, run = TABLE[request.action]
    body = run(turn, token, msgspec.json.decode(request.args, type=kind), f"{actor} (asked by {request.by})")
    agents.over(turn, request.id)  # what was refused (a pause, a lock) can be confirmed again
    return body


def _status(turn: Turn, token: str, args: NoArgs, actor: str) -> views.Json:
    return choices.add_to(views.status(turn.world), turn.world, turn.now.wall_s)


def _list_runbooks(turn: Turn, token: str, args: NoArgs, actor: str) -> views.Json:
    return views.list_runbooks(turn.world)


def _stats(turn: Turn, token: str, args: NoArgs, actor: str) -> views.Json:
    return views.stats(turn.world)


def _dry_run(turn: Turn, token: str, args: DryRunArgs, actor: str) -> None:
    """FR-003: what would be done; nothing is written and nothing changes. The executor's steps answer."""
    runbook, target = runbook_of(turn, args.runbook_id), target_of(turn, args.target_id)
    must_fit(runbook, target)
    turn.effects.append(PlanExecution(dryruns.sketch(turn, runbook, target, None), token))


def _execute(turn: Turn, token: str, args: ExecuteArgs, actor: str) -> views.Json | None:
    """FR-007, R15: a person's order needs no anomaly, but locks hold. Sent twice, it runs once."""
    world = turn.world
    runbook, target = runbook_of(turn, args.runbook_id), target_of(turn, args.target_id)
    if not args.confirm:
        raise NeedsConfirm("Safety check: must pass confirm=true to force-execute a runbook")
    execution_id = turn.id_of("exe", token)
    known = world.executions.get(execution_id) or world.ended.get(execution_id)
    if known is not None and execution_id in world.ended:
        return views.execution_answer(known)
    if known is None:
        must_fit(runbook, target)
        if changes(runbook):
            pauses.refuse(world, target)
        holder = world.holder_of(resource_of(runbook, target))
        if holder is not None:
            raise Refused(
                f"{holder.resource} is in use by {holder.runbook.id} ({holder.id})",
                "wait until it is over: `healctl heal status`",
            )
        _refuse_anothers(turn, runbook, target)
        incident = _incident_for(turn, runbook, target)
        note = f"{runbook.id} executed by {actor}"
        remedy.begin(turn, runbook, target, Authority.PERSON, None, incident, note, execution_id, actor)
    turn.await_execution(execution_id, token)
    return None


def _refuse_anothers(turn: Turn, runbook: Runbook, target: Target) -> None:
    """Two pid files that name one process: without a `match` nobody can tell whose it is, so none may end it."""
    process = turn.world.known.get(target.service_id)
    may_end = runbook.starts_service or any(step.kind == ENDS for step in runbook.steps)
    if process is None or target.match or not may_end:
        return
    others = [name for name, known in turn.world.known.items() if known == process and name != target.service_id]
    if others:
        raise Refused(
            f"process {process.pid} is known as {', '.join(sorted(others))} too; it was not ended",
            f"set match in [process.{target.service_id}], so that healctl can tell them apart",
        )


def _incident_for(turn: Turn, runbook: Runbook, target: Target) -> Incident | None:
    """The open incident that this execution is about, if it is in a state that allows it."""
    for anomaly in runbook.applies_to:
        incident = turn.incident(turn.world.by_key.get((AnomalyType(anomaly), target.target_id), ""))
        if incident is not None and incident.state in (State.DIAGNOSING, State.ESCALATED):
            return incident
    return None


def _dismiss(turn: Turn, token: str, args: DismissArgs, actor: str) -> views.Json:
    """FR-007: no alert about it for `dismiss_window`."""
    reason = args.reason.strip()
    if not reason:
        raise UsageError("dismiss needs a reason", "e.g. --reason 'planned maintenance'")
    incident = open_incident_of(turn, args.incident_id)
    window_s = _quiet_s(turn, args.for_s, actor)
    until_wall_s = turn.now.wall_s + window_s
    turn.move(
        incident,
        Trigger.DISMISS,
        actor,
        f"dismissed: {reason[:REASON_CHARS_MAX]}",
        dismiss_until_steady_s=turn.now.steady_s + window_s,
        dismiss_until_wall_s=until_wall_s,
    )
    execution = turn.world.executions.get(incident.execution_id or "")
    if execution is not None and execution.state is ExecutionState.INTENDED:
        outcome.never_ran(turn, execution)
    remedy.release(turn, incident.family)
    return {"success": True, **_named(incident), "dismiss_until": views.stamp(until_wall_s)}


def _quiet_s(turn: Turn, for_s: float | None, actor: str) -> float:
    """For how long. An agent may not make it longer than a person has configured."""
    window_s = turn.world.policy.dismiss_window_s
    if for_s is None:
        return window_s
    longest_s = window_s if agents.limited(turn.world, actor) else DISMISS_S_MAX
    if not DISMISS_S_MIN <= for_s <= longest_s:
        raise UsageError(f"dismissed for {for_s:g} s", f"from {DISMISS_S_MIN:g} s to {longest_s / 3600:g} hours")
    return for_s


def _ack(turn: Turn, token: str, args: AckArgs, actor: str) -> views.Json:
    """R2: an acknowledged page is not repeated."""
    incident = open_incident_of(turn, args.incident_id)
    if incident.acknowledged_wall_s is None:
        incident = turn.update(incident, acknowledged_wall_s=turn.now.wall_s)
        incident = turn.note(incident, actor, "acknowledged")
        turn.hand_on_repeat(incident)
        turn.drop_timer(TimerKind.REPEAT, incident.id)
    at = views.stamp(incident.acknowledged_wall_s)
    return {"success": True, **_named(incident), "acknowledged_at": at}


def _named(incident: Incident) -> views.Json:
    """Which one it was: it may have been ordered by its target's name."""
    return {"incident_id": incident.id, "target_id": incident.target_id, "anomaly_type": incident.anomaly.value}


# What changes something, and so leaves a line in the audit, whatever came of it.
AUDITED = frozenset(
    {"approve", "execute", "dismiss", "ack", "pause", "resume", "undo", "confirm", "record_fix", "drill", "cancel"}
)

_Run = Callable[[Turn, str, Any, str], views.Json | None]
TABLE: Mapping[str, tuple[type, _Run]] = {
    "status": (NoArgs, _status),
    "list_runbooks": (NoArgs, _list_runbooks),
    "approve": (approvals.ApproveArgs, approvals.approve),
    "dry_run": (DryRunArgs, _dry_run),
    "execute": (ExecuteArgs, _execute),
    "dismiss": (DismissArgs, _dismiss),
    "ack": (AckArgs, _ack),
    "pause": (pauses.PauseArgs, pauses.pause),
    "resume": (pauses.PauseArgs, pauses.resume),
    "record_fix": (learning.RecordFixArgs, learning.record_fix),
    "captured": (learning.CapturedArgs, learning.captured),
    "requests": (NoArgs, _requests),
    "confirm": (agents.ConfirmArgs, _confirm),
    "undo": (undoing.UndoArgs, undoing.order),
    "cancel": (cancelling.CancelArgs, cancelling.order),
    "mark": (MarkArgs, marks.order),
    "stats": (NoArgs, _stats),
    "drill": (drill.DrillArgs, drill.order),
    "drill_wait": (drill.WaitArgs, drill.wait),
}
