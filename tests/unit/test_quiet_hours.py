"""Quiet hours (FR-005, R1): what waits, for how long, what is said then; by a clock that is set twice a year."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import msgspec
import pytest

from supervisor import house, zones
from supervisor.config import parse
from supervisor.errors import ConfigError
from supervisor.incidents import events as e
from supervisor.incidents import views
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import Channel, OutboxRow, State, Tier
from supervisor.incidents.policy import Policy
from supervisor.incidents.quiet_hours import QuietHours
from supervisor.incidents.readings import ProcessData, ProcessRef, Zombie
from tests.lab.engine import START, Lab, service

HOUR_S = 3600.0
MIDNIGHT = START - START % 86400.0 + 86400.0


@pytest.fixture
def berlin() -> Iterator[tuple[tuple[float, float], ...]]:
    """The shifts of a zone that changes its clocks on 29 March and 25 October 2026."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    yield tuple((shift.from_wall_s, shift.offset_s) for shift in zones.table(""))
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


def wall(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


@pytest.mark.req("FR-005")
def test_they_begin_and_end_by_the_clock_over_midnight() -> None:
    hours = QuietHours(22 * 60, 7 * 60)
    assert hours.until_wall_s(MIDNIGHT - 2 * HOUR_S - 1) is None
    assert hours.until_wall_s(MIDNIGHT - 2 * HOUR_S) == MIDNIGHT + 7 * HOUR_S
    assert hours.until_wall_s(MIDNIGHT + 1) == MIDNIGHT + 7 * HOUR_S
    assert hours.until_wall_s(MIDNIGHT + 7 * HOUR_S) is None
    noon = QuietHours(12 * 60, 13 * 60 + 30)
    assert noon.until_wall_s(MIDNIGHT + 12 * HOUR_S) == MIDNIGHT + 13.5 * HOUR_S
    assert noon.until_wall_s(MIDNIGHT) is None


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("hours", "now", "until"),
    [
        ((22, 7), "2026-03-28T23:00", "2026-03-29T07:00"),  # the night of 23 hours
        ((22, 7), "2026-10-24T23:00", "2026-10-25T07:00"),  # that of 25
        ((22, 7), "2026-10-25T02:30", "2026-10-25T07:00"),
        ((0, 2.5), "2026-03-29T01:00", "2026-03-29T03:00"),  # its end is skipped: it ends with the skip
        ((22, 7), "2026-07-01T23:00", "2026-07-02T07:00"),
    ],
)
def test_they_end_when_the_clock_on_the_wall_says_so(
    berlin: tuple[tuple[float, float], ...], hours: tuple[float, float], now: str, until: str
) -> None:
    quiet = QuietHours(int(hours[0] * 60), int(hours[1] * 60), berlin)
    found = quiet.until_wall_s(wall(now))
    assert found is not None
    assert datetime.fromtimestamp(found, UTC) == datetime.fromtimestamp(wall(until), UTC)


def test_an_end_that_comes_twice_ends_them_the_first_time_and_they_do_not_come_back_for_long(
    berlin: tuple[tuple[float, float], ...],
) -> None:
    quiet = QuietHours(60, 150, berlin)  # 01:00 to 02:30, and 02:30 comes twice
    first = wall("2026-10-25T02:30")
    assert quiet.until_wall_s(wall("2026-10-25T01:30")) == first
    assert quiet.until_wall_s(wall("2026-10-25T02:10", fold=1)) == wall("2026-10-25T02:30", fold=1)


def test_what_is_written_wrongly_is_refused_with_its_form() -> None:
    for wrong in ("22-7", "22:00", "24:00-07:00", "07:00-07:00", ""):
        with pytest.raises(ConfigError, match='like "22:00-07:00"'):
            parse(f'[escalation]\nquiet_hours = "{wrong}"\n', "x")
    good = house.policy_of(parse('[escalation]\nquiet_hours = "22:00-07:00"\n', "x")).quiet_hours
    assert good is not None
    assert (good.begin_min, good.end_min) == (1320, 420)
    assert house.policy_of(parse("", "x")).quiet_hours is None


# --- what waits ------------------------------------------------------------------------------------------------------


def night(lab: Lab, hour: float = 23.0) -> None:
    lab.now_s = MIDNIGHT - 24 * HOUR_S + hour * HOUR_S


def quiet_lab(*names: str) -> Lab:
    lab = Lab(*names, policy=Policy(quiet_hours=QuietHours(22 * 60, 7 * 60)))
    night(lab)
    return lab


def delivered(lab: Lab) -> list[OutboxRow]:
    """What has left for Synapse, as it was when it left."""
    return [it.row for it in lab.effects if isinstance(it, DeliverRow) and it.row.channel is Channel.SYNAPSE]


