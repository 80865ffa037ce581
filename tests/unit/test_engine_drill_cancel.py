"""A drill that a person cancels: neither good nor failed (R15, DESIGN §6)."""

from __future__ import annotations

import pytest

from supervisor.errors import Refused
from supervisor.incidents import drill_run
from supervisor.incidents.model import OutboxState, State
from supervisor.incidents.records import AddTrail, PutOutbox
from tests.unit.test_engine_drill import DrillLab


@pytest.mark.req("R15", "FR-005")
@pytest.mark.parametrize("named", ["drill", "incident", "target"])
def test_a_drill_that_waits_for_its_receipts_ends_when_a_person_says_so_and_the_next_may_begin(named: str) -> None:
    lab = DrillLab("web")
    begun = lab.drill()
    incident = lab.only(drill_run.TARGET)
    name = {"drill": begun["drill_id"], "incident": incident.id, "target": drill_run.TARGET}[named]
    answer = lab.ask("cancel", id=name)
    assert answer == {"success": True, "target_id": drill_run.TARGET, "what": "drill"}
    state = lab.state()
    assert (state["over"], state["passed"], state["cancelled"]) == (True, False, True)
    assert state["verdict"] == "cancelled by matthew"
    last = {record.row.id: record.row.state for record in lab.records if isinstance(record, PutOutbox)}
    assert list(last.values()) == [OutboxState.QUARANTINED] * 2
    assert lab.failures() == []
    assert lab.staged == ""
    lab.receipts()  # of what had left already
    assert lab.state() == state
    with pytest.raises(Refused):
        lab.ask("cancel", id=drill_run.TARGET)
    lab.good()
    assert lab.failures() == []


@pytest.mark.req("R15", "FR-005")
def test_one_in_the_middle_of_its_repair_is_dismissed_by_who_cancelled_it_and_proves_nothing() -> None:
    lab = DrillLab("web")
    lab.step_fails = "clear"
    lab.drill()
    assert len(lab.failures()) == 1
    lab.step_fails = ""
    lab.hold_dispatch = True
    lab.drill()
    lab.ask("cancel", id=drill_run.TARGET)
    incident = lab.incidents(drill_run.TARGET)[-1]
    assert incident.state is State.DISMISSED
    trail = [r.entry for r in lab.records if isinstance(r, AddTrail) and r.entry.incident_id == incident.id]
    assert (trail[-1].actor, trail[-1].state) == ("matthew", State.DISMISSED)
    assert [failed.open for failed in lab.failures()] == [True], "the failure before it stands"
    lab.advance(600.0)
    assert len(lab.failures()) == 1, "its timeout is gone with it"
