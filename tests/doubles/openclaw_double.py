"""Doubles of the OpenClaw gateway: its program, and its HTTP port.

The program (`python openclaw_double.py FOLDER ...`) answers as a file in FOLDER says; the answers in `openclaw/` are
the real one's (OpenClaw 2026.9.6, Node.js 24.16, Debian 12), with its paths and its port changed only.
`message-*.json` are those of `openclaw message send`, with a double of signal-cli's daemon behind it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from pathlib import Path

RECORDED = Path(__file__).parent / "openclaw"
HANGS = "hangs"


def recorded(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


class Program:
    """What `openclaw gateway status --json` says from now on, and how often it was asked."""

    def __init__(self, folder: Path, stdout: bytes = b"") -> None:
        self.folder = folder
        self._gate = -1
        folder.mkdir(exist_ok=True)
        self.argv = [sys.executable, str(Path(__file__).resolve()), str(folder), "gateway", "status", "--json"]
        self.says(stdout or recorded("status-up.json"))

    def says(self, stdout: bytes, *, after: str = "") -> None:
        """`after`: a FIFO in the folder; see `waits`. HANGS: it never answers."""
        new = self.folder / "stdout.new"
        (self.folder / "after").write_text(after)
        new.write_bytes(stdout)
        new.rename(self.folder / "stdout")

    def waits(self, stdout: bytes) -> None:
        """From now on each run waits for a call of `go` (one for each) before it says this."""
        gate = self.folder / "gate"
        if not gate.exists():
            os.mkfifo(gate)
        self.says(stdout, after="gate")
        self._gate = os.open(gate, os.O_RDWR)  # held open, so that nobody waits for the other end

    def go(self) -> None:
        os.write(self._gate, b"x")

    def close(self) -> None:
        if self._gate != -1:
            os.close(self._gate)

    def runs(self) -> list[int]:
        """The process ids of all that were started."""
        file = self.folder / "runs"
        return [int(line) for line in file.read_text().splitlines()] if file.exists() else []


def _program(folder: Path) -> int:
    with (folder / "runs").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    stdout, after = (folder / "stdout").read_bytes(), (folder / "after").read_text()
    if after == HANGS:
        while True:
            signal.pause()
    if after:
        with (folder / after).open("rb", buffering=0) as gate:  # a FIFO
            gate.read(1)
    sys.stdout.buffer.write(stdout)
    return 0  # as the real one, whatever it found


class HttpPort:
    """A port that answers every request with `answer` (status, content type, body), or misbehaves as `mode` says.

    Modes: "answers", "hangs" (accepts, never answers), "drips" (a byte now and then), "closes" (without an answer).
    """

    def __init__(self, mode: str = "answers", answer: tuple[int, str, bytes] | None = None) -> None:
        self.mode = mode
        self.answer = answer or (200, "application/json; charset=utf-8", recorded("healthz.json"))
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/healthz"
        self._stop = threading.Event()
        self._open: list[socket.socket] = []
        self._serving = threading.Thread(target=self._serve, args=(self._server,))
        self._serving.start()

    def shut(self) -> None:
        """Nobody listens any more."""
        self._stop.set()
        with contextlib.suppress(OSError):  # it was never connected
            self._server.shutdown(socket.SHUT_RDWR)
        self._serving.join(60)
        self._server.close()
        for connection in self._open:
            connection.close()
        self._open.clear()

    def reopen(self) -> None:
        """On the same port."""
        self._stop.clear()
        self._server = socket.create_server(("127.0.0.1", self.port))
        self._serving = threading.Thread(target=self._serve, args=(self._server,))
        self._serving.start()

    def __enter__(self) -> HttpPort:
        return self

    def __exit__(self, *exc: object) -> None:
        self.shut()

    def _serve(self, server: socket.socket) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            if self.mode == "hangs":
                self._open.append(connection)
                continue
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        connection.recv(65536)
        if self.mode == "closes":
            return
        status, kind, body = self.answer
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        if self.mode == "drips":
            for byte in head + body:
                connection.sendall(bytes([byte]))
                if self._stop.wait(0.2):
                    return
        connection.sendall(head + body)


if __name__ == "__main__":
    sys.exit(_program(Path(sys.argv[1])))
