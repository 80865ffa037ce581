"""Messages between processes over ZeroMQ, inside a worker's loop (`supervisor.sockets` makes the sockets).

One `Hub` (ROUTER, bound) or `Link` (DEALER, connected) is one socket, drained in batches straight from the file
descriptor (zmq.asyncio was ten times slower); a handler gets a whole one.
* `send` may be lost. `request` is sent again, with the same id, until a frame answers it: its future then holds the
  answer's body. Receivers must therefore be idempotent by the id of the durable row they act on.
* What arrives malformed, oversized or from another version is counted, logged once per source and dropped.
* Queues are bounded; a full one raises `BusError` for `request` and is counted for `send`.

Binding an ipc path that is in use *steals* it without an error, so only the holder of the runtime directory's lock
may bind (`supervisor.tree.root` takes it first). Sockets are 0600 in a 0700 directory.
"""

from __future__ import annotations

import asyncio
import logging
import os
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import zmq

from supervisor.errors import BusError, HealError
from supervisor.inbox import Handler, Inbox
from supervisor.messages import MESSAGE_BYTES_MAX, VERSION, Ack, Acks, Body, Frame, Hello, Nack, decode_frame, encode
from supervisor.sockets import RESEND_S
from supervisor.sockets import endpoint as endpoint
from supervisor.sockets import new_context as new_context
from supervisor.sockets import open_socket as open_socket

log = logging.getLogger(__name__)

PENDING_MAX = 20_000  # requests of one socket that wait for their answers
BATCH_MAX = 2_000  # frames taken before the loop gets its turn again, and
ANSWER = 40  # as many is an answer: whoever waited for it goes on in that very turn
UNROUTABLE_S = 0.005  # the peer is not connected (it is being restarted): look again soon, then ever more seldom
UNROUTABLE_S_MAX = 0.32
SOURCES_MAX = 1_000  # sources whose malformed frames are counted apart
AT = "@"  # between a worker's name and its incarnation
EXPECTED_MAX = 8  # identities of one name whose late words still count
STRANGERS_MAX, ANNOUNCED_WITHIN_S = 1_000, 1.0  # frames of those that the tree may still announce


class _Pending(msgspec.Struct):
    to: str
    raw: bytes
    future: asyncio.Future[Body]
    next_s: float
    attempt: int = 0


