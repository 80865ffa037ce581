"""The rules of disks and memory at their limits: exactly there, just beyond, and where what is open ends (FR-002)."""

from __future__ import annotations

import math

import msgspec
import pytest

from supervisor.incidents import resources
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import DiskData, HealthReading, MemoryData, ReadingData

MIB = 1024**2
NOW = Instant(1000.0, 1000.0, 1000.0)
PRESSURE, CRITICAL = AnomalyType.DISK_PRESSURE, AnomalyType.DISK_CRITICAL
SHORT, DIRE = AnomalyType.MEMORY_PRESSURE, AnomalyType.MEMORY_CRITICAL
QUIET: frozenset[AnomalyType] = frozenset()


def judge(target_id: str, data: ReadingData, open_ones: frozenset[AnomalyType]) -> Judge:
    reading = HealthReading(target_id, "host", 1.0, 1.0, 1.0, 60_000, available=True, data=data)
    return Judge(reading, NOW, lambda anomaly: anomaly in open_ones)


def disk_verdicts(data: DiskData, *open_ones: AnomalyType) -> dict[AnomalyType, Verdict]:
    verdicts = resources.disk(judge("disk:/d", data, frozenset(open_ones)), data)
    return {verdict.anomaly: verdict for verdict in verdicts}


def disk(share: float, *open_ones: AnomalyType, inodes: float | None = None) -> tuple[Status, Status]:
    """(pressure, critical) at the default limits."""
    data = DiskData("/d", 0.85, 0.95, used_share=share, inodes_used_share=inodes)
    verdicts = disk_verdicts(data, *open_ones)
    return verdicts[PRESSURE].status, verdicts[CRITICAL].status


def memory_verdicts(available: int, *open_ones: AnomalyType, **more: object) -> dict[AnomalyType, Verdict]:
    data = MemoryData(available, 8192 * MIB, 512 * MIB, 256 * MIB)
    data = msgspec.structs.replace(data, **more)
    verdicts = resources.memory(judge("system-memory", data, frozenset(open_ones)), data)
    return {verdict.anomaly: verdict for verdict in verdicts}


def memory(available: int, *open_ones: AnomalyType) -> tuple[Status, Status]:
    verdicts = memory_verdicts(available, *open_ones)
    return verdicts[SHORT].status, verdicts[DIRE].status


FIRING, CLEAR, PENDING = Status.FIRING, Status.CLEAR, Status.PENDING


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.0, (CLEAR, CLEAR)),
        (85 / 100, (CLEAR, CLEAR)),  # exactly at the limit is still well
        (17 / 20, (CLEAR, CLEAR)),
        (math.nextafter(0.85, 1), (FIRING, CLEAR)),
        (0.86, (FIRING, CLEAR)),
        (95 / 100, (FIRING, CLEAR)),
        (math.nextafter(0.95, 1), (PENDING, FIRING)),  # what is critical is one incident, not two
        (1.0, (PENDING, FIRING)),
    ],
)
def test_a_disk_fires_beyond_85_and_95_percent(share: float, expected: tuple[Status, Status]) -> None:
    assert disk(share) == expected
    assert disk(0.1, inodes=share) == expected, "inodes count as bytes do"


@pytest.mark.req("FR-002")
def test_a_disk_has_the_severities_of_the_table() -> None:
    verdicts = disk_verdicts(DiskData("/d", 0.85, 0.95, used_share=0.96))
    assert (verdicts[PRESSURE].severity, verdicts[CRITICAL].severity) == (Severity.HIGH, Severity.CRITICAL)
    assert all(verdict.hint for verdict in verdicts.values())


@pytest.mark.req("FR-002", "NFR-002")
@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (math.nextafter(0.85, 1), FIRING),
        (0.85, PENDING),  # open, and not well within: it neither fires nor ends
        (0.85 - 0.02, PENDING),
        (math.nextafter(0.85 - 0.02, 0), CLEAR),
    ],
)
def test_an_open_disk_pressure_ends_two_points_below_its_limit(share: float, expected: Status) -> None:
    assert disk(share, PRESSURE)[0] is expected


@pytest.mark.req("FR-002", "NFR-002")
@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.951, FIRING), (0.95, PENDING), (0.95 - 0.02, PENDING), (math.nextafter(0.95 - 0.02, 0), CLEAR)],
)
def test_an_open_disk_critical_ends_two_points_below_its_limit(share: float, expected: Status) -> None:
    assert disk(share, CRITICAL)[1] is expected


