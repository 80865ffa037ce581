"""The tree kernel's rules, one by one, on a clock that only these tests move."""

from __future__ import annotations

import pytest

from supervisor.messages import Beat, Finished, TreeKind, Working
from supervisor.tree import model
from supervisor.tree.kernel import ITEMS_MAX, STUCK_MAX, backoff_s, exit_text, initial, step
from supervisor.tree.model import Mode, Phase, Restart
from tests.unit.tree_kernel_bench import Bench, a_tree, names

# --- start and stop ---


def test_each_start_waits_for_the_one_before() -> None:
    bench = Bench(a_tree("core-1", "core-2", "hands"))
    assert bench.phases() == [Phase.STARTING, Phase.WAITING, Phase.WAITING]
    bench.ready("core-1")
    assert bench.phases() == [Phase.READY, Phase.STARTING, Phase.WAITING]
    bench.die("core-1")  # an earlier one that is down again holds the order up
    bench.ready("core-2")
    assert bench.phases()[2] is Phase.WAITING
    bench.tick()
    bench.ready("core-1")
    assert bench.phases() == [Phase.READY, Phase.READY, Phase.STARTING]
    assert not [a for a in bench.actions if isinstance(a, model.AllReady)]
    bench.ready("hands")
    bench.die("hands")
    bench.tick()
    bench.ready("hands")
    assert len(bench.take(model.AllReady)) == 1


def test_the_stop_goes_in_reverse_and_kills_what_does_not_obey() -> None:
    bench = Bench(a_tree("core-1", "core-2", "hands", shutdown=5))
    bench.ready("core-1", "core-2", "hands")
    bench.take()
    bench.apply(model.StopOrdered())
    bench.apply(model.StopOrdered())
    assert names(bench.take(model.Order, model.Kill)) == ["hands"]
    bench.die("hands", 0)
    assert names(bench.take(model.Order, model.Kill)) == ["core-2"]
    bench.tick(5)
    assert bench.take(model.Order, model.Kill) == [model.Kill("core-2")]
    bench.die("core-2")
    assert names(bench.take(model.Order, model.Kill)) == ["core-1"]
    bench.tick(5)
    bench.tick(5)  # even SIGKILL did not end it (it waits for a disk, say)
    assert bench.take(model.Exit) == [model.Exit(0, "")]
    assert bench.state.mode is Mode.OVER


def test_what_waits_for_its_restart_is_not_restarted_by_a_stop() -> None:
    bench = Bench(a_tree("core", "probes", backoff_first=1))
    bench.ready("core", "probes")
    bench.die("probes")
    bench.take()
    bench.apply(model.StopOrdered())
    bench.die("core", 0)
    assert bench.take(model.Fork, model.Exit) == [model.Exit(0, "")]


def test_kill_ordered_spares_nobody() -> None:
    bench = Bench(a_tree("core-1", "core-2"))
    bench.ready("core-1")
    bench.take()
    bench.apply(model.KillOrdered())
    assert names(bench.take(model.Kill)) == ["core-1", "core-2"]
    bench.die("core-1")
    bench.die("core-2")
    assert bench.take(model.Exit) == [model.Exit(1, "ended at once, as ordered")]


# --- restarts ---


@pytest.mark.parametrize(
    ("restart", "code", "phase"),
    [
        (Restart.PERMANENT, 0, Phase.STARTING),
        (Restart.PERMANENT, 1, Phase.STARTING),
        (Restart.TRANSIENT, 0, Phase.ENDED),
        (Restart.TRANSIENT, 1, Phase.STARTING),
        (Restart.TRANSIENT, -9, Phase.STARTING),
        (Restart.TEMPORARY, 0, Phase.ENDED),
        (Restart.TEMPORARY, 1, Phase.ENDED),
        (Restart.PERMANENT, 78, Phase.ENDED),
    ],
)
def test_who_is_started_again(restart: Restart, code: int, phase: Phase) -> None:
    bench = Bench(a_tree("hands", restart=restart))
    bench.ready("hands")
    bench.die("hands", code)
    bench.tick()
    assert bench.phases() == [phase]


def test_backoff_grows_is_capped_and_begins_anew_after_a_steady_minute() -> None:
    bench = Bench(a_tree("hands", hands_intensity=100, hands_period=1000, backoff_reset=60))
    delays = []
    bench.ready("hands")
    for _ in range(9):
        bench.die("hands")
        delays += [a.event.delay_s for a in bench.take(model.Report) if isinstance(a, model.Report)][-1:]
        child = bench.state.children["hands"]
        bench.tick((child.deadline_s or bench.now_s) - bench.now_s)
        bench.ready("hands")
    assert delays == [0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5]  # jitter 0: half of the full delay
    bench.tick(61)
    bench.die("hands")
    assert bench.state.children["hands"].streak == 1


