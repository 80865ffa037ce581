"""Who is asked to cancel, and which execution the order is about, whatever has begun meanwhile (R15)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.bus import Hub, Link, endpoint, new_context
from supervisor.errors import BusError
from supervisor.incidents import events as e
from supervisor.incidents.model import StepResult
from supervisor.messages import Ack, Cancel, Frame
from supervisor.stopping import Stopping
from tests.lab.engine import Lab


@pytest.mark.req("R15", "FR-007")
def test_the_order_is_about_what_was_told_to_stop_and_not_about_what_has_begun_since() -> None:
    async def script(directory: Path) -> None:
        lab = Lab("web")
        lab.hold_dispatch = True
        lab.kill("web")
        lab.advance(1)
        (first,) = lab.dispatched
        lab.feed(e.ExecutionClaimed(first.id, "exec-1"))
        context = new_context()
        asked: list[Cancel] = []
        answers: list[dict[str, Any] | Exception] = []
        ordered: asyncio.Future[e.Order] = asyncio.get_running_loop().create_future()

        def executor(batch: list[tuple[str, Frame]]) -> None:
            for _, frame in batch:
                if isinstance(frame.body, Cancel):
                    asked.append(frame.body)
                    lab.feed(e.StepEnded(first.id, 0, StepResult("stop", False, "no", 1.0), True))
                    lab.order("execute", runbook_id=first.runbook.id, target_id="web", confirm=True)
                    link.post(Ack(), re=frame.id)

        hub = Hub(context, endpoint(directory, "healer"), "healer", lambda batch: None)
        link = Link(context, endpoint(directory, "healer"), "executor", executor, "test.1")
        stopping = Stopping(hub, lab.engine.world, lambda token, answer: answers.append(answer))
        try:
            stopping.ask(e.Order("t-1", "cancel", b'{"id": "web"}', "anna"), ordered.set_result)
            async with asyncio.timeout(20):
                order = await ordered
        finally:
            link.close()
            hub.close()
            context.destroy(linger=0)
        assert [it.execution_id for it in asked] == [first.id]
        assert (order.token, order.actor, msgspec.json.decode(order.args)) == ("t-1", "anna", {"id": first.id})
        answer = lab.order("cancel", id=first.id)
        assert answer is not None
        assert "nothing is at work on" in str(answer.error)
        (second,) = lab.engine.world.executions.values()
        assert (second.runbook.id, second.cancelled_by) == (first.runbook.id, "")
        assert answers == []

    with tempfile.TemporaryDirectory(prefix="hc") as directory:
        asyncio.run(script(Path(directory)))


@pytest.mark.req("R15", "NFR-002")
def test_where_nothing_more_can_be_asked_the_person_is_told_and_the_healer_lives_on() -> None:
    class Full:
        def request(self, to: str, body: object) -> None:
            raise BusError("healer: 20000 messages wait for their answers")

    lab = Lab("web")
    lab.hold_dispatch = True
    lab.kill("web")
    lab.advance(1)
    answers: list[dict[str, Any] | Exception] = []
    stopping = Stopping(Full(), lab.engine.world, lambda token, answer: answers.append(answer))  # type: ignore[arg-type]
    stopping.ask(e.Order("t-1", "cancel", b'{"id": "web"}', "anna"), lambda order: pytest.fail("it was not asked"))
    assert [str(answer) for answer in answers] == ["healer: 20000 messages wait for their answers"]
