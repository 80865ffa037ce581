"""The chain of ways to Signal, with real sockets and real programs: who is tried, for how long, and who is believed."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import http, jsonlines, proc
from supervisor.config import SignalSection
from supervisor.notifier import backoff, program, ways
from supervisor.notifier.channel import Permanent, Retryable
from supervisor.notifier.oneshot import page
from supervisor.notifier.signal_cli import SignalCli
from tests.doubles.notifier_lab import Healer, Lab, NotifierProcess, config, row
from tests.doubles.senders import Sender
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import gone, until

NOBODY = "http://127.0.0.1:9"


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: it holds UNIX sockets."""
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def signal(folder: Path) -> Iterator[SignalDouble]:
    with SignalDouble(socket_path=folder / "s.sock", tcp=0) as double:
        yield double


@pytest.fixture
def openclaw(folder: Path) -> Iterator[Sender]:
    sender = Sender(folder, "openclaw")
    yield sender
    sender.close()


@pytest.fixture
def signal_cli(folder: Path) -> Iterator[Sender]:
    sender = Sender(folder, "signal-cli")
    yield sender
    sender.close()


def section(*transports: str, recipient: str = "+15550101") -> SignalSection:
    return SignalSection(transports=transports, account="+15550100", recipient=recipient)


async def with_channel(
    settings: SignalSection, use: Callable[[SignalCli], Awaitable[None]], attempt_s: float = 10.0
) -> None:
    channel = SignalCli(settings, attempt_s)
    try:
        await use(channel)
    finally:
        await channel.close()


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("at", [0, 1, 2], ids=["http", "unix", "tcp"])
@pytest.mark.parametrize("recipient", ["+15550101", "group:Zm9v=", "username:x.01"])
def test_each_daemon_transport_delivers_and_the_receipt_names_it(signal: SignalDouble, at: int, recipient: str) -> None:
    async def use(channel: SignalCli) -> None:
        receipt = await channel.deliver(row("r1"))
        assert receipt == f"signal:{signal.sent[0].timestamp} by {signal.transports[at]}"

    run(with_channel(section(signal.transports[at], recipient=recipient), use))
    assert [one.recipients for one in signal.sent] == [(recipient.rpartition(":")[2],)]


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.parametrize("at", [0, 1, 2], ids=["http", "unix", "tcp"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        (Fault(Kind.ERROR, code=-32602), Permanent, "notify.signal.account"),
        (Fault(Kind.ERROR, code=-5), Retryable, "limits the rate"),
        (Fault(Kind.ERROR, code=-6), Permanent, "captcha"),
        (Fault(Kind.RESULTS, types=("IDENTITY_FAILURE",)), Permanent, "safety number"),
        (Fault(Kind.RESULTS, types=("UNREGISTERED_FAILURE",)), Permanent, "not registered"),
        (Fault(Kind.GARBAGE, text="<html>"), (Permanent, Retryable), "not .*JSON-RPC"),
        (Fault(Kind.HALF_CLOSE), Retryable, "ended before the answer was complete"),
        (Fault(Kind.DROP), Retryable, "without an answer|ended before the answer"),
    ],
)
def test_an_answered_error_is_never_sent_over_any_of_them(
    signal: SignalDouble, at: int, fault: Fault, kind: type[Exception], words: str
) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(kind, match=words) as caught:
            await channel.deliver(row("r1"))
        assert signal.transports[at] in str(caught.value)

    signal.fault = fault
    run(with_channel(section(signal.transports[at]), use))


