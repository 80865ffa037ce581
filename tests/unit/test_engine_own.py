"""Our own parts as targets (DESIGN §1, §2.6, R9): what is wrong with them opens, pages and closes like all else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.config import Config, Size, StoreSection
from supervisor.house import CORE, LEDGER, beginning, ledger_parts
from supervisor.incidents import detect, own
from supervisor.incidents import events as e
from supervisor.incidents.model import AnomalyType, Channel, Halt, HaltPhase, State, Tier
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import ProcessData
from supervisor.messages import ProjectionStatus, StoreStatus, TreeEvent, TreeKind
from supervisor.targets import families
from supervisor.tree.spec import healctl_tree
from supervisor.treetable import TreeTable
from tests.lab.engine import Lab, service

PAGES = Policy(pages=True)
STATUS = StoreStatus("ledger.db", 0, True, "3", ())


def event(kind: TreeKind, child: str = "logs", failures: int = 0) -> TreeEvent:
    return TreeEvent(kind, child, 7, f"{child}.x.1", 0.0, exit_text="exit 1", last_words="boom", failures=failures)


def tell(lab: Lab, *events: TreeEvent) -> None:
    table = TreeTable()
    for one in events:
        for reaction in table.observe(one):
            lab.feed(reaction)


def receipt(lab: Lab, channel: Channel = Channel.SIGNAL) -> None:
    for row in list(lab.engine.world.outbox.values()):
        if row.channel is channel:
            lab.feed(e.Delivered(row.id, 1, "signal:1", ""))


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("R1")
def test_a_worker_that_failed_three_times_in_ten_minutes_is_told_and_closes_after_ten_steady_ones() -> None:
    lab = Lab("web")
    tell(lab, event(TreeKind.EXITED, failures=2))
    assert lab.incidents() == []
    tell(lab, event(TreeKind.EXITED, failures=3))
    incident = lab.only("worker:logs")
    assert (incident.anomaly, incident.state, incident.tier) == (
        AnomalyType.WORKER_FAILING, State.ESCALATED, Tier.PAGE,
    )  # fmt: skip
    assert "boom" in incident.evidence
    lab.advance(300)
    tell(lab, event(TreeKind.EXITED, failures=3))  # and once more
    tell(lab, event(TreeKind.READY, failures=3))
    lab.advance(599)
    assert lab.only("worker:logs").open
    lab.advance(2)
    assert lab.only("worker:logs").state is State.SELF_RESOLVED


@pytest.mark.req("R1")
def test_a_quarantined_worker_pages_and_closes_when_it_is_ready_again() -> None:
    lab = Lab("web")
    tell(lab, event(TreeKind.EXITED, failures=3), event(TreeKind.QUARANTINED, failures=3))
    failing, quarantined = sorted(lab.incidents("worker:logs"), key=lambda i: i.anomaly)
    assert (failing.state, quarantined.state) == (State.SELF_RESOLVED, State.ESCALATED)
    assert [row.incident_id for row in lab.messages("signal") if row.kind == "page"][-1] == quarantined.id
    tell(lab, event(TreeKind.READY, failures=3))
    assert not [i for i in lab.incidents("worker:logs") if i.open]
    assert lab.messages("signal")[-1].kind == "closing"


@pytest.mark.req("NFR-003")
def test_the_page_about_a_worker_quotes_the_end_of_its_last_words() -> None:
    lab = Lab("web")
    traceback = "Traceback (most recent call last):\n" + '  File "x.py", line 1\n' * 40 + "KeyError: 'size'\n"
    tell(lab, msgspec.structs.replace(event(TreeKind.QUARANTINED), last_words=traceback))
    assert "KeyError: 'size'" in lab.messages("signal")[0].body


@pytest.mark.req("FR-007")
def test_a_part_keeps_the_last_words_of_its_last_death_when_it_lives_again() -> None:
    table = TreeTable()
    table.observe(event(TreeKind.EXITED))
    table.observe(TreeEvent(TreeKind.READY, "logs", 8, "logs.x.2", 0.0))
    (row,) = table.rows()
    assert (row["state"], row["last_exit"], row["last_words"]) == ("ready", "exit 1", "boom")


@pytest.mark.req("R1")
def test_the_healer_hears_of_its_own_deaths_from_the_root() -> None:
    lab = Lab("web")
    tell(lab, event(TreeKind.STARTED, "healer", failures=3))
    assert lab.only("worker:healer").anomaly is AnomalyType.WORKER_FAILING


def test_our_own_parts_close_at_one_word_however_often_they_came_back() -> None:
    lab = Lab("web")
    for _ in range(4):
        tell(lab, event(TreeKind.QUARANTINED), event(TreeKind.READY))
    assert [i.state for i in lab.incidents("worker:logs")] == [State.SELF_RESOLVED] * 4


def test_a_worker_that_leaves_the_tree_takes_its_incidents_along() -> None:
    lab = Lab("web")
    tell(lab, event(TreeKind.EXITED, failures=5), event(TreeKind.STOPPED))
    assert not lab.only("worker:logs").open


@pytest.mark.req("R1")
def test_a_worker_that_the_tree_has_no_more_after_a_restart_closes_and_another_does_not() -> None:
    lab = Lab("web")
    tell(lab, event(TreeKind.QUARANTINED, "fleet"), event(TreeKind.QUARANTINED, "host"))
    lab.crash()
    for one in beginning(lab.engine.world, Config()):  # which has no fleet
        lab.feed(one)
    assert {i.target_id for i in lab.incidents() if i.open} == {"worker:host"}
    assert {*CORE, *families(Config())} == {child.name for child in healctl_tree(Config()).children}


# --- pages that are not delivered ------------------------------------------------------------------------------------


def a_page_waits() -> Lab:
    lab = Lab(policy=PAGES, targets=(service("web", auto_restart=False),))
    lab.kill("web")
    assert [row.kind for row in lab.messages("signal")] == ["page"]
    return lab


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.parametrize(("seconds", "told"), [(299, False), (301, True)])
def test_a_page_without_a_receipt_for_five_minutes_is_told_over_the_other_channel_alone(
    seconds: float, told: bool
) -> None:
    lab = a_page_waits()
    lab.advance(seconds)
    found = lab.incidents("messages:signal")
    assert bool(found) is told
    if not told:
        return
    (incident,) = found
    mine = [row for row in lab.messages() if row.incident_id == incident.id]
    assert [(row.channel, row.priority) for row in mine] == [(Channel.SYNAPSE, "urgent")]
    lab.advance(300_000)  # and it never pages about itself
    assert [r.channel for r in lab.messages() if r.incident_id == incident.id] == [Channel.SYNAPSE]
    receipt(lab)
    assert lab.only("messages:signal").state is State.SELF_RESOLVED
    assert [r.channel for r in lab.messages() if r.incident_id == incident.id] == [Channel.SYNAPSE] * 2


@pytest.mark.req("FR-005", "R1", "R2")
def test_synapse_over_rest_that_takes_nothing_for_five_minutes_is_told_on_signal_once() -> None:
    lab = Lab(policy=PAGES, targets=(service("web", auto_restart=False),))
    lab.kill("web")
    (row,) = lab.messages("synapse")
    lab.feed(e.Delivered(row.id, 1, "", "http://127.0.0.1:8031: refused"))
    lab.advance(299)
    lab.feed(e.Delivered(row.id, 2, "", "http://127.0.0.1:8031: refused"))
    assert lab.incidents("messages:synapse") == []
    lab.advance(2)
    incident = lab.only("messages:synapse")
    assert "refused" in incident.evidence
    receipt(lab)
    lab.advance(600)
    mine = [row for row in lab.messages() if row.incident_id == incident.id]
    assert [(row.channel, row.kind) for row in mine] == [(Channel.SYNAPSE, "page"), (Channel.SIGNAL, "page")]
    receipt(lab, Channel.SYNAPSE)
    assert lab.only("messages:synapse").state is State.SELF_RESOLVED
    lab.feed(e.Delivered(lab.messages("synapse")[-1].id, 1, "", "http://127.0.0.1:8031: refused"))
    receipt(lab, Channel.SYNAPSE)
    lab.advance(400)
    assert not lab.only("messages:synapse").open, "it failed for a moment only"


SYNAPSE = ProjectionStatus("synapse", "/b/brain.db", 7, 301.0, "table threads of /b/brain.db lacks created_at")


@pytest.mark.req("FR-005", "R2", "R14")
def test_synapse_tables_that_do_not_fit_for_five_minutes_are_told_with_the_column_and_a_halt_is_not() -> None:
    def look(lab: Lab, **changes: Any) -> list[e.OwnPart]:
        projections = (msgspec.structs.replace(SYNAPSE, **changes),)
        status = msgspec.structs.replace(STATUS, projections=projections)
        found = ledger_parts(lab.engine.world, status, Config())
        for one in found:
            lab.feed(one)
        return found

    lab = Lab("web", policy=PAGES)
    assert look(lab, behind_for_s=299.0) == []
    assert look(lab, last_error="") == [], "much to do is no trouble"
    halt = Halt("brain-db", "/b/brain.db", 0.0, HaltPhase.HELD, None, "damaged")
    lab.engine.world.halts["brain-db"] = halt
    assert look(lab) == [], "that is an incident already"
    lab.engine.world.halts.clear()
    assert len(look(lab)) == 1
    incident = lab.only("messages:synapse")
    assert "lacks created_at" in lab.messages("signal")[-1].body
    assert look(lab, behind_for_s=900.0) == [], "told once"
    assert len(look(lab, behind=0, behind_for_s=0.0, last_error="")) == 1
    assert lab.only("messages:synapse").state is State.SELF_RESOLVED
    assert "Over:" in lab.messages("signal")[-1].body
    assert {row.incident_id for row in lab.messages()} == {incident.id}


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(("attempts", "told"), [(4, False), (5, True)])
def test_five_attempts_are_enough_to_know(attempts: int, told: bool) -> None:
    lab = a_page_waits()
    (row,) = lab.messages("signal")
    for n in range(1, attempts + 1):
        lab.feed(e.Delivered(row.id, n, "", "refused"))
    assert bool(lab.incidents("messages:signal")) is told


@pytest.mark.req("FR-005")
def test_a_receipt_in_time_is_no_failure_and_nobody_configured_is_none_either() -> None:
    lab = a_page_waits()
    lab.advance(200)
    receipt(lab)
    lab.advance(3_000)  # the page is repeated after an hour, and that one waits again
    assert lab.incidents("messages:signal") == []
    nobody = Lab(policy=Policy(), targets=(service("web", auto_restart=False),))
    nobody.kill("web")
    nobody.advance(100_000)
    assert nobody.incidents("messages:signal") == []


@pytest.mark.req("FR-005")
def test_a_reload_that_takes_the_transports_away_ends_it_and_one_that_brings_some_begins_to_wait() -> None:
    lab = a_page_waits()
    lab.advance(301)
    targets = tuple(lab.engine.world.targets.values())
    lab.feed(e.Reconfigured(targets, frozenset(), Policy(), RUNBOOKS))
    assert not lab.only("messages:signal").open
    lab.feed(e.Reconfigured(targets, frozenset(), PAGES, RUNBOOKS))
    lab.feed(e.NotifierIsBack())
    lab.advance(301)
    assert len(lab.incidents("messages:signal")) == 2


def test_a_crash_of_the_engine_forgets_no_page_that_waits() -> None:
    lab = a_page_waits()
    lab.advance(100)
    lab.crash()
    lab.feed(e.NotifierIsBack())
    lab.advance(201)
    assert lab.only("messages:signal").open


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("R1")
def test_the_limit_on_open_incidents_is_an_incident_itself_and_ends_well_below_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = [f"s{n}" for n in range(7)]
    monkeypatch.setattr(detect, "OPEN_INCIDENTS_MAX", 5)
    monkeypatch.setattr(own, "OPEN_INCIDENTS_MAX", 5)
    lab = Lab(targets=tuple(service(name, auto_restart=False) for name in names))
    for name in names[:5]:
        lab.kill(name)
    assert lab.incidents("healctl:limits") == []
    lab.kill("s5")
    assert lab.incidents("s5") == []
    assert "5 things are wrong at once; 1 more" in lab.only("healctl:limits").evidence
    lab.kill("s6")
    lab.advance(600)
    assert "5 things are wrong at once; 2 more" in lab.only("healctl:limits").evidence
    assert lab.metrics().count("heal_limit_reached") == 1
    lab.alive["s6"] = 600
    lab.poll("s6")
    assert lab.engine.world.turned_away == {(AnomalyType.PROCESS_DEAD, "s5")}
    assert lab.only("healctl:limits").open
    for n, name in enumerate(names[:5]):
        lab.alive[name] = 500 + n
        lab.poll(name)
    lab.advance(60)
    assert not lab.only("healctl:limits").open
    lab.poll("s5")  # and it is opened now
    assert lab.only("s5").open
    assert lab.engine.world.turned_away == set()


def test_a_limit_of_the_process_around_the_engine_is_told_too() -> None:
    lab = Lab("web")
    lab.feed(e.LimitIs("decisions", "10000 decisions wait for the ledger"))
    assert "wait for the ledger" in lab.only("healctl:limits").evidence
    lab.advance(300)
    assert lab.only("healctl:limits").open
    lab.feed(e.LimitIs("decisions", ""))
    lab.advance(60)
    assert not lab.only("healctl:limits").open


@pytest.mark.parametrize(
    ("used", "reserve_ok", "open_now", "said"),
    [
        (80, True, False, None),
        (81, True, False, True),
        (0, False, False, True),
        (81, True, True, None),
        (76, True, True, None),  # between the marks: as it was
        (75, True, True, False),
        (75, False, True, None),
    ],
)
def test_the_ledgers_marks(used: int, reserve_ok: bool, open_now: bool, said: bool | None) -> None:
    status = msgspec.structs.replace(STATUS, ledger_bytes=used, reserve_ok=reserve_ok)
    lab = Lab("web")
    if open_now:
        lab.feed(e.OwnPart(LEDGER, AnomalyType.LEDGER_NEAR_LIMIT, True, "full"))
    found = ledger_parts(lab.engine.world, status, Config(store=StoreSection(ledger_max=Size(100))))
    assert [part.firing for part in found] == ([] if said is None else [said])


def test_a_damaged_ledger_is_told_until_what_was_kept_of_it_is_gone() -> None:
    lab = Lab("web")
    kept = msgspec.structs.replace(STATUS, damaged=("/s/ledger.db.damaged-1",), damage="a part of it could be read")
    (found,) = ledger_parts(lab.engine.world, kept, Config())
    assert "damaged-1" in found.evidence
    lab.feed(found)
    assert lab.engine.world.by_key[AnomalyType.LEDGER_DAMAGED, LEDGER]
    assert ledger_parts(lab.engine.world, kept, Config()) == [], "told once"
    (gone,) = ledger_parts(lab.engine.world, STATUS, Config())
    lab.feed(gone)
    assert (AnomalyType.LEDGER_DAMAGED, LEDGER) not in lab.engine.world.by_key


# --- items that were set aside ---------------------------------------------------------------------------------------


def test_an_item_that_a_new_root_knows_nothing_of_is_tried_again_and_closes() -> None:
    lab = Lab("web")
    lab.feed(e.OwnPart("reading:a", AnomalyType.ITEM_QUARANTINED, True, "twice"))
    lab.feed(e.OwnPart("reading:b", AnomalyType.ITEM_QUARANTINED, True, "twice"))
    lab.advance(10_000)
    lab.crash()
    lab.feed(e.OwnPart("reading:b", AnomalyType.ITEM_QUARANTINED, True, "twice"))  # the root is the same
    lab.advance(60)
    assert not lab.only("reading:a").open
    assert lab.only("reading:b").open


@pytest.mark.req("FR-005")
def test_a_message_that_was_set_aside_stays_so() -> None:
    lab = a_page_waits()
    (row,) = lab.messages("signal")
    lab.feed(e.OwnPart(f"outbox:{row.id}", AnomalyType.ITEM_QUARANTINED, True, "twice"))
    lab.crash()
    lab.advance(10_000)
    (incident,) = [i for i in lab.incidents("messages:signal") if i.anomaly is AnomalyType.ITEM_QUARANTINED]
    assert incident.open
    assert row.id not in lab.engine.world.outbox


def test_an_item_whose_target_is_no_longer_configured_closes() -> None:
    lab = Lab("a", "b")
    for name in ("reading:a", "reading:disk:/gone", "outside:b"):
        lab.feed(e.OwnPart(name, AnomalyType.ITEM_QUARANTINED, True, "twice"))
    lab.feed(e.Reconfigured((service("b"),), frozenset(), Policy(), RUNBOOKS))
    assert {i.target_id for i in lab.incidents() if i.open} == {"outside:b"}


# --- another configuration -------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "FR-004")
def test_what_is_no_longer_configured_is_dismissed_and_forgotten_and_the_rest_goes_on() -> None:
    lab = Lab(targets=tuple(service(name, auto_restart=False) for name in ("a", "b")))
    lab.poll("a")
    lab.kill("a")
    lab.kill("b")
    lab.feed(e.Reconfigured((service("b", auto_restart=False),), frozenset(), Policy(dismiss_window_s=5.0), RUNBOOKS))
    assert lab.only("a").state is State.DISMISSED
    assert lab.only("b").state is State.ESCALATED
    world = lab.engine.world
    assert "a" not in world.known
    assert "a" not in world.readings
    assert world.policy.dismiss_window_s == 5.0
    lab.feed(e.Reconfigured((service("a"), service("b")), frozenset(), Policy(), RUNBOOKS))
    lab.poll("a")
    assert lab.incidents("a")[-1].state in (State.VERIFYING, State.RESOLVED)  # no window held it back


@pytest.mark.req("R3")
def test_an_intent_for_a_target_that_left_is_not_carried_out() -> None:
    lab = Lab("a", "b")
    lab.hold_dispatch = True
    lab.kill("a")
    assert len(lab.dispatched) == 1
    lab.feed(e.Reconfigured((service("b"),), frozenset(), Policy(), RUNBOOKS))
    assert lab.only("a").state is State.DISMISSED
    assert lab.engine.world.executions == {}
    lab.advance(100_000)
    assert lab.engine.world.incidents == {}


@pytest.mark.req("R15", "NFR-001")
def test_the_process_of_another_configuration_is_no_memory_of_this_one() -> None:
    """What is known as a service may be ended in its place: it must not be what an earlier pid file named."""
    old = msgspec.structs.replace(service("a"), pid_file="/run/old.pid")
    new = msgspec.structs.replace(service("a"), pid_file="/run/new.pid")
    lab = Lab(targets=(old,))

    def seen(pid_file: str) -> None:
        reading = lab.reading("a")
        assert isinstance(reading.data, ProcessData)
        data = msgspec.structs.replace(reading.data, sought=(pid_file, ""))
        lab.feed(e.ReadingSeen(msgspec.structs.replace(reading, data=data)))

    seen("/run/old.pid")
    assert "a" in lab.engine.world.known
    lab.crash()
    assert "a" in lab.engine.world.known, "the same configuration: it is remembered"
    lab.targets = (new,)
    lab.crash()  # the file was changed while healctl was stopped
    assert "a" not in lab.engine.world.known
    seen("/run/old.pid")  # of a probe that has not heard of the new one yet
    assert "a" not in lab.engine.world.known
    seen("/run/new.pid")
    assert "a" in lab.engine.world.known
