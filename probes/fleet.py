"""The `fleet` family: can every host be reached over SSH? (FR-001, FR-002, R9)

Reached means TCP, handshake and login; how, stands in `probes.ssh`. The hosts are those of `[fleet.hosts]` and of the
hosts file, which is looked at again every few seconds; of one name, the configuration's counts.

It never runs anything on a host, never opens a shell there, never writes known_hosts and never asks for a passphrase.
Retrying is the runbook's business, not the probe's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import wait
from typing import Any

import msgspec

from probes.base import Began, Events, Probe, Refused, Source, begin, begin_outside
from probes.fleet_hosts import HOSTS_MAX, NAME, Host, HostsFile, of_tables
from probes.ssh import Busy, Connections
from probes.ssh_trust import Failed, Login
from supervisor import clock
from supervisor.config import Config
from supervisor.incidents.readings import FleetData, HealthReading, SourceReading, Unavailable

LIST = "hosts-file"
PREFIX = "fleet:"
UPSTREAM = "fleet.health"  # the source of the site's polling engine (SITE.md)
LOOK_S = 5.0  # at the hosts file
FIRST_LOOK_S = 1.0  # how long a start waits for the hosts file; a dead mount must not keep it longer
LOST_SOON_S = 0.05  # a connection was lost: with the polls, not before them, as all may be lost at once
BUSY_AGAIN_S = 2.0
REPLY_S = 0.25  # of the deadline is kept back, to answer within it on a busy machine


class FleetProbe(Probe):
    """Reads `fleet:NAME`."""

    family = "fleet"

    def __init__(self, config: Config) -> None:
        self._events: Events | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._file: HostsFile | None = None
        self._login = _login(config)
        self._connections = Connections(self._login, self._lost)
        self._hosts: dict[str, Host] = {}
        self._told: tuple[Source, ...] = ()
        self._told_lost: dict[str, float] = {}
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Connections to hosts that stay the same are kept, unless who logs in is another."""
        section = config.fleet
        self._interval_s, self._timeout_s = float(section.interval), float(section.timeout)
        if (login := _login(config)) != self._login:
            self._connections.close()
            self._login, self._connections = login, Connections(login, self._lost)
        self._tables = of_tables(section.hosts)
        if not section.hosts_file:
            self._file = None
        elif self._file is None or self._file.path != section.hosts_file:
            self._file = HostsFile(section.hosts_file, self._file_changed)
            if self._loop is None:  # in the loop nothing may wait for a disk
                wait([self._file.look()], FIRST_LOOK_S)
        self._gather()
        self._look_later(0.0)

    def sources(self) -> tuple[Source, ...]:
        # A list that nobody could read yet is a target itself: its hosts must not go unwatched unnoticed (R9).
        unread = self._file is not None and self._file.hosts is None
        return tuple(self._source(name) for name in (*self._hosts, *((LIST,) if unread else ())))

    def source(self, target_id: str) -> Source | None:
        name = target_id.removeprefix(PREFIX)
        return self._source(name) if target_id.startswith(PREFIX) and NAME.fullmatch(name) else None

    def _source(self, name: str) -> Source:
        interval_ms = round(self._interval_s * 1000)
        return Source(f"{PREFIX}{name}", interval_ms, interval_ms)

    def watch(self, events: Events) -> None:
        self._events, self._loop = events, asyncio.get_running_loop()
        self._look_later(0.0)

    def close(self) -> None:
        self._events = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._connections.close()

    # -- which hosts there are --

    def _look_later(self, in_s: float) -> None:
        """A thread looks at the hosts file, now and then; it never waits for the one before."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._loop is not None and self._events is not None and self._file is not None:
            self._timer = self._loop.call_later(in_s, self._look)

    def _look(self) -> None:
        if self._file is not None:
            self._file.look()
            self._look_later(min(LOOK_S, self._interval_s))

    def _file_changed(self) -> None:
        """From the thread that read it."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._gather)

    def _gather(self) -> None:
        before = self._hosts
        listed = self._file.hosts if self._file is not None else None
        self._hosts = {**(listed or {}), **self._tables}
        for name in before.keys() - self._hosts.keys():
            self._connections.drop(name)
            self._told_lost.pop(name, None)
        told, self._told = self._told, self.sources()
        if self._events is not None and told != self._told:
            self._events.sources_changed()

    # -- one reading --

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        source = self.source(target_id)
        if source is None:
            none = Source(target_id, round(self._interval_s * 1000), round(self._interval_s * 1000))
            return begin(none, self.family).cannot(Unavailable.ERROR, f"{target_id} is no host of a fleet")
        began = begin(source, self.family)
        name = target_id.removeprefix(PREFIX)
        host = self._hosts.get(name)
        if host is None:
            return self._not_listed(began)
        within_s = max(0.0, min(self._timeout_s, deadline_s - REPLY_S))
        try:
            reached = await self._connections.reach(name, host, within_s)
        except Failed as error:
            if isinstance(error, Busy) and self._events is not None:
                self._events.read_soon(target_id, BUSY_AGAIN_S)
            return began.cannot(error.reason, str(error))
        finally:
            if name not in self._hosts:  # it has gone meanwhile
                self._connections.drop(name)
        return began.tells(
            FleetData(
                host.address,
                host.port,
                latency_ms=round(reached.latency_ms, 3),
                kept=reached.kept,
                detail=self._doubt(),
            )
        )

    def _not_listed(self, began: Began) -> HealthReading:
        """R9: a list that nobody could read yet does not say that a host is not in it."""
        file = self._file
        if file is not None and file.hosts is None:
            return began.cannot(file.reason, f"the hosts file {file.path} cannot be used: {file.trouble}")
        return began.tells(FleetData("", 0, listed=False, detail=self._doubt()))

    def _doubt(self) -> str:
        if self._file is None or not self._file.trouble:
            return ""
        return f"by an earlier hosts file; {self._file.path} cannot be used now: {self._file.trouble}"

    def _lost(self, name: str) -> None:
        """A kept connection has ended: its host may be gone. Told once an interval, or a server that ends every idle
        connection would be asked without end."""
        now_s = clock.monotonic_s()
        if self._events is None or now_s - self._told_lost.get(name, -self._interval_s) < self._interval_s:
            return
        self._told_lost[name] = now_s
        self._events.read_soon(f"{PREFIX}{name}", LOST_SOON_S)

    # -- from outside --

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        """`fleet.health` with `{"hosts": [{"name", "reachable"}]}` or `{NAME: {"reachable"}}`, or `fleet:NAME` with
        `{"reachable"}`. Hosts that we do not watch are left out."""
        if not given.available:
            raise Refused(f"it says itself that nothing was seen: {given.error or 'without a reason'}")
        try:
            found = msgspec.json.decode(given.data_json)
        except (msgspec.DecodeError, RecursionError) as error:
            raise Refused(f"its data is no JSON: {error}") from error
        if given.source_id == UPSTREAM:
            told = _told(found)
        elif self.source(given.source_id) is not None:
            told = {given.source_id.removeprefix(PREFIX): _reachable(given.source_id, found)}
        else:
            raise Refused(f"readings of {given.source_id!r} are not taken from outside")
        readings = tuple(self._from_outside(given, name, entry) for name, entry in told.items() if name in self._hosts)
        if not readings:
            raise Refused("it speaks of no host that is watched")
        return readings

    def _from_outside(self, given: SourceReading, name: str, entry: Mapping[str, Any]) -> HealthReading:
        began, host = begin_outside(self._source(name), self.family, given), self._hosts[name]
        if entry["reachable"]:
            return began.tells(FleetData(host.address, host.port, detail=f"told by {given.source_id}"))
        error = entry.get("error")
        why = f": {error}" if isinstance(error, str) and error else ""
        return began.cannot(Unavailable.TIMEOUT, f"{given.source_id} says that it cannot be reached{why}")


