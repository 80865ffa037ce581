"""An operator's own runbooks in the engine: when one is picked, what lets it run, what becomes of it (FR-003, R3)."""

from __future__ import annotations

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS, ladder
from supervisor.errors import Refused
from supervisor.incidents import events as e
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Effect,
    Mode,
    Runbook,
    State,
    StepSpec,
    Target,
    TierReason,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import PutRunbook
from tests.lab.engine import OPEN, Lab, service

LOOK = StepSpec("look", "run-command", Effect.OBSERVE, params=(("argv", ("/bin/true",)),))
OWN = Runbook(
    id="rb-mine",
    label="Mine",
    applies_to=(AnomalyType.PROCESS_DEAD,),
    steps=(msgspec.structs.replace(LOOK, effect=Effect.CHANGE),),
    resource="service:{service}",
    author="file:mine.toml",
    before="rb-restart-service",
)


def change(book: Runbook, **changes: object) -> Runbook:
    return msgspec.structs.replace(book, **changes)


def lab(*own: Runbook, **keys: object) -> Lab:
    return Lab("web", "db", runbooks=ladder(own), **keys)  # type: ignore[arg-type]


def reload(at: Lab, *own: Runbook) -> None:
    at.runbooks = ladder(own)
    at.feed(e.Reconfigured(at.targets, OPEN, at.policy, at.runbooks))


def ran(at: Lab) -> list[tuple[str, Authority]]:
    return [(execution.runbook.id, execution.authority) for execution in at.dispatched]


@pytest.mark.req("FR-003", "NFR-001")
def test_it_waits_for_approval_and_then_runs_by_itself() -> None:
    at = lab(OWN)
    at.kill("web")
    assert (at.only("web").runbook_id, at.only("web").tier_reason) == ("rb-mine", TierReason.NEEDS_APPROVAL)
    at.order("approve", runbook_id="rb-mine", target_id="web")
    at.advance(2)
    assert at.only("web").state is State.RESOLVED
    at.kill("web")
    at.advance(2)
    assert ran(at) == [("rb-mine", Authority.APPROVED)] * 2


@pytest.mark.req("R3", "FR-003")
def test_its_own_word_that_it_only_looks_lets_nothing_run() -> None:
    """R3 (a) is for what comes with healctl; a new runbook starts in dry_run, whatever it declares."""
    at = lab(change(OWN, steps=(LOOK,)))
    at.kill("web")
    assert at.dispatched == []
    assert at.only("web").tier_reason is TierReason.NEEDS_APPROVAL


@pytest.mark.req("R3")
def test_it_never_starts_a_service_by_auto_restart_alone() -> None:
    restart = RUNBOOKS[0]
    at = lab(change(OWN, steps=restart.steps))
    at.kill("web")  # which has a recipe, and auto_restart
    assert at.dispatched == []
    at = lab(change(OWN, before=""))
    at.kill("web")
    at.advance(2)
    assert ran(at) == [("rb-restart-service", Authority.NOT_RUNNING)]


@pytest.mark.req("FR-003")
def test_it_is_for_its_targets_only() -> None:
    at = lab(change(OWN, targets=("db",)))
    at.kill("web")
    at.advance(2)
    assert ran(at) == [("rb-restart-service", Authority.NOT_RUNNING)]
    at.kill("db")
    assert at.only("db").runbook_id == "rb-mine"
    for order in ("dry_run", "execute", "approve"):
        more = {"confirm": True} if order == "execute" else {}
        answer = at.order(order, runbook_id="rb-mine", target_id="web", **more)
        assert answer is not None
        assert isinstance(answer.error, Refused), order
        assert "its targets: db" in str(answer.error)
    assert len(at.dispatched) == 1
    answer = at.order("approve", runbook_id="rb-mine", target_id="web", revoke=True)  # of what it was for before
    assert answer is not None
    assert answer.error is None
    at.order("approve", runbook_id="rb-mine")  # for all that it is for
    assert ran(at)[1:] == [("rb-mine", Authority.APPROVED)]


@pytest.mark.req("FR-003", "NFR-001")
def test_another_text_is_not_approved_and_another_author_is_no_other_text() -> None:
    at = lab(OWN)
    at.order("approve", runbook_id="rb-mine")
    reload(at, change(OWN, author="Ann"))
    at.kill("web")
    at.advance(2)
    assert len(at.dispatched) == 1
    reload(at, change(OWN, verifies=False))
    at.kill("db")
    at.advance(2)
    assert len(at.dispatched) == 1
    assert at.only("db").state is State.ESCALATED
    reload(at, OWN)  # the approved text again
    at.crash()
    at.poll("db")
    assert at.engine.world.runbooks["rb-mine"] == OWN


