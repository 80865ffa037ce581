"""What a probe is: the contract between a family's probe and the runner that drives it (DESIGN §5, FR-001).

A probe looks and tells; it never judges (`supervisor.incidents.classify` does), never repairs, never creates a file
and never raises: what it cannot see is a reading with `available=False` and the reason (R9).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

from supervisor import clock
from supervisor.incidents.readings import HealthReading, ReadingData, Unavailable

DEADLINE_S = 5.0  # R9: every reading within 5 s
ERROR_CHARS_MAX = 500


class Source(msgspec.Struct, frozen=True):
    """One target as a source of readings, in the words of the site's DataSourceAdapter (NFR-004, SITE.md)."""

    source_id: str
    poll_interval_ms: int
    freshness_threshold_ms: int


ReadSoon = Callable[[str, float], None]
"""A probe's wish to its runner: read this target in so many seconds. 0 is for events of the kernel: it is read at
once, and a read that is under way is begun anew, since it may have looked before the event."""


class Probe(Protocol):
    """One family. `read` answers for any of `sources`; the runner calls it once at a time per target."""

    family: str

    def sources(self) -> tuple[Source, ...]: ...

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        """What is so now, within `deadline_s` (seconds). Never raises. May be cancelled at any await."""
        ...

    def watch(self, read_soon: ReadSoon) -> None:
        """From now on tell `read_soon` what the kernel tells (R8). Called once, inside the running loop."""
        ...

    def close(self) -> None:
        """Let go of every descriptor."""
        ...


class Began(msgspec.Struct, frozen=True):
    """When a check began; every reading is made from one, so that all carry the same times in the same way."""

    source: Source
    family: str
    mono_s: float
    wall_s: float

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
        )


def begin(source: Source, family: str) -> Began:
    return Began(source, family, clock.monotonic_s(), clock.wall_s())
