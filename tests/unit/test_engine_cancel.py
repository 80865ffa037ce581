"""`heal cancel` (R15): what is meant by a name, what is written down, and what becomes of the incident."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor.errors import Refused, UnknownId
from supervisor.incidents import events as e
from supervisor.incidents.cancelling import Found, find
from supervisor.incidents.effects import Answer
from supervisor.incidents.model import Execution, State, StepResult, Target, TierReason
from supervisor.incidents.records import AddAudit
from tests.lab.engine import Lab


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
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.REMEDIATION_FAILED)
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
