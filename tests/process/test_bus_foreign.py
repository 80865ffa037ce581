"""A foreign socket of our own user that takes a worker's name gets nothing, one that has gone deafens nobody."""

from __future__ import annotations

import asyncio
import select
from pathlib import Path

import pytest
import zmq

from supervisor.bus import Hub, Link, endpoint, new_context
from supervisor.messages import VERSION, Ack, Frame, ProbeNow, Resync, encode
from tests.acceptance.conftest import here as here
from tests.lab.daemon import Site, until

PROBE = ProbeNow("web")
ROUNDS = 20


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
        assert await asyncio.wait_for(hub.request("process", PROBE), 60) == Ack()
        foreign = Peer(address, name, incarnation)
        foreign.link.post(Resync())
        foreign.link.post(Resync())
        for _ in range(5):
            assert await asyncio.wait_for(hub.request("process", PROBE), 60) == Ack()
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
        assert await asyncio.wait_for(waiting, 60) == Ack()
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

    asyncio.run(asyncio.wait_for(test(), 60))


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


def test_an_answer_to_a_caller_that_has_gone_makes_nobody_else_unheard(tmp_path: Path) -> None:
    """A send takes what libzmq's descriptor tells, a failed one too: the next caller's question was never read."""
    said = encode(Frame(VERSION, "a", "", Resync()))

    async def test() -> None:
        context, callers = new_context(), new_context()
        address = endpoint(tmp_path, "control")
        sockets: list[zmq.Socket[bytes]] = []
        heard = 0
        all_heard = asyncio.Event()

        def say() -> None:
            sockets.append(callers.socket(zmq.DEALER))
            sockets[-1].connect(address)
            sockets[-1].send(said)

        def handle(batch: list[tuple[str, Frame]]) -> None:
            nonlocal heard
            heard += len(batch)
            if heard >= ROUNDS:
                all_heard.set()
                return
            say()  # the next caller comes while this one is answered
            assert select.select([hub._fd], [], [], 10)[0]
            for _ in range(1_000):
                hub.send("gone", Ack())

        hub = Hub(context, address, "healer", handle)
        say()
        await asyncio.wait_for(all_heard.wait(), 60)
        hub.close()
        for socket in sockets:
            socket.close()
        for each in (context, callers):
            each.destroy(linger=0)

    asyncio.run(test())
