"""What a signal-cli daemon tells by itself: server-sent events over HTTP, or lines of JSON-RPC over a socket.

One connection for each daemon, kept open. It must never wait for ever on a dead one: HTTP brings a sign of life every
15 s, and over a socket we ask for one. What is longer than it may be is left out, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import quote, urlsplit

import h11
import msgspec

from supervisor.http import ConnectFailed, HttpError, ProtocolError, TimedOut
from supervisor.jsonlines import open_stream
from supervisor.notifier import signal_rpc
from supervisor.transports import Kind, Transport

EVENTS_PATH = "/api/v1/events"
CONNECT_S = 10.0
SILENT_S = 60.0  # without a byte: the daemon sends an empty comment every 15 s (signal-cli's HttpServerHandler)
ASK_S = 20.0  # over a socket, where it sends nothing by itself
LINE_BYTES_MAX = 256 * 1024
READ_BYTES = 64 * 1024
ASK_ID = "alive"


class Splitter:
    """Lines out of pieces; one that is longer than LINE_BYTES_MAX is left out and counted."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._skipping = False
        self.left_out = 0

    def feed(self, data: bytes) -> list[bytes]:
        lines = []
        *whole, rest = data.split(b"\n")
        for part in whole:
            line, self._rest = bytes(self._rest + part), bytearray()
            if self._skipping or len(line) > LINE_BYTES_MAX:
                self._skipping = False
                self.left_out += 1
            else:
                lines.append(line.removesuffix(b"\r"))
        if self._skipping or len(self._rest) + len(rest) > LINE_BYTES_MAX:
            self._skipping, self._rest = True, bytearray()
        else:
            self._rest += rest
        return lines


async def received(transport: Transport, account: str, opened: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The JSON of every notification, as `receive`'s parameters; `opened` is set once the daemon listens to us.

    Ends with HttpError when the connection does.
    """
    try:
        stream = _events(transport, account, opened) if transport.kind is Kind.HTTP else _lines(transport, opened)
        async with contextlib.aclosing(stream) as found:
            async for one in found:
                yield one
    except TimeoutError:
        raise TimedOut(f"{transport.text}: silent for too long") from None
    except OSError as error:
        raise ProtocolError(f"{transport.text}: the connection broke: {error.strerror or error}") from error


@contextlib.asynccontextmanager
async def _connected(transport: Transport) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    try:
        async with asyncio.timeout(CONNECT_S):
            at = transport
            reader, writer = await open_stream(at.host, at.port, at.path if at.kind is Kind.UNIX else "", READ_BYTES)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConnectFailed(f"{transport.text}: {reason}") from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError):  # told already, where it matters
            await writer.wait_closed()


async def _events(transport: Transport, account: str, opened: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """The HTML standard's event stream, as far as the daemon uses it: `event:receive`, `data:` in one line."""
    connection = h11.Connection(our_role=h11.CLIENT)
    at = urlsplit(transport.text)  # behind a proxy the daemon may have a path of its own
    target = at.path.rstrip("/") + EVENTS_PATH + (f"?account={quote(account, safe='')}" if account else "")
    headers = [("host", at.netloc), ("accept", "text/event-stream")]
    async with _connected(transport) as (reader, writer):
        writer.write(connection.send(h11.Request(method="GET", target=target, headers=headers)) or b"")
        writer.write(connection.send(h11.EndOfMessage()) or b"")
        lines, event, data = Splitter(), b"", b""
        async for chunk in _body(transport, connection, reader, opened):
            for line in lines.feed(chunk):
                name, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if name == b"event":
                    event = value
                elif name == b"data":
                    data += value
                elif not line:
                    if data and event in (b"receive", b""):
                        yield data
                    event, data = b"", b""
                if len(data) > LINE_BYTES_MAX:
                    data = b""


async def _body(
    transport: Transport, connection: h11.Connection, reader: asyncio.StreamReader, opened: asyncio.Event
) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise ProtocolError(f"{transport.text}: not HTTP: {error}") from error
        if event is h11.NEED_DATA:
            async with asyncio.timeout(SILENT_S):
                connection.receive_data(await reader.read(READ_BYTES))
        elif isinstance(event, h11.Response):
            if event.status_code != 200:
                why = ": it does not know notify.signal.account" if event.status_code == 400 else ""
                raise HttpError(f"{transport.text}{EVENTS_PATH} answered HTTP {event.status_code}{why}")
            opened.set()
        elif isinstance(event, h11.Data):
            yield bytes(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            raise ProtocolError(f"{transport.text}: the event stream ended")


class _Line(msgspec.Struct, frozen=True):
    method: str = ""
    params: msgspec.Raw = msgspec.Raw()


async def _lines(transport: Transport, opened: asyncio.Event) -> AsyncGenerator[bytes, None]:
    """Notifications between the answers to our own question, which tells that the daemon lives."""
    lines, loop = Splitter(), asyncio.get_running_loop()
    async with _connected(transport) as (reader, writer):
        writer.write(signal_rpc.version_request(ASK_ID) + b"\n")
        heard_s = loop.time()
        while True:
            try:
                async with asyncio.timeout(ASK_S):
                    chunk = await reader.read(READ_BYTES)
            except TimeoutError:
                if loop.time() > heard_s + SILENT_S:
                    raise
                writer.write(signal_rpc.version_request(ASK_ID) + b"\n")
                continue
            if not chunk:
                raise ProtocolError(f"{transport.text}: the connection ended")
            heard_s = loop.time()
            for line in lines.feed(chunk):
                opened.set()
                if (found := _decoded(line)).method == "receive":
                    yield bytes(found.params)


def _decoded(line: bytes) -> _Line:
    try:
        return msgspec.json.decode(line, type=_Line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Line()
