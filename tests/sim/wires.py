"""The bus between simulated processes: what `supervisor.bus` promises, without sockets.

`send` may be lost; `request` goes again, with the same id, until a frame answers it. A peer that is away gets nothing;
what waits for it goes out when it says Hello.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

from supervisor.bus import EXPECTED_MAX, identity_of, nack_of
from supervisor.messages import VERSION, Ack, Acks, Body, Frame, Hello
from supervisor.sockets import RESEND_S
from tests.sim.faults import LATENCY_S, Fates
from tests.sim.loop import CURRENT, VirtualLoop

Batch = list[tuple[str, Frame]]
ORDER_S = 1e-8
UNSURE_S = 30.0
ABSENT_S = 0.3  # a peer that is away is tried again this often


class Net:
    """Every address and who holds it."""

    def __init__(self, loop: VirtualLoop, fates: Fates) -> None:
        self.loop = loop
        self.fates = fates
        self.hubs: dict[str, Hub] = {}
        self.links: list[Link] = []
        self._newest_s = 0.0  # when the newest undelayed message arrives
        self._disk_free_s = 0.0  # when the store has done what a slow disk has kept it with
        self.ends: list[End] = []
        self.calm_s = 0.0  # from when on an answer can be relied on, so that nothing need be sent again
        self.seen: Callable[[str, Body], None] = lambda to, body: None  # every request that leaves, once
        self.acknowledged: Callable[[Body], None] = lambda body: None  # every request that is answered with an Ack

    def carry(self, to: End | None, source: str, frame: Frame) -> None:
        """Once, if it is not lost on its way."""
        if to is None:
            return
        now_s, fates = self.loop._now, self.fates
        slow = to.slow and now_s < max(fates.disk_slow_until_s, self._disk_free_s)
        if not fates.armed and not slow:  # mostly
            self._carry(to, source, frame, now_s, LATENCY_S)
            return
        hits = fates.hits
        delays_s = fates.of(frame.body, now_s)
        if hits != fates.hits or slow:
            self.disturbed()
        for delay_s in delays_s:
            self._carry(to, source, frame, now_s, delay_s + self._disk_s(now_s) if slow else delay_s)

    def _carry(self, to: End, source: str, frame: Frame, now_s: float, delay_s: float) -> None:
        """What no fault delays arrives in the order in which it was sent, as over a socket."""
        at_s = now_s + delay_s
        if delay_s == LATENCY_S:
            at_s = self._newest_s = max(at_s, self._newest_s + ORDER_S)
        self.loop.call_at(at_s, to.arrive, source, frame, context=to.proc.context)

    def disturbed(self, for_s: float = 0.0) -> None:
        """Something got lost, late or died: from here on, and for what is under way, answers are not certain."""
        self.calm_s = max(self.calm_s, self.loop._now + for_s + UNSURE_S)
        self.ends = [end for end in self.ends if end.proc.alive]
        for end in self.ends:
            end.watch_all()

    def _disk_s(self, now_s: float) -> float:
        """The store does one after another: what comes when the disk is quick again does not overtake."""
        if now_s < self.fates.disk_slow_until_s:
            self.fates.hit("slow_disk", "store")
            self._disk_free_s = max(self._disk_free_s, now_s + self.fates.disk_slow_s)
        return self._disk_free_s - now_s + ORDER_S


class _Pending:
    __slots__ = ("attempt", "body", "frame_id", "future", "timed", "to")

    def __init__(self, to: str, frame_id: str, body: Body, future: asyncio.Future[Body]) -> None:
        self.to, self.frame_id, self.body, self.future, self.attempt = to, frame_id, body, future, 0
        self.timed = False


class End:
    """What Hub and Link share. It belongs to the process that makes it."""

    slow = False

    def __init__(self, net: Net, identity: str, handler: Callable[[Batch], object]) -> None:
        proc = CURRENT.get()
        assert proc is not None, "an endpoint belongs to a process"
        self.net, self.identity, self.proc = net, identity, proc
        self._handler = handler
        self._pending: dict[str, _Pending] = {}
        self._count = 0
        self._prefix = f"{identity}/{proc.incarnation}"
        self.dropped = 0
        net.ends.append(self)

    def peer(self, to: str) -> End | None:
        raise NotImplementedError

    def send(self, to: str, body: Body, *, re: str = "") -> None:
        if not self.proc.alive:
            return
        self._count += 1
        frame = Frame(VERSION, f"{self._prefix}.{self._count}", re, body)
        peer = self.peer(to)
        if peer is None or not peer.proc.alive:
            self.dropped += 1
        else:
            self.net.carry(peer, self.identity, frame)

    def request(self, to: str, body: Body) -> asyncio.Future[Body]:
        self._count += 1
        loop = self.net.loop
        future: asyncio.Future[Body] = loop.create_future()
        if not self.proc.alive:
            return future
        pending = _Pending(to, f"{self._prefix}.{self._count}", body, future)
        self._pending[pending.frame_id] = pending
        self.net.seen(to, body)
        self._try(pending)
        return future

    def _try(self, pending: _Pending) -> None:
        """Sends it (again), and sees to it that it goes again where that may be needed."""
        if pending.future.done():
            self._pending.pop(pending.frame_id, None)
            return
        peer = self.peer(pending.to)
        if peer is None or not peer.proc.alive:
            self.net.loop.call_later(ABSENT_S, self._try, pending, context=self.proc.context)
            pending.timed = True
            return
        attempt = pending.attempt
        pending.attempt += 1
        self.net.carry(peer, self.identity, Frame(VERSION, pending.frame_id, "", pending.body))
        pending.timed = pending.attempt > 1 or self.net.loop._now < self.net.calm_s
        if pending.timed:
            wait_s = RESEND_S[min(attempt, len(RESEND_S) - 1)]
            self.net.loop.call_later(wait_s, self._try, pending, context=self.proc.context)

    def watch_all(self) -> None:
        """An answer may be lost: what waits for one is sent again in time."""
        for pending in self._pending.values():
            if not pending.timed and not pending.future.done():
                pending.timed = True
                self.net.loop.call_later(RESEND_S[0], self._try, pending, context=self.proc.context)

    def peer_is_back(self, to: str) -> None:
        for pending in list(self._pending.values()):
            if pending.to == to and not pending.future.done():
                peer = self.peer(to)
                if peer is not None:
                    self.net.carry(peer, self.identity, Frame(VERSION, pending.frame_id, "", pending.body))

    def arrive(self, source: str, frame: Frame) -> None:
        body = frame.body
        if frame.re:
            self._answered(frame.re, body)
        elif type(body) is Acks:
            for frame_id in body.ids:
                self._answered(frame_id, Ack())
        else:
            if type(body) is Hello:
                self.peer_is_back(body.name)
            self._handler([(source, frame)])

    def _answered(self, frame_id: str, body: Body) -> None:
        waiting = self._pending.pop(frame_id, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_result(body)

    def close(self) -> None:
        for pending in list(self._pending.values()):
            pending.future.cancel()


class Hub(End):
    """The bound side: peers by their names, the newest of each."""

    def __init__(self, net: Net, name: str, handler: Callable[[Batch], object]) -> None:
        super().__init__(net, name, handler)
        self.links: dict[str, Link] = {}
        self.peers: dict[str, Link] = {}
        self._expected: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=EXPECTED_MAX))
        net.hubs[name] = self
        net.links = [link for link in net.links if link.proc.alive]
        for link in net.links:
            if link.address == name:
                link.connect()

    def peer(self, to: str) -> End | None:
        return self.links.get(to) or self.peers.get(to)

    def expect(self, name: str, incarnation: str) -> None:
        self._expected[name].append(identity_of(name, incarnation))
        self.peer_is_back(name)

    def is_worker(self, identity: str, name: str) -> bool:
        known = identity in self._expected[name]
        if not known:  # then it gets no answer, and says it again
            self.net.disturbed()
        return known

    def answer(self, to: str, frame: Frame, body: Body) -> None:
        if isinstance(body, Ack):
            self.net.acknowledged(frame.body)
        self.send(to, body, re=frame.id)

    def acknowledge(self, to: str, frames: Sequence[Frame]) -> None:
        self.send(to, Acks(tuple(frame.id for frame in frames)))

    def refuse(self, to: str, frame: Frame, error: Exception) -> None:
        self.send(to, nack_of(error), re=frame.id)


class Link(End):
    """The connecting side. Says Hello first, and again to whoever takes the address over."""

    def __init__(
        self, net: Net, address: str, name: str, handler: Callable[[Batch], object], incarnation: str = ""
    ) -> None:
        super().__init__(net, f"{name}@{incarnation}" if incarnation else name, handler)
        self.address, self.name, self.incarnation = address, name, incarnation
        net.links.append(self)
        self.connect()
        self.post(Hello(name, incarnation))

    def connect(self) -> None:
        hub = self.net.hubs.get(self.address)
        if hub is not None and hub.proc.alive:
            hub.links[self.identity] = hub.peers[self.name] = self
            self.net.loop.call_later(LATENCY_S, self._again, context=self.proc.context)

    def _again(self) -> None:
        """What waited for the address goes out at once."""
        self.peer_is_back("")
        hub = self.net.hubs.get(self.address)
        if hub is not None and hub.proc.alive:
            self.net.loop.call_later(LATENCY_S, hub.peer_is_back, self.name, context=hub.proc.context)

    def peer(self, to: str) -> End | None:
        return self.net.hubs.get(self.address)

    def post(self, body: Body, *, re: str = "") -> None:
        self.send("", body, re=re)

    def ask(self, body: Body) -> asyncio.Future[Body]:
        return self.request("", body)
