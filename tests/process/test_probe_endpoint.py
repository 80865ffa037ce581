"""Endpoint checks against real servers: what each scheme proves, and what a stopped or wrong server looks like."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from probes import endpoint
from supervisor import proc
from supervisor.errors import ConfigError
from supervisor.incidents.readings import Endpoint

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def short_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hc"))
    yield path
    shutil.rmtree(path)


def check(text: str, timeout_s: float = 2.0) -> endpoint.Answer:
    return asyncio.run(endpoint.check(endpoint.parse(text), timeout_s))


@asynccontextmanager
async def serving(serve: Serve, path: Path | None = None) -> AsyncIterator[int]:
    """A real server in this loop; the port, 0 for a UNIX socket."""

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the check has what it wanted, or the test is over
        finally:
            writer.transport.abort()

    server = await (asyncio.start_unix_server(once, path) if path else asyncio.start_server(once, "127.0.0.1", 0))
    try:
        yield 0 if path else server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def check_served(serve: Serve, form: str, path: Path | None = None, timeout_s: float = 2.0) -> endpoint.Answer:
    async def main() -> endpoint.Answer:
        async with serving(serve, path) as port:
            return await endpoint.check(endpoint.parse(form.format(port=port, path=path)), timeout_s)

    return asyncio.run(main())


def answers(*lines: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        for line in lines:
            writer.write(line)
        await writer.drain()
        await reader.read()

    return serve


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    return


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", Endpoint.OK),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", Endpoint.OK),
        (b"HTTP/1.1 503 Unavailable\r\ncontent-length: 0\r\n\r\n", Endpoint.BAD_ANSWER),
        (b"SSH-2.0-OpenSSH\r\n\r\n", Endpoint.BAD_ANSWER),
    ],
)
@pytest.mark.req("FR-001")
def test_http_wants_a_complete_answer_below_500(head: bytes, expected: Endpoint) -> None:
    assert check_served(answers(head), "http://127.0.0.1:{port}/health?deep=1", timeout_s=0.5).status is expected


def test_http_half_an_answer_is_none() -> None:
    half = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi")
    assert check_served(half, "http://127.0.0.1:{port}", timeout_s=0.2).status is Endpoint.TIMEOUT
    assert check_served(hangs_up, "http://127.0.0.1:{port}").status is Endpoint.BAD_ANSWER


def test_nobody_listens(short_dir: Path) -> None:
    for text in ("http://127.0.0.1:1", "tcp://127.0.0.1:1", "jsonrpc+tcp://127.0.0.1:1"):
        assert check(text).status is Endpoint.REFUSED, text
    for scheme in ("unix", "jsonrpc+unix"):
        answer = check(f"{scheme}:{short_dir}/none")
        assert answer.status is Endpoint.REFUSED
        assert "No such file" in answer.detail
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{short_dir}/left")
    left.close()  # as after kill -9: the file stays
    assert check(f"unix:{short_dir}/left").status is Endpoint.REFUSED


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((b'{"jsonrpc":"2.0","id":"healctl","result":{"version":"0.13"}}\n',), Endpoint.OK),
        ((b'{"jsonrpc":"2.0","id":"healctl","error":{"code":-32601,"message":"no"}}\n',), Endpoint.OK),
        ((b'{"jsonrpc":"2.0","method":"receive","params":{}}\n', b'{"id":7,"result":1}\n',
          b'{"id":"healctl"}\n', b'{"id":"healctl","result":null}\n'), Endpoint.OK),
        ((b"<html>\n",), Endpoint.BAD_ANSWER),
        ((b"[" * 5000 + b"\n",), Endpoint.BAD_ANSWER),
        ((b'{"x":1}\n' * 200,), Endpoint.BAD_ANSWER),
        ((b"x" * 3_000_000,), Endpoint.BAD_ANSWER),
        ((b'{"jsonrpc":"2.0","id":null,"result":1}\n',), Endpoint.TIMEOUT),
    ],
)  # fmt: skip
@pytest.mark.req("FR-001")
def test_jsonrpc_wants_its_own_answer(lines: tuple[bytes, ...], expected: Endpoint, short_dir: Path) -> None:
    assert check_served(answers(*lines), "jsonrpc+tcp://127.0.0.1:{port}", timeout_s=0.3).status is expected
    assert check_served(answers(*lines), "jsonrpc+unix:{path}", short_dir / "s", 0.3).status is expected


def test_jsonrpc_a_server_that_hangs_up_or_is_silent(short_dir: Path) -> None:
    assert check_served(hangs_up, "jsonrpc+unix:{path}", short_dir / "s").status is Endpoint.BAD_ANSWER
    assert check_served(silent, "jsonrpc+unix:{path}", short_dir / "t", 0.2).status is Endpoint.TIMEOUT


SERVER = """
import socket, sys
server = socket.socket(socket.AF_UNIX if sys.argv[1] else socket.{family})
server.bind(sys.argv[1] or ("{host}", 0))
server.listen(int(sys.argv[2]))
print(0 if sys.argv[1] else server.getsockname()[1], flush=True)
kept = []
while True:
    kept.append(server.accept())
