"""Much work in slices: in order, and with whatever else the loop has to do in between."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from supervisor import slices
from supervisor.messages import VERSION, Ack, Frame


@pytest.mark.req("R9", "AC-011")
def test_others_have_their_turn_within_each_slice_and_the_order_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(0.0, slices.SLICE_S / 4)  # each look at the clock, and there is one for each frame
    monkeypatch.setattr(slices, "monotonic_s", lambda: next(seconds))
    seen: list[str] = []

    async def beat() -> None:
        while True:
            seen.append("beat")
            await asyncio.sleep(0)

    async def test() -> None:
        beating = asyncio.create_task(beat())
        batch = [("process", Frame(VERSION, f"f{n}", "", Ack())) for n in range(40)]
        await asyncio.ensure_future(slices.in_slices(lambda _, frame: seen.append(frame.id))(batch))
        beating.cancel()

    asyncio.run(test())
    assert [name for name in seen if name != "beat"] == [f"f{n}" for n in range(40)]
    longest = max(len(list(run)) for kind, run in itertools.groupby(seen, lambda name: name == "beat") if not kind)
    assert longest <= 5
