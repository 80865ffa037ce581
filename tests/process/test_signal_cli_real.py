"""The real signal-cli daemon (no account, so nothing can leave): the notifier against it, and the double beside it.

What the double answers to a request must be what the daemon answers, or tests with the double show nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from supervisor import http
from supervisor.notifier.channel import Permanent, Retryable
from supervisor.notifier.oneshot import PageFailed, page
from supervisor.notifier.signal_cli import SignalCli
from tests import parts
from tests.doubles.notifier_lab import Lab, config, row
from tests.doubles.signal_double import SignalDouble

UP_WITHIN_S = 60.0
JSON = (("content-type", "application/json"),)


class Daemon:
    def __init__(self, directory: Path) -> None:
        part = parts.signal_cli()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self.url = f"http://{address}"
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [part.program, "--config", directory / "data", "daemon", "--http", address],
                env={**os.environ, "JAVA_HOME": str(part.java_home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

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
        self.process.wait(20)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    started = Daemon(tmp_path_factory.mktemp("signal"))
    try:
        started.wait_up()
        yield started
    finally:
        started.stop()


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
    """What a client can rely on: status, the error's code, whether it has words, the id, the result."""
    if not response.body or dict(response.headers).get("content-type") != "application/json":
        return response.status
    answer = msgspec.json.decode(response.body)
    error = answer.get("error")
    told = (error["code"], bool(error["message"]), error["data"]) if error else None
    return response.status, answer.get("id"), told, answer.get("result")


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


@pytest.mark.req("FR-005", "AC-011")
def test_what_the_real_daemon_refuses_is_reported_as_not_sent(daemon: Daemon) -> None:
    async def test() -> None:
        async with Lab(config(daemon.url)) as lab:
            lab.healer.deliver(row("r1"))
            report = await lab.healer.report("r1", receipt=False)
            assert "Specified account does not exist" in report.error
            assert "notify.signal.account" in report.error
            assert (report.attempts, report.receipt) == (1, "")

    asyncio.run(asyncio.wait_for(test(), 60))
    with pytest.raises(PageFailed, match="Specified account does not exist"):
        page(config(daemon.url), "x")


@pytest.mark.req("FR-005")
def test_a_stopped_daemon_is_told_from_a_dead_one(daemon: Daemon) -> None:
    async def test() -> None:
        channel = SignalCli(config(daemon.url).notify.signal, attempt_s=0.5)
        daemon.process.send_signal(signals.SIGSTOP)
        with pytest.raises(Retryable, match="no answer within"):
            await channel.deliver(row("r1"))
        with pytest.raises(Retryable, match="hangs"):
            await channel.deliver(row("r1"))
        daemon.process.send_signal(signals.SIGCONT)
        with pytest.raises(Permanent, match="account does not exist"):
            await SignalCli(config(daemon.url).notify.signal).deliver(row("r1"))
        await channel.close()

    try:
        asyncio.run(asyncio.wait_for(test(), 60))
    finally:
        daemon.process.send_signal(signals.SIGCONT)
