"""What was escalated is considered again, and stopped by something else: that is said, and the new reason holds."""

from __future__ import annotations

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS, ladder
from supervisor.incidents.model import AnomalyType, Effect, Runbook, State, StepSpec, Tier, TierReason
from tests.lab.engine import Lab, service

MINE = Runbook(
    id="rb-mine",
    label="Mine",
    applies_to=(AnomalyType.PROCESS_DEAD,),
    steps=(StepSpec("look", "run-command", Effect.CHANGE, params=(("argv", ("/bin/true",)),)),),
    resource="service:{service}",
    author="file:mine.toml",
)


def flapping(times: int = 3) -> Lab:
    """A service that has used up its breaker's room, and lives."""
    lab = Lab("web")
    for _ in range(times):
        lab.kill("web")
        lab.advance(120)
    return lab


@pytest.mark.req("R1", "R15")
def test_a_breaker_that_opens_when_a_pause_ends_is_paged_once_and_gets_its_one_try() -> None:
    lab = flapping()
    lab.order("pause", target_id="web")
    lab.kill("web")
    lab.order("resume", target_id="web")
    incident = lab.incidents("web")[-1]
    assert (incident.state, incident.tier_reason, incident.tier) == (
        State.ESCALATED,
        TierReason.BREAKER_OPEN,
        Tier.PAGE,
    )
    assert len([row for row in lab.messages("signal") if row.incident_id == incident.id]) == 1
    for _ in range(3):  # the same again is said by nobody
        lab.order("pause", target_id="web")
        lab.order("resume", target_id="web")
    assert len([row for row in lab.messages("signal") if row.incident_id == incident.id]) == 1
    told = len(lab.messages())
    lab.crash()
    lab.poll("web")
    lab.advance(60)
    assert len(lab.messages()) == told
    lab.advance(lab.policy.breaker_window_s + 180)
    assert len(lab.dispatched) == 4
    assert lab.incidents("web")[-1].state is State.RESOLVED


@pytest.mark.req("R1", "R3")
def test_the_breaker_of_a_later_rung_names_that_rung_and_gives_it_its_one_try() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),), runbooks=ladder((MINE,)))
    lab.order("approve", runbook_id="rb-mine", target_id="web")
    for _ in range(3):
        lab.kill("web")
        lab.advance(120)
    lab.kill("web")
    incident = lab.incidents("web")[-1]
    assert (incident.tier_reason, incident.runbook_id) == (TierReason.BREAKER_OPEN, "rb-mine")
    (page,) = [row for row in lab.messages("signal") if row.incident_id == incident.id]
    assert "by itself" not in page.body
    lab.advance(lab.policy.breaker_window_s + 180)
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-mine"] * 4
    assert lab.incidents("web")[-1].state is State.RESOLVED


@pytest.mark.req("R1", "NFR-003")
def test_the_page_of_an_open_breaker_asks_for_no_approval_that_would_run_nothing() -> None:
    lab = flapping()
    lab.kill("web")
    incident = lab.incidents("web")[-1]
    assert incident.tier_reason is TierReason.BREAKER_OPEN
    (page,) = [row for row in lab.messages("signal") if row.incident_id == incident.id]
    assert "heal approve" not in page.body
    assert "healctl tries once more at " in page.body
    assert "- restart web now: healctl heal execute rb-restart-service --target web --confirm" in page.body


@pytest.mark.req("R1", "R3")
def test_behind_a_rung_whose_breaker_is_open_the_next_one_that_is_approved_runs() -> None:
    lab = Lab("web", runbooks=ladder((MINE,)))
    for _ in range(3):
        lab.kill("web")
        lab.advance(120)
    lab.kill("web")
    incident = lab.incidents("web")[-1]
    assert incident.tier_reason is TierReason.BREAKER_OPEN
    (page,) = [row for row in lab.messages("signal") if row.incident_id == incident.id]
    assert "- yes, and always from now on: healctl heal approve rb-mine --target web" in page.body
    answer = lab.order("approve", runbook_id="rb-mine", target_id="web")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [incident.id]
    lab.advance(120)
    assert lab.dispatched[-1].runbook.id == "rb-mine"
    assert lab.incidents("web")[-1].state is State.RESOLVED


