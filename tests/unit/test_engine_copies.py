"""Good copies on schedule, the alarm when there are none, and the restore that a person approves (R10)."""

from __future__ import annotations

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents import keeping
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    ExecutionState,
    HaltPhase,
    Incident,
    State,
    StepResult,
    Target,
    TierReason,
    TimerKind,
)
from supervisor.incidents.readings import DatabaseData, Integrity
from tests.lab.engine import Lab

DAY = 86_400.0
NOTES = Target("notes", "database", path="/notes.db", written=True)


def lab() -> Lab:
    made = Lab(targets=(NOTES, Target("theirs", "database", path="/theirs.db")))
    made.silent |= {"notes", "theirs"}
    return made


def copies(of: Lab) -> list[str]:
    return [one.target.target_id for one in of.dispatched if one.runbook.id == keeping.RUNBOOK]


def overdue(of: Lab) -> list[Incident]:
    return [one for one in of.incidents() if one.anomaly is AnomalyType.BACKUP_OVERDUE]


@pytest.mark.req("R10", "R3")
def test_a_copy_is_made_soon_after_the_first_start_and_every_day() -> None:
    it = lab()
    it.advance(keeping.FIRST_S - 1)
    assert copies(it) == []
    it.advance(2)
    assert copies(it) == ["notes"]
    (first,) = it.dispatched
    assert (first.authority, first.incident_id) == (Authority.HARMLESS, None)
    it.advance(3 * DAY)
    assert copies(it) == ["notes"] * 4
    assert it.incidents() == []
    assert it.messages() == []
    assert it.metrics() == []  # nothing was repaired


@pytest.mark.req("R10")
def test_a_restart_keeps_the_schedule() -> None:
    it = lab()
    it.advance(keeping.FIRST_S + 1)
    it.advance(DAY / 2)
    it.crash()
    it.advance(DAY / 2 - 10)
    assert copies(it) == ["notes"]
    it.advance(20)
    assert copies(it) == ["notes"] * 2


@pytest.mark.req("R10")
def test_the_newest_copy_is_checked_after_each_later_start_and_made_anew_when_it_has_rotted() -> None:
    it = lab()
    it.advance(keeping.FIRST_S + 1)
    it.crash()
    it.dispatched.clear()
    it.advance(keeping.CHECK_S + 1)
    assert [one.runbook.id for one in it.dispatched] == [keeping.CHECK]
    it.advance(DAY / 2)
    assert copies(it) == [], "it was well"
    it.crash()
    it.step_fails = "verify"
    it.advance(keeping.CHECK_S + 1)
    it.step_fails = ""
    it.advance(keeping.SOON_S + 1)
    assert copies(it) == ["notes"]
    assert it.incidents() == []


@pytest.mark.req("R10", "R15")
def test_a_check_that_a_person_cancels_says_nothing_of_the_copy_and_brings_no_other() -> None:
    it = lab()
    it.advance(keeping.FIRST_S + 1)
    it.crash()
    it.dispatched.clear()
    it.hold_dispatch = True
    it.advance(keeping.CHECK_S + 1)
    (check,) = it.dispatched
    assert check.runbook.id == keeping.CHECK
    it.feed(e.ExecutionClaimed(check.id, "exec-1"))
    assert it.order("cancel", id=check.id)
    it.feed(e.StepEnded(check.id, 0, StepResult("verify", False, "", 1.0, cancelled_by="matthew"), True))
    it.hold_dispatch = False
    it.advance(DAY / 2)
    assert copies(it) == []
    it.advance(DAY / 2)
    assert copies(it) == ["notes"], "the next one on schedule"


@pytest.mark.req("R10")
def test_a_copy_that_fails_is_tried_again_within_the_hour() -> None:
    it = lab()
    it.step_fails = "backup"
    it.advance(keeping.FIRST_S + 1)
    it.step_fails = ""
    it.advance(keeping.AGAIN_S - 2)
    assert copies(it) == ["notes"]
    it.advance(2)
    assert copies(it) == ["notes"] * 2
    assert it.incidents() == []


@pytest.mark.req("R10", "FR-004")
def test_a_copy_that_was_interrupted_is_over_once_nothing_of_it_runs_and_leaves_the_database_free() -> None:
    """It is about no anomaly: there is nothing that a probe could say, however long it is waited for."""
    it = lab()
    it.hold_dispatch = True
    it.advance(keeping.FIRST_S + 1)
    (first,) = it.dispatched
    it.feed(e.ExecutorIs(""))
    it.feed(e.ExecutorIs("exec-2"))
    it.feed(e.ExecutionSeen(msgspec.structs.replace(first, claimed_by="exec-1", state=ExecutionState.CLAIMED)))
    assert it.engine.world.holder_of(first.resource) is not None, "what it started may still write"
    it.feed(e.ExecutionSettled(first.id, True, False, ()))
    assert it.engine.world.holder_of(first.resource) is None
    assert it.engine.world.ended[first.id].state is ExecutionState.FAILED
    it.hold_dispatch = False
    it.advance(keeping.AGAIN_S)
    assert copies(it) == ["notes"] * 2
    assert it.incidents() == []


@pytest.mark.req("R10", "R1")
def test_two_days_without_a_good_copy_are_an_anomaly_that_a_good_one_ends() -> None:
    it = lab()
    it.step_fails = "backup"
    it.advance(keeping.OVERDUE_S - 1)
    assert overdue(it) == []
    it.advance(2)
    (incident,) = overdue(it)
    assert (incident.target_id, incident.state) == ("copies:notes", State.ESCALATED)
    assert "no good copy of notes" in incident.evidence
    it.crash()
    it.advance(1)
    assert overdue(it)[0].open  # a restart makes no copy
    it.step_fails = ""
    it.advance(keeping.AGAIN_S)
    assert not overdue(it)[0].open
    it.advance(3 * DAY)
    assert len(overdue(it)) == 1


