"""The retry schedule: DESIGN §5's promises about tier 3, and that nothing is ever given up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.incidents.model import Tier
from supervisor.notifier import backoff


@pytest.mark.req("FR-005", "R2")
@pytest.mark.parametrize(("tier", "tail"), [(Tier.PAGE, [30, 30]), (Tier.ASK, [32, 64]), (Tier.INFORM, [32, 64])])
def test_intervals_double_up_to_the_cap(tier: Tier, tail: list[float]) -> None:
    assert [backoff.interval_s(n, tier, False) for n in range(1, 8)] == [1, 2, 4, 8, 16, *tail]
    assert backoff.interval_s(10_000, tier, False) == backoff.cap_s(tier)


@pytest.mark.req("FR-005")
def test_what_cannot_pass_by_itself_goes_straight_to_the_cap() -> None:
    assert backoff.interval_s(1, Tier.PAGE, True) == 30
    assert backoff.interval_s(1, Tier.INFORM, True) == 300


@pytest.mark.req("FR-005", "AC-011")
@given(
    tries=st.integers(1, 10**6),
    tier=st.sampled_from(Tier),
    permanent=st.booleans(),
    took_s=st.floats(0, 10),
    pause_s=st.floats(0, 10**6),
)
def test_a_page_is_retried_within_its_cap_whatever_happened(
    tries: int, tier: Tier, permanent: bool, took_s: float, pause_s: float
) -> None:
    next_s = backoff.next_attempt_s(100.0, 100.0 + took_s, tries, tier, permanent, pause_s)
    assert next_s >= 100.0 + took_s + backoff.LEAST_PAUSE_S - 1e-9
    if pause_s == 0:
        assert next_s <= 100.0 + max(backoff.cap_s(tier), took_s + backoff.LEAST_PAUSE_S)
    assert next_s <= 100.0 + took_s + backoff.cap_s(tier)


def test_a_hung_attempt_does_not_stretch_the_interval() -> None:
    assert backoff.next_attempt_s(0.0, 10.0, 6, Tier.PAGE, False, 0.0) == 30.0
    assert backoff.next_attempt_s(0.0, 10.0, 1, Tier.PAGE, False, 0.0) == 11.0
