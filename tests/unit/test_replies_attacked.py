"""R15, FR-005: replies that come late, in floods, or from somebody who wants more than he may."""

from __future__ import annotations

import pytest

from supervisor.incidents import replies
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
