"""Targets that come and go, and readings from outside that stand in for our own: the worker on a real bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from probes import runner
from probes.base import Refused, Source, begin_outside
from probes.runner import ProbeWorker
from supervisor import clock
from supervisor.incidents.readings import HealthReading, ProcessData, SourceReading, Unavailable
from supervisor.messages import Ack, Body, Nack, Outside, ProbeNow, Readings, Resync
from tests.process.probelab import WITHIN_S, Healer, Lab, at_once, scripted
from tests.process.probelab import lab as lab

QUESTIONS = 30


def of(name: str, alive: bool | None = None) -> Callable[[HealthReading], bool]:
    def wanted(reading: HealthReading) -> bool:
        if reading.target_id != name:
            return False
        return alive is None or (isinstance(reading.data, ProcessData) and reading.data.alive is alive)

    return wanted


class Gate:
    """A read that waits until it is let through; `begun` counts."""

    def __init__(self) -> None:
        self.begun = 0
        self.open = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        await self.open.wait()


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not true():
            await asyncio.sleep(0.001)


@pytest.mark.req("FR-001")
def test_a_target_that_comes_is_read_and_one_that_goes_is_read_once_more(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scripted(monkeypatch, {"a": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("a", alive=True))
        probe.reads["b"] = at_once
        worker.sources_changed()
        await healer.until(of("b", alive=True))
        probe.gone["b"] = probe.reads.pop("b")
        worker.sources_changed()
        worker.sources_changed()
        await healer.until(of("b", alive=False))
        assert "b" not in worker._schedule
        assert [r.data.alive for r in healer.readings if r.target_id == "b"] == [True, False]  # type: ignore[union-attr]
        # An open incident of it may still be asked about (R7); it does not come back to stay.
        answer = await healer.request(ProbeNow("b"))
        assert isinstance(answer, Readings)
        assert answer.readings[0].data == ProcessData(alive=False)
        assert "b" not in worker._schedule
        probe.reads["b"] = at_once
        worker.sources_changed()
        await healer.until(of("b", alive=True), len(healer.readings))
        assert "b" in worker._schedule

    asyncio.run(lab.run({}, script))


def test_a_read_under_way_when_its_target_goes_is_not_the_last_word(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have looked before: then nobody would ever be told that the target has gone."""

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await until(lambda: gate.begun)
        probe.gone["a"] = at_once
        del probe.reads["a"]
        worker.sources_changed()
        gate.open.set()
        await healer.until(of("a"))
        last = await healer.until(of("a", alive=False), len(healer.readings) - 1)
        assert last.taken_mono_s >= healer.readings[0].taken_mono_s
        await until(lambda: "a" not in worker._schedule)

    async def main() -> None:
        nonlocal gate
        gate = Gate()
        probe.reads["a"] = gate
        await lab.run({}, script)

    gate: Gate
    probe = scripted(monkeypatch, {})
    asyncio.run(main())


