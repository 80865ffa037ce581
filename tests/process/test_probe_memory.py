"""The memory probe on the real kernel: its figures, a control group's limit, stalls; and on a false /proc/meminfo."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from probes import memory as memory_module
from probes.host import STALL_GAP_S, HostProbe
from supervisor import clock
from supervisor.config import Config, DiskSection, MemorySection, Size
from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Instant, Status
from supervisor.incidents.readings import HealthReading, MemoryData, Unavailable
from tests.lab import mounts
from tests.lab.cgroup import Group, memory_group
from tests.lab.events import Recorder, watched

ROOT = Path(__file__).parents[2]
MIB = 1024**2
TARGET = "system-memory"


def probe_of(**keys: Size) -> HostProbe:
    return HostProbe(Config(disk=DiskSection(mounts=()), memory=MemorySection(**keys)))


def read(probe: HostProbe) -> HealthReading:
    return asyncio.run(probe.read(TARGET, 5.0))


def data(reading: HealthReading) -> MemoryData:
    assert reading.available, reading.error
    assert isinstance(reading.data, MemoryData)
    return reading.data


@contextlib.contextmanager
def meminfo(folder: Path, available_kib: int) -> Iterator[None]:
    """/proc/meminfo as it would be with so much memory available."""
    fake = folder / "meminfo"
    fake.write_text(f"MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   {available_kib} kB\n")
    with mounts.bound(fake, Path("/proc/meminfo")):
        yield


# --- the machine's figures -----------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_the_machine_s_own_figures() -> None:
    reading = read(probe_of())
    found = data(reading)
    assert found.total_bytes <= psutil.virtual_memory().total
    assert 0 < found.available_bytes <= found.total_bytes
    assert (found.pressure_bytes, found.critical_bytes) == (512 * MIB, 256 * MIB)
    assert reading.took_ms < 5000
    if os.access(memory_module.PRESSURE, os.R_OK):
        assert found.stalled_share is not None
        assert 0 <= found.stalled_share <= 1


@pytest.mark.req("FR-001", "FR-002")
@pytest.mark.parametrize(
    ("kib", "expected"),
    [
        (512 * 1024, {}),
        (512 * 1024 - 1, {"memory_pressure"}),
        (256 * 1024, {"memory_pressure"}),  # exactly 256 MiB is not critical
        (256 * 1024 - 1, {"memory_critical"}),
        (0, {"memory_critical"}),
    ],
)
def test_the_limits_are_exact(tmp_path: Path, kib: int, expected: set[str]) -> None:
    with meminfo(tmp_path, kib):
        reading = read(probe_of())
    assert data(reading).available_bytes == kib * 1024
    verdicts = Classifier().observe(Judge(reading, Instant(1.0, 1.0, 1.0)))
    assert {verdict.anomaly.value for verdict in verdicts if verdict.status is Status.FIRING} == set(expected)
    ours = next(verdict for verdict in verdicts if verdict.anomaly is AnomalyType.PROBE_UNAVAILABLE)
    assert ours.status is Status.CLEAR


@pytest.mark.req("R9")
@pytest.mark.parametrize("content", [b"", b"MemTotal: 5 kB\n", b"\0\xff" * 9000, b"x" * 9_000_000])
def test_a_meminfo_that_says_nothing_is_not_healthy(tmp_path: Path, content: bytes) -> None:
    mounts.own_namespace()
    (tmp_path / "meminfo").write_bytes(content)
    with mounts.bound(tmp_path / "meminfo", Path("/proc/meminfo")):
        reading = read(probe_of())
    assert (reading.available, reading.reason, reading.data) == (False, Unavailable.BAD_DATA, None)


@pytest.mark.req("R9")
def test_a_fifo_or_a_forbidden_file_in_its_place_does_not_block(tmp_path: Path) -> None:
    mounts.own_namespace()
    os.mkfifo(tmp_path / "fifo")
    with mounts.bound(tmp_path / "fifo", Path("/proc/meminfo")):
        assert read(probe_of()).reason is Unavailable.BAD_DATA
    (tmp_path / "secret").touch(mode=0o600)
    with mounts.bound(tmp_path / "secret", Path("/proc/meminfo")):
        os.seteuid(65534)
        try:
            reading = read(probe_of())
        finally:
            os.seteuid(0)
    assert reading.reason is Unavailable.PERMISSION


def test_new_limits_are_in_force_at_once(tmp_path: Path) -> None:
    probe = probe_of()
    probe.reconfigure(Config(disk=DiskSection(mounts=()), memory=MemorySection(pressure=Size(9), critical=Size(5))))
    found = data(read(probe))
    assert (found.pressure_bytes, found.critical_bytes) == (9, 5)
    with meminfo(tmp_path, 8):
        assert "set it lower" in data(read(probe_of(pressure=Size(10 * 1024**3)))).detail


# --- a control group's limit ----------------------------------------------------------------------------------------

INSIDE = """
import asyncio, sys
import msgspec
from probes.host import HostProbe
from supervisor.config import Config, DiskSection
probe = HostProbe(Config(disk=DiskSection(mounts=())))
held = []
print("ready", flush=True)
for line in sys.stdin:
    held.append(bytearray(b"x") * int(line))
    print(msgspec.json.encode(asyncio.run(probe.read("system-memory", 5.0))).decode(), flush=True)
