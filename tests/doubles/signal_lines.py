"""JSON-RPC by lines over a UNIX or TCP socket, as `signal-cli daemon --socket` and `--tcp` speak it.

Each request is answered when its answer is ready: a later one overtakes an earlier one on the same connection.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import socketserver
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.doubles.signal_received import END, Inbox

Answer = Callable[[bytes], bytes | None]  # of a line; None: there is none


class Cut(Exception):
    """The connection ends after these bytes."""

    def __init__(self, last: bytes = b"") -> None:
        super().__init__(last)
        self.last = last


class _Handler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._writing = threading.Lock()
        inbox: Inbox = self.server.inbox  # type: ignore[attr-defined]
        with inbox.listening() as mine, contextlib.suppress(ConnectionError, ValueError):  # ValueError: it was cut
            threading.Thread(target=self._notify, args=(mine,), daemon=True).start()
            try:
                for line in self.rfile:
                    threading.Thread(target=self._answer, args=(line,), daemon=True).start()
            finally:
                mine.put(END)

    def _notify(self, mine: queue.SimpleQueue[bytes]) -> None:
        """What is received goes to every connection (the default, --receive-mode=on-start)."""
        while (data := mine.get()) != END:
            with self._writing, contextlib.suppress(OSError, ValueError):
                self.wfile.write(b'{"jsonrpc":"2.0","method":"receive","params":' + data + b"}\n")
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, line: bytes) -> None:
        try:
            answer = self.server.answer(line)  # type: ignore[attr-defined]
            cut = False
        except Cut as end:
            answer, cut = end.last, True
        with self._writing, contextlib.suppress(OSError, ValueError):  # the client is gone
            if answer is not None:
                self.wfile.write(answer)
            if cut:
                self.connection.shutdown(socket.SHUT_RDWR)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 128


class _Unix(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128


class LineServer:
    """Listens as soon as it is made; `transport` is what `notify.signal.transports` takes."""

    def __init__(self, answer: Answer, path: Path | None = None, port: int = 0, inbox: Inbox | None = None) -> None:
        self._path = path
        server: Any = _Unix(str(path), _Handler) if path else _Tcp(("127.0.0.1", port), _Handler)
        server.answer = answer
        server.inbox = inbox or Inbox(threading.Condition())
        self._server = server
        self.transport = f"unix:{path}" if path else f"tcp://127.0.0.1:{server.server_address[1]}"
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """The socket's file goes with it, as with the real one at SIGTERM."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        if self._path is not None:
            self._path.unlink()
