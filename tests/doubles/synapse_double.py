"""Synapse's REST interface (SITE.md) as a real HTTP server: POST /send, GET /health, and bad days on demand."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import msgspec

from supervisor.notifier.rehearsal import reply


class SynapseDouble:
    """`status` other than 200: answered to every message. `hang` set: nothing is answered until the end."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.requests = 0
        self.status = 200
        self.hang = False
        self.answer: object = None  # instead of {"id": ...}
        self.changed = threading.Condition()
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def wait_for_requests(self, count: int, timeout_s: float) -> None:
        with self.changed:
            if not self.changed.wait_for(lambda: self.requests >= count, timeout_s):
                raise TimeoutError(f"{self.requests} of {count} requests within {timeout_s:g} s")

    def take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        with self.changed:
            self.requests += 1
            self.changed.notify_all()
        if self.hang:
            self._over.wait()
            handler.close_connection = True
        elif self.status != 200:
            reply(handler, self.status, {"detail": "on purpose"})
        else:
            self.sent.append(msgspec.json.decode(body))
            reply(handler, 200, self.answer if self.answer is not None else {"id": f"syn_{len(self.sent):012x}"})


def _handler_of(double: SynapseDouble) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            reply(self, 200 if self.path == "/health" else 404, {"status": "ok"})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/send":
                double.take(self, body)
            else:
                reply(self, 404, {"detail": "Not Found"})

        def log_message(self, format: str, *args: Any) -> None:
            """The tests look at `sent`."""

    return Handler
