"""The `database` family: are the configured SQLite files, and our own, whole? (FR-001, FR-002, R9)

A check may take minutes, so it runs in the background (`probes.integrity`) and a reading tells the last verdict, its
age, and how far the next check is. Every reading asked for begins a check unless one runs, and waits a little for it,
so that a small database is told as it is now; when one ends that nobody waited for, a reading is asked for that tells.

Two checks run at a time; one that does not move (a lock, a dead mount) does not count. A verdict is about one file:
when another comes into its place, nothing is known of that one yet.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from functools import partial

import msgspec

from probes.base import Began, Events, Probe, Source, begin
from probes.integrity import Check, Outcome
from supervisor import clock, targets
from supervisor.aside import aside
from supervisor.config import OWN_DATABASES, Config
from supervisor.incidents.readings import DatabaseData, HealthReading, Integrity, Unavailable
from supervisor.messages import AtWork

log = logging.getLogger(__name__)

# For a check to get at its file, or to fail again: longer than it waits for a lock, or gives way to writers, so that a
# poll of what cannot be read is one reading, not two (three of them count, R9).
OPEN_WAIT_S = 3.8
VERDICT_WAIT_S = 0.5  # for the rest of it
LOOK_S = 0.02
CHECKS_MAX = 2  # moving at once
MOVES_WITHIN_S = 5.0
HANGS_AFTER_S = 15.0  # longer than any pause of a check that gives way to a writer
PUMP_S = 1.0
TELL_S = 0.5
EMPTIED = "it was a database, and is empty now"
EMPTIED_AGAIN_S = 1.0
CREATED_WITHIN_S = 10.0  # after our start, by the store


class _Target(msgspec.Struct, eq=False):
    """One database: its check, and what the last one said."""

    path: str
    interval_s: float
    patience_s: float = 0.0
    check: Check | None = None  # waiting for its turn, or running
    running: bool = False
    ended: asyncio.Event | None = None  # of that check
    verdict: Outcome | None = None  # the last that there was
    failure: Outcome | None = None  # why the last check has none
    untold: bool = False
    emptied: bool = False  # so the last check found it
    listeners: int = 0


class DatabaseProbe(Probe):
    """Reads the `[database.NAME]` targets and our own databases."""

    family = "database"

    def __init__(self, config: Config) -> None:
        self._targets: dict[str, _Target] = {}
        self._queue: list[str] = []
        self._timer: asyncio.TimerHandle | None = None
        self._events: Events | None = None
        self._told: set[str] = set()  # those of whose check the progress was told
        self._telling: asyncio.TimerHandle | None = None
        self.reconfigure(config)
        for name in OWN_DATABASES:
            if name in self._targets:
                self._targets[name].patience_s = CREATED_WITHIN_S

    def reconfigure(self, config: Config) -> None:
        """An unchanged path keeps its verdict and its running check; another file is read at once."""
        before, self._targets = self._targets, {}
        for name, section in targets.databases(config).items():
            known = before.get(name)
            if known is None or known.path != section.path:
                known = _Target(section.path, 0.0)
            known.interval_s = float(section.interval)
            self._targets[name] = known
        for name, target in before.items():
            if self._targets.get(name) is not target and target.check is not None:
                target.check.stop()
        self._queue = [name for name in self._queue if self._targets.get(name) is before.get(name)]
        if self._events is not None:
            for name in before.keys() & self._targets.keys():
                if self._targets[name] is not before[name]:
                    self._events.read_soon(name, 0.0)

    def sources(self) -> tuple[Source, ...]:
        return tuple(self._source(name, target) for name, target in self._targets.items())

    def watch(self, events: Events) -> None:
        self._events = events

    def cancel(self, target_id: str, by: str) -> str:
        target = self._targets.get(target_id)
        if target is None or target.check is None:
            return f"no integrity check of {target_id} is running"
        target.check.stop(by)
        return ""

    def _tell_progress(self) -> None:
        """While checks run, and once more when one of which was told has ended."""
        running = {name: it.check for name, it in self._targets.items() if it.running and it.check is not None}
        for name, check in running.items():
            done = round(check.progress * check.size_bytes)
            self._send(AtWork(name, check.stage, done, check.size_bytes, "bytes"))
        for name in self._told - running.keys():
            self._send(AtWork(name, "", over=True))
        self._told = set(running)
        self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell_progress) if running else None

    def _send(self, work: AtWork) -> None:
        if self._events is not None:
            self._events.tell(work)

    def close(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
        if self._timer is not None:
            self._timer.cancel()
        for target in self._targets.values():
            if target.check is not None:
                target.check.stop()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        target = self._targets.get(target_id)
        if target is None:
            return begin(Source(target_id, 1000, 1000), self.family).cannot(Unavailable.ERROR, "it is not watched")
        began = begin(self._source(target_id, target), self.family)
        if not target.untold:
            self._begin(target_id, target)
            target.listeners += 1
            try:
                await _heard(target, began.mono_s, min(OPEN_WAIT_S, deadline_s * 0.8))
            finally:
                target.listeners -= 1
        target.untold = False
        return self._tell(began, target, target_id in self._queue)

    def _source(self, name: str, target: _Target) -> Source:
        interval_ms = round(target.interval_s * 1000)
        return Source(name, interval_ms, interval_ms)

    # -- checks --

    def _begin(self, name: str, target: _Target) -> None:
        if target.check is None:
            expected = target.verdict.read_bytes if target.verdict is not None else 0
            target.check = Check(target.path, expected, target.patience_s)
            target.ended = asyncio.Event()
            target.patience_s = 0.0
            self._queue.append(name)
        self._pump()

    def _pump(self) -> None:
        """Lets those begin whose turn it is, and comes back while others wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self._moving() < CHECKS_MAX:
            name = self._queue.pop(0)
            target = self._targets[name]
            assert target.check is not None
            target.running = True
            target.check.moved_s = clock.monotonic_s()
            work: Future[Outcome] = aside(target.check.run, f"check {name}")
            outcome = asyncio.wrap_future(work)
            outcome.add_done_callback(partial(self._ended, name, target))
            if self._telling is None:
                self._telling = asyncio.get_running_loop().call_later(TELL_S, self._tell_progress)
        if self._queue:
            self._timer = asyncio.get_running_loop().call_later(PUMP_S, self._pump)

    def _moving(self) -> int:
        now_s = clock.monotonic_s()
        checks = [target.check for target in self._targets.values() if target.running and target.check is not None]
        return sum(now_s - check.moved_s < MOVES_WITHIN_S and not check.awaits_creation for check in checks)

    def _ended(self, name: str, target: _Target, done: asyncio.Future[Outcome]) -> None:
        assert target.ended is not None
        target.check, target.running = None, False
        target.ended.set()
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:
            log.error("%s: the check raised, which it must not", name, exc_info=error)
            outcome = Outcome(
                began_mono_s=clock.monotonic_s(),
                began_wall_s=clock.wall_s(),
                reason=Unavailable.ERROR,
                error=f"{type(error).__name__}: {error}",
            )
        else:
            outcome = done.result()
        if _was_emptied(target.verdict, outcome):
            outcome = self._emptied(name, target, outcome)
        else:
            target.emptied = False
        if outcome.verdict is Integrity.UNKNOWN:
            target.failure = outcome
        else:
            target.verdict, target.failure = outcome, None
        target.untold = True
        if self._targets.get(name) is target:
            self._pump()
            if not target.listeners and self._events is not None:
                self._events.read_soon(name, 0.0)

    def _emptied(self, name: str, target: _Target, outcome: Outcome) -> Outcome:
        """Damage, once it is seen twice: who copies another over it empties it first."""
        if target.emptied:
            return msgspec.structs.replace(outcome, verdict=Integrity.CORRUPT, check="opening it", errors=(EMPTIED,))
        target.emptied = True
        if self._events is not None:
            self._events.read_soon(name, EMPTIED_AGAIN_S)
        return outcome

    # -- what a reading says --

    def _tell(self, began: Began, target: _Target, queued: bool) -> HealthReading:
        check, verdict, failure = target.check, target.verdict, target.failure
        if check is not None and not queued:
            still_s = clock.monotonic_s() - check.moved_s
            hangs = still_s > HANGS_AFTER_S or (not check.opened and still_s > VERDICT_WAIT_S)
            if hangs and not check.awaits_creation and failure is None:
                return began.cannot(Unavailable.DEADLINE, f"{target.path} does not answer for {still_s:.0f} s")
        if failure is not None:
            return began.cannot(failure.reason, failure.error)
        if verdict is not None and check is not None and check.file not in (None, verdict.file):
            verdict = target.verdict = None  # another file is in its place
        if verdict is None:
            detail = "no check has ended yet"
            if check is not None and check.awaits_creation:
                detail = "it does not exist yet; healctl's store makes it at its start"
            elif queued:
                detail = "it waits until another database has been checked"
            size_bytes = check.size_bytes if check is not None else 0
            progress = check.progress if check is not None else None
            return began.tells(
                DatabaseData(target.path, Integrity.UNKNOWN, progress=progress, size_bytes=size_bytes, detail=detail)
            )
        data = DatabaseData(
            path=target.path,
            verdict=verdict.verdict,
            check=verdict.check,
            errors=verdict.errors,
            header_destroyed=verdict.header_destroyed,
            checked_wall_s=verdict.began_wall_s,
            took_s=verdict.took_s,
            progress=check.progress if check is not None else None,
            size_bytes=verdict.size_bytes,
            detail=f"{verdict.check} took {verdict.took_s:.1f} s",
        )
        return msgspec.structs.replace(began, checked_mono_s=verdict.began_mono_s).tells(data)


def _was_emptied(before: Outcome | None, now: Outcome) -> bool:
    """The very file that held a database has nothing in it: it did not "not exist yet"."""
    same = before is not None and now.file is not None and now.file == before.file
    return same and now.verdict is Integrity.UNKNOWN and now.size_bytes == 0 and now.reason is Unavailable.BAD_DATA


async def _heard(target: _Target, began_s: float, open_wait_s: float) -> None:
    """Until the target's check has ended, or will not soon."""
    check, ended = target.check, target.ended
    assert check is not None
    assert ended is not None
    while not ended.is_set():
        waited_s = clock.monotonic_s() - began_s
        if waited_s > (VERDICT_WAIT_S if check.opened and target.failure is None else open_wait_s):
            return
        try:
            async with asyncio.timeout(LOOK_S):
                await ended.wait()
        except TimeoutError:
            continue
