"""How each target's figure has moved, for the dashboard."""

from __future__ import annotations

import msgspec
import pytest

from supervisor.incidents.readings import DiskData, HealthReading, MemoryData, Unavailable
from supervisor.samples import KEPT, TARGETS_MAX, Samples, figure
from tests.lab.engine import Lab

pytestmark = pytest.mark.req("FR-007")


def disk(share: float, at_s: float, name: str = "disk:/", **more: object) -> HealthReading:
    data = DiskData("/", 0.85, 0.95, used_share=share, full_in_s=3600.0)
    reading = HealthReading(name, "host", at_s, at_s, 0.5, 1000, True, data)
    return msgspec.structs.replace(reading, **more)


def view(samples: Samples, *readings: HealthReading) -> dict[str, object]:
    lab = Lab("web")
    lab.engine.world.readings = {reading.target_id: reading for reading in readings}
    return samples.view(lab.engine.world)


def test_a_target_tells_its_figure_its_trend_and_when_it_is_looked_at_next() -> None:
    samples = Samples()
    for n in range(KEPT + 5):
        samples.observe(disk(n / 100, 600.0 * n))
    last = disk((KEPT + 4) / 100, 600.0 * (KEPT + 4))
    (row,) = view(samples, last)["targets"]  # type: ignore[misc]
    assert (row["value"], row["unit"], row["every_s"], row["full_in_s"]) == ((KEPT + 4) / 100, "share", 600.0, 3600.0)
    assert (len(row["trend"]), row["trend"][-1]) == (KEPT, (KEPT + 4) / 100)


def test_what_others_hand_in_and_what_could_not_be_read_is_no_figure() -> None:
    samples = Samples()
    samples.observe(disk(0.5, 1.0))
    samples.observe(disk(0.9, 2.0, external=True))
    blind = disk(0.0, 3.0, available=False, data=None, reason=Unavailable.TIMEOUT, error="no answer")
    samples.observe(blind)
    (row,) = view(samples, blind)["targets"]  # type: ignore[misc]
    assert (row["trend"], row["value"], row["available"]) == ([0.5], None, False)
    assert "no answer" in row["error"]


def test_targets_beyond_the_limit_are_counted_not_kept() -> None:
    samples = Samples()
    readings = [disk(0.5, 1.0, f"disk:/{n:05d}") for n in range(TARGETS_MAX + 3)]
    for reading in readings:
        samples.observe(reading)
    body = view(samples, *readings)
    assert (len(body["targets"]), body["more"]) == (TARGETS_MAX, 3)  # type: ignore[arg-type]


def test_a_reading_without_a_figure_of_its_own_tells_how_long_it_took() -> None:
    assert figure(disk(0.0, 0.0, data=MemoryData(7, 10, 2, 1))) == (7.0, "bytes")
    assert figure(disk(0.0, 0.0, data=None)) == (0.5, "ms")
