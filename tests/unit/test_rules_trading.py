"""What readings of signals and positions mean, at each mark (FR-002)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import (
    HealthReading,
    Position,
    PositionsData,
    ReadingData,
    SignalData,
    Stamp,
    Unavailable,
)

NOW = Instant(1000.0, 1_700_000_000.0, 50.0)
PHANTOM = Position("7", "BTC/USDT", "LONG")


def observe(
    data: ReadingData | None, target_id: str, *, is_open: bool = False, reason: Unavailable = Unavailable.NONE
) -> dict[AnomalyType, Verdict]:
    error = "why" if data is None else ""
    reading = HealthReading(
        target_id, "trading", 50.0, 1_700_000_000.0, 1.0, 60_000, data is not None, data, reason, error
    )
    return {v.anomaly: v for v in Classifier().observe(Judge(reading, NOW, lambda anomaly: is_open))}


def stale(age_s: float, *, is_open: bool = False, **keys: object) -> Verdict:
    data = msgspec.structs.replace(SignalData(age_s, 300.0, Stamp.KEY, process="augur"), **keys)
    return observe(data, "augur-signals", is_open=is_open)[AnomalyType.SIGNAL_STALE]


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("age_s", "is_open", "expected"),
    [
        (0.0, False, Status.CLEAR),
        (299.9, False, Status.CLEAR),
        (300.0, False, Status.CLEAR),
        (300.001, False, Status.FIRING),
        (1e6, False, Status.FIRING),
        (300.001, True, Status.FIRING),
        (300.0, True, Status.PENDING),
        (240.001, True, Status.PENDING),
        (240.0, True, Status.CLEAR),
        (0.0, True, Status.CLEAR),
    ],
)
def test_a_signal_is_stale_beyond_its_limit_and_fresh_again_well_within_it(
    age_s: float, is_open: bool, expected: Status
) -> None:
    verdict = stale(age_s, is_open=is_open)
    assert verdict.status is expected
    assert verdict.severity is Severity.HIGH


@pytest.mark.req("FR-002", "R8")
def test_nothing_is_expected_of_a_program_that_is_meant_to_be_stopped() -> None:
    assert stale(1e6, meant_to_stop=True).status is Status.CLEAR
    assert stale(0.0, meant_to_stop=True, stamp=Stamp.NONE).status is Status.CLEAR


@pytest.mark.req("FR-002")
def test_the_evidence_says_by_which_clock_and_the_hint_who_should_write() -> None:
    assert "400 s old" not in stale(400.0).evidence
    assert "7 min old; at most 5 min" in stale(400.0).evidence
    assert "by the file's own time" in stale(400.0, stamp=Stamp.MTIME).evidence
    assert "augur" in stale(400.0).hint


@pytest.mark.req("FR-002", "R9")
def test_a_signal_file_that_is_not_there_is_stale_and_not_our_own_failure() -> None:
    verdicts = observe(None, "augur-signals", reason=Unavailable.MISSING)
    assert verdicts[AnomalyType.SIGNAL_STALE].status is Status.FIRING
    assert verdicts[AnomalyType.SIGNAL_STALE].severity is Severity.HIGH
    assert verdicts[AnomalyType.SIGNAL_STALE].evidence == "why"
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    "reason", [each for each in Unavailable if each not in (Unavailable.MISSING, Unavailable.NONE)]
)
def test_a_signal_that_cannot_be_read_is_neither_stale_nor_fresh(reason: Unavailable) -> None:
    assert AnomalyType.SIGNAL_STALE not in observe(None, "augur-signals", reason=reason)


@pytest.mark.req("R9")
def test_a_missing_trades_database_is_no_stale_signal() -> None:
    verdicts = observe(None, "augur-positions", reason=Unavailable.MISSING)
    assert set(verdicts) == {AnomalyType.PROBE_UNAVAILABLE}
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.PENDING


def phantom(**keys: object) -> Verdict:
    data = msgspec.structs.replace(PositionsData(signal_fresh=True, open_trades=1), **keys)
    return observe(data, "augur-positions")[AnomalyType.PHANTOM_POSITION]


@pytest.mark.req("FR-002")
def test_a_trade_that_no_fresh_signal_accounts_for_is_a_phantom() -> None:
    assert phantom().status is Status.CLEAR
    assert phantom(phantoms=(PHANTOM,)).status is Status.FIRING
    assert phantom(phantoms=(PHANTOM,)).severity is Severity.HIGH
    assert "BTC/USDT LONG (trade 7)" in phantom(phantoms=(PHANTOM,)).evidence
    assert "and 2 more" in phantom(phantoms=(PHANTOM,) * 5).evidence


@pytest.mark.req("FR-002", "NFR-002")
def test_a_phantom_of_this_moment_waits() -> None:
    assert phantom(phantoms=(PHANTOM,), settling=True).status is Status.PENDING


@pytest.mark.req("FR-002", "R9")
def test_without_a_fresh_signal_nothing_is_judged() -> None:
    verdict = phantom(signal_fresh=False, phantoms=(PHANTOM,), detail="the live signal is stale")
    assert verdict.status is Status.UNKNOWN
    assert "the live signal is stale" in verdict.evidence
