"""The guard between a plugin's probe and everybody else: what it takes of a reading, and what it says of the rest."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from importlib import metadata
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec
import pytest

from probes.base import ERROR_CHARS_MAX, Events, Probe, Source, begin
from probes.plugin import PluginProbe
from supervisor import clock
from supervisor.config import Config
from supervisor.incidents.looks import judged, look_json
from supervisor.incidents.model import Instant
from supervisor.incidents.readings import CheckData, Finding, HealthReading, Severity, Status, Unavailable
from supervisor.messages import AtWork
from supervisor.plugins import Part, Piece

pytestmark = pytest.mark.req("R7", "R9")

PIECE = Piece("look", Part.PROBE, "acme-look", "1.0", "acme_look:Look")
GOOD = (Finding("odd", Status.FIRING, "it is", severity=Severity.CRITICAL), Finding("even", Status.CLEAR))


class Look(Probe):
    api = 1
    family = "look"
    anomalies = MappingProxyType({"odd": Severity.MEDIUM, "even": Severity.HIGH})
    given: Callable[[], Any]
    found: Any = (Source("look:one", 1000, 1000),)

    def __init__(self, config: Config) -> None:
        pass

    def reconfigure(self, config: Config) -> None:
        pass

    def sources(self) -> tuple[Source, ...]:
        return self.found

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        return type(self).given()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], HealthReading]:
    module = ModuleType("acme_look")
    module.Look = Look  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "acme_look", module)
    monkeypatch.setattr(metadata, "version", {"acme-look": "1.0"}.__getitem__)

    def one(given: Callable[[], Any]) -> HealthReading:
        monkeypatch.setattr(Look, "given", staticmethod(given), raising=False)
        return asyncio.run(PluginProbe("look", Config(piece={"look": PIECE})).read("look:one", 4.8))

    return one


def good(**changes: Any) -> HealthReading:
    reading = begin(Source("look:one", 1000, 1000), "look").tells(CheckData(GOOD))
    return msgspec.structs.replace(reading, **changes)


def test_a_good_reading_passes_with_the_severities_that_are_declared(read: Any) -> None:
    reading = read(lambda: good(external=True))
    assert reading.available
    assert not reading.external
    assert [(it.anomaly, it.status, it.severity) for it in reading.data.findings] == [
        ("odd", Status.FIRING, Severity.MEDIUM),
        ("even", Status.CLEAR, Severity.HIGH),
    ]


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize("wall_s", [1e300, -1e300, math.nan, math.inf, 0.0])
def test_when_it_looked_is_ours_to_say_so_that_any_time_can_be_shown(read: Any, wall_s: float) -> None:
    """The healer is asked for every target's newest reading by whoever looks at the dashboard."""
    reading = read(lambda: good(taken_wall_s=wall_s))
    assert reading.available
    assert abs(reading.taken_wall_s - clock.wall_s()) < 60
    assert look_json(judged(reading, Instant(1.0, 1.0, 1.0)))["captured_at"].startswith("20")


def test_why_it_cannot_tell_is_no_novel(read: Any) -> None:
    reading = read(lambda: good(available=False, data=None, reason=Unavailable.ERROR, error="x" * 60_000))
    assert (reading.reason, len(reading.error)) == (Unavailable.ERROR, ERROR_CHARS_MAX)


class Heard(Events):
    def __init__(self) -> None:
        self.told: list[AtWork] = []
        self.soon: list[tuple[str, float]] = []

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.soon.append((target_id, in_s))

    def tell(self, work: AtWork) -> None:
        self.told.append(work)

    def sources_changed(self) -> None:
        pass


def test_it_tells_of_its_own_checks_alone_seldom_and_in_few_words(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, given = Heard(), []
    monkeypatch.setattr(Look, "watch", lambda self, events: given.append(events))
    PluginProbe("look", Config(piece={"look": PIECE})).watch(heard)
    (events,) = given
    for strange in (
        AtWork("web", "copy"),
        AtWork("look:one", "copy", execution_id="exe-1", over=True),
        AtWork("look:one", "copy", done=math.nan),
        AtWork(f"look:{'x' * 300}", "copy"),
        "done",
    ):
        with pytest.raises(TypeError):
            events.tell(strange)
    for done in range(100):
        events.tell(AtWork("look:one", "x" * 1_000, done, 100, "y" * 1_000))
    events.tell(AtWork("look:one", "", over=True))
    first, last = heard.told
    assert (first.done, len(first.stage), len(first.unit), last.over) == (0, 200, 200, True)
    events.read_soon("look:one", math.nan)
    assert heard.soon == [("look:one", 0.0)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: None, "what it gave is no reading"),
        (lambda: good(took_ms="long"), "what it gave is no reading"),
        (lambda: good(data=CheckData((Finding("odd", "odd"),))), "what it gave is no reading"),
        (lambda: good(target_id="web"), "a reading of web (look), asked for look:one"),
        (lambda: good(family="process"), "a reading of look:one (process), asked for look:one"),
        (lambda: good(taken_mono_s=clock.monotonic_s() - 60), "its look did not begin when it was asked"),
        (lambda: good(taken_mono_s=clock.monotonic_s() + 60), "its look did not begin when it was asked"),
        (lambda: good(checked_mono_s=clock.monotonic_s() + 60), "its background check begins in the future"),
        (lambda: good(checked_mono_s=-1e300), "its background check begins in the future, or never"),
        (lambda: good(taken_mono_s=math.nan), "its look did not begin when it was asked"),
        (lambda: good(took_ms=math.nan), "it took nan ms"),
        (lambda: good(took_ms=math.inf), "it took inf ms"),
        (lambda: good(freshness_ms=-1), "is fresh for -1 ms"),
        (lambda: good(freshness_ms=2**60), "is fresh for 1152921504606846976 ms"),
        (lambda: good(error="x" * 70_000), "bytes, at most 65536"),
        (lambda: good(available=False), "a reading has data, or is not available"),
        (lambda: good(data=CheckData(GOOD[:1])), "findings of odd, expected one of each: even, odd"),
        (lambda: good(data=CheckData((*GOOD, GOOD[0]))), "expected one of each: even, odd"),
        (lambda: good(data=CheckData((*GOOD, Finding("more", Status.CLEAR)))), "expected one of each: even, odd"),
        (lambda: good(data=CheckData(GOOD, figures={str(n): n for n in range(51)})), "51 figures, at most 50"),
    ],
)
def test_rubbish_is_a_reading_that_says_nothing_but_whose_it_was(
    read: Any, given: Callable[[], Any], said: str
) -> None:
    reading = read(given)
    assert (reading.target_id, reading.family, reading.available) == ("look:one", "look", False)
    assert reading.reason is Unavailable.BAD_DATA
    assert reading.error.startswith("acme-look 1.0, probe look = acme_look:Look: ")
    assert said in reading.error


@pytest.mark.parametrize(
    "found",
    [
        [Source("look:one", 1000, 1000)],
        (Source("web", 1000, 1000),),
        (Source("look:", 1000, 1000),),
        (Source("look:a\nb", 1000, 1000),),
        (Source("look:one", 0, 1000),),
        (Source("look:one", 1000, 10**400),),
        (Source("look:one", 1000, 1e9),),  # type: ignore[arg-type]
        ("look:one",),
        tuple(Source(f"look:{n}", 1000, 1000) for n in range(1001)),
    ],
)
def test_targets_that_are_not_its_own_fail_its_worker(read: Any, monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setattr(Look, "found", found)
    with pytest.raises(TypeError, match=r"acme-look 1\.0, probe look"):
        PluginProbe("look", Config(piece={"look": PIECE})).sources()
