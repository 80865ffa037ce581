"""`feed.sock` itself, with a family's worker behind it that answers what a test says: lines in, answers out."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor import clock, feed
from supervisor.bus import Hub, Link, endpoint, new_context
from supervisor.config import Config, FleetHost, FleetSection, PipelineSection, ProcessSection, TradingSection
from supervisor.errors import UsageError
from supervisor.feed import LINE_BYTES_MAX, FeedServer, Insight, parse
from supervisor.incidents.model import Target
from supervisor.incidents.readings import SourceReading
from supervisor.messages import Ack, Body, Frame, Nack, Outside, Resync

WITHIN_S = 60.0
CONFIG = Config(
    process={"web": ProcessSection(pid_file="/run/web.pid")},
    trading={"augur": TradingSection(signal_file="/nowhere/live_signal.json")},
    pipeline={"helios": PipelineSection(state_file="/nowhere/state.json", stage_done=("/bin/true",))},
    fleet=FleetSection(hosts={"db1": FleetHost(address="127.0.0.1")}),
)


def reading(**changes: Any) -> dict[str, Any]:
    """A good one, with some fields changed; None leaves a field out."""
    good = {"source_id": "augur.signals", "captured_at": clock.wall_s(), "freshness_ms": 60_000, "available": True,
            "data": {"symbol": "BTC"}}  # fmt: skip
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def line(**changes: Any) -> bytes:
    return json.dumps(reading(**changes)).encode()


class Lab:
    """The server, and links that stand for the workers. `got` is what the workers were sent."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.got: list[tuple[str, Body]] = []
        self.hinted: list[Target] = []
        self.answer: Callable[[Body], Body | None] = lambda body: Ack()
        self.links: dict[str, Link] = {}
        self.clients: list[Client] = []
        self._ids: set[str] = set()

    async def run(self, script: Callable[[], Awaitable[None]]) -> None:
        context = new_context()
        address = endpoint(self.directory, "healer")
        hub = Hub(context, address, "healer", lambda batch: None)
        for family in ("trading", "pipeline", "fleet"):
            self.links[family] = Link(context, address, family, self._take(family))
        server = FeedServer(self.directory, hub, lambda: CONFIG, self.hinted.append)
        await server.open()
        try:
            async with asyncio.timeout(60):
                await script()
        finally:
            for client in self.clients:
                client.close()
            server.close()
            async with asyncio.timeout(WITHIN_S):
                while server._connections:
                    await asyncio.sleep(0.001)
            for link in self.links.values():
                link.close()
            hub.close()
            context.destroy(linger=0)
            await asyncio.sleep(0.01)

    def _take(self, family: str) -> Callable[[list[tuple[str, Frame]]], None]:
        def taken(batch: list[tuple[str, Frame]]) -> None:
            for _, frame in batch:
                if frame.id not in self._ids:  # the bus may send twice
                    self._ids.add(frame.id)
                    self.got.append((family, frame.body))
                body = self.answer(frame.body)
                if body is not None:
                    self.links[family].post(body, re=frame.id)

        return taken

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_unix_connection(self.directory / feed.SOCKET))
        self.clients.append(client)
        return client


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def say(self, raw: bytes) -> dict[str, Any]:
        self.writer.write(raw + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        async with asyncio.timeout(WITHIN_S):
            answer: dict[str, Any] = json.loads(await self.reader.readline())
        return answer

    async def over(self) -> bool:
        """The server has closed it, and said nothing more."""
        async with asyncio.timeout(WITHIN_S):
            return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
def lab() -> Iterator[Lab]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    yield Lab(directory)
    shutil.rmtree(directory)


HOSTILE = {
    "not JSON": b"{",
    "text": b'"hello"',
    "a list": b"[1, 2]",
    "null": b"null",
    "binary": bytes(range(1, 10)) + b"\xff\xfe",
    "bad UTF-8": b'{"source_id": "\xff"}',
    "lone surrogate": b'{"source_id": "\\ud800"}',
    "NaN": line().replace(b'"BTC"', b"NaN"),
    "NaN as time": b'{"source_id":"augur.signals","captured_at":NaN,"freshness_ms":1,"available":true}',
    "infinite": line().replace(b'"BTC"', b"1e999"),
    "huge integer": line().replace(b'"BTC"', b"9" * 4000),
    "integer beyond 64 bits": line().replace(b'"BTC"', str(2**64).encode()),
    "deep nesting": line().replace(b'"BTC"', b"[" * 5000 + b"]" * 5000),
    "nesting of 40": line().replace(b'"BTC"', b"[" * 40 + b"]" * 40),
    "no source": line(source_id=None),
    "no time": line(captured_at=None),
    "no freshness": line(freshness_ms=None),
    "no available": line(available=None),
    "source is a number": line(source_id=7),
    "source of 10,000 characters": line(source_id="x" * 10_000),
    "source with control characters": line(source_id="augur\u001b[31m.signals"),
    "available is a word": line(available="yes"),
    "freshness is negative": line(freshness_ms=-1),
    "freshness is nothing": line(freshness_ms=0),
    "fresh for ever": line(freshness_ms=10**15),
    "freshness is a word": line(freshness_ms="soon"),
    "time is true": line(captured_at=True),
    "time is no time": line(captured_at="yesterday"),
    "time is the 30th of February": line(captured_at="2026-02-30T00:00:00Z"),
    "time is absurd": line(captured_at=1e300),
    "time is negative": line(captured_at=-5),
    "trailing words": line() + b" drop table",
    "insight of no target": b'{"type": "anomaly"}',
    "insight of another type": b'{"type": "pattern", "target_id": "web"}',
    "insight about nobody": b'{"type": "alert", "target_id": "nobody"}',
    "reading of nobody": line(source_id="nobody"),
    "reading of a family that is not there": line(source_id="nobody.signals"),
}


@pytest.mark.req("NFR-004", "R7")
def test_nothing_hostile_is_taken_and_a_bad_line_ends_no_connection(lab: Lab) -> None:
    async def script() -> None:
        client = await lab.connect()
        for n, (name, raw) in enumerate(HOSTILE.items()):
            answer = await client.say(raw)
            assert answer["ok"] is False, name
            assert answer["error"], name
            if n % 10 == 9:
                assert (await client.say(line()))["ok"] is True

    asyncio.run(lab.run(script))
    assert len(lab.got) == len(HOSTILE) // 10
    assert lab.hinted == []


@pytest.mark.req("NFR-004")
@pytest.mark.parametrize(
    ("source_id", "family"),
    [
        ("augur.signals", "trading"),
        ("augur-signals", "trading"),
        ("fleet.health", "fleet"),
        ("fleet:db1", "fleet"),
        ("fleet:found-in-its-file", "fleet"),
        ("pipeline.state", "pipeline"),
        ("helios.state", "pipeline"),
        ("pipeline:task-001", "pipeline"),
    ],
)
def test_a_reading_goes_to_the_worker_of_its_family(lab: Lab, source_id: str, family: str) -> None:
    async def script() -> None:
        client = await lab.connect()
        answer = await client.say(line(source_id=source_id, error="e" * 2000))
        assert answer == {"ok": True, "source_id": source_id, "family": family}

    asyncio.run(lab.run(script))
    ((to, body),) = lab.got
    assert to == family
    assert isinstance(body, Outside)
    assert body.reading.source_id == source_id
    assert json.loads(body.reading.data_json) == {"symbol": "BTC"}
    assert len(body.reading.error) == feed.ERROR_CHARS_MAX


@pytest.mark.req("NFR-004")
@pytest.mark.parametrize(
    "captured_at", [1771407000, 1771407000000, "2026-02-18T09:30:00Z", "2026-02-18T10:30:00.000+01:00", "1771407000"]
)
def test_every_form_of_time_of_the_site_is_understood(captured_at: object) -> None:
    parsed = parse(line(captured_at=captured_at))
    assert isinstance(parsed, SourceReading)
    assert parsed.captured_wall_s == 1771407000


def test_the_smallest_reading_and_insight() -> None:
    raw = b'{"source_id":"a","captured_at":1771407000,"freshness_ms":0.5,"available":false,"type":"","error":null}'
    assert parse(raw) == SourceReading("a", 1771407000.0, 1, False)
    assert parse(b'{"type":"alert","source_id":"a","severity":[{}]}') == Insight("a")
    with pytest.raises(UsageError):
        parse(b"{}")


@pytest.mark.req("FR-002", "R7")
def test_an_insight_is_a_question_to_our_own_probe(lab: Lab) -> None:
    async def script() -> None:
        client = await lab.connect()
        assert await client.say(b'{"type":"anomaly","target_id":"web","p":0.9}') == {"ok": True, "probing": "web"}
        told = await client.say(b'{"type":"alert","source_id":"augur.signals"}')
        assert told == {"ok": True, "probing": "augur-signals"}
        for _ in range(20):
            assert await client.say(b'{"type":"alert","source_id":"fleet.health"}') == {"ok": True, "probing": "fleet"}

    asyncio.run(lab.run(script))
    assert [(t.target_id, t.family) for t in lab.hinted] == [("web", "process"), ("augur-signals", "trading")]
    assert lab.got == [("fleet", Resync())], "all of a family is read once in a while at most"


@pytest.mark.req("NFR-004")
def test_what_the_worker_refuses_or_leaves_unanswered_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "ANSWER_S", 0.2)

    async def script() -> None:
        client = await lab.connect()
        lab.answer = lambda body: Nack("refused", "it is 70 s old, and fresh for 60 s only")
        assert "70 s old" in (await client.say(line()))["error"]
        lab.answer = lambda body: Nack("unknown_id", "augur-signals is not watched", "", 4)
        assert (await client.say(line()))["code"] == "unknown_id"
        lab.answer = lambda body: None
        assert "did not answer" in (await client.say(line()))["error"]
        sent = len(lab.got)
        lab.answer = lambda body: Ack()
        assert (await client.say(line()))["ok"] is True
        assert len(lab.got) == sent + 1, "what was given up is not sent again"

    asyncio.run(lab.run(script))


