"""What was escalated is considered again, and stopped by something else: that is said, and the new reason holds."""

from __future__ import annotations

import pytest

from supervisor.incidents.model import State, Tier, TierReason
from tests.lab.engine import Lab


def flapping(times: int = 3) -> Lab:
    """A service that has used up its breaker's room, and lives."""
    lab = Lab("web")
    for _ in range(times):
        lab.kill("web")
        lab.advance(120)
    return lab


@pytest.mark.req("R1", "R15")
def test_a_breaker_that_opens_when_a_pause_ends_is_paged_once_and_gets_its_one_try() -> None:
    lab = flapping()
    lab.order("pause", target_id="web")
    lab.kill("web")
    lab.order("resume", target_id="web")
    incident = lab.incidents("web")[-1]
    assert (incident.state, incident.tier_reason, incident.tier) == (
        State.ESCALATED,
        TierReason.BREAKER_OPEN,
        Tier.PAGE,
    )
    assert len([row for row in lab.messages("signal") if row.incident_id == incident.id]) == 1
    for _ in range(3):  # the same again is said by nobody
        lab.order("pause", target_id="web")
        lab.order("resume", target_id="web")
    assert len([row for row in lab.messages("signal") if row.incident_id == incident.id]) == 1
    told = len(lab.messages())
    lab.crash()
    lab.poll("web")
    lab.advance(60)
    assert len(lab.messages()) == told
    lab.advance(lab.policy.breaker_window_s + 60)
    assert len(lab.dispatched) == 4
    assert lab.incidents("web")[-1].state is State.RESOLVED
