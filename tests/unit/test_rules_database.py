"""The rule of databases at each of its boundaries (FR-002)."""

from __future__ import annotations

import pytest

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import (
    DatabaseData,
    HealthReading,
    Integrity,
    ReadingData,
    Unavailable,
)

NOW = Instant(steady_s=0.0, wall_s=0.0, mono_s=0.0)


def verdict(data: ReadingData, *, is_open: bool = False) -> Verdict:
    reading = HealthReading("x", "database", 0.0, 0.0, 1.0, 1000, available=True, data=data)
    found = Classifier().observe(Judge(reading, NOW, lambda anomaly: is_open))
    (one,) = (verdict for verdict in found if verdict.anomaly is not AnomalyType.PROBE_UNAVAILABLE)
    return one


@pytest.mark.req("FR-002", "R9")
def test_only_a_finished_check_says_anything_of_a_database() -> None:
    assert verdict(DatabaseData("/a", Integrity.UNKNOWN, progress=0.99)).status is Status.UNKNOWN
    assert verdict(DatabaseData("/a", Integrity.UNKNOWN), is_open=True).status is Status.UNKNOWN
    assert verdict(DatabaseData("/a", Integrity.OK, progress=0.5), is_open=True).status is Status.CLEAR
    found = verdict(DatabaseData("/a", Integrity.CORRUPT, "quick_check", ("one", "two", "three")))
    assert (found.anomaly, found.status, found.severity) == (
        AnomalyType.DB_CORRUPTION, Status.FIRING, Severity.CRITICAL,
    )  # fmt: skip
    assert found.evidence == "quick_check found errors; one; two"
    assert found.hint


@pytest.mark.req("FR-002")
def test_a_destroyed_header_is_told_as_such() -> None:
    found = verdict(DatabaseData("/a", Integrity.CORRUPT, "opening it", ("no database",), header_destroyed=True))
    assert found.evidence == "its header is destroyed; no database"


@pytest.mark.req("R9")
@pytest.mark.parametrize("reason", [Unavailable.LOCKED, Unavailable.MISSING, Unavailable.PERMISSION])
def test_a_database_that_cannot_be_read_is_neither_corrupt_nor_well(reason: Unavailable) -> None:
    classifier = Classifier()
    reading = HealthReading("x", "database", 0.0, 0.0, 1.0, 1000, available=False, reason=reason, error="why")
    for status in (Status.PENDING, Status.PENDING, Status.FIRING):
        (found,) = classifier.observe(Judge(reading, NOW))
        assert (found.anomaly, found.status) == (AnomalyType.PROBE_UNAVAILABLE, status)
