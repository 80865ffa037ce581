"""How an execution ends: verified, or given up; who hears of it (FR-004, R1, R4, R5). Pure.

The breaker, the canaries, the runbook's record, the incident, and whoever waits for an answer learn of it here only.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents import drill_run, escalation, graduation, halts, keeping, ladder, remedy, storm, undoing
from supervisor.incidents.effects import (
    Answer,
)
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    Authority,
    Execution,
    ExecutionState,
    Incident,
    Severity,
    State,
    Tier,
    TierReason,
    TimerKind,
)
from supervisor.incidents.policy import undecided
from supervisor.incidents.views import execution_answer
from supervisor.incidents.world import (
    Turn,
)


def incident_of(turn: Turn, execution: Execution) -> Incident | None:
    """The incident that this execution still works for (it may have been dismissed, or moved on)."""
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    return incident if incident is not None and incident.execution_id == execution.id else None


def steps_over(turn: Turn, execution: Execution) -> None:
    """How long it took from the intent to the end of the last step; an undo and a copy on schedule repair nothing."""
    if remedy.repairs(execution):
        took_s = turn.now.steady_s - execution.created_steady_s
        turn.took("heal_remediation_duration_seconds", execution.runbook.id, took_s)


def _verification_over(turn: Turn, execution: Execution) -> None:
    """How long it took from there to the verdict."""
    if execution.ended_wall_s is not None:
        took_s = turn.now.wall_s - execution.ended_wall_s
        turn.took("heal_verification_duration_seconds", execution.runbook.id, took_s)


def verified(turn: Turn, execution: Execution, incident: Incident | None) -> None:
    execution = turn.put_execution(execution, verified=True)
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    cures = execution.runbook.verifies
    if cures:  # else it has told or looked only: neither a success nor a failure of it (R6)
        _count(turn, execution, success=True)
        turn.metric("heal_remediation_success", execution.runbook.id, "pass", execution.incident_id)
        _verification_over(turn, execution)
    storm.verified(turn.world, execution)
    halts.verified(turn, execution)
    trial = breakers.of_trial(turn.world, execution.id)
    if trial is not None:
        turn.drop_breaker(trial.runbook_id, trial.resource)
    if incident is not None:
        note = "verified: the probe reads clear" if cures else "it has come back by itself: the probe reads clear"
        incident = turn.move(incident, Trigger.VERIFIED, "probe", note)
        summary = execution.runbook.summary and cures
        reason = TierReason.SUMMARY_ASKED if summary else TierReason.VERIFIED_SILENTLY
        escalation.resolved(turn, incident, reason)
    answer(turn, execution)
    remedy.release(turn, execution.target.family)


def failed(turn: Turn, execution: Execution, evidence: str) -> None:
    failed = turn.put_execution(execution, verified=False)
    if not execution.runbook.verifies:
        turn.drop_timer(TimerKind.VERIFY, execution.id)
        told(turn, failed, f"it read clear for a moment only: {evidence}")
        return
    turn.metric("heal_remediation_failed", execution.runbook.id, "fail", execution.incident_id)
    _verification_over(turn, execution)
    give_up(turn, failed, TierReason.VERIFICATION_FAILED, f"not well in time: {evidence}")


def told(turn: Turn, execution: Execution, note: str) -> None:
    """A runbook that only tells or protects has run, and cures nothing (R6): the next rung goes on or is proposed, and
    a person hears of it (R1), unless a page for many has said it."""
    incident = incident_of(turn, execution)
    if incident is not None:
        incident = remedy.spend(turn, incident, execution.runbook.id)
        more = ladder.following(turn.world, incident)
        asks = more is not None and not more.runs and incident.severity is not Severity.CRITICAL
        incident = escalation.escalate(
            turn,
            incident,
            TierReason.NEEDS_APPROVAL if asks else TierReason.TELLS_ONLY,
            note,
            trigger=Trigger.TOLD,
            grouped=escalation.is_one_of_many(incident),
            runbook_id=more.runbook.id if more is not None and asks else None,
        )
        remedy.climb(turn, incident)
    answer(turn, execution)
    remedy.release(turn, execution.target.family)


def unsettled(turn: Turn, execution: Execution) -> None:
    """Nobody can say what became of what an interrupted execution had started: its lock stands, the question goes on,
    and a person is told, once (R1). What is critical has been told of by then (R2)."""
    incident = incident_of(turn, execution)
    if incident is None or incident.page_id is not None:
        return
    note = "interrupted, and what it had started can neither be ended nor awaited; nothing else is run meanwhile"
    incident = turn.update(incident, tier=Tier.PAGE, tier_reason=TierReason.INTERRUPTED)
    escalation.fired(turn, incident.id, Tier.PAGE)
    escalation.tell(turn, turn.note(incident, "engine", note), "page")


def give_up(turn: Turn, execution: Execution, reason: TierReason, note: str) -> None:
    """remediation_failed, then a person (FR-004). The breaker, the canaries and the runbook's record hear of it; what
    was cancelled before it had done its work is no failure in that record, and nothing else is tried by itself: not
    after a restart, a reload or the breaker's window either, of which CANCELLED is the durable mark."""
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    cancelled = execution.cancelled
    by_itself = execution.verified is False or any(not it.success and not it.cancelled_by for it in execution.results)
    if not execution.undoes and (by_itself or not cancelled):
        _count(turn, execution, success=False)
    ours = execution.authority is not Authority.PERSON
    breaker = remedy.after_failure(turn, execution) if ours else None
    incident = incident_of(turn, execution)
    if incident is not None:
        trigger = Trigger.VERIFY_FAILED if incident.state is State.VERIFYING else Trigger.STEPS_FAILED
        turn.move(incident, trigger, "engine", note)
    paged = incident is not None and incident.page_id is not None
    grouped = False
    if cancelled and not by_itself:  # a canary that a person has stopped proves nothing about the others
        storm.withdrawn(turn.world, execution)
    elif ours:
        grouped = storm.failed(turn, execution) and not paged
    incident = incident_of(turn, execution)
    if incident is not None:
        why = f"breaker open: {breaker.reason}" if breaker is not None else "a person must look"
        reason = TierReason.BREAKER_OPEN if breaker is not None else reason
        reason = TierReason.CANCELLED if cancelled else reason
        incident = remedy.spend(turn, incident, execution.runbook.id)
        incident = escalation.escalate(turn, incident, reason, why, grouped=grouped)
        if not cancelled:  # a person has said stop: what comes next is his to say, too
            remedy.climb(turn, incident)
    answer(turn, execution)
    remedy.release(turn, execution.target.family)


