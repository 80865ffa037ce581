"""The gateway probe against a real HTTP port and a real status command, each well, stopped, hung, slow and wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from probes import gateway as module
from probes.base import DEADLINE_S, Events
from probes.gateway import GatewayProbe
from supervisor import clock, proc
from supervisor.config import Config, Duration, GatewaySection
from supervisor.incidents.readings import Endpoint, GatewayData, HealthReading, Unavailable
from tests.doubles.openclaw_double import HANGS, HttpPort, Program, recorded

LONG_S = 60.0
STOPPED = recorded("status-stopped.json")


class Wishes(Events):
    """What the probe asks of its runner: (target, seconds)."""

    def __init__(self) -> None:
        self.all: list[tuple[str, float]] = []

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.all.append((target_id, in_s))

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        raise AssertionError("a gateway never comes or goes by itself")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick status command is told at once, on a busy machine too."""
    monkeypatch.setattr(module, "WAIT_S", LONG_S)


@pytest.fixture
def http() -> Iterator[HttpPort]:
    with HttpPort() as port:
        yield port


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    made = Program(tmp_path / "openclaw")
    yield made
    made.close()


def config(*argv: str, **keys: Any) -> Config:
    return Config(gateway={"gw": GatewaySection(status=argv or ("true",), interval=Duration(120), **keys)})


def running(main: Callable[[GatewayProbe, Wishes], Coroutine[Any, Any, None]], *argv: str, **keys: Any) -> None:
    """Runs `main` with a probe of one gateway, which is closed afterwards."""

    async def live() -> None:
        probe, wishes = GatewayProbe(config(*argv, **keys)), Wishes()
        probe.watch(wishes)
        try:
            async with asyncio.timeout(60):
                await main(probe, wishes)
        finally:
            probe.close()
            await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)

    asyncio.run(live())


async def read(probe: GatewayProbe) -> HealthReading:
    """With time for a program to start on a busy machine; what must keep to R9's deadline is read with that."""
    return await probe.read("gw", LONG_S + 1)


def data(reading: HealthReading) -> GatewayData:
    assert reading.available, reading.error
    assert isinstance(reading.data, GatewayData)
    return reading.data


async def until(look: Callable[[], object], what: str = "") -> None:
    deadline = time.monotonic() + LONG_S
    while not look():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)


async def ended(probe: GatewayProbe) -> None:
    """Until no status command runs."""
    await until(lambda: probe._gateways["gw"].running is None, "the status command ends")


# --- the health address ---------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "NFR-004")
def test_a_healthy_one_by_its_address(http: HttpPort, program: Program) -> None:
    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        (source,) = probe.sources()
        assert (source.source_id, source.poll_interval_ms) == ("gw", 120_000)
        found = await read(probe)
        assert found.checked_mono_s is None, "it has looked itself, now"
        assert (data(found).endpoint, data(found).failures) == (Endpoint.OK, 0)
        assert (data(found).judged_by, data(found).failures_needed) == ("health_url", 2)
        assert data(found).latency_ms > 0
        assert wishes.all == []
        assert program.runs() == []

    running(main, *program.argv, health_url=http.url)


@pytest.mark.req("FR-001", "FR-002", "R9")
@pytest.mark.parametrize(
    ("mode", "answer", "endpoint", "words"),
    [
        ("answers", (200, "text/html", recorded("unknown-path.html")), Endpoint.BAD_ANSWER, "not the JSON"),
        ("answers", (200, "application/json", b'{"ok":false}'), Endpoint.BAD_ANSWER, "ok is false"),
        ("answers", (503, "application/json", recorded("readyz-starting.json")), Endpoint.BAD_ANSWER, "sidecars"),
        ("answers", (200, "application/json", b"x" * 3_000_000), Endpoint.BAD_ANSWER, "longer than"),
        ("closes", None, Endpoint.BAD_ANSWER, "the connection ended"),
        ("hangs", None, Endpoint.TIMEOUT, "no complete answer within 4 s"),
    ],
)
def test_failures_by_its_address(
    http: HttpPort, program: Program, mode: str, answer: tuple[int, str, bytes] | None, endpoint: Endpoint, words: str
) -> None:
    http.mode, http.answer = mode, answer or http.answer

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        reading = await probe.read("gw", DEADLINE_S)
        assert reading.took_ms < DEADLINE_S * 1000
        found = data(reading)
        assert (found.endpoint, found.failures) == (endpoint, 1)
        assert words in found.detail
        assert wishes.all == [("gw", 2.0)], "it is looked at again soon"

    running(main, *program.argv, health_url=http.url)


