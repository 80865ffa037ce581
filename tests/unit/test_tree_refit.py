"""From one tree to another while it runs: every phase in which a child can be when it leaves, comes or changes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from supervisor.messages import Ready, TreeKind
from supervisor.tree import model
from supervisor.tree.kernel import step
from supervisor.tree.model import Mode, Phase, Then
from tests.unit.tree_kernel_bench import Bench, a_tree, names

OLD = a_tree("core", "hands", "probes-1", "probes-2", backoff_first=1, shutdown=5, quarantine_retry=300)
WITHOUT = a_tree("core", "hands", "probes-2", backoff_first=1, shutdown=5, quarantine_retry=300)
WITH = a_tree("core", "hands", "probes-1", "probes-2", "probes-3", backoff_first=1, shutdown=5, quarantine_retry=300)
CHILD = "probes-1"


def in_phase(phase: Phase) -> Bench:
    """`probes-1` in this phase, all others READY."""
    bench = Bench(OLD)
    bench.ready("core", "hands")
    match phase:
        case Phase.WAITING:
            bench = Bench(OLD)
            bench.ready("core")
            return bench
        case Phase.STARTING:
            bench.take()
            return bench
        case Phase.ABORTING:
            bench.tick(OLD.children[0].ready_within_s)
        case Phase.KILLING:
            bench.tick(OLD.children[0].ready_within_s)
            bench.tick(2)
        case Phase.QUARANTINED:
            for _ in range(11):
                bench.ready(CHILD)
                bench.fail(CHILD)
            assert bench.state.children[CHILD].phase is phase
        case Phase.ENDED:
            bench.ready(CHILD)
            bench.die(CHILD, 78)
        case _:
            bench.ready(CHILD)
            if phase is Phase.BACKOFF:
                bench.die(CHILD)
    bench.tick()
    bench.ready("probes-2")
    assert bench.state.children[CHILD].phase is phase
    bench.take()
    return bench


ALL = [phase for phase in Phase if phase is not Phase.STOPPING]
ALIVE = (Phase.STARTING, Phase.READY, Phase.ABORTING, Phase.KILLING)


@pytest.mark.parametrize("phase", ALL)
def test_who_leaves_is_gone_as_soon_as_it_is_dead(phase: Phase) -> None:
    bench = in_phase(phase)
    bench.apply(model.Refitted(WITHOUT))
    orders = names(bench.take(model.Order))
    assert orders == ([CHILD] if phase in (Phase.STARTING, Phase.READY) else [])
    if phase in ALIVE:
        assert CHILD in bench.state.children
        bench.die(CHILD, 0)
    assert CHILD not in bench.state.children
    bench.tick(1000)
    assert [f for f in bench.take(model.Fork) if isinstance(f, model.Fork) and f.child == CHILD] == []
    for event in (model.Said(CHILD, "x", Ready()), model.Died(CHILD, "x", 0, "", 0.0)):  # late words of the dead
        bench.apply(event)


@pytest.mark.parametrize("phase", ALL)
def test_who_starts_anew_does_so_without_a_failure(phase: Phase) -> None:
    bench = in_phase(phase)
    before = bench.state.children[CHILD]
    bench.apply(model.Refitted(OLD, frozenset({CHILD})))
    if phase in ALIVE:
        assert bench.take(model.Fork) == []  # never two of one name
        bench.die(CHILD, 0)
    if phase is Phase.BACKOFF:
        bench.tick(1)
    if phase is Phase.WAITING:
        bench.ready("hands")
    child = bench.state.children[CHILD]
    assert child.phase is Phase.STARTING
    assert child.lives == before.lives + 1
    assert child.then is Then.STAY
    if phase in (Phase.STARTING, Phase.READY):
        assert (child.restarts, child.restarts_s, child.failures_s) == (0, (), ())


@pytest.mark.parametrize("phase", ALL)
def test_who_is_not_concerned_goes_on_with_the_new_limits(phase: Phase) -> None:
    bench = in_phase(phase)
    before = bench.state.children[CHILD]
    tree = replace(WITH, children=tuple(replace(child, shutdown_s=9.0) for child in WITH.children))
    bench.apply(model.Refitted(tree))
    child = bench.state.children[CHILD]
    if phase is Phase.ENDED:  # it said that its configuration was bad, and here is another
        assert child.phase is Phase.STARTING
    else:
        assert replace(child, spec=before.spec) == before
    assert child.spec.shutdown_s == 9.0
    assert list(bench.state.children) == ["core", "hands", "probes-1", "probes-2", "probes-3"]


def test_who_is_new_waits_for_its_turn() -> None:
    bench = in_phase(Phase.BACKOFF)
    bench.apply(model.Refitted(WITH))
    assert bench.state.children["probes-3"].phase is Phase.WAITING  # an earlier one is down
    bench.tick(1)
    bench.ready(CHILD)
    assert bench.state.children["probes-3"].phase is Phase.STARTING


def test_a_leaving_one_holds_no_newcomer_up_and_is_killed_if_it_does_not_obey() -> None:
    bench = in_phase(Phase.READY)
    bench.apply(model.Refitted(a_tree("core", "hands", "probes-2", "probes-3", backoff_first=1, shutdown=5)))
    assert names(bench.take(model.Order, model.Fork)) == [CHILD, "probes-3"]
    bench.ready("probes-3")
    bench.tick(5)
    assert names(bench.take(model.Kill)) == [CHILD]
    bench.tick(100)  # a process that not even SIGKILL ends is waited for: no second one beside it
    bench.apply(model.Refitted(WITH))
    assert bench.state.children[CHILD].then is Then.AGAIN
    assert [a for a in bench.take(model.Fork) if isinstance(a, model.Fork) and a.child == CHILD] == []
    bench.die(CHILD)
    assert bench.state.children[CHILD].phase is Phase.STARTING


def test_wanted_again_and_unwanted_again() -> None:
    bench = in_phase(Phase.READY)
    bench.apply(model.Refitted(WITHOUT))
    bench.apply(model.Refitted(OLD))
    bench.apply(model.Refitted(WITHOUT))
    assert names(bench.take(model.Order)) == [CHILD]
    bench.die(CHILD, 0)
    assert CHILD not in bench.state.children


def test_the_core_starts_anew_in_its_order() -> None:
    bench = in_phase(Phase.READY)
    bench.apply(model.Refitted(OLD, frozenset({"core", "hands"})))
    assert names(bench.take(model.Order)) == ["core", "hands"]
    bench.die("hands", 0)
    assert bench.take(model.Fork) == []
    bench.die("core", 0)
    assert names(bench.take(model.Fork)) == ["core"]
    bench.ready("core")
    assert names(bench.take(model.Fork)) == ["hands"]
    bench.ready("hands")
    assert bench.state.mode is Mode.RUNNING
    assert all(child.restarts == 0 for child in bench.state.children.values())


def test_a_fork_that_was_under_way_is_ordered_out_when_it_lives() -> None:
    bench = Bench(OLD)
    bench.ready("core")
    state, actions = step(bench.state, model.Said("hands", bench.state.children["hands"].incarnation, Ready()), 100.0)
    assert [action.child for action in actions if isinstance(action, model.Fork)] == [CHILD]
    state, actions = step(state, model.Refitted(WITHOUT), 100.0)
    assert not [action for action in actions if isinstance(action, model.Order)]
    failed, actions = step(state, model.ForkFailed(CHILD, "no memory", 0.0), 100.0)
    assert CHILD not in failed.children
    state, actions = step(state, model.Forked(CHILD, 7), 100.0)
    assert model.Order(CHILD) in actions


def test_a_stop_ends_who_is_leaving_too_and_takes_no_other_tree() -> None:
    bench = in_phase(Phase.READY)
    bench.apply(model.Refitted(WITHOUT))
    bench.apply(model.StopOrdered())
    before = bench.state
    bench.apply(model.Refitted(WITH))
    assert bench.state == replace(before, wake_by_s=bench.state.wake_by_s)
    for name in (CHILD, "probes-2", "hands", "core"):
        bench.die(name, 0)
    assert bench.state.mode is Mode.OVER


def test_a_child_that_leaves_is_reported_as_stopped() -> None:
    bench = in_phase(Phase.BACKOFF)
    bench.apply(model.Refitted(WITHOUT))
    assert bench.reports() == [(TreeKind.STOPPED, CHILD)]


def test_failures_within_ten_minutes_are_told() -> None:
    bench = in_phase(Phase.READY)
    for _ in range(3):
        bench.fail(CHILD)
    told = [a.event.failures for a in bench.take(model.Report) if isinstance(a, model.Report)]
    assert max(told) == 3
    bench.tick(700)
    bench.fail(CHILD)
    told = [a.event.failures for a in bench.take(model.Report) if isinstance(a, model.Report)]
    assert max(told) == 1


def test_one_that_was_ousted_pages_and_orders_nobody() -> None:
    bench = in_phase(Phase.READY)
    bench.apply(model.Ousted("the lock is somebody else's"))
    kinds = bench.take(model.Page, model.Kill, model.Order)
    assert not [action for action in kinds if isinstance(action, model.Order)]  # an order would remove the sockets
    assert sorted(names(kinds)) == sorted(["core", "hands", "probes-1", "probes-2"])
    for name in ("core", "hands", "probes-1", "probes-2"):
        bench.die(name)
    bench.apply(model.PagerEnded())
    assert bench.take(model.Exit) == [model.Exit(70, "the lock is somebody else's")]
