"""The probe worker against a real bus: events, questions, a healer that goes away, deadlines, poison, bad frames."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from probes import process, runner
from probes.runner import ProbeWorker
from supervisor import clock
from supervisor.config import Duration, ProcessSection
from supervisor.incidents.readings import Endpoint, HealthReading, ProcessData, Unavailable
from supervisor.messages import Ack, Hello, Nack, ProbeNow, Readings, Resync
from tests.process.probelab import WITHIN_S, Healer, Lab, at_once, scripted
from tests.process.probelab import lab as lab


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
        running.append(child)
        return child

    yield begin
    for child in running:
        child.kill()
        child.communicate()


Start = Callable[..., "subprocess.Popen[bytes]"]


def pid_file(lab: Lab, name: str, child: subprocess.Popen[bytes]) -> ProcessSection:
    path = lab.directory / f"{name}.pid"
    path.write_text(f"{child.pid}\n")
    return ProcessSection(pid_file=str(path))


def facts(reading: HealthReading) -> ProcessData:
    assert reading.available, reading.error
    assert isinstance(reading.data, ProcessData)
    return reading.data


def alive(reading: HealthReading) -> bool:
    return facts(reading).alive is True


def dead(reading: HealthReading) -> bool:
    return facts(reading).alive is False


@pytest.mark.req("R8", "AC-001")
def test_a_death_is_told_by_the_kernel_not_by_the_poll(lab: Lab, start: Start) -> None:
    child = start("sleep", "60")

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(alive)
        killed_s = clock.monotonic_s()
        child.kill()
        reading = await healer.until(dead)  # within half a minute; the poll is a minute away
        assert reading.taken_mono_s >= killed_s
        assert worker.done >= 2

    asyncio.run(lab.run({"svc": pid_file(lab, "svc", child)}, script))


@pytest.mark.req("R8")
def test_a_restart_by_somebody_else_is_seen_and_watched_in_turn(lab: Lab, start: Start) -> None:
    first = start("sleep", "60")
    section = pid_file(lab, "svc", first)

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(alive)
        first.kill()
        await healer.until(dead)
        seen = len(healer.readings)
        second = start("sleep", "60")
        pid_file(lab, "svc", second)
        reading = await healer.until(alive, seen)
        assert facts(reading).process is not None
        assert facts(reading).process.pid == second.pid  # type: ignore[union-attr]
        seen = len(healer.readings)
        second.kill()
        await healer.until(dead, seen)

    asyncio.run(lab.run({"svc": section}, script))


@pytest.mark.req("R7")
def test_probe_now_is_answered_by_exactly_one_fresh_reading(lab: Lab, start: Start) -> None:
    sections = {name: pid_file(lab, name, start("sleep", "60")) for name in ("a", "b")}

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(lambda reading: reading.target_id == "a")
        await healer.until(lambda reading: reading.target_id == "b")
        asked_s, seen = clock.monotonic_s(), len(healer.readings)
        answer = await healer.request(ProbeNow("b"))
        assert isinstance(answer, Readings)
        (reading,) = answer.readings
        assert reading.target_id == "b"
        assert reading.taken_mono_s >= asked_s
        assert len(healer.readings) == seen  # not sent a second time
        nack = await healer.request(ProbeNow("nobody"))
        assert isinstance(nack, Nack)
        assert nack.code == "unknown_id"

    asyncio.run(lab.run(sections, script))


@pytest.mark.req("R8")
def test_resync_reads_everything_again(lab: Lab, start: Start) -> None:
    sections = {name: pid_file(lab, name, start("sleep", "60")) for name in ("a", "b", "c")}

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        for name in sections:
            await healer.until(lambda reading, name=name: reading.target_id == name)  # type: ignore[misc]
        seen = len(healer.readings)
        assert isinstance(await healer.request(Resync()), Ack)
        for name in sections:
            await healer.until(lambda reading, name=name: reading.target_id == name, seen)  # type: ignore[misc]

    asyncio.run(lab.run(sections, script))


def test_a_healer_that_was_away_gets_the_newest_of_each_target(lab: Lab, start: Start) -> None:
    child = start("sleep", "60")
    sections = {"svc": pid_file(lab, "svc", child)}

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(alive)
        healer.close()
        seen, done = len(healer.readings), worker.done
        child.kill()
        async with asyncio.timeout(WITHIN_S):
            while worker.done < done + 4:  # the death, and looks for a restart
                await asyncio.sleep(0.01)
        assert worker._outbound.waiting == 1
        healer.open()
        reading = await healer.until(dead, seen)
        await healer.until(lambda newer: newer.taken_mono_s > reading.taken_mono_s, seen)
        times = [each.taken_mono_s for each in healer.readings]
        assert times == sorted(times)

    asyncio.run(lab.run(sections, script))


@pytest.mark.req("FR-001")
def test_a_failing_endpoint_is_asked_again_soon(lab: Lab, start: Start) -> None:
    section = ProcessSection(endpoint="tcp://127.0.0.1:1")

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        first = await healer.until(lambda reading: facts(reading).endpoint_failures == 1)
        second = await healer.until(lambda reading: facts(reading).endpoint_failures == 2)
        assert facts(second).endpoint is Endpoint.REFUSED
        assert 0.9 < second.taken_mono_s - first.taken_mono_s < WITHIN_S, "its poll is a minute away"

    asyncio.run(lab.run({"svc": section}, script))


def test_a_death_interrupts_a_read_that_waits_for_the_endpoint(
    lab: Lab, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The endpoint's 3 s, here 600, are no reason to report a death that much later."""
    monkeypatch.setattr(process, "ENDPOINT_TIMEOUT_S", 600.0)
    monkeypatch.setattr(runner, "DEADLINE_S", 1000.0)
    code = (
        "import socket,time; s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen();"
        " print(s.getsockname()[1],flush=True); time.sleep(60)"
    )
    child = start(sys.executable, "-c", code)
    assert child.stdout is not None
    port = int(child.stdout.readline())
    base = pid_file(lab, "svc", child)
    section = ProcessSection(pid_file=base.pid_file, endpoint=f"http://127.0.0.1:{port}")

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not worker._flights:
                await asyncio.sleep(0.001)
            # The process is watched before its endpoint is asked.
            while not worker._probe._watch._held:  # type: ignore[attr-defined]
                await asyncio.sleep(0.001)
        child.kill()
        await healer.until(dead)

    asyncio.run(lab.run({"svc": section}, script))


