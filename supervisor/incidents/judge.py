"""One reading before its rule: the reading, and what the engine knows besides it that a rule may need. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from supervisor.incidents.model import AnomalyType, Instant, Severity, StageEntry, Status, Verdict
from supervisor.incidents.readings import HealthReading, ProcessRef


@dataclass(frozen=True)
class Judge:
    """`is_open`: has the target an open incident of this type? What is open ends at a lower mark than it began at.

    `stage`: since when the pipeline's task of this reading stands where it stands.
    """

    reading: HealthReading
    now: Instant
    is_open: Callable[[AnomalyType], bool] = lambda anomaly: False
    stage: StageEntry | None = None

    def verdict(
        self,
        anomaly: AnomalyType,
        status: Status,
        severity: Severity,
        evidence: str,
        hint: str,
        *,
        not_running: bool = False,
        process: ProcessRef | None = None,
    ) -> Verdict:
        return Verdict(
            self.reading.target_id,
            self.reading.family,
            anomaly,
            status,
            severity,
            evidence,
            hint,
            not_running=not_running,
            process=process,
        )

    def level(self, anomaly: AnomalyType, *, beyond: bool, well_within: bool) -> Status:
        """Hysteresis: it fires beyond its mark, and once open clears only well within it, so that a value on the edge
        does not flap."""
        if beyond:
            return Status.FIRING
        return Status.CLEAR if well_within or not self.is_open(anomaly) else Status.PENDING


def span(seconds: float) -> str:
    """A duration as people say it: "45 s", "12 min", "3.5 h", "2 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.1f}".removesuffix(".0") + " h"
    return f"{seconds / 86400:.0f} days"


def size(count: float) -> str:
    """Bytes as people say them, in the binary units of the configuration: "254 MiB", "1.4 GiB"."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f}".removesuffix(".0") + f" {unit}"
        count /= 1024
    return f"{count:.1f}".removesuffix(".0") + " GiB"