def test_lines_that_are_too_long_or_have_no_end_are_told_and_end_the_connection(lab: Lab) -> None:
    async def script() -> None:
        client = await lab.connect()
        client.writer.write(b"x" * (LINE_BYTES_MAX + 10_000))
        assert "longer than" in (await client.answer())["error"]
        assert await client.over()
        client = await lab.connect()
        client.writer.write(line()[:20])
        client.writer.write_eof()
        assert "no end" in (await client.answer())["error"]
        assert await client.over()
        client = await lab.connect()
        assert (await client.say(b'{"pad":"' + b"x" * (LINE_BYTES_MAX - 20) + b'"}'))["ok"] is False
        assert (await client.say(line()))["ok"] is True
        client.writer.write(b"\n\n  \n" + line() + b"\n")  # blank lines are nothing
        assert (await client.answer())["ok"] is True

    asyncio.run(lab.run(script))


def test_slow_writers_and_idle_connections_end_and_keep_nobody_waiting(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "LINE_S", 0.5)
    monkeypatch.setattr(feed, "IDLE_S", 2.0)

    async def script() -> None:
        slow, idle, good = await lab.connect(), await lab.connect(), await lab.connect()
        slow.writer.write(b"{")
        assert (await good.say(line()))["ok"] is True
        assert "no whole line" in (await slow.answer())["error"]
        assert await slow.over()
        assert "no whole line" in (await idle.answer())["error"]
        assert await idle.over()
        good.close()

    asyncio.run(lab.run(script))


