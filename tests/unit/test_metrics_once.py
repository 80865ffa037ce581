"""FR-008's eight on virtual time: each exactly once for each event, in the ledger's records and in its totals."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents import views
from supervisor.incidents.learning import PERSON
from supervisor.incidents.model import (
    METRICS,
    AnomalyType,
    Channel,
    Execution,
    Incident,
    OutboxRow,
    Severity,
    State,
    Target,
    Tier,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import DatabaseData, Integrity
from supervisor.incidents.records import AddMetric, PutExecution, PutIncident, PutOutbox, PutRunbook, PutRunbookState
from tests.lab.engine import Lab, service


def events(lab: Lab) -> Counter[str]:
    """What happened, told from everything but the metrics."""
    found: Counter[str] = Counter()
    incidents: dict[str, Incident] = {}
    executions: dict[str, Execution] = {}
    rows: dict[str, OutboxRow] = {}
    for record in lab.records:
        match record:
            case PutIncident(it):
                found["heal_anomaly_detected"] += it.id not in incidents
                incidents[it.id] = it
            case PutExecution(it):
                verified = executions[it.id].verified if it.id in executions else None
                found["heal_remediation_started"] += it.id not in executions
                if verified is None and it.verified is not None:
                    found["heal_remediation_success" if it.verified else "heal_remediation_failed"] += 1
                executions[it.id] = it
            case PutOutbox(it):
                paged = it.channel is Channel.SIGNAL and it.tier is Tier.PAGE
                before = rows[it.id].receipt if it.id in rows else ""
                found["heal_signal_sent"] += paged and not before and bool(it.receipt)
                rows[it.id] = it
            case PutRunbook(it):
                found["heal_runbook_created"] += it.author.startswith(PERSON)
    return found


def emitted(lab: Lab) -> Counter[str]:
    ids = [record.metric.id for record in lab.records if isinstance(record, AddMetric)]
    assert len(ids) == len(set(ids)), "each event has its own id"
    return Counter(record.metric.name for record in lab.records if isinstance(record, AddMetric))


def agrees(lab: Lab) -> None:
    """The records, the totals and `stats` tell the same, and what happened."""
    told = emitted(lab)
    totals = views.stats(lab.engine.world)["self_healing_status"]["metrics"]
    assert tuple(totals) == METRICS
    assert {name: told[name] for name in METRICS} == totals
    seen = events(lab)
    names = [*(name for name in METRICS if name not in ("heal_escalation_fired", "heal_runbook_graduated"))]
    assert {name: told[name] for name in names} == {name: seen[name] for name in names}


def fired(lab: Lab) -> Counter[str | None]:
    """Escalations by incident."""
    found = (record.metric for record in lab.records if isinstance(record, AddMetric))
    return Counter(metric.incident_id for metric in found if metric.name == "heal_escalation_fired")


def deliver(lab: Lab) -> None:
    """Every message arrives, and each receipt is reported twice."""
    for row in list(lab.engine.world.outbox.values()):
        for _ in range(2):
            lab.feed(e.Delivered(row.id, 1, f"receipt:{row.id}", ""))


@pytest.mark.req("FR-008", "R14")
def test_each_of_a_healed_critical_incident() -> None:
    lab = Lab("web")
    lab.kill("web")
    lab.advance(2)
    deliver(lab)
    agrees(lab)
    assert emitted(lab) == {
        "heal_anomaly_detected": 1,
        "heal_remediation_started": 1,
        "heal_remediation_success": 1,
        "heal_escalation_fired": 1,
        "heal_signal_sent": 1,
    }


@pytest.mark.req("FR-008", "R2")
def test_a_page_at_the_end_of_its_hold_and_the_escalation_after_it_are_one() -> None:
    lab = Lab("web", policy=Policy(page_hold_s=5.0))
    lab.heals["web"] = False
    lab.kill("web")
    lab.advance(60)
    assert lab.only("web").state is State.ESCALATED
    assert len(lab.messages("signal")) == 1
    deliver(lab)
    agrees(lab)
    assert emitted(lab)["heal_escalation_fired"] == 1
    assert emitted(lab)["heal_remediation_failed"] == 1


@pytest.mark.req("FR-008", "R10")
def test_a_damaged_database_is_escalated_once() -> None:
    lab = Lab(targets=(Target("notes", "database", path="/notes.db", written=True),))
    damaged = DatabaseData("/notes.db", Integrity.CORRUPT, "quick_check", ("page 7 is bad",))
    taken = msgspec.structs.replace(lab.reading("notes"), family="database", data=damaged)
    lab.feed(e.ReadingSeen(msgspec.structs.replace(taken, checked_mono_s=lab.instant().mono_s - 1)))
    lab.advance(30)
    assert lab.only("notes").state is State.ESCALATED
    assert len(lab.messages("signal")) == 1
    assert emitted(lab)["heal_escalation_fired"] == 1


@pytest.mark.req("FR-008")
def test_a_storm_under_one_page_escalates_each_of_its_incidents_once() -> None:
    names = tuple(f"svc{n}" for n in range(8))
    lab = Lab(*names)
    for name in names:
        lab.heals[name] = False
        lab.kill(name)
    lab.advance(120)
    assert {i.state for i in lab.incidents()} == {State.ESCALATED}
    deliver(lab)
    agrees(lab)
    fired = Counter(
        r.metric.incident_id for r in lab.records if isinstance(r, AddMetric) and "fired" in r.metric.result
    )
    assert fired == {i.id: 1 for i in lab.incidents()}


@pytest.mark.req("FR-008", "R1")
def test_tier_0_fires_nothing_and_the_others_say_which_they_are() -> None:
    lab = Lab("web", policy=Policy(page_healed_critical=False))
    lab.kill("web")
    lab.advance(2)
    assert "heal_escalation_fired" not in emitted(lab)
    other = Lab(targets=(service("web", auto_restart=False),))
    other.kill("web")
    other.advance(2)
    told = [r.metric for r in other.records if isinstance(r, AddMetric) and r.metric.name == "heal_escalation_fired"]
    assert [(metric.stage, metric.result) for metric in told] == [("tier3", "fired")]


@pytest.mark.req("FR-008")
def test_a_request_of_an_agent_is_no_tier_3_message() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),), policy=Policy(pages=True))
    args = msgspec.json.encode({"runbook_id": "rb-restart-service", "target_id": "web"})
    lab.feed(e.Order("t1", "approve", args, "agent:claude", "a secret"))
    assert [row.tier for row in lab.messages("signal")] == [Tier.ASK]
    deliver(lab)
    assert "heal_signal_sent" not in emitted(lab)


@pytest.mark.req("FR-008", "FR-006", "AC-006", "AC-007")
def test_a_draft_and_an_approval_count_once_however_often_they_are_ordered() -> None:
    lab = Lab(targets=(service("web", auto_restart=False),))
    lab.kill("web")
    for token in ("a", "a", "b"):
        lab.order(
            "record_fix",
            token=token,
            incident_id=lab.only("web").id,
            description="started it again",
            commands=[["/usr/bin/start", "web"]],
        )
    for token in ("c", "c", "d"):
        lab.order("approve", token=token, runbook_id="rb-restart-service", target_id="web")
    lab.advance(5)
    deliver(lab)
    agrees(lab)
    assert emitted(lab)["heal_runbook_created"] == 1
    assert emitted(lab)["heal_runbook_graduated"] == 1
    modes = [r.state.mode for r in lab.records if isinstance(r, PutRunbookState)]
    assert len(modes) >= 2, "ordered again, it is written again, and counted once"


@pytest.mark.req("FR-008", "R14")
@pytest.mark.parametrize("crash_after", range(0, 60, 3))
def test_a_crash_at_any_moment_doubles_and_loses_none(crash_after: int) -> None:
    """The engine dies after so many records and is rebuilt; what is durable is not decided again."""
    lab = Lab("web", "api")
    lab.heals["api"] = False
    crashed = False

    def step() -> None:
        nonlocal crashed
        if not crashed and len(lab.records) >= crash_after:
            crashed = True
            lab.crash()

    for name in ("web", "api"):
        lab.kill(name)
        step()
    for _ in range(90):
        lab.advance(1)
        step()
    lab.crash()
    deliver(lab)
    lab.crash()
    agrees(lab)
    assert emitted(lab)["heal_anomaly_detected"] == 2
    assert {i.severity for i in lab.incidents()} == {Severity.CRITICAL}
    fired = Counter(
        r.metric.incident_id for r in lab.records if isinstance(r, AddMetric) and "fired" in r.metric.result
    )
    assert fired == {i.id: 1 for i in lab.incidents()}


def test_every_metric_has_a_label_that_is_known() -> None:
    lab = Lab("web")
    lab.kill("web")
    (metric,) = [r.metric for r in lab.records if isinstance(r, AddMetric) and r.metric.result == "detected"]
    assert (metric.name, metric.stage) == ("heal_anomaly_detected", AnomalyType.PROCESS_DEAD)
