"""This machine's local time as a table, for the pure core, which may read no zone file (`incidents.quiet`)."""

from __future__ import annotations

import time

FROM_WALL_S = 1_735_689_600.0  # 2025-01-01; a fixed span, so that one zone always gives one table
UNTIL_WALL_S = 2_208_988_800.0  # 2040-01-01; after it the last offset is taken to hold
LOOK_EVERY_S = 7 * 86_400.0  # no zone changes its clocks twice within a week


def shifts() -> tuple[tuple[float, float], ...]:
    """From which moment on (seconds since the epoch) local time is how many seconds ahead of UTC, in order."""
    found = [(FROM_WALL_S, _offset_s(FROM_WALL_S))]
    at_s = FROM_WALL_S
    while at_s < UNTIL_WALL_S:
        next_s = at_s + LOOK_EVERY_S
        if _offset_s(next_s) != _offset_s(at_s):
            first_s = _first(at_s, next_s)
            found.append((first_s, _offset_s(first_s)))
        at_s = next_s
    return tuple(found)


def _first(before_s: float, after_s: float) -> float:
    """The first second at which the offset is that of `after_s`."""
    while after_s - before_s > 1:
        middle_s = float(int((before_s + after_s) / 2))
        if _offset_s(middle_s) == _offset_s(after_s):
            after_s = middle_s
        else:
            before_s = middle_s
    return after_s


def _offset_s(wall_s: float) -> float:
    return float(time.localtime(wall_s).tm_gmtoff)
