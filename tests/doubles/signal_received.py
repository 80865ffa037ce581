"""What signal-cli's daemon tells its listeners: envelopes as version 0.13 writes them, to every open connection.

Over HTTP server-sent events (`event:receive`, `data:` and the JSON, no blank after the colon, chunked, a bare `:` as a
sign of life), over sockets JSON-RPC notifications. `again`: a new listener gets everything once more, as after a crash
of the daemon, which keeps a message until it was handled.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec

ACCOUNT = "+15550100"
ANNA = "+15550101"
END = b""


class Inbox:
    """`listeners`: how many connections there have been."""

    def __init__(self, changed: threading.Condition) -> None:
        self._changed = changed
        self._queues: list[queue.SimpleQueue[bytes]] = []
        self._told: list[dict[str, Any]] = []
        self.again = False
        self.listeners = 0

    def wait_for_listeners(self, count: int, timeout_s: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.listeners >= count, timeout_s):
                raise TimeoutError(f"{self.listeners} of {count} listeners within {timeout_s:g} s")

    def put(self, params: dict[str, Any]) -> None:
        """To everybody who listens now; kept for those who come later only while `again`."""
        with self._changed:
            self._told.append(params)
            for one in self._queues:
                one.put(msgspec.json.encode(params))

    def cut(self) -> None:
        """Every connection ends."""
        with self._changed:
            for one in self._queues:
                one.put(END)

    @contextlib.contextmanager
    def listening(self) -> Any:
        mine: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        with self._changed:
            if self.again:
                for params in self._told:
                    mine.put(msgspec.json.encode(params))
            self._queues.append(mine)
            self.listeners += 1
            self._changed.notify_all()
        try:
            yield mine
        finally:
            with self._changed:
                self._queues.remove(mine)
                self._changed.notify_all()

    def serve(self, handler: BaseHTTPRequestHandler, accounts: tuple[str, ...]) -> None:
        """GET /api/v1/events."""
        _, _, query = handler.path.partition("?account=")
        if accounts and query and query.replace("%2B", "+") not in accounts:
            handler.send_response(400)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.close_connection = True
        with self.listening() as mine, contextlib.suppress(OSError):
            _chunk(handler, b":\n")
            while (data := mine.get()) != END:
                _chunk(handler, b"event:receive\ndata:" + data + b"\n\n")


def _chunk(handler: BaseHTTPRequestHandler, data: bytes) -> None:
    handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    handler.wfile.flush()


def uuid_of(number: str) -> str:
    return f"00000000-0000-4000-8000-{int(number.strip('+')):012d}"


def message(text: str | None, at_ms: int, quote_ms: int = 0, author: str = ACCOUNT, **more: Any) -> dict[str, Any]:
    """A `dataMessage`."""
    found: dict[str, Any] = {"timestamp": at_ms, "message": text, "expiresInSeconds": 0, "viewOnce": False, **more}
    if quote_ms:
        found["quote"] = {
            "id": quote_ms, "author": author, "authorNumber": author, "authorUuid": uuid_of(author),
            "text": "what was said", "attachments": [],
        }  # fmt: skip
    return found


def received(body: dict[str, Any], number: str | None = ANNA, account: str = ACCOUNT, **more: Any) -> dict[str, Any]:
    """The parameters of a `receive`; `body` has `dataMessage` or what there is instead."""
    envelope = {
        "source": number, "sourceNumber": number, "sourceUuid": uuid_of(number or "+1"), "sourceName": "Anna",
        "sourceDevice": 1, "timestamp": 1, "serverReceivedTimestamp": 1, "serverDeliveredTimestamp": 1, **body, **more,
    }  # fmt: skip
    return {"envelope": envelope, "account": account}


def text(said: str, at_ms: int, quote_ms: int = 0, number: str = ANNA, account: str = ACCOUNT) -> dict[str, Any]:
    """The ordinary case: somebody writes, or answers by a quote."""
    return received({"dataMessage": message(said, at_ms, quote_ms, account)}, number, account)