@pytest.mark.req("R9")
def test_a_slow_one_is_a_timeout_within_the_deadline(
    http: HttpPort, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DIRECT_S", 0.3)
    http.mode = "drips"

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        assert data(await read(probe)).endpoint is Endpoint.TIMEOUT

    running(main, *program.argv, health_url=http.url)


@pytest.mark.req("FR-002")
def test_failures_count_in_a_row_and_the_status_command_adds_its_evidence(http: HttpPort, program: Program) -> None:
    program.says(STOPPED)
    http.shut()

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        first = data(await read(probe))
        assert (first.endpoint, first.failures, first.asking) == (Endpoint.REFUSED, 1, True)
        await ended(probe)
        second = data(await read(probe))
        assert second.failures == 2
        assert second.runtime == "unknown"
        assert "port: free" in second.detail
        assert data(await read(probe)).failures == 3
        # The second was enough, and the third; but that its manager has told whether anything of it lives is news.
        assert wishes.all == [("gw", 2.0), ("gw", 0.0)]
        await ended(probe)
        assert len(program.runs()) == 1, "not a command for every failure"
        http.reopen()
        well = data(await read(probe))
        assert (well.endpoint, well.failures) == (Endpoint.OK, 0)
        http.shut()
        assert data(await read(probe)).failures == 1

    running(main, *program.argv, health_url=http.url)


def test_now_and_then_the_status_command_runs_for_a_healthy_one_too(
    http: HttpPort, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVIDENCE_EVERY", 3)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        for expected in (0, 0, 1):
            await read(probe)
            await ended(probe)
            assert len(program.runs()) == expected
        assert data(await read(probe)).runtime == "unknown"

    running(main, *program.argv, health_url=http.url)


@pytest.mark.req("R9")
def test_what_keeps_us_from_asking_is_no_failure_of_the_gateway(program: Program) -> None:
    for url, reason in (
        ("http://no-such-host.invalid:1/healthz", Unavailable.DNS),
        ("http://127.0.0.1:1/healthz?x=1", Unavailable.ERROR),
    ):

        async def main(probe: GatewayProbe, wishes: Wishes, reason: Unavailable = reason) -> None:
            found = await read(probe)
            assert not found.available
            assert found.reason is reason
            assert wishes.all == []

        running(main, *program.argv, health_url=url)


# --- the status command ---------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize(
    ("stdout", "endpoint", "failures"),
    [
        (recorded("status-up.json"), Endpoint.OK, 0),
        (STOPPED, Endpoint.REFUSED, 1),
        (recorded("status-hung.json"), Endpoint.TIMEOUT, 1),
        (b'{"rpc":{"ok":"yes"}}', Endpoint.BAD_ANSWER, 1),
        (b"starting...\n" + recorded("status-up.json"), Endpoint.OK, 0),
    ],
)
def test_a_quick_status_command_is_told_at_once(
    program: Program, stdout: bytes, endpoint: Endpoint, failures: int
) -> None:
    program.says(stdout)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        before = clock.monotonic_s()
        found = await read(probe)
        assert (data(found).endpoint, data(found).failures) == (endpoint, failures)
        assert data(found).judged_by == "status"
        assert before <= found.basis_mono_s <= clock.monotonic_s()
        assert wishes.all == ([("gw", 2.0)] if failures else [])

    running(main, *program.argv)


@pytest.mark.req("FR-001", "R6", "R9")
def test_a_slow_one_goes_on_in_the_background_and_is_told_when_it_ends(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.05)
    program.waits(STOPPED)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        unset = await read(probe)
        assert data(unset).endpoint is Endpoint.UNSET, "nobody knows yet"
        await until(program.runs)
        asked_again = await read(probe)
        assert data(asked_again).endpoint is Endpoint.UNSET
        assert len(program.runs()) == 1, "one at a time"
        program.go()
        await until(lambda: wishes.all)
        assert wishes.all[0] == ("gw", 0.0), "news"
        told = await read(probe)
        assert (data(told).endpoint, data(told).failures) == (Endpoint.REFUSED, 1)
        assert told.checked_mono_s is not None
        assert told.checked_mono_s < asked_again.taken_mono_s < told.taken_mono_s
        await until(lambda: len(program.runs()) == 2, "the second question has a command of its own")
        program.go()
        await ended(probe)
        second = await read(probe)
        assert data(second).failures == 2
        assert second.checked_mono_s is not None
        assert second.checked_mono_s > asked_again.taken_mono_s
        await asyncio.sleep(0)
        assert len(program.runs()) == 2, "telling the news begins nothing"

    running(main, *program.argv)


@pytest.mark.req("R6")
def test_every_reading_begins_a_check_of_its_own(program: Program) -> None:
    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        for count in (1, 2, 3):
            now_s = clock.monotonic_s()
            found = await read(probe)
            assert found.basis_mono_s >= now_s
            assert len(program.runs()) == count

    running(main, *program.argv)


@pytest.mark.req("FR-002")
def test_a_status_command_without_an_end_is_a_failure_and_is_ended(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STATUS_S", 1.0)
    program.says(b"", after=HANGS)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        found = data(await read(probe))
        assert (found.endpoint, found.failures) == (Endpoint.TIMEOUT, 1)
        assert "did not end within 1 s" in found.detail
        assert all(proc.stat(pid) is None for pid in program.runs())

    running(main, *program.argv)


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("name", "mode", "text", "reason"),
    [
        ("none", 0, "", Unavailable.MISSING),
        ("data", 0o644, "#!/bin/sh\n", Unavailable.PERMISSION),
        ("orphan", 0o755, "#!/nonexistent/node\n", Unavailable.MISSING),
        ("words", 0o755, "#!/bin/sh\necho gateway is running\n", Unavailable.BAD_DATA),
        ("silent", 0o755, "#!/bin/sh\nexit 7\n", Unavailable.BAD_DATA),
        ("flood", 0o755, "#!/bin/sh\nexec yes '{'\n", Unavailable.BAD_DATA),
        ("token", 0o755, f"#!/bin/sh\ncat {Path(__file__).parents[1]}/doubles/openclaw/status-token.json\n",
         Unavailable.AUTHENTICATION),
    ],
)  # fmt: skip
def test_a_status_command_that_says_nothing_is_no_failure_of_the_gateway(
    tmp_path: Path, name: str, mode: int, text: str, reason: Unavailable
) -> None:
    if mode:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        found = await read(probe)
        assert not found.available
        assert found.reason is reason, found.error
        assert name in found.error
        assert wishes.all == []

    running(main, str(tmp_path / name))


@pytest.mark.req("R9")
def test_a_check_that_could_not_be_made_neither_adds_to_the_failures_nor_ends_them(program: Program) -> None:
    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        seen = []
        for stdout in (STOPPED, b"no json", STOPPED):
            program.says(stdout)
            reading = await read(probe)
            seen.append(data(reading).failures if reading.available else None)
        assert seen == [1, None, 2]
        assert wishes.all == [("gw", 2.0)]

    running(main, *program.argv)


@pytest.mark.req("R9")
def test_a_hung_gateway_does_not_delay_another(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 3.5)
    well = Program(tmp_path / "well")
    program.says(b"", after=HANGS)

    async def main() -> None:
        sections = {"hung": GatewaySection(status=tuple(program.argv)), "gw": GatewaySection(status=tuple(well.argv))}
        probe = GatewayProbe(Config(gateway=sections))
        hung = asyncio.ensure_future(probe.read("hung", DEADLINE_S))
        await until(program.runs)
        first = data(await probe.read("gw", DEADLINE_S))
        assert first.endpoint is Endpoint.OK
        reading = await hung
        assert data(reading).endpoint is Endpoint.UNSET
        assert reading.took_ms < DEADLINE_S * 1000
        assert first.latency_ms < reading.took_ms
        pids = program.runs()
        probe.close()
        await until(lambda: all(proc.stat(pid) is None for pid in pids), "the hung command is ended by close")

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.req("R9")
def test_a_cancelled_reading_leaves_the_command_to_its_end(program: Program) -> None:
    program.waits(STOPPED)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        reading = asyncio.ensure_future(read(probe))
        await until(program.runs)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        program.go()
        await until(lambda: wishes.all)
        assert wishes.all == [("gw", 0.0), ("gw", 2.0)]
        assert data(await read(probe)).endpoint is Endpoint.REFUSED
        assert len(program.runs()) == 1

    running(main, *program.argv)


def test_a_new_configuration_keeps_what_is_known_of_an_unchanged_gateway(program: Program, http: HttpPort) -> None:
    program.says(STOPPED)

    async def main(probe: GatewayProbe, wishes: Wishes) -> None:
        assert data(await read(probe)).failures == 1
        probe.reconfigure(config(*program.argv))
        assert data(await read(probe)).failures == 2
        probe.reconfigure(config(*program.argv, failures=3))
        assert data(await read(probe)).failures == 1, "another table is another gateway"
        program.says(STOPPED, after=HANGS)
        reading = asyncio.ensure_future(read(probe))
        await until(lambda: len(program.runs()) == 4)
        pid = program.runs()[-1]
        probe.reconfigure(Config())
        await reading
        assert probe.sources() == ()
        await until(lambda: proc.stat(pid) is None, "its command is ended")

    running(main, *program.argv)