async def never() -> None:
    await asyncio.Event().wait()


async def raises() -> None:
    raise RuntimeError("broken probe")


@pytest.mark.req("FR-001", "R9")
def test_a_read_that_does_not_end_is_reported_at_the_deadline(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "DEADLINE_S", 0.2)
    release = asyncio.Event()

    async def deaf() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    scripted(monkeypatch, {"never": never, "deaf": deaf, "good": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        for name in ("never", "deaf"):
            reading = await healer.until(lambda reading, name=name: reading.target_id == name)  # type: ignore[misc]
            assert not reading.available
            assert reading.reason is Unavailable.DEADLINE
            assert 150 < reading.took_ms < 5000
        assert worker.oldest_work_s() > 0.1  # the one that ignores its end is still owned up to
        release.set()
        async with asyncio.timeout(WITHIN_S):
            while worker.oldest_work_s():
                await asyncio.sleep(0.01)
        assert alive(await healer.until(lambda reading: reading.target_id == "good"))

    asyncio.run(lab.run({}, script))


@pytest.mark.req("FR-001", "R9")
def test_a_probe_that_raises_is_a_reading_that_says_so(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(monkeypatch, {"bad": raises, "good": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        reading = await healer.until(lambda reading: reading.target_id == "bad")
        assert not reading.available
        assert "broken probe" in reading.error
        await healer.until(lambda reading: reading.target_id == "good")

    asyncio.run(lab.run({}, script))


def test_a_question_does_not_take_the_answer_of_an_older_read(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "DEADLINE_S", 1000.0)  # nor does it wait for its end
    begun = 0

    async def slow_once() -> None:
        nonlocal begun
        begun += 1
        if begun == 1:
            await never()

    scripted(monkeypatch, {"slow": slow_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        async with asyncio.timeout(WITHIN_S):
            while begun == 0:
                await asyncio.sleep(0.001)
        asked_s = clock.monotonic_s()
        answer = await healer.request(ProbeNow("slow"))
        assert isinstance(answer, Readings)
        assert answer.readings[0].taken_mono_s >= asked_s
        await healer.until(lambda reading: reading.target_id == "slow")  # the poll it gave way to is still owed

    asyncio.run(lab.run({}, script))


@pytest.mark.req("R7", "R8")
def test_reads_that_hang_keep_no_event_and_no_question_waiting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "DEADLINE_S", 1000.0)
    hanging = {f"hang{n}": never for n in range(runner.READS_MAX)}
    scripted(monkeypatch, {**hanging, "asked": at_once, "dying": at_once})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        async with asyncio.timeout(WITHIN_S):
            while len(worker._flights) < runner.READS_MAX:
                await asyncio.sleep(0.001)
        assert isinstance(await healer.request(ProbeNow("asked")), Readings)
        worker.read_soon("dying", 0.0)
        await healer.until(lambda reading: reading.target_id == "dying")

    asyncio.run(lab.run({}, script))


@pytest.mark.req("R7", "NFR-003")
def test_events_of_thousands_at_once_are_read_so_many_at_a_time_and_none_is_forgotten(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = asyncio.Event()
    under_way, most = 0, 0

    async def counted() -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await release.wait()
        finally:
            under_way -= 1

    names = [f"t{n}" for n in range(3 * runner.AT_ONCE_MAX)]
    scripted(monkeypatch, dict.fromkeys(names, counted))

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        lab.root.setblocking(True)  # as the root does, which is another process: it takes what it is told meanwhile
        threading.Thread(target=lambda: [None for _ in iter(lambda: lab.root.recv(65536), b"")], daemon=True).start()
        async with asyncio.timeout(WITHIN_S):
            while not under_way:
                await asyncio.sleep(0.001)
        for name in names:
            worker.read_soon(name, 0.0)
        async with asyncio.timeout(WITHIN_S):
            while under_way < runner.AT_ONCE_MAX:
                await asyncio.sleep(0.001)
        release.set()
        for name in names:
            await healer.until(lambda reading, name=name: reading.target_id == name)  # type: ignore[misc]
        assert most == runner.AT_ONCE_MAX

    asyncio.run(lab.run({}, script))


def test_no_read_begins_after_the_order_to_stop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = 0

    async def counted() -> None:
        nonlocal begun
        begun += 1
        await never()

    scripted(monkeypatch, {f"t{n}": counted for n in range(2 * runner.READS_MAX)})

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        async with asyncio.timeout(WITHIN_S):
            while begun < runner.READS_MAX:
                await asyncio.sleep(0.001)

    asyncio.run(lab.run({}, script))
    assert begun == runner.READS_MAX
    told = lab.told()
    assert sum(word.startswith("+") for word in told) == sum(word.startswith("-") for word in told)


def test_a_poison_target_is_left_alone_and_suspects_are_read_one_by_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "bad", "c", "odd1", "odd2"]
    scripted(monkeypatch, dict.fromkeys(names, at_once))

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        for name in names:
            reading = await healer.until(lambda reading, name=name: reading.target_id == name)  # type: ignore[misc]
            assert reading.available == (name != "bad")

    suspects = frozenset({"reading:odd1", "reading:odd2", "reading:gone"})
    asyncio.run(lab.run({}, script, suspects=suspects, quarantined=frozenset({"reading:bad"})))
    told = lab.told()
    assert told[:4] == ["+reading:odd1", "-reading:odd1", "+reading:odd2", "-reading:odd2"]
    assert "+reading:bad" not in told
    assert sorted(told) == sorted([f"{sign}reading:{name}" for name in names if name != "bad" for sign in "+-"])


def test_malformed_and_unexpected_frames_do_no_harm(lab: Lab, start: Start) -> None:
    section = pid_file(lab, "svc", start("sleep", "60"))

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(alive)
        assert healer.hub is not None
        for raw in (b"", b"\xc1", os.urandom(2000), b"x" * 100_000):
            healer.hub._send_parts("process", raw)
        healer.hub.send("process", Hello("x", "y"))
        healer.hub.send("process", Readings(()))
        assert isinstance(await healer.request(ProbeNow("svc")), Readings)
        assert isinstance(await healer.request(ProbeNow("\0" * 10_000)), Nack)

    asyncio.run(lab.run({"svc": section}, script))


def test_no_targets_is_a_quiet_life(lab: Lab) -> None:
    async def script(healer: Healer, worker: ProbeWorker) -> None:
        assert isinstance(await healer.request(Resync()), Ack)
        assert worker._schedule.next_s() is None

    asyncio.run(lab.run({}, script))


@pytest.mark.req("R12")
def test_a_young_zombie_is_looked_at_again_after_ten_seconds(lab: Lab, start: Start) -> None:
    """The wish itself; the ten seconds are the schedule's, and tested there."""
    child = start("sleep", "60")
    section = pid_file(lab, "svc", child)
    section = ProcessSection(pid_file=section.pid_file, interval=Duration(600))

    async def script(healer: Healer, worker: ProbeWorker) -> None:
        await healer.until(alive)
        os.kill(child.pid, signal.SIGKILL)
        reading = await healer.until(lambda reading: bool(facts(reading).zombies))
        zombie = facts(reading).zombies[0]
        assert zombie.seen_for_s < 10.0
        assert zombie.parent_pid == os.getpid()
        assert time.monotonic() < (worker._schedule.next_s() or 0) < time.monotonic() + 10.2

    asyncio.run(lab.run({"svc": section}, script))