@pytest.mark.req("R7")
@pytest.mark.parametrize("crash", [False, True])
def test_one_that_comes_later_runs_for_what_had_no_runbook(crash: bool) -> None:
    bare = (service("web", auto_restart=False),)
    later = change(OWN, applies_to=(AnomalyType.PROCESS_DEAD,), before="")
    at = Lab(targets=bare, runbooks=())
    at.kill("web")
    assert at.only("web").tier_reason is TierReason.NO_RUNBOOK
    at.runbooks = (later,)
    at.feed(e.Reconfigured(bare, OPEN, at.policy, (later,)))
    if crash:  # after the approval is durable, before its run begins
        at.silent.add("web")
    answer = at.order("approve", runbook_id="rb-mine", target_id="web")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [at.only("web").id]
    if crash:
        at.silent.clear()
        at.crash()
    at.advance(7)
    assert ran(at) == [("rb-mine", Authority.APPROVED)]
    assert at.only("web").state is State.RESOLVED


@pytest.mark.req("FR-003")
def test_what_is_removed_ends_by_its_own_copy_and_takes_its_breaker_along() -> None:
    at = lab(OWN, policy=Policy(breaker_per_target=1))
    at.order("approve", runbook_id="rb-mine")
    at.hold_dispatch = True
    at.kill("web")
    (execution,) = at.dispatched
    reload(at)
    listed = at.order("list_runbooks")
    assert listed is not None
    assert listed.body is not None
    assert "rb-mine" not in [book["id"] for book in listed.body["runbooks"]]
    at.hold_dispatch = False
    at.run(execution)
    at.advance(2)
    assert at.only("web").state is State.RESOLVED
    reload(at, OWN)
    at.kill("web")  # its room is used up
    assert at.engine.world.breakers
    reload(at)
    at.advance(2 * at.policy.breaker_window_s)
    assert not at.engine.world.breakers


@pytest.mark.req("FR-003")
def test_brain_db_is_told_of_it_at_the_start_and_at_every_reload() -> None:
    at = lab(OWN)
    other = change(OWN, summary=True)
    reload(at, other)
    told = [record for record in at.records if isinstance(record, PutRunbook) and record.runbook.id == "rb-mine"]
    assert [record.version for record in told] == [OWN.version(), other.version()]
    listed = at.order("list_runbooks")
    assert listed is not None
    assert listed.body is not None
    books = {book["id"]: book for book in listed.body["runbooks"]}
    assert (books["rb-mine"]["author"], books["rb-mine"]["origin"]) == ("file:mine.toml", "own")
    assert (books["rb-restart-service"]["author"], books["rb-restart-service"]["origin"]) == ("healctl", "shipped")
    assert books["rb-mine"]["mode"] == Mode.DRY_RUN.value


@pytest.mark.req("NFR-001", "R15")
def test_two_pid_files_of_one_process_keep_it_from_ending_that_too() -> None:
    stops = (StepSpec("stop", "stop-service", Effect.DESTROY),)
    pair = tuple(Target(name, "process") for name in ("web", "db"))
    at = Lab(targets=pair, runbooks=ladder([change(OWN, steps=stops)]))
    at.alive["db"] = at.alive["web"]
    at.poll("web")
    at.poll("db")
    answer = at.order("execute", runbook_id="rb-mine", target_id="web", confirm=True)
    assert answer is not None
    assert "is known as db too" in str(answer.error)
    assert at.dispatched == []


@pytest.mark.req("FR-003", "R3")
@pytest.mark.parametrize("restart", [False, True])
def test_what_could_not_be_restarted_is_once_a_recipe_is_configured(restart: bool) -> None:
    at = Lab(targets=(service("web", recipe=False),))
    at.kill("web")
    assert at.only("web").tier_reason is TierReason.CANNOT_EXECUTE
    reload(at)
    at.advance(10)
    assert at.dispatched == []
    told = len(at.messages())
    at.targets = (service("web"),)
    if restart:
        at.crash()
        at.poll("web")
    else:
        at.feed(e.Reconfigured(at.targets, OPEN, at.policy, at.runbooks))
    at.advance(10)
    assert ran(at) == [("rb-restart-service", Authority.NOT_RUNNING)]
    assert at.only("web").state is State.RESOLVED
    assert len(at.messages()) == told + 2, "that it is over, on either channel"


@pytest.mark.req("FR-003", "FR-006")
def test_an_operators_file_takes_the_place_of_a_draft_with_its_id_at_once() -> None:
    at = lab()
    draft = change(OWN, author="matthew", label="Draft")
    at.engine.world.drafts[draft.id] = at.engine.world.runbooks[draft.id] = draft
    reload(at, OWN)
    assert at.engine.world.runbooks[OWN.id] == OWN
    assert at.engine.world.drafts == {}
