"""Does a service answer at its address? One check per scheme, each with what it proves.

A connect alone proves nothing: the kernel accepts connections for a stopped process until its backlog is full. So:

* `http://host:port/path`: a complete HTTP answer with a status below 500. Proves that it serves.
* `jsonrpc+tcp://host:port`, `jsonrpc+unix:/path`: a `version` request is answered by a JSON-RPC object with its id (an
  error object too). Proves that it serves; for signal-cli's daemon and its like.
* `tcp://host:port`: for an address of this machine, that the server *accepted* our connection (the kernel shows
  whether it did), so its accept loop ran; for another machine only that its kernel holds a listening socket.
* `unix:/path`: that a listening socket with room is bound there and the process that made it is not stopped. A process
  that hangs in state S is not found out: use `jsonrpc+unix:` where that protocol is spoken.

Nothing here raises for what a server does, only for what keeps *us* from asking (no permission, no descriptors).
Nothing that a service sends is kept or acted on.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec

from supervisor import http, proc
from supervisor.errors import ConfigError
from supervisor.incidents.readings import Endpoint
from supervisor.jsonlines import open_stream

LINES_MAX = 100  # of other traffic before the answer
LINE_BYTES_MAX = 1024 * 1024
ACCEPT_LOOK_S = (0.001, 0.005, 0.02, 0.1)  # growing gaps between looks, the last one repeated
VERSION_REQUEST = b'{"jsonrpc":"2.0","id":"healctl","method":"version"}\n'
_ABOUT_US = frozenset({errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Answer(msgspec.Struct, frozen=True):
    status: Endpoint
    detail: str = ""


class Address(msgspec.Struct, frozen=True):
    """`text` as configured. `path`: of a UNIX socket, or what is asked for over HTTP; else `host` and `port`."""

    scheme: str
    text: str
    host: str = ""
    port: int = 0
    path: str = ""


class _Answer(msgspec.Struct):
    """What makes a JSON-RPC answer one: either of the two, and our id."""

    id: str | int | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Answer)


def parse(text: str) -> Address:
    """Raises ConfigError when no check can be made of `text`."""
    scheme, _, rest = text.partition(":")
    if scheme in ("unix", "jsonrpc+unix"):
        if rest.startswith("/") and "\0" not in rest:
            return Address(scheme, text, path=rest)
        raise ConfigError(f"endpoint {text!r}: expected {scheme}:/absolute/path")
    if scheme not in ("http", "tcp", "jsonrpc+tcp"):
        raise ConfigError(
            f"endpoint {text!r}: unknown scheme {scheme!r}",
            "use http://, tcp://, unix:, jsonrpc+tcp:// or jsonrpc+unix:",
        )
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port or (80 if scheme == "http" else 0)
    except ValueError as error:
        raise ConfigError(f"endpoint {text!r}: {error}") from error
    if not host or not port or parts.username is not None:
        raise ConfigError(f"endpoint {text!r}: expected {scheme}://host:port")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "") if scheme == "http" else ""
    return Address(scheme, text, host=host, port=port, path=path)


async def check(address: Address, timeout_s: float) -> Answer:
    """One round trip. Raises OSError or ValueError when we are the ones who cannot ask."""
    try:
        async with asyncio.timeout(timeout_s):
            return await _CHECKS[address.scheme](address, timeout_s)
    except TimeoutError:
        return Answer(Endpoint.TIMEOUT, f"{address.text}: no answer within {timeout_s:g} s")


async def _http(address: Address, timeout_s: float) -> Answer:
    host = f"[{address.host}]" if ":" in address.host else address.host
    try:
        answer = await http.request(f"http://{host}:{address.port}", path=address.path, timeout_s=timeout_s)
    except http.BadRequest as error:
        raise ValueError(str(error)) from error
    except http.ConnectFailed as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _ABOUT_US:
            raise error.__cause__ from error
        return Answer(Endpoint.REFUSED, str(error))
    except http.TimedOut as error:
        return Answer(Endpoint.TIMEOUT, str(error))
    except http.HttpError as error:
        return Answer(Endpoint.BAD_ANSWER, str(error))
    if answer.status >= 500:
        return Answer(Endpoint.BAD_ANSWER, f"{address.text}: status {answer.status}")
    return Answer(Endpoint.OK)


Talk = Callable[[Address, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Answer]]


async def _connected(address: Address, talk: Talk) -> Answer:
    """Connects, talks, and drops the connection. A failed connect is a refusal, a later failure a bad answer."""
    try:
        reader, writer = await open_stream(address.host, address.port, address.path, LINE_BYTES_MAX)
    except TimeoutError:
        raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name that cannot be encoded
        if isinstance(error, OSError) and error.errno in _ABOUT_US:
            raise
        return Answer(Endpoint.REFUSED, f"{address.text}: {_words(error)}")
    try:
        return await talk(address, reader, writer)
    except TimeoutError:
        raise
    except OSError as error:
        return Answer(Endpoint.BAD_ANSWER, f"{address.text}: the connection broke: {_words(error)}")
    finally:
        writer.transport.abort()


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


# --- what is said on the connection ----------------------------------------------------------------------------------


async def _version(address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """One JSON object a line; answers come out of order, and notifications between them."""
    writer.write(VERSION_REQUEST)
    await writer.drain()
    for _ in range(LINES_MAX):
        try:
            line = await reader.readline()
        except ValueError:  # longer than the reader's limit
            return Answer(Endpoint.BAD_ANSWER, f"{address.text}: a line of more than {LINE_BYTES_MAX} bytes")
        if not line.endswith(b"\n"):
            return Answer(Endpoint.BAD_ANSWER, f"{address.text}: the connection was closed without an answer")
        try:
            answer = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Answer(Endpoint.BAD_ANSWER, f"{address.text}: answered {line[:60]!r}, which is not JSON-RPC")
        if answer.id == "healctl" and (bytes(answer.result) or bytes(answer.error)):
            return Answer(Endpoint.OK)
    return Answer(Endpoint.BAD_ANSWER, f"{address.text}: {LINES_MAX} lines, and none is the answer")


async def _accepted(address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """Looks until the kernel shows our connection as accepted, or the server ended it, or the deadline comes."""
    ours: int = writer.get_extra_info("sockname")[1]
    theirs: int = writer.get_extra_info("peername")[1]
    if writer.get_extra_info("sockname") == writer.get_extra_info("peername"):  # TCP can meet itself on a free port
        return Answer(Endpoint.REFUSED, f"{address.text}: nobody listens")
    look = 0
    while not reader.at_eof() and _in_backlog(ours, theirs):
        await asyncio.sleep(ACCEPT_LOOK_S[min(look, len(ACCEPT_LOOK_S) - 1)])
        look += 1
    return Answer(Endpoint.OK)


def _in_backlog(ours: int, theirs: int) -> bool:
    """Does the server's end of this connection still wait to be accepted? It then has no inode (proc(5), net/tcp)."""
    end = f":{theirs:04X}".encode(), f":{ours:04X}".encode()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(name, "rb") as table:
                for line in table:
                    fields = line.split(None, 10)
                    if fields[1].endswith(end[0]) and fields[2].endswith(end[1]):
                        return fields[9] == b"0" and fields[3] == b"01"
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EACCES):
                raise
    return False  # another machine's, or closed already


async def _maker_runs(address: Address, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """The kernel knows who called listen(2) on a UNIX socket."""
    del reader
    raw = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size
    )  # fmt: skip
    pid: int = _PEER_CREDENTIALS.unpack(raw)[0]
    maker = proc.stat(pid) if pid > 0 and pid != os.getpid() else None
    if maker is not None and maker.state == "T":
        return Answer(
            Endpoint.TIMEOUT, f"{address.text}: process {pid} ({maker.name}), which listens there, is stopped"
        )
    return Answer(Endpoint.OK)


async def _tcp(address: Address, timeout_s: float) -> Answer:
    del timeout_s
    return await _connected(address, _accepted)


async def _unix(address: Address, timeout_s: float) -> Answer:
    del timeout_s
    return await _connected(address, _maker_runs)


async def _jsonrpc(address: Address, timeout_s: float) -> Answer:
    del timeout_s
    return await _connected(address, _version)


_CHECKS: dict[str, Callable[[Address, float], Awaitable[Answer]]] = {
    "http": _http,
    "tcp": _tcp,
    "unix": _unix,
    "jsonrpc+tcp": _jsonrpc,
    "jsonrpc+unix": _jsonrpc,
}
