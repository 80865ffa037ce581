"""Crashes of the executor, the engine, or both, on the pure engine: never twice, never stuck (DESIGN §2.3, §3)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.effects import (
    DispatchExecution,
    FetchExecutionState,
    SettleExecution,
)
from supervisor.incidents.model import ExecutionState, Program, State, StepResult, Target, Tier, TierReason
from supervisor.incidents.readings import ProcessRef, Unavailable
from supervisor.incidents.records import AddTrail
from tests.lab.engine import Lab, service


def held() -> Lab:
    lab = Lab("web")
    lab.hold_dispatch = True
    lab.kill("web")
    return lab


def executor_restarts(lab: Lab) -> None:
    lab.feed(e.ExecutorIs(""))
    lab.effects.clear()
    lab.feed(e.ExecutorIs("exec-2"))


@pytest.mark.req("FR-004", "R7")
def test_an_intent_that_nobody_claimed_is_dispatched_to_the_next_executor() -> None:
    lab = held()
    executor_restarts(lab)
    (fetch,) = lab.effects
    assert isinstance(fetch, FetchExecutionState)
    lab.effects.clear()
    lab.feed(e.ExecutionSeen(lab.dispatched[0]))
    assert [type(effect) for effect in lab.effects] == [DispatchExecution]


@pytest.mark.req("FR-004")
def test_an_intent_that_ran_out_needs_a_new_decision_and_gets_it() -> None:
    lab = held()
    lab.advance(63)
    assert any(isinstance(effect, FetchExecutionState) for effect in lab.effects)
    lab.hold_dispatch = False
    lab.feed(e.ExecutionSeen(lab.dispatched[0]))
    lab.advance(2)
    assert len(lab.dispatched) == 2
    assert lab.only("web").state is State.RESOLVED


def interrupted(lab: Lab, *programs: Program) -> str:
    first = lab.dispatched[0]
    claimed = msgspec.structs.replace(first, claimed_by="exec-1", state=ExecutionState.CLAIMED, programs=programs)
    executor_restarts(lab)
    lab.effects.clear()
    lab.feed(e.ExecutionSeen(claimed))
    assert [type(effect) for effect in lab.effects] == [SettleExecution]
    lab.hold_dispatch = False
    return first.id


def test_interrupted_before_it_took_effect_is_decided_anew() -> None:
    lab = held()
    first = interrupted(lab)
    lab.feed(e.ExecutionSettled(first, True, False, ("nothing had started",)))
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert len(lab.dispatched) == 2


@pytest.mark.req("FR-004", "FR-008", "NFR-002")
def test_a_report_that_comes_after_word_of_the_executors_death_counts() -> None:
    """It was on its way, or word of a new executor came later than that one's own."""
    lab = held()
    first = interrupted(lab)
    lab.feed(e.StepEnded(first, 0, StepResult("stop", True, "nothing was alive", 1.0), False))
    assert lab.engine.world.executions[first].state is ExecutionState.INTERRUPTED
    lab.alive["web"] = 4_242
    lab.feed(e.StepEnded(first, 1, StepResult("start", True, "started", 1.0), True))
    lab.feed(e.ExecutionSettled(first, True, False, ()))
    lab.advance(5)
    assert lab.only("web").state is State.RESOLVED
    notes = [record.entry.note for record in lab.records if isinstance(record, AddTrail)]
    assert [note for note in notes if note.startswith("step")] == ["step stop done", "step start done"], notes
    assert len(lab.dispatched) == 1


def test_interrupted_after_the_service_came_up_is_verified_not_repeated() -> None:
    lab = held()
    first = interrupted(lab)
    lab.alive["web"] = 4_242
    lab.feed(e.ExecutionSettled(first, True, False, ()))
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert len(lab.dispatched) == 1


def test_interrupted_while_its_program_still_starts_is_not_started_twice() -> None:
    lab = held()
    first = interrupted(lab, Program("start", ProcessRef("boot-1", 7, 7), ("/usr/bin/start",)))
    lab.feed(e.ExecutionSettled(first, True, True, ("start: pid 7 is alive",)))
    lab.advance(5)
    assert len(lab.dispatched) == 1
    lab.alive["web"] = 7
    lab.advance(5)
    assert lab.only("web").state is State.RESOLVED


