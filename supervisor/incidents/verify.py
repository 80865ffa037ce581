"""What the executor reports, and the probe's word on whether the repair held (R6). Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents import escalation, halts, outcome, remedy
from supervisor.incidents.effects import DispatchExecution, FetchExecutionState, SettleExecution
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    Authority,
    Execution,
    ExecutionState,
    Incident,
    State,
    Status,
    StepResult,
    TierReason,
    TimerKind,
    Verdict,
)
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import (
    OUTPUT_CHARS_MAX,
    RECHECK_S,
    Turn,
)

PROBE_FIRST_S = 0.02  # the first look again while a repair has not yet shown
PROBE_SLOWEST_S = 1.0
REPORT_MARGIN_S = 60.0  # a report that is late by more than this will not come
SAME_CHECK_S = 0.001  # two readings whose checks began so close together tell the verdict of one
DEATHS_MAX = 2  # DESIGN §1: what was in work at two deaths is not tried again


# --- the executor's reports ----------------------------------------------------------------------------------------


def on_claimed(turn: Turn, execution_id: str, incarnation: str) -> None:
    execution = turn.world.executions.get(execution_id)
    if execution is not None and execution.state is ExecutionState.INTENDED:
        _at_work(turn, turn.put_execution(execution, state=ExecutionState.CLAIMED, claimed_by=incarnation))


def _at_work(turn: Turn, execution: Execution) -> None:
    """From here on reports must come: the steps' own timeouts and a margin bound how long we wait for them."""
    turn.set_timer(TimerKind.EXPIRE, execution.id, sum(s.timeout_s for s in execution.steps) + REPORT_MARGIN_S)


def _stopped(turn: Turn, execution: Execution, result: StepResult) -> str:
    if not result.success:
        return "it is not known whether others write"
    return "writing has stopped" if execution.target.target_id in turn.world.halts else "there is nothing to halt"


def on_step(turn: Turn, execution_id: str, index: int, result: StepResult, *, last: bool) -> None:
    """A step ended. Idempotent by (execution, index): a report that comes twice changes nothing. That of an interrupted
    one was on its way when the executor died, or word of a new executor came later than that one's own."""
    execution = turn.world.executions.get(execution_id)
    begun = (ExecutionState.INTENDED, ExecutionState.CLAIMED, ExecutionState.INTERRUPTED)
    if execution is None or index != len(execution.results) or execution.state not in begun:
        return
    execution = msgspec.structs.replace(execution, results=(*execution.results, result))
    if last:
        turn.drop_timer(TimerKind.EXPIRE, execution_id)
    incident = outcome.incident_of(turn, execution)
    if incident is not None:
        word = "done" if result.success else "cancelled" if result.cancelled_by else "failed"
        incident = turn.note(incident, "executor", f"step {result.step_id} {word}", result, execution_id=execution_id)
    bad = next((result for result in execution.results if not result.success), None)
    if not last:
        interrupted = execution.state is ExecutionState.INTERRUPTED
        turn.put_execution(execution, state=execution.state if interrupted else ExecutionState.CLAIMED)
        if incident is not None and execution.runbook.steps[index].kind == halts.HALT:
            escalation.page_hold_due(turn, incident, f"paged: {_stopped(turn, execution, result)}")
    elif bad is not None:
        failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
        outcome.steps_over(turn, failed)
        outcome.give_up(turn, failed, TierReason.REMEDIATION_FAILED, f"step {bad.step_id} failed: {bad.output}")
    else:
        _steps_done(turn, execution, "every step worked; the probe must agree")


def _steps_done(turn: Turn, execution: Execution, note: str) -> None:
    """It has taken effect: now it must be proved (R6), unless the runbook only tells or protects."""
    world, now = turn.world, turn.now
    execution = turn.put_execution(
        execution,
        state=ExecutionState.SUCCEEDED,
        ended_wall_s=now.wall_s,
        verify_deadline_steady_s=now.steady_s + world.policy.verify_within_s,
    )
    outcome.steps_over(turn, execution)
    incident = outcome.incident_of(turn, execution)
    if incident is not None:
        incident = turn.move(incident, Trigger.STEPS_DONE, "executor", note)
    if execution.to_be_proved:
        _look_again(turn, execution, RECHECK_S)
        turn.ask_probe(execution.target.target_id, execution.target.family)
        return
    outcome.told(turn, execution, f"{execution.runbook.id} tells or protects, it does not cure")


