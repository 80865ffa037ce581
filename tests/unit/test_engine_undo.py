"""`heal undo` (R15): what a finished execution did is taken back by an execution of its own, once, and audited."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.errors import Refused, StoreError, UnknownId
from supervisor.incidents import events as e
from supervisor.incidents.effects import Answer, FetchExecutionState
from supervisor.incidents.model import Execution, ExecutionState, State, StepResult
from supervisor.incidents.records import AddLateTrail
from tests.lab.engine import Lab


def healed() -> tuple[Lab, Execution]:
    """A lab in which `web` was healed, and that execution, as if its first step had left something to undo."""
    lab = Lab("web")
    lab.kill("web")
    lab.advance(2)
    done = lab.engine.world.ended[lab.dispatched[0].id]
    first, *rest = done.results
    done = msgspec.structs.replace(done, results=(msgspec.structs.replace(first, undo='{"old": 1}'), *rest))
    lab.dispatched.clear()
    return lab, done


def undo(lab: Lab, done: Execution, undone_by: str = "", token: str = "u") -> Answer | None:
    lab.order("undo", execution_id=done.id, token=token)
    lab.feed(e.ExecutionSeen(done, undone_by))
    return lab.answers.get(token)


@pytest.mark.req("R15")
def test_the_steps_that_left_something_are_taken_back_the_last_first() -> None:
    lab, done = healed()
    lab.hold_dispatch = True
    results = tuple(msgspec.structs.replace(result, undo="{}") for result in done.results)
    assert undo(lab, msgspec.structs.replace(done, results=results)) is None
    (order,) = lab.dispatched
    assert [step.step_id for step in order.runbook.steps] == ["start", "stop"]
    assert [result.step_id for result in order.taken_back] == ["start", "stop"]
    assert (order.undoes, order.resource) == (done.id, done.resource)


@pytest.mark.req("R15", "R3")
def test_after_an_undo_the_runbook_runs_there_by_itself_no_more_until_it_is_approved() -> None:
    lab, done = healed()
    answer = undo(lab, done)
    assert answer is not None
    assert answer.body is not None
    assert (answer.body["success"], answer.body["mode"]) == (True, "undo")
    late = [r for r in lab.records if isinstance(r, AddLateTrail)]
    assert [(r.incident_id, r.note) for r in late] == [(done.incident_id, f"{done.id} was undone by a person")]
    lab.dispatched.clear()
    lab.kill("web")
    lab.advance(5)
    assert lab.dispatched == []
    assert lab.incidents("web")[-1].state is State.ESCALATED
    lab.order("approve", runbook_id="rb-restart-service", target_id="web")
    lab.advance(5)
    assert lab.incidents("web")[-1].state is State.RESOLVED


@pytest.mark.req("R15")
def test_an_order_that_is_sent_again_acts_once() -> None:
    lab, done = healed()
    first = undo(lab, done)
    again = undo(lab, done)
    assert first is not None
    assert again is not None
    assert len(lab.dispatched) == 1
    assert again.body == first.body


@pytest.mark.req("R15")
def test_what_cannot_be_undone_is_refused_with_the_reason() -> None:
    lab, done = healed()
    nothing = msgspec.structs.replace(done, results=tuple(StepResult(r.step_id, True, "", 1.0) for r in done.results))
    running = msgspec.structs.replace(done, state=ExecutionState.CLAIMED)
    an_undo = msgspec.structs.replace(done, undoes="exe_0")
    for n, (execution, by, words) in enumerate(
        (
            (nothing, "", "left nothing"),
            (running, "", "not over"),
            (an_undo, "", "is an undo itself"),
            (done, "exe_1", "undone already"),
        )
    ):
        answer = undo(lab, execution, by, token=f"t{n}")
        assert answer is not None
        assert isinstance(answer.error, Refused)
        assert words in answer.error.message
    assert lab.dispatched == []


@pytest.mark.req("R15")
def test_an_unknown_execution_and_a_ledger_in_trouble_are_told_apart() -> None:
    lab = Lab("web")
    for trouble, kind in (("", UnknownId), ("disk full", StoreError)):
        lab.order("undo", execution_id="exe_none", token=kind.__name__)
        assert lab.effects[-1] == FetchExecutionState("exe_none")
        lab.feed(e.ExecutionUnknown("exe_none", trouble))
        assert isinstance(lab.answers[kind.__name__].error, kind)


@pytest.mark.req("R15")
def test_a_pause_holds_for_an_undo_and_so_does_a_lock() -> None:
    lab, done = healed()
    lab.order("pause", target_id="web")
    answer = undo(lab, done)
    assert answer is not None
    assert isinstance(answer.error, Refused)
    lab.order("resume", target_id="web")
    lab.hold_dispatch = True
    lab.order("execute", runbook_id="rb-restart-service", target_id="web", confirm=True)
    busy = undo(lab, done, token="busy")
    assert busy is not None
    assert isinstance(busy.error, Refused)
    assert "in use" in busy.error.message


@pytest.mark.req("R15")
def test_an_undo_that_fails_says_so_and_changes_no_standing() -> None:
    lab, done = healed()
    lab.step_fails = "stop"
    answer = undo(lab, done)
    assert answer is not None
    assert answer.body is not None
    assert answer.body["success"] is False
    assert lab.engine.world.runbook_states.get(("rb-restart-service", "web")) is None or not (
        lab.engine.world.runbook_states["rb-restart-service", "web"].taken_back
    )
    assert "failed" in [r.note for r in lab.records if isinstance(r, AddLateTrail)][-1]


@pytest.mark.req("R15", "FR-004")
@pytest.mark.parametrize("ill", [False, True])
def test_an_undo_that_was_interrupted_is_over_once_nothing_of_it_runs(ill: bool) -> None:
    """That the trouble is back, or is not, proves nothing about an undo."""
    lab, done = healed()
    lab.hold_dispatch = True
    assert undo(lab, done) is None
    (order,) = lab.dispatched
    if ill:
        lab.kill("web")
    lab.feed(e.ExecutorIs(""))
    lab.feed(e.ExecutorIs("exec-2"))
    lab.feed(e.ExecutionSeen(msgspec.structs.replace(order, claimed_by="exec-1", state=ExecutionState.CLAIMED)))
    lab.feed(e.ExecutionSettled(order.id, True, False, ()))
    assert lab.engine.world.ended[order.id].state is ExecutionState.FAILED
    body = lab.answers["u"].body
    assert body is not None
    assert body["success"] is False
    assert "it was interrupted" in [r.note for r in lab.records if isinstance(r, AddLateTrail)][-1]
