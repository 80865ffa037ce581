"""When the next drill of a schedule is due: by the wall clock once for each local date, or every so often. Pure.

The subject of the durable timer says what is next, so that a restart neither forgets a drill nor runs one twice: a
date that was run or passed over never comes again. A local time that the change to summer time leaves out is taken as
that much later; of one that comes twice, the first counts.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta, tzinfo

LOOK_S = 900.0  # the wall clock may be set meanwhile: it is looked at again at least this often
LATE_S = 3600.0  # missed by more (healctl was down, the clock was set on): passed over
BACK_S = 2 * 86400.0  # a date so far ahead comes of a clock that was wrong: it is planned anew
AT, EVERY = "at ", "every "


def subject_every(every_s: float) -> str:
    return f"{EVERY}{every_s:g}"


def subject_at(at: str, day: date) -> str:
    return f"{AT}{at} {day.isoformat()}"


def day_of(subject: str) -> date:
    """The local date that a timer of `subject_at` is for."""
    return date.fromisoformat(subject.rpartition(" ")[2])


def moment(day: date, at: str, zone: tzinfo) -> float:
    """When it is `at` ("HH:MM") on that day (wall seconds)."""
    return datetime.combine(day, time.fromisoformat(at), zone).timestamp()


def next_day(now_wall_s: float, at: str, zone: tzinfo) -> date:
    """The first local date whose moment is still to come."""
    today = datetime.fromtimestamp(now_wall_s, zone).date()
    return today if moment(today, at, zone) > now_wall_s else today + timedelta(days=1)


def look_in_s(day: date, at: str, zone: tzinfo, now_wall_s: float) -> float:
    """How long until the timer for that day is looked at (again)."""
    return min(max(0.0, moment(day, at, zone) - now_wall_s), LOOK_S)


def due(day: date, at: str, zone: tzinfo, now_wall_s: float) -> tuple[bool, date]:
    """Is it to run now, and which day is next: the same one while it is still to come."""
    late_s = now_wall_s - moment(day, at, zone)
    if late_s < -BACK_S:
        # Today's may have run by that clock's date; the day after is certain not to be its second.
        return False, datetime.fromtimestamp(now_wall_s, zone).date() + timedelta(days=1)
    if late_s < 0:
        return False, day
    return late_s <= LATE_S, max(day + timedelta(days=1), next_day(now_wall_s, at, zone))