def test_backoff_never_exceeds_its_maximum() -> None:
    backoff = model.Backoff(0.0, 0.1, 3.0, 60.0)
    assert backoff_s(backoff, 5000, 0.999) <= 3.0
    assert backoff_s(backoff, 1, 0.999) == 0.0


def test_a_message_from_an_earlier_life_changes_nothing() -> None:
    bench = Bench(a_tree("hands"))
    old = bench.state.children["hands"].incarnation
    bench.ready("hands")
    bench.fail("hands")
    before = bench.state
    bench.apply(model.Said("hands", old, Working("x")))
    bench.apply(model.Died("hands", old, -9, "", 0.0))
    assert bench.state.children == before.children


def test_a_fork_that_fails_is_a_failure_like_any_other() -> None:
    tree = a_tree("hands", hands_intensity=2)
    state, actions = step(initial(tree, "t"), model.Tick(), 1.0)
    assert isinstance(actions[0], model.Fork)
    state, actions = step(state, model.ForkFailed("hands", "no memory", 0.0), 1.0)
    assert state.children["hands"].phase is Phase.BACKOFF
    assert state.children["hands"].exit_text == "cannot fork: no memory"


# --- intensity ---


def test_the_core_gives_up_pages_and_exits_70() -> None:
    bench = Bench(a_tree("core-1", "core-2", core_intensity=3, core_period=60))
    bench.ready("core-1", "core-2")
    for _ in range(3):
        bench.fail("core-2")
    assert bench.state.mode is Mode.RUNNING
    bench.fail("core-1")  # each counts alone
    assert bench.state.mode is Mode.RUNNING
    bench.take()
    bench.die("core-2", 1, "ValueError: x")
    (page,) = [a for a in bench.actions if isinstance(a, model.Page)]
    assert "core-2 failed 4 times in 60 s; last: exit 1\nValueError: x" in page.text
    bench.die("core-1", 0)
    assert not bench.take(model.Exit)  # the page is still on its way
    bench.apply(model.PagerEnded())
    (over,) = bench.take(model.Exit)
    assert isinstance(over, model.Exit)
    assert over.code == 70


def test_a_page_has_a_deadline() -> None:
    bench = Bench(a_tree("core", core_intensity=1))
    bench.ready("core")
    bench.fail("core")
    bench.die("core")
    bench.tick(20)
    assert bench.take(model.EndPager) == [model.EndPager()]
    bench.apply(model.PagerEnded())
    assert bench.state.mode is Mode.OVER


def test_old_failures_do_not_count() -> None:
    bench = Bench(a_tree("core", core_intensity=3, core_period=60))
    bench.ready("core")
    for _ in range(20):
        bench.fail("core")
        bench.tick(25)
    assert bench.state.mode is Mode.RUNNING


def test_a_probe_family_rests_is_tried_slowly_and_on_trial() -> None:
    bench = Bench(a_tree("core", "probes", "probes-2", probes_intensity=2, quarantine_retry=300))
    bench.ready("core", "probes", "probes-2")
    bench.fail("probes")
    bench.fail("probes")
    bench.fail("probes")
    assert bench.phases() == [Phase.READY, Phase.QUARANTINED, Phase.READY]
    assert (TreeKind.QUARANTINED, "probes") in bench.reports()
    bench.tick(299)
    assert bench.phases()[1] is Phase.QUARANTINED
    bench.tick(1)
    assert bench.phases()[1] is Phase.STARTING
    bench.ready("probes")
    bench.die("probes")
    assert bench.phases()[1] is Phase.QUARANTINED  # on trial: one failure is enough
    bench.tick(300)
    bench.ready("probes")
    bench.tick(61)
    bench.fail("probes")
    assert bench.phases()[1] is Phase.READY  # it had stood the trial


def test_hands_come_back_without_what_they_had_in_work() -> None:
    bench = Bench(a_tree("hands", hands_intensity=2))
    bench.ready("hands")
    bench.fail("hands")
    bench.fail("hands")
    bench.say("hands", Working("outbox:7"))
    bench.take()
    bench.fail("hands")
    assert (TreeKind.ITEM_QUARANTINED, "hands") in bench.reports()
    assert bench.phases() == [Phase.READY]
    assert bench.state.children["hands"].quarantined == ("outbox:7",)


def test_hands_with_nothing_in_work_rest() -> None:
    bench = Bench(a_tree("hands", hands_intensity=2))
    bench.ready("hands")
    for _ in range(3):
        bench.fail("hands")
    assert bench.phases() == [Phase.QUARANTINED]


