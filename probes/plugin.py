"""The probe of a plugin, kept to its contract: what it says is checked before anybody hears it.

Its worker is a process of its own like that of any family, and imports it: a crash, a hang or a leak ends that worker
alone. What a reading may say: its own targets (`FAMILY:...`), its own declared anomalies, each of them, of a look that
began after it was asked. Anything else is a reading that says nothing, with the plugin named as the reason.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping

import msgspec

from probes.base import ERROR_CHARS_MAX, Events, Probe, Source, begin
from supervisor import clock, plugins
from supervisor.config import Config
from supervisor.incidents.readings import CheckData, Finding, HealthReading, SourceReading, Unavailable
from supervisor.messages import AtWork

SOURCES_MAX = 1_000
ID_CHARS_MAX = 200
TEXT_CHARS_MAX = 2_000
FIGURES_MAX = 50
READING_BYTES_MAX = 64 * 1024
INTERVAL_MS_MIN = 100
MS_MAX = 30 * 86_400_000
TELL_S = 0.4  # between two words about one target's check
DATA_BYTES_MAX = 512 * 1024 * 1024  # RLIMIT_DATA: what leaks meets an end of its own


class _Rubbish(Exception):
    """What the plugin gave is not what its contract says."""


class _Guarded(Events):
    """What a plugin's probe may tell its runner: of its own targets, and of no step of anybody's."""

    def __init__(self, prefix: str, events: Events) -> None:
        self._prefix = prefix
        self._events = events
        self._told_s: dict[str, float] = {}

    def read_soon(self, target_id: str, in_s: float) -> None:
        self._events.read_soon(target_id, in_s if in_s > 0 else 0.0)  # NaN has no place in a schedule

    def sources_changed(self) -> None:
        self._events.sources_changed()

    def tell(self, work: AtWork) -> None:
        """Raises TypeError for what is no word about a check of its own."""
        try:  # as a reading
            told = msgspec.msgpack.decode(msgspec.msgpack.encode(work), type=AtWork)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise TypeError(f"what it tells of its work is no AtWork: {plugins.told(error)}") from error
        name = told.target_id
        if not name.startswith(self._prefix) or len(name) > ID_CHARS_MAX or told.execution_id:
            raise TypeError(f"it may tell of checks of {self._prefix}NAME alone")
        now_s = clock.monotonic_s()
        if not told.over and now_s - self._told_s.get(name, -TELL_S) < TELL_S:
            return
        self._told_s.pop(name, None)
        if not told.over:
            if len(self._told_s) >= SOURCES_MAX:
                self._told_s.clear()
            self._told_s[name] = now_s
        words = {"stage": told.stage[:ID_CHARS_MAX], "unit": told.unit[:ID_CHARS_MAX]}
        self._events.tell(msgspec.structs.replace(told, final=True, **words))  # nobody can cancel it


class PluginProbe(Probe):
    """Every method is the plugin's own; what comes of it is not taken on trust."""

    def __init__(self, family: str, config: Config) -> None:
        self.family = family
        self._piece = config.piece[family]
        self._inner: Probe = plugins.load(self._piece, Probe)(config)  # type: ignore[type-abstract, call-arg]
        self._declared = dict(self._inner.anomalies)

    def sources(self) -> tuple[Source, ...]:
        """Raises: a family whose targets cannot be known has failed as a whole."""
        found = self._inner.sources()
        if type(found) is not tuple or len(found) > SOURCES_MAX:
            raise TypeError(f"{self._piece.words}: sources() is no tuple of at most {SOURCES_MAX} sources")
        for source in found:
            if fault := self._fault_of(source):
                raise TypeError(f"{self._piece.words}: {fault}")
        return found

    def source(self, target_id: str) -> Source | None:
        found = self._inner.source(target_id)
        if found is None or self._fault_of(found) or found.source_id != target_id:
            return None
        return found

    def _fault_of(self, source: Source) -> str:
        if type(source) is not Source or type(source.source_id) is not str:
            return f"{source!r} is no Source"
        name = source.source_id
        prefix = f"{self.family}:"
        if not name.startswith(prefix) or not len(prefix) < len(name) <= ID_CHARS_MAX or not name.isprintable():
            return f"the target {name!r} must be called {prefix}NAME, at most {ID_CHARS_MAX} characters"
        times = (source.poll_interval_ms, source.freshness_threshold_ms)
        if not all(type(ms) is int and INTERVAL_MS_MIN <= ms <= MS_MAX for ms in times):
            return f"{name}: its times are {times}, expected whole milliseconds, {INTERVAL_MS_MIN} to {MS_MAX}"
        return ""

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        source = self.source(target_id) or Source(target_id, 1000, 1000)
        began = begin(source, self.family)
        try:
            return self._checked(await self._inner.read(target_id, deadline_s), target_id, began.mono_s)
        except _Rubbish as error:
            return began.cannot(Unavailable.BAD_DATA, f"{self._piece.words}: {error}")
        except Exception as error:  # noqa: BLE001 - told as a reading that says nothing, by its name
            return began.cannot(Unavailable.ERROR, f"{self._piece.words}: {plugins.told(error)}")

    def _checked(self, given: HealthReading, target_id: str, asked_mono_s: float) -> HealthReading:
        try:  # its types are its author's word until they have been on the wire
            raw = msgspec.msgpack.encode(given)
            reading = msgspec.msgpack.decode(raw, type=HealthReading)
        except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise _Rubbish(f"what it gave is no reading: {plugins.told(error)}") from error
        if len(raw) > READING_BYTES_MAX:
            raise _Rubbish(f"a reading of {len(raw)} bytes, at most {READING_BYTES_MAX}")
        if (reading.target_id, reading.family) != (target_id, self.family):
            raise _Rubbish(f"a reading of {reading.target_id} ({reading.family}), asked for {target_id}")
        reading = self._timed(reading, asked_mono_s)
        if reading.available != (reading.data is not None):
            raise _Rubbish("a reading has data, or is not available")
        if reading.data is None:
            return msgspec.structs.replace(reading, external=False, error=reading.error[:ERROR_CHARS_MAX])
        if not isinstance(reading.data, CheckData):
            raise _Rubbish(f"a {type(reading.data).__name__}, expected CheckData")
        data = msgspec.structs.replace(reading.data, findings=self._findings(reading.data))
        return msgspec.structs.replace(reading, data=data, external=False)

    def _timed(self, reading: HealthReading, asked_mono_s: float) -> HealthReading:
        """With times that are some: no calendar has a day for 1e300, and who shows it to a person would end of that."""
        now_s, wall_s = clock.monotonic_s(), clock.wall_s()
        age_s = now_s - reading.taken_mono_s
        if not (asked_mono_s <= reading.taken_mono_s and 0 <= age_s <= wall_s):
            raise _Rubbish("its look did not begin when it was asked: begin() comes first in read()")
        if reading.checked_mono_s is not None and not 0 <= now_s - reading.checked_mono_s <= wall_s:
            raise _Rubbish("its background check begins in the future, or never")
        if not (0 <= reading.took_ms <= MS_MAX and 0 <= reading.freshness_ms <= MS_MAX):
            raise _Rubbish(f"it took {reading.took_ms} ms, and is fresh for {reading.freshness_ms} ms")
        return msgspec.structs.replace(reading, taken_wall_s=wall_s - age_s)

    def _findings(self, data: CheckData) -> tuple[Finding, ...]:
        """Each declared anomaly once, with its declared severity."""
        named = [found.anomaly for found in data.findings]
        if sorted(named) != sorted(self._declared):
            declared = ", ".join(sorted(self._declared))
            raise _Rubbish(f"findings of {', '.join(sorted(named)) or 'nothing'}, expected one of each: {declared}")
        if len(data.figures) > FIGURES_MAX:
            raise _Rubbish(f"{len(data.figures)} figures, at most {FIGURES_MAX}")
        return tuple(
            msgspec.structs.replace(
                found,
                severity=self._declared[found.anomaly],
                evidence=found.evidence[:TEXT_CHARS_MAX],
                hint=found.hint[:TEXT_CHARS_MAX],
            )
            for found in data.findings
        )

    def watch(self, events: Events) -> None:
        self._inner.watch(_Guarded(f"{self.family}:", events))

    def reconfigure(self, config: Config) -> None:
        self._inner.reconfigure(config)

    def remember(self, known: Mapping[str, object]) -> None:
        """Processes are told to the family of services alone."""

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        return tuple(
            self._checked(reading, reading.target_id, reading.taken_mono_s) for reading in self._inner.outside(given)
        )

    def close(self) -> None:
        self._inner.close()


def bound_memory() -> None:
    """For the worker of a plugin's family, before it imports anything of it (setrlimit(2), RLIMIT_DATA)."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = DATA_BYTES_MAX if hard == resource.RLIM_INFINITY else min(hard, DATA_BYTES_MAX)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
