"""Several runbooks for one anomaly: one after another, each by R3 (R2, R3, R7, AC-004)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Effect,
    Incident,
    Mode,
    Runbook,
    State,
    StepSpec,
    Target,
    TierReason,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DiskData, HealthReading
from tests.lab.engine import Lab, service

DISK = "disk:/"
ROTATE = Runbook(
    id="rb-rotate-logs",
    label="Rotate logs",
    applies_to=(AnomalyType.DISK_PRESSURE, AnomalyType.DISK_CRITICAL),
    steps=(StepSpec("rotate", "rotate-logs", Effect.CHANGE, idempotent=True),),
    resource="files:{target}",
)
CLEANUP = Runbook(
    id="rb-emergency-cleanup",
    label="Remove what may be removed",
    applies_to=(AnomalyType.DISK_CRITICAL,),
    steps=(StepSpec("remove", "remove-files", Effect.DESTROY, idempotent=True),),
    resource="files:{target}",
)


class Disk(Lab):
    """One disk; `full` is its share, and `after` what each runbook leaves of it."""

    def __init__(self, *runbooks: Runbook, policy: Policy | None = None) -> None:
        self.full = 0.5
        self.after: dict[str, float] = {}
        super().__init__(targets=(Target(DISK, "host"),), runbooks=runbooks or (ROTATE, CLEANUP), policy=policy)

    def reading(self, name: str, **changes: object) -> HealthReading:
        data = DiskData("/", 0.85, 0.95, used_share=self.full, size_bytes=10**9, available_bytes=10**7)
        return HealthReading(name, "host", self.instant().mono_s, self.now_s, 1.0, 60_000, True, data)

    def run(self, execution: object) -> None:
        assert self.dispatched[-1] is execution
        self.full = self.after.get(self.dispatched[-1].runbook.id, self.full)
        super().run(self.dispatched[-1])

    def fills(self, share: float = 0.97) -> Incident:
        self.full = share
        self.poll(DISK)
        return self.newest()

    def newest(self) -> Incident:
        return self.incidents(DISK)[-1]

    @property
    def ran(self) -> list[tuple[str, Authority]]:
        return [(execution.runbook.id, execution.authority) for execution in self.dispatched]


ROTATED = ("rb-rotate-logs", Authority.WHITELIST)


@pytest.mark.req("AC-004", "R2", "R3")
def test_a_critical_disk_is_paged_at_once_and_the_whitelisted_rung_runs_first() -> None:
    lab = Disk()
    lab.after["rb-rotate-logs"] = 0.5
    lab.hold_dispatch = True
    lab.fills()
    (page,) = lab.messages("signal")
    assert page.created_wall_s == lab.now_s, "without a hold"
    assert "The disk / is nearly full" in page.body
    assert ": healctl heal approve rb-emergency-cleanup --target disk:/" in page.body
    assert lab.ran == [ROTATED]
    lab.run(lab.dispatched[-1])
    lab.advance(2)
    assert lab.newest().state is State.RESOLVED
    lab.advance(3600)
    assert [row.kind for row in lab.messages("signal")] == ["page", "closing"]
    assert lab.planned == [], "nothing had to be asked"


@pytest.mark.req("AC-004", "R3", "R7")
def test_still_critical_the_next_rung_waits_for_a_person_and_runs_on_approval() -> None:
    lab = Disk()
    lab.fills()
    lab.advance(40)
    incident = lab.newest()
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.VERIFICATION_FAILED)
    assert lab.ran == [ROTATED]
    told = [row.body for row in lab.messages("synapse")][-1]
    assert "- yes, and always from now on: healctl heal approve rb-emergency-cleanup --target disk:/" in told
    assert "Decide: archive logs and delete old temporary and compiled files?" in told
    lab.after["rb-emergency-cleanup"] = 0.6
    answer = lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    assert answer is not None
    assert answer.body is not None
    assert answer.body["running_for"] == [incident.id]
    lab.advance(2)
    assert lab.ran == [ROTATED, ("rb-emergency-cleanup", Authority.APPROVED)]
    assert lab.newest().state is State.RESOLVED
    assert [row.kind for row in lab.messages("signal")] == ["page", "closing"]


@pytest.mark.req("R3", "R7")
def test_the_next_rung_runs_by_itself_when_it_is_approved_already_and_only_then() -> None:
    lab = Disk()
    lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.after["rb-emergency-cleanup"] = 0.6
    lab.fills()
    assert lab.ran == [ROTATED], "the milder one first"
    lab.advance(40)
    assert lab.ran == [ROTATED, ("rb-emergency-cleanup", Authority.APPROVED)]
    assert lab.newest().state is State.RESOLVED
    assert "healctl will try to archive logs and delete old temporary and compiled files next, by itself" in "".join(
        row.body for row in lab.messages("synapse")
    )


@pytest.mark.req("NFR-002", "R7")
def test_what_is_well_again_before_the_next_rung_is_left_alone() -> None:
    lab = Disk()
    lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.fills()
    lab.advance(29)
    lab.silent.add(DISK)
    lab.advance(20)
    assert lab.newest().state is State.ESCALATED
    lab.full = 0.5
    lab.silent.clear()
    lab.advance(10)
    assert lab.ran == [ROTATED]
    assert not lab.newest().open


@pytest.mark.req("R3")
def test_what_destroys_overtakes_no_milder_rung_unless_a_person_says_so_now() -> None:
    lab = Disk(policy=Policy(auto_execute=()))
    lab.order("approve", runbook_id="rb-emergency-cleanup")
    lab.advance(1)
    lab.fills()
    lab.advance(5)
    incident = lab.newest()
    assert lab.ran == []
    assert (incident.state, incident.runbook_id) == (State.ESCALATED, "rb-rotate-logs")
    lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    assert [run for run, _ in lab.ran] == ["rb-emergency-cleanup"]


@pytest.mark.req("R3", "R4")
def test_a_milder_rung_that_may_run_passes_over_one_that_may_not() -> None:
    mine = msgspec.structs.replace(ROTATE, id="rb-mine", applies_to=(AnomalyType.DISK_CRITICAL,), author="matthew")
    lab = Disk(msgspec.structs.replace(ROTATE, id="rb-unknown"), mine)
    lab.order("approve", runbook_id="rb-mine", target_id=DISK)
    lab.fills()
    assert lab.ran == [("rb-mine", Authority.APPROVED)]


@pytest.mark.req("R7")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_next_rung_survives_a_crash(moment: str) -> None:
    lab = Disk()
    if moment == "before":
        lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.fills()
    lab.silent.add(DISK)
    lab.advance(120)
    assert lab.newest().state is State.ESCALATED
    if moment == "after":
        lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.crash()
    lab.silent.clear()
    lab.advance(10)
    assert [run for run, _ in lab.ran] == ["rb-rotate-logs", "rb-emergency-cleanup"]


@pytest.mark.req("R7")
def test_a_rung_that_failed_runs_again_for_this_incident_only_on_a_new_approval() -> None:
    lab = Disk()
    lab.fills()
    lab.advance(40)
    lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.advance(40)
    assert [run for run, _ in lab.ran] == ["rb-rotate-logs", "rb-emergency-cleanup"]
    assert lab.newest().spent == ("rb-rotate-logs", "rb-emergency-cleanup")
    lab.advance(3000)
    assert len(lab.ran) == 2, "it is not tried for ever"
    lab.order("approve", runbook_id="rb-emergency-cleanup", target_id=DISK)
    lab.advance(1)
    assert [run for run, _ in lab.ran][2:] == ["rb-emergency-cleanup"]


@pytest.mark.req("R1", "R6")
def test_a_rung_that_only_tells_leads_to_the_question_about_the_next() -> None:
    tells = Runbook(
        id="rb-look",
        label="Look at it",
        applies_to=(AnomalyType.DISK_PRESSURE,),
        steps=(StepSpec("look", "observe", Effect.OBSERVE),),
        resource="files:{target}",
        verifies=False,
    )
    cures = msgspec.structs.replace(ROTATE, id="rb-cure")
    lab = Disk(tells, cures)
    incident = lab.fills(0.9)
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.NEEDS_APPROVAL)
    assert incident.runbook_id == "rb-cure"
    (row,) = lab.messages()
    assert (row.kind, row.priority) == ("approval", "action")
    assert 'healctl ran "Look at it" (rb-look): done.' in row.body
    assert "healctl heal approve rb-cure --target disk:/" in row.body


@pytest.mark.req("R3")
def test_an_approval_for_one_incident_does_not_count_for_the_next() -> None:
    once = msgspec.structs.replace(CLEANUP, once=True)
    lab = Disk(ROTATE, once)
    lab.order("approve", runbook_id=once.id, target_id=DISK)
    lab.advance(1)
    lab.fills()
    lab.advance(40)
    assert lab.ran == [ROTATED], "it was given before this incident"
    lab.after[once.id] = 0.5
    lab.order("approve", runbook_id=once.id, target_id=DISK)
    lab.advance(2)
    assert lab.newest().state is State.RESOLVED
    lab.advance(4000)
    lab.fills()
    lab.advance(40)
    assert [run for run, _ in lab.ran] == ["rb-rotate-logs", once.id, "rb-rotate-logs"]
    assert lab.newest().state is State.ESCALATED


def test_rungs_that_do_not_fit_the_target_are_left_out() -> None:
    other = Runbook(
        id="rb-other",
        label="Another way",
        applies_to=(AnomalyType.PROCESS_DEAD,),
        steps=(StepSpec("x", "x", Effect.CHANGE),),
        resource="service:{service}",
    )
    restart = msgspec.structs.replace(other, id="rb-restart-service", starts_service=True)
    lab = Lab(targets=(service("web", recipe=False),), runbooks=(restart, other))
    lab.kill("web")
    incident = lab.only("web")
    assert (incident.tier_reason, incident.runbook_id) == (TierReason.NEEDS_APPROVAL, "rb-other")
    assert lab.engine.world.runbook_states["rb-other", "web"].mode is Mode.DRY_RUN


@pytest.mark.req("R4", "R1")
def test_what_is_not_critical_waits_ten_seconds_for_its_plan_and_no_answer_is_a_failed_dry_run() -> None:
    lab = Disk(msgspec.structs.replace(ROTATE, id="rb-mine"))
    lab.hold_plans = True
    lab.fills(0.9)
    lab.advance(9.9)
    assert lab.newest().state is State.DIAGNOSING
    assert lab.messages() == []
    lab.advance(1)
    assert (lab.newest().state, lab.newest().tier_reason) == (State.ESCALATED, TierReason.NEEDS_APPROVAL)
    (row,) = lab.messages()
    assert "What it would do is not known: no answer within 10 s." in row.body
    assert "healctl heal approve rb-mine --target disk:/" in row.body
    lab.advance(1)
    assert lab.engine.world.runbook_states["rb-mine", DISK].dry_run_count == 0
    lab.answer_plan(lab.planned[-1])
    assert not lab.newest().dry_runs[0].predicts_clear, "it comes too late"
