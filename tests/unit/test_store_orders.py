"""What people have ordered, in the ledger: pauses, the audit, and the line in a closed incident's trail (R15)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.incidents.orders import AuditEntry, Offer, OperatorPause, Scope, TakenReply
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab
from tests.unit.test_store_ledger import opened, take


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as it:
        yield it


@pytest.mark.req("R15")
def test_pauses_are_in_the_snapshot_until_they_are_lifted(ledger: Ledger) -> None:
    web = OperatorPause(Scope.TARGET, "web", 1.0, "anna", "disk", 5.0, 6.0)
    everything = OperatorPause(Scope.ALL, "", 2.0, "bob")
    take(ledger, rec.PutOperatorPause(web), rec.PutOperatorPause(everything))
    again = msgspec.structs.replace(web, reason="another disk")
    take(ledger, rec.PutOperatorPause(again), rec.DropOperatorPause(everything.key))
    assert opened(ledger).snapshot.operator_pauses == (again,)


@pytest.mark.req("R15")
def test_what_pages_offer_and_what_was_replied_is_in_the_snapshot_and_survives_damage(tmp_path: Path) -> None:
    offer = Offer("off_1", "K7QM2P", "reply", "", "rb-x", "v1", "web", "engine", 1.0, 2.0, ("inc_1",), (7,), ("run",))
    kept, dropped = TakenReply("u:7", "+15550101", 3.0, "run", "off_1", waits=True), TakenReply("u:8", "+15550101", 3.0)
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        take(ledger, rec.PutRequest(offer), rec.PutReply(dropped), rec.PutReply(kept))
        take(ledger, rec.PutReply(msgspec.structs.replace(kept, waits=False)), rec.DropReply("u:8"))
        snapshot = opened(ledger).snapshot
        assert snapshot.requests == (offer,)
        assert snapshot.replies == (msgspec.structs.replace(kept, waits=False),)
        ledger.set_aside("on purpose")
        assert opened(ledger, "another").snapshot.replies == snapshot.replies, "a reply that comes again does nothing"


@pytest.mark.req("R15")
def test_the_audit_has_each_order_once_the_newest_first(ledger: Ledger) -> None:
    lines = [AuditEntry(f"ord_{n}", float(n), "anna", "pause", '{"all":true}') for n in range(3)]
    take(ledger, *(rec.AddAudit(line) for line in lines))
    take(ledger, rec.AddAudit(lines[0]))
    assert ledger.audit(2) == (lines[2], lines[1])
    assert ledger.audit(10) == tuple(reversed(lines))


@pytest.mark.req("R15", "R14")
def test_a_late_line_goes_on_with_the_trail_of_a_closed_incident(ledger: Ledger) -> None:
    closed = lab.incident(1, state=m.State.RESOLVED, resolved_wall_s=1.5)
    take(ledger, rec.PutIncident(closed), rec.AddTrail(lab.trail(1, 0)), rec.AddTrail(lab.trail(1, 1)))
    late = rec.AddLateTrail(closed.id, 9.0, "executor", "undone by a person", "exe_1")
    take(ledger, late, rec.AddLateTrail("inc-archived", 9.0, "executor", "gone", "exe_2"))
    (trail, none) = ledger.trails([closed.id, "inc-archived"])  # type: ignore[misc]
    entries = msgspec.json.decode(trail, type=list[m.TrailEntry])
    assert [(it.n, it.note) for it in entries][2:] == [(2, "undone by a person")]
    assert (entries[2].state, entries[2].execution_id) == (m.State.RESOLVED, "exe_1")
    assert none == b"[]"


@pytest.mark.req("R15")
def test_the_ledger_knows_what_has_been_undone(ledger: Ledger) -> None:
    failed = lab.execution(2, state=m.ExecutionState.FAILED, undoes="exe-000001")
    take(ledger, rec.PutExecution(lab.execution(1)), rec.PutExecution(failed))
    assert ledger.undone_by("exe-000001") == "", "an undo that failed has undone nothing"
    done = msgspec.structs.replace(failed, id="exe-undo", state=m.ExecutionState.SUCCEEDED)
    take(ledger, rec.PutExecution(done))
    assert ledger.undone_by("exe-000001") == "exe-undo"
    assert ledger.undone_by("") == ""
