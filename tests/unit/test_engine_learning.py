"""Dry runs before a person is asked, and what they teach (R4, R5, AC-007, AC-008, NFR-003), on virtual time."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Effect,
    Incident,
    Mode,
    OutboxRow,
    Runbook,
    RunbookState,
    State,
    StepSpec,
    TierReason,
    TrailEntry,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import AddTrail
from supervisor.incidents.wording import SIGNAL_CHARS_MAX
from tests.lab.engine import Lab, service

RB = "rb-restart-service"
MINE = Runbook(
    id="rb-mine",
    label="Start it my way",
    applies_to=(AnomalyType.PROCESS_DEAD,),
    steps=(StepSpec("stop", "stop-service", Effect.CHANGE), StepSpec("start", "start-service", Effect.CHANGE)),
    resource="service:{service}",
    author="matthew",
)


def lab(*runbooks: Runbook, policy: Policy | None = None) -> Lab:
    targets = (service("web", auto_restart=False), service("api", auto_restart=False))
    return Lab(targets=targets, policy=policy, runbooks=runbooks) if runbooks else Lab(targets=targets, policy=policy)


def by_hand(it: Lab, name: str = "web") -> Incident:
    """It dies, healctl asks, and its owner starts it."""
    it.kill(name)
    asked = it.incidents(name)[-1]
    it.advance(1)
    it._pid += 1
    it.alive[name] = it._pid
    it.poll(name)
    it.advance(4000)  # well after the window in which a return counts as the same trouble
    return asked


def state(it: Lab, runbook_id: str = RB, target_id: str = "web") -> RunbookState:
    return it.engine.world.runbook_states[runbook_id, target_id]


def said(it: Lab, kind: str) -> list[OutboxRow]:
    return [row for row in it.messages() if row.kind == kind]


@pytest.mark.req("AC-008", "R4", "FR-006")
def test_ac_008_three_clean_dry_runs_in_a_row_graduate_and_the_third_incident_is_healed() -> None:
    it = lab()
    for count in (1, 2):
        asked = by_hand(it)
        assert (asked.state, asked.tier_reason) == (State.ESCALATED, TierReason.NEEDS_APPROVAL)
        assert (state(it).dry_run_count, state(it).mode) == (count, Mode.DRY_RUN)
    assert it.dispatched == []
    it.kill("web")
    it.advance(2)
    incident = it.incidents("web")[-1]
    assert incident.state is State.RESOLVED
    assert [execution.authority for execution in it.dispatched] == [Authority.APPROVED]
    assert (state(it).mode, state(it).dry_run_count) == (Mode.AUTO_EXECUTE, 3)
    assert state(it).confidence >= 0.8
    assert it.metrics().count("heal_runbook_graduated") == 1
    (row,) = said(it, "graduated")
    assert (row.channel.value, row.priority) == ("synapse", "info")
    assert f"- take that back: healctl heal approve {RB} --target web --revoke\n" in row.body
    assert "because" not in row.body.lower()
    notes = [entry.note for entry in _trail(it, incident)]
    assert any("has graduated for web" in note for note in notes)
    it.advance(4000)
    it.kill("web")
    it.advance(2)
    assert it.incidents("web")[-1].state is State.RESOLVED
    assert len(it.planned) == 3, "what may run needs no dry run"
    it.kill("api")
    assert it.only("api").tier_reason is TierReason.NEEDS_APPROVAL, "for that target only"


def _trail(it: Lab, incident: Incident) -> list[TrailEntry]:
    return [r.entry for r in it.records if isinstance(r, AddTrail) and r.entry.incident_id == incident.id]


@pytest.mark.req("AC-007", "R3", "R5", "R7")
def test_ac_007_approval_turns_the_mode_to_auto_execute_for_a_target_or_for_all() -> None:
    it = lab()
    it.kill("web")
    answer = it.order("approve", runbook_id=RB, target_id="web")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["mode"] == "auto_execute"
    assert answer.body["approved_at"] is not None
    it.advance(2)
    assert it.only("web").state is State.RESOLVED
    assert (state(it).mode, state(it).confidence) == (Mode.AUTO_EXECUTE, 0.8)
    it.kill("api")
    assert it.only("api").state is State.ESCALATED
    it.order("approve", runbook_id=RB)
    it.advance(2)
    assert it.only("api").state is State.RESOLVED
    listed = it.order("list_runbooks")
    assert listed is not None
    assert listed.body is not None
    assert listed.body["runbooks"][0]["mode"] == "auto_execute"


@pytest.mark.req("R4", "NFR-003")
def test_the_dry_run_is_told_to_whom_is_asked_and_changes_nothing() -> None:
    it = lab()
    it.kill("web")
    incident = it.only("web")
    assert it.states(incident) == [State.DETECTED, State.DIAGNOSING, State.ESCALATED]
    (page,) = it.messages("signal")
    (row,) = it.messages("synapse")
    assert "It would: stop web; start web." in page.body
    assert f"healctl heal approve {RB} --target web" in page.body
    assert "Dry run: It would: stop web; start web." in row.body
    assert it.dispatched == []
    assert state(it).successes == 0
    assert "heal_remediation_success" not in it.metrics()
    assert [run.predicts_clear for run in incident.dry_runs] == [True]


@pytest.mark.req("R4", "NFR-003")
def test_a_long_plan_leaves_room_for_what_is_to_be_decided() -> None:
    it = lab()
    it.hold_plans = True
    it.kill("web")
    (asked,) = it.planned
    steps = tuple({"step_id": "x", "description": "wipe " * 400, "predicts_clear": True} for _ in range(3))
    it.feed(e.Planned(asked.token, asked.execution, steps, ""))
    (page,) = it.messages("signal")
    assert len(page.body) <= SIGNAL_CHARS_MAX
    assert f"healctl heal approve {RB} --target web" in page.body


@pytest.mark.req("R4")
@pytest.mark.parametrize("what", ["fails", "foresees no cure"])
def test_a_failed_dry_run_or_another_prediction_begins_the_count_anew(what: str) -> None:
    it = lab()
    by_hand(it)
    by_hand(it)
    if what == "fails":
        it.plan_error = "no recipe"
    else:
        it.predicts[RB] = False
    it.kill("web")
    incident = it.incidents("web")[-1]
    assert state(it).dry_run_count == 0
    assert incident.state is State.ESCALATED
    text = it.messages("synapse")[-1].body
    assert ("What it would do is not known: no recipe" if what == "fails" else "not look as if that would help") in text
    it.plan_error, it.predicts = "", {}
    it.alive["web"] = 7_000
    it.poll("web")
    it.advance(4000)
    by_hand(it)
    by_hand(it)
    assert state(it).dry_run_count == 2
    assert it.dispatched == []


@pytest.mark.req("R4", "R7")
def test_what_heals_itself_before_or_during_the_dry_run_counts_neither_way() -> None:
    it = lab()
    by_hand(it)
    by_hand(it)
    it.hold_plans = True
    it.predicts[RB] = False  # what a plan says of a service that runs again
    it.kill("web")
    it.alive["web"] = 9_001
    it.advance(1)
    it.answer_plan(it.planned[-1])
    assert it.incidents("web")[-1].state is State.SELF_RESOLVED
    assert state(it).dry_run_count == 2
    it.answer_plan(it.planned[-1])
    assert state(it).dry_run_count == 2, "nor a report that comes when it is over"
    it.hold_plans, it.predicts = False, {}
    it.advance(4000)
    it.kill("web")
    it.advance(2)
    assert state(it).mode is Mode.AUTO_EXECUTE


@pytest.mark.req("R4", "R2")
def test_a_page_waits_two_seconds_for_the_plan_and_what_comes_later_counts_all_the_same() -> None:
    it = lab()
    it.hold_plans = True
    it.kill("web")
    it.advance(1.9)
    assert it.messages("signal") == []
    it.advance(0.2)
    (page,) = it.messages("signal")
    assert f"healctl heal approve {RB} --target web" in page.body
    it.advance(3)
    it.answer_plan(it.planned[-1])
    it.advance(1)
    assert state(it).dry_run_count == 1
    assert it.only("web").state is State.ESCALATED
    assert len(it.messages("signal")) == 1


@pytest.mark.req("R4")
def test_no_answer_is_a_dry_run_that_failed_and_holds_up_nothing() -> None:
    it = lab()
    by_hand(it)
    it.hold_plans = True
    it.kill("web")
    it.advance(2.1)
    assert it.incidents("web")[-1].state is State.ESCALATED
    it.feed(e.Planned("", it.planned[-1].execution, (), "the executor did not answer within 8 s"))
    it.advance(1)
    assert state(it).dry_run_count == 0


@pytest.mark.req("R4")
@pytest.mark.parametrize("moment", ["asked", "answered", "counted"])
def test_a_crash_counts_no_incident_twice_and_loses_none(moment: str) -> None:
    it = lab()
    it.hold_plans = True
    it.kill("web")
    if moment != "asked":
        it.silent.add("web") if moment == "answered" else None
        it.answer_plan(it.planned[-1])
    it.silent.clear()
    it.hold_plans = False
    it.crash()
    it.advance(10)
    assert state(it).dry_run_count == 1
    assert len(it.planned) == (2 if moment == "asked" else 1)
    it.crash()
    it.advance(60)
    it.poll("web")
    assert state(it).dry_run_count == 1


@pytest.mark.req("R4")
def test_what_destroys_never_graduates_and_what_nobody_wrote_neither() -> None:
    destroys = msgspec.structs.replace(MINE, id="rb-wipe", steps=(StepSpec("wipe", "wipe", Effect.DESTROY),))
    nobodys = msgspec.structs.replace(MINE, id="rb-nobody", author="")
    for runbook in (destroys, nobodys):
        it = lab(runbook)
        for _ in range(5):
            by_hand(it)
        assert it.dispatched == []
        assert len(it.planned) == 5, "a person is told what it would do"
        assert (runbook.id, "web") not in it.engine.world.runbook_states


@pytest.mark.req("R4", "FR-006")
def test_what_a_person_wrote_graduates_behind_a_shipped_one_that_may_not_run() -> None:
    destroys = msgspec.structs.replace(MINE, id="rb-shipped", steps=(StepSpec("wipe", "wipe", Effect.DESTROY),))
    it = lab(destroys, MINE)
    by_hand(it)
    by_hand(it)
    it.kill("web")
    assert [execution.runbook.id for execution in it.dispatched] == ["rb-mine"]


@pytest.mark.req("R4", "R5")
def test_a_verified_failure_demotes_says_so_and_begins_the_count_anew() -> None:
    it = lab()
    by_hand(it)
    by_hand(it)
    it.heals["web"] = False
    it.kill("web")
    it.advance(40)
    assert it.incidents("web")[-1].tier_reason is TierReason.VERIFICATION_FAILED
    assert (state(it).mode, state(it).dry_run_count, state(it).confidence) == (Mode.DRY_RUN, 0, 0.5)
    (row,) = said(it, "demoted")
    assert row.channel.value == "synapse"
    assert f"- allow it again: healctl heal approve {RB} --target web\n" in row.body
    it.heals.clear()
    it.alive["web"] = 8_000
    it.poll("web")
    it.advance(4000)
    by_hand(it)
    by_hand(it)
    assert state(it).dry_run_count == 2
    assert len(it.dispatched) == 1


@pytest.mark.req("R4")
@pytest.mark.parametrize("scope", ["web", None])
def test_revoking_takes_what_has_graduated_back_and_begins_the_count_anew(scope: str | None) -> None:
    it = lab()
    for _ in range(2):
        by_hand(it)
    it.kill("web")
    it.advance(4000)
    assert len(it.dispatched) == 1
    it.order("approve", runbook_id=RB, revoke=True, **({"target_id": scope} if scope else {}))
    assert (state(it).mode, state(it).dry_run_count) == (Mode.DRY_RUN, 0)
    by_hand(it)
    assert len(it.dispatched) == 1
    assert state(it).dry_run_count == 1


@pytest.mark.req("R3", "R4", "NFR-001")
@pytest.mark.parametrize("scope", ["web", None])
def test_a_changed_runbook_is_no_longer_approved_and_that_is_said_once(scope: str | None) -> None:
    it = lab(MINE)
    it.order("approve", runbook_id="rb-mine", **({"target_id": scope} if scope else {}))
    by_hand(it, "api") if scope else None
    it.runbooks = (msgspec.structs.replace(MINE, steps=MINE.steps[:1]),)
    it.crash()
    it.crash()
    (row,) = said(it, "revoked")
    assert row.incident_id is None
    assert "healctl heal approve rb-mine" + (" --target web" if scope else "") in row.body.splitlines()[-1]
    assert state(it, "rb-mine", scope or "*").mode is Mode.DRY_RUN
    if scope:
        assert state(it, "rb-mine", "api").dry_run_count == 0
    it.kill("web")
    assert it.only("web").state is State.ESCALATED
    assert it.dispatched == []
    it.order("approve", runbook_id="rb-mine", target_id="web")
    it.advance(2)
    assert it.only("web").state is State.RESOLVED


@pytest.mark.req("R4", "FR-007")
def test_the_count_is_shown_for_each_target_and_in_all() -> None:
    it = lab()
    by_hand(it)
    by_hand(it)
    by_hand(it, "api")
    answer = it.order("list_runbooks")
    assert answer is not None
    assert answer.body is not None
    shown = next(r for r in answer.body["runbooks"] if r["id"] == RB)
    assert shown["dry_run_count"] == 3
    assert {scope["target_id"]: scope["dry_run_count"] for scope in shown["targets"]} == {"web": 2, "api": 1}
