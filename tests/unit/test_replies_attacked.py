"""R15, FR-005: replies that come late, in floods, or from somebody who wants more than he may."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from supervisor.config import SignalSection
from supervisor.incidents import events as e
from supervisor.incidents import replies
from supervisor.incidents.effects import Answer
from supervisor.incidents.orders import SignalReply
from supervisor.incidents.plain_text import units
from supervisor.incidents.world import Turn
from supervisor.messages import Ack, Body
from supervisor.notifier.replies import WAITING_MAX, Replies
from tests.doubles.signal_received import ACCOUNT, text
from tests.unit.test_engine_replies import ANNA, H, Phone

BOB = "+15550102"


def fail(lab: Phone, name: str) -> None:
    """It dies, and its one repair fails: a page."""
    lab.step_fails = "start"
    lab.kill(name)
    lab.step_fails = ""
    lab.deliver()


@pytest.mark.req("R2", "R15")
def test_an_ok_that_was_long_under_way_silences_no_page_that_came_after_it() -> None:
    lab = Phone(fails=False)
    lab.advance(5 * H)
    fail(lab, "web")
    assert "before the message" in lab.say("ok", sent_s=lab.now_s - 4 * H)
    incident = lab.incidents("web")[-1]
    assert incident.acknowledged_wall_s is None
    lab.advance(1.5 * H)
    lab.deliver()
    assert lab.pages()[-1].kind == "repeat"
    assert "Acknowledged: web" in lab.say("ok", sent_s=lab.now_s - H), "it was sent after the page, before its repeat"


@pytest.mark.req("R15")
def test_a_flood_of_one_approver_keeps_no_other_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "REPLIES_MAX", 100)
    lab = Phone(approvers=(ANNA, BOB))
    page = lab.at(lab.pages()[-1])
    said = [lab.say("hello", sent_s=lab.now_s + n / 1000) for n in range(300)]
    assert sum("none is taken for a while" in text for text in said) == 1
    assert len(lab.engine.world.replies) == 100
    assert "Acknowledged" in lab.say("ok", page, sender=BOB)


class Weighed:
    """Counts how often it was compared."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Weighed.times += 1
        return self is other

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.req("R15")
def test_an_ok_for_a_whole_storm_says_how_many_and_compares_no_answer_with_each_other() -> None:
    lab = Phone(*(f"a-service-with-a-name-{n:02d}" for n in range(12)), fails=False)
    for n in range(12):
        fail(lab, f"a-service-with-a-name-{n:02d}")
    lab.advance(60)
    lab.deliver()
    many = next(row for row in lab.pages() if len(row.covers) > 5)
    answer = lab.say("ok", lab.at(many))
    assert f"name-04 is down and {len(many.covers) - 5} more. You are not reminded of it." in answer
    turn = Turn(lab.engine.world, lab.instant())
    turn.effects = [Answer(f"{replies.PREFIX}nobody:1", body={"a": Weighed()}) for _ in range(50)]
    replies.finish(turn)
    assert (turn.effects, Weighed.times) == ([], 0), "of thousands, each with each is a while"


@pytest.mark.req("NFR-003", "R2")
@pytest.mark.parametrize("length", [8, 40, 70])
@pytest.mark.parametrize("count", [12, 40])
def test_of_a_page_for_many_neither_what_to_decide_nor_what_to_answer_is_cut(count: int, length: int) -> None:
    names = [f"{'service-with-a-name-' * 4}"[: length - 3] + f"{n:03d}" for n in range(count)]
    lab = Phone(*names, fails=False, host="a-machine-with-a-name-that-is-forty-long")
    lab.step_fails = "start"
    for name in names:
        lab.kill(name)
    lab.deliver()
    lab.advance(5 * H)
    lab.deliver()
    pages = [row for row in lab.pages() if len(row.covers) > 1]
    assert {row.kind for row in pages} >= {"grouped"}
    for row in pages:
        assert units(row.body) < 600
        *_, last, replies_line = row.body.splitlines()
        assert "…" not in last.partition(": ")[2]
        assert last.startswith(("- ", "Decide: find the common cause")), row.body
        assert replies_line.startswith("Reply (quote this) ok, why - or with code ")