class _Endpoint(ABC):
    """What Hub and Link share: draining, counting, answering, sending again."""

    def __init__(self, socket: zmq.Socket[bytes], name: str, handler: Handler) -> None:
        self._socket = socket
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._pending: dict[str, _Pending] = {}
        self._absent_s: dict[str, float] = {}  # peer -> how long to wait before it is tried again
        self._counter = 0
        self._prefix = f"{name}.{os.getpid():x}.{os.urandom(4).hex()}"
        self._inbox = Inbox(name, handler)
        self._acknowledged: deque[str] = deque()  # by one frame, and not told to who waits: thousands of them
        self._timer: asyncio.TimerHandle | None = None
        self._drain_due = False
        self.malformed: Counter[str] = Counter()
        self.dropped = 0
        self._fd = int(socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._fd, self._drain)
        self._loop.call_soon(self._drain)

    # -- sending --

    def next_id(self) -> str:
        self._counter += 1
        return f"{self._prefix}.{self._counter}"

    def send(self, to: str, body: Body, *, re: str = "") -> None:
        """Once, without waiting for anything; counted in `dropped` when the peer is absent or its queue full."""
        if not self._transmit(to, self._encode(Frame(VERSION, self.next_id(), re, body))):
            self.dropped += 1

    def request(self, to: str, body: Body) -> asyncio.Future[Body]:
        """Sent until it is answered. Raises BusError when too many already wait. Cancel the future to give up."""
        if len(self._pending) >= PENDING_MAX:
            raise BusError(f"{self._name}: {PENDING_MAX} messages wait for their answers; {to or 'the peer'} is stuck")
        frame_id = self.next_id()
        raw = self._encode(Frame(VERSION, frame_id, "", body))
        pending = _Pending(to, raw, self._loop.create_future(), 0.0)
        pending.future.add_done_callback(lambda _: self._pending.pop(frame_id, None))
        self._pending[frame_id] = pending
        self._try(pending)
        self._arm()
        return pending.future

    def peer_is_back(self, to: str) -> None:
        """A peer said Hello: what waits for it goes out now, not at the next resend."""
        for pending in self._pending.values():
            if pending.to == to:
                pending.next_s = 0.0
        self._resend()

    def _encode(self, frame: Frame) -> bytes:
        raw = encode(frame)
        if len(raw) > MESSAGE_BYTES_MAX:
            kind = type(frame.body).__name__
            raise BusError(f"{self._name}: a {kind} of {len(raw)} bytes exceeds {MESSAGE_BYTES_MAX}")
        return raw

    def _try(self, pending: _Pending) -> bool:
        """Sends it, and sets when it is due again. False: its peer is not connected."""
        sent = self._transmit(pending.to, pending.raw)
        if sent:
            self._absent_s.pop(pending.to, None)
            wait = RESEND_S[min(pending.attempt, len(RESEND_S) - 1)]
            pending.attempt += 1
        else:
            wait = self._absent_s.get(pending.to, UNROUTABLE_S)
        pending.next_s = self._loop.time() + wait
        return sent

    def _resend(self) -> None:
        """What is due goes out again; an absent peer is tried once, and ever more seldom."""
        self._timer = None
        now = self._loop.time()
        absent: set[str] = set()
        for pending in list(self._pending.values()):
            if pending.next_s > now:
                continue
            if pending.to in absent:
                pending.next_s = now + self._absent_s[pending.to]
            elif not self._try(pending):
                absent.add(pending.to)
                longer = 2 * self._absent_s.get(pending.to, UNROUTABLE_S)
                self._absent_s[pending.to] = min(longer, UNROUTABLE_S_MAX)
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None or not self._pending:
            return
        due = min(pending.next_s for pending in self._pending.values())
        self._timer = self._loop.call_at(max(due, self._loop.time() + 0.001), self._resend)

    def _transmit(self, to: str, raw: bytes) -> bool:
        sent = True
        try:
            self._send_parts(to, raw)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            sent = False
        # Edge-triggered: an event that came in during the send, a failed one too, would otherwise never wake us.
        if not self._drain_due and int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            self._drain_due = True  # once, not for each of thousands of answers
            self._loop.call_soon(self._drain)
        return sent

    @abstractmethod
    def _send_parts(self, to: str, raw: bytes) -> None:
        """Raises zmq.Again (queue full) or EHOSTUNREACH (nobody of that name is connected)."""

    # -- receiving --

    @abstractmethod
    def _receive_parts(self) -> tuple[str, bytes]:
        """The source and its frame. Raises zmq.Again when there is none."""

    def _drain(self) -> None:
        self._drain_due = False
        if self._socket.closed:
            return
        budget = BATCH_MAX
        while (budget := budget - 1) > 0:
            if self._acknowledged:
                budget -= self._answered(self._acknowledged.popleft(), Ack())
                continue
            try:
                source, raw = self._receive_parts()
            except zmq.Again:
                break
            if (frame := self._decode(source, raw)) is None:
                continue
            if frame.re:
                budget -= self._answered(frame.re, frame.body)
            elif isinstance(frame.body, Acks):
                self._acknowledged += frame.body.ids
            else:
                if isinstance(frame.body, Hello):
                    self.peer_is_back(source)
                self._inbox.put(source, frame)
        else:
            self._loop.call_soon(self._drain)
        self._inbox.handle()

    def _answered(self, frame_id: str, body: Body) -> int:
        """Unless it is a second answer, to a request that was sent twice. What it costs of a turn's budget."""
        if (waiting := self._pending.get(frame_id)) is not None and not waiting.future.done():
            waiting.future.set_result(body)
        return ANSWER

    def _decode(self, source: str, raw: bytes) -> Frame | None:
        try:
            if len(raw) > MESSAGE_BYTES_MAX:
                raise msgspec.ValidationError(f"{len(raw)} bytes, the limit is {MESSAGE_BYTES_MAX}")
            return decode_frame(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            key = source if source in self.malformed or len(self.malformed) < SOURCES_MAX else "(others)"
            self.malformed[key] += 1
            if self.malformed[key] == 1:
                log.warning("%s: dropped a malformed frame from %r: %s", self._name, source, error)
            return None

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._pending)

    def close(self) -> None:
        if self._socket.closed:
            return
        self._loop.remove_reader(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        for pending in list(self._pending.values()):
            pending.future.cancel()
        self._socket.close()


class Hub(_Endpoint):
    """The bound side. A peer connects as `name` or `name@incarnation`, and is addressed by its name.

    Which incarnation is the peer of that name, its Hello says; where the tree knows better, `expect` does, and then
    nobody else is heard: a foreign socket that took a worker's name would otherwise get what is meant for it.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, name: str, handler: Handler) -> None:
        socket = open_socket(context, zmq.ROUTER)
        socket.bind(address)
        if address.startswith("ipc://"):
            os.chmod(address.removeprefix("ipc://"), 0o600)
        self._peers: dict[str, str] = {}  # name -> the identity that is it now
        self._expected: dict[str, deque[str]] = {}  # name -> identities that are or were it
        self._strangers: list[tuple[str, bytes]] = []  # frames of those that nobody has announced yet
        self._admitted: deque[tuple[str, bytes]] = deque()
        self._refused: set[str] = set()
        super().__init__(socket, name, handler)

    def expect(self, name: str, incarnation: str) -> None:
        """From now on this process is `name`; late words of earlier ones still count, anybody else's do not."""
        identity = identity_of(name, incarnation)
        if self._peers.get(name) == identity and name in self._expected:
            return
        self._expected.setdefault(name, deque(maxlen=EXPECTED_MAX)).append(identity)
        self._peers[name] = identity
        self._admitted.extend(found for found in self._strangers if found[0] == identity)
        self._strangers = [found for found in self._strangers if found[0] != identity]
        self._loop.call_soon(self._drain)
        self.peer_is_back(name)

    def is_worker(self, identity: str, name: str) -> bool:  # as the tree has announced it, now or lately
        return identity in self._expected.get(name, ())

    def peer_is_back(self, to: str) -> None:
        name = to.partition(AT)[0]
        if name not in self._expected:
            self._peers[name] = to
        super().peer_is_back(name)

    def _admits(self, identity: str) -> bool:
        name, at, _ = identity.partition(AT)
        expected = self._expected.get(name)
        if expected is not None:
            return identity in expected
        if at:
            self._peers.setdefault(name, identity)
        return True

    def _keep(self, identity: str, raw: bytes) -> None:
        """A new process may speak before the tree has announced it; who is not announced soon is refused."""
        if len(self._strangers) < STRANGERS_MAX:
            self._strangers.append((identity, raw))
        if len(self._strangers) == 1:
            self._loop.call_later(ANNOUNCED_WITHIN_S, self._refuse_strangers)

    def _refuse_strangers(self) -> None:
        for identity, _ in self._strangers:
            if identity not in self._refused and len(self._refused) < SOURCES_MAX:
                self._refused.add(identity)
                log.warning("%s: %r is none of our workers; what it sends is dropped", self._name, identity)
        self._strangers.clear()

    def answer(self, to: str, frame: Frame, body: Body) -> None:
        """Answers `frame`; a lost answer is asked for again by its sender."""
        self.send(to, body, re=frame.id)

    def acknowledge(self, to: str, frames: Sequence[Frame]) -> None:
        """Answers each of them with Ack, in one message."""
        self.send(to, Acks(tuple(frame.id for frame in frames)))

    def refuse(self, to: str, frame: Frame, error: Exception) -> None:
        """Answers `frame` with the error, as a Nack."""
        self.send(to, nack_of(error), re=frame.id)

    def _send_parts(self, to: str, raw: bytes) -> None:
        self._socket.send_multipart([os.fsencode(self._peers.get(to, to)), raw], zmq.NOBLOCK)

    def _receive_parts(self) -> tuple[str, bytes]:
        if self._admitted:
            return self._admitted.popleft()
        while True:
            parts = self._socket.recv_multipart(zmq.NOBLOCK)
            identity, raw = os.fsdecode(parts[0]), parts[1] if len(parts) == 2 else b""
            if self._admits(identity):
                return identity, raw
            self._keep(identity, raw)


class Link(_Endpoint):
    """The connecting side: one peer, named for the log. Says Hello first."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        name: str,
        handler: Handler,
        incarnation: str = "",
    ) -> None:
        socket = open_socket(context, zmq.DEALER, identity=identity_of(name, incarnation))
        socket.connect(address)
        super().__init__(socket, name, handler)
        self.post(Hello(name, incarnation))

    def post(self, body: Body, *, re: str = "") -> None:
        """`send` to the one peer."""
        self.send("", body, re=re)

    def ask(self, body: Body) -> asyncio.Future[Body]:
        """`request` to the one peer."""
        return self.request("", body)

    def _send_parts(self, to: str, raw: bytes) -> None:
        self._socket.send(raw, zmq.NOBLOCK)

    def _receive_parts(self) -> tuple[str, bytes]:
        parts = self._socket.recv_multipart(zmq.NOBLOCK)
        return "peer", parts[0] if len(parts) == 1 else b""


def identity_of(name: str, incarnation: str) -> str:
    """What a worker's socket calls itself."""
    return f"{name}{AT}{incarnation}" if incarnation else name


def nack_of(error: Exception) -> Nack:
    """An error as a message. Only a HealError speaks to users; any other is named by its type."""
    if isinstance(error, HealError):
        return Nack(error.code, error.message, error.hint, error.exit_code)
    return Nack("internal", f"{type(error).__name__}: {error}", "see the log of healctl", 1)


class Publisher:
    """The feed: loses what a slow subscriber does not take; sequence numbers tell it so."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = open_socket(context, zmq.PUB)
        self._socket.bind(address)
        if address.startswith("ipc://"):
            os.chmod(address.removeprefix("ipc://"), 0o600)
        self._counter = 0

    def publish(self, body: Body) -> None:
        self._counter += 1
        self._socket.send(encode(Frame(VERSION, f"feed.{self._counter}", "", body)), zmq.NOBLOCK)

    def close(self) -> None:
        self._socket.close()