def held(lab: Lab) -> list[OutboxRow]:
    return [row for row in lab.engine.world.outbox.values() if row.held]


def zombie(lab: Lab, name: str, *, there: bool = True) -> None:
    """An anomaly of severity high, whose runbook needs an approval: tier 2."""
    reading = lab.reading(name)
    assert isinstance(reading.data, ProcessData)
    left = (Zombie(ProcessRef("boot-1", 7, 7), 1, "init", 60.0),) if there else ()
    lab.silent.add(name)
    for _ in range(4):  # one that opens or closes, and every fresh look at it
        lab.now_s += 1
        data = msgspec.structs.replace(reading.data, zombies=left)
        seen = lab.reading(name, data=data, family="process")
        lab.feed(e.ReadingSeen(seen))


@pytest.mark.req("FR-005", "R1")
def test_a_request_for_approval_waits_for_the_morning_and_is_shown_meanwhile() -> None:
    lab = quiet_lab("web")
    zombie(lab, "web")
    (row,) = held(lab)
    assert (row.kind, row.tier, delivered(lab)) == ("approval", Tier.ASK, [])
    shown = views.outbox(lab.engine.world, lab.now_s)
    assert shown["pending"] == 0
    assert shown["held"]["rows"][0]["subject"] == row.subject
    assert shown["held"]["until"] == views.stamp(MIDNIGHT + 7 * HOUR_S)
    lab.advance(7 * HOUR_S)
    assert delivered(lab) == []
    lab.advance(HOUR_S)
    (left,) = delivered(lab)
    assert (left.id, left.kind, left.held, left.created_wall_s) == (row.id, "approval", False, MIDNIGHT + 7 * HOUR_S)
    lab.advance(24 * HOUR_S)
    assert len(delivered(lab)) == 1


@pytest.mark.req("FR-005", "R1")
def test_for_what_is_over_by_the_morning_there_is_one_summary_and_no_request() -> None:
    lab = quiet_lab("web")
    zombie(lab, "web")
    zombie(lab, "web", there=False)
    assert lab.only("web").state is State.SELF_RESOLVED
    lab.advance(9 * HOUR_S)
    (row,) = delivered(lab)
    assert (row.kind, row.tier, row.priority) == ("summary", Tier.INFORM, "info")
    assert row.subject == "web had left a zombie process (recovered by itself)"
    assert "approve" not in row.body


@pytest.mark.req("R2", "AC-011")
def test_a_page_never_waits() -> None:
    lab = Lab(
        targets=(service("web", auto_restart=False, recipe=False),),
        policy=Policy(quiet_hours=QuietHours(22 * 60, 7 * 60)),
    )
    night(lab)
    lab.kill("web")
    assert [row.tier for row in delivered(lab)] == [Tier.PAGE]
    assert [row.kind for row in lab.messages("signal")] == ["page"]
    assert held(lab) == []


@pytest.mark.req("FR-005")
def test_by_day_nothing_waits() -> None:
    lab = quiet_lab("web")
    night(lab, 12.0)
    zombie(lab, "web")
    assert [row.kind for row in delivered(lab)] == ["approval"]


@pytest.mark.req("FR-005")
def test_a_crash_in_the_night_loses_nothing_and_the_notifier_is_handed_nothing_too_early() -> None:
    lab = quiet_lab("web", "api")
    zombie(lab, "web")
    lab.crash()
    lab.feed(e.NotifierIsBack())
    assert delivered(lab) == []
    zombie(lab, "api")
    lab.crash()
    zombie(lab, "web", there=False)
    lab.advance(9 * HOUR_S)
    assert sorted((row.kind, row.subject[:3]) for row in delivered(lab)) == [("approval", "api"), ("summary", "web")]
    assert len({row.id for row in delivered(lab)}) == 2


@pytest.mark.req("FR-005")
def test_hours_that_are_taken_away_let_go_of_what_waits() -> None:
    lab = quiet_lab("web")
    zombie(lab, "web")
    lab.feed(e.Reconfigured(lab.targets, frozenset(), Policy(), lab.runbooks, ()))
    lab.advance(1)
    assert [row.kind for row in delivered(lab)] == ["approval"]


@pytest.mark.req("FR-005")
def test_what_happens_again_and_again_in_one_night_is_one_message_for_each_incident() -> None:
    names = tuple(f"svc{n:03d}" for n in range(250))
    lab = quiet_lab(*names)
    for name in names:
        zombie(lab, name)
        zombie(lab, name, there=False)
    assert len(held(lab)) == 250
    lab.advance(9 * HOUR_S)
    assert len(delivered(lab)) == 250
    assert {row.kind for row in delivered(lab)} == {"summary"}