def planning() -> Lab:
    """A service whose restart must be approved, and whose dry run is awaited."""
    lab = Lab(targets=(service("web", auto_restart=False),), runbooks=ladder((MINE,)))
    lab.hold_plans = True
    lab.kill("web")
    assert lab.only("web").state is State.DIAGNOSING
    return lab


@pytest.mark.req("R3", "R4", "AC-007")
@pytest.mark.parametrize("runbook_id", ["rb-restart-service", "rb-mine"])
def test_what_is_approved_while_its_plan_is_awaited_runs_and_nobody_is_asked(runbook_id: str) -> None:
    lab = planning()
    answer = lab.order("approve", runbook_id=runbook_id, target_id="web")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [lab.only("web").id]
    lab.advance(30)
    assert [execution.runbook.id for execution in lab.dispatched] == [runbook_id]
    assert lab.only("web").state is State.RESOLVED
    assert "approval" not in [row.kind for row in lab.messages()]
    assert TierReason.NEEDS_APPROVAL not in {lab.only("web").tier_reason}


@pytest.mark.req("R3", "R4")
def test_no_page_asks_to_approve_what_is_approved_when_the_probe_is_slower_than_the_plan_may_be() -> None:
    lab = planning()
    lab.silent.add("web")
    lab.order("approve", runbook_id="rb-mine", target_id="web")
    lab.advance(20)
    incident = lab.only("web")
    assert (incident.state, incident.tier_reason) == (State.DIAGNOSING, None)
    lab.silent.clear()
    lab.advance(30)
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-mine"]


@pytest.mark.req("R1", "R4")
def test_a_plan_that_is_late_proposes_the_rung_that_fits() -> None:
    lab = Lab(targets=(service("web", recipe=False),), runbooks=ladder((MINE,)))
    lab.hold_plans = True
    lab.kill("web")
    lab.advance(20)
    incident = lab.only("web")
    assert (incident.tier_reason, incident.runbook_id) == (TierReason.NEEDS_APPROVAL, "rb-mine")


@pytest.mark.req("R1", "NFR-001", "AC-007")
def test_an_approval_promises_no_run_that_a_breaker_forbids_and_the_breaker_is_told_of() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),), runbooks=ladder((MINE,)))
    lab.order("approve", runbook_id="rb-mine", target_id="web")
    for _ in range(3):
        lab.kill("web")
        lab.advance(120)
    lab.order("approve", runbook_id="rb-mine", target_id="web", revoke=True)
    lab.kill("web")
    incident = lab.incidents("web")[-1]
    assert incident.tier_reason is TierReason.NEEDS_APPROVAL
    for _ in range(2):  # the breaker is due to open; then it stands
        answer = lab.order("approve", runbook_id="rb-mine", target_id="web")
        assert answer is not None
        assert answer.body is not None
        assert answer.body["running_for"] == []
        assert lab.incidents("web")[-1].tier_reason is TierReason.BREAKER_OPEN
    assert len([row for row in lab.messages("signal") if row.incident_id == incident.id]) == 1
    lab.advance(lab.policy.breaker_window_s + 180)
    assert len(lab.dispatched) == 4


@pytest.mark.req("NFR-001")
def test_restarts_by_a_draft_count_for_the_breaker_of_the_service() -> None:
    restart = RUNBOOKS[0]
    draft = msgspec.structs.replace(restart, id="rb-draft", starts_service=False, author="matthew")
    lab = Lab("web", runbooks=ladder((draft,)))
    for _ in range(3):
        lab.order("execute", runbook_id="rb-draft", target_id="web", confirm=True)
        lab.advance(120)
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-draft"] * 3
    lab.kill("web")
    assert lab.incidents("web")[-1].tier_reason is TierReason.BREAKER_OPEN
    assert len(lab.dispatched) == 3
