"""Which hosts there are: those of the configuration, and those of a hosts file that others write (SITE.md).

The file is read in a thread, again when it has changed. One that is missing or malformed changes nothing: the last
good list stands, and the log says so once. Nothing is ever written.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import msgspec

from supervisor.aside import Signature, aside, read_file, signature
from supervisor.config import FleetHost
from supervisor.incidents.readings import Unavailable

log = logging.getLogger(__name__)

BYTES_MAX = 16 * 1024 * 1024
HOSTS_MAX = 20_000
PROBLEMS_NAMED_MAX = 10
PORT = 22
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")  # of a target, as the configuration has it
_HOST = re.compile(r"[A-Za-z0-9_:][A-Za-z0-9_.:%-]{0,254}")  # a name, an IPv4 or an IPv6 address
_USER = re.compile(r"[^\s:@'\"]{1,128}")


class Host(msgspec.Struct, frozen=True):
    """Where a host is; `user` "": the configured one."""

    address: str
    port: int = PORT
    user: str = ""


class Listed(msgspec.Struct, frozen=True):
    """What a hosts file says, and what of it cannot be used."""

    hosts: dict[str, Host]
    problems: tuple[str, ...] = ()


def parse_host(text: str, port: int = PORT) -> Host:
    """`host`, `user@host`, `host:port`, `[ipv6]:port`, a bare IPv6 address. Raises ValueError."""
    user, _, rest = text.strip().rpartition("@")
    if rest.startswith("["):
        address, _, tail = rest[1:].partition("]")
        given = tail.removeprefix(":") if tail.startswith(":") else tail and "?"
    elif rest.count(":") == 1:
        address, _, given = rest.partition(":")
        given = given or "?"
    else:
        address, given = rest, ""
    if given:
        if not (given.isascii() and given.isdigit() and 0 < int(given) < 65536):
            raise ValueError(f"{text!r}: no port number after the host")
        port = int(given)
    if not _HOST.fullmatch(address):
        raise ValueError(f"{text!r} is no host, user@host or user@host:port")
    if user and (not _USER.fullmatch(user) or user.startswith("-")):
        raise ValueError(f"{text!r}: no user name before the @")
    return Host(address, port, user)


def parse_list(content: bytes) -> Listed:
    """`{"hosts": [{"name", "host"}]}` or the bare list; `address` and `port` are taken as well, other keys left alone.

    Raises ValueError when it is no such list; an entry that cannot be used is a problem, and skipped.
    """
    try:
        found = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if isinstance(found, dict):
        found = found.get("hosts")
    if not isinstance(found, list):
        raise ValueError('it is neither {"hosts": [...]} nor a list')
    hosts: dict[str, Host] = {}
    problems: list[str] = []
    for number, entry in enumerate(found, 1):
        try:
            name, host = _entry(entry)
            if name in hosts:
                raise ValueError(f"a second host of the name {name!r}")
            if len(hosts) >= HOSTS_MAX:
                raise ValueError(f"more than {HOSTS_MAX} hosts; the rest is not watched")
        except ValueError as error:
            problems.append(f"entry {number}: {error}")
            if len(hosts) >= HOSTS_MAX:
                break
        else:
            hosts[name] = host
    return Listed(hosts, tuple(problems))


def _entry(entry: object) -> tuple[str, Host]:
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    name = entry.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        shown = repr(name)[:80]
        raise ValueError(f"name {shown}, expected a-z, 0-9, '.', '_' and '-', at most 64 characters")
    text = entry.get("host", entry.get("address"))
    if not isinstance(text, str):
        raise ValueError(f'{name}: "host" is missing or no text')
    port = entry.get("port", PORT)
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(f"{name}: port {str(port)[:20]!r}, expected 1 to 65535")
    return name, parse_host(text, port)


def of_tables(tables: Mapping[str, FleetHost]) -> dict[str, Host]:
    """The hosts of the configuration. An address that is none stays as it is, so that its reading says so."""
    hosts = {}
    for name, table in tables.items():
        try:
            hosts[name] = parse_host(table.address, table.port)
        except ValueError:
            hosts[name] = Host(table.address, table.port)
    return hosts


class HostsFile:
    """The file's last good list. `look` reads it again when it has changed, one thread at a time, and then calls
    `changed` from that thread."""

    def __init__(self, path: str, changed: Callable[[], None]) -> None:
        self.path = path
        self.hosts: dict[str, Host] | None = None  # None: never read
        self.reason = Unavailable.MISSING  # why not, in the readings' terms
        self.trouble = "it has not been read yet"  # "": it is as we know it
        self._changed = changed
        self._signature: Signature | None = None
        self._told: tuple[str, ...] = ()
        self._looking: Future[None] | None = None

    def look(self) -> Future[None]:
        """Is it as before? Never raises, neither here nor in the future."""
        if self._looking is None or self._looking.done():
            self._looking = aside(self._look, "hosts file")
        return self._looking

    def _look(self) -> None:
        try:
            if signature(self.path) == self._signature:
                return
            self._signature, content = read_file(self.path, BYTES_MAX)
            listed = parse_list(content)
        except OSError as error:
            self._signature = None
            self._not_read(error)
            return
        except ValueError as error:  # no list, no JSON, no regular file
            self._not_read(error)
            return
        self.trouble = ""
        self._tell(listed.problems)
        if listed.hosts != self.hosts:
            self.hosts = listed.hosts
            self._changed()

    def _not_read(self, error: Exception) -> None:
        if isinstance(error, FileNotFoundError):
            self.reason = Unavailable.MISSING
        elif isinstance(error, PermissionError):
            self.reason = Unavailable.PERMISSION
        else:
            self.reason = Unavailable.ERROR if isinstance(error, OSError) else Unavailable.BAD_DATA
        self.trouble = str(error)
        kept = "no host of it is watched" if self.hosts is None else f"its last {len(self.hosts)} hosts stay watched"
        self._tell((f"it cannot be used: {error}; {kept}",))

    def _tell(self, problems: tuple[str, ...]) -> None:
        """What is wrong, once."""
        if problems == self._told:
            return
        self._told = problems
        for problem in problems[:PROBLEMS_NAMED_MAX]:
            log.warning("hosts file %s: %s", self.path, problem)
        if len(problems) > PROBLEMS_NAMED_MAX:
            log.warning("hosts file %s: and %d problems more", self.path, len(problems) - PROBLEMS_NAMED_MAX)
