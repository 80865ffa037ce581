"""The `process` family: is a configured service alive, and does it serve? (FR-001, FR-002, R8, R9, R12)

What is alive follows the rule that probes and remediators share (`supervisor.identify`); this probe adds memory: a
process it has once known for the service stays it until the kernel says that it ended, whatever becomes of its pid
file. So a lost or damaged pid file never makes a living service look dead, which would start it twice. The healer's
ledger remembers it beyond this worker's life and tells it at the start (`remember`).

Of a service that systemd or PM2 runs it also tells what that manager says, while nothing of it serves (R8).

"Cannot tell" is `available=False` and never "dead": an unreadable or malformed pid file of a process we never saw, a
process table that hides others (hidepid), a stop file behind a forbidden directory.

It must never signal, start or reap anything, never block on what stands in a pid file's place, and never create a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from probes import endpoint, managers
from probes.base import Began, Events, Probe, Source, begin, stop_file_stands
from probes.table import Table, eldest
from probes.watch import PidWatch
from supervisor import clock, identify, proc
from supervisor.config import Config, ProcessSection
from supervisor.incidents.readings import (
    Endpoint,
    HealthReading,
    Manager,
    PidFile,
    ProcessData,
    ProcessRef,
    Unavailable,
    Zombie,
)

ENDPOINT_TIMEOUT_S = 3.0
ENDPOINT_AGAIN_S = 1.0  # after a failure, until there were enough to be sure
ENDPOINT_SURE = 3
ZOMBIE_AGAIN_S = 10.1  # R12: a zombie counts when it was seen over 10 s; a little more, for the clocks' grain
ZOMBIES_MAX = 16  # remembered per target
WRITER_GAP_S = 0.02  # a writer empties its pid file before it fills it
LOOK_AGAIN_S = (0.05, 0.1, 0.2, 0.4, 0.8, 1.0)  # after a death: somebody else may restart it
LOOK_AGAIN_FOR_S = 10.0
MANAGER_TIMEOUT_S = 3.0
MANAGER_AGAIN_S = (1.0, 30.0)  # while a manager is at it: a quarter of the time so far, within these
MEMORY_WITHIN_S = 1.0  # the healer tells what it knows within milliseconds; no longer is a death held back for it
DETAIL_CHARS_MAX = 500


class CannotTell(Exception):
    """Nothing can be said about the target (R9); becomes the reading's reason."""

    def __init__(self, reason: Unavailable, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class _Known(msgspec.Struct):
    """What this probe remembers of one target."""

    process: ProcessRef | None = None  # the live process judged last
    failures: int = 0  # of the endpoint, consecutive
    zombies: dict[ProcessRef, float] = {}  # when first seen (monotonic seconds)
    died_s: float | None = None  # when a death was noticed, while a restart is looked for
    looks: int = 0
    last_pid: int = 0  # the number it last had
    down_s: float | None = None  # since when nothing of it is alive, or an endpoint alone does not answer
    told: managers.Told | None = None  # by its manager, since then


class _Found(msgspec.Struct, frozen=True):
    """Who is alive. `alive` None: nobody can tell, but there is an endpoint to ask."""

    alive: bool | None
    process: ProcessRef | None = None
    pid_file: PidFile = PidFile.UNSET
    detail: str = ""


class ProcessProbe(Probe):
    """Reads the `[process.NAME]` targets."""

    family = "process"

    def __init__(self, config: Config) -> None:
        self._sections: dict[str, ProcessSection] = {}
        self._known: dict[str, _Known] = {}
        self._watch: PidWatch | None = None
        self._memory_by_s = 0.0  # until then (monotonic) the healer may still tell what it knows
        self._events: Events | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """What is known of an unchanged target stays known; a changed one is a new one."""
        sections = config.process
        for name, section in self._sections.items():
            if self._watch is not None and sections.get(name) != section:
                self._watch.release(name)
        same = {name for name, section in sections.items() if self._sections.get(name) == section}
        self._known = {name: self._known[name] if name in same else _Known() for name in sections}
        changed = {name for name in self._sections if name in sections and sections[name] != self._sections[name]}
        self._sections = dict(sections)
        self._act_after_s = float(config.policy.act_after)
        self._addresses = {
            name: endpoint.parse(section.endpoint) for name, section in sections.items() if section.endpoint
        }
        self._table = Table(section.match for section in sections.values())
        if self._events is not None:
            for name in changed:  # nobody watches its process until it has been read
                self._events.read_soon(name, 0.0)

    def sources(self) -> tuple[Source, ...]:
        return tuple(self._source(name) for name in self._sections)

    def watch(self, events: Events) -> None:
        self._events = events
        self._watch = PidWatch(self._on_death)
        self._memory_by_s = clock.monotonic_s() + MEMORY_WITHIN_S

    def remember(self, known: Mapping[str, ProcessRef]) -> None:
        """The processes that were last seen to be the targets, before this worker's time. One that has ended since,
        or whose number another process has now, is no memory; nor is one of a target that we know better."""
        self._memory_by_s = 0.0
        for name, mine in self._known.items():
            told = known.get(name)
            if mine.process is None and mine.died_s is None and told is not None and _lives(told):
                mine.process, mine.last_pid = told, told.pid
            if mine.process is None and self._events is not None:
                self._events.read_soon(name, 0.0)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        began = begin(self._source(target_id), self.family)
        try:
            return began.tells(await self._look(target_id, began, deadline_s))
        except CannotTell as error:
            return began.cannot(error.reason, str(error))
        except PermissionError as error:
            return began.cannot(Unavailable.PERMISSION, str(error))
        except (OSError, ValueError) as error:  # ValueError: a path or address that cannot be used at all
            return began.cannot(Unavailable.ERROR, str(error))

    def _source(self, name: str) -> Source:
        interval_ms = round(float(self._sections[name].interval) * 1000)
        return Source(name, interval_ms, interval_ms)

    def _on_death(self, name: str) -> None:
        known = self._known.get(name)
        if known is None:
            return  # it has just left the configuration
        known.died_s, known.looks = clock.monotonic_s(), 0
        if known.process is not None:
            self._remember_zombie(known, known.process)
        known.process = known.told = None
        known.down_s = known.died_s
        assert self._events is not None
        self._events.read_soon(name, 0.0)

    # -- one reading --

    async def _look(self, name: str, began: Began, deadline_s: float) -> ProcessData:
        section, known = self._sections[name], self._known[name]
        meant_to_stop = stop_file_stands(section.stop_file)
        found = await self._find(section, known)
        if self._known.get(name) is not known:
            raise CannotTell(Unavailable.ERROR, "another configuration came in while it was being read")
        self._await_memory(name, found)
        details = [found.detail] if found.detail else []
        status = proc.same(found.process) if found.process is not None else None
        self._settle(name, known, found, began)
        stopped = status is not None and status.state == "T"
        if status is not None and stopped:
            details.append(f"process {status.pid} is stopped (state T)")
        answer = endpoint.Answer(Endpoint.UNSET)
        if name in self._addresses and found.alive is not False:
            answer = await self._ask(self._addresses[name], min(ENDPOINT_TIMEOUT_S, deadline_s * 0.8), stopped)
            known.failures = 0 if answer.status is Endpoint.OK else known.failures + 1
            if answer.detail:
                details.append(answer.detail)
        serves = found.alive is not False and answer.status in (Endpoint.UNSET, Endpoint.OK)
        down_s = _down_s(known, began, is_down=not (serves or found.alive or meant_to_stop))
        told = None
        if not serves and not meant_to_stop:
            told = await self._ask_manager(section, known, down_s, began.mono_s + deadline_s * 0.9)
        if told is not None:
            details.append(told.words)
        zombies = self._zombies(known)
        data = ProcessData(
            alive=found.alive,
            process=found.process,
            pid_file=found.pid_file,
            endpoint=answer.status,
            endpoint_failures=known.failures,
            meant_to_stop=meant_to_stop,
            zombies=zombies,
            stopped=stopped,
            manager=told.manager if told is not None else Manager.NONE,
            dead_for_s=down_s,
            act_after_s=self._act_after_s if told is not None else 0.0,
            sought=(section.pid_file, section.match),
            detail="; ".join(details)[:DETAIL_CHARS_MAX],
        )
        self._plan(name, known, data)
        return data

    async def _ask_manager(
        self, section: ProcessSection, known: _Known, down_s: float, until_s: float
    ) -> managers.Told | None:
        """None for a service that has no manager. Before `act_after` one answer is enough: nothing is done on it."""
        if section.restart is None or section.restart.argv:
            return None
        if known.told is None or not 0 < down_s < self._act_after_s:
            left_s = max(0.1, min(MANAGER_TIMEOUT_S, until_s - clock.monotonic_s()))
            known.told = await managers.ask(section.restart, section.restart_env, known.last_pid, left_s)
        return known.told

    def _await_memory(self, name: str, found: _Found) -> None:
        """Raises CannotTell for a death that rests on a pid file alone, as long as the healer may still say who the
        service was before this worker began: it may live, and only its pid file be gone."""
        section, known = self._sections[name], self._known[name]
        left_s = self._memory_by_s - clock.monotonic_s()
        seen = known.process is not None or known.died_s is not None
        if found.alive is False and left_s > 0 and not section.match and not seen and self._events is not None:
            self._events.read_soon(name, left_s + 0.01)
            raise CannotTell(Unavailable.ERROR, f"{found.detail}; who it was before is not known yet")

    async def _find(self, section: ProcessSection, known: _Known) -> _Found:
        if not (section.pid_file or section.match):
            return _Found(alive=None)
        pid_file, detail, process = PidFile.UNSET, "", None
        if section.pid_file:
            pid_file, detail, process = await self._by_pid_file(section, known)
        if process is None and section.match:
            process, detail = await self._by_match(section, known, detail)
        if process is None and not section.match and (process := _still_alive(known)) is not None:
            detail = f"{detail}; process {process.pid}, which it named before, is still alive"
        if process is not None:
            return _Found(alive=True, process=process, pid_file=pid_file, detail=detail)
        was_seen = known.process is not None or known.died_s is not None
        unreadable = pid_file in (PidFile.MALFORMED, PidFile.UNREADABLE)
        if unreadable and not section.match and not was_seen:
            if section.endpoint:
                return _Found(alive=None, pid_file=pid_file, detail=detail)
            reason = Unavailable.PERMISSION if pid_file is PidFile.UNREADABLE else Unavailable.ERROR
            raise CannotTell(reason, detail)
        return _Found(alive=False, pid_file=pid_file, detail=detail)

    async def _by_pid_file(self, section: ProcessSection, known: _Known) -> tuple[PidFile, str, ProcessRef | None]:
        """What the pid file says, why if not OK, and the live process it names."""
        finding = identify.read_pid_file(section.pid_file, section.match)
        if finding.status is PidFile.MALFORMED:
            await asyncio.sleep(WRITER_GAP_S)
            finding = identify.read_pid_file(section.pid_file, section.match)
        if finding.status is not PidFile.OK:
            if finding.process is not None:
                self._remember_zombie(known, finding.process)
            return finding.status, finding.detail, None
        return PidFile.OK, "", finding.process

    async def _by_match(self, section: ProcessSection, known: _Known, detail: str) -> tuple[ProcessRef | None, str]:
        """The process known before, if it still lives and matches; else the eldest of the whole table."""
        before = _still_alive(known)
        if before is not None and identify.matches(section.match, proc.command_line(before.pid)):
            return before, detail
        found, whole = await self._table.find(section.match)
        if not found:
            if not whole:
                raise CannotTell(Unavailable.PERMISSION, "the process table is hidden from us (hidepid)")
            return None, "; ".join(part for part in (detail, "no process matches") if part)
        status, parents = eldest(found)
        if parents > 1:
            many = f"{parents} unrelated processes match, {len(found)} in all; the eldest, {status.pid}, was taken"
            detail = "; ".join(part for part in (detail, many) if part)
        return status.ref, detail

    async def _ask(self, address: endpoint.Address, timeout_s: float, stopped: bool) -> endpoint.Answer:
        if stopped and address.scheme in ("tcp", "unix"):  # the kernel would accept in its place
            return endpoint.Answer(Endpoint.TIMEOUT)
        return await endpoint.check(address, timeout_s)

    # -- memory --

    def _settle(self, name: str, known: _Known, found: _Found, began: Began) -> None:
        """Takes note of who is alive now, and watches it."""
        if found.process is None:
            if known.process is not None:  # died unwatched, or replaced by nobody
                self._remember_zombie(known, known.process)
                known.process = None
                known.died_s, known.looks = began.mono_s, 0
            if found.alive is False:
                known.failures = 0
            if self._watch is not None:
                self._watch.release(name)
            return
        if found.process != known.process:
            if known.process is not None:
                self._remember_zombie(known, known.process)
            known.process, known.last_pid = found.process, found.process.pid
            known.failures = 0  # they were another process's
        known.died_s = None
        if self._watch is not None:
            self._watch.hold(name, found.process)

    def _remember_zombie(self, known: _Known, process: ProcessRef) -> None:
        if process in known.zombies:
            return
        status = proc.same(process)
        if status is None or not status.is_zombie:
            return
        if len(known.zombies) >= ZOMBIES_MAX:  # the oldest say most about the parent (R12)
            known.zombies.popitem()
        known.zombies[process] = clock.monotonic_s()

    def _zombies(self, known: _Known) -> tuple[Zombie, ...]:
        """Those not reaped yet; a reaped one is forgotten."""
        now_s = clock.monotonic_s()
        left = []
        for process, seen_s in list(known.zombies.items()):
            status = proc.same(process)
            if status is None:
                del known.zombies[process]
                continue
            parent = proc.stat(status.parent_pid)
            left.append(Zombie(process, status.parent_pid, parent.name if parent else "", now_s - seen_s))
        return tuple(left)

    def _plan(self, name: str, known: _Known, data: ProcessData) -> None:
        """Wishes the next read before the next poll, where waiting for that would be too late."""
        if self._events is None:
            return
        in_s = []
        now_s = clock.monotonic_s()
        died_for_s = now_s - known.died_s if known.died_s is not None else LOOK_AGAIN_FOR_S
        if data.alive is False and died_for_s < LOOK_AGAIN_FOR_S:
            gap_s = LOOK_AGAIN_S[min(known.looks, len(LOOK_AGAIN_S) - 1)]
            in_s.append(gap_s - now_s % gap_s)  # on a common grid: those that died together share a pass
            known.looks += 1
        if data.dead_for_s < data.act_after_s:
            in_s.append(data.act_after_s - data.dead_for_s + 0.01)
        elif data.manager is Manager.RESTARTING:
            in_s.append(min(max(data.dead_for_s / 4, MANAGER_AGAIN_S[0]), MANAGER_AGAIN_S[1]))
        if 0 < known.failures < ENDPOINT_SURE:
            in_s.append(ENDPOINT_AGAIN_S)
        in_s += [ZOMBIE_AGAIN_S - zombie.seen_for_s for zombie in data.zombies if zombie.seen_for_s < ZOMBIE_AGAIN_S]
        if in_s:
            self._events.read_soon(name, max(0.01, min(in_s)))


def _down_s(known: _Known, began: Began, *, is_down: bool) -> float:
    """For how long it has been down, as far as this probe saw; 0 and forgotten when it is not."""
    if not is_down:
        known.down_s = known.told = None
        return 0.0
    if known.down_s is None:
        known.down_s = known.died_s if known.died_s is not None else began.mono_s
    return max(0.0, began.mono_s - known.down_s)


def _still_alive(known: _Known) -> ProcessRef | None:
    return known.process if known.process is not None and _lives(known.process) else None


def _lives(process: ProcessRef) -> bool:
    status = proc.same(process)
    return status is not None and status.live
