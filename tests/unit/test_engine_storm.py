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


def test_a_quarantined_worker_is_an_incident_that_closes_when_it_is_back() -> None:
    from supervisor.incidents.model import AnomalyType

    lab = Lab("web")
    lab.feed(e.OwnPart("worker:notifier", AnomalyType.WORKER_QUARANTINED, True, "it failed too often"))
    incident = lab.only("worker:notifier")
    assert incident.state is State.ESCALATED
    assert len(lab.messages("signal")) == 1
    lab.feed(e.OwnPart("worker:notifier", AnomalyType.WORKER_QUARANTINED, False, ""))
    assert lab.only("worker:notifier").state is State.SELF_RESOLVED
