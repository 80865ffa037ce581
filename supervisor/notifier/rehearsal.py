"""A local stand-in for signal-cli's HTTP interface that records instead of sending, used by `healctl demo`.

It answers as the real daemon (0.13, multi-account mode) was seen to answer, for every account. It must never reach
anybody, and never runs inside the daemon's own processes: it is a thread of the program that rehearses.
"""

from __future__ import annotations

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec

from supervisor import clock

BODY_BYTES_MAX = 1024 * 1024
VERSION = "0.13.19"


class Sent(msgspec.Struct, frozen=True):
    """One message that would have gone out. `recipients` as given: numbers, group ids or user names."""

    at_wall_s: float
    account: str
    recipients: tuple[str, ...]
    text: str
    timestamp: int


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away before its answer is its own business; every other error is printed."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class RpcError(Exception):
    """Becomes a JSON-RPC error inside an HTTP 200, as the real daemon does it."""

    def __init__(self, code: int, message: str, data: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class Rehearsal:
    """The server. Use as a context manager; `url` is what `notify.signal.transports` takes."""

    def __init__(self, port: int = 0) -> None:
        self.sent: list[Sent] = []
        self._changed = threading.Condition()
        self._server = _Server(("127.0.0.1", port), _handler_of(self))
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="rehearsal", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for(self, count: int, timeout_s: float) -> list[Sent]:
        """What was sent, as soon as it is `count` messages or more. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.sent) >= count, timeout_s):
                raise TimeoutError(f"{len(self.sent)} of {count} messages within {timeout_s:g} s")
            return list(self.sent)

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        """Answers one GET."""
        if handler.path == "/api/v1/check":
            reply(handler, 200, None)
        else:
            reply(handler, 405 if handler.path.startswith("/api/v1/rpc") else 404, None)

    def post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answers one POST, to whatever path."""
        if handler.path != "/api/v1/rpc":
            reply(handler, 405 if handler.path == "/api/v1/check" else 404, None)
        elif handler.headers.get_content_type() != "application/json":
            reply(handler, 415, None)
        else:
            self.answer(handler, body)

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        """Answers POST /api/v1/rpc; a double that fails on purpose begins here."""
        answer = self.spoken(body)
        reply(handler, 201 if answer is None else 200, answer)  # None: a notification

    def spoken(self, body: bytes) -> object:
        """What is answered to the text of a request or a batch, over whatever transport. None: nothing."""
        try:
            request = msgspec.json.decode(body) if body else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            return _error(None, RpcError(-32700, str(error)))
        if not isinstance(request, list):
            return self.call(request)
        answers = [answer for one in request if (answer := self.call(one)) is not None]
        return answers if request else _error(None, RpcError(-32600, "invalid request"))

    def call(self, request: object) -> dict[str, Any] | None:
        """The answer to one JSON-RPC object, None for a notification."""
        if not isinstance(request, dict):
            return _error(None, RpcError(-32600, f"unexpected type: {type(request).__name__}"))
        request_id = request.get("id")
        try:
            if request.get("jsonrpc") != "2.0":
                raise RpcError(-32600, "only jsonrpc version 2.0 is supported")
            if not isinstance(request.get("method"), str):
                raise RpcError(-32600, "method field must be set")
            params = request.get("params")
            result = self._method(request["method"], params if isinstance(params, dict) else {})
        except RpcError as error:
            return _error(request_id, error)
        return None if request_id is None else {"jsonrpc": "2.0", "result": result, "id": request_id}

    def send(self, account: str, recipients: tuple[str, ...], text: str) -> dict[str, Any]:
        """Records one message and returns `send`'s result."""
        with self._changed:
            sent = Sent(clock.wall_s(), account, recipients, text, self._timestamp())
            self.sent.append(sent)
            self._changed.notify_all()
        return {"timestamp": sent.timestamp, "results": [result(who, "SUCCESS") for who in recipients]}

    def _timestamp(self) -> int:
        """Milliseconds, and never the same twice: it is the message's identity in Signal."""
        now_ms = int(clock.wall_s() * 1000)
        return max(now_ms, self.sent[-1].timestamp + 1) if self.sent else now_ms

    def _method(self, method: str, params: dict[str, Any]) -> Any:
        if method == "version":
            return {"version": VERSION}
        if method != "send":
            raise RpcError(-32601, "Method not implemented")
        if not params.get("account"):
            raise RpcError(-32602, "Method requires valid account parameter")
        recipients = _recipients(params)
        if not recipients:
            raise RpcError(-1, "No recipients given")
        if not params.get("message"):
            raise RpcError(-1, "Sending empty message is not allowed, either a message or attachment must be given.")
        return self.send(str(params["account"]), recipients, str(params["message"]))


def result(who: str, kind: str) -> dict[str, Any]:
    """One entry of `send`'s results; `kind` SUCCESS or one of signal-cli's failures."""
    number = who if who.startswith("+") else None
    address = {"uuid": None if number else who, "number": number, "username": None}
    return {"recipientAddress": address, "type": kind}


def reply(handler: BaseHTTPRequestHandler, status: int, answer: object) -> None:
    """One HTTP answer; `answer` None means no body."""
    body = b"" if answer is None else msgspec.json.encode(answer)
    handler.send_response(status)
    if body:
        handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _recipients(params: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    for key in ("recipient", "groupId", "username"):
        value = params.get(key)
        if value:
            found += [str(one) for one in value] if isinstance(value, list) else [str(value)]
    return tuple(found)


def _error(request_id: object, error: RpcError) -> dict[str, Any]:
    described = {"code": error.code, "message": str(error), "data": error.data}
    return {"jsonrpc": "2.0", "error": described, "id": request_id}


def _handler_of(server: Rehearsal) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_GET(self) -> None:
            server.get(self)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= BODY_BYTES_MAX:
                self.close_connection = True
                reply(self, 413, None)
                return
            body = self.rfile.read(length)
            server.post(self, body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing on stderr: what counts is in `sent`."""

    return Handler
