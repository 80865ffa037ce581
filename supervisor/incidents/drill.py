"""`healctl drill` and its schedule: a made-up incident begins, is followed through every stage, and ends (DESIGN §6,
FR-005). Pure.

Between the two nothing is special about it: it is detected, probed afresh, repaired by its runbook, verified and told
of by the parts that do so for every incident. It counts nowhere (`drill_run.STAGES`), no breaker hears of it, and it
takes no place from a real repair. That one has failed is an incident of our own, and ends with the next good one.
"""

from __future__ import annotations

from datetime import UTC
from typing import Any

import msgspec

from supervisor.errors import Refused, UnknownId, UsageError
from supervisor.incidents import drill_run, drill_times, escalation, outcome, own, posting
from supervisor.incidents.drill_run import DrillRun
from supervisor.incidents.effects import Answer, CarryDrill
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    AnomalyType,
    Channel,
    Execution,
    ExecutionState,
    Incident,
    OutboxRow,
    OutboxState,
    State,
    Tier,
    TimerKind,
)
from supervisor.incidents.plain_text import clean
from supervisor.incidents.policy import undecided
from supervisor.incidents.views import Json, stamp
from supervisor.incidents.world import Turn, World

PART = "drill"  # our own part that a failed drill is an incident of
SIGNAL_PART = escalation.DRILL_BY_SIGNAL  # the same, when only Signal gave no receipt
TIMEOUT_S_MAX = 600.0
WAITING_MAX = 50
RUN = "run "  # begins the subject of the timer that ends a drill; the others are the schedule's
ALL = "all"
SCHEDULE = "schedule"  # who asks for the drills of the schedule


class DrillArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    channel: str = ALL
    timeout_s: float = 60.0


class WaitArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`seen`: so many stages the caller knows; it is answered when there are more, or the drill is over."""

    drill_id: str
    seen: int = 0


# --- orders --------------------------------------------------------------------------------------------------------


def order(turn: Turn, token: str, args: DrillArgs, actor: str) -> Json:
    """A person wants a drill. The same order sent again begins no second one."""
    drill_id = turn.id_of("drl", token)
    known = turn.world.drill
    if known is not None and known.id == drill_id:
        return drill_run.run_json(known, stamp)
    if known is not None and not known.over:
        raise Refused(f"a drill is under way ({known.id})", f"it ends within {known.timeout_s:g} s: healctl status")
    if not 0 < args.timeout_s <= TIMEOUT_S_MAX:
        raise UsageError(f"a drill's timeout is more than 0 and at most {TIMEOUT_S_MAX / 60:.0f} min", "e.g. 60s")
    channels = _channels(turn.world, args.channel)
    return drill_run.run_json(_begin(turn, drill_id, actor, channels, args.timeout_s), stamp)


def _channels(world: World, wanted: str) -> tuple[Channel, ...]:
    if wanted not in (ALL, *Channel):
        raise UsageError(f"no channel {wanted!r}", "known: signal, synapse, all")
    if wanted == Channel.SIGNAL and not world.policy.pages:
        raise Refused(drill_run.NO_PAGE, "set transports and recipient in [notify.signal]")
    if wanted == ALL:
        return (Channel.SIGNAL, Channel.SYNAPSE) if world.policy.pages else (Channel.SYNAPSE,)
    return (Channel(wanted),)


def wait(turn: Turn, token: str, args: WaitArgs, actor: str) -> Json | None:
    run = turn.world.drill
    if run is None or run.id != args.drill_id:
        raise UnknownId(f"no drill {args.drill_id!r}", "healctl status shows how the last one ended")
    if run.over or len(run.stages) > args.seen:
        return drill_run.run_json(run, stamp)
    if len(turn.world.drill_waiters) >= WAITING_MAX:
        raise Refused(f"{WAITING_MAX} wait for this drill already")
    turn.world.drill_waiters[token] = args.seen
    return None


# --- its beginning and its stages ----------------------------------------------------------------------------------


def _begin(turn: Turn, drill_id: str, by: str, channels: tuple[Channel, ...], timeout_s: float) -> DrillRun:
    now, world = turn.now, turn.world
    _withdraw(turn, "another drill began")
    run = DrillRun(drill_id, by, channels, timeout_s, now.steady_s, now.wall_s, world.policy.pages)
    world.drill = run
    turn.set_timer(TimerKind.DRILL, f"{RUN}{drill_id}", timeout_s)
    turn.effects.append(CarryDrill(drill_id, drill_run.ASKED))
    return run


def _withdraw(turn: Turn, why: str) -> None:
    for row in [row for row in turn.world.outbox.values() if row.kind == drill_run.KIND]:
        turn.put_row(row, state=OutboxState.QUARANTINED, last_error=f"withdrawn: {why}")


def told(turn: Turn, drill_id: str, stage: str, error: str) -> None:
    """The process around the engine has done what `CarryDrill` asked for, or could not."""
    run = _running(turn.world)
    if run is None or run.id != drill_id:
        return
    if error:
        _fail(turn, run, error)
    elif stage == drill_run.ASKED:
        turn.ask_probe(drill_run.TARGET, drill_run.FAMILY)
    else:
        turn.world.drill = run.reached(stage, turn.now)
        look(turn)


def _running(world: World) -> DrillRun | None:
    return world.drill if world.drill is not None and not world.drill.over else None


def look(turn: Turn) -> None:
    """After every event: how far has the drill come?"""
    run = _running(turn.world)
    if run is not None:
        _follow(turn, run)
    _tell_waiters(turn)


def _follow(turn: Turn, run: DrillRun) -> None:
    world, now = turn.world, turn.now
    if run.has(drill_run.VERIFIED):
        return  # from here on only receipts
    if not run.incident_id:
        incident_id = world.by_key.get(drill_run.KEY, "")
        if not incident_id:
            return
        run = msgspec.structs.replace(run, incident_id=incident_id).reached(drill_run.DETECTED, now, _read(world))
        turn.effects.append(CarryDrill(run.id, drill_run.DURABLE))
    incident = _incident(world, run)
    if incident.execution_id and not run.has(drill_run.FRESH_PROBE):
        run = run.reached(drill_run.FRESH_PROBE, now, _read(world))
        turn.effects.append(CarryDrill(run.id, drill_run.DISPATCHED))
    execution = _execution(world, incident)
    if execution is not None and execution.results and execution.results[-1].success:
        run = run.reached(drill_run.STEP_ENDED, now, execution.results[-1].output)
    world.drill = run
    if incident.state is State.RESOLVED:
        world.drill = run.reached(drill_run.VERIFIED, now, _read(world))
        _page(turn, world.drill)
    elif incident.state is State.ESCALATED or not incident.open:
        _fail(turn, run, f"its incident is {incident.state}: {_last_word(world, incident, execution)}")


def _read(world: World) -> str:
    reading = world.readings.get(drill_run.TARGET)
    return f"read in {reading.took_ms:.1f} ms" if reading is not None else ""


def _incident(world: World, run: DrillRun) -> Incident:
    return world.incidents.get(run.incident_id) or next(
        incident for incident in reversed(world.closed[drill_run.KEY]) if incident.id == run.incident_id
    )


def _execution(world: World, incident: Incident) -> Execution | None:
    wanted = incident.execution_id or ""
    return world.executions.get(wanted) or world.ended.get(wanted)


def _last_word(world: World, incident: Incident, execution: Execution | None) -> str:
    bad = next((it for it in execution.results if not it.success), None) if execution is not None else None
    trail = world.trails.get(incident.id)
    if bad is not None:
        return f"step {bad.step_id} failed: {bad.output}"
    return trail[-1].note if trail else "it ended before every stage was reached"


def _page(turn: Turn, run: DrillRun) -> None:
    """Its message on each channel that is drilled: rows like those of any page, in the decision that verified it."""
    for channel in run.channels:
        text = drill_run.body(run, channel)
        covers = (run.incident_id,)
        posting.notice(turn, channel, Tier.PAGE, drill_run.KIND, drill_run.LABEL, text, covers)


def delivered(turn: Turn, row: OutboxRow, receipt: str) -> None:
    """A message of a drill has a receipt; one of an earlier drill proves nothing about this one."""
    run = _running(turn.world)
    if run is None or row.incident_id != run.incident_id:
        return
    run = run.reached(row.channel.value, turn.now, receipt)
    turn.world.drill = run
    if not run.missing():
        _finish(turn, run, "")


# --- its end -------------------------------------------------------------------------------------------------------


def timer_due(turn: Turn, subject: str) -> None:
    if not subject.startswith(RUN):
        _schedule_due(turn, subject)
        return
    run = _running(turn.world)
    if run is not None and subject == f"{RUN}{run.id}":
        _fail(turn, run, f"not within {run.timeout_s:g} s: {_lacking(turn.world, run)}")


def _lacking(world: World, run: DrillRun) -> str:
    """What it has not reached, and what is known about why."""
    first = run.missing()[0]
    if first not in (*Channel,):
        incident = world.incidents.get(run.incident_id)
        why = f" ({incident.waiting_for})" if incident is not None and incident.waiting_for else ""
        return f"the stage {first} was not reached{why}"
    rows = [row for row in world.outbox.values() if row.incident_id == run.incident_id]
    said = [f"no receipt from {row.channel.value} ({row.last_error or 'no attempt has ended'})" for row in rows]
    return "; ".join(said)


def cancel(turn: Turn, actor: str) -> None:
    """A person ends the one under way: it is neither good nor failed, and what has not left is withdrawn."""
    run = _running(turn.world)
    if run is not None:
        why = f"cancelled by {actor}"
        _withdraw(turn, f"the drill was {why}")
        _give_up(turn, run, actor, f"the drill was {why}")
        _close(turn, msgspec.structs.replace(run, cancelled=True), passed=False, why=why)


def _fail(turn: Turn, run: DrillRun, why: str) -> None:
    _give_up(turn, run, "engine", f"the drill failed: {why}")
    _finish(turn, run, why)


def _give_up(turn: Turn, run: DrillRun, actor: str, note: str) -> None:
    incident = turn.incident(run.incident_id or turn.world.by_key.get(drill_run.KEY, ""))
    if incident is not None:
        turn.move(incident, Trigger.DISMISS, actor, note)
        execution = turn.world.executions.get(incident.execution_id or "")
        if execution is not None and execution.state is ExecutionState.INTENDED:
            outcome.never_ran(turn, execution)


def _close(turn: Turn, run: DrillRun, *, passed: bool, why: str) -> None:
    run = msgspec.structs.replace(run.reached(drill_run.CLOSED, turn.now), passed=passed, why=clean(why, 300))
    turn.world.drill = run
    turn.drop_timer(TimerKind.DRILL, f"{RUN}{run.id}")
    turn.effects.append(CarryDrill(run.id, drill_run.OVER))
    _tell_waiters(turn)


def _finish(turn: Turn, run: DrillRun, why: str) -> None:
    """`why` it failed; empty: it is good. Its runbook's record for its target is the memory of it (`last`)."""
    world, now, good = turn.world, turn.now, not why
    _close(turn, run, passed=good, why=why)
    state = _record(world)
    state = msgspec.structs.replace(
        state,
        last_executed_wall_s=now.wall_s,
        last_succeeded_wall_s=now.wall_s if good else state.last_succeeded_wall_s,
        successes=state.successes + good,
        failures=state.failures + (not good),
    )
    turn.put_runbook_state(state)
    if good:
        for name in _proved(world, run):
            own.part(turn, name, AnomalyType.DRILL_FAILED, "a drill reached every stage", firing=False)
    else:
        name = SIGNAL_PART if run.missing() == (Channel.SIGNAL,) else PART
        own.part(turn, name, AnomalyType.DRILL_FAILED, why, firing=True)


