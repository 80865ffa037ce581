"""How much one turn of a worker's loop takes from the bus: the root kills who gives no beat for 20 s (DESIGN §1)."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest

from supervisor.bus import ANSWER, BATCH_MAX, Hub, Link, endpoint, new_context
from supervisor.errors import HealError
from supervisor.messages import Ack, Frame, Hello, Nack, ProbeNow

COUNT = 3_000


@pytest.mark.req("NFR-003", "R8")
def test_thousands_acknowledged_by_one_message_are_told_in_many_turns_of_the_loop() -> None:
    """A group commit acknowledges thousands of decisions, and each is then carried out: many seconds in a storm."""

    async def script(directory: Path) -> None:
        context = new_context()
        taken: list[Frame] = []

        def serve(batch: list[tuple[str, Frame]]) -> None:
            taken.extend(frame for _, frame in batch if not isinstance(frame.body, Hello))
            if len(taken) == COUNT:
                hub.acknowledge(batch[0][0], taken)

        hub = Hub(context, endpoint(directory, "store"), "store", serve)
        link = Link(context, endpoint(directory, "store"), "healer", lambda batch: None, "test.1")
        turns: list[int] = [0]
        told = asyncio.Event()

        def count(_: object) -> None:
            turns[-1] += 1
            if sum(turns) == COUNT:
                told.set()

        async def beat() -> None:
            while True:
                turns.append(0)
                await asyncio.sleep(0)

        for _ in range(COUNT):
            link.ask(ProbeNow("one")).add_done_callback(count)
        beating = asyncio.get_running_loop().create_task(beat())
        try:
            async with asyncio.timeout(60):
                await told.wait()
        finally:
            beating.cancel()
            link.close()
            hub.close()
            context.destroy(linger=0)
        assert max(turns) <= BATCH_MAX // ANSWER + 1

    with tempfile.TemporaryDirectory(prefix="hc") as directory:
        asyncio.run(script(Path(directory)))


@pytest.mark.req("NFR-003")
def test_what_is_sent_again_while_it_waits_is_handled_once() -> None:
    """Else a healer that is slow for a while is given ever more to do, the slower it is."""

    async def script(directory: Path) -> None:
        context = new_context()
        handled: list[str] = []
        release = asyncio.Event()

        async def serve(batch: list[tuple[str, Frame]]) -> None:
            for source, frame in batch:
                if isinstance(frame.body, ProbeNow):
                    handled.append(frame.id)
                    await release.wait()
                    hub.answer(source, frame, Ack())

        hub = Hub(context, endpoint(directory, "healer"), "healer", serve)
        link = Link(context, endpoint(directory, "healer"), "host", lambda batch: None, "test.1")
        asked = link.ask(ProbeNow("one"))
        (pending,) = link._pending.values()
        try:
            async with asyncio.timeout(60):
                while pending.attempt < 4:
                    await asyncio.sleep(0.01)
                release.set()
                assert isinstance(await asked, Ack)
                await link.ask(ProbeNow("two"))
        finally:
            link.close()
            hub.close()
            context.destroy(linger=0)
        assert len(set(handled)) == 2
        assert handled.count(handled[0]) <= 2, "of its four copies one may have come as its answer was on its way"

    with tempfile.TemporaryDirectory(prefix="hc") as directory:
        asyncio.run(script(Path(directory)))


@pytest.mark.req("NFR-003", "FR-005")
def test_what_its_handler_has_put_off_is_taken_when_it_is_sent_again() -> None:
    """A report that comes too early is left unanswered: to drop its second copy for ever would lose it."""

    async def script(directory: Path) -> None:
        context = new_context()
        seen: list[str] = []

        def serve(batch: list[tuple[str, Frame]]) -> None:
            for source, frame in batch:
                if isinstance(frame.body, ProbeNow):
                    seen.append(frame.id)
                    if len(seen) > 1:
                        hub.refuse(source, frame, HealError("no"))

        hub = Hub(context, endpoint(directory, "healer"), "healer", serve)
        link = Link(context, endpoint(directory, "healer"), "host", lambda batch: None, "test.1")
        try:
            async with asyncio.timeout(60):
                assert isinstance(await link.ask(ProbeNow("one")), Nack)
        finally:
            link.close()
            hub.close()
            context.destroy(linger=0)
        assert len(seen) == 2
        assert len(set(seen)) == 1
        assert hub._inbox._ids == set(), "and nothing of it is remembered"

    with tempfile.TemporaryDirectory(prefix="hc") as directory:
        asyncio.run(script(Path(directory)))
