"""The rule of gateways: two failures in a row, no fewer; what nobody knows is neither well nor broken (FR-002, R9)."""

from __future__ import annotations

import pytest

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import Endpoint, GatewayData, HealthReading, Unavailable

FAILED = [Endpoint.REFUSED, Endpoint.TIMEOUT, Endpoint.BAD_ANSWER]


def judged(data: GatewayData | None, reason: Unavailable = Unavailable.NONE) -> dict[AnomalyType, Verdict]:
    reading = HealthReading("gw", "gateway", 0.0, 0.0, 1.0, 120_000, data is not None, data, reason, "why")
    verdicts = Classifier().observe(Judge(reading, Instant(0.0, 0.0, 0.0)))
    return {verdict.anomaly: verdict for verdict in verdicts}


def gateway(endpoint: Endpoint, failures: int, needed: int = 2) -> Verdict:
    data = GatewayData(endpoint, failures, needed, "health_url", detail="the detail")
    return judged(data)[AnomalyType.GATEWAY_UNRESPONSIVE]


@pytest.mark.req("FR-002")
@pytest.mark.parametrize("endpoint", FAILED)
@pytest.mark.parametrize(
    ("failures", "needed", "status"),
    [
        (1, 2, Status.PENDING),
        (2, 2, Status.FIRING),
        (3, 2, Status.FIRING),
        (1, 1, Status.FIRING),
        (2, 3, Status.PENDING),
        (3, 3, Status.FIRING),
    ],
)
def test_it_fires_at_the_configured_number_of_failures(
    endpoint: Endpoint, failures: int, needed: int, status: Status
) -> None:
    verdict = gateway(endpoint, failures, needed)
    assert verdict.status is status
    assert verdict.severity is Severity.CRITICAL
    assert "the detail" in verdict.evidence
    assert f"{failures} in a row, by its health_url" in verdict.evidence


@pytest.mark.req("FR-002")
def test_one_good_answer_clears() -> None:
    assert gateway(Endpoint.OK, 0).status is Status.CLEAR


@pytest.mark.req("FR-002", "R9")
def test_before_the_first_verdict_nobody_knows() -> None:
    assert gateway(Endpoint.UNSET, 0).status is Status.UNKNOWN


@pytest.mark.req("FR-002", "R9")
@pytest.mark.parametrize("reason", [Unavailable.MISSING, Unavailable.PERMISSION, Unavailable.AUTHENTICATION])
def test_a_gateway_that_cannot_be_asked_is_neither_well_nor_unresponsive(reason: Unavailable) -> None:
    verdicts = judged(None, reason)
    assert AnomalyType.GATEWAY_UNRESPONSIVE not in verdicts
    assert verdicts[AnomalyType.PROBE_UNAVAILABLE].status is Status.PENDING


@pytest.mark.req("R3", "FR-003")
@pytest.mark.parametrize(
    ("endpoint", "runtime", "asking", "status", "not_running"),
    [
        (Endpoint.REFUSED, "stopped", False, Status.FIRING, True),
        (Endpoint.REFUSED, "unknown", False, Status.FIRING, True),
        (Endpoint.REFUSED, "running", False, Status.FIRING, False),  # it is starting, or has lost its port
        (Endpoint.REFUSED, "", True, Status.PENDING, False),  # its manager is being asked
        (Endpoint.TIMEOUT, "stopped", False, Status.FIRING, False),  # something accepts: a live process
        (Endpoint.TIMEOUT, "", True, Status.FIRING, False),
        (Endpoint.BAD_ANSWER, "stopped", False, Status.FIRING, False),
    ],
)
def test_only_one_that_refuses_and_does_not_run_may_be_restarted_by_itself(
    endpoint: Endpoint, runtime: str, asking: bool, status: Status, not_running: bool
) -> None:
    data = GatewayData(endpoint, 2, 2, "health_url", runtime, asking)
    verdict = judged(data)[AnomalyType.GATEWAY_UNRESPONSIVE]
    assert (verdict.status, verdict.not_running) == (status, not_running)