def test_who_does_not_take_his_answers_is_let_go(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "LINE_S", 0.5)
    monkeypatch.setattr(feed, "LINES_A_SECOND_MAX", 10**9)

    async def script() -> None:
        deaf, good = await lab.connect(), await lab.connect()
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]

        async def flood() -> None:
            while True:
                deaf.writer.write(b"{}\n" * 20_000)
                await deaf.writer.drain()
                await asyncio.sleep(0.01)

        async with asyncio.timeout(WITHIN_S * 2):
            with pytest.raises(ConnectionError):
                await flood()
        assert (await good.say(line()))["ok"] is True
        good.close()

    asyncio.run(lab.run(script))


def test_too_many_lines_a_second_are_refused_aloud(lab: Lab) -> None:
    async def script() -> None:
        client, other = await lab.connect(), await lab.connect()
        # More than a busy machine takes in ten seconds: within one of them it is too many.
        client.writer.write((line() + b"\n") * (10 * feed.LINES_A_SECOND_MAX))
        answers = [await client.answer() for _ in range(feed.LINES_A_SECOND_MAX)]
        assert all(answer["ok"] for answer in answers)
        while (refused := await client.answer())["ok"]:
            pass
        assert refused["code"] == feed.TOO_FAST
        assert (await other.say(line()))["ok"] is True, "each connection has its own limit"
        assert (await client.answer())["ok"] is True  # in the next second
        client.close()
        other.close()

    asyncio.run(lab.run(script))


def test_too_many_connections_are_turned_away_aloud_and_a_place_becomes_free(lab: Lab) -> None:
    async def script() -> None:
        clients = [await lab.connect() for _ in range(feed.CONNECTIONS_MAX)]
        assert all([(await client.say(line()))["ok"] for client in clients])
        one_more = await lab.connect()
        assert "connections are open" in (await one_more.answer())["error"]
        assert await one_more.over()
        clients.pop().close()
        async with asyncio.timeout(WITHIN_S):
            while True:
                again = await lab.connect()
                if (await again.say(line()))["ok"]:
                    break

    asyncio.run(lab.run(script))


def test_the_socket_is_ours_alone_and_replaces_one_that_was_left(lab: Lab) -> None:
    async def script() -> None:
        mode = os.stat(lab.directory / feed.SOCKET).st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        client = await lab.connect()
        assert (await client.say(line()))["ok"] is True

    asyncio.run(lab.run(script))
    assert (lab.directory / feed.SOCKET).exists()
    asyncio.run(lab.run(script))
