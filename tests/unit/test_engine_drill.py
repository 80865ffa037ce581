"""`healctl drill` in the engine: every outcome, every crash, and that it counts nowhere (DESIGN §6, FR-005)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor.errors import HealError, Refused, UnknownId, UsageError
from supervisor.incidents import drill, drill_run, views
from supervisor.incidents import events as e
from supervisor.incidents.effects import CarryDrill, Effect
from supervisor.incidents.model import (
    AnomalyType,
    Channel,
    Execution,
    Incident,
    Instant,
    OutboxState,
    State,
    Tier,
    TierReason,
    TimerKind,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DrillData, HealthReading, Unavailable
from supervisor.incidents.records import AddMetric, PutTally
from tests.lab.engine import Lab
from tests.unit.test_drill_times import ROME, wall_s

PAGED = Policy(pages=True)
ORDER = (*drill_run.ALWAYS, "synapse", "signal", drill_run.CLOSED)


class DrillLab(Lab):
    """A lab with the drill's scratch file, and a notifier that gives receipts by hand."""

    def __init__(self, *names: str, policy: Policy = PAGED, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s  # of the wall clock, beside the steady one
        self.staged = ""
        self.cannot_stage = ""
        self.unreadable = False
        super().__init__(*names, policy=policy)
        self.alive[drill_run.TARGET] = None

    def instant(self) -> Instant:
        return msgspec.structs.replace(super().instant(), wall_s=self.now_s + self.ahead_s)

    def reading(self, name: str, **changes: Any) -> HealthReading:
        if name != drill_run.TARGET:
            return super().reading(name, **changes)
        mono_s = self.instant().mono_s
        reading = HealthReading(
            name, drill_run.FAMILY, mono_s, self.now_s, 0.1, 60_000, True, DrillData(self.staged), **changes
        )
        gone = {"available": False, "data": None, "reason": Unavailable.ERROR, "error": "not permitted"}
        return msgspec.structs.replace(reading, **gone) if self.unreadable else reading

    def _carry_out(self, effect: Effect) -> None:
        if not isinstance(effect, CarryDrill):
            super()._carry_out(effect)
            return
        if effect.stage in (drill_run.ASKED, drill_run.OVER):
            self.staged = effect.drill_id if effect.stage == drill_run.ASKED else ""
        error = self.cannot_stage if effect.stage == drill_run.ASKED else ""
        self.feed(e.DrillTold(effect.drill_id, effect.stage, error))

    def run(self, execution: Execution) -> None:
        if execution.runbook.id == drill_run.RUNBOOK and not self.step_fails:
            self.staged = ""
        super().run(execution)

    # -- a drill --

    def drill(self, **args: Any) -> dict[str, Any]:
        """Begins one, and lets it settle: what is left are its receipts."""
        body = self.ask("drill", **args)
        self.advance(3.0)
        return body

    def ask(self, action: str, **args: Any) -> dict[str, Any]:
        """The answer's body; raises what it was refused with."""
        answer = self.order(action, **args)
        assert answer is not None
        if answer.error is not None:
            raise answer.error
        assert answer.body is not None
        return answer.body

    def receipts(self, *channels: str) -> None:
        """The receipts of what waits on these channels (all)."""
        for row in list(self.engine.world.outbox.values()):
            if row.channel in channels or not channels:
                self.feed(e.Delivered(row.id, 1, f"{row.channel}:1", ""))

    def state(self) -> dict[str, Any]:
        run = self.engine.world.drill
        assert run is not None
        return drill_run.run_json(run, views.stamp)

    def stages(self) -> list[str]:
        return [stage["stage"] for stage in self.state()["stages"]]

    def failures(self) -> list[Incident]:
        return [i for i in self.incidents() if i.anomaly is AnomalyType.DRILL_FAILED]

    def good(self, **args: Any) -> None:
        self.drill(**args)
        self.receipts()
        assert self.state()["passed"] is True


@pytest.mark.req("FR-005")
def test_a_good_drill_reaches_every_stage_by_the_way_of_every_incident() -> None:
    lab = DrillLab("web")
    begun = lab.drill()
    assert not begun["over"]
    incident = lab.only(drill_run.TARGET)
    assert lab.states(incident) == [
        State.DETECTED, State.DIAGNOSING, State.REMEDIATING, State.VERIFYING, State.RESOLVED,
    ]  # fmt: skip
    assert lab.state()["passed"] is None
    assert lab.state()["missing"] == ["signal", "synapse"]
    lab.receipts("synapse")
    assert lab.state()["missing"] == ["signal"]
    lab.receipts("signal")
    state = lab.state()
    assert (state["passed"], state["missing"]) == (True, [])
    assert sorted(lab.stages()) == sorted(ORDER)
    after_ms = [stage["after_ms"] for stage in state["stages"]]
    assert after_ms == sorted(after_ms)
    assert lab.stages()[-1] == drill_run.CLOSED
    assert drill.passed(lab.engine.world) is True
    assert lab.failures() == []


@pytest.mark.req("FR-005", "R2")
def test_every_message_says_that_it_is_a_drill_and_none_is_repeated() -> None:
    lab = DrillLab("web")
    lab.good()
    rows = lab.messages()
    assert sorted(row.channel for row in rows) == [Channel.SIGNAL, Channel.SYNAPSE]
    for row in rows:
        assert row.subject.startswith("DRILL:")
        assert row.body.startswith("DRILL: this is a drill, nothing is wrong.")
        assert row.tier is Tier.PAGE
    lab.advance(2 * 86400.0)
    assert len(lab.messages()) == 2
    left = [name for kind, name in lab.engine.world.timers if kind is not TimerKind.OWN]  # its own: what waits too long
    assert left == []


@pytest.mark.req("FR-005", "FR-008")
def test_it_counts_in_no_figure_no_breaker_and_no_record_but_its_own() -> None:
    lab = DrillLab("web")
    before = views.stats(lab.engine.world)
    for _ in range(5):  # more than a breaker lets through, and than make an anomaly intermittent
        lab.good()
    world = lab.engine.world
    assert not [r for r in lab.records if isinstance(r, AddMetric | PutTally)]
    assert views.stats(world) == before
    assert (len(world.history), world.breakers, world.storms) == (0, {}, {})
    assert [key for key in world.runbook_states] == [(drill_run.RUNBOOK, drill_run.TARGET)]
    assert world.runbook_states[drill_run.RUNBOOK, drill_run.TARGET].successes == 5
    assert all(not i.intermittent for i in lab.incidents(drill_run.TARGET))


@pytest.mark.req("FR-005")
def test_a_step_that_fails_fails_the_drill_which_the_next_good_one_ends() -> None:
    lab = DrillLab("web")
    lab.step_fails = "clear"
    lab.drill()
    assert lab.state()["passed"] is False
    assert "step clear failed: no such file" in lab.state()["verdict"]
    assert lab.staged == ""  # nothing of it is left behind
    assert lab.only(drill_run.TARGET).state is State.DISMISSED
    (failed,) = lab.failures()
    assert (failed.tier, failed.tier_reason, failed.state) == (Tier.PAGE, TierReason.NO_RUNBOOK, State.ESCALATED)
    assert sorted(row.channel for row in lab.messages()) == [Channel.SIGNAL, Channel.SYNAPSE]
    assert all("DRILL:" not in row.body for row in lab.messages())  # this one is real
    assert drill.passed(lab.engine.world) is False
    lab.step_fails = ""
    lab.good()
    (failed,) = lab.failures()
    assert failed.state is State.SELF_RESOLVED
    assert drill.passed(lab.engine.world) is True


@pytest.mark.req("FR-005", "AC-011")
def test_without_a_receipt_of_signal_it_fails_and_that_is_told_by_synapse_alone() -> None:
    lab = DrillLab("web")
    lab.drill(timeout_s=30.0)
    lab.receipts("synapse")
    (row,) = lab.messages("signal")
    lab.feed(e.Delivered(row.id, 1, "", "refused"))
    lab.advance(30.0)
    assert lab.state()["verdict"] == "FAILED: not within 30 s: no receipt from signal (refused)"
    (failed,) = lab.failures()
    assert failed.target_id == drill.SIGNAL_PART
    assert [it.kind for it in lab.messages("synapse")] == ["drill", "page"]
    assert len(lab.messages("signal")) == 1
    lab.good(channel="synapse")
    assert lab.failures()[0].open  # that one has proved nothing about Signal
    lab.good()
    assert not lab.failures()[0].open
    assert [it.kind for it in lab.messages("signal")] == ["drill", "drill"]


@pytest.mark.req("FR-005")
def test_without_a_receipt_of_synapse_it_is_told_on_both() -> None:
    lab = DrillLab("web")
    lab.drill()
    lab.receipts("signal")
    lab.advance(60.0)
    (failed,) = lab.failures()
    assert failed.target_id == drill.PART
    assert [it.kind for it in lab.messages("signal")] == ["drill", "page"]
    lab.good(channel="signal")
    assert lab.failures()[0].open  # that one has proved nothing about Synapse
    lab.good()
    assert not lab.failures()[0].open


@pytest.mark.req("FR-005")
def test_what_an_old_drill_left_unsent_is_withdrawn_and_its_late_receipt_proves_nothing() -> None:
    lab = DrillLab("web")
    lab.drill()
    (old,) = lab.messages("signal")
    lab.advance(60.0)
    lab.drill()
    assert old.id not in lab.engine.world.outbox
    withdrawn = [r.row for r in lab.records if getattr(r, "row", None) is not None and r.row.id == old.id]  # type: ignore[union-attr]
    assert withdrawn[-1].state is OutboxState.QUARANTINED
    lab.feed(e.Delivered(old.id, 9, "signal:late", ""))
    assert "signal" in lab.state()["missing"]


@pytest.mark.req("FR-005")
def test_what_cannot_be_staged_fails_at_once() -> None:
    lab = DrillLab("web")
    lab.cannot_stage = "run/drill: Permission denied"
    lab.drill()
    assert lab.state()["verdict"] == "FAILED: run/drill: Permission denied"


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("how", ["silent", "unreadable"])
def test_a_probe_that_sees_nothing_fails_it_in_time(how: str) -> None:
    lab = DrillLab("web")
    if how == "silent":
        lab.silent.add(drill_run.TARGET)
    lab.unreadable = how == "unreadable"
    lab.drill()
    lab.advance(60.0)
    assert lab.state()["verdict"] == "FAILED: not within 60 s: the stage detected was not reached"


@pytest.mark.req("FR-005")
def test_an_executor_that_does_nothing_fails_it_and_what_it_still_does_later_harms_nothing() -> None:
    lab = DrillLab("web")
    lab.hold_dispatch = True
    lab.drill(timeout_s=5.0)
    lab.advance(5.0)
    assert lab.state()["verdict"] == "FAILED: not within 5 s: the stage step_ended was not reached"
    (execution,) = lab.dispatched
    lab.hold_dispatch = False
    lab.run(execution)
    lab.good()


@pytest.mark.req("FR-005")
def test_two_at_once_are_one_and_the_same_order_sent_again_is_no_second() -> None:
    lab = DrillLab("web")
    first = lab.ask("drill", token="a")
    with pytest.raises(Refused, match="under way"):
        lab.drill()
    assert lab.ask("drill", token="a")["drill_id"] == first["drill_id"]
    assert len(lab.incidents(drill_run.TARGET)) == 1


@pytest.mark.req("FR-005")
def test_whoever_waits_is_told_of_each_stage() -> None:
    lab = DrillLab("web")
    begun = lab.drill()
    seen = len(lab.stages())
    assert lab.order("drill_wait", token="w", drill_id=begun["drill_id"], seen=seen) is None
    lab.receipts("synapse")
    body = lab.answers["w"].body
    assert body is not None
    assert [stage["stage"] for stage in body["stages"]][seen:] == ["synapse"]
    assert lab.ask("drill_wait", drill_id=begun["drill_id"], seen=0) == body
    with pytest.raises(UnknownId):
        lab.ask("drill_wait", drill_id="drl_0")
    for n in range(drill.WAITING_MAX):
        lab.order("drill_wait", token=f"w{n}", drill_id=begun["drill_id"], seen=99)
    with pytest.raises(Refused):
        lab.ask("drill_wait", drill_id=begun["drill_id"], seen=99)
    lab.receipts("signal")
    assert all(lab.answers[f"w{n}"].body for n in range(drill.WAITING_MAX))
    assert not lab.engine.world.drill_waiters


@pytest.mark.req("FR-005")
def test_where_nobody_can_be_paged_synapse_is_drilled_and_the_verdict_says_so() -> None:
    lab = DrillLab("web", policy=Policy(pages=False))
    lab.good()
    assert lab.messages("signal") == []
    assert "no page can be sent: [notify.signal] transports" in lab.state()["verdict"]
    with pytest.raises(Refused, match="no page can be sent"):
        lab.drill(channel="signal")


@pytest.mark.req("FR-005")
@pytest.mark.parametrize(
    ("args", "error"),
    [
        ({"channel": "sms"}, UsageError),
        ({"channel": 1}, UsageError),
        ({"timeout_s": 0}, UsageError),
        ({"timeout_s": 601}, UsageError),
        ({"timeout_s": "60s"}, UsageError),
        ({"other": 1}, UsageError),
    ],
)
def test_bad_orders_are_refused(args: dict[str, Any], error: type[HealError]) -> None:
    lab = DrillLab("web")
    with pytest.raises(error):
        lab.drill(**args)
    assert lab.engine.world.drill is None


@pytest.mark.req("FR-005", "R15")
def test_an_agent_may_not_order_one() -> None:
    lab = DrillLab("web")
    with pytest.raises(Refused, match="a person's to order"):
        lab.ask("drill", actor="agent:bot")


@pytest.mark.req("FR-005")
def test_a_person_can_end_it_and_the_next_is_not_held_back_by_that() -> None:
    lab = DrillLab("web")
    lab.hold_dispatch = True
    lab.drill()
    incident = lab.only(drill_run.TARGET)
    lab.order("dismiss", incident_id=incident.id, reason="not now")
    assert "its incident is dismissed" in lab.state()["verdict"]
    lab.hold_dispatch = False
    lab.good()


@pytest.mark.req("FR-005")
def test_a_reading_that_comes_late_opens_nothing() -> None:
    lab = DrillLab("web")
    lab.staged = "drl_0"
    lab.poll(drill_run.TARGET)
    assert lab.incidents() == []
    lab.good()
    lab.staged = "drl_0"
    lab.poll(drill_run.TARGET)
    assert len(lab.incidents()) == 1


@pytest.mark.req("FR-005")
def test_it_takes_no_place_from_a_real_repair() -> None:
    lab = DrillLab("web", policy=Policy(pages=True, executions_max=1))
    lab.hold_dispatch = True
    lab.drill()
    lab.hold_dispatch = False
    lab.kill("web")
    lab.advance(2.0)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("FR-005", "NFR-002")
@pytest.mark.parametrize("until", ["asked", "detected", "dispatched", "verifying", "paged"])
def test_a_crash_in_the_middle_fails_it_and_leaves_nothing_stuck(until: str) -> None:
    lab = DrillLab("web")
    if until == "asked":
        lab.silent.add(drill_run.TARGET)
    lab.hold_dispatch = until == "dispatched"
    lab.order("drill")
    if until == "detected":
        lab.silent.add(drill_run.TARGET)
    if until == "paged":
        lab.advance(3.0)
    drill_id = lab.state()["drill_id"]
    lab.silent.clear()
    lab.crash()
    assert lab.state()["drill_id"] == drill_id
    assert lab.state()["verdict"] == "FAILED: healctl's engine was restarted in the middle of it"
    assert not [i for i in lab.engine.world.incidents.values() if i.anomaly is AnomalyType.DRILL]
    assert lab.staged == ""
    assert len(lab.failures()) == 1
    lab.hold_dispatch = False
    for execution in lab.dispatched[-1:]:
        lab.run(execution)
    lab.advance(10.0)
    lab.good()
    assert not lab.failures()[0].open
    assert not [subject for kind, subject in lab.engine.world.timers if kind is TimerKind.DRILL]


@pytest.mark.req("FR-005")
def test_how_the_last_one_ended_outlives_a_restart() -> None:
    lab = DrillLab("web")
    assert drill.last(lab.engine.world)["passed"] is None
    lab.good()
    told = drill.last(lab.engine.world)
    lab.advance(40 * 86400.0)
    lab.crash()
    assert drill.last(lab.engine.world) == told
    assert told["passed"] is True


# --- the schedule --------------------------------------------------------------------------------------------------


def begun(lab: DrillLab) -> int:
    """How many drills there were; each gets its receipts."""
    lab.receipts()
    return len([effect for effect in lab.effects if isinstance(effect, CarryDrill) and effect.stage == drill_run.ASKED])


@pytest.mark.req("FR-005")
def test_every_so_often_over_restarts_and_once_for_what_was_missed() -> None:
    lab = DrillLab("web", policy=Policy(pages=True, drill_every_s=3600.0))
    lab.advance(3599.0)
    assert begun(lab) == 0
    lab.advance(5.0)
    assert begun(lab) == 1
    lab.advance(1800.0)
    lab.crash()
    lab.advance(1798.0)
    assert begun(lab) == 2
    lab.now_s += 10 * 3600.0  # healctl was down
    lab.crash()
    lab.advance(5.0)
    assert begun(lab) == 3
    lab.advance(3590.0)
    assert begun(lab) == 3
    assert lab.state()["by"] == drill.SCHEDULE


def at_night(begin: str) -> DrillLab:
    policy = Policy(pages=True, drill_at="03:30", drill_zone=ROME)
    return DrillLab("web", policy=policy, ahead_s=wall_s(begin) - 1_000_000.0)


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("begin", ["2026-03-28T12:00", "2026-10-24T12:00", "2026-06-01T12:00"])
def test_each_night_once_over_a_change_of_summer_time(begin: str) -> None:
    lab = at_night(begin)
    for night in range(1, 4):
        lab.advance(86400.0)
        assert begun(lab) == night


@pytest.mark.req("FR-005")
def test_a_wall_clock_that_is_set_makes_no_second_one_and_loses_none_for_long() -> None:
    lab = at_night("2026-06-01T03:00")
    lab.advance(1805.0)
    assert begun(lab) == 1
    lab.ahead_s -= 3600.0  # and it is 02:30 again
    lab.advance(7200.0)
    assert begun(lab) == 1
    lab.ahead_s += 22.75 * 3600.0  # 03:15 of the next day
    lab.advance(1000.0)
    assert begun(lab) == 2


@pytest.mark.req("FR-005")
def test_a_restart_at_that_moment_runs_it_once() -> None:
    lab = at_night("2026-06-01T03:00")
    lab.advance(1805.0)
    lab.crash()
    lab.advance(3600.0)
    assert begun(lab) == 1


@pytest.mark.req("FR-005")
def test_what_was_missed_by_hours_is_passed_over() -> None:
    lab = at_night("2026-06-01T03:00")
    lab.now_s += 6 * 3600.0
    lab.crash()
    lab.advance(3600.0)
    assert begun(lab) == 0
    lab.advance(18 * 3600.0)
    assert begun(lab) == 1


@pytest.mark.req("FR-005")
def test_another_configuration_plans_anew_and_none_plans_nothing() -> None:
    lab = at_night("2026-06-01T03:00")

    def policy(**changes: Any) -> None:
        new = msgspec.structs.replace(lab.engine.world.policy, **changes)
        lab.feed(e.Reconfigured(lab.targets, frozenset(), new, lab.runbooks))

    def planned() -> list[str]:
        return [subject for kind, subject in lab.engine.world.timers if kind is TimerKind.DRILL]

    assert planned() == ["at 03:30 2026-06-01"]
    policy()
    assert planned() == ["at 03:30 2026-06-01"]
    policy(drill_at="04:00")
    assert planned() == ["at 04:00 2026-06-01"]
    policy(drill_at="", drill_every_s=2.0)
    assert planned() == ["every 2"]
    policy(drill_every_s=20.0)
    assert planned() == ["every 20"]
    policy(drill_every_s=0.0)
    assert planned() == []


@pytest.mark.req("FR-005")
def test_one_of_the_schedule_does_not_disturb_one_that_runs() -> None:
    lab = DrillLab("web", policy=Policy(pages=True, drill_every_s=10.0))
    lab.hold_dispatch = True
    drill_id = lab.drill()["drill_id"]
    lab.advance(20.0)
    assert lab.state()["drill_id"] == drill_id
