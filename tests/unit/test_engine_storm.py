"""Many at once: canaries, places, locks (DESIGN §2.7, §2.8), on the pure engine."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents import wording
from supervisor.incidents.model import AnomalyType, Channel, Execution, State, StepResult, Target, TierReason, TimerKind
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import FleetData, HealthReading, ProcessData, ProcessRef, Unavailable, Zombie
from tests.lab.engine import Lab, service

NAMES = tuple(f"svc{n:02d}" for n in range(20))


def all_die(lab: Lab) -> None:
    die_at_once(lab, NAMES)


def die_at_once(lab: Lab, names: tuple[str, ...]) -> None:
    """Dead before anybody looks, then seen one after another, as a batch of readings comes in."""
    lab.silent.update(names)
    for name in names:
        lab.kill(name)
    lab.silent.clear()
    for name in names:
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


# --- a fleet: looked at one after another, so that what fails at once is seen over minutes --------------------------


def fleet_reading(lab: Lab, name: str, *, up: bool) -> HealthReading:
    now = lab.instant()
    reading = HealthReading(f"fleet:{name}", "fleet", now.mono_s, now.wall_s, 1.0, 300_000, up)
    if up:
        return msgspec.structs.replace(reading, data=FleetData(f"{name}.lan", 22))
    return msgspec.structs.replace(reading, reason=Unavailable.TIMEOUT, error="no answer within 5 s")


def cut_off(hosts: int, spread_s: float) -> Lab:
    """A network that was cut: each host is seen to be gone at its own poll, and again at the fresh probe. Looking at it
    a few more times (`rb-probe-then-alert`) takes longer than all this."""
    lab = Lab(targets=tuple(Target(f"fleet:h{i}", "fleet") for i in range(hosts)), policy=Policy(pages=True))
    lab.hold_dispatch = True
    lab.silent.update(f"fleet:h{i}" for i in range(hosts))
    for i in range(hosts):
        for _ in range(2):
            lab.feed(e.ReadingSeen(fleet_reading(lab, f"h{i}", up=False)))
        lab.advance(spread_s / hosts)
    lab.advance(60)
    return lab


def test_fifty_hosts_that_are_cut_off_are_a_few_pages_which_name_them_all_and_not_fifty() -> None:
    lab = cut_off(50, 120.0)
    pages = lab.messages("signal")
    assert len(pages) <= 4
    told = {incident_id for row in pages for incident_id in row.covers}
    assert told == {i.id for i in lab.incidents() if i.family == "fleet"}
    assert "19 hosts failed at once (since 13:46 UTC): h0, " in pages[0].body
    assert "repaired by itself" not in pages[0].body, "nothing of the fleet could have been repaired by itself"
    assert pages[0].created_wall_s - lab.only("fleet:h0").detected_wall_s <= 60


def still_down(lab: Lab, execution: Execution) -> None:
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    lab.feed(e.StepEnded(execution.id, 0, StepResult("look", True, "still not clear after 3 tries", 1.0), True))


@pytest.mark.req("FR-003", "FR-005", "R1")
def test_few_hosts_are_told_each_by_itself_on_synapse_after_the_tries() -> None:
    lab = cut_off(4, 1.0)
    assert lab.messages() == []
    for execution in list(lab.dispatched):
        still_down(lab, execution)
    assert lab.messages("signal") == []
    assert [(row.kind, row.priority) for row in lab.messages("synapse")] == [("summary", "info")] * 4
    assert {i.tier_reason for i in lab.incidents()} == {TierReason.TELLS_ONLY}


@pytest.mark.req("FR-003", "R7", "NFR-002")
def test_a_host_that_comes_back_during_the_tries_is_not_told_of() -> None:
    lab = cut_off(1, 1.0)
    (execution,) = lab.dispatched
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    result = StepResult("look", True, "try 2 of 3: it reads clear again", 1.0, cleared=True)
    lab.feed(e.StepEnded(execution.id, 0, result, True))
    assert lab.only("fleet:h0").state is State.VERIFYING
    for seconds in (0, 2, 30, 30):  # seen, settled and counted once, twice, three times
        assert lab.only("fleet:h0").state is State.VERIFYING
        lab.advance(seconds)
        lab.feed(e.ReadingSeen(fleet_reading(lab, "h0", up=True)))
    assert lab.only("fleet:h0").state is State.RESOLVED
    assert lab.messages() == []
    states = lab.engine.world.runbook_states
    assert not any(state.successes or state.failures for state in states.values()), "it cured nothing"


@pytest.mark.req("FR-003", "NFR-002")
def test_a_host_that_came_back_for_a_moment_only_is_told_of_as_still_down() -> None:
    lab = cut_off(1, 1.0)
    (execution,) = lab.dispatched
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    lab.feed(e.StepEnded(execution.id, 0, StepResult("look", True, "it reads clear", 1.0, cleared=True), True))
    for _ in range(5):
        lab.advance(10)
        lab.feed(e.ReadingSeen(fleet_reading(lab, "h0", up=False)))
    assert lab.only("fleet:h0").state is State.ESCALATED
    assert [(row.channel.value, row.kind) for row in lab.messages()] == [("synapse", "summary")]
    assert "heal_remediation_failed" not in lab.metrics()


def test_the_page_for_many_outlasts_a_crash_and_is_all_that_is_said_when_the_tries_are_over() -> None:
    lab = Lab(targets=tuple(Target(f"fleet:h{i}", "fleet") for i in range(5)), policy=Policy(pages=True))
    lab.hold_dispatch = True
    lab.silent.update(f"fleet:h{i}" for i in range(5))
    for i in range(5):
        for _ in range(2):
            lab.feed(e.ReadingSeen(fleet_reading(lab, f"h{i}", up=False)))
    lab.advance(20)
    lab.crash()
    lab.advance(20)
    assert lab.messages() == []
    lab.advance(10)
    assert [row.kind for row in lab.messages("signal")] == ["grouped"]
    assert len(lab.messages("signal")[0].covers) == 5
    before = len(lab.messages())
    for execution in list(lab.dispatched)[:4]:
        still_down(lab, execution)
    assert len(lab.messages()) == before


def test_a_grouped_page_is_repeated_for_those_who_are_left_when_the_first_of_them_is_back() -> None:
    lab = cut_off(6, 5.0)
    assert [row.kind for row in lab.messages("signal")] == ["grouped"]
    for execution in list(lab.dispatched):
        still_down(lab, execution)
    for _ in range(3):
        lab.feed(e.ReadingSeen(fleet_reading(lab, "h0", up=True)))
        lab.advance(31)
    assert not lab.only("fleet:h0").open
    lab.advance(3_700)
    repeat = next(row for row in lab.messages("signal") if row.kind == "repeat")
    assert len(repeat.covers) == 5
    assert "h1, h2, h3, h4, h5." in repeat.body


@pytest.mark.req("R2", "FR-005")
def test_a_grouped_page_is_not_repeated_for_what_somebody_has_acknowledged() -> None:
    lab = cut_off(6, 5.0)
    for execution in list(lab.dispatched):
        still_down(lab, execution)
    for name in ("h0", "h1"):
        assert lab.order("ack", incident_id=lab.only(f"fleet:{name}").id)
    lab.advance(3_700)
    repeat = next(row for row in lab.messages("signal") if row.kind == "repeat")
    assert set(repeat.covers) == {lab.only(f"fleet:h{n}").id for n in range(2, 6)}
    assert "h2, h3, h4, h5." in repeat.body


def test_nobody_is_told_to_execute_a_runbook_where_there_is_none() -> None:
    lab = Lab(*NAMES)
    del lab.engine.world.runbooks["rb-kill-zombie"]
    lab.hold_dispatch = True
    all_die(lab)
    zombie = Zombie(ProcessRef("boot-1", 7, 7), 1, "init", 11.0)
    reading = lab.reading(NAMES[-1])
    assert isinstance(reading.data, ProcessData)
    lab.silent.add(NAMES[-1])
    data = msgspec.structs.replace(reading.data, zombies=(zombie,))
    lab.feed(e.ReadingSeen(msgspec.structs.replace(reading, data=data)))
    lab.hold_dispatch = False
    lab.step_fails = "start"
    lab.run(lab.dispatched[0])  # a canary: its whole family is paused, whatever is wrong with the others
    (found,) = [i for i in lab.incidents(NAMES[-1]) if i.anomaly is AnomalyType.PROCESS_ZOMBIE]
    assert found.tier_reason is TierReason.CANARY_FAILED
    body = wording.body(lab.engine.world, found, Channel.SIGNAL, "repeat", lab.now_s)
    assert "None" not in body
    assert "restart its parent, which alone can clean it up" in body


def resumed(heals: bool) -> Lab:
    """Twenty that died one after another while everything was paused, and may all go on now."""
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0))
    lab.order("pause", all=True)
    for name in NAMES:
        lab.heals[name] = heals
        lab.kill(name)
        lab.advance(60)
    lab.hold_dispatch = True
    lab.order("resume", all=True)
    lab.advance(5)
    assert len(lab.dispatched) == 3, "the first must verify before the rest"
    lab.hold_dispatch = False
    for execution in list(lab.dispatched):
        lab.run(execution)
    return lab


@pytest.mark.req("R8", "R15")
def test_what_may_go_on_all_at_once_has_canaries_too() -> None:
    lab = resumed(heals=True)
    lab.advance(60)
    assert {i.state for i in lab.incidents()} == {State.RESOLVED}
    assert len(lab.dispatched) == 20


@pytest.mark.req("R8", "R1")
def test_escalated_ones_that_waited_for_canaries_which_failed_are_left_alone_and_paged_no_second_time() -> None:
    """Each has had its page when the pause kept it from being repaired; that it waits for something else now is told
    where it costs nobody's sleep (R2: one page per incident, a grouped one is no exception)."""
    lab = resumed(heals=False)
    before = len(lab.messages("signal"))
    lab.advance(120)
    assert len(lab.dispatched) == 3
    assert {i.state for i in lab.incidents()} == {State.ESCALATED}
    waited = [i for i in lab.incidents() if i.tier_reason is TierReason.CANARY_FAILED]
    assert len(waited) >= 17
    assert len(lab.messages("signal")) == before
    told = {row.incident_id for row in lab.messages("synapse") if row.kind == "page"}
    assert {i.id for i in waited} <= told
    assert not lab.engine.world.rerun
    assert TimerKind.RECHECK not in {kind for kind, _ in lab.engine.world.timers}, "no probe is asked for them"