"""


@pytest.fixture
def server() -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], int]]]:
    running: list[subprocess.Popen[bytes]] = []

    def begin(path: str = "", host: str = "127.0.0.1", backlog: int = 8) -> tuple[subprocess.Popen[bytes], int]:
        code = SERVER.format(host=host, family="AF_INET6" if ":" in host else "AF_INET")
        child = subprocess.Popen([sys.executable, "-c", code, path, str(backlog)], stdout=subprocess.PIPE)
        running.append(child)
        assert child.stdout is not None
        return child, int(child.stdout.readline())

    yield begin
    for child in running:
        child.kill()
        child.communicate()


def stop(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGSTOP)
    deadline = time.monotonic() + 60
    while (status := proc.stat(child.pid)) is None or status.state != "T":
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]"), ("::", "127.0.0.1")])
@pytest.mark.req("FR-001")
def test_tcp_sees_that_a_stopped_server_does_not_accept(
    server: Callable[..., tuple[subprocess.Popen[bytes], int]], host: str, shown: str
) -> None:
    child, port = server(host=host)
    assert check(f"tcp://{shown}:{port}").status is Endpoint.OK
    stop(child)
    with socket.create_connection((shown.strip("[]"), port), timeout=1):
        pass  # what a mere connect would have told
    assert check(f"tcp://{shown}:{port}", 0.2).status is Endpoint.TIMEOUT
    child.send_signal(signal.SIGCONT)
    assert check(f"tcp://{shown}:{port}").status is Endpoint.OK


def test_tcp_a_server_that_hangs_up_at_once_is_there() -> None:
    assert check_served(hangs_up, "tcp://127.0.0.1:{port}").status is Endpoint.OK


@pytest.mark.req("FR-001")
def test_unix_sees_that_the_listener_is_stopped(
    server: Callable[..., tuple[subprocess.Popen[bytes], int]], short_dir: Path
) -> None:
    child, _ = server(path=f"{short_dir}/s")
    assert check(f"unix:{short_dir}/s").status is Endpoint.OK
    stop(child)
    answer = check(f"unix:{short_dir}/s", 0.3)
    assert answer.status is Endpoint.TIMEOUT
    assert str(child.pid) in answer.detail


def test_unix_a_full_backlog_is_a_timeout(
    server: Callable[..., tuple[subprocess.Popen[bytes], int]], short_dir: Path
) -> None:
    child, _ = server(path=f"{short_dir}/s", backlog=0)
    stop(child)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(f"{short_dir}/s")
        assert check(f"jsonrpc+unix:{short_dir}/s", 0.3).status is Endpoint.TIMEOUT


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody who may not connect")
def test_no_permission_is_about_us(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"{short_dir}/s")
        sock.listen()
        os.chmod(f"{short_dir}/s", 0o600)
        os.chmod(short_dir, 0o755)
        os.seteuid(65534)
        try:
            with pytest.raises(PermissionError):
                check(f"unix:{short_dir}/s")
        finally:
            os.seteuid(0)


@pytest.mark.parametrize(
    "text",
    ["", "https://x", "tcp://x", "tcp://:80", "unix:relative", "unix:", "tcp://h:99999", "http://", "http://u:p@h/",
     "jsonrpc+tcp://h", "ftp://h:1", "unix:/a\0b"],
)  # fmt: skip
def test_an_address_that_cannot_be_checked_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError):
        endpoint.parse(text)
