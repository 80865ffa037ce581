"""What a reading means: readings in, verdicts out (FR-002). Pure; keeps only how often a check has failed.

A family's rule is one function in `RULES`, by the type of its reading's data; the rules themselves stand in
`services.py` and `resources.py`. A reading without data says nothing about its target (R9: never "healthy"), except
where not being reached is itself the anomaly (`REASONS`).
"""

from __future__ import annotations

from collections.abc import Callable

from supervisor.incidents import drill_run, foreign, resources, services
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Severity, Status, Verdict
from supervisor.incidents.readings import (
    CheckData,
    DatabaseData,
    DiskData,
    DrillData,
    FleetData,
    GatewayData,
    HealthReading,
    LogsData,
    MemoryData,
    PipelineData,
    PositionsData,
    ProcessData,
    SignalData,
    Unavailable,
)

UNAVAILABLE_READINGS = 3  # R9: any other reason for 3 intervals is reported as our own
# A changed host key may be an attack: told at the first reading, and never "reachable" (R9).
AT_ONCE = frozenset({Unavailable.HOST_KEY})

# R9: which reasons for having no data are the target's own anomaly: by its family and the end of its id, the reasons,
# the anomaly, its severity, and a hint.
REASONS: dict[tuple[str, str], tuple[frozenset[Unavailable], AnomalyType, Severity, str]] = {
    ("fleet", ""): (
        frozenset({Unavailable.TIMEOUT, Unavailable.REFUSED, Unavailable.UNREACHABLE, Unavailable.DEADLINE}),
        AnomalyType.FLEET_UNREACHABLE,
        Severity.HIGH,
        "look at its network",
    ),
    ("trading", "-signals"): (
        frozenset({Unavailable.MISSING}),
        AnomalyType.SIGNAL_STALE,
        Severity.HIGH,
        "look at the program that writes it",
    ),
}

RULES: dict[type, Callable[..., tuple[Verdict, ...]]] = {
    ProcessData: services.process,
    GatewayData: services.gateway,
    FleetData: services.fleet,
    PipelineData: services.pipeline,
    SignalData: services.signal,
    PositionsData: services.positions,
    DiskData: resources.disk,
    MemoryData: resources.memory,
    DatabaseData: resources.database,
    LogsData: resources.logs,
    DrillData: drill_run.rule,
    CheckData: foreign.rule,
}


class Classifier:
    """Turns each reading into one verdict per anomaly type of its family; remembers only counts."""

    def __init__(self, counts: dict[str, int] | None = None) -> None:
        self.counts: dict[str, int] = {} if counts is None else counts  # by target: unavailable in a row

    def observe(self, judge: Judge) -> tuple[Verdict, ...]:
        """Verdicts of this reading. A reading that says nothing gives UNKNOWN only (R9: never "healthy")."""
        reading = judge.reading
        blind = () if reading.reason is Unavailable.NONE else REASONS.items()
        for (family, ending), (reasons, anomaly, severity, hint) in blind:
            if reading.family == family and reading.target_id.endswith(ending) and reading.reason in reasons:
                self.counts.pop(reading.target_id, None)
                why = reading.error or str(reading.reason)
                return (_unavailability(judge, 0), judge.verdict(anomaly, Status.FIRING, severity, why, hint))
        count = self.counts.get(reading.target_id, 0) + 1 if not reading.available or _half_blind(reading) else 0
        self.counts[reading.target_id] = count
        ours = _unavailability(judge, count)
        if reading.data is None:
            return (ours,)
        return (ours, *RULES[type(reading.data)](judge, reading.data))

    def forget(self, target_id: str) -> None:
        """Its target is no longer watched."""
        self.counts.pop(target_id, None)


def _half_blind(reading: HealthReading) -> bool:
    """It tells something, but not what an anomaly would be judged by: in the long run that must be known, too."""
    data = reading.data
    return isinstance(data, PipelineData) and data.moving and not data.messages_known and not reading.external


def _unavailability(judge: Judge, count: int) -> Verdict:
    reading: HealthReading = judge.reading
    hint = "check its configuration, and whether healctl may read it"
    if count == 0:
        return judge.verdict(AnomalyType.PROBE_UNAVAILABLE, Status.CLEAR, Severity.HIGH, "", hint)
    firing = count >= UNAVAILABLE_READINGS or (count > 0 and reading.reason in AT_ONCE)
    times = "once" if count == 1 else f"{count} times"
    error = reading.error or (reading.data.detail if reading.data is not None else "")
    return judge.verdict(
        AnomalyType.PROBE_UNAVAILABLE,
        Status.FIRING if firing else Status.PENDING,
        Severity.HIGH,
        f"the check itself failed {times}: {error}",
        hint,
    )
