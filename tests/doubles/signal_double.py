"""The rehearsal server with faults: signal-cli's daemon as it behaves on bad days, over HTTP, UNIX and TCP sockets.

In a test: `with SignalDouble() as signal: signal.fault = Fault(Kind.HANG)`. As a program, for a process of its own:
`python -m tests.doubles.signal_double --port 0 --socket PATH --tcp 0 --log FILE` prints `{"transports": [...]}`,
appends every message it takes to FILE as a line of JSON, and takes its fault as JSON by POST /double/fault.
"""

from __future__ import annotations

import argparse
import signal
import socket
import threading
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from supervisor.notifier.rehearsal import Rehearsal, RpcError, reply, result
from tests.doubles.signal_lines import Cut, LineServer
from tests.doubles.signal_received import Inbox


class Kind(StrEnum):
    NONE = "none"
    ERROR = "error"  # a JSON-RPC error of `code`
    RESULTS = "results"  # a result whose types are `types`, one for each recipient or member
    STATUS = "status"  # an HTTP status of `code`
    HANG = "hang"  # accepts, records nothing, answers nothing until the fault is taken away
    HALF_CLOSE = "half_close"  # half an answer, then the connection ends; nothing was recorded
    DROP = "drop"  # recorded, then the connection ends without an answer
    DELAY = "delay"  # recorded at once, answered after `seconds`
    GARBAGE = "garbage"  # HTTP 200 with `text` as its body


class Fault(msgspec.Struct, frozen=True):
    """`times`: how many requests it hits, all when None. `if_text`: only messages that contain it."""

    kind: Kind = Kind.NONE
    code: int = 0
    types: tuple[str, ...] = ()
    seconds: float = 0.0
    text: str = ""
    times: int | None = None
    if_text: str = ""


