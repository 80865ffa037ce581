"""The incident engine: one event in, one decision out (DESIGN §2.1, §2.5, §3).

Pure: the caller gives the time, commits `Decision.records` as one transaction, and only then carries out
`Decision.effects`. An event that the engine does not expect (late, doubled, about something that is over) changes
nothing; one that it must never see raises, and the caller dies and rebuilds it from the ledger.
"""

from __future__ import annotations

from supervisor.errors import HealError
from supervisor.incidents import (
    agents,
    cancelling,
    commands,
    detect,
    drill,
    drill_run,
    dryruns,
    escalation,
    graduation,
    halts,
    keeping,
    learning,
    marks,
    offers,
    outage,
    outside,
    own,
    pages,
    pauses,
    quiet,
    remedy,
    replies,
    storm,
    undoing,
    verify,
    views,
)
from supervisor.incidents.effects import (
    Answer,
    DeliverRow,
    FetchExecutionState,
    SettleExecution,
)
from supervisor.incidents.events import (
    CancelTold,
    Delivered,
    DrillTold,
    Event,
    ExecutionClaimed,
    ExecutionNotRun,
    ExecutionSeen,
    ExecutionSettled,
    ExecutionUnknown,
    ExecutorIs,
    Hinted,
    IncidentFound,
    LimitIs,
    NotifierIsBack,
    Order,
    OwnPart,
    Planned,
    ProgramEnded,
    ReadingSeen,
    Reconfigured,
    ReplySeen,
    Round,
    Started,
    StepEnded,
    TimersDue,
)
from supervisor.incidents.model import (
    Channel,
    ExecutionState,
    Instant,
    OutboxState,
    State,
    Timer,
    TimerKind,
)
from supervisor.incidents.records import PutRunbook
from supervisor.incidents.world import (
    RECHECK_S,
    Decision,
    Turn,
    World,
)

ASKED_ANEW = frozenset({State.DETECTED, State.DIAGNOSING, State.ESCALATED})  # by their probes, after a restart
TIMERS_PER_TURN_MAX = 100  # the rest in the next turn: one decision stays small


class Engine:
    """Holds the world; `handle` is its only way in."""

    def __init__(self, world: World) -> None:
        self.world = world

    def handle(self, event: Event, now: Instant) -> Decision:
        turn = Turn(self.world, now)
        _handle(turn, event)
        drill.look(turn)
        own.look(turn)
        storm.look(turn)
        outage.look(turn)
        halts.look(turn)
        replies.finish(turn)
        quiet.closed(turn)
        return turn.decision()

    def next_due_steady_s(self) -> float | None:
        """When the next timer is due; None when there is none."""
        timer = self.world.next_alarm()
        return timer.due_steady_s if timer is not None else None


