"""Many at once: canaries, places, locks (DESIGN §2.7, §2.8), on the pure engine."""

from __future__ import annotations

import pytest

from supervisor.incidents import engine as e
from supervisor.incidents.model import State, TierReason
from supervisor.incidents.policy import Policy
from tests.lab.engine import Lab

NAMES = tuple(f"svc{n:02d}" for n in range(20))


def all_die(lab: Lab) -> None:
    """Dead before anybody looks, then seen one after another, as a batch of readings comes in."""
    lab.silent.update(NAMES)
    for name in NAMES:
        lab.kill(name)
    lab.silent.clear()
    for name in NAMES:
        lab.poll(name)


@pytest.mark.req("R8")
def test_twenty_at_once_are_all_healed_after_the_first_three_verified() -> None:
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0))
    lab.hold_dispatch = True
    all_die(lab)
    assert len(lab.dispatched) == 3
    lab.hold_dispatch = False
    for execution in list(lab.dispatched):
        lab.run(execution)
    lab.advance(5)
    assert {i.state for i in lab.incidents()} == {State.RESOLVED}
    assert len(lab.dispatched) == 20


def test_at_most_eight_run_at_once() -> None:
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0, canary_from=100))
    lab.hold_dispatch = True
    all_die(lab)
    assert len(lab.dispatched) == 8
    lab.hold_dispatch = False
    for execution in list(lab.dispatched):
        lab.run(execution)
    lab.advance(40)
    assert {i.state for i in lab.incidents()} == {State.RESOLVED}


def test_a_canary_that_does_not_hold_pauses_the_family_with_one_grouped_page() -> None:
    lab = Lab(*NAMES)
    for name in NAMES:
        lab.heals[name] = False
    all_die(lab)
    lab.advance(60)
    assert len(lab.dispatched) == 3
    assert "process" in lab.engine.world.pauses
    grouped = [row for row in lab.messages("signal") if row.kind == "grouped"]
    assert len(grouped) == 1
    assert all(name in grouped[0].body for name in NAMES)
    assert all(i.tier_reason in (TierReason.CANARY_FAILED, TierReason.VERIFICATION_FAILED) for i in lab.incidents())
    assert len([row for row in lab.messages("signal") if row.kind == "page"]) == 0
    for name in NAMES:
        lab.alive[name] = 1
        lab.poll(name)
    assert lab.engine.world.pauses == {}


def test_a_canary_that_is_not_run_after_all_gives_its_place_to_another() -> None:
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0))
    lab.hold_dispatch = True
    all_die(lab)
    lab.hold_dispatch = False
    lab.feed(e.ExecutionNotRun(lab.dispatched[0].id, "stale_grounds", "6 s old"))
    for execution in lab.dispatched[1:3]:
        if execution.id in lab.engine.world.executions:
            lab.run(execution)
    lab.advance(40)
    assert {i.state for i in lab.incidents()} == {State.RESOLVED}


def test_what_verifies_after_a_grouped_page_closes_quietly_and_the_page_is_repeated_once_for_all() -> None:
    lab = Lab(*NAMES)
    lab.hold_dispatch = True
    all_die(lab)
    first, second, third = lab.dispatched
    lab.hold_dispatch = False
    lab.step_fails = "start"
    lab.run(first)
    lab.step_fails = ""
    lab.run(second)
    lab.run(third)
    lab.advance(10)
    assert [i.state for i in lab.incidents()].count(State.RESOLVED) == 2
    assert [row.kind for row in lab.messages("signal")] == ["grouped"]
    lab.advance(3_700)
    assert [row.kind for row in lab.messages("signal")] == ["grouped", "repeat"]
    for name in NAMES:
        lab.alive[name] = 1
        lab.poll(name)
    assert [row.kind for row in lab.messages("signal")] == ["grouped", "repeat", "closing"]


def test_a_storm_is_not_forgotten_at_a_restart() -> None:
    lab = Lab(*NAMES)
    lab.hold_dispatch = True
    all_die(lab)
    lab.advance(15)
    lab.crash()
    assert len({x.id for x in lab.dispatched}) == 3


def test_a_half_open_breaker_of_a_whole_runbook_lets_a_single_try_through() -> None:
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0, breaker_total=4, canary_from=100))
    for name in NAMES:
        lab.kill(name)
        lab.advance(20)
    assert len(lab.dispatched) == 4
    lab.hold_dispatch = True
    opened = lab.engine.world.breakers["rb-restart-service", "*"]
    lab.advance(opened.half_open_steady_s - lab.now_s + 1)
    assert len(lab.dispatched) == 5
    lab.hold_dispatch = False
    lab.run(lab.dispatched[4])
    lab.advance(60)
    assert lab.engine.world.breakers == {} or len(lab.dispatched) > 5


def test_a_quarantined_worker_is_an_incident_that_closes_when_it_is_back() -> None:
    from supervisor.incidents.model import AnomalyType

    lab = Lab("web")
    lab.feed(e.OwnPart("worker:notifier", AnomalyType.WORKER_QUARANTINED, True, "it failed too often"))
    incident = lab.only("worker:notifier")
    assert incident.state is State.ESCALATED
    assert len(lab.messages("signal")) == 1
    lab.feed(e.OwnPart("worker:notifier", AnomalyType.WORKER_QUARANTINED, False, ""))
    assert lab.only("worker:notifier").state is State.SELF_RESOLVED


def test_messages_that_are_set_aside_open_one_incident_for_their_channel_however_many_they_are() -> None:
    from supervisor.incidents.model import AnomalyType

    lab = Lab(*NAMES)
    for name in NAMES[:3]:
        lab.step_fails = "start"
        lab.kill(name)
        lab.advance(20)
    rows = [row.id for row in lab.messages("synapse")]
    before = len(lab.messages("signal"))
    for row_id in rows:
        lab.feed(e.OwnPart(f"outbox:{row_id}", AnomalyType.ITEM_QUARANTINED, True, "it killed the notifier twice"))
    for row in lab.messages("synapse")[len(rows) :]:
        lab.feed(e.OwnPart(f"outbox:{row.id}", AnomalyType.ITEM_QUARANTINED, True, "it killed the notifier twice"))
    assert len(lab.incidents("messages:synapse")) == 1
    assert len(lab.messages("signal")) == before + 1
