"""What the executor reports, and whether the repair held (R6): `resolved`, or `remediation_failed`. Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents import escalation, remedy, storm
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Execution,
    ExecutionState,
    HealthReading,
    Incident,
    Mode,
    RunbookState,
    State,
    Status,
    StepResult,
    TierReason,
    TimerKind,
    Verdict,
)
from supervisor.incidents.policy import CONFIDENCE_PRIOR, state_for
from supervisor.incidents.views import execution_answer
from supervisor.incidents.world import Answer, DispatchExecution, FetchExecutionState, SettleExecution, Turn

PROBE_FIRST_S = 0.02  # the first look again while a repair has not yet shown
PROBE_SLOWEST_S = 1.0
ANSWER_S = 6.0  # a reading comes within 5 s (R9)
DEATHS_MAX = 2  # DESIGN §1: an item in work at two deaths is quarantined


def incident_of(turn: Turn, execution: Execution) -> Incident | None:
    """The incident that this execution still works for (it may have been dismissed, or moved on)."""
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    return incident if incident is not None and incident.execution_id == execution.id else None


# --- the executor's reports ----------------------------------------------------------------------------------------


def on_claimed(turn: Turn, execution_id: str, incarnation: str) -> None:
    execution = turn.world.executions.get(execution_id)
    if execution is not None and execution.state is ExecutionState.INTENDED:
        turn.drop_timer(TimerKind.EXPIRE, execution_id)
        turn.put_execution(execution, state=ExecutionState.CLAIMED, claimed_by=incarnation)


def on_step(turn: Turn, execution_id: str, index: int, result: StepResult, *, last: bool) -> None:
    """A step ended. Idempotent by (execution, index): a report that comes twice changes nothing."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or index != len(execution.results):
        return
    if execution.state not in (ExecutionState.INTENDED, ExecutionState.CLAIMED):
        return
    turn.drop_timer(TimerKind.EXPIRE, execution_id)
    execution = msgspec.structs.replace(execution, results=(*execution.results, result))
    incident = incident_of(turn, execution)
    if incident is not None:
        word = "done" if result.success else "failed"
        incident = turn.note(incident, "executor", f"step {result.step_id} {word}", result, execution_id=execution_id)
    if not result.success:
        failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
        _give_up(turn, failed, TierReason.REMEDIATION_FAILED, f"step {result.step_id} failed: {result.output}")
    elif not last:
        turn.put_execution(execution, state=ExecutionState.CLAIMED)
    else:
        steps_done(turn, execution)


def steps_done(turn: Turn, execution: Execution) -> None:
    """Every step worked: now it must be proved (R6), unless the runbook only tells or protects."""
    world, now = turn.world, turn.now
    execution = turn.put_execution(
        execution,
        state=ExecutionState.SUCCEEDED,
        ended_wall_s=now.wall_s,
        verify_deadline_steady_s=now.steady_s + world.policy.verify_within_s,
    )
    incident = incident_of(turn, execution)
    if incident is not None:
        incident = turn.move(incident, Trigger.STEPS_DONE, "executor", "every step worked; the probe must agree")
    if execution.runbook.verifies:
        _look_again(turn, execution, ANSWER_S)
        turn.ask_probe(execution.target.target_id, execution.target.family)
        return
    if incident is not None:
        note = f"{execution.runbook.id} tells or protects, it does not cure"
        escalation.escalate(turn, incident, TierReason.TELLS_ONLY, note, trigger=Trigger.TOLD)
    _answer(turn, execution)
    remedy.release(turn, execution.target.family)


