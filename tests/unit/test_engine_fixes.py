"""AC-006 on the pure engine: a fix by hand becomes a draft in dry_run, told by a person or captured by a hook."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor.errors import HealError, UnknownId, UsageError
from supervisor.incidents import events as e
from supervisor.incidents.matching import Meaning
from supervisor.incidents.model import ActedBy, Mode, State
from supervisor.incidents.policy import may_graduate
from supervisor.incidents.records import AddAudit, PutOutbox, PutRunbook
from tests.lab.engine import Lab, service

RESTART = ("systemctl", "restart", "web")
MEANINGS = (Meaning(RESTART, "rb-restart-service", "web"),)


def broken() -> Lab:
    lab = Lab(targets=(service("web", auto_restart=False), service("db", auto_restart=False)))
    lab.engine.world.meanings = MEANINGS
    lab.kill("web")
    return lab


def order(lab: Lab, action: str, **args: Any) -> dict[str, Any]:
    token = f"{action}{len(lab.records)}"
    answer = lab.order(action, token=token, **args)
    if answer is None:  # record_fix waits for its message
        row = next(r.row for r in reversed(lab.records) if isinstance(r, PutOutbox))
        lab.feed(e.Delivered(row.id, 1, "syn_1", ""))
        answer = lab.answers[token]
    if answer.error is not None:
        raise answer.error
    assert answer.body is not None
    return answer.body


def back(lab: Lab) -> None:
    lab.alive["web"] = 4_711
    lab.poll("web")


@pytest.mark.req("AC-006", "AC-007", "FR-006", "FR-008")
def test_ac_006_a_recorded_fix_is_a_draft_in_dry_run_and_approval_makes_it_run() -> None:
    lab = broken()
    incident = lab.only("web")
    answer = order(lab, "record_fix", incident_id=incident.id, description="it hung", commands=[list(RESTART)])
    draft = answer["draft_runbook_id"]
    assert (answer["success"], answer["draft_runbook_mode"], answer["synapse_message_sent"]) == (True, "dry_run", True)
    assert answer["incident_resolved"] is False
    assert "heal_runbook_created" in lab.metrics()
    assert [row.kind for row in lab.messages("synapse")][-1] == "proposal"
    assert lab.dispatched == []
    listed = {it["id"]: it for it in order(lab, "list_runbooks")["runbooks"]}
    assert (listed[draft]["mode"], listed[draft]["confidence"]) == ("dry_run", 0.5)
    back(lab)
    assert lab.only("web").state is State.RESOLVED
    assert lab.only("web").acted_by is ActedBy.PERSON
    approved = order(lab, "approve", runbook_id=draft, target_id="web")
    assert approved["mode"] == Mode.AUTO_EXECUTE
    lab.crash()
    assert draft in lab.engine.world.runbooks, "a draft survives"


@pytest.mark.req("AC-006", "FR-006")
def test_ac_006_by_the_hook_alone_when_the_probe_clears_and_no_runbook_ran() -> None:
    lab = broken()
    noted = order(lab, "captured", commands=[["ls", "-l"], list(RESTART)], source="bash")
    assert noted["noted_for"] == [lab.only("web").id]
    lab.crash()
    lab.engine.world.meanings = MEANINGS
    back(lab)
    assert lab.only("web").state is State.RESOLVED, "a person has done it"
    (draft,) = lab.engine.world.drafts.values()
    assert [step.kind for step in draft.steps] == ["stop-service", "start-service"]
    assert draft.author == "person:bash"
    assert len([row for row in lab.messages("synapse") if row.kind == "proposal"]) == 1


@pytest.mark.req("FR-006")
def test_a_service_that_a_runbook_healed_proposes_nothing() -> None:
    lab = broken()
    order(lab, "captured", commands=[["rm", "/tmp/lock"]])
    order(lab, "approve", runbook_id="rb-restart-service", target_id="web")
    lab.advance(5)
    assert lab.only("web").state is State.RESOLVED
    assert lab.engine.world.drafts == {}


@pytest.mark.req("FR-006")
def test_a_fix_may_be_recorded_after_the_incident_has_closed() -> None:
    lab = broken()
    back(lab)
    incident = lab.only("web")
    answer = order(lab, "record_fix", incident_id=incident.id, description="plugged it in")
    assert answer["incident_resolved"] is True
    (draft,) = lab.engine.world.drafts.values()
    assert draft.by_hand
    assert order(lab, "approve", runbook_id=draft.id)["mode"] == Mode.AUTO_EXECUTE
    lab.kill("web")
    lab.advance(5)
    assert all(it.runbook.id != draft.id for it in lab.dispatched), "a note is never run"


@pytest.mark.req("FR-006", "R11")
def test_what_no_meaning_fits_is_a_note_and_secrets_are_gone_before_anything_is_kept() -> None:
    lab = broken()
    secret = "hunter2hunter2"
    order(lab, "captured", commands=[["mysql", f"--password={secret}", "-e", "x"]])
    order(
        lab,
        "record_fix",
        incident_id=lab.only("web").id,
        description=f"set password={secret}",
        commands=[["curl", "-u", f"me:{secret}", "http://x"]],
    )
    assert [r for r in lab.records if isinstance(r, PutRunbook) and r.runbook.by_hand]
    assert [r for r in lab.records if isinstance(r, AddAudit)]
    assert secret not in msgspec.json.encode(lab.records).decode()


@pytest.mark.req("FR-006", "FR-007")
@pytest.mark.parametrize(
    ("args", "kind"),
    [
        ({"incident_id": "inc_none", "description": "x"}, UnknownId),
        ({"incident_id": "", "description": ""}, UsageError),
        ({"incident_id": "i", "description": "x", "commands": "ls"}, UsageError),
        ({"incident_id": "i", "description": "x", "commands": [["a"]] * 51}, UsageError),
        ({"description": "x"}, UsageError),
    ],
)
def test_a_fix_that_cannot_be_recorded_is_refused(args: dict[str, Any], kind: type[HealError]) -> None:
    lab = broken()
    with pytest.raises(kind):
        order(lab, "record_fix", **args)
    assert lab.engine.world.drafts == {}


@pytest.mark.req("FR-006")
def test_without_a_receipt_the_answer_says_so() -> None:
    lab = broken()
    lab.order("record_fix", token="r", incident_id=lab.only("web").id, description="x")
    lab.advance(5)
    body = lab.answers["r"].body
    assert body is not None
    assert body["synapse_message_sent"] is False


@pytest.mark.req("FR-006", "R4")
def test_what_an_agent_had_a_hand_in_is_an_agents_draft_and_never_graduates() -> None:
    lab = broken()
    order(lab, "captured", commands=[list(RESTART)], source="bash")
    lab.order("captured", actor="agent:openclaw", commands=[list(RESTART)], source="openclaw")
    back(lab)
    (draft,) = lab.engine.world.drafts.values()
    assert draft.author == "person:agent:openclaw"
    assert not may_graduate(draft)