def _handle(turn: Turn, event: Event) -> None:  # one arm per event: long, and flat
    match event:
        case ReadingSeen(reading):
            (outside.on_reading if reading.external else detect.on_reading)(turn, reading)
        case Hinted(target_id, family):
            outside.on_hint(turn, target_id, family)
        case Started():
            _started(turn)
        case Reconfigured(targets, open_families, policy, runbooks, meanings):
            own.reconfigured(turn, targets, open_families, policy, runbooks, meanings)
            drill.arrange(turn)
            outage.reconfigured(turn)
        case ExecutorIs(incarnation):
            _executor_is(turn, incarnation)
        case NotifierIsBack():
            turn.effects.extend(DeliverRow(row) for row in turn.world.outbox.values() if not row.held)
        case ExecutionClaimed(execution_id, incarnation):
            verify.on_claimed(turn, execution_id, incarnation)
        case StepEnded(execution_id, index, result, last):
            verify.on_step(turn, execution_id, index, result, last=last)
        case ExecutionNotRun(execution_id, code, message):
            verify.on_refused(turn, execution_id, code, message)
        case ProgramEnded(execution_id, step_id, exit_text, output):
            verify.on_program_exited(turn, execution_id, step_id, exit_text, output)
        case ExecutionSeen(execution, undone_by):
            undoing.found(turn, execution, undone_by)
            verify.on_execution_found(turn, execution)
        case ExecutionUnknown(execution_id, trouble):
            undoing.unknown(turn, execution_id, trouble)
        case IncidentFound(incident_id, known, trouble):
            marks.found(turn, incident_id, trouble, known=known)
        case ExecutionSettled(execution_id, ok, running, ended):
            verify.on_settled(turn, execution_id, ended, ok=ok, running=running)
        case Planned(_, execution, steps, error) if execution.incident_id is not None:
            dryruns.on_planned(turn, execution, steps, error)
        case Planned():
            _planned(turn, event)
        case Delivered():
            _delivered(turn, event)
        case OwnPart(name, anomaly, firing, evidence):
            own.part(turn, name, anomaly, evidence, firing=firing)
        case LimitIs(name, evidence):
            own.limit(turn, name, evidence)
        case DrillTold(drill_id, stage, error):
            drill.told(turn, drill_id, stage, error)
        case CancelTold():
            cancelling.told(turn, event)
        case Round():
            pass
        case TimersDue():
            for _ in range(TIMERS_PER_TURN_MAX):
                timer = turn.world.next_alarm()
                if timer is None or timer.due_steady_s > turn.now.steady_s:
                    return
                _timer(turn, timer)
        case Order(token, action, args, actor, secret):
            commands.handle(turn, token, action, args, actor, secret)
        case ReplySeen(reply):
            replies.seen(turn, reply)


def _started(turn: Turn) -> None:
    """After a crash or at the first start: nothing of what was going on is lost, nothing is done twice (DESIGN §3)."""
    for runbook in turn.world.runbooks.values():
        turn.records.append(PutRunbook(runbook, runbook.version()))
    graduation.refit(turn)
    turn.world.started_steady_s = turn.now.steady_s
    own.started(turn)
    drill.started(turn)
    halts.refit(turn)
    replies.started(turn)
    keeping.started(turn)
    quiet.look_again(turn)
    keeping.arrange(turn)
    for incident in list(turn.world.incidents.values()):
        if incident.id in turn.world.rerun:
            turn.want_run(incident)
        elif incident.state in ASKED_ANEW and incident.family != detect.OWN_FAMILY:
            turn.ask_probe(incident.target_id, incident.family)
    for execution in turn.world.executions.values():
        if execution.state is ExecutionState.SUCCEEDED:
            turn.ask_probe(execution.target.target_id, execution.target.family)


def _executor_is(turn: Turn, incarnation: str) -> None:
    turn.world.executor = incarnation
    if not incarnation:
        return
    for execution in turn.world.executions.values():
        if execution.state is ExecutionState.INTERRUPTED and execution.id not in turn.world.settled:
            turn.effects.append(SettleExecution(execution))
        elif execution.state in (ExecutionState.INTENDED, ExecutionState.CLAIMED):
            turn.effects.append(FetchExecutionState(execution.id))
            if execution.cancel_order:  # the healer died before anybody was told, or had agreed
                turn.effects.append(cancelling.tell(execution, execution.cancel_order, execution.cancelled_by))


def _planned(turn: Turn, event: Planned) -> None:
    if event.error:
        turn.effects.append(Answer(event.token, error=HealError(event.error)))
        return
    execution = event.execution
    body: views.Json = {
        "runbook_id": execution.runbook.id,
        "target_id": execution.target.target_id,
        "mode": "dry_run",
        "steps": list(event.steps),
        "estimated_impact": "; ".join(str(step["description"]) for step in event.steps),
        "predicts_clear": dryruns.predicts_clear(event.steps),
        "version": execution.version,
    }
    turn.effects.append(Answer(event.token, body=body))


