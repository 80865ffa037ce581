"""How each target's figure has moved lately, for the dashboard: a few numbers a target, in memory alone.

The figure is what a person would ask of that kind of target: how full, how old, how slow. Only our own readings count;
they are lost with the healer, which is no loss.
"""

from __future__ import annotations

from array import array
from typing import Any

from supervisor.incidents.readings import (
    DatabaseData,
    DiskData,
    FleetData,
    GatewayData,
    HealthReading,
    LogsData,
    MemoryData,
    PositionsData,
    SignalData,
)
from supervisor.incidents.views import stamp
from supervisor.incidents.world import World

KEPT = 48  # readings of each target
TARGETS_MAX = 2_000  # whose figures are kept; and so many are told of in one answer


class _Series:
    __slots__ = ("every_s", "taken_wall_s", "values")

    def __init__(self) -> None:
        self.values = array("d")
        self.taken_wall_s: float | None = None
        self.every_s: float | None = None  # between the two newest readings


class Samples:
    def __init__(self) -> None:
        self._series: dict[str, _Series] = {}

    def observe(self, reading: HealthReading) -> None:
        if reading.external:
            return
        series = self._series.get(reading.target_id)
        if series is None:
            if len(self._series) >= TARGETS_MAX:
                return
            series = self._series[reading.target_id] = _Series()
        if series.taken_wall_s is not None and reading.taken_wall_s > series.taken_wall_s:
            series.every_s = reading.taken_wall_s - series.taken_wall_s
        series.taken_wall_s = reading.taken_wall_s
        if reading.available:
            series.values.append(figure(reading)[0])
            del series.values[:-KEPT]

    def view(self, world: World) -> dict[str, Any]:
        """`targets`: those with incidents first, then by name; `more`: how many are left out."""
        worst: dict[str, str] = {}
        for incident in world.incidents.values():
            worst[incident.target_id] = incident.anomaly.value
        known = sorted(world.readings, key=lambda name: (name not in worst, name))
        rows = [self._row(world.readings[name], worst.get(name)) for name in known[:TARGETS_MAX]]
        return {"targets": rows, "more": max(0, len(known) - TARGETS_MAX)}

    def _row(self, reading: HealthReading, anomaly: str | None) -> dict[str, Any]:
        series = self._series.get(reading.target_id)
        value, unit = figure(reading)
        every_s = series.every_s if series is not None else None
        return {
            "target_id": reading.target_id,
            "family": reading.family,
            "available": reading.available,
            "error": None if reading.available else f"{reading.reason.value}: {reading.error}",
            "anomaly": anomaly,
            "taken_at": stamp(reading.taken_wall_s),
            "took_ms": round(reading.took_ms, 3),
            "every_s": round(every_s, 3) if every_s is not None else None,
            "value": value if reading.available else None,
            "unit": unit,
            "trend": list(series.values) if series is not None else [],
            "full_in_s": reading.data.full_in_s if isinstance(reading.data, DiskData) else None,
        }


def figure(reading: HealthReading) -> tuple[float, str]:
    """The one number that tells most of a target, and its unit: share, bytes, s, ms or count."""
    match reading.data:
        case DiskData(used_share=share):
            return share, "share"
        case MemoryData(available_bytes=available):
            return float(available), "bytes"
        case SignalData(age_s=age_s):
            return age_s, "s"
        case PositionsData(open_trades=trades):
            return float(trades), "count"
        case GatewayData(latency_ms=latency_ms) | FleetData(latency_ms=latency_ms):
            return latency_ms, "ms"
        case DatabaseData(size_bytes=size) | LogsData(total_bytes=size):
            return float(size), "bytes"
        case _:
            return reading.took_ms, "ms"
