"""The small HTTP client against real sockets that answer well, badly, slowly, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable

import pytest

from supervisor import http

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def _with_server(serve: Serve, then: Callable[[str], Awaitable[http.Response]], unix: str = "") -> http.Response:
    closed: list[asyncio.Future[None]] = []

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        closed.append(done)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            done.set_result(None)

    if unix:
        server = await asyncio.start_unix_server(closing, unix)
        url = "http+unix://" + unix.replace("/", "%2F")
    else:
        server = await asyncio.start_server(closing, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        try:
            return await then(url)
        finally:
            await asyncio.wait_for(asyncio.gather(*closed), 60)  # the client has let go of every connection


def _says(raw: bytes, received: list[bytes] | None = None) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if received is not None:
            length = next((int(x.split(b":")[1]) for x in head.split(b"\r\n") if x.startswith(b"content-length")), 0)
            received.append(head + await reader.readexactly(length))
        writer.write(raw)
        await writer.drain()

    return serve


def _get(raw: bytes, timeout_s: float = 60.0) -> http.Response:
    return asyncio.run(_with_server(_says(raw), lambda url: http.request(url, timeout_s=timeout_s)))


def test_post_sends_its_body_and_returns_the_whole_answer() -> None:
    received: list[bytes] = []
    raw = b"HTTP/1.1 201 Created\r\nX-Kind: a\r\nContent-Length: 5\r\n\r\nhello"
    response = asyncio.run(
        _with_server(
            _says(raw, received),
            lambda url: http.request(
                url + "/base/",
                method="POST",
                path="/rpc",
                headers=(("content-type", "application/json"),),
                body=b"{}",
                timeout_s=60,
            ),
        )
    )
    assert response == http.Response(201, (("x-kind", "a"), ("content-length", "5")), b"hello")
    assert received[0].startswith(b"POST /base/rpc HTTP/1.1\r\n")
    assert b"content-length: 2\r\n" in received[0]
    assert received[0].endswith(b"\r\n\r\n{}")


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", b"abc"),
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_every_way_to_end_a_body(raw: bytes, body: bytes) -> None:
    assert _get(raw).body == body


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000,
        b"\x00\xff" * 50,
    ],
)
def test_half_an_answer_or_something_else_is_a_protocol_error(raw: bytes) -> None:
    with pytest.raises(http.ProtocolError, match=r"127\.0\.0\.1"):
        _get(raw)


def test_a_body_beyond_the_limit_is_refused() -> None:
    fits = b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * http.BODY_BYTES_MAX
    assert len(_get(fits).body) == http.BODY_BYTES_MAX
    with pytest.raises(http.TooLarge):
        _get(fits + b"x")


def test_silence_and_trickle_both_end_at_the_deadline() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client lets go, which shows that it does

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(ConnectionError):  # the client lets go
            while True:
                try:
                    async with asyncio.timeout(0.01):
                        await reader.read()
                        return
                except TimeoutError:
                    writer.write(b"x")

    for serve in (silent, trickle):
        with pytest.raises(http.TimedOut, match=r"within 0\.2 s"):
            asyncio.run(_with_server(serve, lambda url: http.request(url, timeout_s=0.2)))


def test_nobody_listens() -> None:
    async def closed_port() -> int:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        return port

    async def call() -> None:
        await http.request(f"http://127.0.0.1:{await closed_port()}", timeout_s=60)

    with pytest.raises(http.ConnectFailed):
        asyncio.run(call())


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "127.0.0.1:8080",
        "ftp://127.0.0.1",
        "http://",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:x",
        "http://[::1",
        "http://user:secret@127.0.0.1",
        "http://127.0.0.1/?q=1",
        "http+unix://relative.sock",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "",
    ],
)
def test_a_wrong_address_is_told_before_anything_is_sent(url: str) -> None:
    with pytest.raises(http.BadRequest):
        asyncio.run(http.request(url, timeout_s=60))


def test_a_header_cannot_smuggle_a_line() -> None:
    with pytest.raises(http.BadRequest):
        asyncio.run(http.request("http://127.0.0.1:1", headers=(("x", "a\r\nb: c"),), timeout_s=60))


def test_unix_socket() -> None:
    directory = tempfile.mkdtemp(prefix="hc")
    path = os.path.join(directory, "s.sock")

    answers = _says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    try:
        answer = asyncio.run(_with_server(answers, lambda url: http.request(url, path="/check", timeout_s=60), path))
        assert answer.body == b"ok"
        with pytest.raises(http.ConnectFailed):
            asyncio.run(http.request(f"http+unix://{directory.replace('/', '%2F')}%2Fno.sock", timeout_s=60))
    finally:
        shutil.rmtree(directory)