@pytest.mark.req("R10")
def test_a_copy_by_a_person_counts_and_one_of_a_database_that_we_do_not_write_is_not_scheduled() -> None:
    it = lab()
    it.advance(10)
    it.order("execute", runbook_id=keeping.RUNBOOK, target_id="notes", confirm=True)
    it.order("execute", runbook_id=keeping.RUNBOOK, target_id="theirs", confirm=True)
    assert copies(it) == ["notes", "theirs"]
    assert {key for key in it.engine.world.timers if key[0] is TimerKind.BACKUP} == {(TimerKind.BACKUP, "notes")}
    it.advance(DAY - 1)
    assert copies(it) == ["notes", "theirs"]


@pytest.mark.req("R10")
def test_what_is_not_written_any_more_is_copied_no_more() -> None:
    it = lab()
    it.step_fails = "backup"
    it.advance(keeping.OVERDUE_S + 1)
    assert overdue(it)[0].open
    it.feed(e.Reconfigured((), frozenset(), it.policy, RUNBOOKS))
    assert not overdue(it)[0].open
    before = len(copies(it))
    it.advance(3 * DAY)
    assert len(copies(it)) == before


def damaged(it: Lab, verdict: Integrity = Integrity.CORRUPT) -> None:
    data = DatabaseData("/notes.db", verdict, "quick_check", ("page 7 is bad",) if verdict is Integrity.CORRUPT else ())
    it.feed(e.ReadingSeen(msgspec.structs.replace(it.reading("notes"), family="database", data=data)))


def escalated() -> Lab:
    it = lab()
    damaged(it)
    damaged(it)
    assert it.only("notes").state is State.ESCALATED
    return it


def phase(it: Lab) -> HaltPhase:
    return it.engine.world.halts["notes"].phase


def restores(it: Lab) -> list[Authority]:
    return [one.authority for one in it.dispatched if one.runbook.id == "rb-db-restore"]


@pytest.mark.req("R10", "R3", "R7")
def test_a_restore_waits_for_an_approval_and_then_runs_and_is_proved() -> None:
    it = escalated()
    assert restores(it) == []
    assert phase(it) is HaltPhase.HELD
    answer = it.order("approve", runbook_id="rb-db-restore", target_id="notes")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [it.only("notes").id]
    it.hold_dispatch = True
    it.advance(1)
    damaged(it)  # the fresh probe
    assert restores(it) == [Authority.APPROVED]
    assert phase(it) is HaltPhase.RESTORING
    it.run(it.dispatched[-1])
    it.advance(1)
    damaged(it, Integrity.OK)
    it.advance(1)
    damaged(it, Integrity.OK)
    it.advance(1)
    damaged(it, Integrity.OK)
    assert it.only("notes").state is State.RESOLVED
    assert it.engine.world.halts == {}


@pytest.mark.req("R10")
def test_an_approval_survives_a_crash_before_its_run_and_counts_for_no_later_incident() -> None:
    it = escalated()
    it.order("approve", runbook_id="rb-db-restore", target_id="notes")
    it.crash()
    it.advance(1)
    damaged(it)
    assert restores(it) == [Authority.APPROVED]
    for _ in range(4):
        it.advance(1)
        damaged(it, Integrity.OK)
    assert not it.only("notes").open
    it.advance(100)
    damaged(it)
    damaged(it)
    it.advance(60)
    damaged(it)
    assert [one.tier_reason for one in it.incidents("notes")][-1] is TierReason.TELLS_ONLY
    assert restores(it) == [Authority.APPROVED]


@pytest.mark.req("R10", "R5")
def test_a_restore_that_fails_leaves_it_held_and_asks_anew() -> None:
    it = escalated()
    it.step_fails = "restore"
    it.order("approve", runbook_id="rb-db-restore", target_id="notes")
    it.advance(1)
    damaged(it)
    assert len(restores(it)) == 1
    assert it.only("notes").state is State.ESCALATED
    assert phase(it) is HaltPhase.HELD
    it.advance(60)
    damaged(it)
    assert len(restores(it)) == 1
    assert it.engine.world.ended[it.dispatched[-1].id].state is ExecutionState.FAILED


@pytest.mark.req("R6", "R9", "R10")
def test_the_check_that_proves_a_restore_may_take_longer_than_other_readings() -> None:
    it = escalated()
    it.order("approve", runbook_id="rb-db-restore", target_id="notes")
    it.advance(1)
    damaged(it)
    assert it.only("notes").state is State.VERIFYING
    it.advance(600)
    assert it.only("notes").state is State.VERIFYING
    assert phase(it) is HaltPhase.RESTORING
    damaged(it, Integrity.OK)
    it.advance(2)
    damaged(it, Integrity.OK)
    assert it.only("notes").state is State.RESOLVED


@pytest.mark.req("R6", "R10")
def test_a_check_that_never_ends_fails_the_restore() -> None:
    it = escalated()
    it.order("approve", runbook_id="rb-db-restore", target_id="notes")
    it.advance(1)
    damaged(it)
    it.advance(4000)
    assert it.only("notes").state is State.ESCALATED
    assert phase(it) is HaltPhase.HELD