def _proved(world: World, run: DrillRun) -> tuple[str, ...]:
    """What a good drill has shown to be well again: one of Synapse alone says nothing about a page."""
    if set(run.channels) >= set(_channels(world, ALL)):
        return (PART, SIGNAL_PART)
    return (SIGNAL_PART,) if Channel.SIGNAL in run.channels else ()


def _record(world: World) -> Any:
    key = (drill_run.RUNBOOK, drill_run.TARGET)
    return world.runbook_states.get(key) or undecided(world.runbooks[drill_run.RUNBOOK], drill_run.TARGET)


def _tell_waiters(turn: Turn) -> None:
    run, waiting = turn.world.drill, turn.world.drill_waiters
    if run is None or not waiting:
        return
    for token in [token for token, seen in waiting.items() if run.over or len(run.stages) > seen]:
        del waiting[token]
        turn.effects.append(Answer(token, body=drill_run.run_json(run, stamp)))


# --- the schedule, and what stands over restarts -------------------------------------------------------------------


def started(turn: Turn) -> None:
    """The engine has just been rebuilt. What was under way is over: nobody can tell by now what it was shown."""
    for kind, subject in list(turn.world.timers):
        if kind is TimerKind.DRILL and subject.startswith(RUN):
            now = turn.now
            run = DrillRun(subject.removeprefix(RUN), "?", (), 0.0, now.steady_s, now.wall_s, turn.world.policy.pages)
            turn.world.drill = run
            _fail(turn, run, "healctl's engine was restarted in the middle of it")
    arrange(turn)


