"""`heal cancel` (R15): what is meant by a name, what is written down, and what becomes of the incident."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor.errors import Refused, UnknownId
from supervisor.incidents import events as e
from supervisor.incidents.cancelling import Found, find
from supervisor.incidents.effects import Answer, FetchExecutionState
from supervisor.incidents.model import Execution, State, StepResult, Target, TierReason
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import AddAudit
from tests.lab.engine import OPEN, Lab
from tests.unit.test_engine_ladder import CLEANUP, DISK, ROTATE, Disk
from tests.unit.test_engine_storm import NAMES, all_die


def at_work(lab: Lab | None = None) -> tuple[Lab, Execution]:
    """`web` has died, and its restart is claimed."""
    lab = lab or Lab("web")
    lab.hold_dispatch = True
    lab.kill("web")
    lab.poll("web")
    lab.advance(1)
    execution = lab.dispatched[-1]
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    return lab, execution


def cancelled(lab: Lab, execution: Execution) -> None:
    said = "cancelled by operator: nothing of this step was done"
    lab.feed(e.StepEnded(execution.id, 0, StepResult("stop", False, said, 1.0, cancelled_by="operator"), True))


def order(lab: Lab, named: str) -> dict[str, Any] | Exception:
    answer = lab.order("cancel", id=named)
    assert isinstance(answer, Answer)
    return answer.error if answer.error is not None else answer.body or {}


@pytest.mark.req("R15", "FR-007")
def test_by_its_own_name_its_incidents_or_its_targets() -> None:
    lab, execution = at_work()
    assert execution.incident_id is not None
    for named in (execution.id, execution.incident_id, "web"):
        assert find(lab.engine.world, named) == Found("web", lab.engine.world.executions[execution.id])


@pytest.mark.req("R15", "FR-007")
def test_an_order_leaves_a_line_in_the_trail_and_in_the_audit() -> None:
    lab, execution = at_work()
    answer = order(lab, "web")
    assert isinstance(answer, dict)
    assert (answer["what"], answer["execution_id"]) == (execution.runbook.id, execution.id)
    trail = lab.engine.world.trails[execution.incident_id or ""]
    assert (trail[-1].actor, trail[-1].note) == ("matthew", "rb-restart-service is to be cancelled")
    assert [it.entry.action for it in lab.records if isinstance(it, AddAudit)] == ["cancel"]


@pytest.mark.req("R15", "FR-004", "R5")
def test_what_was_cancelled_is_a_persons_and_no_failure_of_the_runbook() -> None:
    lab, execution = at_work()
    cancelled(lab, execution)
    incident = lab.incidents("web")[-1]
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
    notes = [entry.note for entry in lab.engine.world.trails[incident.id]]
    assert "step stop cancelled" in notes
    state = lab.engine.world.runbook_states.get((execution.runbook.id, "web"))
    assert state is None or (state.failures, state.demoted) == (0, False)
    page = lab.messages("signal")[-1].body
    assert "was stopped: cancelled by operator" in page
    lab.advance(600)
    assert len(lab.dispatched) == 1, "it is not tried again by itself"


@pytest.mark.req("R15")
def test_what_is_not_at_work_is_refused_with_the_reason() -> None:
    lab, execution = at_work()
    cancelled(lab, execution)
    for named, kind, why in (
        ("web", Refused, "nothing is at work on web"),
        (execution.id, Refused, "nothing is at work on"),
        ("nobody", UnknownId, "nothing is called 'nobody'"),
    ):
        error = order(lab, named)
        assert isinstance(error, kind)
        assert why in str(error)


@pytest.mark.req("R6", "R15")
def test_what_is_being_proved_is_not_cancelled() -> None:
    lab, execution = at_work()
    for index, step in enumerate(execution.runbook.steps):
        lab.feed(e.StepEnded(execution.id, index, StepResult(step.step_id, True, "done", 1.0), index == 1))
    with pytest.raises(Refused, match="a check is to prove"):
        find(lab.engine.world, "web")


@pytest.mark.req("R15", "FR-001")
def test_of_a_database_without_a_repair_the_check_is_meant() -> None:
    lab = Lab(targets=(Target("notes", "database", path="/notes.db"),))
    assert find(lab.engine.world, "notes") == Found("notes")
    answer = order(lab, "notes")
    assert isinstance(answer, dict)
    assert answer["what"] == "integrity check"


@pytest.mark.req("R15", "R4", "FR-004")
@pytest.mark.parametrize("written", [True, False])
def test_what_is_cancelled_before_it_has_begun_is_no_failure_either(written: bool) -> None:
    """`written`: False where an earlier order's refusal has taken the mark back."""
    lab = Disk()
    lab.hold_dispatch = True
    lab.fills()
    (execution,) = lab.dispatched
    if written:
        assert isinstance(order(lab, execution.id), dict)
    lab.feed(e.ExecutionNotRun(execution.id, "cancelled", "cancelled by matthew"))
    assert (lab.newest().state, lab.newest().tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
    state = lab.engine.world.runbook_states.get((execution.runbook.id, DISK))
    assert state is None or state.failures == 0
    lab.advance(600)
    assert len(lab.dispatched) == 1, "the next rung is a person's to order"


@pytest.mark.req("R15", "R3")
@pytest.mark.parametrize("late", [False, True], ids=["at-work", "it was done before"])
def test_after_a_restart_or_a_reload_no_other_rung_follows_what_was_cancelled(late: bool) -> None:
    lab = Disk()
    lab.hold_dispatch = True
    lab.fills()
    (execution,) = lab.dispatched
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    assert isinstance(order(lab, DISK), dict)
    result = StepResult("rotate", late, "", 1.0, cancelled_by="" if late else "matthew")
    lab.feed(e.StepEnded(execution.id, 0, result, True))
    lab.advance(600)
    lab.crash()
    lab.advance(600)
    world = lab.engine.world
    lab.feed(e.Reconfigured(lab.targets, OPEN, lab.policy, lab.runbooks, world.meanings))
    lab.advance(7_200)
    assert (lab.newest().state, lab.newest().tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
    state = world.runbook_states.get((execution.runbook.id, DISK))
    assert (state.failures if state is not None else 0) == late, (
        "a repair that did its work and did not help has failed"
    )
    assert [run.runbook.id for run in lab.dispatched] == [ROTATE.id]
    assert lab.order("approve", runbook_id=CLEANUP.id, target_id=DISK)
    lab.advance(60)
    assert [run.runbook.id for run in lab.dispatched] == [ROTATE.id, CLEANUP.id], "but what a person lets run, runs"


@pytest.mark.req("R15", "FR-003")
def test_an_executor_that_dies_having_been_told_to_stop_does_not_bring_it_back() -> None:
    """Its memory of the order is gone with it; the decision's is not."""
    for claimed in (False, True):
        lab = Disk()
        lab.hold_dispatch = True
        lab.fills()
        (execution,) = lab.dispatched
        if claimed:
            lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
        assert isinstance(order(lab, execution.id), dict)
        lab.executor = "exec-2"
        lab.feed(e.ExecutorIs("exec-2"))
        at_store = msgspec.structs.replace(execution, claimed_by="exec-1" if claimed else "")
        lab.feed(e.ExecutionSeen(at_store))
        if claimed:
            lab.feed(e.ExecutionSettled(execution.id, True, False, ()))
        lab.advance(600)
        assert (lab.newest().state, lab.newest().tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
        assert len(lab.dispatched) == 1


@pytest.mark.req("R15", "FR-003")
def test_grounds_that_went_stale_meanwhile_bring_no_new_decision() -> None:
    lab, execution = at_work()
    assert isinstance(order(lab, execution.id), dict)
    lab.feed(e.ExecutionNotRun(execution.id, "stale_grounds", "the reading it rests on is 6.0 s old"))
    lab.advance(600)
    assert lab.only("web").tier_reason is TierReason.CANCELLED
    assert len(lab.dispatched) == 1


@pytest.mark.req("R15", "FR-001")
def test_a_check_that_was_told_to_stop_is_not_what_has_begun_on_its_database_since() -> None:
    lab = Lab(targets=(Target("notes", "database", path="/notes.db", written=True),))
    lab.hold_dispatch = lab.hold_cancel = True
    lab.order("cancel", token="c-1", id="notes")
    lab.order("execute", runbook_id="rb-db-backup", target_id="notes", confirm=True)
    (execution,) = lab.dispatched
    (asked,) = lab.told_to_stop
    assert (asked.target_id, asked.execution_id) == ("notes", "")
    lab.feed(e.CancelTold("c-1", "matthew", "notes"))
    assert lab.answers["c-1"].body == {"success": True, "target_id": "notes", "what": "integrity check"}
    assert not lab.engine.world.executions[execution.id].cancelled


@pytest.mark.req("R8", "R15")
def test_a_canary_that_is_cancelled_proves_nothing_and_gives_its_place_to_another() -> None:
    lab = Lab(*NAMES, policy=Policy(settle_s=0.0))
    lab.hold_dispatch = True
    all_die(lab)
    first, *_ = lab.dispatched
    assert len(lab.dispatched) == 3
    lab.feed(e.ExecutionClaimed(first.id, "exec-1"))
    cancelled(lab, first)
    assert lab.engine.world.pauses == {}
    assert len(lab.dispatched) == 4
    assert lab.incidents(first.target.target_id)[-1].tier_reason is TierReason.CANCELLED


@pytest.mark.req("R15", "FR-003", "NFR-002")
@pytest.mark.parametrize("claimed", [False, True])
def test_healer_and_executor_that_die_before_either_has_answered_do_not_forget_it(claimed: bool) -> None:
    """The order is durable before anybody is told: a person has said stop, whoever has heard it (once it was begun
    anew after the restart)."""
    lab = Disk()
    lab.hold_dispatch = lab.hold_cancel = True
    lab.fills()
    (execution,) = lab.dispatched
    if claimed:
        lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    lab.order("cancel", token="c-1", id=DISK)
    lab.crash()
    lab.feed(e.ExecutorIs("exec-2"))
    told = lab.told_to_stop[-1]
    assert (told.token, told.actor, told.execution_id) == ("c-1", "matthew", execution.id), "it is told again"
    lab.feed(e.CancelTold("c-1", "matthew", DISK, execution.id, unsure=f"{execution.id} is not at work"))
    assert isinstance(lab.effects[-2], FetchExecutionState), "the ledger knows who has it"
    lab.feed(e.ExecutionSeen(msgspec.structs.replace(execution, claimed_by="exec-1" if claimed else "")))
    if claimed:
        lab.feed(e.ExecutionSettled(execution.id, True, False, ()))
    lab.advance(600)
    assert (lab.newest().state, lab.newest().tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
    assert len(lab.dispatched) == 1
    error = lab.answers["c-1"].error
    assert "is not at work; nothing follows it by itself" in str(error)


@pytest.mark.req("R15", "R3")
def test_a_refusal_takes_the_mark_back_and_leaves_its_reason_in_the_trail() -> None:
    lab, execution = at_work()
    lab.refuses_cancel = "it is all or nothing"
    assert "it is all or nothing" in str(order(lab, "web"))
    now = lab.engine.world.executions[execution.id]
    assert (now.cancelled_by, now.cancel_order, now.cancelled) == ("", "", False)
    trail = lab.engine.world.trails[execution.incident_id or ""]
    assert [(it.actor, it.note) for it in trail[-2:]] == [
        ("matthew", "rb-restart-service is to be cancelled"),
        ("executor", "it is all or nothing"),
    ]


@pytest.mark.req("R15", "FR-003")
@pytest.mark.parametrize("refused", ["c-1", "c-2"])
@pytest.mark.parametrize("first", ["c-1", "c-2"])
def test_of_two_orders_a_refusal_of_the_one_leaves_what_was_agreed_to_for_the_other(refused: str, first: str) -> None:
    lab, execution = at_work()
    lab.hold_cancel = True
    orders = ["c-1", "c-2"]
    for token in orders:
        lab.order("cancel", token=token, id="web")
    for token in sorted(orders, key=lambda token: token != first):
        why = "its steps are over" if token == refused else ""
        lab.feed(e.CancelTold(token, "matthew", "web", execution.id, goes_on=why))
    now = lab.engine.world.executions[execution.id]
    assert (now.cancelled_by, now.cancel_order) == ("matthew", "")
    assert [lab.answers[token].error is None for token in orders] == [token != refused for token in orders]


@pytest.mark.req("R15", "FR-003")
def test_what_was_interrupted_is_cancelled_too_and_not_begun_anew() -> None:
    """Nobody is at it; once it was refused, and begun again a moment later."""
    lab, execution = at_work()
    lab.executor = "exec-2"
    lab.feed(e.ExecutorIs("exec-2"))
    lab.feed(e.ExecutionSeen(msgspec.structs.replace(execution, claimed_by="exec-1")))
    answer = order(lab, "web")
    assert isinstance(answer, dict)
    assert answer["execution_id"] == execution.id
    assert lab.told_to_stop == []
    lab.feed(e.ExecutionSettled(execution.id, True, False, ()))
    lab.advance(600)
    assert (lab.only("web").state, lab.only("web").tier_reason) == (State.ESCALATED, TierReason.CANCELLED)
    assert len(lab.dispatched) == 1


@pytest.mark.req("R15", "NFR-003")
def test_what_ended_cancelled_before_the_word_came_is_answered_as_cancelled() -> None:
    lab, execution = at_work()
    lab.hold_cancel = True
    lab.order("cancel", token="c-1", id="web")
    cancelled(lab, execution)
    lab.feed(e.CancelTold("c-1", "matthew", "web", execution.id, unsure="the executor has not said within 8 s"))
    assert lab.answers["c-1"].error is None
    assert (lab.answers["c-1"].body or {})["execution_id"] == execution.id


@pytest.mark.req("R15", "NFR-001")
def test_the_place_of_a_cancelled_canary_goes_to_what_runs_already() -> None:
    """Four had begun before there were five: then the fourth is no reason for a fifth."""
    lab = Lab(*NAMES[:6], policy=Policy(settle_s=0.0))
    lab.hold_dispatch = True
    for name in NAMES[:6]:
        lab.kill(name)
        lab.poll(name)
        lab.advance(0.1)
    begun = [it.target.target_id for it in lab.dispatched]
    assert begun == list(NAMES[:4])
    first = lab.dispatched[0]
    lab.feed(e.ExecutionClaimed(first.id, "exec-1"))
    cancelled(lab, first)
    lab.advance(1)
    assert [it.target.target_id for it in lab.dispatched] == begun
    lab.hold_dispatch = False
    for execution in list(lab.dispatched)[1:]:
        lab.run(execution)
    lab.advance(5)
    assert [it.target.target_id for it in lab.dispatched] == list(NAMES[:6])