def test_a_core_that_is_never_ready_trips_although_its_deadlines_outlast_the_period() -> None:
    bench = Bench(a_tree("core", core_intensity=10, core_period=60, ready_within=30))
    for _ in range(STUCK_MAX):
        assert bench.state.mode is Mode.RUNNING
        bench.tick(35)
        bench.die("core", -6)
    assert bench.state.exit_code == 70
    assert f"core had to be ended {STUCK_MAX} times in a row" in bench.state.exit_reason


def test_exit_78_of_the_core_ends_the_tree_and_pages_only_once_it_was_up() -> None:
    for was_up in (False, True):
        bench = Bench(a_tree("core"))
        if was_up:
            bench.ready("core")
        bench.die("core", 78)
        pages = [a for a in bench.actions if isinstance(a, model.Page)]
        assert len(pages) == was_up
        assert bench.state.exit_code == 78


# --- hanging ---


def test_no_beat_aborts_then_kills() -> None:
    bench = Bench(a_tree("hands", beat=5, beat_within=20, abort_grace=1))
    bench.ready("hands")
    bench.mute = frozenset({"hands"})
    bench.take()
    bench.tick(19.9)
    assert bench.take(model.Abort, model.Kill) == []
    bench.tick(0.2)
    assert bench.take(model.Abort, model.Kill) == [model.Abort("hands")]
    bench.tick(1.1)
    assert bench.take(model.Abort, model.Kill) == [model.Kill("hands")]
    bench.tick(1000)
    assert bench.take(model.Fork) == []  # never a second one beside it
    bench.die("hands")
    assert bench.state.children["hands"].exit_text == "no beat for 20 s; killed by SIGKILL"


def test_no_progress_needs_old_work_and_a_counter_that_stands_still() -> None:
    bench = Bench(a_tree("hands", progress_within=120))
    bench.ready("hands")
    bench.mute = frozenset({"hands"})
    for n in range(40):  # busy: old work in hand, but others get finished
        bench.say("hands", Beat(n, 500.0))
        bench.tick(5)
    assert bench.phases() == [Phase.READY]
    for n in range(30):  # nothing finished, but nothing old either
        bench.say("hands", Beat(40, n * 4.0))
        bench.tick(5)
    assert bench.phases() == [Phase.READY]
    bench.say("hands", Beat(40, 130.0))
    assert bench.phases() == [Phase.ABORTING]


def test_a_late_root_blames_nobody() -> None:
    bench = Bench(a_tree("core", "hands", "probes", ready_within=10))
    bench.ready("core", "hands")
    bench.take()
    before = {name: (c.deadline_s, c.beat_deadline_s) for name, c in bench.state.children.items()}
    gap_s = 3600.0
    bench.now_s = bench.state.wake_by_s + gap_s
    bench.apply(model.Tick())
    assert bench.take(model.Abort, model.Kill) == []
    for name, child in bench.state.children.items():
        deadline_s, beat_s = before[name]
        assert child.deadline_s == (None if deadline_s is None else deadline_s + gap_s)
        assert child.beat_deadline_s == (None if beat_s is None else beat_s + gap_s)


# --- poison ---


def test_an_item_is_suspect_after_one_death_and_quarantined_after_two() -> None:
    bench = Bench(a_tree("hands"))
    bench.ready("hands")
    for item in ("a", "b", "c"):
        bench.say("hands", Working(item))
    bench.say("hands", Finished("c"))
    bench.take()
    bench.fail("hands")
    (fork,) = bench.take(model.Fork)
    assert isinstance(fork, model.Fork)
    assert (fork.suspects, fork.quarantined) == (frozenset("ab"), frozenset())
    bench.say("hands", Working("a"))
    bench.say("hands", Finished("a"))
    bench.say("hands", Working("b"))
    bench.fail("hands")
    (fork,) = bench.take(model.Fork)
    assert isinstance(fork, model.Fork)
    assert (fork.suspects, fork.quarantined) == (frozenset(), frozenset("b"))


def test_a_stop_makes_nothing_suspect() -> None:
    bench = Bench(a_tree("hands"))
    bench.ready("hands")
    bench.say("hands", Working("a"))
    bench.apply(model.StopOrdered())
    bench.die("hands", 0)
    assert bench.state.children["hands"].suspects == ()


def test_items_are_limited() -> None:
    bench = Bench(a_tree("hands"))
    bench.ready("hands")
    for n in range(ITEMS_MAX + 1):
        bench.say("hands", Working(str(n)))
    assert len(bench.state.children["hands"].items) == ITEMS_MAX
    (note,) = bench.take(model.Note)
    assert isinstance(note, model.Note)
    assert "not tracked" in note.text


def test_exit_text_names_the_signal() -> None:
    assert exit_text(-9) == "killed by SIGKILL"
    assert exit_text(3) == "exit 3"
    assert exit_text(-77) == "killed by signal 77"