def on_refused(turn: Turn, execution_id: str, code: str, message: str) -> None:
    """The executor ran nothing. Stale grounds or expiry need a new decision; anything else a person."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution.results:
        return
    if execution.state not in (ExecutionState.INTENDED, ExecutionState.CLAIMED):
        return
    if code == "not_claimed":  # the ledger knows who has it, or why nobody may
        turn.effects.append(FetchExecutionState(execution_id))
        return
    turn.drop_timer(TimerKind.EXPIRE, execution_id)
    if code in ("expired", "stale_grounds"):
        redecide(turn, execution, ExecutionState.EXPIRED, f"not run ({message})")
        return
    if code == "cancelled" and not execution.cancelled_by:  # the refusal of an earlier order has taken the mark back
        execution = msgspec.structs.replace(execution, cancelled_by=message.removeprefix("cancelled by "))
    _over(turn, execution, TierReason.REMEDIATION_FAILED, f"not run: {message}")


def _over(turn: Turn, execution: Execution, reason: TierReason, note: str) -> None:
    """It has failed, and nobody waits for another word of it."""
    failed = turn.put_execution(execution, state=ExecutionState.FAILED, ended_wall_s=turn.now.wall_s)
    outcome.give_up(turn, failed, reason, note)


def on_program_exited(turn: Turn, execution_id: str, step_id: str, exit_text: str, output: str) -> None:
    """Evidence: what was started has ended with a failure. The probe says what that means."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution.exit_text:
        return
    execution = turn.put_execution(execution, exit_text=f"{exit_text}. {output}".strip()[:OUTPUT_CHARS_MAX])
    incident = outcome.incident_of(turn, execution)
    if incident is not None:
        result = StepResult(step_id, False, execution.exit_text, 0.0)
        turn.note(incident, "executor", f"the started program ended: {exit_text}", result, execution_id=execution_id)
    turn.ask_probe(execution.target.target_id, execution.target.family)


def redecide(turn: Turn, execution: Execution, state: ExecutionState, note: str) -> None:
    """Nothing runs under the old intent any more; a fresh probe leads to a new decision (DESIGN §2.3), but where a
    person has cancelled it (R15)."""
    if execution.cancelled_by:
        _over(turn, execution, TierReason.CANCELLED, f"cancelled by {execution.cancelled_by}; {note}")
        return
    execution = turn.put_execution(execution, state=state)
    incident = outcome.incident_of(turn, execution)
    if incident is not None and incident.state is State.REMEDIATING:
        incident = turn.move(incident, Trigger.REDECIDE, "engine", note)
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        turn.ask_probe(incident.target_id, incident.family)
    outcome.answer(turn, execution)
    remedy.unproved(turn, execution)


# --- after a crash of the executor ---------------------------------------------------------------------------------


def on_execution_found(turn: Turn, found: Execution) -> None:
    """What the ledger says of an execution we lost sight of: not yet claimed, at work, or interrupted."""
    world = turn.world
    execution = world.executions.get(found.id)
    if execution is None or execution.state is ExecutionState.SUCCEEDED:
        return
    merged = msgspec.structs.replace(execution, claimed_by=found.claimed_by, programs=found.programs)
    if found.claimed_by == "":
        if merged.cancelled_by or world.boot_id != found.boot_id or turn.now.mono_s > found.expires_mono_s:
            redecide(turn, merged, ExecutionState.EXPIRED, "nobody took it up in time")
        elif world.executor:
            turn.effects.append(DispatchExecution(merged))
        return
    if found.claimed_by == world.executor:
        _still_at_work(turn, merged)
        return
    if not world.executor:
        return
    if execution.state is not ExecutionState.INTERRUPTED:
        turn.drop_timer(TimerKind.EXPIRE, found.id)
        merged = turn.put_execution(merged, state=ExecutionState.INTERRUPTED, deaths=execution.deaths + 1)
        incident = outcome.incident_of(turn, merged)
        if incident is not None:
            turn.note(incident, "engine", "the executor died at work; what it started is ended or awaited first")
    _look_again(turn, merged, RECHECK_S)
    turn.effects.append(SettleExecution(merged))


def _still_at_work(turn: Turn, execution: Execution) -> None:
    """The living executor has it; when its steps must long be over, its report is lost and a person must look."""
    if execution.state is ExecutionState.INTENDED:
        on_claimed(turn, execution.id, execution.claimed_by)
        return
    if _overdue(turn, execution):
        turn.drop_timer(TimerKind.EXPIRE, execution.id)
        _over(turn, execution, TierReason.INTERRUPTED, "no report of its steps ever came")