def _count(turn: Turn, execution: Execution, *, success: bool) -> None:
    """R4, R5: success never lowers the confidence; a failure of an approved run demotes it for this target. The record
    of the drill's own is that of whole drills (`drill`)."""
    if execution.runbook.id == drill_run.RUNBOOK:
        return
    world, now = turn.world, turn.now
    key = (execution.runbook.id, execution.target.target_id)
    state = world.runbook_states.get(key) or undecided(execution.runbook, execution.target.target_id)
    state = msgspec.structs.replace(state, last_executed_wall_s=now.wall_s)
    if success:
        state = msgspec.structs.replace(state, successes=state.successes + 1, last_succeeded_wall_s=now.wall_s)
        turn.put_runbook_state(state)
    else:
        state = msgspec.structs.replace(state, failures=state.failures + 1)
        approved = execution.authority is Authority.APPROVED
        graduation.failed(turn, execution, state, incident_of(turn, execution), approved=approved)


def never_ran(turn: Turn, execution: Execution) -> None:
    """What nobody has taken up yet is taken back: whoever ordered it is told, and waits no more."""
    expired = turn.put_execution(execution, state=ExecutionState.EXPIRED)
    answer(turn, expired)
    remedy.unproved(turn, expired)


def answer(turn: Turn, execution: Execution) -> None:
    """Whoever waits for this execution gets its outcome (SITE.md's `execute`); so does the schedule of copies."""
    keeping.ended(turn, execution)
    if execution.undoes:
        undoing.ended(turn, execution)
    for token in turn.world.waiters.pop(execution.id, ()):
        turn.effects.append(Answer(token, body=execution_answer(execution)))
