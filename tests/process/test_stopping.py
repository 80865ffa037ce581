"""Who is told to stop, and what the engine hears of it (R15)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from supervisor import stopping
from supervisor.bus import Hub, Link, endpoint, new_context
from supervisor.errors import BusError, Refused, UnknownId
from supervisor.incidents.effects import TellCancel
from supervisor.incidents.events import CancelTold
from supervisor.messages import Ack, Body, Cancel, Frame, Nack
from supervisor.stopping import Stopping

EXECUTION = TellCancel("t-1", "anna", "web", "exe_1")
CHECK = TellCancel("t-1", "anna", "notes")


@pytest.mark.req("R15", "FR-007")
@pytest.mark.parametrize(
    ("effect", "says", "told"),
    [
        (EXECUTION, Ack(), CancelTold("t-1", "anna", "web", "exe_1")),
        (
            EXECUTION,
            Nack(Refused.code, "it is all or nothing", "wait"),
            CancelTold("t-1", "anna", "web", "exe_1", goes_on="it is all or nothing", hint="wait"),
        ),
        (
            EXECUTION,
            Nack(UnknownId.code, "exe_1 is not at work", "look"),
            CancelTold("t-1", "anna", "web", "exe_1", unsure="exe_1 is not at work", hint="look"),
        ),
        (
            EXECUTION,
            None,
            CancelTold("t-1", "anna", "web", "exe_1", unsure="the executor has not said within 0.2 s that it stops it"),
        ),
        (CHECK, Ack(), CancelTold("t-1", "anna", "notes")),
    ],
    ids=["stops", "goes on", "knows nothing of it", "says nothing", "a check"],
)
def test_the_engine_hears_what_whoever_is_at_it_says(
    effect: TellCancel, says: Body | None, told: CancelTold, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(directory: Path) -> None:
        context = new_context()
        asked: list[Cancel] = []
        heard: asyncio.Future[CancelTold] = asyncio.get_running_loop().create_future()
        name = "executor" if effect.execution_id else "database"

        def at_work(batch: list[tuple[str, Frame]]) -> None:
            for _, frame in batch:
                if isinstance(frame.body, Cancel):
                    asked.append(frame.body)
                    if says is not None:
                        link.post(says, re=frame.id)

        hub = Hub(context, endpoint(directory, "healer"), "healer", lambda batch: None)
        link = Link(context, endpoint(directory, "healer"), name, at_work, "test.1")
        monkeypatch.setattr(stopping, "WITHIN_S", 0.2 if says is None else 20.0)
        try:
            Stopping(hub, heard.set_result).tell(effect)
            async with asyncio.timeout(60):
                assert await heard == told
        finally:
            link.close()
            hub.close()
            context.destroy(linger=0)
        assert asked[0] == Cancel("anna", effect.execution_id, effect.target_id)

    with tempfile.TemporaryDirectory(prefix="hc") as directory:
        asyncio.run(script(Path(directory)))


@pytest.mark.req("R15", "NFR-002")
def test_where_nothing_more_can_be_asked_the_person_is_told_and_the_healer_lives_on() -> None:
    class Full:
        def request(self, to: str, body: object) -> None:
            raise BusError("healer: 20000 messages wait for their answers")

    heard: list[CancelTold] = []
    Stopping(Full(), heard.append).tell(EXECUTION)  # type: ignore[arg-type]
    assert [it.unsure for it in heard] == ["healer: 20000 messages wait for their answers"]
