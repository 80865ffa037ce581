"""What a probe is: the contract between a family's probe and the runner that drives it (DESIGN §5, FR-001).

A probe looks and tells; it never judges (`supervisor.incidents.classify` does), never repairs, never creates a file
and never raises: what it cannot see is a reading with `available=False` and the reason (R9).
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol

import msgspec

from supervisor import clock, plugins
from supervisor.config import Config
from supervisor.incidents.readings import HealthReading, ProcessRef, ReadingData, Severity, SourceReading, Unavailable
from supervisor.messages import AtWork
from supervisor.stamps import CLOCKS_APART_S

DEADLINE_S = 4.8  # R9: every reading within 5 s, told and sent included
ERROR_CHARS_MAX = 500


class Source(msgspec.Struct, frozen=True):
    """One target as a source of readings, in the words of the site's DataSourceAdapter (NFR-004, SITE.md)."""

    source_id: str
    poll_interval_ms: int
    freshness_threshold_ms: int


class Refused(Exception):
    """A reading from outside that cannot be taken; the text says what is wrong with it."""


class Events(Protocol):
    """What a probe may tell its runner, at any time, from within the event loop."""

    def read_soon(self, target_id: str, in_s: float) -> None:
        """Read this target in so many seconds. 0 is for events of the kernel: it is read at once, and a read that is
        under way is begun anew, since it may have looked before the event."""

    def tell(self, work: AtWork) -> None:
        """How far a check is that takes long: a word that may be lost, twice a second at most."""

    def sources_changed(self) -> None:
        """`sources()` gives another answer than before: tasks, mounts or hosts have come or gone."""


class Probe(ABC):
    """One family. `read` answers for any of `sources`; the runner calls it once at a time per target.

    Together with `Source` this is the site's DataSourceAdapter (NFR-004): `read` is its poll().

    It is made of the configuration: `__init__(self, config: Config)`. A plugin's says more of itself: `api`, the struct
    of its own table (`Section`, read by `plugins.section`), and the `anomalies` that it can find with their severity,
    each of which every reading of it speaks of (`CheckData`). Ours are known to the engine, which judges them.
    """

    family: str
    api: ClassVar[int]
    Section: ClassVar[type[msgspec.Struct]] = plugins.Nothing
    anomalies: ClassVar[Mapping[str, Severity]] = {}

    @abstractmethod
    def sources(self) -> tuple[Source, ...]:
        """What is read by its interval."""

    def source(self, target_id: str) -> Source | None:
        """The source of this id, also of one that has just gone (a finished task, an unmounted disk), whose reading
        then says so; None for what can never be ours."""
        return next((source for source in self.sources() if source.source_id == target_id), None)

    def cancel(self, target_id: str, by: str) -> str:
        """Ends a check of this target that goes on in the background, in the name of `by`; why not, in words."""
        return f"no check of {target_id} goes on in the background"

    @abstractmethod
    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        """What is so now, within `deadline_s` (seconds). Never raises. May be cancelled at any await."""

    def watch(self, events: Events) -> None:  # noqa: B027 - a family without events has nothing to do here
        """From now on tell `events` what the kernel tells (R8). Called once, inside the running loop."""

    @abstractmethod
    def reconfigure(self, config: Config) -> None:
        """A new configuration is in force: what has not changed is left alone, memory and watches included."""

    def remember(self, known: Mapping[str, ProcessRef]) -> None:  # noqa: B027 - for the family of services only
        """What was last seen to be a target's process, before this worker's time; told at its start, and again."""

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        """The readings (`external`) that somebody else's poll stands for. Raises Refused."""
        raise Refused(f"readings of {given.source_id!r} are not taken from outside")

    def close(self) -> None:  # noqa: B027
        """Let go of every descriptor."""


class Began(msgspec.Struct, frozen=True):
    """When a check began; every reading is made from one, so that all carry the same times in the same way.

    `checked_mono_s`: when the background check began whose verdict is told (R9). `external`: from outside.
    """

    source: Source
    family: str
    mono_s: float
    wall_s: float
    checked_mono_s: float | None = None
    external: bool = False

    def tells(self, data: ReadingData) -> HealthReading:
        return self._reading(available=True, data=data)

    def cannot(self, reason: Unavailable, error: str) -> HealthReading:
        """R9: `available=False`, with the reason for programs and for people."""
        return self._reading(available=False, reason=reason, error=error[:ERROR_CHARS_MAX])

    def _reading(
        self,
        *,
        available: bool,
        data: ReadingData | None = None,
        reason: Unavailable = Unavailable.NONE,
        error: str = "",
    ) -> HealthReading:
        return HealthReading(
            target_id=self.source.source_id,
            family=self.family,
            taken_mono_s=self.mono_s,
            taken_wall_s=self.wall_s,
            took_ms=(clock.monotonic_s() - self.mono_s) * 1000,
            freshness_ms=self.source.freshness_threshold_ms,
            available=available,
            data=data,
            reason=reason,
            error=error,
            external=self.external,
            checked_mono_s=self.checked_mono_s,
        )


def begin(source: Source, family: str) -> Began:
    return Began(source, family, clock.monotonic_s(), clock.wall_s())


def begin_outside(source: Source, family: str, given: SourceReading) -> Began:
    """A reading from outside, as old as it says. Raises Refused for one that is no longer fresh, or is yet to come."""
    age_s = clock.wall_s() - given.captured_wall_s
    if age_s < -CLOCKS_APART_S:
        raise Refused(f"it was captured {-age_s:.0f} s in the future")
    if age_s * 1000 > given.freshness_ms:
        raise Refused(f"it is {age_s:.0f} s old, and fresh for {given.freshness_ms / 1000:g} s only")
    source = msgspec.structs.replace(source, freshness_threshold_ms=given.freshness_ms)
    mono_s = clock.monotonic_s() - max(age_s, 0.0)
    return Began(source, family, mono_s, given.captured_wall_s, external=True)


def stop_file_stands(path: str) -> bool:
    """Does this stop file exist (R8)? A dangling link does; "" is none. Raises OSError when that cannot be told: then
    nothing may be started."""
    try:
        return bool(path) and bool(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return False