def _overdue(turn: Turn, execution: Execution) -> bool:
    """Claimed in time, it must long be over by now, whatever became of it."""
    bound_s = sum(step.timeout_s for step in execution.steps) + REPORT_MARGIN_S
    return turn.now.steady_s - execution.created_steady_s > turn.world.policy.intent_expires_s + bound_s


def on_settled(turn: Turn, execution_id: str, ended: tuple[str, ...], *, ok: bool, running: bool) -> None:
    """The interrupted execution's programs are over (or are the running service itself): probe, then decide."""
    execution = turn.world.executions.get(execution_id)
    if execution is None or execution.state is not ExecutionState.INTERRUPTED:
        return
    incident = outcome.incident_of(turn, execution)
    if incident is not None and ended:
        turn.note(incident, "executor", "; ".join(ended))
    if not ok:
        _interrupted(turn, execution, "interrupted, and what it had started could not be ended")
    elif running and execution.programs:
        _steps_done(turn, execution, "interrupted, but what it had started runs; the probe must agree")
    elif not execution.runbook.applies_to:  # a copy, an undo: it is about nothing that a probe could see
        _interrupted(turn, execution, "interrupted, and no probe can tell what it has done")
    else:
        bound_s = turn.now.steady_s + turn.world.policy.verify_within_s
        turn.put_execution(execution, verify_deadline_steady_s=bound_s)
        turn.world.settled.add(execution_id)
        _look_again(turn, execution, RECHECK_S)
        turn.ask_probe(execution.target.target_id, execution.target.family)


def _interrupted(turn: Turn, execution: Execution, note: str) -> None:
    turn.drop_timer(TimerKind.VERIFY, execution.id)
    _over(turn, execution, TierReason.INTERRUPTED, note)


def _after_interruption(turn: Turn, execution: Execution, verdict: Verdict) -> None:
    """The fresh probe after an interruption: well means verify, ill means anew (if idempotent) or a person."""
    by_person = execution.authority is Authority.PERSON
    if verdict.status is Status.CLEAR:
        if by_person and not execution.programs:
            _interrupted(turn, execution, "interrupted, and nothing shows that it has done what was ordered")
        else:
            turn.world.settled.discard(execution.id)
            _steps_done(turn, execution, "interrupted, but the probe reads clear")
        return
    if verdict.status is not Status.FIRING:
        _look_again(turn, execution, PROBE_SLOWEST_S)
        return
    again = all(step.idempotent for step in execution.runbook.steps) and _deaths(turn, execution) < DEATHS_MAX
    if again and not by_person:
        turn.drop_timer(TimerKind.VERIFY, execution.id)
        ended = msgspec.structs.replace(execution, ended_wall_s=turn.now.wall_s)
        redecide(turn, ended, ExecutionState.FAILED, "interrupted before it took effect; its steps may be run again")
    else:
        _interrupted(turn, execution, "interrupted, and its steps may not be run blindly again")


def _deaths(turn: Turn, execution: Execution) -> int:
    """How often the executor has lately died with this repair in work, under this intent or an earlier one."""
    same = (execution.runbook.id, execution.resource)
    earlier = sum(e.deaths for e in turn.world.ended.values() if (e.runbook.id, e.resource) == same)
    return earlier + execution.deaths


# --- verification --------------------------------------------------------------------------------------------------


def on_target_read(turn: Turn, reading: HealthReading, verdicts: tuple[Verdict, ...], *, fresh: bool) -> None:
    """A reading of our own of a target on which something ran (R6: the anomaly's own probe)."""
    for execution in [e for e in turn.world.executions.values() if e.target.target_id == reading.target_id]:
        verdict = _verdict(turn, execution, verdicts)
        if verdict is None:
            continue
        if execution.state is ExecutionState.SUCCEEDED:
            if _began_after_steps(turn, execution, reading):
                _verify(turn, execution, verdict, reading)
        elif execution.id in turn.world.settled and fresh:
            _after_interruption(turn, execution, verdict)


def _began_after_steps(turn: Turn, execution: Execution, reading: HealthReading) -> bool:
    """Only a check that began after the last step proves anything about it."""
    deadline = execution.verify_deadline_steady_s or 0.0
    return _basis_steady_s(turn, reading) >= deadline - turn.world.policy.verify_within_s


def _basis_steady_s(turn: Turn, reading: HealthReading) -> float:
    return turn.now.steady_s - (turn.now.mono_s - reading.basis_mono_s)


def _verdict(turn: Turn, execution: Execution, verdicts: tuple[Verdict, ...]) -> Verdict | None:
    """The one on what its probe must not see any more: its incident's anomaly, else the first that its runbook is for
    and this target can have."""
    incident = turn.incident(execution.incident_id) if execution.incident_id else None
    about = execution.runbook.applies_to if incident is None else (incident.anomaly,)
    return next((verdict for anomaly in about for verdict in verdicts if verdict.anomaly is anomaly), None)


