"""From "still firing" to an intent: permission, canaries, locks, breakers (DESIGN §2.3, §2.7, §2.8).

Pure. `consider` is the only place from which an automatic execution begins, and it is only called with a fresh
failing reading in hand (NFR-002); `begin` is the only place that writes an intent.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents import drill_run, dryruns, graduation, halts, ladder, pauses, storm
from supervisor.incidents.effects import (
    DispatchExecution,
)
from supervisor.incidents.escalation import escalate, restate
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    ActedBy,
    AnomalyType,
    Authority,
    Breaker,
    Effect,
    Execution,
    ExecutionState,
    Incident,
    Runbook,
    State,
    StepResult,
    Target,
    TierReason,
    TimerKind,
    Verdict,
)
from supervisor.incidents.policy import changes, resource_of
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import (
    RECHECK_S,
    Turn,
)

EXPIRE_MARGIN_S = 2.0  # after an intent's expiry: a claim that was granted in time is known by then


def consider(turn: Turn, incident: Incident, verdict: Verdict, reading: HealthReading | None) -> None:
    """It is still firing: may something run, and may it run now? (R1, R3)"""
    world = turn.world
    rest, target = ladder.rest(world, incident), world.target(incident.target_id)
    rungs = [runbook for runbook in rest if ladder.fits(runbook, target)]
    if not rest and incident.anomaly is AnomalyType.DEAD_MAN_FAILING:
        # R1, tier 1: nothing is unwatched, and the watcher outside raises its own alarm when pings stay away.
        _stop(turn, incident, TierReason.TELLS_ONLY, "told only: whoever waits for the pings pages by itself", reading)
        return
    if not rest:
        _stop(turn, incident, TierReason.NO_RUNBOOK, "no runbook for this anomaly", reading)
        return
    if target is None or not rungs:
        hint = f": {target.recipe_hint}" if target is not None else ""
        note = f"{rest[0].id} cannot run: no restart recipe is configured{hint}"
        _stop(turn, incident, TierReason.CANNOT_EXECUTE, note, reading)
        return
    rung = ladder.choose(world, incident, rungs, not_running=verdict.not_running)
    if rung is None or not rung.runs:
        if dryruns.awaited(turn, incident, rungs):
            return
        incident = graduation.count(turn, incident)
        rung = ladder.choose(world, incident, rungs, not_running=verdict.not_running)
    assert rung is not None
    runbook, authority = rung.runbook, rung.allowed.authority
    if authority is None:
        note = f"{runbook.id} may not run by itself: {rung.allowed.why}"
        _stop(turn, incident, TierReason.NEEDS_APPROVAL, note, reading, runbook.id)
        return
    if changes(runbook) and _paused(turn, incident, target):
        return
    halts.order(turn, runbook, target, incident)
    if changes(runbook):
        if storm.holds(turn, incident):
            return
    elif storm.many(turn, incident):
        return
    resource = resource_of(runbook, target)
    holder = world.holder_of(resource)
    if holder is not None:
        _wait(turn, incident, f"{resource} is in use by {holder.id}")
        return
    repairing = [e for e in world.executions.values() if e.runbook.id != drill_run.RUNBOOK]
    running = sum(1 for e in repairing if e.state is not ExecutionState.SUCCEEDED)
    if running >= world.policy.executions_max:
        _wait(turn, incident, f"{world.policy.executions_max} repairs are running")
        return
    if _breaker_forbids(turn, incident, runbook, resource):
        return
    grounds = reading.taken_mono_s if reading is not None else turn.now.mono_s
    begin(turn, runbook, target, authority, grounds, incident, f"running {runbook.id}: {rung.allowed.why}")


def begin(
    turn: Turn,
    runbook: Runbook,
    target: Target,
    authority: Authority,
    grounds_mono_s: float | None,
    incident: Incident | None,
    note: str,
    execution_id: str = "",
    actor: str = "engine",
    *,
    undoes: Execution | None = None,
    back: tuple[StepResult, ...] = (),
) -> Execution:
    """Writes the intent; it is dispatched once it is durable. `undoes`, `back`: see `undoing`."""
    world, now = turn.world, turn.now
    execution = Execution(
        id=execution_id or turn.new_id("exe"),
        incident_id=incident.id if incident else None,
        runbook=runbook,
        version=runbook.version(),
        target=target,
        resource=resource_of(runbook, target),
        authority=authority,
        state=ExecutionState.INTENDED,
        created_steady_s=now.steady_s,
        created_wall_s=now.wall_s,
        boot_id=world.boot_id,
        expires_mono_s=now.mono_s + world.policy.intent_expires_s,
        grounds_mono_s=grounds_mono_s,
        known=world.known.get(target.service_id),
        reading=world.readings.get(target.target_id),
    )
    if undoes is not None:
        execution = msgspec.structs.replace(
            execution, undoes=undoes.id, taken_back=back, incident_id=undoes.incident_id
        )
    if incident is not None:
        _moved(turn, incident, execution, actor, note)
    turn.put_execution(execution)
    halts.began(turn, execution, incident)
    breakers.began(world, execution)
    storm.began(world, execution, target.family)
    trying = breakers.half_open(world, runbook.id, execution.resource)
    if trying is not None and authority is not Authority.PERSON:
        turn.put_breaker(msgspec.structs.replace(trying, trial=execution.id))
    turn.set_timer(TimerKind.EXPIRE, execution.id, world.policy.intent_expires_s + EXPIRE_MARGIN_S)
    if repairs(execution):
        turn.metric("heal_remediation_started", runbook.id, "started", execution.incident_id)
        world.last_remediation_wall_s = now.wall_s
    turn.effects.append(DispatchExecution(execution))
    return execution


def _moved(turn: Turn, incident: Incident, execution: Execution, actor: str, note: str) -> None:
    """The incident is `remediating` from here on."""
    turn.world.rerun.discard(incident.id)
    acted = ActedBy.PERSON if execution.authority is Authority.PERSON else ActedBy.RUNBOOK
    if acted is ActedBy.RUNBOOK and all(step.effect is Effect.OBSERVE for step in execution.runbook.steps):
        acted = incident.acted_by  # to look is not to act
    turn.drop_timer(TimerKind.RECHECK, incident.id)
    turn.drop_timer(TimerKind.PLAN, incident.id)
    turn.move(
        incident,
        Trigger.RUN,
        actor,
        note,
        reading=execution.reading,
        runbook_id=execution.runbook.id,
        execution_id=execution.id,
        waiting_for="",
        held_as_canary=False,
        held_by_pause=False,
        acted_by=acted,
        clear_readings=0,
        clear_counted_steady_s=None,
    )


def repairs(execution: Execution) -> bool:
    """What FR-008 counts: an undo does not repair, nor does a copy on schedule, nor a drill."""
    about = execution.incident_id is not None or execution.authority is Authority.PERSON
    return about and not execution.undoes and execution.runbook.id != drill_run.RUNBOOK


def plan_due(turn: Turn, incident: Incident) -> None:
    """Its dry runs took too long, or the probe after them: a person is told now, unless something may run by now.
    What still comes counts all the same, and whatever may run by then does, after a fresh probe."""
    world, target = turn.world, turn.world.target(incident.target_id)
    rungs = [runbook for runbook in ladder.rest(world, incident) if ladder.fits(runbook, target)]
    if incident.state is not State.DIAGNOSING:
        return
    incident = dryruns.overdue(turn, incident)
    rung = ladder.choose(world, incident, rungs, not_running=False)
    if rung is not None and not rung.runs:
        note = f"{rung.runbook.id} may not run by itself: {rung.allowed.why}; its dry run took too long"
        _stop(turn, incident, TierReason.NEEDS_APPROVAL, note, runbook_id=rung.runbook.id)
    _look_again(turn, world.incidents[incident.id])


def spend(turn: Turn, incident: Incident, runbook_id: str) -> Incident:
    """It ran and did not end the incident, or its breaker lets it run no more: the next rung is another one."""
    return incident if runbook_id in incident.spent else turn.update(incident, spent=(*incident.spent, runbook_id))


def climb(turn: Turn, incident: Incident) -> None:
    """To the next rung, if there is one: it is probed afresh first, and R3 decides whether it runs or is proposed."""
    if ladder.goes_on(turn.world, incident):
        turn.want_run(incident)


def try_again(turn: Turn, incident: Incident, runbook_id: str) -> None:
    """It goes on with this runbook, even if that has failed before."""
    if runbook_id in incident.spent:
        incident = turn.update(incident, spent=ladder.unspend(incident, runbook_id).spent)
    _look_again(turn, incident)


def _look_again(turn: Turn, incident: Incident) -> None:
    """A fresh probe comes first; `rerun` is for those that are escalated already."""
    if incident.state is State.ESCALATED:
        turn.want_run(incident)
    else:
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        turn.ask_probe(incident.target_id, incident.family)


def _paused(turn: Turn, incident: Incident, target: Target) -> bool:
    """A person has told us to leave it alone: it is told of, and looked at again when that is over."""
    found = pauses.standing(turn.world, target)
    if found is None:
        if incident.held_by_pause:
            turn.update(incident, held_by_pause=False)
        return False
    note = pauses.words(found)
    incident = turn.update(incident, held_by_pause=True, waiting_for=note)
    _stop(turn, incident, TierReason.PAUSED, f"nothing was run: {note}; `{pauses.lift_command(found)}` ends it")
    return True


def _stop(
    turn: Turn,
    incident: Incident,
    reason: TierReason,
    note: str,
    reading: HealthReading | None = None,
    runbook_id: str | None = None,
) -> None:
    """Nothing may run: a person decides. One that already waits for a person is told of anew when the reason is
    another; what comes after a rung that failed, the message about that failure has said."""
    turn.world.rerun.discard(incident.id)
    turn.drop_timer(TimerKind.RECHECK, incident.id)
    if incident.state is State.DIAGNOSING:
        escalate(turn, incident, reason, note, reading=reading, runbook_id=runbook_id)
    elif incident.tier_reason not in ladder.CLIMBS or reason in (TierReason.BREAKER_OPEN, TierReason.PAUSED):
        restate(turn, incident, reason, note, reading=reading, runbook_id=runbook_id)


def _wait(turn: Turn, incident: Incident, why: str) -> None:
    """Something is in the way; `release` asks again when it is gone, a slow recheck is the backstop."""
    turn.set_timer(TimerKind.RECHECK, incident.id, turn.world.policy.clear_interval_s)
    if incident.waiting_for != why:
        turn.update(incident, waiting_for=why)


def _breaker_forbids(turn: Turn, incident: Incident, runbook: Runbook, resource: str) -> bool:
    world, now = turn.world, turn.now
    trying = breakers.half_open(world, runbook.id, resource)
    if trying is not None and trying.trial in world.executions:
        _wait(turn, incident, f"the one try of an open breaker is under way ({trying.trial})")
        return True
    opened = breakers.standing(world, runbook.id, resource)
    if opened is None and trying is None:
        opened = _open_breaker(turn, runbook, resource)
    if opened is None:
        return False
    note = f"breaker open: {opened.reason}; one more try in {(opened.half_open_steady_s - now.steady_s) / 60:.0f} min"
    incident = spend(turn, incident, runbook.id)  # until it half-opens (`try_again`)
    _stop(turn, incident, TierReason.BREAKER_OPEN, note, runbook_id=runbook.id)
    climb(turn, turn.world.incidents[incident.id])
    return True


def _open_breaker(turn: Turn, runbook: Runbook, resource: str) -> Breaker | None:
    """Opens the breaker when its room is used up (DESIGN §2.8)."""
    due = breakers.exhausted(turn.world, turn.now.steady_s, runbook.id, resource)
    return None if due is None else _shut(turn, msgspec.structs.replace(due, opened_wall_s=turn.now.wall_s))


def _shut(turn: Turn, breaker: Breaker) -> Breaker:
    turn.put_breaker(breaker)
    turn.set_timer(TimerKind.HALF_OPEN, f"{breaker.runbook_id} {breaker.resource}", turn.world.policy.breaker_window_s)
    return breaker


def after_failure(turn: Turn, execution: Execution) -> Breaker | None:
    """The breaker that stands after an automatic run failed: its try did not hold, or its room is used up."""
    trial = breakers.of_trial(turn.world, execution.id)
    if trial is not None:
        now, window = turn.now, turn.world.policy.breaker_window_s
        again = msgspec.structs.replace(
            trial,
            half_open=False,
            trial="",
            opened_steady_s=now.steady_s,
            opened_wall_s=now.wall_s,
            half_open_steady_s=now.steady_s + window,
        )
        return _shut(turn, again)
    standing = breakers.standing(turn.world, execution.runbook.id, execution.resource)
    return standing or _open_breaker(turn, execution.runbook, execution.resource)


def unproved(turn: Turn, execution: Execution) -> None:
    """The execution is over and says nothing about the repair: neither a canary's proof nor a breaker's one try."""
    storm.withdrawn(turn.world, execution)
    if execution.state is ExecutionState.EXPIRED:
        breakers.never_ran(turn.world, execution.id)
    trial = breakers.of_trial(turn.world, execution.id)
    if trial is not None:
        turn.put_breaker(msgspec.structs.replace(trial, trial=""))
    release(turn, execution.target.family)


def half_open_due(turn: Turn, subject: str) -> None:
    """The breaker lets one try through: every incident that it stopped is probed afresh first."""
    runbook_id, _, resource = subject.partition(" ")
    breaker, runbook = turn.world.breakers.get((runbook_id, resource)), turn.world.runbooks.get(runbook_id)
    if runbook is None:  # its file was removed meanwhile
        turn.drop_breaker(runbook_id, resource)
    if breaker is None or runbook is None:
        return
    turn.put_breaker(msgspec.structs.replace(breaker, half_open=True))
    for incident in list(turn.world.incidents.values()):
        target = turn.world.target(incident.target_id)
        stopped = incident.state is State.ESCALATED and incident.tier_reason is TierReason.BREAKER_OPEN
        if not stopped or not runbook.suits(incident.anomaly, incident.target_id) or target is None:
            continue
        if resource in (breakers.WHOLE_RUNBOOK, resource_of(runbook, target)):
            try_again(turn, incident, runbook_id)


def release(turn: Turn, family: str) -> None:
    """Something ended: whoever waited for a lock, a place or a canary is probed afresh and considered again."""
    storm.unpaused(turn, family)
    room = turn.world.policy.executions_max
    for incident in list(turn.world.incidents.values()):
        if room <= 0:
            return
        if incident.waiting_for and incident.state in (State.DIAGNOSING, State.ESCALATED):
            turn.ask_probe(incident.target_id, incident.family)
            room -= 1
