"""The rule of log files at each of its boundaries (FR-002)."""

from __future__ import annotations

import pytest

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import (
    HealthReading,
    LogFile,
    LogsData,
    ReadingData,
)

MIB = 1024**2
NOW = Instant(steady_s=0.0, wall_s=0.0, mono_s=0.0)


def verdict(data: ReadingData, *, is_open: bool = False) -> Verdict:
    reading = HealthReading("x", "logs", 0.0, 0.0, 1.0, 1000, available=True, data=data)
    found = Classifier().observe(Judge(reading, NOW, lambda anomaly: is_open))
    (one,) = (verdict for verdict in found if verdict.anomaly is not AnomalyType.PROBE_UNAVAILABLE)
    return one


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("count", "is_open", "status"),
    [
        (100 * MIB, False, Status.CLEAR),  # exactly at the limit is well
        (100 * MIB + 1, False, Status.FIRING),
        (100 * MIB + 1, True, Status.FIRING),
        (100 * MIB, True, Status.PENDING),  # once open, it clears only at nine tenths
        (90 * MIB + 1, True, Status.PENDING),
        (90 * MIB, True, Status.CLEAR),
        (0, True, Status.CLEAR),
    ],
)
def test_a_log_file_at_each_mark(count: int, is_open: bool, status: Status) -> None:
    data = LogsData(1, count, 100 * MIB, (LogFile("/var/log/a", count),))
    found = verdict(data, is_open=is_open)
    assert (found.anomaly, found.status, found.severity) == (AnomalyType.LOG_BLOAT, status, Severity.MEDIUM)


@pytest.mark.req("FR-002")
def test_the_evidence_names_the_largest_and_counts_the_others() -> None:
    files = tuple(LogFile(f"/l/{n}", 200 * MIB - n) for n in range(5))
    found = verdict(LogsData(5, 1000 * MIB, 100 * MIB, files))
    assert "/l/0 has 200 MiB" in found.evidence
    assert "and 2 more; at most 100 MiB are allowed" in found.evidence


@pytest.mark.req("FR-002")
def test_no_log_files_at_all_and_some_that_are_denied_are_no_anomaly() -> None:
    assert verdict(LogsData(0, 0, 100 * MIB)).status is Status.CLEAR
    assert verdict(LogsData(1, 1, 100 * MIB, (LogFile("/l", 1),), denied=("/m",))).status is Status.CLEAR


@pytest.mark.req("R9")
def test_what_was_not_looked_at_may_be_larger() -> None:
    small, large = (LogFile("/l", 1),), (LogFile("/l", 101 * MIB),)
    assert verdict(LogsData(1, 1, 100 * MIB, small, complete=False)).status is Status.UNKNOWN
    assert verdict(LogsData(1, 1, 100 * MIB, large, complete=False)).status is Status.FIRING
