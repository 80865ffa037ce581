"""The `gateway` family (FR-001): does each `[gateway.NAME]` answer, by its own word (`probes.selfreport`)?

With a `health_url` it is asked directly, which takes milliseconds; its status command then only adds evidence. Without
one the status command is the probe. That takes 3 to 15 s, so it runs in the background, one at a time for each gateway
(R9), and a reading carries the verdict of the last one, with the time at which it began: nothing that was done since
is proved by it (R6). A question that comes while one runs has another follow, since it began too early to answer it.

A failure is looked at again soon: two in a row are not to take two intervals.
"""

from __future__ import annotations

import asyncio
import errno
import math
import socket

import msgspec

from probes import command, selfreport
from probes.base import Began, Events, Probe, Source, begin
from probes.selfreport import Said
from supervisor import clock, http
from supervisor.config import Config, GatewaySection
from supervisor.incidents.readings import Endpoint, GatewayData, HealthReading, Unavailable

DIRECT_S = 4.0  # for the health address; a reading takes 5 s at most
STATUS_S = 30.0  # for the status command: a hung gateway costs it 15 s
WAIT_S = 3.5  # a reading waits so long for a status command that it began; a quick one is told at once
AGAIN_S = 2.0  # after a failure that is not yet enough of them
EVIDENCE_EVERY = 15  # polls of a health address, then its status command is run, too
EVIDENCE_PAUSE_S = 30.0  # between two of these commands while the gateway fails
STDOUT_BYTES_MAX = 256 * 1024

# What keeps us from asking says nothing about the gateway (R9).
_ABOUT_US = {
    errno.EACCES: Unavailable.PERMISSION,
    errno.EPERM: Unavailable.PERMISSION,
    errno.EMFILE: Unavailable.ERROR,
    errno.ENFILE: Unavailable.ERROR,
    errno.ENOBUFS: Unavailable.ERROR,
    errno.ENOMEM: Unavailable.ERROR,
    errno.EADDRNOTAVAIL: Unavailable.ERROR,
    errno.ENETUNREACH: Unavailable.UNREACHABLE,
    errno.EHOSTUNREACH: Unavailable.UNREACHABLE,
}


class _Verdict(msgspec.Struct, frozen=True):
    """What one check found: what the gateway said, or why it could not be asked (`reason`)."""

    began_mono_s: float
    took_s: float
    said: Said = Said(Endpoint.UNSET)
    reason: Unavailable = Unavailable.NONE
    error: str = ""

    @property
    def failed(self) -> bool:
        return self.said.endpoint not in (Endpoint.OK, Endpoint.UNSET)


class _Gateway:
    """One target: its table, and what is known of it."""

    def __init__(self, name: str, section: GatewaySection) -> None:
        interval_ms = round(float(section.interval) * 1000)
        self.source = Source(name, interval_ms, interval_ms)
        self.section = section
        self.failures = 0
        self.well_mono_s = -math.inf  # when it last answered well
        self.polls = 0
        self.verdict: _Verdict | None = None  # of the last status command that has ended
        self.began_mono_s = -math.inf  # when the last status command began
        self.running: asyncio.Task[None] | None = None
        self.waiting = 0  # readings that wait for it
        self.once_more = False  # it began before somebody asked
        self.untold = False  # its verdict is news, and the next reading is for that only

    def count(self, verdict: _Verdict) -> None:
        """Consecutive failures; a check that could not be made is neither a failure nor a success."""
        if verdict.failed:
            self.failures += 1
        elif verdict.reason is Unavailable.NONE:
            self.failures = 0
            self.well_mono_s = verdict.began_mono_s

    @property
    def since_well(self) -> _Verdict | None:
        """The status command's verdict, if it tells of the time since the gateway was last well."""
        verdict = self.verdict
        return verdict if verdict is not None and verdict.began_mono_s >= self.well_mono_s else None

    def drop(self) -> None:
        if self.running is not None:
            self.running.cancel()


