"""The way to a host's first word: its name resolved, TCP, and the SSH server's greeting, each failure with its reason.

Apart from the handshake, because a host that hangs here costs nothing and must keep nobody from a turn (R9).
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from concurrent.futures import Future

from probes.fleet_hosts import Host
from probes.ssh_trust import Failed
from supervisor import clock
from supervisor.aside import aside
from supervisor.incidents.readings import Unavailable

LOOKUPS_MAX = 32  # names being resolved, one thread each: a resolver that hangs holds no others
WORD_BYTES = 40
ADDRESSES_MAX = 4  # of one name that are tried, one after another

Place = tuple[int, tuple[object, ...]]  # family, and what connect(2) takes

_CLOSED = frozenset({errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE})
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ENONET})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})  # by a firewall or a route of our own machine
_lookups: dict[str, Future[list[Place]]] = {}


def failed(error: OSError, host: Host) -> Failed:
    """What the kernel said, in the readings' terms; anything else than these is about us."""
    where = f"{host.address} port {host.port}"
    if error.errno in _CLOSED:
        word = "refuses connections" if error.errno == errno.ECONNREFUSED else "closed the connection"
        return Failed(Unavailable.REFUSED, f"{where} {word}")
    if error.errno in _NO_WAY:
        return Failed(Unavailable.UNREACHABLE, f"no way to {where}: {error.strerror}")
    if error.errno == errno.ETIMEDOUT:
        return Failed(Unavailable.TIMEOUT, f"{where} does not answer")
    if error.errno in _FORBIDDEN:
        return Failed(Unavailable.PERMISSION, f"this machine forbids the connection to {where}: {error.strerror}")
    return Failed(Unavailable.ERROR, f"{where} cannot be tried: {error.strerror or error}")


async def dial(host: Host, end_s: float) -> socket.socket:
    """A connected socket. Raises Failed, at the latest at `end_s` (monotonic seconds)."""
    places = (await _resolve(host, end_s))[:ADDRESSES_MAX]
    last = Failed(Unavailable.DNS, f"the name {host.address} has no address")
    for number, (family, place) in enumerate(places):
        share_s = (end_s - clock.monotonic_s()) / (len(places) - number)
        try:
            async with asyncio.timeout(share_s):
                return await _connect(family, place)
        except TimeoutError:  # also what the kernel calls so (ETIMEDOUT)
            last = Failed(Unavailable.TIMEOUT, f"{host.address} port {host.port} does not answer")
        except OSError as error:
            last = failed(error, host)
    raise last


async def _connect(family: int, place: tuple[object, ...]) -> socket.socket:
    peer = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        await asyncio.get_running_loop().sock_connect(peer, place)
    except BaseException:
        peer.close()
        raise
    return peer


async def _resolve(host: Host, end_s: float) -> list[Place]:
    address = _numeric(host)
    if address is not None:
        return [address]
    key = f"{host.address}:{host.port}"
    lookup = _lookups.get(key)
    if lookup is None:
        if len(_lookups) >= LOOKUPS_MAX:
            raise Failed(Unavailable.ERROR, f"{LOOKUPS_MAX} names are being resolved already; {host.address} waits")
        lookup = _lookups[key] = aside(lambda: _look_up(host), "resolver")
        loop = asyncio.get_running_loop()
        lookup.add_done_callback(lambda _: loop.call_soon_threadsafe(_lookups.pop, key, None))
    hint = "; ~/.ssh/config is not read" if "." not in host.address else ""
    try:
        async with asyncio.timeout(end_s - clock.monotonic_s()):
            return await asyncio.shield(asyncio.wrap_future(lookup))
    except TimeoutError:
        raise Failed(Unavailable.DNS, f"the name {host.address} is not resolved in time{hint}") from None
    except (socket.gaierror, ValueError) as error:  # ValueError: no name at all
        word = error.strerror if isinstance(error, socket.gaierror) else str(error)
        raise Failed(Unavailable.DNS, f"the name {host.address} cannot be resolved: {word}{hint}") from error
    except OSError as error:
        raise failed(error, host) from error


def _numeric(host: Host) -> Place | None:
    text, _, scope = host.address.partition("%")
    try:
        version = ipaddress.ip_address(text).version
        if version == 4:
            return socket.AF_INET, (text, host.port)
        return socket.AF_INET6, (text, host.port, 0, socket.if_nametoindex(scope) if scope else 0)
    except (ValueError, OSError):  # a name; or an interface that is not there, which the resolver says
        return None


def _look_up(host: Host) -> list[Place]:
    found = socket.getaddrinfo(host.address, host.port, type=socket.SOCK_STREAM)
    return [(int(family), tuple(place)) for family, _, _, _, place in found]


async def first_word(peer: socket.socket, host: Host, end_s: float) -> bytes:
    """Waits until the server says anything, and leaves it unread: what it begins with. A hung one still accepts, its
    kernel does. Raises Failed."""
    loop = asyncio.get_running_loop()
    spoken = asyncio.Event()
    loop.add_reader(peer, spoken.set)
    try:
        async with asyncio.timeout(end_s - clock.monotonic_s()):
            await spoken.wait()
    except TimeoutError:
        text = f"{host.address} port {host.port} accepts connections, but says nothing"
        raise Failed(Unavailable.TIMEOUT, text) from None
    finally:
        loop.remove_reader(peer)
    try:
        word = peer.recv(WORD_BYTES, socket.MSG_PEEK)
    except OSError as error:
        raise failed(error, host) from error
    if not word:
        raise failed(ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), host)
    return word
