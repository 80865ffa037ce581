"""The metrics server meets strangers: whatever they do costs their own connection, and the next scrape is answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from supervisor.scrape import server as serving
from supervisor.scrape.server import CONNECTIONS_MAX, HEAD_BYTES_MAX, NoPage, Server

pytestmark = pytest.mark.req("FR-008", "R14")
PAGE = b"# TYPE heal_up gauge\nheal_up 1\n"
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Lab:
    def __init__(self) -> None:
        self.page: bytes | None = PAGE
        self.port = free_port()
        self.server = Server(self._page)

    async def _page(self) -> bytes:
        if self.page is None:
            raise NoPage("the healer did not answer")
        return self.page

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def say(self, raw: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the answer to these bytes; status 0: the connection ended without one."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            answer = b""
            with contextlib.suppress(ConnectionError):
                answer = await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()
        if not answer:
            return 0, {}, b""
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        return int(first.split()[1]), headers, body

    async def well(self) -> bool:
        return (await self.say(GET))[::2] == (200, PAGE)


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[Lab]:
    lab = Lab()
    await lab.server.open("127.0.0.1", lab.port)
    try:
        yield lab
    finally:
        lab.server.close()


async def _answers() -> None:
    async with running() as lab:
        status, headers, body = await lab.say(GET)
        assert (status, body) == (200, PAGE)
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert headers["content-length"] == str(len(PAGE))
        assert (await lab.say(GET.replace(b"/metrics", b"/metrics?x=1")))[0] == 200
        assert (await lab.say(GET.replace(b"HTTP/1.1", b"HTTP/1.0")))[0] == 200
        status, headers, body = await lab.say(GET.replace(b"GET", b"HEAD"))
        assert (status, headers["content-length"], body) == (200, str(len(PAGE)), b"")
        status, headers, body = await lab.say(b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 999999\r\n\r\nabc")
        assert (status, headers["allow"]) == (405, "get, head")
        for path in (b"/", b"/metrics/", b"/../etc/passwd", b"/metricsx"):
            assert (await lab.say(GET.replace(b"/metrics", path)))[0] == 404
        lab.page = None
        status, _, body = await lab.say(GET)
        assert (status, body) == (503, b"the healer did not answer\n")


def test_what_is_asked_well_is_answered_well() -> None:
    asyncio.run(_answers())


GARBAGE = [
    b"\x00\x01\x02\x03\r\n\r\n",
    b"GET\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (2 * HEAD_BYTES_MAX),
    b"a" * 1_000_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


async def _garbage() -> None:
    async with running() as lab:
        for raw in GARBAGE:
            status, _, _ = await lab.say(raw)
            assert status in (0, 400, 404), raw[:40]
            assert await lab.well()


def test_garbage_is_refused_and_the_next_is_served() -> None:
    asyncio.run(_garbage())


async def _half_open() -> None:
    async with running() as lab:
        silent = [await lab.connect() for _ in range(3)]
        silent[1][1].write(GET[:20])
        reader, writer = silent[2]
        writer.write_eof()  # half-closed without a word
        assert await asyncio.wait_for(reader.read(), 60) == b""
        writer.close()
        assert await lab.well(), "they delay nobody"
        for reader, writer in silent[:2]:  # both are let go when their time is up
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()


def test_a_connection_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_S", 1.0)
    asyncio.run(_half_open())


async def _slow_reader() -> None:
    async with running() as lab:
        lab.page = PAGE * 400_000  # more than any buffer of the kernel takes
        slow = socket.create_connection(("127.0.0.1", lab.port))
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(GET)
        assert await asyncio.to_thread(slow.recv, 1) == b"H"
        lab.page = PAGE
        assert await lab.well(), "it delays nobody"
        async with asyncio.timeout(60):
            while lab.server._tasks:
                await asyncio.wait(lab.server._tasks)  # cut off when its time is up
        slow.close()
        assert lab.server.served == 1, "the other one"
        assert await lab.well()


def test_whoever_takes_the_answer_too_slowly_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "ANSWER_S", 0.5)
    asyncio.run(_slow_reader())


async def _many() -> None:
    async with running() as lab:
        answers = await asyncio.gather(*(lab.say(GET) for _ in range(200)))
        assert {(status, body) for status, _, body in answers} == {(200, PAGE)}
        assert lab.server.served == 200


def test_two_hundred_at_once_are_all_answered() -> None:
    asyncio.run(_many())


async def _crowd() -> None:
    async with running() as lab:
        crowd = [await lab.connect() for _ in range(CONNECTIONS_MAX + 50)]
        assert await lab.well(), "the one that was silent for longest made room"
        assert len(lab.server._tasks) <= CONNECTIONS_MAX
        assert await asyncio.wait_for(crowd[0][0].read(), 60) == b""
        for _, writer in crowd:
            writer.transport.abort()


def test_a_crowd_that_only_connects_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_S", 600.0)  # it is not its time that lets the oldest go
    asyncio.run(_crowd())
