"""One look at one target, and what it would mean by itself: for `healctl probe` and `healctl check --live`. Pure.

The classifier's memory is empty: what needs more than one reading is `pending`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import Instant, StageEntry, Status, Verdict
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.views import stamp


class Outcome(StrEnum):
    """What a look says, the worst first."""

    FIRING = "firing"  # it would be an incident
    UNAVAILABLE = "unavailable"  # it could not be read (R9)
    PENDING = "pending"  # abnormal, but more readings must say so
    UNKNOWN = "unknown"  # it was read, but its check has not finished, or cannot tell yet
    CLEAR = "clear"


class Look(msgspec.Struct, frozen=True):
    reading: HealthReading
    verdicts: tuple[Verdict, ...]
    outcome: Outcome
    says: str


_BY_STATUS = ((Status.FIRING, Outcome.FIRING), (Status.PENDING, Outcome.PENDING), (Status.UNKNOWN, Outcome.UNKNOWN))


def judged(reading: HealthReading, now: Instant, stage: StageEntry | None = None) -> Look:
    """The reading, and what it would be if it were the first of its target."""
    verdicts = Classifier().observe(Judge(reading, now, stage=stage))
    told = [verdict for verdict in verdicts if reading.available or verdict.status is Status.FIRING]
    for status, outcome in _BY_STATUS:
        found = [verdict for verdict in told if verdict.status is status]
        if found:
            words = "; ".join(f"{v.anomaly.value}: {v.evidence or _NO_WORDS[outcome]}" for v in found)
            return Look(reading, verdicts, outcome, words)
    if not reading.available:
        return Look(reading, verdicts, Outcome.UNAVAILABLE, f"{reading.reason.value}: {reading.error}")
    return Look(reading, verdicts, Outcome.CLEAR, "; ".join({v.evidence: 0 for v in verdicts if v.evidence}))


_NO_WORDS = {
    Outcome.FIRING: "yes",
    Outcome.PENDING: "more readings must say so",
    Outcome.UNKNOWN: "still checking",
}


def look_json(look: Look) -> dict[str, Any]:
    reading = look.reading
    return {
        "target_id": reading.target_id,
        "family": reading.family,
        "outcome": look.outcome.value,
        "says": look.says,
        "available": reading.available,
        "reason": None if reading.available else reading.reason.value,
        "error": reading.error or None,
        "captured_at": stamp(reading.taken_wall_s),
        "took_ms": round(reading.took_ms, 3),
        "freshness_ms": reading.freshness_ms,
        "data": msgspec.to_builtins(reading.data),
        "anomalies": [
            {
                "anomaly_type": verdict.anomaly.value,
                "status": verdict.status.value,
                "severity": verdict.severity.value,
                "evidence": verdict.evidence,
                "hint": verdict.hint,
            }
            for verdict in look.verdicts
        ],
    }