def _verify(turn: Turn, execution: Execution, verdict: Verdict, reading: HealthReading) -> None:
    now, policy = turn.now, turn.world.policy
    incident = outcome.incident_of(turn, execution)
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
        incident = count_clear(turn, incident, reading)
        if incident.clear_readings < clear_needed(turn, incident):
            _look_again(turn, execution, policy.clear_interval_s)
            return
    outcome.verified(turn, execution, incident)


def _not_clear(turn: Turn, execution: Execution, incident: Incident | None, verdict: Verdict) -> None:
    now = turn.now
    deadline = execution.verify_deadline_steady_s or now.steady_s
    began = deadline - turn.world.policy.verify_within_s
    if incident is not None and incident.clear_readings:
        turn.update(incident, clear_readings=0, clear_counted_steady_s=None)
    if execution.settled_steady_s is not None:
        execution = turn.put_execution(execution, settling=None, settled_steady_s=None)
    ended_itself = execution.exit_text != "" and verdict.not_running
    if now.steady_s >= deadline or ended_itself:
        outcome.failed(turn, execution, verdict.evidence)
        return
    wait = min(max((now.steady_s - began) / 4, PROBE_FIRST_S), PROBE_SLOWEST_S, deadline - now.steady_s)
    _look_again(turn, execution, wait)


def verify_due(turn: Turn, execution_id: str) -> None:
    """The timer: time to look again, or nobody could tell us anything until long after we had to know."""
    execution = turn.world.executions.get(execution_id)
    if execution is None:
        return
    interrupted = execution.state is ExecutionState.INTERRUPTED
    if interrupted and execution_id not in turn.world.settled:
        if _overdue(turn, execution):
            outcome.unsettled(turn, execution)
        _look_again(turn, execution, RECHECK_S)
        turn.effects.append(SettleExecution(execution))
        return
    if turn.now.steady_s > _bound_s(turn, execution) + 2 * RECHECK_S:
        if interrupted:
            _interrupted(turn, execution, "interrupted, and no reading could be had since")
        else:
            outcome.failed(turn, execution, "no reading could be had")
        return
    _look_again(turn, execution, RECHECK_S)
    turn.ask_probe(execution.target.target_id, execution.target.family)


def _bound_s(turn: Turn, execution: Execution) -> float:
    """The moment by which a reading must have told the outcome (steady seconds)."""
    incident = outcome.incident_of(turn, execution)
    counted_s = incident.clear_counted_steady_s if incident is not None else None
    next_count_s = counted_s + turn.world.policy.clear_interval_s if counted_s is not None else 0.0
    return _checking_s(turn, execution) + max(
        execution.verify_deadline_steady_s or 0.0, execution.settled_steady_s or 0.0, next_count_s
    )


def _checking_s(turn: Turn, execution: Execution) -> float:
    """How much longer a check of a whole database may take than other readings: as long as the work on it may (R9)."""
    reading = turn.world.readings.get(execution.target.target_id)
    if execution.target.family != "database" or reading is None or not reading.available:
        return 0.0
    return sum(step.timeout_s for step in execution.steps)


def _look_again(turn: Turn, execution: Execution, after_s: float) -> None:
    turn.set_timer(TimerKind.VERIFY, execution.id, after_s)


def count_clear(turn: Turn, incident: Incident, reading: HealthReading | None) -> Incident:
    """Counts a clear reading when it is far enough from the one counted before (R6, NFR-002).

    A background check's verdict is told by every reading until the next one is there, and counts once (R9). None: of
    our own parts, whose word is of this moment.
    """
    last, now = incident.clear_counted_steady_s, turn.now.steady_s
    basis = _basis_steady_s(turn, reading) if reading is not None else now
    if incident.clear_basis_steady_s is not None and basis <= incident.clear_basis_steady_s + SAME_CHECK_S:
        return incident
    # 5 % less than the interval: a timer that fires a moment early must not cost a whole further interval.
    if last is not None and now - last < turn.world.policy.clear_interval_s * 0.95:
        return incident
    return turn.update(
        incident,
        clear_readings=incident.clear_readings + 1,
        clear_counted_steady_s=now,
        clear_basis_steady_s=basis,
    )


def clear_needed(turn: Turn, incident: Incident) -> int:
    """R6: one clear reading for a definite anomaly, three for an intermittent one."""
    return turn.world.policy.clear_readings if incident.intermittent else 1
