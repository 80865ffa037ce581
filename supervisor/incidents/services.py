"""What readings of services mean: processes, the gateway, hosts, pipelines, the live signal, positions (FR-002). Pure.

Each function is the rule of one struct of data; `classify.RULES` names them. A rule judges fields, never words.
"""

from __future__ import annotations

from supervisor.incidents.judge import Judge, span
from supervisor.incidents.model import AnomalyType, Severity, Status, Verdict
from supervisor.incidents.readings import (
    Endpoint,
    FleetData,
    GatewayData,
    Manager,
    PidFile,
    PipelineData,
    PositionsData,
    ProcessData,
    SignalData,
    Stamp,
)

ENDPOINT_FAILURES = 2  # consecutive: one lost packet is not a dead service
ZOMBIE_PERSISTS_S = 10.0  # R12
SIGNAL_WELL_WITHIN = 0.8  # of max_age: an open signal_stale clears only below it
PHANTOMS_NAMED_MAX = 3
RUNNING = "running"  # what a gateway's status command says of a service that lives

_PID_FILE_WORDS = {
    PidFile.UNSET: "",
    PidFile.OK: "",
    PidFile.MISSING: "its pid file does not exist",
    PidFile.MALFORMED: "its pid file holds no process id",
    PidFile.STALE: "its pid file names a process that is gone",
    PidFile.RECYCLED: "its pid file names a process that is not this service",
    PidFile.UNREADABLE: "its pid file cannot be read",
}
_ENDPOINT_WORDS = {
    Endpoint.REFUSED: "its endpoint refuses connections",
    Endpoint.TIMEOUT: "its endpoint accepts but does not answer",
    Endpoint.BAD_ANSWER: "its endpoint answers wrongly",
}


_MANAGER_WORDS = {
    Manager.NONE: "",
    Manager.RUNNING: "its service manager takes it for running",
    Manager.RESTARTING: "its service manager is at it",
    Manager.STOPPED: "its service manager says that it was stopped in good order",
    Manager.FAILED: "its service manager does not restart it",
    Manager.UNKNOWN: "its service manager cannot be asked",
}


def process(judge: Judge, data: ProcessData) -> tuple[Verdict, ...]:
    """FR-002 `process_dead` and `process_zombie`; what a service manager has in hand is left to it (R8)."""
    status, evidence = _life(data)
    hint = "restart it" if data.alive is False else "see why it does not serve; a restart would end it first"
    # A manager that takes it for running has a live process that we do not see: its restart would end that (R3).
    beside = data.alive is False and data.manager is Manager.RUNNING
    if beside:
        hint = "check pid_file and match: its manager's restart would end what it runs"
    dead = judge.verdict(
        AnomalyType.PROCESS_DEAD,
        status,
        Severity.CRITICAL,
        evidence,
        hint,
        not_running=data.alive is False and not beside,
        process=data.process,
    )
    return (dead, _zombie(judge, data))


def _life(data: ProcessData) -> tuple[Status, str]:
    if data.meant_to_stop:
        return Status.CLEAR, "its stop file says that it is meant to be stopped"
    if data.alive is False:
        why = _PID_FILE_WORDS[data.pid_file] or "no process matches"
        return _unless_managed(data, Status.FIRING, f"no live process; {why}")
    if data.endpoint is Endpoint.OK:
        return Status.CLEAR, data.detail
    if data.endpoint is Endpoint.UNSET:
        if data.stopped:
            return Status.FIRING, f"it exists, but is stopped and does nothing until it is continued ({data.detail})"
        return Status.CLEAR, data.detail
    lives = "it is alive, but " if data.alive else ""
    status = Status.FIRING if data.endpoint_failures >= ENDPOINT_FAILURES else Status.PENDING
    return _unless_managed(data, status, f"{lives}{_ENDPOINT_WORDS[data.endpoint]} ({data.detail})")


def _unless_managed(data: ProcessData, status: Status, evidence: str) -> tuple[Status, str]:
    """R8: what its manager has stopped is well (unless it lives); what its manager is at, or may be about to begin,
    waits. A manager that cannot be asked, or has given up, keeps nobody from acting."""
    words = _MANAGER_WORDS[data.manager]
    if data.manager is Manager.STOPPED and not data.alive:
        return Status.CLEAR, words
    if data.manager is Manager.RESTARTING:
        return Status.PENDING, f"{evidence}; {words}"
    if not data.alive and data.dead_for_s < data.act_after_s:
        return Status.PENDING, f"{evidence}; its service manager has {span(data.act_after_s)} to restart it"
    if words and data.alive is False:
        words = f"{words} ({data.detail})"
    return status, "; ".join(part for part in (evidence, words) if part)


def _zombie(judge: Judge, data: ProcessData) -> Verdict:
    """R12: state Z, seen over at least 10 s (so by two readings at least)."""
    oldest = max(data.zombies, key=lambda zombie: zombie.seen_for_s, default=None)
    status, evidence = Status.CLEAR, ""
    if oldest is not None:
        status = Status.FIRING if oldest.seen_for_s >= ZOMBIE_PERSISTS_S else Status.PENDING
        evidence = (
            f"process {oldest.process.pid} is dead, but its parent {oldest.parent_name} ({oldest.parent_pid}) "
            f"has not cleaned it up for {oldest.seen_for_s:.0f} s"
        )
    hint = "restart its parent, which alone can clean it up"
    return judge.verdict(AnomalyType.PROCESS_ZOMBIE, status, Severity.HIGH, evidence, hint)


