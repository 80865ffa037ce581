"""Times as the operator says them: in his own zone, as short as they stay clear (NFR-003). Pure.

A zone is a table of its shifts (`supervisor.zones` makes it), since zone files may not be read here. Without one, times
are UTC and say so.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime

import msgspec

WEEK_DAYS = 6  # further away, the name of a day could mean two


class Shift(msgspec.Struct, frozen=True):
    """From `from_wall_s` on, local time is UTC + `offset_s`, and is called so (CET, CEST, +03)."""

    from_wall_s: float
    offset_s: float
    abbreviation: str


Zone = tuple[Shift, ...]  # in the order of their times; before the first, the first holds
UTC_ZONE: Zone = (Shift(0.0, 0.0, "UTC"),)


def at(zone: Zone, wall_s: float, now_wall_s: float) -> str:
    """ "14:05" of today, "Mon 14:05" within a week, else "3 Nov 14:05", with the year when it is another one.

    The zone's name follows where the time could be misread: in the hour that comes twice when clocks are set back, and
    where no zone is known.
    """
    shift, here = _shift(zone, wall_s), _local(zone, wall_s)
    today = _local(zone, now_wall_s)
    days = abs((here.date() - today.date()).days)
    clock = f"{here:%H:%M}"
    if days == 0:
        text = clock
    elif days <= WEEK_DAYS:
        text = f"{_DAYS[here.weekday()]} {clock}"
    else:
        year = f" {here.year}" if here.year != today.year else ""
        text = f"{here.day} {_MONTHS[here.month - 1]}{year} {clock}"
    named = not zone or _comes_twice(zone, wall_s)
    return f"{text} {shift.abbreviation}" if named else text


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")  # not the locale's: the sentences are English, too
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def _shift(zone: Zone, wall_s: float) -> Shift:
    zone = zone or UTC_ZONE
    return zone[max(0, bisect_right(zone, wall_s, key=lambda shift: shift.from_wall_s) - 1)]


def _local(zone: Zone, wall_s: float) -> datetime:
    return datetime.fromtimestamp(wall_s + _shift(zone, wall_s).offset_s, UTC)


def _comes_twice(zone: Zone, wall_s: float) -> bool:
    """Does some other moment have the same local time?"""
    here = _shift(zone, wall_s)
    others = {shift.offset_s for shift in zone} - {here.offset_s}
    # At `wall_s + (here - other)` a clock that is `other` ahead shows the same: was it set so then?
    moments = ((offset_s, wall_s + here.offset_s - offset_s) for offset_s in others)
    return any(_shift(zone, moment).offset_s == offset_s for offset_s, moment in moments)
