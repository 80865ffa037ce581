"""FR-002's table, row by row: condition, severity, a hint and evidence in plain words; and what R9 says of silence."""

from __future__ import annotations

from typing import get_args

import pytest

from supervisor.incidents.classify import RULES, Classifier
from supervisor.incidents.judge import Judge, size, span
from supervisor.incidents.model import AnomalyType, Instant, Severity, StageEntry, Status, Verdict
from supervisor.incidents.phrases import WAS, WHAT
from supervisor.incidents.readings import (
    DatabaseData,
    DiskData,
    Endpoint,
    GatewayData,
    HealthReading,
    Integrity,
    LogFile,
    LogsData,
    MemoryData,
    PipelineData,
    Position,
    PositionsData,
    ProcessData,
    ProcessRef,
    ReadingData,
    SignalData,
    Stamp,
    Unavailable,
    Zombie,
)

NOW = Instant(steady_s=10_000.0, wall_s=1_000_000.0, mono_s=500.0)
ENTERED = StageEntry("pipeline:task-001", "build", NOW.steady_s - 3601, NOW.wall_s - 3601)
MIB = 1024**2


def reading(data: ReadingData | None, family: str = "x", reason: Unavailable = Unavailable.NONE) -> HealthReading:
    return HealthReading("t", family, NOW.mono_s, NOW.wall_s, 1.0, 60_000, data is not None, data, reason, str(reason))


def verdicts(data: ReadingData, stage: StageEntry | None = None) -> dict[AnomalyType, Verdict]:
    judge = Judge(reading(data), NOW, stage=stage)
    return {verdict.anomaly: verdict for verdict in Classifier().observe(judge)}


ZOMBIE = Zombie(ProcessRef("boot", 7, 1), 3, "sh", 10.0)
TABLE: list[tuple[AnomalyType, Severity, ReadingData]] = [
    (AnomalyType.PROCESS_DEAD, Severity.CRITICAL, ProcessData(alive=False)),
    (AnomalyType.PROCESS_ZOMBIE, Severity.HIGH, ProcessData(alive=True, zombies=(ZOMBIE,))),
    (AnomalyType.SIGNAL_STALE, Severity.HIGH, SignalData(300.1, 300, Stamp.KEY)),
    (AnomalyType.PHANTOM_POSITION, Severity.HIGH, PositionsData(True, 1, (Position("1", "BTC", "long"),))),
    (AnomalyType.PIPELINE_STUCK, Severity.HIGH, PipelineData("task-001", True, 3600, stage="build")),
    (AnomalyType.DISK_PRESSURE, Severity.HIGH, DiskData("/", 0.85, 0.95, used_share=0.8501)),
    (AnomalyType.DISK_CRITICAL, Severity.CRITICAL, DiskData("/", 0.85, 0.95, used_share=0.9501)),
    (AnomalyType.MEMORY_PRESSURE, Severity.MEDIUM, MemoryData(512 * MIB - 1, 4096 * MIB, 512 * MIB, 256 * MIB)),
    (AnomalyType.MEMORY_CRITICAL, Severity.CRITICAL, MemoryData(256 * MIB - 1, 4096 * MIB, 512 * MIB, 256 * MIB)),
    (AnomalyType.DB_CORRUPTION, Severity.CRITICAL, DatabaseData("/x.db", Integrity.CORRUPT, errors=("bad page",))),
    (AnomalyType.LOG_BLOAT, Severity.MEDIUM, LogsData(1, 1, 100 * MIB, (LogFile("/x.log", 100 * MIB + 1),))),
    (AnomalyType.GATEWAY_UNRESPONSIVE, Severity.CRITICAL, GatewayData(Endpoint.TIMEOUT, 2, 2, "health_url")),
]


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(("anomaly", "severity", "data"), TABLE, ids=lambda value: str(value)[:20])
def test_fr_002_each_type_has_its_severity_a_hint_and_evidence(
    anomaly: AnomalyType, severity: Severity, data: ReadingData
) -> None:
    verdict = verdicts(data, ENTERED)[anomaly]
    assert verdict.status is Status.FIRING
    assert verdict.severity is severity
    assert len(verdict.hint) > 5
    assert len(verdict.evidence) > 10


@pytest.mark.req("FR-002", "R9")
def test_fr_002_a_host_that_cannot_be_reached_is_an_anomaly_without_data() -> None:
    judge = Judge(reading(None, "fleet", Unavailable.TIMEOUT), NOW)
    found = {verdict.anomaly: verdict for verdict in Classifier().observe(judge)}
    unreached = found[AnomalyType.FLEET_UNREACHABLE]
    assert (unreached.status, unreached.severity) == (Status.FIRING, Severity.HIGH)
    assert found[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("FR-002")
def test_fr_002_the_thirteen_types_are_all_there() -> None:
    shown = {anomaly for anomaly, _, _ in TABLE} | {AnomalyType.FLEET_UNREACHABLE}
    assert len(shown) == 13
    assert set(WHAT) == set(WAS) == set(AnomalyType), "words for each"


@pytest.mark.req("FR-002")
def test_every_kind_of_data_has_a_rule() -> None:
    assert set(RULES) == set(get_args(ReadingData))


@pytest.mark.req("R9")
def test_r9_a_reading_that_says_nothing_is_neither_well_nor_ill_and_three_are_our_own_anomaly() -> None:
    classifier = Classifier()
    seen = []
    for _ in range(3):
        (verdict,) = classifier.observe(Judge(reading(None, "host", Unavailable.PERMISSION), NOW))
        seen.append(verdict.status)
    assert seen == [Status.PENDING, Status.PENDING, Status.FIRING]
    found = classifier.observe(Judge(reading(ProcessData(alive=True)), NOW))
    assert found[0].anomaly is AnomalyType.PROBE_UNAVAILABLE
    assert found[0].status is Status.CLEAR


@pytest.mark.req("R9")
def test_r9_a_changed_host_key_is_told_at_once_and_never_called_unreachable() -> None:
    found = Classifier().observe(Judge(reading(None, "fleet", Unavailable.HOST_KEY), NOW))
    assert [(verdict.anomaly, verdict.status) for verdict in found] == [(AnomalyType.PROBE_UNAVAILABLE, Status.FIRING)]


@pytest.mark.req("FR-002")
def test_words_for_spans_and_sizes() -> None:
    assert [span(s) for s in (5, 119.6, 120, 7199, 7200, 172_800)] == [
        "5 s",
        "120 s",
        "2 min",
        "120 min",
        "2 h",
        "2 days",
    ]
    assert [size(n) for n in (1023, 1024, 5 * MIB, 3 * 1024 * MIB)] == ["1023 bytes", "1 KiB", "5 MiB", "3 GiB"]