def test_interrupted_and_not_settled_goes_to_a_person() -> None:
    lab = held()
    first = interrupted(lab)
    lab.feed(e.ExecutionSettled(first, False, False, ("pid 7 does not die",)))
    assert lab.only("web").tier_reason is TierReason.INTERRUPTED
    assert len(lab.dispatched) == 1


@pytest.mark.req("FR-005", "R1")
def test_what_nobody_can_settle_is_told_once_keeps_its_lock_and_still_ends_well() -> None:
    """What an executor had started hangs in the kernel, say: the question is put again for ever, and is not silent."""
    lab = Lab(targets=(Target("fleet:far", "fleet"),))
    lab.alive["fleet:far"] = None
    lab.hold_dispatch = True
    unreachable = {"family": "fleet", "available": False, "data": None, "reason": Unavailable.TIMEOUT}
    lab.silent.add("fleet:far")
    for _ in range(2):
        lab.advance(0.01)
        lab.feed(e.ReadingSeen(lab.reading("fleet:far", **unreachable)))
    (execution,) = lab.dispatched
    executor_restarts(lab)
    lab.feed(e.ExecutionSeen(msgspec.structs.replace(execution, claimed_by="exec-1")))
    lab.advance(60.0)
    assert lab.messages() == []
    lab.effects.clear()
    lab.advance(1_800.0)
    (page,) = lab.messages("signal")
    assert (page.kind, page.tier) == ("page", Tier.PAGE)
    incident = lab.only("fleet:far")
    assert (incident.state, incident.tier_reason) == (State.REMEDIATING, TierReason.INTERRUPTED)
    assert lab.engine.world.holder_of(execution.resource) is not None
    assert [effect for effect in lab.effects if isinstance(effect, SettleExecution)]
    lab.feed(e.ExecutionSettled(execution.id, False, False, ("pid 7 does not die",)))
    assert lab.only("fleet:far").state is State.ESCALATED
    assert len([row for row in lab.messages("signal") if row.kind == "page"]) == 1


@pytest.mark.req("FR-004")
@pytest.mark.parametrize("moment", ["diagnosing", "remediating", "verifying", "escalated", "approved"])
def test_a_crash_of_the_engine_loses_and_doubles_nothing(moment: str) -> None:
    lab = Lab(targets=(service("web", auto_restart=moment not in ("escalated", "approved")),))
    if moment == "diagnosing":
        lab.silent.add("web")
    lab.hold_dispatch = moment in ("remediating", "approved")
    lab.kill("web")
    if moment == "approved":
        lab.silent.add("web")
        lab.order("approve", runbook_id="rb-restart-service", target_id="web")
        lab.silent.clear()
    before = lab.only("web")
    lab.silent.clear()
    lab.hold_dispatch = False
    lab.crash()
    if moment == "remediating":
        lab.run(lab.dispatched[0])
    if moment == "escalated":
        lab.alive["web"] = 5
        lab.poll("web")
    lab.advance(10)
    after = lab.only("web")
    assert after.id == before.id
    assert after.state is (State.SELF_RESOLVED if moment == "escalated" else State.RESOLVED)
    assert len({execution.id for execution in lab.dispatched}) == (0 if moment == "escalated" else 1)


@pytest.mark.req("FR-007")
def test_execute_is_carried_out_once_however_often_it_is_sent() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    for _ in range(3):
        lab.order("execute", token="cli.1", runbook_id="rb-restart-service", target_id="web", confirm=True)
    lab.advance(2)
    assert len(lab.dispatched) == 1
    answer = lab.answers["cli.1"].body
    assert answer is not None
    assert answer["success"] is True
    assert answer["verification_passed"] is True
    assert [step["step_id"] for step in answer["steps_executed"]] == ["stop", "start"]
    lab.crash()
    lab.order("execute", token="cli.1", runbook_id="rb-restart-service", target_id="web", confirm=True)
    assert len(lab.dispatched) == 1


