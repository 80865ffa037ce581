"""Two incidents about one service: one lock, one breaker, and words that name what a person can do (§2.7, R12)."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.config import parse
from supervisor.incidents import events as e
from supervisor.incidents import wording
from supervisor.incidents.model import AnomalyType, Channel, State, Target, TierReason
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import MemoryData, ProcessData, ProcessRef, SignalData, Stamp, Zombie
from supervisor.targets import targets
from tests.lab.engine import BOOT, Lab, service

SIGNALS = "bot-signals"


def behind(name: str) -> Target:
    toy = service(name)
    return msgspec.structs.replace(toy, target_id=SIGNALS, family="trading", auto_restart=False, service=name)


def lab_of(policy: Policy | None = None) -> Lab:
    lab = Lab(policy=policy, targets=(service("toy"), behind("toy")))
    lab.silent.add(SIGNALS)
    lab.poll("toy")
    return lab


def signal(lab: Lab, age_s: float) -> None:
    data = SignalData(age_s, 300.0, Stamp.KEY, process="toy")
    lab.feed(e.ReadingSeen(lab.reading(SIGNALS, family="trading", data=data)))


def stale(lab: Lab) -> None:
    """Seen, and seen again by the fresh probe that was asked for."""
    signal(lab, 400.0)
    signal(lab, 400.0)


@pytest.mark.req("FR-003", "R3", "NFR-001")
def test_behind_a_stale_signal_stands_its_process_and_never_its_auto_restart() -> None:
    toml = (
        '[process.toy]\npid_file = "/tmp/toy.pid"\nauto_restart = true\nrestart = { argv = ["toy"] }\n'
        '[trading.bot]\nsignal_file = "/tmp/s.json"\nprocess = "toy"\n[trading.other]\nsignal_file = "/tmp/o.json"\n'
    )
    found = {target.target_id: target for target in targets(parse(toml, "x"))}
    toy, bot, other = found["toy"], found[SIGNALS], found["other-signals"]
    assert (bot.recipe, bot.sought, bot.service_id, bot.auto_restart) == (toy.recipe, toy.sought, "toy", False)
    assert (other.recipe, other.service_id) == (None, "other-signals")
    assert other.recipe_hint == "set process in [trading.other] to the [process.NAME] behind it"
    assert msgspec.structs.replace(bot, recipe=None).recipe_hint.endswith("to [process.toy]")


@pytest.mark.req("R3", "NFR-001")
def test_a_stale_signal_waits_while_its_process_is_being_restarted_and_then_looks_afresh() -> None:
    lab = lab_of()
    lab.order("approve", runbook_id="rb-restart-augur", target_id=SIGNALS)
    lab.hold_dispatch = True
    lab.kill("toy")
    stale(lab)
    assert lab.only(SIGNALS).state is State.DIAGNOSING
    assert "service:toy is in use" in lab.only(SIGNALS).waiting_for
    lab.hold_dispatch = False
    lab.run(lab.dispatched[0])
    lab.advance(2.0)
    assert lab.only("toy").state is State.RESOLVED
    signal(lab, 1.0)
    assert lab.only(SIGNALS).state is State.SELF_RESOLVED
    assert [execution.runbook.id for execution in lab.dispatched] == ["rb-restart-service"]


@pytest.mark.req("NFR-001", "R1")
def test_restarts_of_one_service_count_together_whichever_runbook_made_them() -> None:
    lab = lab_of(Policy(breaker_per_target=2))
    lab.order("approve", runbook_id="rb-restart-augur", target_id=SIGNALS)
    for _ in range(2):
        lab.kill("toy")
        lab.advance(2.0)
    assert len(lab.dispatched) == 2
    stale(lab)
    assert lab.only(SIGNALS).tier_reason is TierReason.BREAKER_OPEN
    assert len(lab.dispatched) == 2


@pytest.mark.req("R15", "R3")
def test_a_process_that_two_services_claim_is_ended_for_neither_and_for_no_signal_behind_one() -> None:
    lab = Lab(targets=(service("toy"), service("twin"), behind("toy")))
    lab.alive["twin"] = lab.alive["toy"]
    for name in ("toy", "twin"):
        lab.poll(name)
    answer = lab.order("execute", runbook_id="rb-restart-augur", target_id=SIGNALS, confirm=True)
    assert answer is not None
    assert answer.error is not None
    assert "is known as twin too" in str(answer.error)
    assert "[process.toy]" in str(answer.error.hint)


def zombie_of(lab: Lab, name: str, parent_pid: int, seen_s: float = 11.0) -> None:
    reading = lab.reading(name)
    assert isinstance(reading.data, ProcessData)
    zombie = Zombie(ProcessRef(BOOT, 7, 7), parent_pid, "parent", seen_s)
    data = msgspec.structs.replace(reading.data, zombies=(zombie,))
    lab.feed(e.ReadingSeen(msgspec.structs.replace(reading, data=data)))


@pytest.mark.req("R12", "R1")
@pytest.mark.parametrize("parent", ["toy", "nobody"])
def test_a_zombie_that_stays_is_told_with_its_parent_and_the_restart_that_would_end_it(parent: str) -> None:
    lab = Lab("undead", "toy")
    lab.poll("toy")
    pid = lab.alive["toy"] if parent == "toy" else 4711
    assert pid is not None
    lab.silent.add("undead")
    lab.order("approve", runbook_id="rb-kill-zombie", target_id="undead")
    zombie_of(lab, "undead", pid)
    zombie_of(lab, "undead", pid)
    for _ in range(40):
        lab.advance(1.0)
        zombie_of(lab, "undead", pid)
    (incident,) = lab.incidents("undead")
    assert (incident.anomaly, incident.state) == (AnomalyType.PROCESS_ZOMBIE, State.ESCALATED)
    body = wording.body(lab.engine.world, incident, Channel.SIGNAL, "page", lab.now_s)
    assert f"Only its parent parent (process {pid}) can clean it up, and did not." in body
    how = (
        "- restart toy: healctl heal execute rb-restart-service --target toy --confirm"
        if parent == "toy"
        else "by hand"
    )
    assert how in body
    assert len(body) <= wording.SIGNAL_CHARS_MAX


@pytest.mark.req("R1", "NFR-003")
def test_what_a_runbook_that_only_tells_has_to_say_is_in_the_summary() -> None:
    lab = Lab(targets=(Target("system-memory", "host"),))
    lab.silent.add("system-memory")
    data = MemoryData(400 * 1024**2, 8 * 1024**3, 512 * 1024**2, 256 * 1024**2)
    for _ in range(2):
        lab.feed(e.ReadingSeen(lab.reading("system-memory", family="host", data=data)))
    incident = lab.only("system-memory")
    assert incident.tier_reason is TierReason.TELLS_ONLY
    (row,) = lab.messages()
    assert (row.channel, row.priority, row.kind) == (Channel.SYNAPSE, "info", "summary")
    assert "healctl wrote down what holds the memory: done." in row.body
    assert "interrupted" not in row.body
    assert "Nothing to decide now" in row.body
