"""What a person has paused is left alone, and told of (R15); resumed, it is looked at afresh."""

from __future__ import annotations

import pytest

from supervisor.errors import Refused, UnknownId, UsageError
from supervisor.incidents.model import State, Tier, TierReason
from supervisor.incidents.records import AddAudit, AddTrail
from tests.lab.engine import Lab, service
from tests.unit.test_engine_restarts import SIGNALS, behind, stale

SCOPES = [{"target_id": "web"}, {"family": "process"}, {"all": True}]


@pytest.mark.req("R15")
@pytest.mark.parametrize("scope", SCOPES)
def test_nothing_is_run_while_it_is_paused_and_a_person_is_told(scope: dict[str, object]) -> None:
    lab = Lab("web")
    lab.order("pause", reason="moving the disk", **scope)
    lab.kill("web")
    incident = lab.only("web")
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.PAUSED)
    assert lab.dispatched == []
    lab.advance(120)
    texts = [row.body for row in lab.messages()]
    assert texts, "a pause silences nothing"
    (entry,) = [r.entry for r in lab.records if isinstance(r, AddTrail) and r.entry.state is State.ESCALATED]
    assert "paused by matthew: moving the disk" in entry.note


@pytest.mark.req("R15")
@pytest.mark.parametrize("scope", SCOPES)
def test_resumed_it_is_looked_at_afresh_and_healed(scope: dict[str, object]) -> None:
    lab = Lab("web")
    lab.order("pause", **scope)
    lab.kill("web")
    answer = lab.order("resume", **scope)
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [lab.only("web").id]
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert len(lab.dispatched) == 1


@pytest.mark.req("R15", "R7")
def test_what_came_back_during_the_pause_is_not_touched_after_it() -> None:
    lab = Lab("web")
    lab.order("pause", all=True)
    lab.kill("web")
    lab.alive["web"] = 77
    lab.order("resume", all=True)
    lab.advance(10)
    assert lab.only("web").state is State.SELF_RESOLVED
    assert lab.dispatched == []


@pytest.mark.req("R15")
def test_a_pause_ends_by_itself_and_a_crash_at_its_end_loses_nothing() -> None:
    lab = Lab("web")
    lab.order("pause", all=True, for_s=600.0)
    lab.kill("web")
    lab.crash()
    lab.advance(599)
    assert lab.dispatched == []
    lab.advance(10)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15")
def test_a_crash_between_the_end_of_the_pause_and_the_run_loses_nothing() -> None:
    lab = Lab("web")
    lab.order("pause", all=True)
    lab.kill("web")
    lab.silent.add("web")  # its probe does not answer before the crash
    lab.order("resume", all=True)
    assert lab.dispatched == []
    lab.silent.clear()
    lab.crash()
    lab.advance(10)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15")
def test_pauses_hold_for_a_person_too() -> None:
    lab = Lab("web", "db")
    lab.order("pause", target_id="web")
    answer = lab.order("execute", runbook_id="rb-restart-service", target_id="web", confirm=True)
    assert answer is not None
    assert isinstance(answer.error, Refused)
    assert "healctl resume --target web" in answer.error.hint
    lab.order("execute", runbook_id="rb-restart-service", target_id="db", confirm=True)
    assert [e.target.target_id for e in lab.dispatched] == ["db"]


@pytest.mark.req("R15")
def test_the_narrower_of_two_pauses_outlives_the_wider() -> None:
    lab = Lab("web")
    lab.order("pause", all=True)
    lab.order("pause", target_id="web")
    lab.kill("web")
    answer = lab.order("resume", all=True)
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == []
    lab.advance(10)
    assert lab.only("web").state is State.ESCALATED
    lab.order("resume", target_id="web")
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15", "R7")
def test_what_was_approved_during_the_pause_runs_after_it() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.order("pause", all=True)
    lab.kill("web")
    lab.order("approve", runbook_id="rb-restart-service", target_id="web")
    lab.advance(10)
    assert lab.dispatched == []
    lab.order("resume", all=True)
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R15")
@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ({}, UsageError),
        ({"target_id": "web", "all": True}, UsageError),
        ({"target_id": "nothing"}, UnknownId),
        ({"family": "nothing"}, UnknownId),
        ({"all": True, "for_s": 0.0}, UsageError),
        ({"all": True, "for_s": -1.0}, UsageError),
        ({"all": True, "for_s": 1e12}, UsageError),
        ({"all": True, "for_s": "2h"}, UsageError),
        ({"everything": True}, UsageError),
    ],
)
def test_a_pause_that_makes_no_sense_is_refused(args: dict[str, object], kind: type[Exception]) -> None:
    lab = Lab("web")
    answer = lab.order("pause", **args)
    assert answer is not None
    assert isinstance(answer.error, kind)
    assert lab.engine.world.operator_pauses == {}


