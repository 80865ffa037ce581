"""A foreign socket of our own user that takes a worker's name: it gets nothing, and the worker loses nothing."""

from __future__ import annotations

import asyncio
import select
from pathlib import Path

import pytest

from supervisor.bus import Hub, Link, endpoint, new_context
from supervisor.messages import Ack, Frame, Hello, ProbeNow, Resync
from tests.acceptance.conftest import here as here
from tests.lab.daemon import Site, until

PROBE = ProbeNow("web")


class Peer:
    """One socket that claims to be `name`, in this incarnation; answers what it is asked."""

    def __init__(self, address: str, name: str, incarnation: str) -> None:
        self.got: list[object] = []
        self.context = new_context()
        self.link = Link(self.context, address, name, self._take, incarnation)

    def _take(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            self.got.append(frame.body)
            self.link.post(Ack(), re=frame.id)

    def close(self) -> None:
        self.link.close()
        self.context.destroy(linger=0)


@pytest.mark.parametrize(("name", "incarnation"), [("process", ""), ("process", "process.of-another-root.1")])
def test_only_the_expected_incarnation_is_the_worker(tmp_path: Path, name: str, incarnation: str) -> None:
    heard: list[tuple[str, object]] = []

    async def test() -> None:
        context = new_context()
        address = endpoint(tmp_path, "healer")
        hub = Hub(context, address, "healer", lambda batch: heard.extend((s, f.body) for s, f in batch))
        worker = Peer(address, "process", "process.1.1")
        hub.expect("process", "process.1.1")
        assert await asyncio.wait_for(hub.request("process", PROBE), 10) == Ack()
        foreign = Peer(address, name, incarnation)
        foreign.link.post(Resync())
        foreign.link.post(Resync())
        for _ in range(5):
            assert await asyncio.wait_for(hub.request("process", PROBE), 10) == Ack()
        assert len(worker.got) == 6
        assert foreign.got == []
        assert Resync() not in [body for _, body in heard]
        for part in (worker, foreign):
            part.close()
        hub.close()
        context.destroy(linger=0)

    asyncio.run(test())


def test_a_successor_that_speaks_before_it_is_announced_is_heard_as_soon_as_it_is(tmp_path: Path) -> None:
    heard: list[object] = []

    async def test() -> None:
        context = new_context()
        address = endpoint(tmp_path, "healer")
        hub = Hub(context, address, "healer", lambda batch: heard.extend(f.body for _, f in batch))
        hub.expect("process", "process.1.1")
        second = Peer(address, "process", "process.1.2")
        second.link.post(Resync())
        waiting = hub.request("process", PROBE)
        await asyncio.sleep(0)  # one turn of the loop, no more is needed
        while not hub._strangers:
            await asyncio.sleep(0.001)
        hub.expect("process", "process.1.2")
        assert await asyncio.wait_for(waiting, 10) == Ack()
        while Resync() not in heard:
            await asyncio.sleep(0.001)
        first = Peer(address, "process", "process.1.1")  # late words of the one before still count
        first.link.post(PROBE)
        while PROBE not in heard:
            await asyncio.sleep(0.001)
        for part in (first, second):
            part.close()
        hub.close()
        context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(test(), 20))


@pytest.mark.req("FR-002")
def test_a_real_daemon_goes_on_healing_beside_a_socket_that_calls_itself_executor(here: Site) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml())
    daemon.start()

    async def test() -> None:
        foreign = [Peer(endpoint(daemon.runtime_dir, "healer"), name, "") for name in ("executor", "process")]
        await asyncio.to_thread(until, "it is refused", lambda: "none of our workers" in daemon.tail())
        one.kill()
        await asyncio.to_thread(daemon.wait_state, "one", "resolved")
        for peer in foreign:
            assert peer.got == []
            peer.close()

    asyncio.run(test())
    daemon.stop()


def test_a_send_that_reaches_nobody_swallows_no_arrival(tmp_path: Path) -> None:
    """The socket's descriptor is edge-triggered, and any call on the socket takes the edge."""
    heard: list[object] = []

    async def test() -> None:
        context = new_context()
        address = endpoint(tmp_path, "store")
        hub = Hub(context, address, "store", lambda batch: heard.extend(f.body for _, f in batch))
        for _ in range(20):
            await asyncio.sleep(0)  # what it does at its own start is over
        peer = Peer(address, "healer", "")
        ready, _, _ = select.select([hub._fd], [], [], 10)  # not the loop: it would take it
        assert ready
        for _ in range(100):  # the arrival comes in several parts
            hub.send("nobody", Ack())
        async with asyncio.timeout(10):
            while not heard:
                await asyncio.sleep(0.001)
        peer.close()
        hub.close()
        context.destroy(linger=0)

    asyncio.run(test())
    assert isinstance(heard[0], Hello)
