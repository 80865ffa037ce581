"""When a scheduled drill is due: over summer time, clocks that are set, and times that healctl missed."""

from __future__ import annotations

import io
import struct
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import pytest

from supervisor.incidents import drill_times as times

HOUR_S = 3600.0


def central_europe() -> tzinfo:
    """As a file of the zone's rule alone (RFC 8536): what a host knows of its zones is not what is tested."""
    block = struct.pack(">4sc15x6l", b"TZif", b"2", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB4s", 3600, 0, 0, b"CET\0")
    return ZoneInfo.from_file(io.BytesIO(block * 2 + b"\nCET-1CEST,M3.5.0,M10.5.0/3\n"))


ROME = central_europe()


def wall_s(text: str) -> float:
    """A local time in that zone."""
    return datetime.fromisoformat(text).replace(tzinfo=ROME).timestamp()


def utc(at_wall_s: float) -> str:
    return datetime.fromtimestamp(at_wall_s, UTC).strftime("%m-%d %H:%M")


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("day", "at", "expected"),
    [
        (date(2026, 3, 28), "02:30", "03-28 01:30"),
        (date(2026, 3, 29), "02:30", "03-29 01:30"),  # there is no 02:30 on that day: it is 03:30
        (date(2026, 3, 30), "02:30", "03-30 00:30"),
        (date(2026, 10, 25), "02:30", "10-25 00:30"),  # there are two of them: the first
        (date(2026, 10, 26), "02:30", "10-26 01:30"),
    ],
)
def test_a_local_time_follows_summer_time(day: date, at: str, expected: str) -> None:
    assert utc(times.moment(day, at, ROME)) == expected


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("at", ["00:00", "02:00", "02:30", "03:00", "23:59"])
@pytest.mark.parametrize("begin", ["2026-03-27T23:59:30", "2026-10-23T23:59:30"])
def test_it_runs_once_for_each_date_over_both_changes(at: str, begin: str) -> None:
    now_s = wall_s(begin)
    day = times.next_day(now_s, at, ROME)
    ran = []
    end_s = now_s + 5 * 86400
    while now_s < end_s:
        now_s += times.look_in_s(day, at, ROME, now_s)
        runs, following = times.due(day, at, ROME, now_s)
        assert not runs or following > day
        ran += [day] if runs else []
        day = following
    first = datetime.fromisoformat(begin).date()
    assert ran[:4] == [first + timedelta(days=n) for n in range(1, 5)]


@pytest.mark.req("FR-005")
def test_a_clock_that_is_set_back_makes_no_second_one() -> None:
    day = date(2026, 6, 1)
    runs, following = times.due(day, "03:30", ROME, wall_s("2026-06-01T03:30:01"))
    assert (runs, following) == (True, date(2026, 6, 2))
    for back in ("2026-06-01T03:00", "2026-06-01T03:30:01", "2026-05-31T04:00"):
        assert times.due(following, "03:30", ROME, wall_s(back)) == (False, following)


@pytest.mark.req("FR-005")
def test_a_clock_that_was_far_ahead_does_not_silence_it_for_as_long() -> None:
    assert times.due(date(2027, 6, 2), "03:30", ROME, wall_s("2026-06-01T12:00")) == (False, date(2026, 6, 2))


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("now", "runs", "following"),
    [
        ("2026-06-01T03:29:59", False, date(2026, 6, 1)),
        ("2026-06-01T03:30:00", True, date(2026, 6, 2)),
        ("2026-06-01T04:30:00", True, date(2026, 6, 2)),
        ("2026-06-01T04:30:01", False, date(2026, 6, 2)),  # missed by more than an hour: passed over
        ("2026-06-08T03:29:00", False, date(2026, 6, 8)),  # down for a week: none of the seven is made up for
        ("2026-06-08T09:00:00", False, date(2026, 6, 9)),
    ],
)
def test_one_that_was_missed_is_made_up_for_within_the_hour_only(now: str, runs: bool, following: date) -> None:
    assert times.due(date(2026, 6, 1), "03:30", ROME, wall_s(now)) == (runs, following)


@pytest.mark.req("FR-005")
def test_the_wall_clock_is_looked_at_again_in_time() -> None:
    now_s = wall_s("2026-06-01T01:00")
    assert times.look_in_s(date(2026, 6, 1), "03:30", ROME, now_s) == times.LOOK_S
    assert times.look_in_s(date(2026, 6, 1), "03:30", ROME, now_s + 2.5 * HOUR_S - 10) == 10
    assert times.look_in_s(date(2026, 6, 1), "03:30", ROME, now_s + 3 * HOUR_S) == 0
