"""The real signal-cli daemon (no account, so nothing can leave): the notifier against it, and the double beside it.

What the double answers to a request must be what the daemon answers, or tests with the double show nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal as signals
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor import http
from supervisor.config import SignalSection
from supervisor.notifier import replies, streams, ways
from supervisor.notifier.channel import Permanent, Retryable
from supervisor.notifier.oneshot import PageFailed, page
from supervisor.notifier.signal_cli import SignalCli
from supervisor.transports import Transport, parse
from tests import parts
from tests.doubles.notifier_lab import Lab, config, row
from tests.doubles.signal_double import SignalDouble

UP_WITHIN_S = 60.0
JSON = (("content-type", "application/json"),)


class Daemon:
    """With all its interfaces: `transports` are HTTP, UNIX and TCP."""

    def __init__(self, directory: Path) -> None:
        parts.signal_cli()
        with socket.socket() as free, socket.socket() as other:
            free.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self._http, self._tcp = (f"127.0.0.1:{one.getsockname()[1]}" for one in (free, other))
        self.url = f"http://{self._http}"
        self._directory = directory
        self.socket_file = directory / "s.sock"
        self.transports = (self.url, f"unix:{self.socket_file}", f"tcp://{self._tcp}")
        self.log = directory / "log"
        self.start()

    def start(self) -> None:
        part = parts.signal_cli()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    part.program, "--config", self._directory / "data",
                    "daemon", "--http", self._http, "--socket", self.socket_file, "--tcp", self._tcp,
                ],
                env={**os.environ, "JAVA_HOME": str(part.java_home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )  # fmt: skip

    def wait_up(self) -> None:
        deadline_s = time.monotonic() + UP_WITHIN_S
        while time.monotonic() < deadline_s and self.process.poll() is None:
            try:
                if asyncio.run(http.request(self.url, path="/api/v1/check", timeout_s=2)).status == 200:
                    return
            except http.HttpError:
                time.sleep(0.05)  # nothing tells when a foreign program begins to listen
        raise AssertionError(f"signal-cli did not come up: {self.log.read_text()}")

    def stop(self) -> None:
        self.process.send_signal(signals.SIGCONT)
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))  # a short path: it holds a UNIX socket
    started = Daemon(directory)
    try:
        started.wait_up()
        yield started
    finally:
        started.stop()
        shutil.rmtree(directory)


def _send(**params: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": "1", "method": "send", "params": params})


REQUESTS: dict[str, tuple[str, str, tuple[tuple[str, str], ...], bytes]] = {
    "check": ("GET", "/api/v1/check", (), b""),
    "check by post": ("POST", "/api/v1/check", JSON, b"{}"),
    "rpc by get": ("GET", "/api/v1/rpc", (), b""),
    "elsewhere": ("GET", "/nope", (), b""),
    "post elsewhere": ("POST", "/nope", JSON, b"{}"),
    "no content type": ("POST", "/api/v1/rpc", (), _send()),
    "text": ("POST", "/api/v1/rpc", (("content-type", "text/plain"),), _send()),
    "charset": (
        "POST",
        "/api/v1/rpc",
        (("content-type", "application/json; charset=utf-8"),),
        b'{"jsonrpc":"2.0","id":"1","method":"version"}',
    ),
    "no json": ("POST", "/api/v1/rpc", JSON, b"{no"),
    "empty": ("POST", "/api/v1/rpc", JSON, b""),
    "a string": ("POST", "/api/v1/rpc", JSON, b'"text"'),
    "no batch": ("POST", "/api/v1/rpc", JSON, b"[]"),
    "old version": ("POST", "/api/v1/rpc", JSON, b'{"id":"1","method":"version"}'),
    "version": ("POST", "/api/v1/rpc", JSON, b'{"jsonrpc":"2.0","id":"1","method":"version"}'),
    "notification": ("POST", "/api/v1/rpc", JSON, b'{"jsonrpc":"2.0","method":"version"}'),
    "no method": ("POST", "/api/v1/rpc", JSON, b'{"jsonrpc":"2.0","id":"1"}'),
    "unknown method": ("POST", "/api/v1/rpc", JSON, b'{"jsonrpc":"2.0","id":"1","method":"nope"}'),
    "no account": ("POST", "/api/v1/rpc", JSON, _send(recipient=["+15550101"], message="x")),
    "unknown account": ("POST", "/api/v1/rpc", JSON, _send(account="+15550199", recipient=["+15550101"], message="x")),
}


def _shape(response: http.Response) -> object:
    """The status, and what is told."""
    if not response.body or dict(response.headers).get("content-type") != "application/json":
        return response.status
    return response.status, _told(response.body)


def _told(body: bytes) -> object:
    """What a client can rely on: the error's code, whether it has words, the id, the result."""
    answer = msgspec.json.decode(body)
    error = answer.get("error")
    told = (error["code"], bool(error["message"]), error["data"]) if error else None
    return answer.get("id"), told, answer.get("result")


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("name", REQUESTS)
def test_the_double_answers_as_the_real_daemon_does(daemon: Daemon, name: str) -> None:
    method, path, headers, body = REQUESTS[name]

    def ask(url: str) -> object:
        return _shape(
            asyncio.run(http.request(url, method=method, path=path, headers=headers, body=body, timeout_s=10))
        )

    with SignalDouble() as double:
        double.accounts = ("+15550100",)
        assert ask(double.url) == ask(daemon.url)


