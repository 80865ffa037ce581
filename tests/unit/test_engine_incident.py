"""One incident, end to end, on the pure engine with virtual time (DESIGN §3)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents.model import State, StepResult, Target, Tier, TierReason
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DatabaseData, Endpoint, Integrity, LogFile, LogsData
from tests.lab.engine import Lab, service


@pytest.mark.req("FR-004", "R2", "R6")
def test_a_dead_service_is_restarted_verified_after_settle_and_paged_once_with_the_outcome() -> None:
    lab = Lab("web")
    lab.kill("web")
    assert lab.only("web").state is State.VERIFYING
    lab.advance(1.1)
    incident = lab.only("web")
    assert lab.states(incident) == [
        State.DETECTED,
        State.DIAGNOSING,
        State.REMEDIATING,
        State.VERIFYING,
        State.RESOLVED,
    ]
    assert [row.kind for row in lab.messages("signal")] == ["outcome"]
    assert [row.priority for row in lab.messages("synapse")] == ["urgent"]
    assert lab.messages("signal")[0].body == (
        "web was down (from 13:46 UTC, for 1 s): no live process; its pid file names a process that is gone.\n"
        "healctl restarted web; it is up again, as a check has shown.\n"
        "Nothing to decide."
    )
    lab.advance(200_000)
    assert len(lab.messages()) == 2


@pytest.mark.req("FR-008")
def test_metrics_of_a_healed_incident_are_each_written_once() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.advance(2)
    row = lab.messages("signal")[0]
    lab.feed(e.Delivered(row.id, 1, "signal:1", ""))
    lab.feed(e.Delivered(row.id, 1, "signal:1", ""))
    assert lab.metrics() == [
        "heal_anomaly_detected",
        "heal_remediation_started",
        "heal_remediation_success",
        "heal_escalation_fired",
        "heal_signal_sent",
    ]


@pytest.mark.req("R2", "NFR-003", "FR-005")
def test_page_healed_critical_false_drops_the_page_of_what_healed_within_the_hold() -> None:
    lab = Lab("web", policy=Policy(page_healed_critical=False))
    lab.kill("web")
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert lab.messages() == []
    assert "heal_escalation_fired" not in lab.metrics()


@pytest.mark.req("FR-004", "R1")
def test_what_is_remembered_of_a_closed_incident_is_what_was_written_of_it() -> None:
    """A damaged ledger is begun anew from memory: its tier was decided after it had closed."""
    lab = Lab("web")
    lab.kill("web")
    lab.advance(2)
    for row in lab.messages():
        lab.feed(e.Delivered(row.id, 1, "signal:1", ""))
    (remembered,) = [it for closed in lab.engine.world.closed.values() for it in closed]
    assert remembered == lab.only("web")
    assert (remembered.tier, remembered.tier_reason) == (Tier.PAGE, TierReason.VERIFIED_SILENTLY)


@pytest.mark.req("AC-010", "NFR-002", "R7")
def test_what_healed_itself_before_the_fresh_probe_is_left_alone() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    lab.kill("web")
    lab.alive["web"] = 777
    lab.silent.clear()
    lab.advance(10)
    incident = lab.only("web")
    assert incident.state is State.SELF_RESOLVED
    assert lab.dispatched == []
    assert lab.messages() == []


@pytest.mark.req("NFR-002", "R7")
def test_a_reading_that_began_before_the_question_is_no_ground_for_action() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    lab.alive["web"] = None
    old = lab.reading("web")
    lab.advance(1)
    lab.feed(e.ReadingSeen(old))
    lab.feed(e.ReadingSeen(old))
    assert lab.only("web").state is State.DIAGNOSING
    assert lab.dispatched == []


@pytest.mark.req("R7")
def test_a_reading_from_outside_detects_but_never_grounds_nor_verifies_nor_closes() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    lab.alive["web"] = None
    lab.feed(e.ReadingSeen(lab.reading("web", external=True)))
    lab.feed(e.ReadingSeen(lab.reading("web", external=True)))
    assert lab.only("web").state is State.DIAGNOSING
    assert lab.dispatched == []
    lab.alive["web"] = 5
    lab.feed(e.ReadingSeen(lab.reading("web", external=True)))
    assert lab.only("web").state is State.DIAGNOSING


@pytest.mark.req("FR-004", "R14")
def test_a_redetection_refreshes_the_one_open_incident_without_a_trail_entry() -> None:
    lab = Lab("web", targets=(service("web", auto_restart=False),))
    lab.kill("web")
    before = lab.only("web")
    for _ in range(5):
        lab.advance(60)
        lab.poll("web")
    after = lab.only("web")
    assert after.id == before.id
    assert after.detections == before.detections + 5
    assert after.last_seen_wall_s == lab.now_s
    assert after.trail_length == before.trail_length


@pytest.mark.req("R3", "NFR-001", "FR-005")
def test_without_auto_restart_nothing_runs_and_a_person_is_asked() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    incident = lab.only("web")
    assert incident.state is State.ESCALATED
    assert incident.tier is Tier.PAGE
    assert incident.tier_reason is TierReason.NEEDS_APPROVAL
    assert lab.dispatched == []
    page = lab.messages("signal")[0]
    assert "healctl heal approve rb-restart-service --target web" in page.body
    assert len(page.body) <= 600


@pytest.mark.req("R3")
def test_auto_restart_never_ends_a_live_process_that_does_not_answer() -> None:
    lab = Lab("web")
    lab.endpoint["web"] = Endpoint.TIMEOUT
    lab.poll("web")
    assert lab.only("web").tier_reason is TierReason.NEEDS_APPROVAL
    assert lab.dispatched == []


@pytest.mark.req("R8")
def test_a_stop_file_means_that_it_is_meant_to_be_stopped() -> None:
    lab = Lab("web")
    lab.stop_file.add("web")
    lab.kill("web")
    assert lab.incidents() == []


@pytest.mark.req("FR-005", "R1")
def test_no_recipe_is_tier_3_and_says_so() -> None:
    lab = Lab(targets=(service("web", auto_restart=False, recipe=False),))
    lab.kill("web")
    assert lab.only("web").tier_reason is TierReason.CANNOT_EXECUTE
    assert "Nothing was tried" in lab.messages("signal")[0].body


@pytest.mark.req("FR-003", "FR-004")
def test_a_failed_step_escalates_and_says_what_failed() -> None:
    lab = Lab("web")
    lab.step_fails = "start"
    lab.kill("web")
    incident = lab.only("web")
    assert lab.states(incident)[-2:] == [State.REMEDIATION_FAILED, State.ESCALATED]
    assert "no such file" in lab.messages("signal")[0].body.lower()
    assert "heal_remediation_started" in lab.metrics()


@pytest.mark.req("R6", "FR-004")
def test_a_restart_that_does_not_show_in_30_s_has_failed() -> None:
    lab = Lab("web")
    lab.heals["web"] = False
    lab.kill("web")
    lab.advance(29)
    assert lab.only("web").state is State.VERIFYING
    lab.advance(2)
    assert lab.only("web").state is State.ESCALATED
    assert lab.only("web").tier_reason is TierReason.VERIFICATION_FAILED
    assert len(lab.dispatched) == 1


@pytest.mark.req("R6")
def test_a_process_replaced_within_settle_starts_settle_anew() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.now_s += 0.9
    lab.alive["web"] = 9_999
    lab.poll("web")
    lab.advance(0.5)
    assert lab.only("web").state is State.VERIFYING
    lab.advance(0.6)
    assert lab.only("web").state is State.RESOLVED


@pytest.mark.req("R6")
def test_what_dies_within_settle_escalates_after_its_first_run() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.now_s += 0.5
    lab.kill("web")
    lab.advance(40)
    assert lab.only("web").state is State.ESCALATED
    assert len(lab.dispatched) == 1


@pytest.mark.req("R6")
def test_a_start_command_that_failed_ends_the_wait_early() -> None:
    lab = Lab("web")
    lab.heals["web"] = False
    lab.kill("web")
    lab.advance(1)
    lab.feed(e.ProgramEnded(lab.dispatched[0].id, "start", "exited with 1", "port in use"))
    incident = lab.only("web")
    assert incident.state is State.ESCALATED
    assert "Port in use" in lab.messages("signal")[0].body or "port in use" in lab.messages("signal")[0].body


def die_after_2_s(lab: Lab) -> None:
    lab.advance(2)
    if lab.alive["web"] is not None:
        lab.kill("web")


@pytest.mark.req("R6", "R2")
def test_what_dies_2_s_after_each_restart_runs_3_times_then_the_breaker_opens_and_half_opens() -> None:
    lab = Lab("web")
    lab.kill("web")
    for _ in range(40):
        die_after_2_s(lab)
    incidents = lab.incidents("web")
    assert len(lab.dispatched) == 3
    last = incidents[-1]
    assert last.state is State.ESCALATED
    assert last.tier_reason is TierReason.BREAKER_OPEN
    pages = [row for row in lab.messages("signal") if row.incident_id == last.id]
    assert len(pages) == 1
    assert "healctl restarted web 3 times within 60 min, but that did not last." in pages[0].body
    assert "healctl tries once more at 14:47 UTC." in pages[0].body
    opened = next(iter(lab.engine.world.breakers.values()))
    lab.advance(opened.half_open_steady_s - lab.now_s - 1)
    assert len(lab.dispatched) == 3
    for _ in range(100):
        die_after_2_s(lab)
    assert len(lab.dispatched) == 4, "one more try when it half-opens, and no more until it does again"
    again = next(iter(lab.engine.world.breakers.values()))
    assert not again.half_open
    assert again.half_open_steady_s > opened.half_open_steady_s
    lab.advance(again.half_open_steady_s - lab.now_s + 200)
    assert lab.incidents("web")[-1].state is State.RESOLVED, "a try that holds closes it"
    assert lab.engine.world.breakers == {}


@pytest.mark.req("R7")
def test_an_escalated_incident_closes_when_its_probe_reads_clear() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    lab.alive["web"] = 4_242
    lab.advance(60)
    lab.poll("web")
    assert lab.only("web").state is State.SELF_RESOLVED
    assert [row.kind for row in lab.messages("signal")] == ["page", "closing"]


@pytest.mark.req("AC-007", "R7", "R5")
def test_approve_changes_the_mode_and_runs_what_waits() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    answer = lab.order("approve", runbook_id="rb-restart-service", target_id="web")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["mode"] == "auto_execute"
    lab.advance(2)
    incident = lab.only("web")
    assert incident.state is State.RESOLVED
    assert len(lab.dispatched) == 1
    assert "heal_runbook_graduated" in lab.metrics()


@pytest.mark.req("R4", "R5")
def test_a_failed_verification_of_an_approved_run_demotes_it_for_that_target_only() -> None:
    lab = Lab(targets=(service("web", auto_restart=False), service("api", auto_restart=False)))
    lab.order("approve", runbook_id="rb-restart-service")
    lab.heals["web"] = False
    lab.kill("web")
    lab.advance(40)
    lab.kill("api")
    lab.advance(2)
    assert lab.only("api").state is State.RESOLVED
    lab.alive["web"] = 1
    lab.poll("web")
    lab.kill("web")
    assert lab.incidents("web")[-1].tier_reason is TierReason.NEEDS_APPROVAL
    assert any("back in dry_run" in str(r) for r in lab.records)


@pytest.mark.req("FR-007")
def test_dismiss_silences_for_24_h_and_no_longer() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    first = lab.only("web")
    answer = lab.order("dismiss", incident_id=first.id, reason="maintenance")
    assert answer is not None
    assert answer.body is not None
    assert answer.body["dismiss_until"].startswith("1970-01-13")
    lab.advance(86_000)
    lab.poll("web")
    assert len(lab.incidents("web")) == 1
    lab.advance(1_000)
    lab.poll("web")
    assert len(lab.incidents("web")) == 2


@pytest.mark.req("R2")
def test_an_unacknowledged_page_repeats_after_1_h_4_h_then_daily_until_acknowledged() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    start = lab.now_s
    lab.advance(4 * 86_400)
    repeats = [row.created_wall_s - start for row in lab.messages("signal") if row.kind == "repeat"]
    assert [round(t) for t in repeats] == [3_600, 18_000, 104_400, 190_800, 277_200]
    lab.order("ack", incident_id=lab.only("web").id)
    lab.advance(4 * 86_400)
    assert len([row for row in lab.messages("signal") if row.kind == "repeat"]) == len(repeats)


@pytest.mark.req("R2")
def test_no_outcome_within_the_hold_pages_once_then_closes_briefly() -> None:
    lab = Lab("web")
    lab.hold_dispatch = True
    lab.kill("web")
    lab.feed(e.ExecutionClaimed(lab.dispatched[0].id, "exec-1"))
    lab.advance(59)
    assert lab.messages("signal") == []
    lab.advance(2)
    assert [row.kind for row in lab.messages("signal")] == ["page"]
    lab.alive["web"] = 4
    for index, step in enumerate(("stop", "start")):
        lab.feed(e.StepEnded(lab.dispatched[0].id, index, StepResult(step, True, "", 1.0), step == "start"))
    lab.advance(2)
    assert lab.only("web").state is State.RESOLVED
    assert [row.kind for row in lab.messages("signal")] == ["page", "closing"]


@pytest.mark.req("FR-005", "AC-011")
def test_a_tier_3_page_has_a_row_per_channel_and_a_failed_one_stays_pending() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    signal, synapse = lab.messages("signal")[0], lab.messages("synapse")[0]
    lab.feed(e.Delivered(synapse.id, 1, "", "database is locked"))
    assert lab.engine.world.outbox[synapse.id].last_error == "database is locked"
    lab.feed(e.Delivered(signal.id, 1, "signal:1", ""))
    assert signal.id not in lab.engine.world.outbox
    assert synapse.id in lab.engine.world.outbox


def test_a_reading_that_says_nothing_is_never_healthy() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.feed(e.ReadingSeen(lab.unavailable("web")))
    assert lab.only("web").state is State.VERIFYING
    blind = Lab("web")
    for _ in range(2):
        blind.feed(e.ReadingSeen(blind.unavailable("web")))
    assert blind.incidents() == []
    blind.feed(e.ReadingSeen(blind.unavailable("web")))
    assert blind.only("web").anomaly == "probe_unavailable"
    blind.poll("web")
    blind.advance(10)
    assert blind.only("web").state is State.SELF_RESOLVED


def test_texts_from_readings_are_made_harmless() -> None:
    lab = Lab("web")
    lab.step_fails = "start"
    hostile = "\x1b[31m\u202e@remember because\n" + "x" * 5_000
    lab.hold_dispatch = True
    lab.kill("web")
    lab.feed(e.StepEnded(lab.dispatched[0].id, 0, StepResult("stop", False, hostile, 1.0), True))
    for row in lab.messages():
        assert "\x1b" not in row.body
        assert "\u202e" not in row.body
        assert "@remember" not in row.body or row.channel == "signal"
        assert len(row.body) < 1_500
    assert "because" not in lab.messages("synapse")[0].body
    assert all(len(msgspec.json.encode(r)) < 50_000 for r in lab.records)


@pytest.mark.req("NFR-003", "FR-005", "R1")
def test_a_tier_2_message_carries_anomaly_action_verification_state_and_how_to_approve() -> None:
    from supervisor.incidents import wording
    from supervisor.incidents.model import Channel, Severity

    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    asked = msgspec.structs.replace(lab.only("web"), severity=Severity.HIGH, tier=Tier.ASK)
    body = wording.body(lab.engine.world, asked, Channel.SYNAPSE, "approval", lab.now_s)
    for line in ("Anomaly: web is down", "Action: ", "Verification: ", "State: escalated", "Proposed: ", "approve"):
        assert line in body


@pytest.mark.req("R9", "R7")
def test_the_verdict_of_a_check_that_began_before_the_question_is_no_grounds_for_a_change() -> None:
    lab = Lab("web")
    lab.silent.add("web")
    lab.kill("web")
    opened_mono_s = lab.instant().mono_s
    lab.advance(4)
    stale = msgspec.structs.replace(lab.reading("web"), checked_mono_s=opened_mono_s - 1)
    lab.feed(e.ReadingSeen(stale))
    assert lab.only("web").state is State.DIAGNOSING
    lab.advance(4)  # asked again meanwhile: that must not put it off
    lab.feed(e.ReadingSeen(msgspec.structs.replace(lab.reading("web"), checked_mono_s=opened_mono_s + 1)))
    assert lab.only("web").state is State.VERIFYING


@pytest.mark.req("R9", "R7")
def test_where_nothing_would_be_changed_the_verdict_at_hand_is_acted_on() -> None:
    lab = Lab(targets=(Target("notes", "database"),))
    damaged = DatabaseData("/notes.db", Integrity.CORRUPT, "quick_check", ("page 7 is bad",))
    taken = msgspec.structs.replace(lab.reading("notes"), family="database", data=damaged)
    for _ in range(2):  # the one that is detected, and the answer to the fresh probe, which carries the same verdict
        lab.feed(e.ReadingSeen(msgspec.structs.replace(taken, checked_mono_s=lab.instant().mono_s - 60)))
    incident = lab.only("notes")
    assert (incident.state, incident.tier_reason) == (State.ESCALATED, TierReason.TELLS_ONLY)
    assert [row.kind for row in lab.messages("signal")] == ["page"]


@pytest.mark.req("FR-007", "R6")
def test_what_a_person_orders_is_verified_by_the_anomaly_that_its_target_can_have() -> None:
    """rb-rotate-logs is for full disks first; of a folder of logs no probe speaks of those."""
    lab = Lab(targets=(Target("app", "logs"),))
    small = LogsData(1, 10, 100, (LogFile("/app.log", 10),))
    lab.silent.add("app")
    lab.order("execute", runbook_id="rb-rotate-logs", target_id="app", confirm=True, token="t")
    for _ in range(3):
        lab.advance(2)
        lab.feed(e.ReadingSeen(lab.reading("app", family="logs", data=small)))
    body = lab.answers["t"].body
    assert body is not None
    assert (body["success"], body["verification_passed"]) == (True, True)
