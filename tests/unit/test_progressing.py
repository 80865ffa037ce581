"""What the healer keeps of how far long work is: its rate, its rest, and when nothing is said of it any more."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from supervisor import progressing
from supervisor.incidents import events as e
from supervisor.incidents.model import ExecutionState
from supervisor.messages import AtWork
from supervisor.progressing import SILENT_S, Progressing
from tests.lab.engine import Lab

pytestmark = pytest.mark.req("FR-007", "R9")


class Heard:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lab = Lab("web")
        self.lab.hold_dispatch = True
        self.lab.kill("web")
        self.lab.poll("web")
        self.lab.advance(1)
        self.execution = self.lab.dispatched[-1]
        self.lab.feed(e.ExecutionClaimed(self.execution.id, "exec-1"))
        self.now_s = 50.0
        self.news: list[dict[str, Any]] = []
        monkeypatch.setattr(progressing, "monotonic_s", lambda: self.now_s)
        self.it = Progressing(self.lab.engine.world, self.news.append)

    def hear(self, after_s: float, done: int, stage: str = "copy", **more: Any) -> dict[str, Any]:
        self.now_s += after_s
        self.it.hear(AtWork("web", stage, done, 1000, "pages", self.execution.id, **more))
        return self.news[-1]


def test_the_rate_is_that_of_the_present_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)
    first = heard.hear(0.0, 100)
    assert (first["what"], first["incident_id"]) == ("rb-restart-service", heard.execution.incident_id)
    assert (first["rate_per_s"], first["left_s"]) == (None, None)
    heard.hear(1.0, 200)
    told = heard.hear(1.0, 400)
    assert (told["rate_per_s"], told["left_s"], told["can_be_cancelled"]) == (150.0, 4.0, True)
    other = heard.hear(1.0, 0, "restore", final=True)
    assert (other["rate_per_s"], other["can_be_cancelled"]) == (None, False)


def test_a_step_that_does_not_move_is_still_at_work_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)
    heard.hear(0.0, 100)
    heard.now_s += 10 * SILENT_S
    assert [it["done"] for it in heard.it.at_work()] == [100]
    assert heard.hear(0.0, 0, "", over=True)["over"]
    assert heard.it.at_work() == []
    heard.hear(0.0, 100)
    world = heard.lab.engine.world
    done = msgspec.structs.replace(world.executions[heard.execution.id], state=ExecutionState.SUCCEEDED)
    world.executions[heard.execution.id] = done
    assert heard.it.at_work() == [], "whatever its executor could still say of it"


def test_a_check_of_which_nothing_is_heard_any_more_is_not_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard(monkeypatch)
    heard.it.hear(AtWork("notes", "quick_check", 5, 10, "bytes"))
    assert [(it["what"], it["target_id"]) for it in heard.it.at_work()] == [("integrity check", "notes")]
    heard.now_s += SILENT_S
    assert heard.it.at_work() == []