LINES: dict[str, bytes] = {
    name: body
    for name, (_, path, headers, body) in REQUESTS.items()
    if path == "/api/v1/rpc" and headers == JSON and body
}


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("at", [1, 2], ids=["unix", "tcp"])
@pytest.mark.parametrize("name", LINES)
def test_over_sockets_too_the_double_answers_as_the_real_daemon_does(
    daemon: Daemon, tmp_path: Path, name: str, at: int
) -> None:
    """Each request is followed by one whose answer is known, so that no answer at all is seen as such."""

    def ask(transport: str) -> list[object]:
        kind, _, rest = transport.partition(":")
        family, where = (
            (socket.AF_UNIX, rest) if kind == "unix" else (socket.AF_INET, ("127.0.0.1", int(rest.rpartition(":")[2])))
        )
        with socket.socket(family) as client:
            client.settimeout(60)
            client.connect(where)
            lines = client.makefile("rb")
            client.sendall(LINES[name] + b"\n")
            answers = []
            client.sendall(b'{"jsonrpc":"2.0","id":"last","method":"version"}\n')
            expected = 1 if name == "notification" else 2
            while len(answers) < expected:
                answers.append(_told(lines.readline()))
            return sorted(answers, key=str)

    with SignalDouble(socket_path=tmp_path / "s", tcp=0) as double:
        double.accounts = ("+15550100",)
        assert ask(double.transports[at]) == ask(daemon.transports[at])


@pytest.mark.req("FR-005", "AC-011")
@pytest.mark.parametrize("at", [0, 1, 2], ids=["http", "unix", "tcp"])
def test_what_the_real_daemon_refuses_is_reported_as_not_sent(daemon: Daemon, at: int) -> None:
    settings = config(daemon.transports[at])

    async def test() -> None:
        async with Lab(settings) as lab:
            lab.healer.deliver(row("r1"))
            report = await lab.healer.report("r1", receipt=False)
            assert "Specified account does not exist" in report.error
            assert "notify.signal.account" in report.error
            assert daemon.transports[at] in report.error
            assert (report.attempts, report.receipt) == (1, "")

    asyncio.run(asyncio.wait_for(test(), 60))
    with pytest.raises(PageFailed, match="Specified account does not exist"):
        page(settings, "x")


