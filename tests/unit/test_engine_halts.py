"""When a database that we write is halted, and when it is not any more (R10)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents.model import (
    ActedBy,
    AnomalyType,
    Effect,
    Halt,
    HaltPhase,
    Runbook,
    State,
    StepResult,
    StepSpec,
    Target,
    TierReason,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DatabaseData, HealthReading, Integrity
from supervisor.incidents.records import DropHalt, PutExecution, PutHalt, PutIncident
from supervisor.incidents.wording import SIGNAL_CHARS_MAX
from tests.lab.engine import Lab

BRAIN = Target("brain-db", "database", path="/s/brain.db", written=True)
TRADES = Target("trades", "database", path="/t/trades.db")
RESTORE = Runbook(
    id="rb-db-restore",
    label="Restore a database",
    applies_to=(AnomalyType.DB_CORRUPTION,),
    steps=(StepSpec("restore", "restore-database", Effect.DESTROY),),
    resource="database:{target}",
    once=True,
)


class Bench(Lab):
    """What checks find and what the executor reports comes by hand."""

    def __init__(self, *, policy: Policy | None = None) -> None:
        super().__init__(targets=(BRAIN, TRADES), policy=policy)
        self.engine.world.runbooks["rb-db-restore"] = RESTORE
        self.silent = {"brain-db", "trades"}
        self.hold_dispatch = True

    def check(self, name: str, verdict: Integrity, *, began_s_ago: float = 0.0) -> None:
        at_s = self.instant().mono_s
        data = DatabaseData("/s/brain.db", verdict, "quick_check", ("page 7 is bad",), checked_wall_s=self.now_s)
        self.feed(
            e.ReadingSeen(
                HealthReading(
                    target_id=name,
                    family="database",
                    taken_mono_s=at_s,
                    taken_wall_s=self.now_s,
                    took_ms=1.0,
                    freshness_ms=60_000,
                    available=True,
                    data=data,
                    checked_mono_s=at_s - began_s_ago,
                )
            )
        )

    def damaged(self, name: str = "brain-db") -> None:
        self.check(name, Integrity.CORRUPT)

    def report(self, index: int, *, success: bool = True, output: str = "Halted within 0.10 s of the reading") -> None:
        execution = self.dispatched[-1]
        if index == 0:
            self.feed(e.ExecutionClaimed(execution.id, "exec-1"))
        last = index == len(execution.runbook.steps) - 1  # whatever came of it: it only protects
        step = execution.runbook.steps[index].step_id
        self.feed(e.StepEnded(execution.id, index, StepResult(step, success, output, 1.0), last))

    def emergency(self) -> None:
        self.damaged()
        self.report(0)
        self.report(1, output="raw copies are there")

    @property
    def halts(self) -> dict[str, Halt]:
        return self.engine.world.halts

    def pages(self) -> list[str]:
        return [row.kind for row in self.messages("signal")]

    def restore(self, **changes: Any) -> None:
        self.order("execute", runbook_id="rb-db-restore", target_id="brain-db", confirm=True)


@pytest.mark.req("AC-005", "R10")
def test_the_incident_the_intent_and_the_halt_are_one_decision() -> None:
    lab = Bench()
    begin = len(lab.records)
    lab.damaged()
    kinds = [type(record) for record in lab.records[begin:]]
    assert {PutIncident, PutExecution, PutHalt} <= set(kinds)
    assert len(lab.dispatched) == 1, "it does not wait for a second check"
    incident = lab.only("brain-db")
    assert incident.state is State.REMEDIATING
    halt = lab.halts["brain-db"]
    assert (halt.path, halt.phase, halt.incident_id) == ("/s/brain.db", HaltPhase.HELD, incident.id)
    assert "page 7 is bad" in halt.why
    assert lab.metrics().count("heal_db_halted") == 1


@pytest.mark.req("AC-005", "R10")
def test_what_others_alone_write_is_copied_and_not_halted() -> None:
    lab = Bench()
    lab.damaged("trades")
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-db-emergency"]
    assert lab.halts == {}


@pytest.mark.req("AC-005", "R10", "R2")
def test_the_page_leaves_when_the_halt_stands_and_only_once() -> None:
    lab = Bench()
    lab.damaged()
    assert lab.pages() == []
    lab.advance(3)
    lab.report(0)
    assert lab.pages() == ["page"]
    (page,) = lab.messages("signal")
    assert "Halted within 0.10 s of the reading." in page.body
    assert "- yes: healctl heal approve rb-db-restore --target brain-db\n" in page.body
    lab.report(1, output="raw copies are there")
    lab.advance(60)
    assert lab.pages() == ["page"]
    assert lab.only("brain-db").tier_reason is TierReason.TELLS_ONLY


@pytest.mark.req("AC-005", "R10", "R2")
def test_the_page_waits_10_s_for_the_halt_and_no_longer() -> None:
    lab = Bench()
    lab.damaged()
    lab.advance(9.9)
    assert lab.pages() == []
    lab.advance(0.2)
    assert lab.pages() == ["page"]
    (page,) = lab.messages("signal")
    assert "not yet known whether other programs are kept from writing it" in page.body
    lab.report(0)
    lab.report(1)
    assert lab.pages() == ["page"]


@pytest.mark.req("R10", "R2")
def test_a_halt_that_cannot_be_seen_to_stand_is_paged_as_that() -> None:
    lab = Bench()
    lab.damaged()
    lab.report(0, success=False, output="healctl writes brain-db no more, but x (process 7) has the write lock")
    assert lab.pages() == ["page"]
    (page,) = lab.messages("signal")
    assert "process 7" in page.body
    lab.report(1, output="raw copies are there")
    incident = lab.only("brain-db")
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.REMEDIATION_FAILED)
    assert lab.pages() == ["page"], "the copies were made all the same, and nobody is paged twice"
    assert lab.halts["brain-db"].phase is HaltPhase.HELD, "the hold goes on trying"


@pytest.mark.req("NFR-003")
def test_the_page_is_short_whatever_the_steps_say() -> None:
    lab = Bench()
    lab.damaged()
    lab.report(0, output="Halted " + "very " * 500)
    (page,) = lab.messages("signal")
    assert len(page.body) <= SIGNAL_CHARS_MAX
    assert page.body.endswith("\n- I am on it, stop reminding me: healctl ack brain-db")


@pytest.mark.req("R10")
@pytest.mark.parametrize("busy", ["another run on it", "eight repairs", "its breaker"])
def test_the_halt_waits_for_nothing_that_its_steps_must_wait_for(busy: str) -> None:
    lab = Bench(policy=Policy(executions_max=1, breaker_per_target=1))
    if busy == "another run on it":
        lab.order("execute", runbook_id="rb-db-backup", target_id="brain-db", confirm=True)
    elif busy == "eight repairs":
        lab.order("execute", runbook_id="rb-db-backup", target_id="trades", confirm=True)
    else:
        lab.emergency()
        lab.check("brain-db", Integrity.OK)
        assert lab.halts == {}
    before = len(lab.dispatched)
    lab.damaged()
    assert len(lab.dispatched) == before, "its steps wait, or must not run"
    assert lab.halts["brain-db"].phase is HaltPhase.HELD
    lab.advance(10.1)
    assert lab.pages()[-1] == "page"


@pytest.mark.req("R10")
def test_only_a_check_that_began_after_the_halt_ends_it() -> None:
    lab = Bench()
    lab.advance(100)
    lab.emergency()
    lab.advance(5)
    lab.check("brain-db", Integrity.UNKNOWN)
    lab.check("brain-db", Integrity.OK, began_s_ago=5.5)
    assert "brain-db" in lab.halts
    lab.check("brain-db", Integrity.OK, began_s_ago=4.5)
    assert lab.halts == {}
    assert isinstance(next(r for r in reversed(lab.records) if isinstance(r, PutHalt | DropHalt)), DropHalt)
    incident = lab.only("brain-db")
    assert (incident.state, incident.acted_by) == (State.RESOLVED, ActedBy.RUNBOOK)
    assert lab.pages() == ["page", "closing"]
    assert lab.metrics().count("heal_db_halted") == 2


@pytest.mark.req("R10")
def test_a_wall_clock_that_is_set_back_does_not_keep_the_database_halted() -> None:
    """Which check came later, the steady clock tells (found by the simulator)."""
    lab = Bench()
    lab.advance(100)
    lab.emergency()
    lab.wall_ahead_s = -86_400.0
    lab.advance(60)
    lab.check("brain-db", Integrity.OK)
    assert lab.halts == {}


@pytest.mark.req("R10")
def test_a_well_reading_while_a_step_is_at_work_ends_nothing() -> None:
    lab = Bench()
    lab.damaged()
    lab.advance(1)
    lab.check("brain-db", Integrity.OK)
    assert "brain-db" in lab.halts


@pytest.mark.req("R10")
def test_dismissing_the_incident_does_not_let_anybody_write() -> None:
    lab = Bench()
    lab.emergency()
    lab.order("dismiss", incident_id=lab.only("brain-db").id, reason="I know")
    assert lab.only("brain-db").state is State.DISMISSED
    assert "brain-db" in lab.halts
    lab.advance(5)
    lab.check("brain-db", Integrity.OK)
    assert lab.halts == {}


@pytest.mark.req("R10")
def test_a_restore_is_let_at_the_file_and_ends_the_halt_when_a_check_agrees() -> None:
    lab = Bench()
    lab.emergency()
    lab.restore()
    assert lab.halts["brain-db"].phase is HaltPhase.RESTORING
    lab.advance(1)
    lab.check("brain-db", Integrity.OK)
    assert lab.halts["brain-db"].phase is HaltPhase.RESTORING, "in the middle of it"
    lab.report(0, output="restored")
    assert "brain-db" in lab.halts, "not yet proved"
    for _ in range(2):  # and is still so after `settle` (R6)
        lab.advance(1)
        lab.check("brain-db", Integrity.OK)
    assert lab.halts == {}


@pytest.mark.req("R10")
@pytest.mark.parametrize("how", ["step", "verification", "never claimed"])
def test_a_restore_that_fails_leaves_the_database_held(how: str) -> None:
    lab = Bench()
    lab.emergency()
    lab.restore()
    if how == "step":
        lab.report(0, success=False, output="no space left")
    elif how == "verification":
        lab.report(0)
        lab.advance(1)
        lab.damaged()
        assert lab.halts["brain-db"].phase is HaltPhase.RESTORING
        lab.advance(40)
        lab.damaged()
    else:
        execution = lab.dispatched[-1]
        lab.advance(61)
        lab.feed(e.ExecutionNotRun(execution.id, "expired", "it expired"))
    assert lab.halts["brain-db"].phase is HaltPhase.HELD


@pytest.mark.req("R10")
def test_a_person_may_halt_and_restore_without_an_incident() -> None:
    lab = Bench()
    lab.order("execute", runbook_id="rb-db-emergency", target_id="brain-db", confirm=True)
    halt = lab.halts["brain-db"]
    assert (halt.phase, halt.incident_id) == (HaltPhase.HELD, None)
    assert "ordered" in halt.why
    lab.report(0)
    lab.report(1)
    lab.advance(1)
    lab.restore()
    assert lab.halts["brain-db"].phase is HaltPhase.RESTORING


@pytest.mark.req("R10")
def test_a_halt_survives_the_engine_and_shows_in_status() -> None:
    lab = Bench()
    lab.emergency()
    halt = lab.halts["brain-db"]
    lab.crash()
    assert lab.halts == {"brain-db": halt}
    answer = lab.order("status")
    assert answer is not None
    assert answer.body is not None
    (shown,) = answer.body["halted"]
    assert (shown["database"], shown["phase"]) == ("brain-db", "held")
    assert shown["incident_id"] == lab.only("brain-db").id


@pytest.mark.req("R10")
def test_a_halt_goes_with_its_file_when_the_configuration_names_it_anew() -> None:
    lab = Bench()
    lab.emergency()
    renamed = msgspec.structs.replace(BRAIN, target_id="site")
    lab.feed(e.Reconfigured((renamed, TRADES), frozenset(), lab.policy, RUNBOOKS))
    assert set(lab.halts) == {"site"}
    assert lab.halts["site"].path == BRAIN.path
    lab.feed(e.Reconfigured((TRADES,), frozenset(), lab.policy, RUNBOOKS))
    assert lab.halts == {}, "nobody of ours writes it any more"


def test_the_emergency_only_protects_so_that_it_runs_by_itself() -> None:
    runbook = next(it for it in RUNBOOKS if AnomalyType.DB_CORRUPTION in it.applies_to)
    assert {step.effect for step in runbook.steps} == {Effect.PROTECT}
    assert all(step.idempotent for step in runbook.steps)
    assert not runbook.verifies
