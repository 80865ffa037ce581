"""JSON-RPC over a stream socket, one JSON object a line, as signal-cli's daemon speaks it over UNIX and TCP sockets.

One request, one connection, one deadline, like `http`, whose errors it raises: to the caller it is the same, there is
an answer or there is none. Answers come in any order with notifications between them: ours is told by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec

from supervisor.http import ConnectFailed, ProtocolError, TimedOut, TooLarge

LINE_BYTES_MAX = 1024 * 1024
ACCEPT_LOOK_S = 0.1


class _Head(msgspec.Struct, frozen=True):
    """What tells an answer from a notification."""

    id: str | int | None = None
    method: str | None = None


async def request(name: str, host: str, port: int, path: str, request_id: str, body: bytes, timeout_s: float) -> bytes:
    """The line that answers `body`, a request with the id `request_id`. `path`: a UNIX socket, else `host` and `port`.

    An error without an id is ours too: nobody else asks on this connection. `name` is for the errors: ConnectFailed,
    TimedOut, ProtocolError, TooLarge.
    """
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(name, host, port, path)
            try:
                writer.write(body + b"\n")
                await writer.drain()
                return await _answer(name, reader, request_id)
            finally:
                writer.transport.abort()
                with contextlib.suppress(OSError):  # the same error has been raised above
                    await writer.wait_closed()
    except TimeoutError:
        raise TimedOut(f"{name}: no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ProtocolError(f"{name}: the connection broke: {error.strerror or error}") from error


async def open_stream(host: str, port: int, path: str, limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises OSError, or UnicodeError for a host name that cannot be encoded. Waits for a full backlog to move."""
    if not path:
        return await asyncio.open_connection(host, port, limit=limit)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        while True:
            try:
                sock.connect(path)
                break
            except BlockingIOError:  # its backlog is full: nobody accepts. asyncio would take this for connected.
                await asyncio.sleep(ACCEPT_LOOK_S)
        return await asyncio.open_unix_connection(sock=sock, limit=limit)
    except BaseException:
        sock.close()
        raise


async def _connect(name: str, host: str, port: int, path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        return await open_stream(host, port, path, LINE_BYTES_MAX)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConnectFailed(f"{name}: {reason}") from error


async def _answer(name: str, reader: asyncio.StreamReader, request_id: str) -> bytes:
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than the reader's limit
            raise TooLarge(f"{name}: a line of more than {LINE_BYTES_MAX} bytes") from None
        if not line.endswith(b"\n"):
            raise ProtocolError(f"{name}: the connection ended before the answer was complete")
        try:
            head = msgspec.json.decode(line, type=_Head)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ProtocolError(f"{name}: answered {line[:60]!r}, which is not JSON-RPC") from None
        if head.method is None and head.id in (request_id, None):
            return line