def gateway(judge: Judge, data: GatewayData) -> tuple[Verdict, ...]:
    """FR-002 `gateway_unresponsive`: its self-probe failed twice in a row (`failures` in its table)."""
    status, evidence = Status.CLEAR, data.detail
    if data.endpoint not in (Endpoint.OK, Endpoint.UNSET):
        # Nobody accepts there, but something of it may be alive and about to: its manager's word is on its way.
        unclear = data.endpoint is Endpoint.REFUSED and data.asking
        firing = data.failures >= data.failures_needed and not unclear
        status = Status.FIRING if firing else Status.PENDING
        evidence = f"{_ENDPOINT_WORDS[data.endpoint]}, {data.failures} in a row, by its {data.judged_by}"
        if data.detail:
            evidence += f" ({data.detail})"
    elif data.endpoint is Endpoint.UNSET:
        status = Status.UNKNOWN
    not_running = data.endpoint is Endpoint.REFUSED and not data.asking and data.runtime != RUNNING
    anomaly = AnomalyType.GATEWAY_UNRESPONSIVE
    return (judge.verdict(anomaly, status, Severity.CRITICAL, evidence, "restart it", not_running=not_running),)


def fleet(judge: Judge, data: FleetData) -> tuple[Verdict, ...]:
    """A host that was reached, or that is not in the hosts file any more."""
    evidence = data.detail if data.listed else "it is not in the hosts file any more"
    return (judge.verdict(AnomalyType.FLEET_UNREACHABLE, Status.CLEAR, Severity.HIGH, evidence, "look at its network"),)


def pipeline(judge: Judge, data: PipelineData) -> tuple[Verdict, ...]:
    """FR-002 `pipeline_stuck`: in the same stage for longer than the limit, and nobody said anything about it."""
    status, evidence = Status.CLEAR, ""
    if data.moving and judge.stage is not None:
        stood_s = judge.now.steady_s - judge.stage.entered_steady_s
        silent_s = stood_s
        if data.message_wall_s is not None:
            silent_s = min(stood_s, judge.now.wall_s - data.message_wall_s)
        evidence = f"it has stood in stage {data.stage} for {span(stood_s)}"
        if silent_s > data.stuck_after_s:
            status = Status.FIRING if data.messages_known else Status.UNKNOWN
            evidence += ", and no message speaks of it" + (f" ({data.title})" if data.title else "")
    elif not data.moving:
        evidence = data.detail or "it is finished, blocked, or not in the list any more"
    hint = "see what its agent waits for; mark the stage blocked"
    return (judge.verdict(AnomalyType.PIPELINE_STUCK, status, Severity.HIGH, evidence, hint),)


def signal(judge: Judge, data: SignalData) -> tuple[Verdict, ...]:
    """FR-002 `signal_stale`: older than the limit, while its program should be running."""
    anomaly = AnomalyType.SIGNAL_STALE
    if data.meant_to_stop:
        evidence = f"{data.process} is meant to be stopped, so that no signal is expected"
        return (judge.verdict(anomaly, Status.CLEAR, Severity.HIGH, evidence, ""),)
    status = judge.level(
        anomaly,
        beyond=data.age_s > data.max_age_s,
        well_within=data.age_s <= data.max_age_s * SIGNAL_WELL_WITHIN,
    )
    by = " by the file's own time, since it holds none" if data.stamp is Stamp.MTIME else ""
    evidence = f"it is {span(data.age_s)} old{by}; at most {span(data.max_age_s)} is allowed"
    hint = f"look at {data.process}, which should write it" if data.process else "look at the program that writes it"
    return (judge.verdict(anomaly, status, Severity.HIGH, evidence, hint),)


def positions(judge: Judge, data: PositionsData) -> tuple[Verdict, ...]:
    """FR-002 `phantom_position`: an open trade that the live signal, if fresh, does not account for."""
    named = ", ".join(f"{p.symbol} {p.side} (trade {p.trade_id})" for p in data.phantoms[:PHANTOMS_NAMED_MAX])
    more = f" and {len(data.phantoms) - PHANTOMS_NAMED_MAX} more" if len(data.phantoms) > PHANTOMS_NAMED_MAX else ""
    if not data.signal_fresh:
        why = f" ({data.detail})" if data.detail else ""
        status, evidence = Status.UNKNOWN, f"there is no fresh live signal with which a trade could be compared{why}"
    elif data.phantoms:
        status = Status.PENDING if data.settling else Status.FIRING
        evidence = f"open without a live signal: {named}{more}"
    else:
        status, evidence = Status.CLEAR, f"{data.open_trades} open trades, all with a live signal"
    hint = "close it in the trades database, if the exchange knows of no such position"
    return (judge.verdict(AnomalyType.PHANTOM_POSITION, status, Severity.HIGH, evidence, hint),)