@pytest.mark.req("R2", "R8")
def test_a_canary_that_has_had_its_page_is_not_named_in_the_grouped_one() -> None:
    """It failed before, was paged, and an approval lets it go on in the middle of a storm (found by the simulator)."""
    lab = Lab(*NAMES)
    lab.heals[NAMES[0]] = False
    lab.kill(NAMES[0])
    lab.advance(40)
    first = lab.only(NAMES[0])
    assert (first.state, first.page_id is not None) == (State.ESCALATED, True)
    lab.hold_dispatch = True
    lab.silent.update(NAMES[1:6])
    for name in NAMES[1:6]:
        lab.heals[name] = False
        lab.kill(name)
    lab.order("approve", runbook_id="rb-restart-service", target_id=NAMES[0])
    lab.silent.clear()
    for name in NAMES[1:6]:
        lab.poll(name)
    assert first.id in {e.incident_id for e in lab.engine.world.executions.values()}
    lab.hold_dispatch = False
    for execution in list(lab.dispatched)[1:]:
        lab.run(execution)
    lab.advance(60)
    pages = [row for row in lab.messages("signal") if row.kind in ("page", "grouped", "outcome")]
    assert "grouped" in {row.kind for row in pages}
    assert [row.kind for row in pages if first.id in row.covers] == ["page"]


@pytest.mark.req("R8", "NFR-001")
def test_a_storm_is_over_when_its_last_one_waits_for_a_person_and_the_next_has_canaries_anew() -> None:
    """Its dry run may take a while; nothing of the family ends after it."""
    names = NAMES[:6]
    lab = Lab(policy=Policy(settle_s=0.0), targets=(service("asks", auto_restart=False), *map(service, names)))
    lab.hold_plans = True
    first = ("asks", *names[:4])
    die_at_once(lab, first)
    lab.advance(20)
    lab.hold_plans = False
    lab.answer_plan(lab.planned[-1])
    lab.advance(20)
    assert [it.target_id for it in lab.engine.world.incidents.values()] == ["asks"]
    assert lab.incidents("asks")[-1].state is State.ESCALATED
    before = len(lab.dispatched)
    lab.hold_dispatch = True
    die_at_once(lab, names)
    assert len(lab.dispatched) == before + 3
