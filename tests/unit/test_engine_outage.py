"""A channel over which nothing arrives (FR-005, R2): said over the other one, and over itself when it works."""

from __future__ import annotations

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents import outage
from supervisor.incidents.model import Channel, OutboxRow, State, Tier, TimerKind
from supervisor.incidents.policy import Policy
from supervisor.incidents.views import stamp
from tests.lab.engine import START, Lab, service

PAGES = Policy(pages=True)
SIGNAL, SYNAPSE = Channel.SIGNAL, Channel.SYNAPSE


def ill(names: int = 3, policy: Policy = PAGES) -> Lab:
    """One critical incident after another: a page and a Synapse message each."""
    return Lab(policy=policy, targets=tuple(service(f"s{n}", auto_restart=False) for n in range(names)), outages=True)


def waiting(lab: Lab, channel: Channel) -> list[OutboxRow]:
    return [row for row in lab.engine.world.outbox.values() if row.channel is channel]


def receive(lab: Lab, channel: Channel, count: int | None = None) -> None:
    """`count` of what waits now (all of it) gets its receipt; what that brings about still waits."""
    for row in waiting(lab, channel)[:count]:
        lab.feed(e.Delivered(row.id, row.attempts + 1, f"{channel}:{row.id}", ""))


def fail(lab: Lab, channel: Channel) -> None:
    for row in waiting(lab, channel):
        lab.feed(e.Delivered(row.id, row.attempts + 1, "", "connection refused"))


def notices(lab: Lab, channel: Channel) -> list[OutboxRow]:
    return [row for row in lab.messages(channel) if row.kind == outage.KIND]


def other(channel: Channel) -> Channel:
    return SYNAPSE if channel is SIGNAL else SIGNAL


