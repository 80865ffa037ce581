"""`check --live`: looks that are taken again as their probe wishes, until the time is up."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from probes import live
from probes.base import DEADLINE_S, Source, begin
from supervisor.incidents.looks import Look, Outcome
from supervisor.incidents.readings import HealthReading


@pytest.mark.req("FR-001")
def test_the_time_may_run_out_between_two_looks_at_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("t", 1000, 1000)
    reading = begin(source, "x").tells(None)  # type: ignore[arg-type]
    times = iter((0.0, DEADLINE_S - 0.001))
    family = live._Family.__new__(live._Family)
    family._due_s = {}
    family._loop = SimpleNamespace(time=lambda: next(times, DEADLINE_S + 0.001))  # type: ignore[assignment]

    async def read(source: Source, within_s: float) -> HealthReading:
        return reading

    look = Look(reading, (), Outcome.UNKNOWN, "still checking")
    monkeypatch.setattr(family, "_read", read)
    monkeypatch.setattr(family, "_judge", lambda reading, before=None: look)
    assert asyncio.run(family._settled(source)) is look
