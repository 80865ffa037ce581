"""Readings in: open, refresh, or close the one incident of each (anomaly, target) (FR-002, FR-004, R7). Pure."""

from __future__ import annotations

from supervisor.incidents import drill_run, escalation, halts, ladder, learning, remedy, stages, verify, wording
from supervisor.incidents.judge import Judge
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    ActedBy,
    AnomalyType,
    Incident,
    State,
    Status,
    Tier,
    TimerKind,
    Verdict,
)
from supervisor.incidents.pages import NO_HOLD, is_gathered
from supervisor.incidents.policy import INTERMITTENT, pick
from supervisor.incidents.readings import HealthReading, PipelineData, ProcessData
from supervisor.incidents.world import (
    OPEN_INCIDENTS_MAX,
    RECHECK_S,
    Key,
    Turn,
)

REFRESH_S = 1.0  # a re-detection is written at most this often
SLOWEST_S = 60.0  # our own probe that cannot tell yet is asked ever more seldom, but at least this often
UNDECIDED_S = 300.0  # so long without its word, and somebody should know
UNCONFIRMED_S = 600.0  # what only others say is let go after so long without its word
OWN_FAMILY = "tree"  # our own workers: root tells, no probe can be asked


def on_reading(turn: Turn, reading: HealthReading) -> None:
    """One reading of our own probe, whoever asked for it (others' are `outside.on_reading`'s)."""
    world = turn.world
    newest = world.readings.get(reading.target_id)
    if newest is not None and newest.taken_mono_s > reading.taken_mono_s:
        return  # overtaken on its way: what it says is no longer so
    asked = world.asked.get(reading.target_id)
    # A background check's verdict is fresh when that check began after the question (R9, DESIGN §2.3).
    fresh = asked is not None and reading.basis_mono_s >= asked
    if fresh:
        del world.asked[reading.target_id]
    world.readings[reading.target_id] = reading
    if isinstance(reading.data, ProcessData) and reading.data.process is not None:
        turn.put_known(reading.target_id, reading.data.process, reading.data.sought)
    stage = stages.entered(turn, reading.data, reading) if isinstance(reading.data, PipelineData) else None
    judge = Judge(reading, turn.now, lambda anomaly: _is_open(turn, anomaly, reading.target_id), stage)
    verdicts = world.classifier.observe(judge)
    for verdict in verdicts:
        if verdict.status is Status.CLEAR:
            world.well[verdict.anomaly, verdict.target_id] = _looked_wall_s(turn, reading)
        on_verdict(turn, verdict, reading, fresh=fresh)
    verify.on_target_read(turn, reading, verdicts, fresh=fresh)
    halts.on_reading(turn, reading, verdicts)


def _looked_wall_s(turn: Turn, reading: HealthReading) -> float:
    """When the look began on which this reading rests, on people's clock."""
    return turn.now.wall_s - (turn.now.mono_s - reading.basis_mono_s)


def _is_open(turn: Turn, anomaly: AnomalyType, target_id: str) -> bool:
    """What a reading from outside opened has no lower mark to end at: it must be confirmed at the full one."""
    incident = turn.incident(turn.world.by_key.get((anomaly, target_id), ""))
    return incident is not None and not incident.outside


def on_verdict(turn: Turn, verdict: Verdict, reading: HealthReading | None, *, fresh: bool) -> None:
    """One verdict. `fresh`: its check began after we asked (R7); only such a one may lead to an action."""
    incident_id = turn.world.by_key.get((verdict.anomaly, verdict.target_id))
    incident = turn.incident(incident_id) if incident_id else None
    if incident is None:
        if verdict.status is Status.FIRING:
            open_incident(turn, verdict, reading)
            _halt_at_once(turn, verdict, reading)
        elif verdict.status is Status.CLEAR:
            turn.world.turned_away.discard((verdict.anomaly, verdict.target_id))
        return
    if verdict.status is Status.FIRING:
        incident = _refresh(turn, incident, verdict)
    if incident.state is State.DIAGNOSING:
        _diagnosing(turn, incident, verdict, reading, fresh=fresh)
    elif incident.state is State.ESCALATED:
        _escalated(turn, incident, verdict, reading, fresh=fresh)


def _halt_at_once(turn: Turn, verdict: Verdict, reading: HealthReading | None) -> None:
    """R10: what stops the writing of a damaged database is part of the very decision that opens its incident."""
    incident = turn.incident(turn.world.by_key.get((verdict.anomaly, verdict.target_id), ""))
    runbook = pick(turn.world.runbooks.values(), verdict.anomaly, verdict.target_id)
    if incident is not None and runbook is not None and halts.has(runbook, halts.HALT):
        _diagnosing(turn, incident, verdict, reading, fresh=False)


def _refresh(turn: Turn, incident: Incident, verdict: Verdict) -> Incident:
    """R14: a re-detection updates last_seen and detections, and adds no trail entry."""
    if incident.outside:
        return _confirmed(turn, incident, verdict)
    if turn.now.wall_s - incident.last_seen_wall_s < REFRESH_S:
        return incident
    return turn.update(
        incident,
        last_seen_wall_s=turn.now.wall_s,
        detections=incident.detections + 1,
        evidence=verdict.evidence,
        hint=verdict.hint,
    )


