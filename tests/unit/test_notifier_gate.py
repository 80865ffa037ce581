"""Who may be in work: slots per channel, the gravest first, suspects alone, and nobody for ever outside."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.incidents.model import Channel, Tier
from supervisor.notifier.gate import Gate

SIGNAL, SYNAPSE = Channel.SIGNAL, Channel.SYNAPSE


class Room:
    """Tasks that hold a turn until they are let go, and the order in which they got in."""

    def __init__(self, slots: int) -> None:
        self.gate = Gate(slots)
        self.entered: list[str] = []
        self._go: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def _hold(self, name: str, channel: Channel, tier: Tier, suspect: bool) -> None:
        async with self.gate.turn(channel, tier, suspect):
            self.entered.append(name)
            await self._go[name].wait()

    async def come(
        self, name: str, channel: Channel = SIGNAL, tier: Tier = Tier.PAGE, *, suspect: bool = False
    ) -> None:
        self._go[name] = asyncio.Event()
        self._tasks[name] = asyncio.get_running_loop().create_task(self._hold(name, channel, tier, suspect))
        await settle()

    async def go(self, name: str) -> None:
        self._go[name].set()
        await settle()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        await settle()

    async def close(self) -> None:
        for go in self._go.values():
            go.set()
        await asyncio.wait_for(asyncio.gather(*self._tasks.values(), return_exceptions=True), 60)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


@pytest.mark.req("FR-005")
def test_slots_are_bounded_and_pages_go_first_in_their_order() -> None:
    async def run() -> None:
        room = Room(2)
        for name in ("a", "b"):
            await room.come(name, tier=Tier.INFORM)
        await room.come("i1", tier=Tier.INFORM)
        await room.come("p1")
        await room.come("p2")
        assert room.entered == ["a", "b"]
        for name in ("a", "b", "p1"):
            await room.go(name)
        assert room.entered == ["a", "b", "p1", "p2", "i1"]
        await room.close()

    asyncio.run(run())


@pytest.mark.req("AC-011")
def test_one_channels_slots_are_not_anothers() -> None:
    async def run() -> None:
        room = Room(1)
        await room.come("synapse", SYNAPSE)
        await room.come("synapse2", SYNAPSE)
        await room.come("signal")
        assert room.entered == ["synapse", "signal"]
        await room.close()

    asyncio.run(run())


@pytest.mark.req("FR-005")
def test_a_suspect_is_alone_and_a_crowd_of_them_lets_others_through() -> None:
    async def run() -> None:
        room = Room(2)
        await room.come("a", SYNAPSE)
        await room.come("s1", suspect=True)
        await room.come("s2", suspect=True)
        await room.come("page")
        assert room.entered == ["a"]
        await room.go("a")
        assert room.entered == ["a", "s1"]
        await room.go("s1")
        assert room.entered == ["a", "s1", "page"]
        await room.come("late")
        await room.go("page")
        assert room.entered == ["a", "s1", "page", "s2"]
        await room.go("s2")
        assert room.entered == ["a", "s1", "page", "s2", "late"]
        await room.close()

    asyncio.run(run())


def test_whoever_leaves_before_its_turn_blocks_nobody() -> None:
    async def run() -> None:
        room = Room(1)
        await room.come("a")
        await room.come("b")
        await room.come("s", suspect=True)
        await room.come("c")
        await room.cancel("b")
        await room.cancel("s")
        await room.go("a")
        assert room.entered == ["a", "c"]
        await room.cancel("c")
        await room.come("d")
        assert room.entered == ["a", "c", "d"]
        await room.close()

    asyncio.run(run())