"""


class Inside:
    """A probe in a process of its own, so that it can be put into a control group."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", INSIDE], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def read(self, take: int = 0) -> MemoryData:
        """After it has taken so many bytes more."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{take}\n")
        self.process.stdin.flush()
        return data(msgspec.json.decode(self.process.stdout.readline(), type=HealthReading))

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def inside() -> Iterator[Inside]:
    program = Inside()
    yield program
    program.end()


@pytest.mark.req("FR-001")
def test_the_limit_of_our_control_group_counts_where_it_is_smaller(inside: Inside, tmp_path: Path) -> None:
    free = inside.read()
    with memory_group(256 * MIB) as group:
        group.enter(inside.process.pid)
        limited = inside.read()
        assert limited.limited_by == str(group.limit_file)
        assert limited.total_bytes == 256 * MIB < free.total_bytes
        assert 0 < limited.available_bytes <= 256 * MIB
        fewer = inside.read(take=128 * MIB)
        assert limited.available_bytes - fewer.available_bytes >= 120 * MIB
        group.limit(8 * 1024**4)  # more than any machine has: no limit
        assert inside.read().limited_by == free.limited_by
        inside.end()


@pytest.mark.req("FR-001")
def test_the_limit_of_a_group_above_ours_counts_and_file_pages_are_available(inside: Inside, tmp_path: Path) -> None:
    with memory_group(256 * MIB) as group:
        (group.folder / "below").mkdir()
        below = Group(group.folder / "below", group.limit_file.name)
        try:
            below.enter(inside.process.pid)
            before = inside.read()
            assert before.limited_by == str(group.limit_file)
            reader = subprocess.Popen(
                [sys.executable, "-c", "import sys; sys.stdin.readline(); open(sys.argv[1], 'wb').write(b'x' * 2**26)",
                 str(tmp_path / "big")],
                stdin=subprocess.PIPE,
            )  # fmt: skip
            below.enter(reader.pid)
            reader.communicate(b"\n", timeout=60)
            assert reader.returncode == 0
            os.sync()
            after = inside.read()
            assert after.available_bytes > before.available_bytes - 32 * MIB, "its 64 MiB can be given back"
        finally:
            inside.end()
            below.folder.rmdir()


# --- stalls -----------------------------------------------------------------------------------------------------------

THRASH = """
import sys
sys.stdin.readline()
while True:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""


@pytest.mark.req("R8", "FR-002")
def test_a_stall_of_memory_is_told_by_the_kernel(tmp_path: Path) -> None:
    trigger = memory_module.open_trigger()
    if trigger is None:
        pytest.skip("this kernel lets us set no trigger on memory stalls")
    os.close(trigger)
    with (tmp_path / "big").open("wb") as big:
        big.write(b"x" * (96 * MIB))
        big.flush()
        os.fsync(big.fileno())
        os.posix_fadvise(big.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # its pages shall be the group's, not ours
    probe = probe_of()

    async def story(events: Recorder) -> None:
        with memory_group(12 * MIB, "stall") as group:
            thrash = subprocess.Popen([sys.executable, "-c", THRASH, str(tmp_path / "big")], stdin=subprocess.PIPE)
            try:
                group.enter(thrash.pid)
                assert thrash.stdin is not None
                thrash.stdin.write(b"\n")
                thrash.stdin.flush()
                await events.wait(lambda: (TARGET, 0) in events.soon, 60)
            finally:
                thrash.kill()
                thrash.communicate()

    watched(probe, story)


@pytest.mark.req("R8")
def test_a_stall_that_lasts_is_looked_at_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = probe_of()
    now = [100.0]

    async def story(events: Recorder) -> None:
        monkeypatch.setattr(clock, "monotonic_s", lambda: now[0])
        probe._stalled()
        now[0] += 2.0
        probe._stalled()
        now[0] += STALL_GAP_S - 2.0
        probe._stalled()
        monkeypatch.undo()
        assert events.soon == [(TARGET, 0), (TARGET, STALL_GAP_S - 2.0), (TARGET, 0)]

    watched(probe, story)


@pytest.mark.req("R8", "R9")
def test_without_a_trigger_the_polls_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory_module, "PRESSURE", str(tmp_path / "none"))
    probe = probe_of()

    async def story(events: Recorder) -> None:
        found = data(await probe.read(TARGET, 5.0))
        assert found.stalled_share is None
        assert events.soon == []

    watched(probe, story)


@pytest.mark.req("R8")
def test_while_memory_is_short_it_is_read_more_often(tmp_path: Path) -> None:
    async def story(events: Recorder) -> None:
        with meminfo(tmp_path, 8 * 1024**2):
            await probe.read(TARGET, 5.0)
            assert events.soon == []
        with meminfo(tmp_path, 600 * 1024):
            await probe.read(TARGET, 5.0)
            assert events.soon == [(TARGET, memory_module.NEAR_AGAIN_S)]

    mounts.own_namespace()
    probe = probe_of()
    watched(probe, story)