def test_a_target_that_vanishes_answers_whoever_still_asks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    probe = scripted(monkeypatch, {"a": at_once, "b": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("a"))
        gate = probe.reads["a"] = Gate()
        assert healer.hub is not None
        first = healer.hub.request("process", ProbeNow("a"))
        await until(lambda: gate.begun)
        second = healer.hub.request("process", ProbeNow("a"))  # it came too late for the read under way
        await until(lambda: len(worker._schedule._targets["a"].asked) == 2)
        del probe.reads["a"]  # and nothing is known of it any more
        worker.sources_changed()
        gate.open.set()
        async with asyncio.timeout(WITHIN_S):
            assert isinstance(await first, Readings)
            body = await second
        assert isinstance(body, Nack)
        assert body.code == "unknown_id"
        assert isinstance(await healer.request(ProbeNow("b")), Readings)
        assert isinstance(await healer.request(Resync()), Ack)

    asyncio.run(lab.run({}, script))


def test_a_suspect_that_goes_or_comes_late_is_no_trap(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A suspect is read alone; one that has vanished must not keep all others waiting, one that comes is alone too."""

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await until(lambda: gate.begun)
        del probe.reads["odd2"]
        worker.sources_changed()
        gate.open.set()
        await healer.until(of("good"))
        probe.reads["late"] = late = Gate()
        probe.reads["more"] = at_once
        worker.sources_changed()
        await until(lambda: late.begun)
        assert list(worker._flights) == ["late"]
        late.open.set()
        await healer.until(of("more"))

    async def main() -> None:
        nonlocal gate
        gate = Gate()
        probe.reads["odd1"] = gate
        await lab.run({}, script, suspects=frozenset({"reading:odd1", "reading:odd2", "reading:late"}))

    gate: Gate
    probe = scripted(monkeypatch, {"odd2": at_once, "good": at_once})
    asyncio.run(main())


def given(source_id: str = "svc", *, age_s: float = 0.0, freshness_ms: int = 60_000, **more: object) -> SourceReading:
    reading = SourceReading(source_id, clock.wall_s() - age_s, freshness_ms, True)
    return msgspec.structs.replace(reading, **more)


def understood(reading: SourceReading) -> tuple[HealthReading, ...]:
    began = begin_outside(Source(reading.source_id, 60_000, 60_000), "process", reading)
    if not reading.available:
        return (began.cannot(Unavailable.ERROR, reading.error),)
    return (began.tells(ProcessData(alive=False)),)


@pytest.mark.req("NFR-004")
def test_a_reading_from_outside_goes_to_the_healer_and_holds_our_poll(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scripted(monkeypatch, {"svc": at_once, "other": at_once})
    probe.interval_ms = 200
    probe.given = understood

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        assert await healer.request(Outside(given(freshness_ms=1500))) == Ack()
        fed = await healer.until(lambda reading: reading.external)
        assert fed.data == ProcessData(alive=False)
        assert fed.freshness_ms == 1500
        ends_s = fed.taken_mono_s + 1.5
        seen = len(healer.readings)
        # Ours resume when nobody feeds any more, and not before; other targets are polled as ever.
        resumed = await healer.until(lambda reading: reading.target_id == "svc", seen)
        assert not resumed.external
        assert resumed.taken_mono_s >= ends_s
        assert sum(reading.target_id == "other" for reading in healer.readings[seen:]) >= 3

    asyncio.run(lab.run({}, script))


@pytest.mark.req("NFR-004", "R7", "R8")
def test_what_is_held_is_still_read_when_it_is_asked_for_or_the_kernel_tells(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scripted(monkeypatch, {"svc": at_once})
    probe.given = understood

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        assert await healer.request(Outside(given())) == Ack()
        answer = await healer.request(ProbeNow("svc"))
        assert isinstance(answer, Readings)
        assert not answer.readings[0].external
        seen = len(healer.readings)
        worker.read_soon("svc", 0.0)
        reading = await healer.until(of("svc"), seen)
        assert not reading.external

    asyncio.run(lab.run({}, script))


@pytest.mark.req("NFR-004", "R9")
def test_what_cannot_be_taken_from_outside_holds_nothing_and_says_why(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scripted(monkeypatch, {"svc": at_once})

    def raises(reading: SourceReading) -> tuple[HealthReading, ...]:
        raise KeyError(reading.source_id)

    def refuses(reading: SourceReading) -> tuple[HealthReading, ...]:
        raise Refused("its side is neither long nor short")

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        poll_s = worker._schedule._targets["svc"].poll_s
        for how, reading, words in (
            (probe.given, given(), "not taken from outside"),
            (refuses, given(), "neither long nor short"),
            (raises, given(), "cannot be understood (KeyError)"),
            (understood, given(age_s=61), "61 s old"),
            (understood, given(age_s=-60), "in the future"),
            (understood, given("nobody"), "nobody is not watched"),
        ):
            probe.given = how
            body = await healer.request(Outside(reading))
            assert isinstance(body, Nack), words
            assert words in body.message
        probe.given = understood
        assert await healer.request(Outside(given(available=False, error="timeout"))) == Ack()
        fed = await healer.until(lambda reading: reading.external)
        assert not fed.available
        assert worker._schedule._targets["svc"].poll_s == poll_s, "their failed poll stands in for none of ours"

    asyncio.run(lab.run({}, script))


@pytest.mark.req("NFR-004")
def test_a_reading_from_outside_does_not_take_the_place_of_our_own_on_its_way(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = scripted(monkeypatch, {"svc": at_once})
    probe.given = understood

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        seen = len(healer.readings)
        asked_s = clock.monotonic_s()
        own = HealthReading("svc", "process", asked_s, clock.wall_s(), 0.0, 1000, True, ProcessData(alive=True))
        worker._outbound.put(own)
        worker._outbound.put(understood(given())[0])  # in the same turn: our own has not left yet
        async with asyncio.timeout(WITHIN_S):
            while len(healer.readings) < seen + 1 or not any(reading == own for reading in healer.readings[seen:]):
                await asyncio.sleep(0.001)

    asyncio.run(lab.run({}, script))


@pytest.mark.req("R7")
def test_questions_share_a_read_and_none_is_answered_by_one_that_began_before_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Probe now, coalesced with a poll already under way: each answer began at or after its question."""
    probe = scripted(monkeypatch, {"svc": at_once})

    async def slow() -> None:
        nonlocal begun
        begun += 1
        enough = min(len(asked) + 8, QUESTIONS)
        await until(lambda: len(asked) >= enough)

    begun = 0
    asked: list[tuple[float, Awaitable[Body]]] = []

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        probe.reads["svc"] = slow
        assert healer.hub is not None
        for n in range(QUESTIONS):
            if n % 10 == 5:
                worker.read_soon("svc", 0.001)  # a poll in between
            asked.append((clock.monotonic_s(), healer.hub.request("process", ProbeNow("svc"))))
            await asyncio.sleep(0.002)
        async with asyncio.timeout(WITHIN_S):
            for asked_s, answer in asked:
                body = await answer
                assert isinstance(body, Readings)
                assert body.readings[0].taken_mono_s >= asked_s
        assert begun < QUESTIONS, "questions that came together share a read"

    asyncio.run(lab.run({}, script))


@pytest.mark.req("R7", "R9")
def test_who_asks_during_a_read_that_hangs_does_not_wait_for_two_deadlines(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "DEADLINE_S", 3.0)
    monkeypatch.setattr(runner, "HUNG_AGAIN_S", 0.2)
    probe = scripted(monkeypatch, {"svc": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(of("svc"))
        gate = probe.reads["svc"] = Gate()
        assert healer.hub is not None
        first = healer.hub.request("process", ProbeNow("svc"))
        await until(lambda: gate.begun == 1)
        asked_s = clock.monotonic_s()
        second = await healer.request(ProbeNow("svc"))
        assert isinstance(second, Readings)
        assert second.readings[0].taken_mono_s >= asked_s
        assert second.readings[0].took_ms < 3000, "its own deadline was counted from the question"
        assert first.done()
        gate.open.set()
        later = await healer.request(ProbeNow("svc"))
        assert isinstance(later, Readings)
        assert later.readings[0].available

    asyncio.run(lab.run({}, script))
