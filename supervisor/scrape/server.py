"""A small HTTP/1.1 server for one page: one connection, one request, one answer, each step with a deadline.

It speaks to strangers: whatever they send, or do not send or take, costs a bounded time and a bounded memory, and never
more than their own connection. It must not know what stands on the page.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import h11

from supervisor.scrape.text import CONTENT_TYPE

log = logging.getLogger(__name__)

PATH = b"/metrics"
CONNECTIONS_MAX = 256  # when they are all taken, the one that has been silent for longest makes room
HEAD_BYTES_MAX = 8 * 1024
REQUEST_S = 5.0  # until the whole request is there
ANSWER_S = 10.0  # until the whole answer is taken
READ_BYTES = 4 * 1024
_PLAIN = "text/plain; charset=utf-8"


class NoPage(Exception):
    """It cannot be had now; the text says why, for whoever scrapes."""


class Server:
    """`page` gives the page, or raises NoPage."""

    def __init__(self, page: Callable[[], Awaitable[bytes]]) -> None:
        self._page = page
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._silent: dict[asyncio.StreamWriter, None] = {}  # no whole request yet, the oldest first
        self.served = 0

    async def open(self, host: str, port: int) -> None:
        """Raises OSError when the address cannot be had."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=HEAD_BYTES_MAX)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CONNECTIONS_MAX:
            if not self._silent:
                writer.transport.abort()  # all of them are being answered: it comes again at the next interval
                return
            oldest = next(iter(self._silent))
            del self._silent[oldest]
            oldest.transport.abort()
        self._silent[writer] = None
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a scrape ended", exc_info=error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(our_role=h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        try:
            async with asyncio.timeout(REQUEST_S):
                request = await _request(connection, reader)
            self._silent.pop(writer, None)
            if request is not None:
                async with asyncio.timeout(ANSWER_S):
                    writer.write(_encoded(connection, request, *await self._answer(request)))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
                self.served += 1
        except (OSError, TimeoutError) as error:
            log.debug("a scrape was not finished: %s", error or "too slow")
        finally:
            self._silent.pop(writer, None)
            writer.transport.abort()

    async def _answer(self, request: h11.Request | str) -> tuple[int, str, bytes]:
        """Status, content type and body."""
        if isinstance(request, str):
            return 400, _PLAIN, f"{request}\n".encode()
        if request.target.partition(b"?")[0] != PATH:
            return 404, _PLAIN, b"the metrics are at /metrics\n"
        if request.method not in (b"GET", b"HEAD"):
            return 405, _PLAIN, b"only GET and HEAD\n"
        try:
            return 200, CONTENT_TYPE, await self._page()
        except NoPage as error:
            return 503, _PLAIN, f"{error}\n".encode()


async def _request(connection: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | str | None:
    """The head of the request (a body is not waited for); what is wrong with it, in words; None: nobody is there."""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            return f"not HTTP: {error}"
        if isinstance(event, h11.Request):
            return event
        if event is not h11.NEED_DATA:
            return None
        connection.receive_data(await reader.read(READ_BYTES))


def _encoded(
    connection: h11.Connection, request: h11.Request | str, status: int, content_type: str, body: bytes
) -> bytes:
    headers = [("content-type", content_type), ("content-length", str(len(body))), ("connection", "close")]
    if status == 405:
        headers.append(("allow", "GET, HEAD"))
    head = h11.Response(status_code=status, headers=headers)
    raw = connection.send(head) or b""
    if not (isinstance(request, h11.Request) and request.method == b"HEAD"):
        raw += connection.send(h11.Data(data=body)) or b""
    with contextlib.suppress(h11.LocalProtocolError):  # a HEAD's answer has no body of that length, which is meant
        raw += connection.send(h11.EndOfMessage()) or b""
    return raw
