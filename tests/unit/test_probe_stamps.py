"""Every form of time that SITE.md names, and what must be refused."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from supervisor.stamps import EARLIEST_S, LATEST_S, BadStamp, wall_s_of

AT = datetime(2026, 2, 18, 9, 30, 15, tzinfo=UTC).timestamp()


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time one hour ahead of UTC in winter, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-02-18T09:30:15Z", AT),
        ("2026-02-18t09:30:15z", AT),
        ("2026-02-18 09:30:15Z", AT),
        ("2026-02-18 09:30:15 Z", AT),
        (" 2026-02-18T09:30:15Z\n", AT),
        ("2026-02-18T10:30:15+01:00", AT),
        ("2026-02-18T10:30:15 +01:00", AT),
        ("2026-02-18T10:30:15+0100", AT),
        ("2026-02-18T10:30:15+01", AT),
        ("2026-02-18T04:00:15-05:30", AT),
        ("2026-02-18T09:30:15.5Z", AT + 0.5),
        ("2026-02-18T09:30:15,25Z", AT + 0.25),
        ("2026-02-18T09:30:15.123456Z", AT + 0.123456),
        ("2026-02-18T09:30:15.123456789Z", AT + 0.123456),
        ("2026-02-18T09:30Z", AT - 15),
        (AT, AT),
        (int(AT), AT),
        (AT + 0.125, AT + 0.125),
        (str(int(AT)), AT),
        (f" {int(AT)}.5 ", AT + 0.5),
        (int(AT) * 1000, AT),
        (int(AT) * 1000 + 250, AT + 0.25),
        (float(int(AT) * 1000), AT),
        (str(int(AT) * 1000), AT),
        (EARLIEST_S, EARLIEST_S),
        (LATEST_S - 1, LATEST_S - 1),
        (EARLIEST_S * 1000, EARLIEST_S),
        (LATEST_S * 1000 - 1, LATEST_S - 0.001),
    ],
)
def test_a_time_is_read(given: object, expected: float) -> None:
    assert wall_s_of(given) == pytest.approx(expected, abs=1e-6)


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-02-18T10:30:15", AT),
        ("2026-02-18 10:30:15", AT),
        ("2026-02-18 10:30", AT - 15),
        ("2026-02-18T10:30:15.5", AT + 0.5),
        ("2026-07-18T11:30:15", datetime(2026, 7, 18, 9, 30, 15, tzinfo=UTC).timestamp()),
        ("2026-02-18T10:30:15Z", AT + 3600),
    ],
)
@pytest.mark.usefixtures("vienna")
def test_without_a_zone_it_is_local_time(given: str, expected: float) -> None:
    assert wall_s_of(given) == expected


@pytest.mark.req("FR-001")
@pytest.mark.usefixtures("vienna")
def test_in_the_hour_that_is_repeated_what_was_just_written_is_not_an_hour_old() -> None:
    summer = datetime(2026, 10, 25, 0, 30, tzinfo=UTC).timestamp()
    winter = summer + 3600
    for by_s, expected in ((summer, summer), (winter - 1, summer), (winter, winter), (winter + 60, winter)):
        assert wall_s_of("2026-10-25T02:30:00", by_s) == expected
    assert wall_s_of("2026-10-25T02:30:00+02:00", winter) == summer
    skipped = "2026-03-29T02:30:00"  # a time that no clock showed
    assert wall_s_of(skipped, winter) == wall_s_of(skipped)


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize(
    "given",
    [
        True, False, None, [], {}, [AT], {"t": AT}, b"2026-02-18T09:30:15Z",
        math.nan, math.inf, -math.inf, "nan", "inf", "Infinity", "1e9", "0x10", "1_700_000_000", "+1700000000",
        0, -1, 1, 3600, "", " ", "now", "yesterday", "2026", "20260218", "2026-02-18", "09:30:15",
        EARLIEST_S - 1, LATEST_S, EARLIEST_S * 1000 - 1, LATEST_S * 1000,
        int(AT) * 1_000_000, int(AT) * 1_000_000_000, 10**30, 10**400, -(10**400), "9" * 400, str(-int(AT)),
        "1999-12-31T23:59:59Z", "2100-01-01T00:00:00Z", "0001-01-01T00:00:00", "9999-12-31T23:59:59",
        "0000-01-01T00:00Z",
        "2026-02-30T09:30:15Z", "2026-13-01T09:30:15Z", "2026-02-18T24:30:15Z", "2026-02-18T09:60:15Z",
        "2026-02-18T09:30:60Z", "2026-02-18T09:30:15+25:00", "2026-02-18T09:30:15+00:00Z", "2026-02-18T09:30.5Z",
        "2026-02-18T09:30:15 UTC", "2026-02-18T09:30:15[Europe/Vienna]", "2026-02-18_09:30:15", "18.02.2026 09:30:15",
        "２０２６-02-18T09:30:15Z", "١٧٠٠٠٠٠٠٠٠", "2026-02-18T09:30:15Z\x00", "2026-02-18T09:30:15." + "1" * 40 + "Z",
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_in_a_short_sentence(given: object) -> None:
    with pytest.raises(BadStamp) as refused:
        wall_s_of(given)
    assert 0 < len(str(refused.value)) < 140