@pytest.mark.req("FR-005")
def test_429_is_told_with_its_pause() -> None:
    async def test() -> None:
        async def limits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 429 X\r\nretry-after: 17\r\ncontent-length: 0\r\n\r\n")
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(limits, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

            async def use(channel: SignalCli) -> None:
                with pytest.raises(Retryable, match="limits the rate") as caught:
                    await channel.deliver(row("r1"))
                assert caught.value.pause_s == 17

            await with_channel(section(url), use)

    run(test())


@pytest.mark.req("FR-005")
def test_answers_over_a_socket_come_in_any_order_with_notifications_between_them() -> None:
    async def test() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            for said in ({"method": "receive", "params": {}}, {"id": "other", "result": {}}, {"id": "q", "result": 7}):
                writer.write(msgspec.json.encode({"jsonrpc": "2.0", **said}) + b"\n")
            await reader.read()
            writer.close()

        async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            line = await jsonlines.request("tcp://x", "127.0.0.1", port, "", "q", b"{}", 10.0)
            assert msgspec.json.decode(line)["result"] == 7

    run(test())


@pytest.mark.req("FR-005")
def test_a_full_backlog_is_a_hang_and_no_connection(folder: Path) -> None:
    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(folder / "s.sock"))
            server.listen(0)
            with socket.socket(socket.AF_UNIX) as first:
                first.connect(str(folder / "s.sock"))
                with pytest.raises(http.TimedOut):
                    await jsonlines.request("unix:x", "", 0, str(folder / "s.sock"), "q", b"{}", 0.3)

    run(test())


@pytest.mark.req("FR-005", "AC-011")
def test_a_hung_transport_leaves_the_others_their_share_and_is_only_asked_from_then_on(signal: SignalDouble) -> None:
    async def test() -> None:
        heard: list[bytes] = []

        async def hangs(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            heard.append((await reader.readuntil(b"\r\n")).strip())
            await reader.read()
            writer.close()

        async with await asyncio.start_server(hangs, "127.0.0.1", 0) as server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

            async def use(channel: SignalCli) -> None:
                began_s = time.monotonic()
                assert (await channel.deliver(row("r1"))).endswith(signal.transports[1])
                assert time.monotonic() - began_s >= 1.9  # half of it: of all, nothing was left to ask anybody
                signal.fault = Fault(Kind.ERROR, code=-3)
                with pytest.raises(Retryable, match=f"{url}: hangs.*"):
                    await channel.deliver(row("r2"))

            await with_channel(section(url, signal.transports[1]), use, attempt_s=4.0)
        # The message, then a question: does it live? With the next message, one question and nothing more.
        assert [line.split()[0] for line in heard] == [b"POST", b"POST", b"GET"]

    run(test())


@pytest.mark.req("FR-005", "R2")
def test_the_socket_of_a_stopped_daemon_gets_no_second_copy(signal: SignalDouble) -> None:
    """HTTP hung, so the same daemon's socket is asked before it is trusted with the message."""

    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable, match=r"it may still send.*unix:.*hangs"):
            await channel.deliver(row("r1"))
        assert len(signal.requests) == 1

    signal.fault = Fault(Kind.HANG)  # its `version` hangs, too
    run(with_channel(section(*signal.transports[:2]), use, attempt_s=1.0))


@pytest.mark.req("FR-005", "R2")
def test_who_answers_while_the_next_is_asked_is_heard(signal: SignalDouble) -> None:
    async def use(channel: SignalCli) -> None:
        assert (await channel.deliver(row("r1"))).endswith(signal.url)
        assert len(signal.sent) == 1

    signal.fault = Fault(Kind.DELAY, seconds=0.7, times=1)
    run(with_channel(section(signal.url, NOBODY), use, attempt_s=1.0))


@pytest.mark.req("FR-005", "R2", "AC-011")
def test_a_slow_daemon_keeps_the_message_however_well_its_other_transports_answer(signal: SignalDouble) -> None:
    """A slow answer is no lost one: over another transport it would be a second copy."""

    async def use(channel: SignalCli) -> None:
        for _ in range(2):
            with pytest.raises(Retryable, match="has not answered yet"):
                await channel.deliver(row("r1"))
        signal.fault = Fault()
        assert (await channel.deliver(row("r1"))).endswith(signal.url)
        assert len(signal.requests) == 1

    signal.fault = Fault(Kind.DELAY, seconds=60, times=1)
    run(with_channel(section(*signal.transports), use, attempt_s=3.0))


TEXT = "$(touch /nowhere); `id` | \"quoted\" 'text' --json\n* ~ && ünïcode"