def _delivered(turn: Turn, event: Delivered) -> None:
    """A receipt ends a row; a failure stays visible in it (FR-005: nothing is marked sent without a receipt)."""
    row = turn.world.outbox.get(event.row_id)
    if row is None:
        return
    attempts = max(row.attempts, event.attempts)
    if not event.receipt:
        if (attempts, event.error) != (row.attempts, row.last_error):
            own.not_delivered(turn, turn.put_row(row, attempts=attempts, last_error=event.error))
        return
    turn.put_row(
        row,
        attempts=attempts,
        state=OutboxState.DELIVERED,
        receipt=event.receipt,
        delivered_wall_s=turn.now.wall_s,
        last_error="",
    )
    for_drill = row.kind == drill_run.KIND  # it proves that the way works, and counts nowhere
    if not for_drill:
        turn.took("heal_delivery_duration_seconds", row.channel, turn.now.wall_s - row.created_wall_s)
    learning.delivered(turn, row.id)
    offers.delivered(turn, row, event.receipt)
    incident = turn.incident(row.incident_id) if row.incident_id else None
    if row.channel is Channel.SIGNAL:
        if own.is_page(row) and not for_drill:  # an agent's request is none
            turn.metric("heal_signal_sent", f"tier{row.tier:d}", "sent", row.incident_id)
        if not for_drill:
            turn.world.last_signal_wall_s = turn.now.wall_s
    outage.delivered(turn, row)
    own.delivered(turn, row.channel)
    if for_drill:
        drill.delivered(turn, row, event.receipt)
    if incident is not None:
        turn.note(incident, "notifier", f"{row.channel} {row.kind} delivered ({event.receipt})")


def _timer(turn: Turn, timer: Timer) -> None:
    turn.drop_timer(timer.kind, timer.subject)
    incident = turn.incident(timer.subject)
    match timer.kind:
        case TimerKind.VERIFY:
            verify.verify_due(turn, timer.subject)
        case TimerKind.EXPIRE:
            turn.effects.append(FetchExecutionState(timer.subject))
            if timer.subject in turn.world.executions:
                turn.set_timer(TimerKind.EXPIRE, timer.subject, RECHECK_S)
        case TimerKind.HALF_OPEN:
            remedy.half_open_due(turn, timer.subject)
        case TimerKind.PAGE_HOLD if incident is not None:
            escalation.page_hold_due(turn, incident)
        case TimerKind.REPEAT if incident is not None:
            escalation.repeat_due(turn, incident)
        case TimerKind.PAGED | TimerKind.GATHER | TimerKind.STORM | TimerKind.LULL | TimerKind.URGENT as kind:
            pages.timer_due(turn, kind, timer.subject)
        case TimerKind.QUIET:
            quiet.due(turn)
        case TimerKind.OWN:
            if not outage.due(turn, timer.subject):
                own.timer_due(turn, timer.subject)
        case TimerKind.DRILL:
            drill.timer_due(turn, timer.subject)
        case TimerKind.PROPOSED:
            learning.receipt_due(turn, timer.subject)
        case TimerKind.REQUEST_OVER:
            agents.over(turn, timer.subject)
        case TimerKind.PAUSE_OVER:
            pauses.over(turn, timer.subject)
        case TimerKind.BACKUP:
            keeping.due(turn, timer.subject)
        case TimerKind.CHECK_COPY:
            keeping.check_due(turn, timer.subject)
        case TimerKind.BACKUP_OVERDUE:
            own.backup_overdue(turn, timer.subject)
        case TimerKind.PLAN if incident is not None:
            remedy.plan_due(turn, incident)
        case TimerKind.STUCK if timer.subject in turn.world.stages:
            turn.ask_probe(timer.subject, "pipeline")
        case TimerKind.RECHECK if incident is not None and incident.family != detect.OWN_FAMILY:
            detect.recheck_due(turn, incident)
