"""The `logs` family: how large are the log files, and how fast do they grow? (FR-001, FR-002 `log_bloat`)

What a rotation left behind (`app.log.1`, `app.log-20260101`, `app.log.gz`) is no log without rotation: it counts in the
total, but not among the `largest`, by which the rule judges; unless it has grown lately under that very name: then
somebody still writes it, in bursts maybe. Compressed ones never do. A file under several names, by links of any kind,
is one file.

While a file grows so fast that it would pass the limit before the next poll, the next reading is asked for then.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

import msgspec

from probes.base import DEADLINE_S, Began, Events, Probe, Source, begin
from probes.look import Look
from supervisor import clock, logfiles, targets
from supervisor.config import Config, LogsSection
from supervisor.incidents.judge import size
from supervisor.incidents.readings import HealthReading, LogFile, LogsData, Unavailable
from supervisor.logfiles import Found, Scan

LARGEST_MAX = 20
SCAN_SHARE = 0.6  # of the deadline: then the scan stops, and tells what it has seen
ANSWER_SHARE = 0.8  # of the deadline: then the file system does not answer
GROWTH_OVER_S = 1.0  # readings closer than this say nothing about growth
SOON_S_MIN = 5.0
WRITTEN_WITHIN = 2.0  # intervals: so long is a rotated name that grew taken for one that is written


class _Seen(msgspec.Struct, frozen=True):
    """A file at an earlier reading, and how it grew until then; `grew_mono_s`: when it last had under this name."""

    mono_s: float
    bytes: int
    path: str
    growth_bytes_s: float | None = None
    grew_mono_s: float | None = None


class _Target(msgspec.Struct, eq=False):
    section: LogsSection
    look: Look[Scan]
    seen: dict[tuple[int, int], _Seen] = {}


class LogsProbe(Probe):
    """Reads the `[logs.NAME]` targets."""

    family = "logs"

    def __init__(self, config: Config) -> None:
        self._targets: dict[str, _Target] = {}
        self._events: Events | None = None
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Where the paths are the same, what is known of the files stays known. What has changed is read at once."""
        before, self._targets = self._targets, {}
        changed = set()
        for name, section in targets.logs(config).items():
            known = before.get(name)
            if known is not None and known.section != section:
                changed.add(name)
            if known is not None and known.section.paths == section.paths:
                known.section = section
            else:
                known = _Target(section, Look(name, partial(_scan, section.paths)))
            self._targets[name] = known
        if self._events is not None:
            for name in changed:
                self._events.read_soon(name, 0.0)

    def sources(self) -> tuple[Source, ...]:
        return tuple(self._source(name, target) for name, target in self._targets.items())

    def watch(self, events: Events) -> None:
        self._events = events

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        target = self._targets.get(target_id)
        if target is None:
            return begin(Source(target_id, 1000, 1000), self.family).cannot(Unavailable.ERROR, "it is not watched")
        began = begin(self._source(target_id, target), self.family)
        try:
            async with asyncio.timeout(deadline_s * ANSWER_SHARE):
                scan = await target.look.now()
        except TimeoutError:
            return began.cannot(Unavailable.DEADLINE, f"the file system of {target.section.paths[0]} does not answer")
        except OSError as error:
            return began.cannot(Unavailable.ERROR, f"they cannot be looked at: {error}")
        if scan.denied and not scan.files:
            return began.cannot(Unavailable.PERMISSION, f"none of them can be looked at: {', '.join(scan.denied)}")
        return self._tell(target_id, began, target, scan)

    def _source(self, name: str, target: _Target) -> Source:
        interval_ms = round(float(target.section.interval) * 1000)
        return Source(name, interval_ms, interval_ms)

    def _tell(self, name: str, began: Began, target: _Target, scan: Scan) -> HealthReading:
        now = {file.key: _grown(target.seen.get(file.key), file, began.mono_s) for file in scan.files.values()}
        since_s = began.mono_s - WRITTEN_WITHIN * float(target.section.interval)
        live = [file for file in scan.files.values() if not _left_behind(file, now[file.key], since_s)]
        target.seen = now
        live.sort(key=lambda file: (-file.bytes, file.path))
        self._plan(name, target, live)
        largest = tuple(
            LogFile(logfiles.printable(file.path), file.bytes, now[file.key].growth_bytes_s)
            for file in live[:LARGEST_MAX]
        )
        return began.tells(
            LogsData(
                files=len(scan.files),
                total_bytes=sum(file.bytes for file in scan.files.values()),
                max_bytes=int(target.section.max_size),
                largest=largest,
                denied=tuple(scan.denied),
                complete=not scan.cut_short,
                detail=_detail(scan, live),
            )
        )

    def _plan(self, name: str, target: _Target, live: list[Found]) -> None:
        """Wishes a reading for when the first file would pass the limit, where the next poll would be later."""
        if self._events is None:
            return
        passes = [
            (int(target.section.max_size) - file.bytes) / growth
            for file in live
            if file.bytes <= int(target.section.max_size) and (growth := target.seen[file.key].growth_bytes_s)
        ]
        in_s = max(min(passes, default=float("inf")), SOON_S_MIN)
        if in_s < float(target.section.interval):
            self._events.read_soon(name, in_s)


def _scan(patterns: tuple[str, ...]) -> Scan:
    return logfiles.scan(patterns, clock.monotonic_s() + DEADLINE_S * SCAN_SHARE)


def _grown(before: _Seen | None, file: Found, mono_s: float) -> _Seen:
    if before is None:
        return _Seen(mono_s, file.bytes, file.path)
    renamed = before.path != file.path
    if renamed:  # what it grew before that says nothing of who writes it now
        before = msgspec.structs.replace(before, path=file.path, grew_mono_s=None)
    if mono_s - before.mono_s < GROWTH_OVER_S:
        return before
    growth = (file.bytes - before.bytes) / (mono_s - before.mono_s)
    grew_s = mono_s if growth > 0 and not renamed else before.grew_mono_s
    return _Seen(mono_s, file.bytes, file.path, growth if growth >= 0 else None, grew_s)  # None: it was cut off


def _left_behind(file: Found, seen: _Seen, since_s: float) -> bool:
    if logfiles.compressed(file.path):
        return True
    return logfiles.rotated(file.path) and (seen.grew_mono_s is None or seen.grew_mono_s < since_s)


def _detail(scan: Scan, live: list[Found]) -> str:
    parts = [scan.cut_short] if scan.cut_short else []
    left = len(scan.files) - len(live)
    if left:
        taken = sum(file.bytes for file in scan.files.values()) - sum(file.bytes for file in live)
        parts.append(f"{left} rotated files with {size(taken)} are not judged")
    if scan.denied:
        parts.append(f"{len(scan.denied)} could not be looked at, {os.path.basename(scan.denied[0])} among them")
    return "; ".join(parts)
