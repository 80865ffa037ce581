"""What a fleet reading means: reached, not reached, or not to be told (FR-002, R9)."""

from __future__ import annotations

import pytest

from supervisor.incidents.classify import UNAVAILABLE_READINGS, Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import FleetData, HealthReading, Unavailable

NOW = Instant(steady_s=1000.0, wall_s=1000.0, mono_s=1000.0)
DOWN = (Unavailable.TIMEOUT, Unavailable.REFUSED, Unavailable.UNREACHABLE, Unavailable.DEADLINE)
OURS = tuple(reason for reason in Unavailable if reason not in (*DOWN, Unavailable.NONE, Unavailable.HOST_KEY))


def reading(data: FleetData | None, reason: Unavailable = Unavailable.NONE, error: str = "") -> HealthReading:
    return HealthReading("fleet:a", "fleet", 999.0, 999.0, 1.0, 300_000, data is not None, data, reason, error)


def judged(classifier: Classifier, one: HealthReading) -> dict[AnomalyType, Verdict]:
    return {verdict.anomaly: verdict for verdict in classifier.observe(Judge(one, NOW))}


@pytest.mark.req("FR-002")
def test_a_host_that_was_reached_is_clear() -> None:
    verdicts = judged(Classifier(), reading(FleetData("10.0.0.1", 22)))
    assert verdicts[AnomalyType.FLEET_UNREACHABLE].status is Status.CLEAR
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("FR-002", "R7")
def test_a_host_that_is_listed_no_more_ends_its_incident() -> None:
    verdict = judged(Classifier(), reading(FleetData("", 0, listed=False)))[AnomalyType.FLEET_UNREACHABLE]
    assert verdict.status is Status.CLEAR
    assert "not in the hosts file" in verdict.evidence


@pytest.mark.req("FR-002", "R9")
@pytest.mark.parametrize("reason", DOWN)
def test_not_reached_is_the_anomaly_at_the_first_reading(reason: Unavailable) -> None:
    verdicts = judged(Classifier(), reading(None, reason, "10.0.0.1 port 22 does not answer"))
    verdict = verdicts[AnomalyType.FLEET_UNREACHABLE]
    assert (verdict.status, verdict.severity) == (Status.FIRING, Severity.HIGH)
    assert "does not answer" in verdict.evidence
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("R9")
@pytest.mark.parametrize("reason", OURS)
def test_any_other_reason_is_ours_after_three_readings_and_never_called_well(reason: Unavailable) -> None:
    classifier = Classifier()
    for count in range(1, UNAVAILABLE_READINGS + 2):
        verdicts = judged(classifier, reading(None, reason, "why"))
        assert AnomalyType.FLEET_UNREACHABLE not in verdicts, "neither reached nor unreached"
        expected = Status.FIRING if count >= UNAVAILABLE_READINGS else Status.PENDING
        assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is expected, count
    verdicts = judged(classifier, reading(FleetData("10.0.0.1", 22)))
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.CLEAR


@pytest.mark.req("R9")
def test_what_was_not_reached_in_between_begins_the_count_anew() -> None:
    classifier = Classifier()
    for _ in range(UNAVAILABLE_READINGS - 1):
        judged(classifier, reading(None, Unavailable.DNS))
    judged(classifier, reading(None, Unavailable.TIMEOUT))
    verdicts = judged(classifier, reading(None, Unavailable.DNS))
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.PENDING


@pytest.mark.req("R9")
def test_a_host_key_is_told_at_the_first_reading_and_is_no_matter_of_reach() -> None:
    verdicts = judged(Classifier(), reading(None, Unavailable.HOST_KEY, "THE HOST KEY HAS CHANGED"))
    assert set(verdicts) == {AnomalyType.PROBE_UNAVAILABLE}
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.FIRING
    assert "THE HOST KEY HAS CHANGED" in verdicts[AnomalyType.PROBE_UNAVAILABLE].evidence