def _login(config: Config) -> Login:
    return Login(config.fleet.user, config.fleet.identity_file, config.fleet.known_hosts)


def _told(found: object) -> dict[str, Mapping[str, Any]]:
    """What is said of each host. Raises Refused."""
    entries: list[tuple[object, object]]
    if isinstance(found, dict) and isinstance(found.get("hosts"), list):
        entries = [(entry.get("name") if isinstance(entry, dict) else None, entry) for entry in found["hosts"]]
    elif isinstance(found, dict):
        entries = list(found.items())
    else:
        raise Refused('its data is neither {"hosts": [...]} nor {NAME: {...}}')
    if len(entries) > HOSTS_MAX:
        raise Refused(f"it speaks of {len(entries)} hosts, at most {HOSTS_MAX} are taken")
    told: dict[str, Mapping[str, Any]] = {}
    for name, entry in entries:
        if not isinstance(name, str):
            raise Refused("a host without a name")
        if name in told:
            raise Refused(f"two hosts of the name {name!r}")
        told[name] = _reachable(name, entry)
    return told


def _reachable(name: str, entry: object) -> Mapping[str, Any]:
    if not isinstance(entry, dict) or not isinstance(entry.get("reachable"), bool):
        raise Refused(f'{name!r}: "reachable" is missing, or neither true nor false')
    return entry
