"""One small HTTP/1.1 client for endpoint checks, JSON-RPC and REST: one request, one connection, one deadline.

It speaks http to a TCP address or a UNIX socket, and https to the outside: with this system's authorities, the name in
the certificate checked, and no way to turn that off. It never follows redirects, never keeps a connection, never
retries, and never returns a half answer: the whole answer within `timeout_s`, or an `HttpError` that tells what was
wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from urllib.parse import SplitResult, unquote, urlsplit

import h11
import msgspec

BODY_BYTES_MAX = 1024 * 1024
READ_BYTES = 64 * 1024

Headers = tuple[tuple[str, str], ...]


class HttpError(Exception):
    """Base: there is no answer. Its text says what happened and names the address."""


class BadRequest(HttpError):
    """This request cannot be sent at all: its address, path or a header is not of the right form."""


class ConnectFailed(HttpError):
    """Nobody accepted the connection: refused, no such socket, no route, or a name that does not resolve."""


class TlsFailed(HttpError):
    """Somebody accepted the connection, but not with a certificate for this name that we trust, or not with TLS."""


class TimedOut(HttpError):
    """The answer was not complete in time. The other side may have acted on the request all the same."""


class ProtocolError(HttpError):
    """The connection ended early or what came is not HTTP. The other side may have acted on the request."""


class TooLarge(HttpError):
    """The answer's body is longer than BODY_BYTES_MAX."""


class Response(msgspec.Struct, frozen=True):
    """A complete answer; header names are lower case."""

    status: int
    headers: Headers
    body: bytes


class _Address(msgspec.Struct, frozen=True):
    """Where to connect (`socket_path`, else `host` and `port`), and the request target's fixed first part."""

    url: str
    host_header: str
    prefix: str
    host: str = ""
    port: int = 0
    socket_path: str = ""
    tls: bool = False


async def request(
    url: str,
    *,
    method: str = "GET",
    path: str = "",
    headers: Headers = (),
    body: bytes = b"",
    timeout_s: float,
) -> Response:
    """The answer to one request, of whatever status.

    `url` is `http://host[:port][/prefix]`, the same with https, or `http+unix://%2Frun%2Fx.sock[/prefix]` for a UNIX
    socket; `path` is appended to it, and stands in no error: what is secret in an address belongs there. `timeout_s`
    covers everything, from the name look-up to the last byte. Raises HttpError.
    """
    address = _parse(url)
    outgoing = _encode(address, method, path, headers, body)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _connect(address)
            try:
                writer.write(outgoing.raw)
                await writer.drain()
                return await _read(outgoing.connection, reader, url)
            finally:
                # Nothing is left to say on this connection; `close` would wait for a peer that no longer reads.
                writer.transport.abort()
                with contextlib.suppress(OSError):  # the same error has been raised above
                    await writer.wait_closed()
    except TimeoutError:
        raise TimedOut(f"{url}: no complete answer within {timeout_s:g} s") from None
    except OSError as error:
        raise ProtocolError(f"{url}: the connection broke: {error.strerror or error}") from error


def _parse(url: str) -> _Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise BadRequest(f"{url!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https", "http+unix"):
        raise BadRequest(f"{url!r} is not an http://, https:// or http+unix:// address")
    if parts.username is not None or parts.query or parts.fragment:
        raise BadRequest(f"{url!r}: only host, port and path are allowed in an address")
    return _address(url, parts, port)


def _address(url: str, parts: SplitResult, port: int | None) -> _Address:
    prefix = parts.path.rstrip("/")
    if parts.scheme == "http+unix":
        socket_path = unquote(parts.netloc)
        if not socket_path.startswith("/"):
            raise BadRequest(f"{url!r}: expected http+unix://%2Fabsolute%2Fpath, with %2F for each slash")
        return _Address(url, "localhost", prefix, socket_path=socket_path)
    if not parts.hostname:
        raise BadRequest(f"{url!r} names no host")
    host = parts.hostname
    literal = f"[{host}]" if ":" in host else host
    tls = parts.scheme == "https"
    port = port or (443 if tls else 80)
    return _Address(url, f"{literal}:{port}", prefix, host=host, port=port, tls=tls)


class _Outgoing(msgspec.Struct, frozen=True):
    connection: h11.Connection
    raw: bytes


def _encode(address: _Address, method: str, path: str, headers: Headers, body: bytes) -> _Outgoing:
    if path and not path.startswith("/"):
        raise BadRequest(f"{address.url}: the path {path!r} does not begin with /")
    fixed: list[tuple[str, str]] = [("host", address.host_header), ("connection", "close")]
    if body or method not in ("GET", "HEAD"):
        fixed.append(("content-length", str(len(body))))
    connection = h11.Connection(our_role=h11.CLIENT)
    try:
        head = h11.Request(
            method=method,
            target=(address.prefix + path) or "/",
            headers=[*fixed, *headers],
        )
        raw = connection.send(head) or b""
        raw += (connection.send(h11.Data(data=body)) or b"") if body else b""
        raw += connection.send(h11.EndOfMessage()) or b""
    except (h11.LocalProtocolError, UnicodeEncodeError) as error:
        raise BadRequest(f"{address.url}: {error}") from None
    return _Outgoing(connection, raw)


async def _connect(address: _Address) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if address.socket_path:
            return await asyncio.open_unix_connection(address.socket_path)
        # In a thread, since it reads some hundred authorities; each time, so that renewed ones count at once.
        context = await asyncio.to_thread(ssl.create_default_context) if address.tls else None
        return await asyncio.open_connection(address.host, address.port, ssl=context)
    except TimeoutError:
        raise
    except ssl.SSLCertVerificationError as error:
        raise TlsFailed(f"{address.url}: its certificate is not accepted: {error.verify_message}") from error
    except ssl.SSLError as error:
        raise TlsFailed(f"{address.url}: it does not speak TLS as it should: {error.reason or error}") from error
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConnectFailed(f"{address.url}: {reason}") from error


async def _read(connection: h11.Connection, reader: asyncio.StreamReader, url: str) -> Response:
    head: h11.Response | None = None
    body = bytearray()
    ended = False
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            what = "the connection ended before the answer was complete" if ended else f"not HTTP: {error}"
            raise ProtocolError(f"{url}: {what}") from error
        if event is h11.NEED_DATA:
            data = await reader.read(READ_BYTES)
            ended = not data
            connection.receive_data(data)
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_BYTES_MAX:
                raise TooLarge(f"{url}: the answer is longer than {BODY_BYTES_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Response(
                status=head.status_code,
                headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers),
                body=bytes(body),
            )
        elif isinstance(event, h11.ConnectionClosed):
            raise ProtocolError(f"{url}: the connection was closed without an answer")
