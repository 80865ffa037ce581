"""What a reading of a plugin's probe means: its own findings, under its own names alone. Pure.

A plugin can speak of nothing but its own family's anomalies, whatever it says: the family's name stands in front.
"""

from __future__ import annotations

from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Verdict
from supervisor.incidents.readings import CheckData


def rule(judge: Judge, data: CheckData) -> tuple[Verdict, ...]:
    return tuple(
        judge.verdict(
            AnomalyType(f"{judge.reading.family}.{found.anomaly}"),
            found.status,
            found.severity,
            found.evidence,
            found.hint,
        )
        for found in data.findings
    )