@pytest.mark.req("R4", "R15")
@pytest.mark.parametrize(("once", "said"), [(True, "for this time only."), (False, "from now on by itself.")])
def test_what_is_approved_for_one_time_is_not_told_as_approved_for_ever(once: bool, said: str) -> None:
    lab = Phone()
    runbook = msgspec.structs.replace(lab.engine.world.runbooks["rb-restart-service"], once=once)
    lab.engine.world.runbooks[runbook.id] = runbook
    lab.advance(2 * H)
    lab.deliver()
    assert f"Approved: rb-restart-service for web, {said}" in lab.quote("approve")


@pytest.mark.req("R15")
def test_a_quote_that_could_be_of_two_pages_means_neither_without_a_code() -> None:
    lab = Phone("web", "db")
    first, second = lab.engine.world.requests.values()
    at_ms = first.sent_ms[0]
    lab.engine.world.requests[second.id] = msgspec.structs.replace(second, sent_ms=(at_ms,))
    ran = len(lab.dispatched)
    assert "two of my messages" in lab.say("run", at_ms)
    assert len(lab.dispatched) == ran
    assert "Started: rb-restart-service for db" in lab.say(f"run {second.code}", at_ms)


@pytest.mark.req("FR-007", "R15")
def test_who_ordered_what_another_one_dismissed_before_it_ran_is_told_so() -> None:
    lab = Phone(approvers=(ANNA, BOB))
    lab.hold_dispatch = True
    page = lab.at(lab.pages()[-1])
    assert "Its result follows" in lab.say("run", page)
    answer = lab.say("dismiss 4h", page, sender=BOB)
    assert "Dismissed" in answer
    assert "Failed: rb-restart-service for web" in answer
    assert {row.to for row, _ in lab.sent[-2:]} == {ANNA, BOB}
    assert lab.engine.world.waiters == {}
    assert not [reply for reply in lab.engine.world.replies.values() if reply.waits]


@pytest.mark.req("R7", "R15")
def test_an_approval_under_a_pause_does_not_say_that_it_runs() -> None:
    lab = Phone()
    lab.order("pause", all=True)
    ran = len(lab.dispatched)
    assert lab.quote("approve").endswith("It does not run now.")
    lab.advance(60)
    assert len(lab.dispatched) == ran


@pytest.mark.req("R15")
def test_a_flood_that_the_healer_cannot_take_is_one_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    asks: list[asyncio.Future[Body]] = []

    async def flood() -> None:
        def ask(body: Body) -> asyncio.Future[Body]:
            asks.append(asyncio.get_running_loop().create_future())
            return asks[-1]

        listener = Replies(SignalSection(account=ACCOUNT, recipient=ANNA, approvers=(ANNA,)), ask)
        for _ in range(2):
            start = len(asks)
            for n in range(1_000):
                listener._take(msgspec.json.encode(text("hello", 1_000 * (start + 1) + n)))
            for answer in asks[start:]:
                answer.set_result(Ack())
            await asyncio.sleep(0)

    asyncio.run(flood())
    assert len(asks) == 2 * WAITING_MAX
    assert len([it for it in caplog.records if "more are dropped" in it.getMessage()]) == 2, "each flood once"


@pytest.mark.req("R2", "R15")
def test_an_ok_without_a_quote_silences_no_page_that_has_not_arrived() -> None:
    lab = Phone(*(f"s{n}" for n in range(6)))
    for row in lab.pages():
        assert "Acknowledged" in lab.say("ok", lab.at(row))
    assert lab.only("s5").page_id == lab.engine.world.paging.gather != "", "it is told later, with others"
    assert "no page is open" in lab.say("ok")
    before = len(lab.sent)
    lab.advance(70)  # it leaves, and nobody has a receipt
    lab.feed(e.ReplySeen(SignalReply(ANNA, ANNA, int(lab.now_s * 1000), "ok")))
    assert lab.only("s5").acknowledged_wall_s is None
    lab.deliver()
    assert [row.kind for row, _ in lab.sent[before:]] == ["page", "reply"]
    assert "Acknowledged: s5" in lab.say("ok")