class GatewayProbe(Probe):
    """Reads the `[gateway.NAME]` targets."""

    family = "gateway"

    def __init__(self, config: Config) -> None:
        self._gateways: dict[str, _Gateway] = {}
        self._events: Events | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """An unchanged gateway keeps what is known of it; a changed one is a new one."""
        old, self._gateways = self._gateways, {}
        for name, section in config.gateway.items():
            same = name in old and old[name].section == section
            self._gateways[name] = old.pop(name) if same else _Gateway(name, section)
        for gateway in old.values():
            gateway.drop()

    def sources(self) -> tuple[Source, ...]:
        return tuple(gateway.source for gateway in self._gateways.values())

    def watch(self, events: Events) -> None:
        self._events = events

    def close(self) -> None:
        for gateway in self._gateways.values():
            gateway.drop()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        gateway = self._gateways[target_id]
        began = begin(gateway.source, self.family)
        if gateway.section.health_url:
            return await self._directly(gateway, began, min(DIRECT_S, deadline_s - 0.5))
        return await self._by_status(gateway, began, min(WAIT_S, deadline_s - 0.5))

    # -- the health address --

    async def _directly(self, gateway: _Gateway, began: Began, timeout_s: float) -> HealthReading:
        verdict = await _ask(gateway.section.health_url, timeout_s)
        gateway.count(verdict)
        gateway.polls += 1
        if verdict.failed or gateway.polls % EVIDENCE_EVERY == 0:
            self._for_evidence(gateway)
        self._look_again(gateway, verdict)
        if verdict.reason is not Unavailable.NONE:
            return began.cannot(verdict.reason, verdict.error)
        return began.tells(_data(gateway, verdict, "health_url"))

    def _for_evidence(self, gateway: _Gateway) -> None:
        """Of a gateway that fails it also tells whether anything of it is alive: a command that began before that says
        nothing about it, and another follows."""
        old = gateway.began_mono_s < gateway.well_mono_s
        if gateway.running is not None:
            gateway.once_more = gateway.once_more or old
        elif old or clock.monotonic_s() - gateway.began_mono_s >= EVIDENCE_PAUSE_S:
            self._begin_status(gateway)

    # -- the status command --

    async def _by_status(self, gateway: _Gateway, began: Began, wait_s: float) -> HealthReading:
        if gateway.untold:
            gateway.untold = False  # asked for by ourselves; another command would follow another for ever
        elif gateway.running is not None:
            gateway.once_more = True
        else:
            running = self._begin_status(gateway)
            gateway.waiting += 1
            try:
                await asyncio.wait({running}, timeout=wait_s)
            finally:
                gateway.waiting -= 1
        return _told(gateway, began)

    def _begin_status(self, gateway: _Gateway) -> asyncio.Task[None]:
        gateway.began_mono_s = clock.monotonic_s()
        gateway.running = asyncio.get_running_loop().create_task(self._status(gateway))
        gateway.running.add_done_callback(_surface)
        return gateway.running

    async def _status(self, gateway: _Gateway) -> None:
        """The whole background check. Never raises but when it is cancelled."""
        began_s = gateway.began_mono_s
        said, reason, error = Said(Endpoint.UNSET), Unavailable.NONE, ""
        try:
            output = await command.run(gateway.section.status, STATUS_S, stdout_bytes_max=STDOUT_BYTES_MAX)
            said = selfreport.status(output.stdout)
        except command.CommandFailed as failed:
            if failed.kind is command.Kind.TIMEOUT:  # a self-probe without an answer has failed (FR-002)
                said = Said(Endpoint.TIMEOUT, str(failed))
            else:
                reason, error = failed.reason, str(failed)
        except selfreport.CannotTell as failed:
            reason, error = failed.reason, f"{gateway.section.status[0]} (exit {output.code}): {failed}"
        gateway.verdict = _Verdict(began_s, clock.monotonic_s() - began_s, said, reason, error)
        gateway.running = None
        by_address = bool(gateway.section.health_url)
        if by_address and gateway.failures:
            self._soon(gateway, 0.0)  # now it is known whether anything of it is alive
        elif not by_address:
            gateway.count(gateway.verdict)
            if not gateway.waiting:
                gateway.untold = True
                self._soon(gateway, 0.0)
        if gateway.once_more:
            gateway.once_more = False
            self._begin_status(gateway)
        elif not by_address:
            self._look_again(gateway, gateway.verdict)

    # -- both --

    def _look_again(self, gateway: _Gateway, verdict: _Verdict) -> None:
        if verdict.failed and gateway.failures < gateway.section.failures:
            self._soon(gateway, AGAIN_S)

    def _soon(self, gateway: _Gateway, in_s: float) -> None:
        name = gateway.source.source_id
        if self._events is not None and self._gateways.get(name) is gateway:
            self._events.read_soon(name, in_s)


