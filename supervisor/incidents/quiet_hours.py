"""From when to when it is quiet, by the clock on the wall, also in a night in which that one is set. Pure.

Local time comes as a table of shifts, since zone files may not be read here.
"""

from __future__ import annotations

from bisect import bisect_right

import msgspec


class QuietHours(msgspec.Struct, frozen=True):
    """From `begin_min` to `end_min`, in minutes after local midnight; over midnight where the end is the smaller.

    `shifts`: from which moment on (seconds since the epoch) local time is how many seconds ahead of UTC, in order.
    """

    begin_min: int
    end_min: int
    shifts: tuple[tuple[float, float], ...] = ((0.0, 0.0),)

    def offset_s(self, wall_s: float) -> float:
        return self.shifts[max(0, bisect_right(self.shifts, wall_s, key=lambda shift: shift[0]) - 1)][1]

    def is_quiet(self, wall_s: float) -> bool:
        minute = (wall_s + self.offset_s(wall_s)) % 86400.0 / 60.0
        if self.begin_min <= self.end_min:
            return self.begin_min <= minute < self.end_min
        return minute >= self.begin_min or minute < self.end_min

    def until_wall_s(self, wall_s: float) -> float | None:
        """When they end; None where it is not quiet. An hour that is skipped ends with the skip."""
        if not self.is_quiet(wall_s):
            return None
        moments = [at_s for at_s, _ in self.shifts if wall_s < at_s <= wall_s + 2 * 86400.0]
        offsets = {self.offset_s(wall_s), *(self.offset_s(at_s) for at_s in moments)}
        for offset_s in offsets:
            midnight_s = (wall_s + offset_s) // 86400.0 * 86400.0 - offset_s
            moments += [midnight_s + self.end_min * 60.0 + day * 86400.0 for day in range(3)]
        return min(at_s for at_s in moments if at_s > wall_s and not self.is_quiet(at_s))