def _confirmed(turn: Turn, incident: Incident, verdict: Verdict) -> Incident:
    """Our own probe says so, too: from here on its words count, and the incident is like any other."""
    incident = turn.update(
        incident,
        outside=False,
        severity=verdict.severity,
        evidence=verdict.evidence,
        hint=verdict.hint,
        last_seen_wall_s=turn.now.wall_s,
        detections=incident.detections + 1,
    )
    incident = escalation.hold_page(turn, incident)
    return turn.note(incident, "probe", f"our own probe confirms it: {verdict.evidence}")


def open_incident(turn: Turn, verdict: Verdict, reading: HealthReading | None, *, outside: bool = False) -> None:
    """A new incident, unless it was dismissed for now. `outside`: on the word of others, to be confirmed first."""
    world, now = turn.world, turn.now
    key = (verdict.anomaly, verdict.target_id)
    earlier = _earlier(turn, key)
    if key == drill_run.KEY:
        if world.drill is None or world.drill.over or world.drill.incident_id:
            return  # a reading that comes late: its drill is over, or has its incident
        earlier = []  # a drill says nothing about the next one: neither a dismissed one nor many in a row
    if any(i.dismiss_until_steady_s is not None and i.dismiss_until_steady_s > now.steady_s for i in earlier):
        return
    # What waits for nothing (R2) is never too much: there are as many as there are disks and databases.
    if len(world.incidents) >= OPEN_INCIDENTS_MAX and verdict.family != OWN_FAMILY and verdict.anomaly not in NO_HOLD:
        world.turned_away.add(key)
        if "open incidents" not in world.limits:
            turn.metric("heal_limit_reached", "open_incidents", "fired")
        more = len(world.turned_away)
        world.limits["open incidents"] = (
            f"{OPEN_INCIDENTS_MAX} things are wrong at once; {more} more have no incident of their own"
        )
        return
    world.turned_away.discard(key)
    reopens = sum(1 for i in earlier if i.state is not State.DISMISSED and not i.outside)
    # Of our own parts the healer knows: one word is enough, and there is no probe to ask twice.
    comes_and_goes = reopens >= world.policy.reopens_intermittent or verdict.anomaly in INTERMITTENT
    intermittent = comes_and_goes and verdict.family != OWN_FAMILY
    runbook = pick(world.runbooks.values(), verdict.anomaly, verdict.target_id)
    incident = Incident(
        id=turn.new_id("inc"),
        anomaly=verdict.anomaly,
        target_id=verdict.target_id,
        family=verdict.family,
        severity=verdict.severity,
        state=State.DETECTED,
        detected_steady_s=now.steady_s,
        detected_wall_s=now.wall_s,
        changed_wall_s=now.wall_s,
        last_seen_wall_s=now.wall_s,
        evidence=verdict.evidence,
        hint=verdict.hint,
        runbook_id=runbook.id if runbook else None,
        intermittent=intermittent,
        outside=outside,
        well_wall_s=world.well.get(key),
        looked_wall_s=None if reading is None or outside else _looked_wall_s(turn, reading),
    )
    turn.add_incident(incident)
    who = "by a reading from outside, detected" if outside else "detected"
    incident = turn.note(incident, "feed" if outside else "probe", f"{who}: {verdict.evidence}", reading=reading)
    turn.metric("heal_anomaly_detected", verdict.anomaly, "detected", incident.id)
    reading = world.readings.get(verdict.target_id)
    if reading is not None and not outside:  # what others saw, or the root, was not looked for by us
        turn.took("heal_detection_duration_seconds", verdict.family, now.mono_s - reading.basis_mono_s)
    note = "a fresh probe will tell whether it is still so"
    incident = turn.move(incident, Trigger.DIAGNOSE, "engine", note)
    if not outside:
        incident = escalation.hold_page(turn, incident)
    if verdict.family == OWN_FAMILY:
        remedy.consider(turn, incident, verdict, None)
    else:
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        # What was asked before this incident, and was answered late, is no fresh look at it.
        world.asked.pop(verdict.target_id, None)
        turn.ask_probe(verdict.target_id, verdict.family)


def _earlier(turn: Turn, key: Key) -> list[Incident]:
    """Closed incidents of this key that still matter: within the reopening window, or dismissed for longer. Of what a
    message still gathers none is forgotten, even if the wall clock has run away meanwhile: it has yet to be told."""
    now, window = turn.now, turn.world.policy.reopen_window_s
    earlier: list[Incident] = []
    kept: list[Incident] = []
    for it in turn.world.closed.get(key, ()):
        dismissed = it.dismiss_until_steady_s is not None and it.dismiss_until_steady_s > now.steady_s
        if dismissed or (it.resolved_wall_s or 0.0) > now.wall_s - window:
            earlier.append(it)
            kept.append(it)
        elif is_gathered(turn.world, it):
            kept.append(it)
    if kept:
        turn.world.closed[key] = kept
    else:
        turn.world.closed.pop(key, None)
    return earlier