@pytest.mark.req("FR-005")
@pytest.mark.parametrize("at", [0, 1, 2], ids=["http", "unix", "tcp"])
def test_a_stopped_daemon_is_told_from_a_dead_one(daemon: Daemon, at: int) -> None:
    settings = config(daemon.transports[at]).notify.signal

    async def test() -> None:
        channel = SignalCli(settings, attempt_s=0.5)
        daemon.process.send_signal(signals.SIGSTOP)
        with pytest.raises(Retryable, match="no answer within"):
            await channel.deliver(row("r1"))
        with pytest.raises(Retryable, match="hangs"):
            await channel.deliver(row("r1"))
        daemon.process.send_signal(signals.SIGCONT)
        with pytest.raises(Permanent, match="account does not exist"):
            await SignalCli(settings).deliver(row("r1"))
        await channel.close()

    try:
        asyncio.run(asyncio.wait_for(test(), 60))
    finally:
        daemon.process.send_signal(signals.SIGCONT)


@pytest.mark.req("FR-005", "R15")
def test_its_event_stream_is_as_the_double_has_it(daemon: Daemon) -> None:
    """Its head, and that an account which it does not have is refused; only what is received cannot be had here."""

    async def heads(transport: Transport) -> tuple[list[bytes], str]:
        reader, writer = await asyncio.open_connection(transport.host, transport.port)
        writer.write(b"GET /api/v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)).lower().split(b"\r\n")
        writer.transport.abort()
        told = [line for line in head if line.startswith((b"http/", b"content-type", b"transfer-encoding"))]
        with pytest.raises(http.HttpError) as refused:
            await anext(streams.received(transport, "+15550199", asyncio.Event()))
        return sorted(told), str(refused.value).replace(transport.text, "")

    with SignalDouble() as double:
        double.accounts = ("+15550100",)
        real, ours = (asyncio.run(heads(parse(url))) for url in (daemon.url, double.url))
    assert real == ours
    assert "answered HTTP 400" in real[1]


@pytest.mark.req("FR-005", "AC-011", "R15")
def test_killed_it_leaves_its_socket_file_and_messages_wait_until_it_is_back(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A file without a listener is "unreachable", like none at all; and once it is back, it is asked again soon, and
    listened to again over every way."""
    monkeypatch.setattr(replies, "CAP_S", 1.0)
    caplog.set_level(logging.INFO)
    signal = SignalSection(transports=daemon.transports, approvers=("+15550101",))

    async def listened(listening: int) -> None:
        async with asyncio.timeout(90):
            while any(caplog.text.count(f"replies are read over {way}\n") < listening for way in daemon.transports):
                await asyncio.sleep(0.05)  # a line of the log is all that tells

    async def test() -> None:
        ears = replies.Replies(signal, lambda body: asyncio.get_running_loop().create_future())
        ears.start(pytest.fail)
        await listened(1)
        daemon.process.kill()
        daemon.process.wait(60)
        assert daemon.socket_file.exists()
        async with Lab(config(*daemon.transports)) as lab:
            lab.healer.deliver(row("r1"))
            refused = await lab.healer.report("r1", receipt=False)
            assert [part.split(":")[0] for part in refused.error.split("; ")] == ["unreachable"] * 3
            daemon.socket_file.unlink()  # with it there, the daemon exits 3
            daemon.start()
            await asyncio.get_running_loop().run_in_executor(None, daemon.wait_up)
            await lab.healer.until(lambda: any("does not exist" in one.error for one in lab.healer.of("r1")), 90)
            assert not any(one.receipt for one in lab.healer.reports)
        await listened(2)
        await ears.close(1)

    asyncio.run(asyncio.wait_for(test(), 180))


@pytest.mark.req("FR-005", "AC-011")
def test_the_real_one_shot_refuses_an_account_that_it_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = parts.signal_cli()
    monkeypatch.setenv("JAVA_HOME", str(part.java_home))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # an empty folder: no account, and no daemon has it open

    async def test() -> None:
        channel = SignalCli(config(str(part.program)).notify.signal, attempt_s=120)
        with pytest.raises(Permanent, match=r"check notify\.signal\.account.*is not registered"):
            await channel.deliver(row("r1"))
        await channel.close()

    monkeypatch.setattr(ways, "PROGRAM_S", 120)  # a Java start on a busy machine
    asyncio.run(asyncio.wait_for(test(), 180))
