"""Somebody outside who waits for pings, over http or https, with authorities and certificates made on the spot."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Authority:
    """A CA; `file` is its own certificate, as SSL_CERT_FILE wants it."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.file = folder / f"{name}.pem"
        made = self._certificate(self._name, self._key, x509.BasicConstraints(ca=True, path_length=None))
        self.file.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _certificate(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def context(self, host: str) -> ssl.SSLContext:
        """A server's, with a certificate for `host`."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._certificate(name, key, x509.SubjectAlternativeName([x509.DNSName(host)]))
        file = self._folder / f"{made.serial_number}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


class Watcher:
    """`with Watcher() as watcher`: `pings` are their times (monotonic) and request lines; `status` is what it answers.

    Without `tls` it speaks http. Both may be set anew while it runs.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        self.status = 200
        self.body = b"OK"
        self.silent = False
        self.pings: list[tuple[float, str]] = []
        self.agents: set[str] = set()
        self.connections = 0
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        self._end = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(60)

    def url(self, secret: str, host: str = "localhost") -> str:
        return f"{'http' if self.tls is None else 'https'}://{host}:{self._server.server_port}{secret}"

    def took(self, line: str, agent: str) -> None:
        with self._changed:
            self.pings.append((time.monotonic(), line))
            self.agents.add(agent)
            self._changed.notify_all()

    def wait_for(self, more: int, within_s: float = 60.0) -> list[tuple[float, str]]:
        """So many pings from now on."""
        with self._changed:
            wanted = len(self.pings) + more
            assert self._changed.wait_for(lambda: len(self.pings) >= wanted, within_s), f"{self.pings[-5:]}"
            return self.pings[wanted - more : wanted]

    def has_stopped(self, within_s: float, on_their_way: int = 2) -> bool:
        """Whether no more than these come in that time: one may have been under way when the cause was set, and one
        round was perhaps already on its way to be heard of."""
        with self._changed:
            last = len(self.pings) + on_their_way
            return not self._changed.wait_for(lambda: len(self.pings) > last, within_s)

    def hold(self) -> None:
        """Where it is silent: until the end."""
        self._end.wait(300)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Callable[..., Any], watcher: Watcher) -> None:
        super().__init__(address, handler)
        self._watcher = watcher

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread, so that a bad handshake is nobody else's."""
        self._watcher.connections += 1
        if self._watcher.tls is not None:
            try:
                request = self._watcher.tls.wrap_socket(request, server_side=True)
            except OSError:
                return  # the client did not like our certificate
        super().finish_request(request, client_address)
        if isinstance(request, ssl.SSLSocket):
            request.close()

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        """A client that has gone is none."""


def _handler(watcher: Watcher) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if watcher.silent:
                watcher.hold()
                return
            watcher.took(self.requestline, self.headers.get("user-agent", ""))
            self.send_response(watcher.status)
            if 300 <= watcher.status < 400:
                self.send_header("location", "http://127.0.0.1:9" + self.path)
            self.end_headers()
            self.wfile.write(watcher.body)

        def log_message(self, format: str, *args: object) -> None:
            """Silent."""

    return Handler