@pytest.mark.req("FR-007", "R15")
def test_execute_needs_confirm_known_ids_and_a_free_resource() -> None:
    lab = Lab("web")
    for args, code in (
        ({"runbook_id": "rb-restart-service", "target_id": "web"}, "needs_confirm"),
        ({"runbook_id": "nope", "target_id": "web", "confirm": True}, "unknown_id"),
        ({"runbook_id": "rb-restart-service", "target_id": "nope", "confirm": True}, "unknown_id"),
        ({"runbook_id": "rb-restart-service", "target_id": "web", "confirm": "yes"}, "usage"),
    ):
        answer = lab.order("execute", **args)
        assert answer is not None
        assert getattr(answer.error, "code", "") == code
    lab.hold_dispatch = True
    lab.kill("web")
    answer = lab.order("execute", runbook_id="rb-restart-service", target_id="web", confirm=True)
    assert answer is not None
    assert getattr(answer.error, "code", "") == "refused"
    assert len(lab.dispatched) == 1


def test_a_report_that_is_overtaken_by_the_news_of_the_exit_still_counts() -> None:
    lab = held()
    execution = lab.dispatched[0]
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    lab.feed(e.StepEnded(execution.id, 0, StepResult("stop", True, "", 1.0), False))
    lab.feed(e.ProgramEnded(execution.id, "start", "exited with 3", "boom"))
    lab.feed(e.StepEnded(execution.id, 1, StepResult("start", True, "", 1.0), True))
    lab.advance(40)
    assert lab.only("web").state is State.ESCALATED
    assert "boom" in lab.messages("signal")[0].body


@pytest.mark.req("R6")
def test_verification_ends_even_when_the_probe_falls_silent_after_one_clear_reading() -> None:
    lab = Lab("web")
    lab.kill("web")
    assert lab.only("web").state is State.VERIFYING
    lab.silent.add("web")
    lab.advance(120)
    assert lab.only("web").state is State.ESCALATED
    assert lab.engine.world.executions == {}


def test_a_refusal_after_the_claim_leads_to_a_new_decision() -> None:
    lab = held()
    lab.feed(e.ExecutionClaimed(lab.dispatched[0].id, "exec-1"))
    lab.hold_dispatch = False
    lab.feed(e.ExecutionNotRun(lab.dispatched[0].id, "stale_grounds", "6 s old"))
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert len(lab.dispatched) == 2


@pytest.mark.req("FR-007", "R15")
def test_a_persons_execute_that_was_interrupted_before_it_did_anything_is_no_success() -> None:
    lab = Lab("web")
    lab.hold_dispatch = True
    lab.order("execute", token="cli.1", runbook_id="rb-restart-service", target_id="web", confirm=True)
    first = interrupted(lab)
    lab.feed(e.ExecutionSettled(first, True, True, ("the service is alive",)))
    answer = lab.answers["cli.1"].body
    assert answer is not None
    assert answer["success"] is False
    assert answer["escalation_needed"] is True


@pytest.mark.req("R7")
def test_an_approved_run_survives_a_reading_that_says_nothing() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    lab.silent.add("web")
    lab.order("approve", runbook_id="rb-restart-service", target_id="web")
    lab.feed(e.ReadingSeen(lab.unavailable("web")))
    lab.silent.clear()
    lab.advance(10)
    assert lab.only("web").state is State.RESOLVED


def test_a_repair_that_kills_its_executor_twice_is_not_tried_a_third_time() -> None:
    lab = held()
    for n in (1, 2):
        lab.feed(e.ExecutorIs(f"exec-{n}"))
        claimed = msgspec.structs.replace(lab.dispatched[-1], claimed_by=f"exec-{n}", state=ExecutionState.CLAIMED)
        lab.feed(e.ExecutorIs(""))
        lab.feed(e.ExecutorIs(f"exec-{n + 1}"))
        lab.feed(e.ExecutionSeen(claimed))
        lab.feed(e.ExecutionSettled(claimed.id, True, False, ()))
    assert len(lab.dispatched) == 2
    assert lab.only("web").tier_reason is TierReason.INTERRUPTED


def test_a_target_that_is_no_longer_configured_leaves_no_incident_behind() -> None:
    lab = Lab(targets=(service("web", auto_restart=False), service("api")))
    lab.kill("web")
    lab.targets = (service("api"),)
    lab.crash()
    assert lab.only("web").state is State.DISMISSED
    lab.advance(100_000)
    assert [row.kind for row in lab.messages("signal")] == ["page"]