def _diagnosing(
    turn: Turn, incident: Incident, verdict: Verdict, reading: HealthReading | None, *, fresh: bool
) -> None:
    """The fresh probe decides: clear means that nothing runs (AC-010), still firing means that policy is asked."""
    if not fresh:
        at_hand = reading is not None and reading.checked_mono_s is not None and verdict.status is Status.FIRING
        first = next(iter(ladder.rest(turn.world, incident)), None)
        if at_hand and first is not None and first.only_protects():
            remedy.consider(turn, incident, verdict, reading)  # a safeguard does not wait for a second long check (R7)
        elif verdict.status in (Status.FIRING, Status.CLEAR) and incident.target_id not in turn.world.asked:
            turn.ask_probe(incident.target_id, incident.family)  # what could not tell can tell now
        return
    match verdict.status:
        case Status.CLEAR:
            _end(turn, incident, "the fresh probe reads clear: nothing was run", reading)
        case Status.FIRING:
            remedy.consider(turn, incident, verdict, reading)
        case Status.PENDING | Status.UNKNOWN:
            turn.set_timer(
                TimerKind.RECHECK, incident.id, _again_s(turn, incident, RECHECK_S if incident.outside else REFRESH_S)
            )


def recheck_due(turn: Turn, incident: Incident) -> None:
    """Its probe has not told yet, or not enough: it is asked again, and somebody hears of it in time (R1, tier 1)."""
    if incident.outside and turn.now.steady_s - incident.detected_steady_s >= UNCONFIRMED_S:
        minutes = f"{UNCONFIRMED_S / 60:.0f} min"
        note = f"only others said so, and our own probe could not tell for {minutes}; nothing was run"
        _refute(turn, incident)
        turn.move(incident, Trigger.DISMISS, "engine", note)
    elif incident.state is State.DIAGNOSING:
        turn.set_timer(TimerKind.RECHECK, incident.id, _again_s(turn, incident, RECHECK_S))
        turn.ask_probe(incident.target_id, incident.family)
        quiet = incident.tier is Tier.SILENT and not incident.outside and not incident.waiting_for
        if quiet and turn.now.wall_s - incident.changed_wall_s >= UNDECIDED_S:
            note = f"its probe can neither confirm nor deny it for {UNDECIDED_S / 60:.0f} min; it is asked on"
            incident = turn.note(turn.update(incident, tier=Tier.INFORM), "engine", note)
            escalation.fired(turn, incident.id, Tier.INFORM)
            escalation.tell(turn, incident, wording.KIND[Tier.INFORM])
    elif incident.id in turn.world.rerun or incident.clear_readings:
        turn.set_timer(TimerKind.RECHECK, incident.id, RECHECK_S)
        turn.ask_probe(incident.target_id, incident.family)


def _again_s(turn: Turn, incident: Incident, least_s: float) -> float:
    """When to ask the probe of an undecided incident again: ever more seldom."""
    return min(max(least_s, (turn.now.wall_s - incident.changed_wall_s) / 4), SLOWEST_S)


def _escalated(turn: Turn, incident: Incident, verdict: Verdict, reading: HealthReading | None, *, fresh: bool) -> None:
    """R7: an incident that waits for a person closes when its probe reads clear (by R6's count)."""
    if verdict.status is not Status.CLEAR:
        if incident.clear_readings:
            incident = turn.update(incident, clear_readings=0, clear_counted_steady_s=None)
        if verdict.status is Status.FIRING and fresh and incident.id in turn.world.rerun:
            remedy.consider(turn, incident, verdict, reading)
        return
    incident = verify.count_clear(turn, incident, reading)
    if incident.clear_readings >= verify.clear_needed(turn, incident):
        ours = incident.family == OWN_FAMILY and verdict.evidence
        _end(turn, incident, verdict.evidence if ours else "its probe reads clear again", reading)
    else:
        turn.set_timer(TimerKind.RECHECK, incident.id, turn.world.policy.clear_interval_s)


def _end(turn: Turn, incident: Incident, note: str, reading: HealthReading | None) -> None:
    if incident.outside:
        _refute(turn, incident)
    learning.closing(turn, incident)
    acted = incident.acted_by is not ActedBy.NOBODY
    incident = turn.move(incident, Trigger.RECOVERED if acted else Trigger.CLEARED, "probe", note, reading=reading)
    if incident.page_id is not None or not escalation.by_signal(incident):
        escalation.closing(turn, incident)
    remedy.release(turn, incident.family)


def _refute(turn: Turn, incident: Incident) -> None:
    """Others were not confirmed: theirs open nothing about this target for a while (`outside.AGAIN_S`)."""
    if len(turn.world.refuted) >= OPEN_INCIDENTS_MAX:
        turn.world.refuted.clear()
    turn.world.refuted[incident.target_id] = turn.now.steady_s
