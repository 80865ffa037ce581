"""Signal messages in a storm (R2, DESIGN §2.8, §5), on the pure engine with virtual time."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest

from supervisor.incidents import detect, gathered, own, pages
from supervisor.incidents import events as e
from supervisor.incidents.model import AnomalyType, Incident, OutboxRow, State, Target, TimerKind
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DiskData
from tests.lab.engine import START, Lab, service

TEN_MINUTES_S = 600.0


def lab_of(count: int, *more: Target, policy: Policy | None = None) -> Lab:
    """Services that nothing may restart: each that is down is paged at once (tier 3, no runbook)."""
    targets = tuple(service(f"svc{n:05d}", auto_restart=False, recipe=False) for n in range(count))
    return Lab(targets=(*targets, *more), policy=policy)


def die(lab: Lab, first: int, count: int, within_s: float = 0.0) -> None:
    for n in range(first, first + count):
        lab.now_s += within_s / count
        lab.kill(f"svc{n:05d}")


def recover(lab: Lab, n: int) -> None:
    lab.alive[f"svc{n:05d}"] = 50_000 + n
    lab.poll(f"svc{n:05d}")


def signal(lab: Lab, since_s: float = 0.0) -> list[OutboxRow]:
    return [row for row in lab.messages("signal") if row.created_wall_s >= START + since_s]


def every_page_once(lab: Lab) -> None:
    """Each incident was opened by exactly one message, which covers it, and which `page_id` names."""
    rows = {row.id: frozenset(row.covers) for row in signal(lab)}
    alone = Counter(row.incident_id for row in signal(lab) if row.kind in ("page", "outcome"))
    for incident in lab.incidents():
        assert incident.page_id in rows, f"{incident.target_id} was told by no message"
        assert incident.id in rows[incident.page_id or ""]
        assert alone[incident.id] <= 1


@pytest.mark.req("R2", "FR-005", "AC-011")
def test_five_pages_of_two_minutes_go_out_alone_and_the_next_are_told_together_within_a_minute() -> None:
    lab = lab_of(8)
    die(lab, 0, 8)
    assert [len(row.covers) for row in signal(lab)] == [1] * 5
    lab.advance(60)
    (grouped,) = signal(lab)[5:]
    assert grouped.kind == "grouped"
    assert grouped.created_wall_s - START < 60
    assert all(f"svc{n:05d}" in grouped.body for n in (5, 6, 7))
    assert "Likely common cause: they are all services (3 of 3" in grouped.body
    every_page_once(lab)


@pytest.mark.req("R2", "FR-005")
def test_what_healed_while_it_was_gathered_is_told_even_if_the_clock_was_set_forward_and_it_fails_again() -> None:
    """Or the machine was suspended. R6 forgets what closed more than an hour ago by the wall clock."""
    lab = lab_of(7)
    die(lab, 0, 7)
    recover(lab, 5)
    lab.wall_ahead_s = 7_200.0
    die(lab, 5, 1)
    lab.advance(60)
    assert len(lab.incidents("svc00005")) == 2
    assert "1 new and over by now" in signal(lab)[-1].subject
    every_page_once(lab)


def test_the_sixth_alone_is_told_in_its_own_words() -> None:
    lab = lab_of(6)
    die(lab, 0, 6)
    lab.advance(60)
    last = signal(lab)[-1]
    assert (last.kind, len(last.covers)) == ("page", 1)
    assert last.body.startswith("svc00005 is down (since")


def test_five_within_two_minutes_and_the_sixth_after_them_are_no_storm() -> None:
    lab = lab_of(12)
    for n in range(12):
        die(lab, n, 1)
        lab.advance(30)
    assert [row.kind for row in signal(lab)] == ["page"] * 12
    assert not lab.engine.world.paging.storm


@pytest.mark.req("R2", "FR-005", "AC-011")
def test_ten_thousand_anomalies_of_one_second_cost_ten_messages_and_a_lone_one_is_not_swallowed() -> None:
    lab = lab_of(10_000)
    die(lab, 0, 9_990, within_s=1.0)
    lab.advance(60)
    lone = "svc09995"
    lab.kill(lone)
    (page,) = [row for row in signal(lab) if row.created_wall_s == lab.now_s]
    assert page.kind == "page"
    assert page.body.startswith(f"{lone} is down (since")
    for n in range(60):  # what the storm left behind heals, one after another
        lab.advance(9)
        recover(lab, n)
    storm = [row for row in signal(lab) if row.id != page.id]
    assert len(storm) <= 10, [(row.kind, row.created_wall_s - START) for row in storm]
    assert max(len(row.covers) for row in storm) == 9_985
    assert all(len(row.body) < 600 for row in storm)
    lab.advance(TEN_MINUTES_S)
    every_page_once(lab)
    opening = {incident.page_id for incident in lab.incidents()}
    said_over = {i for row in signal(lab) if row.id not in opening for i in row.covers}
    assert {lab.only(f"svc{n:05d}").id for n in range(5)} <= said_over


@pytest.mark.req("R2")
def test_however_long_pages_closings_and_repeats_go_on_ten_minutes_cost_ten_messages() -> None:
    """The worst case: something new to say of the storm in every second, with a full disk in its middle."""
    lab = lab_of(900, Target("disk:/a", "host"), Target("disk:/b", "host"), Target("disk:/c", "host"))
    die(lab, 0, 300)
    for n in range(599):
        lab.advance(1)
        recover(lab, n) if n < 300 else None
        if n == 5:
            for mount in ("/a", "/b", "/c"):
                full(lab, mount)
        die(lab, 300 + n, 1)  # it does not stop for a second: nobody is alone
    rows = [row for row in signal(lab) if row.created_wall_s < START + TEN_MINUTES_S]
    assert len(rows) == 10
    assert [row.covers for row in rows if row.subject.startswith("The disk /")] == [
        (lab.incidents("disk:/a")[0].id,),
        (lab.incidents("disk:/b")[0].id,),
    ]
    lab.advance(1_000)
    every_page_once(lab)


def full(lab: Lab, mount: str) -> None:
    data = DiskData(mount=mount, pressure=0.85, critical=0.95, used_share=0.99)
    name = f"disk:{mount}"
    lab.alive.setdefault(name, None)
    reading = msgspec.structs.replace(lab.reading(name), family="host", data=data)
    lab.silent.add(name)
    lab.feed(e.ReadingSeen(reading))


def test_what_heals_while_it_waits_is_told_as_healed_and_has_no_closing_message() -> None:
    lab = lab_of(8)
    die(lab, 0, 8)
    lab.advance(10)
    recover(lab, 6)
    assert len(signal(lab)) == 5
    lab.advance(60)
    (grouped,) = signal(lab)[5:]
    assert "New: svc00005, svc00007." in grouped.body
    assert "New, and over by now: svc00006." in grouped.body
    lab.advance(120)
    for n in (5, 7):
        recover(lab, n)
    lab.advance(120)
    closings = [row for row in signal(lab)[6:]]
    assert len(closings) == 1, "one for the whole group, when the last of it is over"
    assert lab.only("svc00006").id not in closings[0].covers
    every_page_once(lab)


def test_closing_messages_of_a_storm_are_told_together() -> None:
    lab = lab_of(5)
    die(lab, 0, 5)
    for n in range(5):
        recover(lab, n)
    assert len(signal(lab)) == 5
    lab.advance(60)
    (grouped,) = signal(lab)[5:]
    assert grouped.subject == "5 troubles in one message: 5 over"
    assert "Over: svc00000, svc00001, svc00002, svc00003, svc00004." in grouped.body
    assert len(grouped.covers) == 5


@pytest.mark.req("R2")
def test_repeats_that_come_due_together_are_told_together_and_go_on() -> None:
    lab = lab_of(9)
    die(lab, 0, 9)
    lab.advance(3_500)
    before = len(signal(lab))
    assert before == 6
    lab.advance(300)
    assert [row.kind for row in signal(lab)[before:]] == ["repeat"] * 5 + ["grouped"]
    assert "Still open: svc00005, svc00006, svc00007, svc00008." in signal(lab)[-1].body
    lab.advance(4 * 3_600)
    assert len(signal(lab)) == 2 * before + 6


@pytest.mark.req("R2")
def test_a_crash_at_any_point_of_a_storm_loses_no_page_and_sends_none_twice() -> None:
    for seed in range(5):
        dice = random.Random(seed)
        lab, whole = lab_of(60), lab_of(60)
        for n in range(60):
            for each in (lab, whole):
                die(each, n, 1)
                if n > 10 and n % 4 == 0:
                    recover(each, n - 7)
            if dice.random() < 0.3:
                lab.crash()
            step_s = dice.choice((0.0, 0.5, 3.0, 50.0))
            lab.advance(step_s)
            whole.advance(step_s)
        lab.crash()
        lab.advance(2_000)
        whole.advance(2_000)
        every_page_once(lab)
        told = [[(row.created_wall_s, row.kind, len(row.covers)) for row in signal(each)] for each in (lab, whole)]
        assert told[0] == told[1], f"seed {seed}: a restart changed what was told"


def test_a_storm_is_over_ten_minutes_after_its_last_message() -> None:
    lab = lab_of(20)
    die(lab, 0, 7)
    lab.advance(50)
    assert lab.engine.world.paging.storm
    lab.advance(pages.OVER_S)
    assert not lab.engine.world.paging.storm
    assert not [kind for kind, _ in lab.engine.world.timers if kind in (TimerKind.STORM, TimerKind.GATHER)]
    die(lab, 7, 5)
    assert [row.kind for row in signal(lab, 60)] == ["page"] * 5


def test_two_in_the_lull_after_a_storm_do_not_wait_for_its_slow_messages() -> None:
    lab = lab_of(40)
    for n in range(12):  # three grouped messages: the next would wait six minutes
        die(lab, 3 * n, 3)
        lab.advance(25)
    lab.advance(20)
    assert lab.engine.world.paging.groups >= 2
    before = {row.id for row in signal(lab)}
    lab.advance(30)
    waits = [row for row in signal(lab) if row.id not in before]
    die(lab, 37, 1)
    lab.advance(10)
    die(lab, 38, 1)
    lab.advance(46)
    after = [row for row in signal(lab) if row.id not in before | {row.id for row in waits}]
    assert after[0].body.startswith("svc00037 is down (since")
    assert lab.only("svc00038").id in after[1].covers


def test_an_incident_that_is_dismissed_while_it_waits_is_told_as_over() -> None:
    lab = lab_of(7)
    die(lab, 0, 7)
    gathered: Incident = lab.only("svc00006")
    lab.order("dismiss", incident_id=gathered.id, reason="known")
    lab.advance(60)
    assert lab.only("svc00006").state is State.DISMISSED
    assert gathered.id in signal(lab)[-1].covers
    assert gathered.anomaly is AnomalyType.PROCESS_DEAD


@pytest.mark.req("R1", "R2")
def test_what_is_beyond_the_limit_is_counted_in_the_message_and_a_full_disk_is_never_beyond_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in (detect, own, gathered):
        monkeypatch.setattr(module, "OPEN_INCIDENTS_MAX", 20)
    lab = lab_of(30)
    die(lab, 0, 30, within_s=1.0)
    full(lab, "/data")
    lab.advance(60)
    every_page_once(lab)
    assert any(it.target_id == "disk:/data" for it in lab.incidents())
    (told,) = [row for row in signal(lab) if row.kind == "grouped"]
    assert "And 10 more: healctl keeps 20 open, of these it only counts." in told.body