class SignalDouble(Rehearsal):
    """`socket_path`, `tcp`: listens there, too; `transports` are all its addresses, HTTP first."""

    def __init__(
        self, port: int = 0, log: Path | None = None, *, socket_path: Path | None = None, tcp: int | None = None
    ) -> None:
        super().__init__(port)
        self.transports = [self.url]
        self._socket_path = socket_path
        self._tcp = tcp
        self._lines: list[LineServer] = []
        self.requests: list[dict[str, Any]] = []  # every `send` that came in, hung ones too
        self.accounts: tuple[str, ...] = ()  # those registered here; empty: every account
        self.members: tuple[str, ...] = ()  # of whatever group is written to
        self._log = log
        self._lock = threading.Condition()
        self.inbox = Inbox(threading.Condition())
        self._fault = Fault()
        self._version = 0  # of the fault: whoever hangs goes on when it changes
        self._hits = 0

    @property
    def fault(self) -> Fault:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        with self._lock:
            self._fault, self._hits = fault, 0
            self._version += 1
            self._lock.notify_all()

    def __enter__(self) -> Self:
        if self._socket_path is not None:
            self._lines.append(LineServer(self.line, path=self._socket_path, inbox=self.inbox))
        if self._tcp is not None:
            self._lines.append(LineServer(self.line, port=self._tcp, inbox=self.inbox))
        self.transports = [self.url, *(server.transport for server in self._lines)]
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.fault = Fault()
        self.inbox.cut()
        for server in self._lines:
            server.close()
        super().__exit__(kind, error, at)

    def wait_for_requests(self, count: int, timeout_s: float) -> None:
        """Until `count` messages were handed in, answered or not. Raises TimeoutError."""
        with self._lock:
            if not self._lock.wait_for(lambda: len(self.requests) >= count, timeout_s):
                raise TimeoutError(f"{len(self.requests)} of {count} requests within {timeout_s:g} s")

    def get(self, handler: BaseHTTPRequestHandler) -> None:
        if handler.path.startswith("/api/v1/events"):
            self.inbox.serve(handler, self.accounts)
        else:
            super().get(handler)

    def post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        if handler.path == "/double/fault":
            self.fault = msgspec.json.decode(body, type=Fault)
            reply(handler, 200, None)
        else:
            super().post(handler, body)

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        fault, version = self._next(body)
        if fault.kind is Kind.STATUS:
            reply(handler, fault.code, {"error": "on purpose"})
        elif fault.kind is Kind.GARBAGE:
            _raw(handler, fault.text.encode())
        elif fault.kind is Kind.HANG:
            with self._lock:
                self._lock.wait_for(lambda: self._version != version)
            handler.close_connection = True
        elif fault.kind is Kind.HALF_CLOSE:
            handler.send_response(200)
            handler.send_header("Content-Length", "500")
            handler.end_headers()
            handler.wfile.write(b'{"jsonrpc":"2.0","result":{"timest')
            _end(handler)
        elif fault.kind is Kind.DROP:
            self._dropped(self.call(msgspec.json.decode(body)))
            _end(handler)
        elif fault.kind is Kind.DELAY:
            answer = self.call(msgspec.json.decode(body))
            with self._lock:
                self._lock.wait_for(lambda: self._version != version, fault.seconds)
            reply(handler, 200, answer)
        else:
            super().answer(handler, body)

    def line(self, body: bytes) -> bytes | None:
        """The answer to one line over a socket."""
        fault, version = self._next(body)
        if fault.kind is Kind.GARBAGE:
            return fault.text.encode() + b"\n"
        if fault.kind is Kind.HANG:
            with self._lock:
                self._lock.wait_for(lambda: self._version != version)
            raise Cut
        if fault.kind is Kind.HALF_CLOSE:
            raise Cut(b'{"jsonrpc":"2.0","result":{"timest')
        answer = self.spoken(body)
        if fault.kind is Kind.DROP:
            self._dropped(answer)
            raise Cut
        if fault.kind is Kind.DELAY:
            with self._lock:
                self._lock.wait_for(lambda: self._version != version, fault.seconds)
        return None if answer is None else msgspec.json.encode(answer) + b"\n"

    def send(self, account: str, recipients: tuple[str, ...], text: str) -> dict[str, Any]:
        if self.accounts and account not in self.accounts:
            raise RpcError(-32602, "Specified account does not exist")
        fault = self._fault if self._hit(text) else Fault()
        if fault.kind is Kind.ERROR:
            raise RpcError(fault.code, "on purpose")
        everybody = self.members if self.members and not recipients[0].startswith("+") else recipients
        if fault.kind is Kind.RESULTS:
            results = [result(who, kind) for who, kind in zip(everybody, fault.types, strict=True)]
            if "SUCCESS" not in fault.types:  # then the real one answers an error that carries the results
                codes = {("IDENTITY_FAILURE",): -4, ("RATE_LIMIT_FAILURE",): -5}
                code = codes.get(tuple(sorted(set(fault.types))), -1)
                raise RpcError(code, "Failed to send message", {"response": {"timestamp": 1, "results": results}})
            reached = tuple(who for who, kind in zip(everybody, fault.types, strict=True) if kind == "SUCCESS")
            return {**self._sent(account, reached, text), "results": results}
        return self._sent(account, everybody, text)

    def _sent(self, account: str, recipients: tuple[str, ...], text: str) -> dict[str, Any]:
        answer = super().send(account, recipients, text)
        taken = next(one for one in reversed(self.sent) if one.timestamp == answer["timestamp"])
        self._write(taken)
        return answer

    def _dropped(self, answer: Any) -> None:
        """Nobody will hear of it."""
        if isinstance(answer, dict) and "timestamp" in answer.get("result", {}):
            self._write({"dropped": answer["result"]["timestamp"]})

    def _write(self, line: object) -> None:
        if self._log is not None:
            with self._lock, self._log.open("ab") as log:
                log.write(msgspec.json.encode(line) + b"\n")

    def _next(self, body: bytes) -> tuple[Fault, int]:
        """The fault that this request meets, and its version."""
        with self._lock:
            try:
                request = msgspec.json.decode(body)
            except msgspec.DecodeError:
                request = None
            if isinstance(request, dict) and request.get("method") == "send":
                self.requests.append(request)
                self._lock.notify_all()
            text = str(request.get("params", {}).get("message", "")) if isinstance(request, dict) else ""
            in_send = self._fault.kind in (Kind.ERROR, Kind.RESULTS)
            hit = not in_send and self._fault.if_text in text and self._count()
            return (self._fault if hit else Fault()), self._version

    def _hit(self, text: str) -> bool:
        with self._lock:
            return self._fault.kind in (Kind.ERROR, Kind.RESULTS) and self._fault.if_text in text and self._count()

    def _count(self) -> bool:
        self._hits += 1
        return self._fault.times is None or self._hits <= self._fault.times


def _raw(handler: BaseHTTPRequestHandler, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def _end(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--socket", type=Path)
    parser.add_argument("--tcp", type=int)
    parser.add_argument("--log", type=Path)
    arguments = parser.parse_args()
    with SignalDouble(arguments.port, arguments.log, socket_path=arguments.socket, tcp=arguments.tcp) as double:
        print(msgspec.json.encode({"transports": double.transports}).decode(), flush=True)
        signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    main()
