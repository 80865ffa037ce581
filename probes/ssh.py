"""Is a host reachable over SSH? TCP, handshake and login, over connections that are kept (DESIGN §9, R9).

No shell, no command, no channel is ever opened on a host: a kept connection is asked by a global request that every
server must answer (RFC 4254, 4), as ssh's own keepalive does. A connection that does not answer is given up and made
anew within the same look, so that only a host that cannot be reached *now* is called so. It is also made anew once an
hour: a kept one proves the login of then, and would outlive the listening sshd or a revoked key.

Host keys are strict: one that is unknown or has changed is a failure of its own, and known_hosts is never written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import AsyncIterator, Callable

import asyncssh
import msgspec

from probes import ssh_dial
from probes.fleet_hosts import PORT, Host
from probes.ssh_trust import Failed, Login, Trust, TrustFiles, agent_keys
from supervisor import clock
from supervisor.incidents.readings import Unavailable

HANDSHAKES_MAX = 10  # at once: each costs some ms of CPU here
HANDSHAKE_TURN_S = 0.1  # whoever takes longer waits for the network, and makes room
KEPT_SHARE = 0.4  # of the time a look has: what a kept connection may take before it is made anew
RENEW_S = 3600.0
KEEPALIVE_S = 60.0  # keeps the way through firewalls open, and tells of a host that is gone between two looks
KEEPALIVES_MAX = 2
# After the kinds that known_hosts has of a host: one that changed its key's kind is to say so, not to fail unexplained.
HOST_KEY_KINDS = "+ssh-ed25519,ecdsa-sha2-nistp*,rsa-sha2-*"
DESCRIPTORS = 65_536  # wished for
DESCRIPTORS_LEFT = 512  # for everything else

asyncssh.set_log_level(logging.WARNING)  # a line for each connection otherwise


class Reached(msgspec.Struct, frozen=True):
    latency_ms: float
    kept: bool


class Busy(Failed):
    """The host has answered, but we had no time for it."""

    def __init__(self, host: Host) -> None:
        text = f"{host.address} port {host.port} answers, but too many logins were under way"
        super().__init__(Unavailable.ERROR, text)


class _Client(asyncssh.SSHClient):
    """What is known of one connection. `greeting`: how the server's first word begins. `slow_by_us`: when its handshake
    began, what was left of the time said more about us than about the host."""

    def __init__(self, lost: Callable[[], None], greeting: bytes, *, slow_by_us: bool) -> None:
        self._lost = lost
        self.slow_by_us = slow_by_us
        self.stranger = "" if b"SSH-".startswith(greeting[:4]) else repr(greeting)[1:]
        self.offered: asyncssh.SSHKey | None = None  # the host's key, when it was not as known
        self.logging_in = False
        self.agent_note = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        self.offered = key
        return False

    def begin_auth(self, username: str) -> None:
        del username
        self.logging_in = True

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._lost()


class _Kept(msgspec.Struct, eq=False, frozen=True):
    connection: asyncssh.SSHClientConnection
    client: _Client
    host: Host
    made_s: float


class Connections:
    """At most one kept connection per name. `on_lost(name)`: one that was not in use has ended by itself."""

    def __init__(self, login: Login, on_lost: Callable[[str], None]) -> None:
        self._files = TrustFiles(login)
        self._on_lost = on_lost
        self._kept: dict[str, _Kept] = {}
        self._turns = asyncio.Semaphore(HANDSHAKES_MAX)
        self._closed = False
        self._kept_max = _descriptors() - DESCRIPTORS_LEFT

    async def reach(self, name: str, host: Host, within_s: float) -> Reached:
        """Raises Failed. Within `within_s` seconds, give or take a turn of the loop."""
        began_s = clock.monotonic_s()
        kept = self._kept.pop(name, None)
        if kept is not None and (kept.host != host or began_s - kept.made_s > RENEW_S):
            kept.connection.abort()
            kept = None
        if kept is not None and await self._answers(name, kept, within_s * KEPT_SHARE):
            self._keep(name, kept)
            return Reached((clock.monotonic_s() - began_s) * 1000, kept=True)
        made_s = clock.monotonic_s()
        connection, client = await self._connect(name, host, began_s + within_s)
        self._keep(name, _Kept(connection, client, host, made_s))
        return Reached((clock.monotonic_s() - made_s) * 1000, kept=False)

    def drop(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            kept.connection.abort()

    def close(self) -> None:
        """Ends all, and what is still under way when it comes."""
        self._closed = True
        for name in list(self._kept):
            self.drop(name)

    def _keep(self, name: str, kept: _Kept) -> None:
        self.drop(name)
        if self._closed or len(self._kept) >= self._kept_max:
            kept.connection.abort()
        elif not kept.connection.is_closed():
            self._kept[name] = kept

    def _lost(self, name: str, client: _Client) -> None:
        kept = self._kept.get(name)
        if kept is not None and kept.client is client:
            del self._kept[name]
            self._on_lost(name)

    async def _answers(self, name: str, kept: _Kept, within_s: float) -> bool:
        """One round trip. A connection that does not answer is given up; one whose reader was cancelled is kept."""
        connection = kept.connection
        try:
            async with asyncio.timeout(within_s):
                # asyncssh has no public call for it. Any answer will do, also "I know no such request".
                await connection._make_global_request(b"keepalive@openssh.com")
                await asyncio.sleep(0)  # the connection's end "answers" as well, and is complete a turn later
        except TimeoutError:
            connection.abort()
            return False
        except asyncio.CancelledError:
            self._keep(name, kept)
            raise
        return not connection.is_closed()

    async def _connect(self, name: str, host: Host, end_s: float) -> tuple[asyncssh.SSHClientConnection, _Client]:
        trust = await self._trust(end_s)
        peer = await ssh_dial.dial(host, end_s)
        try:
            greeting = await ssh_dial.first_word(peer, host, end_s)
            greeted_s = clock.monotonic_s()
            async with self._turn(host, end_s):
                began_s = clock.monotonic_s()
                slow_by_us = began_s - greeted_s > end_s - began_s
                client = _Client(lambda: self._lost(name, client), greeting, slow_by_us=slow_by_us)
                connection = await _handshake(client, host, trust, peer, end_s - began_s)
        except BaseException:
            peer.close()
            raise
        return connection, client

    async def _trust(self, end_s: float) -> Trust:
        try:
            async with asyncio.timeout(end_s - clock.monotonic_s()):
                return await self._files.load()
        except TimeoutError:
            raise Failed(Unavailable.ERROR, "known_hosts and keys cannot be read in time: a dead mount?") from None

    @contextlib.asynccontextmanager
    async def _turn(self, host: Host, end_s: float) -> AsyncIterator[None]:
        """A turn at the CPU. It ends with the block, or earlier for one that waits for its network."""
        try:
            async with asyncio.timeout(end_s - clock.monotonic_s()):
                await self._turns.acquire()
        except TimeoutError:
            raise Busy(host) from None
        turn = asyncio.get_running_loop().call_later(HANDSHAKE_TURN_S, self._turns.release)
        try:
            yield
        finally:
            if turn.when() > asyncio.get_running_loop().time():
                turn.cancel()
                self._turns.release()


async def _handshake(
    client: _Client, host: Host, trust: Trust, peer: socket.socket, within_s: float
) -> asyncssh.SSHClientConnection:
    """Raises Failed."""
    user = host.user or trust.user
    where = f"{host.address} port {host.port}"
    try:
        async with asyncio.timeout(within_s), agent_keys(trust.agent) as (agents, client.agent_note):
            return await asyncssh.connect(
                host.address,
                host.port,
                sock=peer,
                client_factory=lambda: client,
                config=None,
                username=user,
                known_hosts=trust.known_hosts,
                server_host_key_algs=HOST_KEY_KINDS,
                client_keys=[*agents, *trust.keys] or None,  # an empty list would stand for the usual ones
                agent_path=None,
                preferred_auth="publickey",
                gss_auth=False,
                gss_kex=False,
                x509_trusted_certs=None,
                x509_trusted_cert_paths=[],
                compression_algs=None,
                keepalive_interval=KEEPALIVE_S,
                keepalive_count_max=KEEPALIVES_MAX,
                login_timeout=None,
                connect_timeout=None,
            )
    except TimeoutError:
        raise _too_late(client, host, trust) from None
    except asyncssh.DisconnectError as error:
        raise _refusal(error, client, host, trust) from error
    except OSError as error:
        raise ssh_dial.failed(error, host) from error
    except Exception as error:  # asyncssh hands on whatever a server made it raise
        raise Failed(Unavailable.BAD_DATA, f"{where} cannot be dealt with: {type(error).__name__}: {error}") from error


def _too_late(client: _Client, host: Host, trust: Trust) -> Failed:
    where = f"{host.address} port {host.port}"
    if client.stranger:
        return Failed(Unavailable.BAD_DATA, f"{where} does not speak SSH: it says {client.stranger}")
    if client.slow_by_us:
        return Busy(host)
    what = f"the login of {host.user or trust.user}" if client.logging_in else "the handshake"
    return Failed(Unavailable.TIMEOUT, f"{where} answers, but {what} did not end in time")


def _refusal(error: asyncssh.DisconnectError, client: _Client, host: Host, trust: Trust) -> Failed:
    """Why a handshake or login failed, and what to do."""
    where = f"{host.address} port {host.port}"
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return _host_key(client.offered, error.reason, host, trust)
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return Failed(Unavailable.ERROR, f"{where}: {error.reason}")
    if client.stranger:
        return Failed(Unavailable.BAD_DATA, f"{where} does not speak SSH: it says {client.stranger}")
    if isinstance(error, asyncssh.ConnectionLost):
        when = "login" if client.logging_in else "handshake"
        return Failed(Unavailable.REFUSED, f"{where} closed the connection during the {when}")
    if client.logging_in:
        user = host.user or trust.user
        notes = "".join(f"; {note}" for note in (client.agent_note, *trust.notes) if note)
        tried = f"keys from files: {len(trust.keys)}" + (", and the agent's" if trust.agent else "")
        return Failed(Unavailable.AUTHENTICATION, f"{where} lets {user} not in: {error.reason} ({tried}{notes})")
    if isinstance(error, asyncssh.ProtocolError | asyncssh.ProtocolNotSupported):
        return Failed(Unavailable.BAD_DATA, f"{where} does not speak SSH: {error.reason}")
    return Failed(Unavailable.REFUSED, f"{where} refused the connection: {error.reason}")


def _host_key(offered: asyncssh.SSHKey | None, reason: str, host: Host, trust: Trust) -> Failed:
    """R9: never "reachable". The commands are for a person who has compared the key with the host's own."""
    entry = host.address if host.port == PORT else f"[{host.address}]:{host.port}"
    scan = f"ssh-keyscan -p {host.port} {host.address} >> {trust.known_hosts_path}"
    port = None if host.port == PORT else host.port
    keys, authorities, *_ = trust.known_hosts.match(host.address, "", port)
    shows = f"{offered.get_algorithm()} {offered.get_fingerprint()}" if offered is not None else reason
    if "revoked" in reason:
        return Failed(Unavailable.HOST_KEY, f"the host key of {entry} is revoked in {trust.known_hosts_path}")
    if keys or authorities:
        text = f"THE HOST KEY OF {entry} HAS CHANGED, which may be an attack ({shows}; {trust.known_hosts_path} knows "
        text += f"another). Only if it was reinstalled: ssh-keygen -R '{entry}' -f {trust.known_hosts_path}; {scan}"
    else:
        text = f"the host key of {entry} is unknown ({shows}). Compare it with the host's own, then: {scan}"
    return Failed(Unavailable.HOST_KEY, text)


def _descriptors() -> int:
    """How many this process may have, raised as far as it goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wish = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wish:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wish, hard))
        return wish
    return soft if soft != resource.RLIM_INFINITY else DESCRIPTORS