def on_refused(turn: Turn, execution_id: str, code: str, message: str) -> None:
    """The executor ran nothing. Stale grounds or expiry need a new decision; anything else a person."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution.state is not ExecutionState.INTENDED:
        return
    if code == "not_claimed":  # the ledger knows who has it, or why nobody may
        turn.effects.append(FetchExecutionState(execution_id))
        return
    turn.drop_timer(TimerKind.EXPIRE, execution_id)
    if code in ("expired", "stale_grounds"):
        redecide(turn, turn.put_execution(execution, state=ExecutionState.EXPIRED), f"not run ({message})")
        return
    failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
    _give_up(turn, failed, TierReason.REMEDIATION_FAILED, f"not run: {message}")


def on_program_exited(turn: Turn, execution_id: str, step_id: str, exit_text: str, output: str) -> None:
    """Evidence: what was started has ended with a failure. The probe says what that means."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution_id in turn.world.exited:
        return
    turn.world.exited.add(execution_id)
    result = StepResult(step_id, False, f"{exit_text}. {output}".strip(), 0.0)
    execution = turn.put_execution(execution, results=(*execution.results, result))
    incident = incident_of(turn, execution)
    if incident is not None:
        turn.note(incident, "executor", f"the started program ended: {exit_text}", result, execution_id=execution_id)
    turn.ask_probe(execution.target.target_id, execution.target.family)


def redecide(turn: Turn, execution: Execution, note: str) -> None:
    """Nothing runs under the old intent any more; a fresh probe leads to a new decision (DESIGN §2.3)."""
    incident = incident_of(turn, execution)
    if incident is not None and incident.state is State.REMEDIATING:
        incident = turn.move(incident, Trigger.REDECIDE, "engine", note)
        turn.set_timer(TimerKind.RECHECK, incident.id, ANSWER_S)
        turn.ask_probe(incident.target_id, incident.family)
    _answer(turn, execution)


# --- after a crash of the executor ---------------------------------------------------------------------------------


def on_execution_found(turn: Turn, found: Execution) -> None:
    """What the ledger says of an execution we lost sight of: not yet claimed, at work, or interrupted."""
    world = turn.world
    execution = world.executions.get(found.id)
    if execution is None or execution.state is ExecutionState.SUCCEEDED:
        return
    merged = msgspec.structs.replace(execution, claimed_by=found.claimed_by, programs=found.programs)
    if found.claimed_by == "":
        if world.boot_id != found.boot_id or turn.now.mono_s > found.expires_mono_s:
            redecide(turn, turn.put_execution(merged, state=ExecutionState.EXPIRED), "nobody took it up in time")
        elif world.executor:
            turn.effects.append(DispatchExecution(merged))
        return
    if found.claimed_by == world.executor or not world.executor:
        return
    if execution.state is not ExecutionState.INTERRUPTED:
        turn.drop_timer(TimerKind.EXPIRE, found.id)
        merged = turn.put_execution(merged, state=ExecutionState.INTERRUPTED, deaths=execution.deaths + 1)
        incident = incident_of(turn, merged)
        if incident is not None:
            turn.note(incident, "engine", "the executor died at work; what it started is ended or awaited first")
    turn.effects.append(SettleExecution(merged))