@pytest.mark.req("FR-005", "R11")
def test_openclaw_gets_the_text_as_one_argument(openclaw: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(channel: SignalCli) -> None:
        assert await channel.send(TEXT, "r1") == f"signal:1700 by {openclaw.path}"

    monkeypatch.setenv("SECRET_OF_OURS", "s3cret")
    run(with_channel(section(NOBODY, openclaw.path, recipient="group:Zm9v="), use))
    (started,) = openclaw.runs()
    assert started["argv"] == ["message", "send", "--channel", "signal", "--target", "group:Zm9v=", "--message", TEXT,
                               "--json"]  # fmt: skip
    assert "SECRET_OF_OURS" not in started["env"]
    assert set(started["env"]) <= {*program.ENVIRONMENT, "LC_CTYPE"}


@pytest.mark.req("FR-005", "R11")
@pytest.mark.parametrize(
    ("recipient", "words"),
    [("+15550101", ["+15550101"]), ("group:Zm=", ["-g", "Zm="]), ("username:x.1", ["-u", "x.1"])],
)
def test_signal_cli_itself_when_no_daemon_is_there(signal_cli: Sender, recipient: str, words: list[str]) -> None:
    async def use(channel: SignalCli) -> None:
        assert await channel.send("-x", "r1") == f"signal:1701 by {signal_cli.path}"

    run(with_channel(section(signal_cli.path, NOBODY, "unix:/nowhere/s", recipient=recipient), use))
    assert [one["argv"] for one in signal_cli.runs()] == [
        ["-a", "+15550100", "-o", "json", "send", "-m", " -x", *words]
    ]


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("fault", [Fault(Kind.ERROR, code=-3), Fault(Kind.HANG)], ids=["answers", "hangs"])
def test_signal_cli_is_not_started_beside_a_daemon_that_can_be_reached(
    signal: SignalDouble, signal_cli: Sender, fault: Fault
) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable, match=f"not started: the daemon at {signal.url} may hold the account"):
            await channel.deliver(row("r1"))

    signal.fault = fault
    run(with_channel(section(signal.url, signal_cli.path), use, attempt_s=0.5))
    assert signal_cli.runs() == []


@pytest.mark.req("FR-005")
def test_signal_cli_is_not_started_beside_a_daemon_process_of_the_account(signal_cli: Sender) -> None:
    signal_cli.hold()
    running = subprocess.Popen([signal_cli.path, "-a", "+15550100", "daemon", "--http", "127.0.0.1:9"])
    try:
        until("it runs", signal_cli.runs)

        async def use(channel: SignalCli) -> None:
            with pytest.raises(Retryable, match=f"daemon with process id {running.pid} holds the account"):
                await channel.deliver(row("r1"))

        run(with_channel(section(NOBODY, signal_cli.path), use))
    finally:
        signal_cli.go()
        running.wait(60)
    assert len(signal_cli.runs()) == 1


@pytest.mark.req("FR-005", "R2")
def test_a_slow_program_is_waited_for_and_not_started_twice(openclaw: Sender) -> None:
    async def use(channel: SignalCli) -> None:
        for _ in range(2):
            with pytest.raises(Retryable, match=r"has not ended within .* and goes on"):
                await channel.deliver(row("r1"))
        openclaw.go()
        assert (await channel.deliver(row("r1"))).endswith(f"by {openclaw.path}")

    openclaw.hold()
    run(with_channel(section(NOBODY, openclaw.path), use, attempt_s=0.5))
    assert len(openclaw.runs()) == 1


@pytest.mark.req("FR-005")
def test_a_hung_program_leaves_the_next_its_share_but_two_slow_ones_do_not_end_each_other(
    openclaw: Sender, signal_cli: Sender
) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable, match=r"openclaw: it has not ended.*signal-cli: it has not ended"):
            await channel.deliver(row("r1"))
        for _ in range(3):
            with pytest.raises(Retryable, match=r"openclaw: not started again: .*signal-cli still runs"):
                await channel.deliver(row("r1"))
        signal_cli.go()
        assert (await channel.deliver(row("r1"))).endswith(f"by {signal_cli.path}")

    openclaw.hold()
    signal_cli.hold()
    run(with_channel(section(NOBODY, openclaw.path, signal_cli.path), use, attempt_s=1.0))
    assert len(signal_cli.runs()) == 1


