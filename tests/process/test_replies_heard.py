"""The notifier listens: over HTTP and sockets, whatever ends meanwhile, at least once for every reply (FR-005, R15)."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from supervisor.http import ProtocolError
from supervisor.notifier import replies, streams
from supervisor.transports import parse
from tests.doubles.notifier_lab import Healer, Lab, NotifierProcess, config, row
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.doubles.signal_received import ACCOUNT, ANNA, message, received, text

WAIT_S = 60.0


async def listening(signal: SignalDouble, count: int = 1) -> None:
    await asyncio.to_thread(signal.inbox.wait_for_listeners, count, WAIT_S)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "FIRST_S", 0.01)
    monkeypatch.setattr(replies, "CAP_S", 0.05)


@pytest.mark.req("FR-005", "R15")
@pytest.mark.parametrize("way", [0, 1, 2])
def test_a_reply_reaches_the_healer_over_every_kind_of_daemon(way: int, tmp_path: Path) -> None:
    async def main() -> None:
        with SignalDouble(socket_path=tmp_path / "s", tcp=0) as signal:
            async with Lab(config(signal.transports[way], approvers=(ANNA,))) as lab:
                await listening(signal)
                signal.inbox.put(received({"typingMessage": {"action": "STARTED", "timestamp": 1}}))
                signal.inbox.put(text("run", 7, 5))
                await lab.healer.until(lambda: bool(lab.healer.replies))
                (reply,) = lab.healer.replies
                assert (reply.person, reply.text, reply.timestamp_ms, reply.quote_ms) == (ANNA, "run", 7, 5)

    asyncio.run(main())


@pytest.mark.req("R15")
def test_two_ways_to_one_daemon_bring_a_reply_once(tmp_path: Path) -> None:
    async def main() -> None:
        with SignalDouble(socket_path=tmp_path / "s") as signal:
            async with Lab(config(*signal.transports, approvers=(ANNA,))) as lab:
                await listening(signal, 2)
                for at in (7, 7, 8):
                    signal.inbox.put(text("ok", at))
                await lab.healer.until(lambda: any(one.timestamp_ms == 8 for one in lab.healer.replies))
                assert sorted(one.timestamp_ms for one in lab.healer.replies) == [7, 8]

    asyncio.run(main())


@pytest.mark.req("R15")
def test_without_approvers_nobody_listens() -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            async with Lab(config(signal.url)) as lab:
                lab.healer.deliver(row("out_1"))
                await lab.healer.report("out_1")
                assert signal.inbox.listeners == 0

    asyncio.run(main())


@pytest.mark.req("R15")
def test_a_stream_that_ends_or_brings_rubbish_is_read_on(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            async with Lab(config(signal.url, approvers=(ANNA,))) as lab:
                await listening(signal)
                signal.inbox.put({"envelope": "x" * 2_000})
                signal.inbox.put({"envelope": "x" * (2 * streams.LINE_BYTES_MAX)})
                signal.inbox.put(text("ok", 7))
                await lab.healer.until(lambda: len(lab.healer.replies) == 1)
                signal.inbox.cut()
                await listening(signal, 2)
                signal.inbox.put(text("ok", 8))
                await lab.healer.until(lambda: len(lab.healer.replies) == 2)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())
    assert "replies are read over" in caplog.text
    assert caplog.text.count("no envelope as we know them") == 1


@pytest.mark.req("R15")
@pytest.mark.parametrize("way", [0, 1])
def test_a_daemon_that_is_silent_for_too_long_is_connected_to_anew(
    way: int, quick: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(streams, "SILENT_S", 0.1)
    monkeypatch.setattr(streams, "ASK_S", 0.05)

    async def main() -> None:
        with SignalDouble(socket_path=tmp_path / "s") as signal:
            signal.fault = Fault(Kind.HANG)  # over a socket it answers no question; over HTTP it never does
            async with Lab(config(signal.transports[way], approvers=(ANNA,))):
                await listening(signal, 3)

    asyncio.run(main())


@pytest.mark.req("R15")
def test_another_daemon_in_the_place_of_one_that_has_ended_is_listened_to(quick: None) -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            port = signal.port
        async with Lab(config(f"http://127.0.0.1:{port}", approvers=(ANNA,))) as lab:
            for at in (7, 8):
                with SignalDouble(port) as signal:
                    await listening(signal)
                    signal.inbox.put(text("ok", at))
                    await lab.healer.until(lambda at=at: [it.timestamp_ms for it in lab.healer.replies][-1:] == [at])  # type: ignore[misc]

    asyncio.run(main())


@pytest.mark.req("R15")
def test_an_account_that_the_daemon_does_not_know_is_told_and_nothing_is_read(
    quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            signal.accounts = ("+15559999",)
            async with Lab(config(signal.url, approvers=(ANNA,))):
                while "does not know notify.signal.account" not in caplog.text:
                    await asyncio.sleep(0.01)
                assert signal.inbox.listeners == 0

    asyncio.run(asyncio.wait_for(main(), WAIT_S))
    assert caplog.text.count("does not know") == 1


@pytest.mark.req("R15")
def test_the_account_and_a_proxys_path_are_a_part_of_what_is_asked_for() -> None:
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def daemon(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.put_nowait(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(daemon, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            transport = parse(f"http://127.0.0.1:{port}/signal/")
            with pytest.raises(ProtocolError):
                await anext(streams.received(transport, ACCOUNT, asyncio.Event()))
            head = await asyncio.wait_for(asked.get(), WAIT_S)
            assert head.startswith(b"GET /signal/api/v1/events?account=%2B15550100 HTTP/1.1\r\n")
            assert f"127.0.0.1:{port}".encode() in head

    asyncio.run(main())


@pytest.mark.req("R15")
def test_of_strangers_a_few_are_told_without_their_words(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            async with Lab(config(signal.url, approvers=(ANNA,))) as lab:
                await listening(signal)
                for n in range(50):
                    signal.inbox.put(text("run", n + 1, number=f"+1555020{n}"))
                signal.inbox.put(text("ok", 99))
                await lab.healer.until(lambda: bool(lab.healer.replies) and lab.healer.replies[-1].person == ANNA)
                told = [one for one in lab.healer.replies if not one.person]
                assert len(told) == replies.STRANGERS_MAX
                assert {one.text for one in told} == {""}

    asyncio.run(main())
    assert caplog.text.count("is no approver") == replies.STRANGERS_MAX


@pytest.mark.req("R15", "FR-005")
def test_a_reply_is_given_again_until_it_is_acknowledged_across_the_death_of_the_notifier(tmp_path: Path) -> None:
    """The daemon, which keeps what nobody has handled, gives it to the next one."""

    async def main() -> None:
        with SignalDouble() as signal:
            signal.inbox.again = True
            healer = Healer(tmp_path)
            healer.deaf = True
            settings = config(signal.url, approvers=(ANNA,))
            first = NotifierProcess(tmp_path, settings, "n1")
            first.wait_ready()
            await listening(signal)
            signal.inbox.put(text("run", 7))
            await healer.until(lambda: len(healer.replies) >= 2, WAIT_S)  # again, unacknowledged
            first.kill()
            count = len(healer.replies)
            healer.deaf = False
            second = NotifierProcess(tmp_path, settings, "n2")
            second.wait_ready()
            try:
                await healer.until(lambda: len(healer.replies) > count, WAIT_S)
            finally:
                second.kill()
            assert {one.key for one in healer.replies} == {healer.replies[0].key}
            healer.close()

    asyncio.run(main())


@pytest.mark.req("R15")
def test_a_group_that_is_paged_is_answered_by_its_approvers(tmp_path: Path) -> None:
    async def main() -> None:
        with SignalDouble() as signal:
            async with Lab(config(signal.url, approvers=(ANNA, ACCOUNT))) as lab:
                await listening(signal)
                group = {"groupInfo": {"groupId": "Z3JvdXA="}}
                signal.inbox.put(received({"dataMessage": message("run", 7, **group)}))
                signal.inbox.put(text("ok", 8))
                await lab.healer.until(lambda: bool(lab.healer.replies))
                assert [one.timestamp_ms for one in lab.healer.replies] == [8], "no group is configured"

    asyncio.run(main())
