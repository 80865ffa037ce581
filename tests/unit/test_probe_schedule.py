"""The schedule of the probes: spread polls, wishes, and questions that only a later read answers. Pure."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.schedule import HOLD_MAX_S, QUESTIONS_MAX, SLOT_S, Schedule

NOW = 1000.0


def settled(intervals: dict[str, float]) -> Schedule:
    """After the first read of every target."""
    schedule = Schedule(intervals, NOW)
    for name in schedule.take(NOW, len(intervals)):
        schedule.end(name)
    return schedule


def run(schedule: Schedule, from_s: float, to_s: float) -> list[tuple[float, list[str]]]:
    """Every wake of an idle worker, and what is read in it."""
    wakes = []
    while (due_s := schedule.next_s()) is not None and due_s <= to_s:
        assert due_s >= from_s
        names = schedule.take(due_s, 1_000_000)
        assert names
        for name in names:
            schedule.end(name)
        wakes.append((due_s, names))
    return wakes


def test_everything_is_read_at_the_start() -> None:
    schedule = Schedule({"a": 60, "b": 90}, NOW)
    assert schedule.next_s() == NOW
    assert sorted(schedule.take(NOW, 10)) == ["a", "b"]
    assert schedule.next_s() is None  # both are being read


@pytest.mark.req("R8", "FR-001")
def test_polls_are_spread_and_wakes_are_few() -> None:
    schedule = settled({f"t{n}": 60.0 for n in range(50)})
    wakes = run(schedule, NOW, NOW + 60)
    assert len(wakes) == 60 / SLOT_S
    assert sorted(name for _, names in wakes for name in names) == sorted(f"t{n}" for n in range(50))
    assert max(len(names) for _, names in wakes) <= 5
    again = run(schedule, NOW + 60, NOW + 120)
    assert [(due_s - 60, sorted(names)) for due_s, names in again] == [(d, sorted(n)) for d, n in wakes]


@pytest.mark.req("R8")
@settings(deadline=None)  # its work is the point, not its time
@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([0.1, 1.0, 5.0, 7.0, 60.0, 90.0, 604800.0])),
    st.floats(min_value=0.1, max_value=300.0),
)
def test_nothing_waits_longer_than_its_interval(intervals: dict[str, float], span_s: float) -> None:
    schedule = settled(intervals)
    last = dict.fromkeys(intervals, NOW)
    for due_s, names in run(schedule, NOW, NOW + span_s):
        for name in names:
            assert 0 < due_s - last[name] <= intervals[name] + 1e-6
            last[name] = due_s
    assert all(NOW + span_s - seen_s <= intervals[name] + 1e-6 for name, seen_s in last.items())


def test_a_missed_poll_is_not_made_up_for() -> None:
    schedule = settled({"a": 10.0})
    late = NOW + 1005.0
    assert schedule.take(late, 9) == ["a"]
    schedule.end("a")
    assert schedule.next_s() == NOW + 1010.0


def test_a_wish_brings_the_read_forward_and_never_puts_it_off() -> None:
    schedule = settled({"a": 60.0})
    schedule.soon("a", NOW + 5)
    schedule.soon("a", NOW + 9)
    assert schedule.next_s() == NOW + 5
    assert schedule.take(NOW + 5, 9) == ["a"]
    assert schedule.end("a").owed
    assert schedule.next_s() == NOW + 60


def test_a_wish_for_a_later_time_outlives_a_read_before_it() -> None:
    schedule = settled({"a": 60.0})
    schedule.soon("a", NOW + 10)
    schedule.ask("a", "q", NOW + 1)
    assert schedule.take(NOW + 1, 9) == ["a"]
    schedule.end("a")
    assert schedule.next_s() == NOW + 10


@pytest.mark.req("R7")
def test_a_read_answers_only_questions_that_came_before_it_began() -> None:
    schedule = settled({"a": 60.0})
    assert schedule.ask("a", "first", NOW + 1)
    assert schedule.take(NOW + 2, 9) == ["a"]
    schedule.ask("a", "second", NOW + 3)
    assert not schedule.serves_nobody("a")
    finished = schedule.end("a")
    assert finished.answers == ("first",)
    assert not finished.owed  # nobody but the asker wanted it
    assert schedule.take(NOW + 3, 9) == ["a"]
    assert schedule.end("a").answers == ("second",)
    assert schedule.next_s() == NOW + 60


def test_questions_that_came_before_the_read_share_it() -> None:
    schedule = settled({"a": 60.0})
    for key in ("x", "y", "x"):
        assert schedule.ask("a", key, NOW + 1)
    schedule.take(NOW + 1, 9)
    assert schedule.end("a").answers == ("x", "y")


def test_a_poll_that_began_too_early_gives_way_to_the_question_and_stays_owed() -> None:
    schedule = settled({"a": 60.0})
    schedule.take(NOW + 60, 9)
    schedule.ask("a", "q", NOW + 61)
    assert schedule.serves_nobody("a")
    schedule.abandon("a", NOW + 61)
    assert schedule.take(NOW + 61, 9) == ["a"]
    finished = schedule.end("a")
    assert finished.answers == ("q",)
    assert finished.owed


def test_questions_are_bounded() -> None:
    schedule = settled({"a": 60.0})
    assert all(schedule.ask("a", str(n), NOW) for n in range(QUESTIONS_MAX))
    assert not schedule.ask("a", "one more", NOW)
    assert schedule.ask("a", "0", NOW)  # it waits already


def test_room_is_kept_and_nothing_is_forgotten() -> None:
    schedule = Schedule({f"t{n}": 60.0 for n in range(10)}, NOW)
    first = schedule.take(NOW, 4)
    assert len(first) == 4
    assert schedule.next_s() == NOW
    assert len(schedule.take(NOW, 100)) == 6


def test_many_wishes_do_not_grow_the_queue() -> None:
    schedule = settled({"a": 60.0, "b": 60.0})
    for n in range(10_000):
        schedule.soon("a", NOW + 0.001 * n)
        schedule.take(NOW + 0.001 * n, 9)
        schedule.end("a")
    assert len(schedule._heap) < 100


# --- targets that come and go, and others' readings ----------------------------------------------------------------


def test_a_target_more_is_read_at_once_and_then_by_its_interval() -> None:
    schedule = settled({"a": 60.0})
    schedule.put("b", 60.0, NOW + 1)
    assert schedule.take(NOW + 1, 9) == ["b"]
    assert schedule.end("b").owed
    polls = [due_s for due_s, names in run(schedule, NOW + 1, NOW + 200) if "b" in names]
    assert polls[0] <= NOW + 61
    assert {round(later - earlier, 6) for earlier, later in itertools.pairwise(polls)} == {60.0}


def test_putting_what_is_there_changes_nothing() -> None:
    schedule = settled({"a": 60.0})
    for n in range(1000):
        schedule.put("a", 60.0, NOW + n / 100)
    assert schedule.next_s() == NOW + 60
    assert len(schedule._heap) < 100


@pytest.mark.parametrize(("interval_s", "next_s"), [(10.0, NOW + 11), (600.0, NOW + 60)])
def test_another_interval_holds_from_now_on_and_puts_no_poll_off(interval_s: float, next_s: float) -> None:
    schedule = settled({"a": 60.0})
    schedule.put("a", interval_s, NOW + 1)
    assert schedule.next_s() == next_s
    schedule.take(next_s, 9)
    schedule.end("a")
    assert schedule.next_s() == next_s + interval_s


@pytest.mark.req("R8")
def test_many_that_come_together_are_not_polled_together_ever_after() -> None:
    schedule = Schedule({}, NOW)
    for n in range(600):
        schedule.put(f"t{n}", 300.0, NOW)
    assert len(schedule.take(NOW, 1000)) == 600
    for n in range(600):
        schedule.end(f"t{n}")
    wakes = run(schedule, NOW, NOW + 300)
    assert max(len(names) for _, names in wakes) == 600 * SLOT_S / 300
    assert sorted(name for _, names in wakes for name in names) == sorted(f"t{n}" for n in range(600))


def test_a_dropped_target_is_never_read_and_its_questions_come_back() -> None:
    schedule = settled({"a": 60.0, "b": 60.0})
    schedule.soon("a", NOW + 1)
    schedule.ask("a", "q1", NOW + 1)
    schedule.ask("a", "q2", NOW + 2)
    assert schedule.drop("a") == ("q1", "q2")
    assert "a" not in schedule
    assert [names for _, names in run(schedule, NOW, NOW + 100)] == [["b"]]
    schedule.put("a", 60.0, NOW + 100)  # it comes back, as a new one
    assert schedule.take(NOW + 100, 9) == ["a"]
    assert schedule.end("a").answers == ()


@pytest.mark.req("NFR-004")
def test_a_hold_puts_polls_off_and_they_resume_when_it_ends() -> None:
    schedule = settled({"a": 60.0})
    schedule.hold("a", NOW + 90)
    assert schedule.next_s() == NOW + 90
    schedule.hold("a", NOW + 70)  # a shorter one takes nothing back
    assert [due_s for due_s, _ in run(schedule, NOW, NOW + 220)] == [NOW + 90, NOW + 150, NOW + 210]


@pytest.mark.req("NFR-004", "R7")
def test_a_hold_keeps_no_question_and_no_wish_waiting() -> None:
    schedule = settled({"a": 60.0})
    schedule.hold("a", NOW + 1000)
    schedule.ask("a", "q", NOW + 1)
    assert schedule.take(NOW + 1, 9) == ["a"]
    finished = schedule.end("a")
    assert (finished.answers, finished.owed) == (("q",), False)
    schedule.soon("a", NOW + 2)
    assert schedule.take(NOW + 2, 9) == ["a"]
    assert schedule.end("a").owed
    assert schedule.next_s() == NOW + 1000


def test_a_hold_while_it_is_read_holds_too() -> None:
    schedule = settled({"a": 60.0})
    assert schedule.take(NOW + 60, 9) == ["a"]
    schedule.hold("a", NOW + 500)
    schedule.end("a")
    assert schedule.next_s() == NOW + 500


@pytest.mark.req("NFR-004")
@pytest.mark.parametrize("interval_s", [60.0, 2 * HOLD_MAX_S])
def test_nobody_holds_us_for_ever(interval_s: float) -> None:
    """A feeder that is wrong, or means ill, must not keep us from ever looking ourselves."""
    schedule = settled({"a": interval_s})
    schedule.hold("a", NOW + 1e9)
    now_s, limit_s = NOW, NOW + max(HOLD_MAX_S, interval_s)
    while now_s + 60 < limit_s:
        now_s += 60
        schedule.hold("a", now_s + 120)
    assert schedule.next_s() == limit_s
    assert schedule.take(limit_s, 9) == ["a"]
    schedule.end("a")
    schedule.hold("a", limit_s + 1e9)
    assert schedule.next_s() == limit_s + max(HOLD_MAX_S, interval_s)