@pytest.mark.req("FR-004")
def test_an_open_pressure_goes_on_while_the_disk_is_critical() -> None:
    assert disk(0.96, PRESSURE) == (FIRING, FIRING)
    assert disk(0.96, CRITICAL) == (PENDING, FIRING)
    assert disk(0.94, CRITICAL) == (PENDING, PENDING), "still one incident, until what is critical has ended"
    assert disk(0.94, PRESSURE, CRITICAL) == (FIRING, PENDING)
    assert disk(0.92, CRITICAL) == (FIRING, CLEAR)


@pytest.mark.req("FR-002")
@pytest.mark.parametrize("pressure", [0.85, 0.02, 0.01, 0.0])
def test_a_disk_that_is_not_mounted_any_more_ends_what_is_open(pressure: float) -> None:
    data = DiskData("/d", pressure, 0.95, mounted=False)
    verdicts = disk_verdicts(data, PRESSURE, CRITICAL)
    assert {verdict.status for verdict in verdicts.values()} == {CLEAR}
    assert "not mounted" in verdicts[PRESSURE].evidence


@pytest.mark.req("FR-002")
def test_a_small_limit_still_has_a_mark_below_it_at_which_it_ends() -> None:
    def status(share: float) -> Status:
        return disk_verdicts(DiskData("/d", 0.02, 0.95, used_share=share), PRESSURE)[PRESSURE].status

    assert [status(share) for share in (0.021, 0.02, 0.01, 0.009)] == [FIRING, PENDING, PENDING, CLEAR]


@pytest.mark.req("FR-002", "NFR-003")
def test_the_evidence_of_a_disk_is_in_plain_words() -> None:
    data = DiskData(
        "/var",
        0.85,
        0.95,
        used_share=0.5,
        inodes_used_share=0.97,
        available_bytes=3 * 1024**3,
        full_in_s=7200.0,
        detail="read-only",
    )
    text = disk_verdicts(data)[CRITICAL].evidence
    assert text == (
        "50.0% full, 3 GiB left; 97.0% of its inodes (files it can hold) are taken; at the present growth it is full "
        "in 2 h (read-only)"
    )


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (8192 * MIB, (CLEAR, CLEAR)),
        (512 * MIB, (CLEAR, CLEAR)),  # exactly at the limit is still well
        (512 * MIB - 1, (FIRING, CLEAR)),
        (256 * MIB, (FIRING, CLEAR)),  # SITE.md: this counted as critical once
        (256 * MIB - 1, (PENDING, FIRING)),
        (0, (PENDING, FIRING)),
    ],
)
def test_memory_fires_below_512_and_256_mib(available: int, expected: tuple[Status, Status]) -> None:
    assert memory(available) == expected


@pytest.mark.req("FR-002", "NFR-002")
def test_what_is_open_ends_a_tenth_above_its_limit() -> None:
    marks = [(512 * MIB, SHORT, 0), (256 * MIB, DIRE, 1)]
    for limit, anomaly, index in marks:
        clear = math.ceil(limit * 1.1)
        found = [memory(value, anomaly)[index] for value in (limit - 1, limit, clear - 1, clear)]
        assert found == [FIRING, PENDING, PENDING, CLEAR], anomaly


@pytest.mark.req("FR-002", "FR-004")
def test_memory_has_the_severities_of_the_table_and_one_incident_for_what_is_critical() -> None:
    verdicts = memory_verdicts(100 * MIB)
    assert (verdicts[SHORT].severity, verdicts[DIRE].severity) == (Severity.MEDIUM, Severity.CRITICAL)
    assert memory(100 * MIB, SHORT) == (FIRING, FIRING)
    assert memory(270 * MIB, DIRE) == (PENDING, PENDING), "still one incident, until what is critical has ended"
    assert memory(290 * MIB, DIRE) == (FIRING, CLEAR)


@pytest.mark.req("FR-002", "NFR-003")
def test_the_evidence_of_memory_names_who_limits_it_and_how_it_stalls() -> None:
    verdicts = memory_verdicts(100 * MIB, limited_by="/g/memory.max", stalled_share=0.25)
    text = verdicts[DIRE].evidence
    assert text.startswith("100 MiB of 8 GiB are available, by the limit in /g/memory.max")
    assert "25% of the last 10 s" in text