def arrange(turn: Turn) -> None:
    """The timer of the schedule, as it is configured now; what is planned already stands."""
    world, policy = turn.world, turn.world.policy
    if not policy.pages:
        own.part(turn, SIGNAL_PART, AnomalyType.DRILL_FAILED, "nobody is configured to be paged any more", firing=False)
    planned = {s for kind, s in world.timers if kind is TimerKind.DRILL and not s.startswith(RUN)}
    wanted = drill_times.subject_every(policy.drill_every_s) if policy.drill_every_s else ""
    if policy.drill_at:
        wanted = f"{drill_times.AT}{policy.drill_at} "
    kept = {s for s in planned if s == wanted or (policy.drill_at and s.startswith(wanted))}
    for subject in planned - kept:
        turn.drop_timer(TimerKind.DRILL, subject)
    if policy.drill_every_s and not kept:
        turn.set_timer(TimerKind.DRILL, wanted, policy.drill_every_s)
    elif policy.drill_at:
        zone = policy.drill_zone or UTC
        now_s = turn.now.wall_s
        day = min((drill_times.day_of(s) for s in kept), default=drill_times.next_day(now_s, policy.drill_at, zone))
        in_s = drill_times.look_in_s(day, policy.drill_at, zone, now_s)
        turn.set_timer(TimerKind.DRILL, drill_times.subject_at(policy.drill_at, day), in_s)


def _schedule_due(turn: Turn, subject: str) -> None:
    policy, now_s = turn.world.policy, turn.now.wall_s
    if subject.startswith(drill_times.EVERY):
        turn.set_timer(TimerKind.DRILL, subject, policy.drill_every_s)
        runs = True
    else:
        zone, at = policy.drill_zone or UTC, policy.drill_at
        runs, day = drill_times.due(drill_times.day_of(subject), at, zone, now_s)
        in_s = drill_times.look_in_s(day, at, zone, now_s)
        turn.set_timer(TimerKind.DRILL, drill_times.subject_at(at, day), in_s)
    if runs and _running(turn.world) is None:
        _begin(turn, turn.new_id("drl"), SCHEDULE, _channels(turn.world, ALL), policy.drill_timeout_s)


def last(world: World) -> Json:
    """For `healctl status`: how the last drill ended, and when the schedule looks again."""
    state = world.runbook_states.get((drill_run.RUNBOOK, drill_run.TARGET))
    at = state.last_executed_wall_s if state is not None else None
    failed = [i.evidence for i in world.incidents.values() if i.anomaly is AnomalyType.DRILL_FAILED]
    policy = world.policy
    every = drill_times.subject_every(policy.drill_every_s) if policy.drill_every_s else None
    return {
        "under_way": _running(world) is not None,
        "last_at": stamp(at),
        "passed": passed(world),
        "why": "; ".join(failed) or None,
        "schedule": f"{drill_times.AT}{policy.drill_at}" if policy.drill_at else every,
    }


def last_wall_s(world: World) -> float | None:
    state = world.runbook_states.get((drill_run.RUNBOOK, drill_run.TARGET))
    return state.last_executed_wall_s if state is not None else None


def passed(world: World) -> bool | None:
    """Was the last drill good? None: there was none yet."""
    state = world.runbook_states.get((drill_run.RUNBOOK, drill_run.TARGET))
    if state is None or state.last_executed_wall_s is None:
        return None
    return state.last_succeeded_wall_s == state.last_executed_wall_s
