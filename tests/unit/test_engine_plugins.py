"""What the engine makes of plugins: their anomalies, their runbooks, their channels (issue 8). On virtual time."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents import events as e
from supervisor.incidents import open_names
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import (
    PLUGIN,
    AnomalyType,
    Authority,
    Channel,
    Effect,
    Mode,
    OutboxRow,
    OutboxState,
    Runbook,
    RunbookState,
    State,
    StepSpec,
    Target,
    Tier,
)
from supervisor.incidents.policy import Policy, may_graduate, permission
from supervisor.incidents.quiet_hours import QuietHours
from supervisor.incidents.readings import CheckData, Finding, HealthReading, Severity, Status
from supervisor.incidents.records import PutOutbox
from tests.lab.engine import OPEN, START, Lab, service

HOOK = Channel("hook")
HOUR_S = 3600.0
MIDNIGHT = START - START % 86400.0 + 86400.0


def copies(lab: Lab) -> list[OutboxRow]:
    return lab.messages(HOOK)


def left(lab: Lab, channel: Channel) -> list[OutboxRow]:
    return [it.row for it in lab.effects if isinstance(it, DeliverRow) and it.row.channel is channel]


def ill(policy: Policy) -> Lab:
    """A critical incident for which nothing may run: tier 3, and the messages about it."""
    lab = Lab(targets=(service("web", auto_restart=False),), policy=policy)
    lab.kill("web")
    lab.advance(60)
    return lab


def reconfigure(lab: Lab, policy: Policy, families: frozenset[str] = OPEN) -> None:
    lab.policy = policy
    lab.feed(e.Reconfigured(lab.targets, families, policy, lab.runbooks))


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-002")
def test_a_name_is_one_member_however_it_came_and_is_listed_nowhere() -> None:
    known = AnomalyType("queue.too_long")
    assert known is AnomalyType("queue.too_long")
    assert msgspec.json.decode(b'"queue.too_long"', type=AnomalyType) is known
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(known), type=AnomalyType) is known
    assert known not in list(AnomalyType)
    assert HOOK not in list(Channel)
    assert HOOK is Channel("hook")


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    "name", ["proces_dead", "queue.", ".odd", "queue.Odd", "Queue.odd", "queue.odd.odd", "a" * 33 + ".b"]
)
def test_what_is_no_plugins_name_is_refused_as_ever(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid AnomalyType"):
        AnomalyType(name)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(name), type=AnomalyType)


def test_names_do_not_heap_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_names, "OPEN_MAX", len(Channel._value2member_map_) + 1)
    assert Channel("last-of-all") is Channel("last-of-all")
    with pytest.raises(ValueError, match="is not a valid Channel"):
        Channel("one-too-many")
    Channel._value2member_map_.pop("last-of-all")


# --- readings --------------------------------------------------------------------------------------------------------


def told(lab: Lab, status: Status, severity: Severity = Severity.HIGH) -> None:
    at = lab.instant()
    data = CheckData((Finding("too_long", status, "900 wait", "look who takes them", severity),))
    lab.now_s += 1
    lab.feed(e.ReadingSeen(HealthReading("queue:mail", "queue", at.mono_s, at.wall_s, 1.0, 1000, True, data)))


@pytest.mark.req("FR-002", "R1", "R7")
def test_what_it_finds_is_an_incident_under_its_familys_name_and_ends_by_its_own_probe() -> None:
    lab = Lab("web")
    told(lab, Status.FIRING)  # of a family that nobody watches
    reconfigure(lab, lab.policy, OPEN | {"queue"})
    for _ in range(3):
        told(lab, Status.FIRING)
    incident = lab.only("queue:mail")
    assert (incident.anomaly, incident.family, incident.state) == ("queue.too_long", "queue", State.ESCALATED)
    assert incident.tier is Tier.PAGE  # R1: there is no runbook for it
    assert lab.messages("synapse")[0].subject == "queue:mail has too long"
    for _ in range(3):
        told(lab, Status.CLEAR)
    assert lab.only("queue:mail").state is State.SELF_RESOLVED
    assert "that is over" in lab.messages("synapse")[-1].body


def test_its_targets_are_let_go_with_its_family() -> None:
    lab = Lab("web")
    reconfigure(lab, lab.policy, OPEN | {"queue"})
    told(lab, Status.FIRING)
    reconfigure(lab, lab.policy)
    assert lab.only("queue:mail").state is State.DISMISSED


# --- runbooks --------------------------------------------------------------------------------------------------------


def runbook(kind: str, effect: Effect = Effect.CHANGE) -> Runbook:
    steps = (StepSpec("mend", kind, effect),)
    return Runbook(
        "rb-mend", "Mend", (AnomalyType("queue.too_long"),), steps, "queue:{target}", author="file:mend.toml"
    )


@pytest.mark.req("R3", "R4", "NFR-001")
@pytest.mark.parametrize("effect", list(Effect))
def test_a_plugins_step_runs_by_no_authority_but_an_approval(effect: Effect) -> None:
    policy = Policy(auto_execute=("rb-mend",))
    target = Target("queue:mail", "queue", auto_restart=True)
    ours, theirs = runbook("run-command", effect), runbook(PLUGIN, effect)
    assert permission(ours, target, None, policy, not_running=True).authority is Authority.WHITELIST
    assert permission(theirs, target, None, policy, not_running=True).authority is None
    approved = RunbookState("rb-mend", "*", Mode.AUTO_EXECUTE, 0.8, theirs.version())
    assert permission(theirs, target, approved, policy, not_running=True).authority is Authority.APPROVED
    assert may_graduate(ours) == (effect is not Effect.DESTROY)
    assert not may_graduate(theirs)


@pytest.mark.req("R3")
def test_another_version_of_it_is_another_runbook() -> None:
    params = (("name", "mend"), ("version", "1.0"))
    old = msgspec.structs.replace(runbook(PLUGIN), steps=(StepSpec("mend", PLUGIN, Effect.CHANGE, params=params),))
    params = (("name", "mend"), ("version", "1.1"))
    new = msgspec.structs.replace(old, steps=(StepSpec("mend", PLUGIN, Effect.CHANGE, params=params),))
    approved = RunbookState("rb-mend", "*", Mode.AUTO_EXECUTE, 0.8, old.version())
    assert permission(new, None, approved, Policy(), not_running=False).why == "it was changed after its approval"


# --- channels --------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-005", "R1")
@pytest.mark.parametrize(("from_tier", "count"), [(1, 1), (2, 1), (3, 1)])
def test_it_is_told_what_synapse_is_told_from_its_tier_on(from_tier: int, count: int) -> None:
    lab = ill(Policy(channels=((HOOK, from_tier),)))
    (row,) = lab.messages("synapse")
    assert [(it.subject, it.body, it.tier, it.incident_id) for it in copies(lab)] == [
        (row.subject, row.body, row.tier, row.incident_id)
    ] * count
    assert copies(lab)[0].id != row.id
    assert [it.id for it in left(lab, HOOK)] == [it.id for it in copies(lab)]


@pytest.mark.req("FR-005", "R1")
def test_what_lies_below_its_tier_is_not_told() -> None:
    for from_tier, count in ((2, 1), (3, 0)):
        lab = Lab("web", policy=Policy(channels=((HOOK, from_tier),)))
        lab.order("drill")
        reconfigure(lab, lab.policy, OPEN | {"queue"})
        lab.runbooks = (runbook(PLUGIN),)
        reconfigure(lab, lab.policy, OPEN | {"queue"})
        lab.silent.add("queue:mail")
        for _ in range(3):
            told(lab, Status.FIRING)
        assert lab.only("queue:mail").tier is Tier.ASK
        assert len(copies(lab)) == count


@pytest.mark.req("FR-005")
def test_only_its_own_receipt_ends_its_row_and_that_ends_nobody_elses() -> None:
    lab = ill(Policy(channels=((HOOK, 1),), pages=True))
    (copy,) = copies(lab)
    lab.feed(e.Delivered(copy.id, 1, "hook:1", ""))
    rows = {row.channel: row.state for row in (it.row for it in lab.records if isinstance(it, PutOutbox))}
    assert rows == {
        HOOK: OutboxState.DELIVERED,
        Channel.SYNAPSE: OutboxState.PENDING,
        Channel.SIGNAL: OutboxState.PENDING,
    }
    assert lab.engine.world.last_signal_wall_s is None
    assert lab.engine.world.last_synapse_wall_s is None


@pytest.mark.req("FR-005")
def test_in_quiet_hours_it_waits_with_synapse_and_is_told_the_same_in_the_morning() -> None:
    policy = Policy(channels=((HOOK, 1),), quiet_hours=QuietHours(22 * 60, 7 * 60))
    lab = Lab("web", policy=policy, runbooks=(runbook(PLUGIN),))
    lab.now_s = MIDNIGHT - HOUR_S
    reconfigure(lab, policy, OPEN | {"queue"})
    for _ in range(3):
        told(lab, Status.FIRING)
    assert lab.only("queue:mail").tier is Tier.ASK
    assert left(lab, HOOK) == []
    lab.advance(8 * HOUR_S + 30)
    assert [it.subject for it in left(lab, HOOK)] == [it.subject for it in left(lab, Channel.SYNAPSE)] != []


@pytest.mark.req("FR-005", "AC-011")
def test_ten_minutes_without_a_receipt_are_told_over_the_others_and_the_end_over_itself() -> None:
    policy = Policy(channels=((HOOK, 1),), pages=True)
    lab = Lab(targets=(service("web", auto_restart=False),), policy=policy, outages=True)
    lab.kill("web")
    for _ in range(14):
        lab.advance(60)
        for row in list(lab.engine.world.outbox.values()):
            if row.channel is not HOOK:
                lab.feed(e.Delivered(row.id, 1, f"{row.channel}:1", ""))
    out = lab.only("messages:hook")
    assert out.open
    assert out.evidence.startswith("nothing has arrived over hook for ")
    assert all(row.incident_id != out.id for row in copies(lab))  # it does not tell of itself
    assert any(row.incident_id == out.id for row in lab.messages("synapse"))
    first = next(row for row in lab.engine.world.outbox.values() if row.channel is HOOK)
    lab.feed(e.Delivered(first.id, 5, "hook:1", ""))
    assert not lab.only("messages:hook").open
    assert "Hook works again" in [row.subject for row in copies(lab)]


@pytest.mark.req("FR-005")
def test_what_waits_for_a_channel_that_is_no_more_is_withdrawn_and_its_outage_is_over() -> None:
    policy = Policy(channels=((HOOK, 1),))
    lab = Lab(targets=(service("web", auto_restart=False),), policy=policy, outages=True)
    lab.kill("web")
    for _ in range(14):
        lab.advance(60)
    assert lab.only("messages:hook").open
    reconfigure(lab, msgspec.structs.replace(policy, channels=()))
    assert not lab.only("messages:hook").open
    assert [row for row in lab.engine.world.outbox.values() if row.channel is HOOK] == []
    last = {it.row.id: it.row for it in lab.records if isinstance(it, PutOutbox) and it.row.channel is HOOK}
    assert {(row.state, row.last_error) for row in last.values()} == {
        (OutboxState.QUARANTINED, "withdrawn: no plugin brings this channel any more")
    }


@pytest.mark.req("FR-005")
def test_so_it_is_after_a_restart_without_it() -> None:
    lab = ill(Policy(channels=((HOOK, 1),)))
    lab.policy = Policy()
    lab.crash()
    assert [row for row in lab.engine.world.outbox.values() if row.channel is HOOK] == []
