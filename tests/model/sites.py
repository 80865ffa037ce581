"""Small worlds for the exhaustive model: few targets, what their probes may say, what may go wrong around them."""

from __future__ import annotations

import msgspec

from remediators.runbooks import RUNBOOKS
from supervisor.incidents.model import Runbook, Target
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import (
    FleetData,
    HealthReading,
    PidFile,
    ProcessData,
    ProcessRef,
    Unavailable,
)
from tests.lab.engine import BOOT, service

CLEAR, FIRING, SILENT = "clear", "firing", "unavailable"


class Site(msgspec.Struct, frozen=True):
    """One world to explore. `rows_max`: so many messages may wait before the notifier delivers. `sample`: of the states
    at the edge every so manieth is walked on from."""

    name: str
    targets: tuple[Target, ...]
    runbook_id: str
    people: frozenset[str]
    policy: Policy = Policy(breaker_per_target=2, clear_readings=2, repeats_s=(3600.0, 14400.0))
    says: tuple[str, ...] = (CLEAR, FIRING, SILENT)
    rows_max: int = 2
    late_readings: bool = True
    deliveries_fail: bool = False
    crashes: bool = True
    executor_dies: bool = True
    programs_end: bool = True
    sample: int = 50

    @property
    def runbooks(self) -> tuple[Runbook, ...]:
        return tuple(book for book in RUNBOOKS if book.id == self.runbook_id)

    def reading(self, target_id: str, says: str, taken_mono_s: float, wall_s: float) -> HealthReading:
        family = next(target.family for target in self.targets if target.target_id == target_id)
        data: ProcessData | FleetData | None
        if family == "fleet":
            data = FleetData("192.0.2.1", 22) if says == CLEAR else None
            reason = {CLEAR: Unavailable.NONE, FIRING: Unavailable.TIMEOUT, SILENT: Unavailable.ERROR}[says]
        else:
            alive = says == CLEAR
            process = ProcessRef(BOOT, 100, 100) if alive else None
            data = None if says == SILENT else ProcessData(alive, process, PidFile.OK if alive else PidFile.STALE)
            reason = Unavailable.ERROR if says == SILENT else Unavailable.NONE
        return HealthReading(
            target_id, family, taken_mono_s, wall_s, 1.0, 60_000, data is not None, data, reason=reason,
            error="" if data is not None else "no answer",
        )  # fmt: skip

    def said(self, reading: HealthReading) -> str:
        """Which of its words this reading was."""
        if reading.family == "fleet":
            return {Unavailable.NONE: CLEAR, Unavailable.TIMEOUT: FIRING}.get(reading.reason, SILENT)
        if not isinstance(reading.data, ProcessData):
            return SILENT
        return CLEAR if reading.data.alive else FIRING


EVERYTHING = frozenset({"approve", "dismiss", "ack", "execute", "pause"})
SITES = {
    site.name: site
    for site in (
        # Without people, crashes and silence: small enough to be explored to its end.
        Site("tiny", (service("tiny"),), "rb-restart-service", frozenset(), says=(CLEAR, FIRING), rows_max=0,
             late_readings=False, crashes=False, executor_dies=False, programs_end=False),
        Site("auto", (service("auto"),), "rb-restart-service", frozenset({"dismiss", "ack", "execute"})),
        Site("asks", (service("asks", auto_restart=False),), "rb-restart-service", EVERYTHING),
        Site("bare", (service("bare", recipe=False),), "rb-restart-service", frozenset({"dismiss", "ack"}),
             deliveries_fail=True,
             policy=Policy(breaker_per_target=2, clear_readings=2, repeats_s=(3600.0, 14400.0), pages=True)),
        Site("two", (service("one"), service("other", auto_restart=False)), "rb-restart-service",
             frozenset({"approve"}), rows_max=1),
        Site("host", (Target("fleet:far", "fleet"),), "rb-probe-then-alert", frozenset({"dismiss", "ack"})),
    )
}  # fmt: skip
