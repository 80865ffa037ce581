"""The operator's time zone as a table, for the pure core, which may read no zone file (`incidents.local_time`)."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, tzinfo
from functools import cache
from zoneinfo import ZoneInfo

from supervisor.incidents.local_time import Shift, Zone

# A fixed span, so that the same zone always gives the same table. After it the last offset is taken to hold.
FROM_WALL_S = 1_735_689_600.0  # 2025-01-01
UNTIL_WALL_S = 2_208_988_800.0  # 2040-01-01
LOOK_EVERY_S = 7 * 86_400.0  # no zone changes its clocks twice within a week


def known(name: str) -> bool:
    """Is it an IANA name that this machine has?"""
    try:
        ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # unknown; with ".." in it; a directory, like "Europe"
        return False
    return True


def table(name: str) -> Zone:
    """The shifts of this zone, which must be `known`; of the machine's own for ""."""
    return _table(ZoneInfo(name)) if name else _table(None, *time.tzname)


@cache
def _table(zone: tzinfo | None, *host: str) -> Zone:
    """`host`: by what the machine's own zone is known, so that another one is not answered from memory."""
    del host
    shifts = [_shift(zone, FROM_WALL_S)]
    at_s = FROM_WALL_S
    while at_s < UNTIL_WALL_S:
        next_s = at_s + LOOK_EVERY_S
        if _offset(zone, next_s) != _offset(zone, at_s):
            shifts.append(_shift(zone, _first(zone, at_s, next_s)))
        at_s = next_s
    return tuple(shifts)


def _first(zone: tzinfo | None, before_s: float, after_s: float) -> float:
    """The first second at which the offset is that of `after_s`."""
    while after_s - before_s > 1:
        middle_s = float(int((before_s + after_s) / 2))
        if _offset(zone, middle_s) == _offset(zone, after_s):
            after_s = middle_s
        else:
            before_s = middle_s
    return after_s


def _shift(zone: tzinfo | None, wall_s: float) -> Shift:
    return Shift(wall_s, _offset(zone, wall_s), _local(zone, wall_s).tzname() or "")


def _offset(zone: tzinfo | None, wall_s: float) -> float:
    return (_local(zone, wall_s).utcoffset() or timedelta()).total_seconds()


def _local(zone: tzinfo | None, wall_s: float) -> datetime:
    return datetime.fromtimestamp(wall_s, zone) if zone is not None else datetime.fromtimestamp(wall_s).astimezone()
