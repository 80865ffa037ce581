"""The `fleet` family (FR-001)."""

from __future__ import annotations

from probes.base import Probe, Source, begin
from supervisor.config import Config
from supervisor.incidents.readings import HealthReading, Unavailable


class FleetProbe(Probe):
    family = "fleet"

    def __init__(self, config: Config) -> None:
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        del config

    def sources(self) -> tuple[Source, ...]:
        return ()

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        return begin(Source(target_id, 1000, 1000), self.family).cannot(Unavailable.ERROR, "not written yet")