def on_settled(turn: Turn, execution_id: str, ended: tuple[str, ...], *, ok: bool, running: bool) -> None:
    """The interrupted execution's programs are over (or are the running service itself): probe, then decide."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution.state is not ExecutionState.INTERRUPTED:
        return
    incident = incident_of(turn, execution)
    if incident is not None and ended:
        turn.note(incident, "executor", "; ".join(ended))
    if not ok:
        failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
        _give_up(turn, failed, TierReason.INTERRUPTED, "interrupted, and what it had started could not be ended")
    elif running:
        steps_done(turn, execution)
    else:
        turn.world.settled.add(execution_id)
        _look_again(turn, execution, ANSWER_S)
        turn.ask_probe(execution.target.target_id, execution.target.family)


def _after_interruption(turn: Turn, execution: Execution, verdict: Verdict) -> None:
    """The fresh probe after an interruption: well means verify, ill means anew (if idempotent) or a person."""
    if verdict.status is Status.CLEAR:
        turn.world.settled.discard(execution.id)
        steps_done(turn, execution)
        return
    if verdict.status is not Status.FIRING:
        _look_again(turn, execution, PROBE_SLOWEST_S)
        return
    turn.world.settled.discard(execution.id)
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
    again = all(step.idempotent for step in execution.runbook.steps) and execution.deaths < DEATHS_MAX
    if again and execution.authority is not Authority.PERSON:
        redecide(turn, failed, "interrupted before it took effect; its steps may be run again")
    else:
        _give_up(turn, failed, TierReason.INTERRUPTED, "interrupted, and its steps may not be run blindly again")


# --- verification --------------------------------------------------------------------------------------------------


def on_target_read(turn: Turn, reading: HealthReading, verdicts: tuple[Verdict, ...], *, fresh: bool) -> None:
    """A reading of our own of a target on which something ran (R6: the anomaly's own probe)."""
    for execution in [e for e in turn.world.executions.values() if e.target.target_id == reading.target_id]:
        anomaly = _anomaly(turn, execution)
        verdict = next((v for v in verdicts if v.anomaly is anomaly), None)
        if verdict is None:
            continue
        if execution.state is ExecutionState.SUCCEEDED:
            if _began_after_steps(turn, execution, reading):
                _verify(turn, execution, verdict)
        elif execution.id in turn.world.settled and fresh:
            _after_interruption(turn, execution, verdict)


def _began_after_steps(turn: Turn, execution: Execution, reading: HealthReading) -> bool:
    """Only a check that began after the last step proves anything about it."""
    deadline = execution.verify_deadline_steady_s or 0.0
    taken_steady_s = turn.now.steady_s - (turn.now.mono_s - reading.taken_mono_s)
    return taken_steady_s >= deadline - turn.world.policy.verify_within_s


def _anomaly(turn: Turn, execution: Execution) -> AnomalyType:
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    return incident.anomaly if incident is not None else execution.runbook.applies_to[0]


def _verify(turn: Turn, execution: Execution, verdict: Verdict) -> None:
    now, policy = turn.now, turn.world.policy
    incident = incident_of(turn, execution)
    if verdict.status is not Status.CLEAR:
        _not_clear(turn, execution, incident, verdict)
        return
    if execution.settled_steady_s is None or execution.settling != verdict.process:
        execution = turn.put_execution(
            execution, settling=verdict.process, settled_steady_s=now.steady_s + policy.settle_s
        )
    assert execution.settled_steady_s is not None
    if now.steady_s < execution.settled_steady_s:
        _look_again(turn, execution, execution.settled_steady_s - now.steady_s)
        return
    if incident is not None and incident.intermittent:
        incident = count_clear(turn, incident)
        if incident.clear_readings < clear_needed(turn, incident):
            _look_again(turn, execution, policy.clear_interval_s)
            return
    _verified(turn, execution, incident)


def _not_clear(turn: Turn, execution: Execution, incident: Incident | None, verdict: Verdict) -> None:
    now = turn.now
    deadline = execution.verify_deadline_steady_s or now.steady_s
    began = deadline - turn.world.policy.verify_within_s
    if incident is not None and incident.clear_readings:
        turn.update(incident, clear_readings=0, clear_counted_steady_s=None)
    if execution.settled_steady_s is not None:
        execution = turn.put_execution(execution, settling=None, settled_steady_s=None)
    ended_itself = execution.id in turn.world.exited and verdict.not_running
    if now.steady_s >= deadline or ended_itself:
        _failed(turn, execution, verdict.evidence)
        return
    wait = min(max((now.steady_s - began) / 4, PROBE_FIRST_S), PROBE_SLOWEST_S, deadline - now.steady_s)
    _look_again(turn, execution, wait)


def verify_due(turn: Turn, execution_id: str) -> None:
    """The timer: time to look again, or nobody could tell us anything until the deadline."""
    execution = turn.world.executions.get(execution_id)
    if execution is None:
        return
    deadline = execution.verify_deadline_steady_s
    if deadline is not None and turn.now.steady_s > deadline + ANSWER_S and execution.settled_steady_s is None:
        _failed(turn, execution, "no reading could be had")
        return
    _look_again(turn, execution, ANSWER_S)
    turn.ask_probe(execution.target.target_id, execution.target.family)


def _look_again(turn: Turn, execution: Execution, after_s: float) -> None:
    turn.set_timer(TimerKind.VERIFY, execution.id, after_s)


def count_clear(turn: Turn, incident: Incident) -> Incident:
    """Counts a clear reading when it is far enough from the one counted before (R6, NFR-002)."""
    last, now = incident.clear_counted_steady_s, turn.now.steady_s
    # 5 % less than the interval: a timer that fires a moment early must not cost a whole further interval.
    if last is not None and now - last < turn.world.policy.clear_interval_s * 0.95:
        return incident
    return turn.update(incident, clear_readings=incident.clear_readings + 1, clear_counted_steady_s=now)


def clear_needed(turn: Turn, incident: Incident) -> int:
    """R6: one clear reading for a definite anomaly, three for an intermittent one."""
    return turn.world.policy.clear_readings if incident.intermittent else 1


# --- outcomes ------------------------------------------------------------------------------------------------------


def _verified(turn: Turn, execution: Execution, incident: Incident | None) -> None:
    execution = turn.put_execution(execution, verified=True)
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    _count(turn, execution, success=True)
    storm.verified(turn.world, execution)
    held = breakers.half_open(turn.world, execution.runbook.id, execution.resource)
    if held is not None:
        turn.drop_breaker(held.runbook_id, held.resource)
    turn.metric("heal_remediation_success", execution.runbook.id, "pass", execution.incident_id)
    if incident is not None:
        incident = turn.move(incident, Trigger.VERIFIED, "probe", "verified: the probe reads clear")
        summary = execution.runbook.summary
        reason = TierReason.SUMMARY_ASKED if summary else TierReason.VERIFIED_SILENTLY
        escalation.resolved(turn, incident, reason)
    _answer(turn, execution)
    remedy.release(turn, execution.target.family)


def _failed(turn: Turn, execution: Execution, evidence: str) -> None:
    failed = turn.put_execution(execution, verified=False)
    turn.metric("heal_remediation_failed", execution.runbook.id, "fail", execution.incident_id)
    _give_up(turn, failed, TierReason.VERIFICATION_FAILED, f"not well in time: {evidence}")


def _give_up(turn: Turn, execution: Execution, reason: TierReason, note: str) -> None:
    """remediation_failed, then a person (FR-004). The breaker, the canaries and the runbook's record hear of it."""
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    _count(turn, execution, success=False)
    incident = incident_of(turn, execution)
    by_itself = execution.authority is not Authority.PERSON
    breaker = remedy.after_failure(turn, execution) if by_itself else None
    if incident is not None:
        trigger = Trigger.VERIFY_FAILED if incident.state is State.VERIFYING else Trigger.STEPS_FAILED
        incident = turn.move(incident, trigger, "engine", note)
        grouped = by_itself and storm.failed(turn, execution)
        current = turn.incident(incident.id) or incident
        why = "a person must look"
        if breaker is not None:
            standing = breakers.standing(turn.world, execution.runbook.id, execution.resource)
            why = f"breaker open: {standing.reason}" if standing else why
        escalation.escalate(turn, current, breaker or reason, why, grouped=grouped)
    _answer(turn, execution)
    remedy.release(turn, execution.target.family)


def _count(turn: Turn, execution: Execution, *, success: bool) -> None:
    """R4, R5: success never lowers the confidence; a failure of an approved run demotes it for this target."""
    world, now = turn.world, turn.now
    key = (execution.runbook.id, execution.target.target_id)
    state = world.runbook_states.get(key) or RunbookState(
        runbook_id=execution.runbook.id,
        target_id=execution.target.target_id,
        mode=Mode.DRY_RUN,
        confidence=CONFIDENCE_PRIOR,
        version=execution.version,
    )
    state = msgspec.structs.replace(state, last_executed_wall_s=now.wall_s)
    if success:
        state = msgspec.structs.replace(state, successes=state.successes + 1, last_succeeded_wall_s=now.wall_s)
    else:
        state = msgspec.structs.replace(state, failures=state.failures + 1)
        approved = state_for(world.runbook_states, execution.runbook, execution.target.target_id)
        if execution.authority is Authority.APPROVED and approved is not None:
            state = msgspec.structs.replace(state, mode=Mode.DRY_RUN, confidence=CONFIDENCE_PRIOR, demoted=True)
            incident = incident_of(turn, execution)
            if incident is not None:
                turn.note(incident, "engine", f"{execution.runbook.id} is back in dry_run for this target")
    turn.put_runbook_state(state)


def _answer(turn: Turn, execution: Execution) -> None:
    """Whoever waits for this execution gets its outcome (SITE.md's `execute`)."""
    for token in turn.world.waiters.pop(execution.id, ()):
        turn.effects.append(Answer(token, body=execution_answer(execution)))