def _surface(task: asyncio.Task[None]) -> None:
    """An error that nobody foresaw ends this worker, as everywhere; left in the task it would be silence."""
    if not task.cancelled():
        task.result()


def _told(gateway: _Gateway, began: Began) -> HealthReading:
    """The last verdict of the status command, whenever that was."""
    verdict = gateway.verdict
    if verdict is None:
        detail = "its first status command is under way"
        unset = GatewayData(Endpoint.UNSET, 0, gateway.section.failures, "status", detail=detail)
        return msgspec.structs.replace(began, checked_mono_s=gateway.began_mono_s).tells(unset)
    began = msgspec.structs.replace(began, checked_mono_s=verdict.began_mono_s)
    if verdict.reason is not Unavailable.NONE:
        return began.cannot(verdict.reason, verdict.error)
    return began.tells(_data(gateway, verdict, "status"))


def _data(gateway: _Gateway, verdict: _Verdict, judged_by: str) -> GatewayData:
    status, detail = gateway.verdict, verdict.said.detail
    told = gateway.since_well if verdict.failed else status
    if judged_by == "health_url" and verdict.failed and status is not None:
        age_s = clock.monotonic_s() - status.began_mono_s
        words = status.error or status.said.detail or status.said.endpoint
        detail += f"; its status command said {age_s:.0f} s ago: {words}"
    return GatewayData(
        endpoint=verdict.said.endpoint,
        failures=gateway.failures,
        failures_needed=gateway.section.failures,
        judged_by=judged_by,
        runtime=told.said.runtime if told is not None else "",
        asking=verdict.failed and told is None and gateway.running is not None,
        latency_ms=verdict.took_s * 1000,
        detail=detail,
    )


async def _ask(url: str, timeout_s: float) -> _Verdict:
    """One question to a health address."""
    began_s = clock.monotonic_s()
    said, reason, words = Said(Endpoint.UNSET), Unavailable.NONE, ""
    try:
        answer = await http.request(url, timeout_s=timeout_s)
        said = selfreport.health(answer.status, answer.body)
    except http.BadRequest as error:
        reason, words = Unavailable.ERROR, str(error)
    except http.ConnectFailed as error:
        said, reason, words = Said(Endpoint.REFUSED, str(error)), _about_us(error.__cause__), str(error)
        if reason is not Unavailable.NONE:
            said = Said(Endpoint.UNSET)
    except http.TimedOut as error:
        said = Said(Endpoint.TIMEOUT, str(error))
    except http.HttpError as error:
        said = Said(Endpoint.BAD_ANSWER, str(error))
    return _Verdict(began_s, clock.monotonic_s() - began_s, said, reason, words)


def _about_us(error: BaseException | None) -> Unavailable:
    """Why we could not ask, NONE when nobody listens there."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return Unavailable.DNS
    return _ABOUT_US.get(error.errno or 0, Unavailable.NONE) if isinstance(error, OSError) else Unavailable.NONE
