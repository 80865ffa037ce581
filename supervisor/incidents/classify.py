"""What a reading means: readings in, verdicts out (FR-002). Pure; keeps the consecutive counts of each target.

A family's rule is one function in `RULES`, by the type of its reading's data.
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.incidents.model import AnomalyType, Severity, Status, Verdict
from supervisor.incidents.readings import Endpoint, HealthReading, PidFile, ProcessData

ENDPOINT_FAILURES = 2  # consecutive: one lost packet is not a dead service
ZOMBIE_PERSISTS_S = 10.0  # R12
UNAVAILABLE_READINGS = 3  # R9: any other reason for 3 intervals is reported as our own

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


class Classifier:
    """Turns each reading into one verdict per anomaly type of its family; remembers only counts."""

    def __init__(self) -> None:
        self._unavailable: dict[str, int] = {}

    def observe(self, reading: HealthReading) -> tuple[Verdict, ...]:
        """Verdicts of this reading. A reading that says nothing gives UNKNOWN only (R9: never "healthy")."""
        count = 0 if reading.available else self._unavailable.get(reading.target_id, 0) + 1
        self._unavailable[reading.target_id] = count
        ours = _unavailability(reading, count)
        if reading.data is None:
            return (ours,)
        return (ours, *RULES[type(reading.data)](reading, reading.data))


def _unavailability(reading: HealthReading, count: int) -> Verdict:
    firing = count >= UNAVAILABLE_READINGS
    status = Status.CLEAR if reading.available else Status.FIRING if firing else Status.PENDING
    return Verdict(
        target_id=reading.target_id,
        family=reading.family,
        anomaly=AnomalyType.PROBE_UNAVAILABLE,
        status=status,
        severity=Severity.HIGH,
        evidence="" if reading.available else f"the check itself failed {count} times: {reading.error}",
        hint="healctl cannot see this target; check its configuration and permissions",
    )


def _process(reading: HealthReading, data: ProcessData) -> tuple[Verdict, ...]:
    status, evidence = _life(data)
    dead = Verdict(
        target_id=reading.target_id,
        family=reading.family,
        anomaly=AnomalyType.PROCESS_DEAD,
        status=status,
        severity=Severity.CRITICAL,
        evidence=evidence,
        hint="restart it" if data.alive is False else "it lives but does not serve; a restart would end it first",
        not_running=data.alive is False,
        process=data.process,
    )
    return (dead, _zombie(reading, data))


def _life(data: ProcessData) -> tuple[Status, str]:
    if data.meant_to_stop:
        return Status.CLEAR, "its stop file says that it is meant to be stopped"
    if data.alive is False:
        why = _PID_FILE_WORDS[data.pid_file] or "no process matches"
        return Status.FIRING, f"no live process; {why}"
    if data.endpoint in (Endpoint.UNSET, Endpoint.OK):
        return Status.CLEAR, data.detail
    lives = "it is alive, but " if data.alive else ""
    evidence = f"{lives}{_ENDPOINT_WORDS[data.endpoint]} ({data.detail})"
    return (Status.FIRING if data.endpoint_failures >= ENDPOINT_FAILURES else Status.PENDING), evidence


def _zombie(reading: HealthReading, data: ProcessData) -> Verdict:
    """R12: state Z, seen over at least 10 s (so by two readings at least)."""
    oldest = max(data.zombies, key=lambda zombie: zombie.seen_for_s, default=None)
    status, evidence = Status.CLEAR, ""
    if oldest is not None:
        status = Status.FIRING if oldest.seen_for_s >= ZOMBIE_PERSISTS_S else Status.PENDING
        evidence = (
            f"process {oldest.process.pid} is dead, but its parent {oldest.parent_name} ({oldest.parent_pid}) "
            f"has not reaped it for {oldest.seen_for_s:.0f} s"
        )
    return Verdict(
        target_id=reading.target_id,
        family=reading.family,
        anomaly=AnomalyType.PROCESS_ZOMBIE,
        status=status,
        severity=Severity.HIGH,
        evidence=evidence,
        hint="only its parent can reap it; restarting the parent does",
    )


RULES: dict[type, Callable[[HealthReading, ProcessData], tuple[Verdict, ...]]] = {ProcessData: _process}