def pass_time(lab: Lab, seconds: float, works: Channel) -> None:
    """A minute at a time, in which what goes over the other channel arrives."""
    for _ in range(int(seconds // 60)):
        receive(lab, works)
        lab.advance(60)
    receive(lab, works)


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.parametrize("channel", [SIGNAL, SYNAPSE])
def test_ten_minutes_without_a_receipt_are_told_over_the_other_channel_and_the_end_over_itself_once(
    channel: Channel,
) -> None:
    lab = ill()
    lab.kill("s0")
    began_s = lab.now_s
    receive(lab, other(channel))
    fail(lab, channel)
    pass_time(lab, 540, other(channel))
    lab.kill("s1")
    pass_time(lab, 120, other(channel))
    incident = lab.only(f"messages:{channel}")
    assert (incident.state, incident.tier) == (State.ESCALATED, Tier.PAGE)
    told = [row for row in lab.messages() if row.incident_id == incident.id]
    assert other(channel) in {row.channel for row in told}
    assert channel is SYNAPSE or {row.channel for row in told} == {SYNAPSE}, (
        "never over Signal itself (R1: Synapse has all)"
    )
    assert not waiting(lab, other(channel))
    pass_time(lab, 240, other(channel))
    count = len(waiting(lab, channel))
    receive(lab, channel, 1)
    (said,) = notices(lab, channel)
    assert f"From {stamp(began_s)} to {stamp(lab.now_s)} (15 min)" in said.body
    assert f"{count} messages waited and arrive now" in said.body
    assert len(said.body) < 600
    assert not lab.only(f"messages:{channel}").open
    for _ in range(100):
        receive(lab, channel)
        pass_time(lab, 60, other(channel))
    assert notices(lab, channel) == [said]
    assert notices(lab, other(channel)) == []


@pytest.mark.req("FR-005")
def test_a_receipt_within_ten_minutes_is_no_outage_and_one_message_alone_is_told_as_one() -> None:
    lab = ill()
    for name in ("s0", "s1", "s2"):
        lab.kill(name)
        receive(lab, SYNAPSE)
        receive(lab, SIGNAL, 1)
        lab.advance(599)
        receive(lab, SIGNAL)
    assert notices(lab, SIGNAL) == []
    quiet = ill()
    quiet.kill("s0")
    receive(quiet, SYNAPSE)
    quiet.advance(700)
    receive(quiet, SYNAPSE)
    receive(quiet, SIGNAL)
    (said,) = notices(quiet, SIGNAL)
    assert "1 message waited and arrives now" in said.body


@pytest.mark.req("FR-005", "R2")
def test_what_was_delivered_last_begins_the_outage_and_a_second_one_is_told_again() -> None:
    lab = ill()
    lab.kill("s0")
    lab.kill("s1")
    lab.advance(300)
    receive(lab, SIGNAL, 1)
    last_s = lab.now_s
    lab.advance(599)
    assert not notices(lab, SIGNAL)
    lab.advance(2)
    receive(lab, SIGNAL, 1)
    (first,) = notices(lab, SIGNAL)
    assert f"From {stamp(last_s)} to " in first.body
    lab.kill("s2")
    lab.advance(700)
    receive(lab, SIGNAL, 1)
    assert len(notices(lab, SIGNAL)) == 2


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("when_s", [100.0, 700.0])
def test_no_crash_of_the_engine_loses_or_doubles_it(when_s: float) -> None:
    """Before it is out, and while it is; the time in which we were not there counts, but what waits is tried first."""
    lab = ill()
    lab.kill("s0")
    began_s = lab.now_s
    lab.advance(when_s)
    lab.crash()
    lab.feed(e.NotifierIsBack())
    lab.advance(700)
    lab.crash()
    lab.feed(e.NotifierIsBack())
    receive(lab, SIGNAL, 1)
    (said,) = notices(lab, SIGNAL)
    assert f"From {stamp(began_s)} to {stamp(lab.now_s)}" in said.body
    lab.crash()
    receive(lab, SIGNAL)
    lab.advance(5000)
    assert notices(lab, SIGNAL) == [said]


@pytest.mark.req("FR-005")
def test_what_waited_while_healctl_was_not_there_is_tried_before_anything_is_said() -> None:
    lab = ill()
    lab.kill("s0")
    receive(lab, SYNAPSE)
    lab.advance(10)
    lab.now_s += 4000  # it is down, and no timer runs
    lab.crash()
    lab.feed(e.NotifierIsBack())
    lab.feed(e.TimersDue())
    lab.advance(30)
    receive(lab, SIGNAL)
    lab.advance(4000)
    assert not [row for row in lab.messages() if row.kind == outage.KIND]


@pytest.mark.req("FR-005")
def test_a_clock_that_is_set_meanwhile_does_not_change_how_long_it_was() -> None:
    lab = ill()
    lab.kill("s0")
    lab.advance(700)
    mark = lab.engine.world.timers[TimerKind.OWN, "out:signal"]
    assert mark.due_steady_s - outage.FAR_S == START
    row = waiting(lab, SIGNAL)[0]
    now = msgspec.structs.replace(lab.instant(), wall_s=lab.now_s + 86_400)
    lab.records += lab.engine.handle(e.Delivered(row.id, 1, "signal:1", ""), now).records
    (said,) = notices(lab, SIGNAL)
    assert "(12 min)" in said.body


@pytest.mark.req("FR-005")
def test_nobody_to_page_is_no_outage_and_a_reload_that_takes_the_pages_away_ends_one_without_a_word() -> None:
    nobody = ill(policy=Policy())
    nobody.kill("s0")
    pass_time(nobody, 6000, SYNAPSE)
    assert nobody.incidents("messages:signal") == []
    lab = ill()
    lab.kill("s0")
    pass_time(lab, 700, SYNAPSE)
    targets = tuple(lab.engine.world.targets.values())
    lab.feed(e.Reconfigured(targets, frozenset(), Policy(), RUNBOOKS))
    assert not lab.only("messages:signal").open
    receive(lab, SIGNAL)
    assert notices(lab, SIGNAL) == []


@pytest.mark.req("FR-005")
def test_both_at_once_are_told_by_whichever_works_first() -> None:
    lab = ill()
    lab.kill("s0")
    lab.advance(900)
    assert {i.target_id for i in lab.incidents() if i.open} >= {"messages:signal", "messages:synapse"}
    receive(lab, SYNAPSE, 1)
    assert len(notices(lab, SYNAPSE)) == 1
    assert any("messages:signal" in row.body for row in waiting(lab, SYNAPSE)), "it waited, too"
    assert notices(lab, SIGNAL) == []
    lab.advance(60)
    receive(lab, SIGNAL, 1)
    assert len(notices(lab, SIGNAL)) == 1


@pytest.mark.req("FR-005")
def test_the_time_is_the_configured_one() -> None:
    lab = ill(policy=Policy(pages=True, undelivered_after_s=5.0))
    lab.kill("s0")
    lab.advance(6)
    assert lab.only("messages:signal").open