@pytest.mark.req("FR-005")
def test_a_program_ends_at_its_deadline_with_all_its_children(
    openclaw: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable, match=r"did not end within 0\.6 s and was killed"):
            await channel.deliver(row("r1"))

    openclaw.hold()
    monkeypatch.setattr(ways, "PROGRAM_S", 0.6)
    run(with_channel(section(openclaw.path), use))
    (started,) = openclaw.runs()

    def all_gone() -> bool:
        return not any((status := proc.stat(pid)) is not None and status.live for pid in started["pids"])

    until("it and its child have ended", all_gone)


@pytest.mark.req("FR-005")
def test_a_program_that_says_too_much_or_is_not_there() -> None:
    async def test() -> None:
        with pytest.raises(program.ProgramFailed, match="more than"):
            await program.run((sys.executable, "-c", "while True: print('x' * 9999)"), 30)
        with pytest.raises(program.ProgramFailed, match="no such program in PATH"):
            await program.run(("openclaw-that-is-not-there",), 30)
        with pytest.raises(program.ProgramFailed, match="cannot be started"):
            await program.run((sys.executable, "nul\0byte"), 30)
        output = await program.run((sys.executable, "-c", "import os,sys; print('a'); sys.exit(3)"), 30)
        assert (output.code, output.stdout) == (3, b"a\n")

    run(test())


@pytest.mark.req("FR-005")
def test_a_program_that_cannot_be_watched_does_not_run_on(openclaw: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []

    def full(pid: int) -> int:
        watched.append(pid)
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", full)
    with pytest.raises(program.ProgramFailed, match="cannot be watched"):
        asyncio.run(program.run((openclaw.path,), 30))
    (pid,) = watched
    assert proc.stat(pid) is None


@pytest.mark.req("FR-005")
def test_a_program_dies_with_its_notifier(folder: Path, openclaw: Sender) -> None:
    async def test() -> None:
        healer = Healer(folder)
        notifier = NotifierProcess(folder, config(openclaw.path), "n1")
        try:
            healer.deliver(row("r1"))
            started = await asyncio.get_running_loop().run_in_executor(
                None, until, "openclaw runs", lambda: [one for one in openclaw.runs() if proc.stat(one["pids"][0])]
            )
            status = proc.stat(started[0]["pids"][0])
            assert status is not None
            notifier.kill()
            gone(status.ref)
            os.kill(started[0]["pids"][1], 9)  # not its own children: the kernel knows of none
        finally:
            if notifier.process.poll() is None:
                notifier.kill()
            healer.close()

    openclaw.hold()
    run(test())


@pytest.mark.req("FR-005", "R2")
def test_a_partial_failure_over_one_transport_is_mended_over_the_next(signal: SignalDouble) -> None:
    signal.members = ("+15550111", "+15550112")
    signal.fault = Fault(Kind.RESULTS, types=("SUCCESS", "NETWORK_FAILURE"), times=1)

    async def use(channel: SignalCli) -> None:
        assert (await channel.deliver(row("r1"))).endswith(signal.transports[1])

    run(with_channel(section(*signal.transports[:2], recipient="group:g="), use))
    assert [one.recipients for one in signal.sent] == [("+15550111",), ("+15550112",)]


@pytest.mark.req("FR-005")
def test_a_page_by_a_program_is_acknowledged_with_its_receipt(
    openclaw: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 0.05)

    async def test() -> None:
        async with Lab(config(NOBODY, openclaw.path)) as lab:
            lab.healer.deliver(row("r1"))
            report = await lab.healer.report("r1")
            assert report.receipt == f"signal:1700 by {openclaw.path}"

    run(test())


@pytest.mark.req("FR-005")
def test_who_makes_one_attempt_only_waits_for_the_program_that_it_started(openclaw: Sender) -> None:
    async def use(channel: SignalCli) -> None:
        with pytest.raises(Retryable, match="goes on"):
            await channel.send("the core gave up", "page")
        openclaw.go()
        assert await channel.settle("page", 30) == f"signal:1700 by {openclaw.path}"
        assert await channel.settle("page", 0) is None

    openclaw.hold()
    run(with_channel(section(NOBODY, openclaw.path), use, attempt_s=0.3))
    openclaw.go()
    page(config(NOBODY, openclaw.path), "the core gave up")
    assert [one["argv"][-2] for one in openclaw.runs()] == ["the core gave up"] * 2
