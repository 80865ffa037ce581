"""More messages than the bus takes at once: none is lost, no page waits for what is less, and the healer lives."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from supervisor.bus import PENDING_MAX, Hub, Link, endpoint, new_context
from supervisor.config import Config
from supervisor.incidents.model import Channel, OutboxRow, Tier
from supervisor.messages import Ack, Deliver, Frame
from supervisor.outgoing import AT_ONCE_MAX, PLUGINS_AT_ONCE_MAX, Outgoing
from supervisor.plugins import Part, Piece

ROWS = PENDING_MAX + 5_000


def row(number: int, tier: Tier, channel: Channel = Channel.SIGNAL) -> OutboxRow:
    return OutboxRow(f"out_{number}", None, (), channel, tier, "page", "urgent", "", "", 0.0)


@pytest.mark.req("FR-005")
def test_more_rows_than_the_bus_takes_all_arrive_and_pages_first(tmp_path: Path) -> None:
    got: list[str] = []

    async def test() -> None:
        context = new_context()
        hub = Hub(context, endpoint(tmp_path, "healer"), "healer", lambda batch: None)
        outgoing = Outgoing(hub, Config)
        for number in range(ROWS):
            outgoing.add(row(number, Tier.ASK))
        outgoing.add(row(ROWS, Tier.PAGE))
        outgoing.add(row(ROWS + 1, Tier.PAGE, Channel.SYNAPSE))  # the store's
        assert hub.waiting == AT_ONCE_MAX + 1
        arrived = asyncio.Event()

        def take(batch: list[tuple[str, Frame]]) -> None:
            for _, frame in batch:
                if isinstance(frame.body, Deliver):
                    got.append(frame.body.row.id)
                    link.post(Ack(), re=frame.id)
            if len(set(got)) > ROWS:
                arrived.set()

        link = Link(context, endpoint(tmp_path, "healer"), "notifier", take, "notifier.1.1")
        await asyncio.wait_for(arrived.wait(), 60)
        link.close()
        hub.close()
        context.destroy(linger=0)

    asyncio.run(test())
    assert set(got) == {f"out_{number}" for number in range(ROWS + 1)}
    assert got.index(f"out_{ROWS}") <= AT_ONCE_MAX


@pytest.mark.req("FR-005", "AC-011")
def test_a_plugins_channel_that_takes_nothing_holds_up_nobody_and_fills_no_bus(tmp_path: Path) -> None:
    async def test() -> None:
        context = new_context()
        hub = Hub(context, endpoint(tmp_path, "healer"), "healer", lambda batch: None)
        outgoing = Outgoing(hub, Config)
        for number in range(AT_ONCE_MAX + 1):
            outgoing.add(row(number, Tier.PAGE, Channel("hook")))
        assert hub.waiting == PLUGINS_AT_ONCE_MAX
        outgoing.add(row(ROWS, Tier.PAGE))
        assert hub.waiting == PLUGINS_AT_ONCE_MAX + 1
        hub.close()
        context.destroy(linger=0)

    asyncio.run(test())


@pytest.mark.req("FR-005", "FR-007")
def test_what_waits_for_a_channel_that_is_gone_is_not_told_when_it_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        context = new_context()
        hub = Hub(context, endpoint(tmp_path, "healer"), "healer", lambda batch: None)
        hook = Piece("hook", Part.CHANNEL, "acme-hook", "1.0", "acme_hook:Hook")
        config = Config(piece={"hook": hook})
        outgoing = Outgoing(hub, lambda: config)
        for number in range(PLUGINS_AT_ONCE_MAX + 1):
            outgoing.add(row(number, Tier.PAGE, Channel("hook")))
        outgoing.add(row(ROWS, Tier.PAGE))
        outgoing.reconfigured()
        assert hub.waiting == PLUGINS_AT_ONCE_MAX + 1, "it is there still"
        config = Config()
        outgoing.reconfigured()
        await asyncio.sleep(0)  # futures tell of their end in the loop's next turn
        assert hub.waiting == 1, "the page over our own channel"
        config = Config(piece={"hook": hook})
        outgoing.add(row(ROWS + 1, Tier.PAGE, Channel("hook")))
        assert hub.waiting == 2
        hub.close()
        context.destroy(linger=0)

    asyncio.run(test())
