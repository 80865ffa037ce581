"""What a login over SSH needs from files: which host keys are known, and the keys that we log in with.

Read in a thread, again when a file has changed. Nothing is ever written, nobody is ever asked for a passphrase, and
`~/.ssh/config` is not read: what stands there may start programs.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future

import asyncssh
import msgspec

from supervisor.aside import Signature, aside, read_file, signature
from supervisor.incidents.readings import Unavailable

BYTES_MAX = 64 * 1024 * 1024
AGENT_WITHIN_S = 1.0
USUAL_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")

Key = asyncssh.SSHKey | tuple[asyncssh.SSHKey, asyncssh.SSHCertificate]


class Login(msgspec.Struct, frozen=True):
    """Who logs in, and by which files; as configured, "" for the defaults."""

    user: str = ""
    identity_file: str = ""
    known_hosts: str = ""


class Failed(Exception):
    """A host was not reached, or could not even be tried; becomes the reading's reason (R9)."""

    def __init__(self, reason: Unavailable, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Trust(msgspec.Struct, frozen=True):
    """The contents of the files. `agent`: the socket of the agent to be asked first, "" for none."""

    user: str
    known_hosts_path: str
    known_hosts: asyncssh.SSHKnownHosts
    keys: tuple[Key, ...]
    agent: str = ""
    notes: tuple[str, ...] = ()  # what could not be used


class TrustFiles:
    """`load` gives the newest contents; one thread at a time looks."""

    def __init__(self, login: Login) -> None:
        home = os.path.expanduser("~/.ssh")
        self._login = login
        self._known_hosts = login.known_hosts or f"{home}/known_hosts"
        self._identities = (login.identity_file,) if login.identity_file else tuple(f"{home}/{k}" for k in USUAL_KEYS)
        self._signatures: tuple[Signature | None, ...] = ()
        self._trust: Trust | None = None
        self._loading: Future[Trust] | None = None

    async def load(self) -> Trust:
        """Raises Failed for what is about us, not about a host."""
        if self._loading is None or self._loading.done():
            self._loading = aside(self._load, "ssh files")
        try:
            return await asyncio.shield(asyncio.wrap_future(self._loading))
        except PermissionError as error:
            raise Failed(Unavailable.PERMISSION, str(error)) from error
        except (OSError, ValueError) as error:
            raise Failed(Unavailable.ERROR, str(error)) from error

    def _load(self) -> Trust:
        paths = (self._known_hosts, *self._identities, *(f"{path}-cert.pub" for path in self._identities))
        signatures = tuple(_signature(path) for path in paths)
        if self._trust is None or signatures != self._signatures:
            self._trust, self._signatures = self._read(), signatures
        return self._trust

    def _read(self) -> Trust:
        keys: list[Key] = []
        notes = []
        for path in self._identities:
            try:
                keys.append(_identity(path))
            except FileNotFoundError as error:
                if self._login.identity_file:
                    raise Failed(Unavailable.MISSING, f"identity_file {path} does not exist") from error
            except Failed as error:
                if self._login.identity_file:
                    raise
                notes.append(str(error))
        return Trust(
            self._login.user or _who_we_are(),
            self._known_hosts,
            _known_hosts(self._known_hosts),
            tuple(keys),
            "" if self._login.identity_file else os.environ.get("SSH_AUTH_SOCK", ""),
            tuple(notes),
        )


@contextlib.asynccontextmanager
async def agent_keys(path: str) -> AsyncIterator[tuple[list[asyncssh.SSHKeyPair], str]]:
    """The keys of the agent at this socket, good for as long as the block lasts, and why there are none. An agent that
    is not there, or hangs, costs the login nothing but its keys: others are there to be tried."""
    if not path:
        yield [], ""
        return
    agent, keys, note = None, [], ""
    try:
        async with asyncio.timeout(AGENT_WITHIN_S):
            agent = await asyncssh.connect_agent(path)
            keys = list(await agent.get_keys())
    except TimeoutError:
        note = f"the agent at {path} does not answer"
    except (OSError, ValueError) as error:
        note = f"the agent at {path} cannot be used: {error}"
    try:
        yield keys, note
    finally:
        if agent is not None:
            agent.close()


def _who_we_are() -> str:
    try:
        return getpass.getuser()
    except KeyError as error:
        raise Failed(Unavailable.ERROR, "nobody knows the name of who runs healctl: set user in [fleet]") from error


def _signature(path: str) -> Signature | None:
    try:
        return signature(path)
    except OSError:  # whatever keeps us from it will be told by reading it
        return None


def _identity(path: str) -> Key:
    _, content = read_file(path, BYTES_MAX)
    try:
        key = asyncssh.import_private_key(content)
    except asyncssh.KeyImportError as error:
        if "passphrase" in str(error).lower():
            text = f"{path} has a passphrase, and nobody is asked for one: take a key without, or an agent"
            raise Failed(Unavailable.AUTHENTICATION, text) from error
        raise Failed(Unavailable.AUTHENTICATION, f"{path} holds no private key: {error}") from error
    try:
        return key, asyncssh.import_certificate(read_file(f"{path}-cert.pub", BYTES_MAX)[1])
    except FileNotFoundError:
        return key


def _known_hosts(path: str) -> asyncssh.SSHKnownHosts:
    """As ssh reads it: a line that is none is passed over, and without the file no host is known."""
    known = asyncssh.SSHKnownHosts()
    try:
        _, content = read_file(path, BYTES_MAX)
    except FileNotFoundError:
        return known
    for line in content.decode(errors="replace").splitlines():
        try:
            known.load(line)
        except ValueError:
            continue
    return known
