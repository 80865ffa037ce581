"""When is it full? A trend through what earlier readings found, told only where it is sure. Pure: `now_s` comes in.

The trend is the median of the slopes between every two samples (Theil-Sen): a third of the samples may be off, as when
somebody unpacks an archive and removes it again, and the median does not move. It is sure when the samples reach over
five minutes, four fifths of the slopes rise (a disk that is filled and cleaned in turn has no trend), and the forecast
reaches no further ahead than twenty times what was seen.
"""

from __future__ import annotations

from collections import deque
from itertools import combinations
from statistics import median

SAMPLES_MAX = 48  # 8 h at an interval of 10 min
SPACING_S = 30.0  # closer readings add nothing but the noise of the moment
SAMPLES_MIN = 6
SPAN_MIN_S = 300.0
RISING_SHARE_MIN = 0.8
FORESIGHT = 20.0  # times the span seen


class Growth:
    """The bytes in use of one file system over time."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=SAMPLES_MAX)

    def add(self, now_s: float, used_bytes: int) -> None:
        if not self._samples or now_s - self._samples[-1][0] >= SPACING_S:
            self._samples.append((now_s, used_bytes))

    def full_in_s(self, available_bytes: int) -> float | None:
        """At the present growth; None when it does not grow, or nobody can tell."""
        if len(self._samples) < SAMPLES_MIN:
            return None
        span_s = self._samples[-1][0] - self._samples[0][0]
        if span_s < SPAN_MIN_S:
            return None
        slopes = [(after - before) / (later_s - sooner_s) for (sooner_s, before), (later_s, after) in self._pairs()]
        if sum(slope > 0 for slope in slopes) < RISING_SHARE_MIN * len(slopes):
            return None
        full_s = available_bytes / median(slopes)
        return full_s if full_s <= FORESIGHT * span_s else None

    def _pairs(self) -> combinations[tuple[tuple[float, int], tuple[float, int]]]:
        return combinations(self._samples, 2)
