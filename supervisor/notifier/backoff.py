"""When to try again: pure, so that the whole schedule can be read in a test.

It never gives up: the longest interval is repeated for ever.
"""

from __future__ import annotations

from supervisor.incidents.model import Tier

FIRST_S = 1.0
CAP_PAGE_S = 30.0  # DESIGN §5: a tier-3 message is tried at most this far apart
CAP_S = 300.0
LEAST_PAUSE_S = 1.0  # between the end of an attempt and the next, however long the attempt took


def cap_s(tier: Tier) -> float:
    return CAP_PAGE_S if tier is Tier.PAGE else CAP_S


def interval_s(tries: int, tier: Tier, permanent: bool) -> float:
    """From the start of attempt number `tries` (from 1) to the start of the next: 1, 2, 4 ... seconds, capped."""
    assert tries >= 1, tries
    if permanent:
        return cap_s(tier)
    return min(cap_s(tier), FIRST_S * 2.0 ** min(tries - 1, 16))


def next_attempt_s(began_s: float, ended_s: float, tries: int, tier: Tier, permanent: bool, pause_s: float) -> float:
    """When the next attempt begins, on the clock of `began_s` and `ended_s`.

    Counted from the *start* of the last one, so that an attempt that hung until its deadline does not stretch the
    interval; `pause_s`, which the other side asked for, counts from its end and is cut to the cap.
    """
    pause_s = min(max(pause_s, LEAST_PAUSE_S), cap_s(tier))
    return max(began_s + interval_s(tries, tier, permanent), ended_s + pause_s)