@pytest.mark.req("R15")
def test_what_is_not_paused_cannot_be_resumed() -> None:
    answer = Lab("web").order("resume", target_id="web")
    assert answer is not None
    assert isinstance(answer.error, UnknownId)


@pytest.mark.req("R15")
def test_every_order_that_changes_something_leaves_one_line_in_the_audit() -> None:
    lab = Lab("web")
    lab.order("pause", all=True, reason="r", actor="anna", token="one")
    lab.order("pause", all=True, reason="r", actor="anna", token="one")
    lab.order("resume", all=True, token="two")
    lab.order("status", token="three")
    lab.order("approve", runbook_id="no-such", token="four")
    lines = [record.entry for record in lab.records if isinstance(record, AddAudit)]
    assert [(it.actor, it.action) for it in lines] == [("anna", "pause"), ("anna", "pause"), ("matthew", "resume")]
    assert lines[0].id == lines[1].id, "sent twice, it is one line in the ledger"


@pytest.mark.req("R15", "FR-007")
def test_status_shows_who_paused_what_until_when() -> None:
    lab = Lab("web")
    lab.order("pause", target_id="web", for_s=60.0, reason="disk", actor="anna")
    answer = lab.order("status")
    assert answer is not None
    assert answer.body is not None
    (paused,) = answer.body["paused"]
    assert (paused["scope"], paused["name"], paused["by"], paused["reason"]) == ("target", "web", "anna", "disk")
    assert paused["until"] is not None
    lab.advance(61)
    again = lab.order("status")
    assert again is not None
    assert again.body is not None
    assert again.body["paused"] == []


@pytest.mark.req("R10", "R15")
def test_a_critical_incident_pages_although_it_is_paused() -> None:
    lab = Lab("web")
    lab.order("pause", all=True)
    lab.kill("web")
    assert lab.only("web").tier is Tier.PAGE
    assert [row.channel.value for row in lab.messages("signal")] == ["signal"]


@pytest.mark.req("R15", "NFR-001")
@pytest.mark.parametrize("scope", SCOPES)
def test_a_paused_service_is_not_restarted_for_the_signal_behind_which_it_stands(scope: dict[str, object]) -> None:
    lab = Lab(targets=(service("web"), behind("web")))
    lab.silent.add(SIGNALS)
    lab.poll("web")
    lab.order("approve", runbook_id="rb-restart-augur", target_id=SIGNALS)
    lab.order("pause", **scope)
    stale(lab)
    assert (lab.dispatched, lab.only(SIGNALS).tier_reason) == ([], TierReason.PAUSED)
    refused = lab.order("execute", runbook_id="rb-restart-augur", target_id=SIGNALS, confirm=True)
    assert refused is not None
    assert isinstance(refused.error, Refused)
    answer = lab.order("resume", **scope)
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [lab.only(SIGNALS).id]
    stale(lab)
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-restart-augur"]


@pytest.mark.req("FR-007", "NFR-003")
def test_status_tells_of_what_waits_for_a_person_what_there_is_to_decide_as_its_page_does() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    lab.advance(1)
    answer = lab.order("status")
    assert answer is not None
    assert answer.body is not None
    (row,) = answer.body["open_incidents"]
    assert row["state"] == "escalated"
    lead, *choices = row["decide"].splitlines()
    assert lead == "Decide: restart web?"
    assert "healctl heal approve rb-restart-service --target web" in row["decide"]
    assert row["decide"] in lab.messages("signal")[-1].body
    assert all(choice.startswith("- ") for choice in choices)
