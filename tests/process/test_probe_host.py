"""The host probe on real mounts, a real hung one included, all in a mount namespace of the test run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from probes import disk as disk_module
from probes import mounts as mounts_module
from probes.host import HostProbe
from supervisor.config import Config, DiskSection, Duration
from supervisor.incidents.readings import DiskData, HealthReading, Unavailable
from tests.lab import mounts
from tests.lab.events import Recorder, watched

ROOT = Path(__file__).parents[2]
DEADLINE_S = 5.0
KIB = 1024


@pytest.fixture(autouse=True)
def _namespace() -> None:
    mounts.own_namespace()


def config(*points: Path | str, discover: bool = False, **more: object) -> Config:
    section = DiskSection(mounts=tuple(map(str, points)), discover=discover, **more)  # type: ignore[arg-type]
    return Config(disk=section)


def read(probe: HostProbe, point: Path | str, deadline_s: float = DEADLINE_S) -> HealthReading:
    return asyncio.run(probe.read(f"disk:{point}", deadline_s))


def data(reading: HealthReading) -> DiskData:
    assert reading.available, reading.error
    assert isinstance(reading.data, DiskData)
    return reading.data


def disks(probe: HostProbe) -> list[str]:
    return [name.removeprefix("disk:") for source in probe.sources() if (name := source.source_id) != "system-memory"]


# --- how full -------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "FR-002")
def test_usage_is_exact_to_the_block(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d", "size=400k") as point:  # 100 pages
        probe = HostProbe(config(point))
        assert data(read(probe, point)).used_share == 0.0
        mounts.fill(point, 85 * 4 * KIB)
        found = data(read(probe, point))
        assert found.used_share == 0.85
        assert (found.size_bytes, found.available_bytes) == (400 * KIB, 15 * 4 * KIB)
        assert (found.fs_type, found.mounted, found.pressure, found.critical) == ("tmpfs", True, 0.85, 0.95)
        mounts.fill(point, 4 * KIB, "one-more")
        assert data(read(probe, point)).used_share == 0.86


@pytest.mark.req("FR-001")
def test_reserved_blocks_are_counted_as_df_counts_them(tmp_path: Path) -> None:
    with mounts.ext4(tmp_path / "d", "16M", "-m", "20") as point:
        mounts.fill(point, 8 * KIB * KIB)
        usage = os.statvfs(point)
        assert usage.f_bavail < usage.f_bfree, "some blocks are root's"
        found = data(read(HostProbe(config(point)), point))
        text = mounts.run("df", "-B1", "--output=size,used,avail,pcent,ipcent,itotal,iused", str(point))
        size, used, avail, percent, _, inodes, inodes_used = (int(w.rstrip("%")) for w in text.splitlines()[1].split())
        assert (found.size_bytes, found.available_bytes) == (size, avail)
        assert found.used_share == used / (used + avail)
        assert percent - 1 < found.used_share * 100 <= percent, "df rounds up"
        assert found.used_share > used / size + 0.05, "which is more than the naive share"
        assert found.inodes_used_share == inodes_used / inodes
        assert found.device.startswith("/dev/loop")


@pytest.mark.req("FR-001", "FR-002")
def test_inodes_run_out_while_no_byte_is_used(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d", "size=4m,nr_inodes=20") as point:
        for number in range(19):  # the root takes one
            (point / str(number)).touch()
        found = data(read(HostProbe(config(point)), point))
        assert found.used_share == 0.0
        assert found.inodes_used_share == 1.0


def test_a_file_system_that_counts_no_inodes_and_one_without_a_size(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d", "size=4m,nr_inodes=0") as point:
        assert data(read(HostProbe(config(point)), point)).inodes_used_share is None
    found = data(read(HostProbe(config("/proc")), "/proc"))  # named: read, however little it says
    assert (found.used_share, found.size_bytes, found.fs_type) == (0.0, 0, "proc")


@pytest.mark.req("FR-001")
def test_a_read_only_mount_that_is_named_is_read(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d", "ro,size=4m") as point:
        assert data(read(HostProbe(config(point)), point)).detail == "read-only"


@pytest.mark.req("FR-001", "R9")
def test_reading_leaves_nothing_behind(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d") as point:
        before = set(os.listdir("/proc/self/fd")), os.stat(point).st_mtime_ns
        data(read(HostProbe(config(point)), point))
        assert os.listdir(point) == []
        assert (set(os.listdir("/proc/self/fd")), os.stat(point).st_mtime_ns) == before


# --- which ones -----------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_a_named_folder_or_link_is_read_as_the_mount_it_lies_on(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "my disk") as point:
        (point / "a/b").mkdir(parents=True)
        (tmp_path / "link").symlink_to("my disk/a")
        (point / "file").touch()
        for path in (point / "a/b", tmp_path / "link", tmp_path / "link/../a/b", point / "file"):
            probe = HostProbe(config(path))
            assert disks(probe) == [str(point)], path
            assert data(read(probe, point)).fs_type == "tmpfs"
        everything = HostProbe(config(point / "a", point, tmp_path / "link"))
        assert disks(everything) == [str(point)], "one disk is one target"


@pytest.mark.req("FR-001")
def test_real_disks_are_discovered_once_whatever_they_are_bound_to(tmp_path: Path) -> None:
    with mounts.ext4(tmp_path / "a-long-name") as point, mounts.tmpfs(tmp_path / "memory"):
        (point / "part").mkdir()
        (point / "file").touch()
        (tmp_path / "f").touch()
        with mounts.bound(point / "part", tmp_path / "x") as short, mounts.bound(point / "file", tmp_path / "f"):
            probe = HostProbe(config("/", discover=True))
            assert disks(probe)[0] == "/"
            ours = [name for name in disks(probe) if name.startswith(str(tmp_path))]
            assert ours == [str(short)], "the shortest name of a folder; tmpfs is no disk"
            assert "/proc" not in disks(probe)
            named = HostProbe(config("/", point, discover=True))
            assert [name for name in disks(named) if name.startswith(str(tmp_path))] == [str(point)]
            assert disks(HostProbe(config("/"))) == ["/"], "discover = false"
            assert disks(HostProbe(config(discover=True))) == [], "mounts = [] turns it off"
            mounts.run("mount", "-o", "remount,ro", str(point))
            assert str(point) not in disks(HostProbe(config("/", discover=True)))
            asyncio.run(probe.read(f"disk:{short}", DEADLINE_S))
            probe.reconfigure(config("/", discover=True))
            assert str(short) in disks(probe), "a disk that turned read-only, as a failing one does, stays watched"


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize(
    ("path", "reason"), [("none/at/all", "missing"), ("loop", "error"), ("file/x", "missing"), ("a/../b", "missing")]
)
def test_a_named_path_that_is_not_there_is_no_other_disk(tmp_path: Path, path: str, reason: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    probe = HostProbe(config(tmp_path / path))
    point = os.path.normpath(tmp_path / path)
    assert disks(probe) == [point]
    reading = read(probe, point)
    assert not reading.available
    assert reading.reason.value == reason
    assert point in reading.error


def test_a_user_without_a_home_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "none"))
    assert disks(HostProbe(Config(disk=DiskSection(discover=False)))) == ["/"]
    assert Config().disk.mounts == ("/", str(tmp_path / "none")), "the home of now, not of when healctl was imported"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert disks(HostProbe(config("/", tmp_path / "none"))) == ["/", str(tmp_path / "none")]


@pytest.mark.req("R9")
def test_permission_denied_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "closed/d").mkdir()
    for parent in [tmp_path, *list(tmp_path.parents)[:3]]:
        os.chmod(parent, os.stat(parent).st_mode | 0o055)
    os.seteuid(65534)
    try:
        reading = read(HostProbe(config(tmp_path / "closed/d")), tmp_path / "closed/d")
    finally:
        os.seteuid(0)
    assert reading.reason is Unavailable.PERMISSION


@pytest.mark.req("FR-001", "R7")
@pytest.mark.parametrize("others", [True, False], ids=["others are watched", "no disk is"])
def test_a_disk_that_was_taken_out_of_the_configuration_reads_as_gone_though_it_is_full(
    tmp_path: Path, others: bool
) -> None:
    """Nobody polls it any more: an incident about it could never close."""
    with mounts.tmpfs(tmp_path / "d") as point, mounts.tmpfs(tmp_path / "other") as other:
        probe = HostProbe(config(point, other))
        assert data(read(probe, point)).mounted
        probe.reconfigure(config(*([other] if others else [])))
        assert str(point) not in disks(probe)
        assert probe.source(f"disk:{point}") is not None
        left = data(read(probe, point))
        assert (left.mounted, left.detail) == (False, "not watched any more")


@pytest.mark.req("FR-001", "R9")
def test_a_named_mount_that_is_gone_is_missing_and_a_discovered_one_reads_as_gone(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "named") as named, mounts.ext4(tmp_path / "found") as found:
        (named / "sub").mkdir()
        probe = HostProbe(config(named, named / "sub", discover=True))
        assert str(found) in disks(probe)
        assert data(read(probe, named)).mounted
        mounts.unmount(named)
        mounts.unmount(found)
        assert read(probe, named).reason is Unavailable.MISSING
        assert data(read(probe, found)).mounted is False
        probe.reconfigure(config(named, named / "sub", discover=True))
        assert str(named) in disks(probe)
        assert str(found) not in disks(probe)
        assert read(probe, named).reason is Unavailable.MISSING, "and never the disk below it"
        assert probe.source(f"disk:{found}") is not None, "it is asked once more, which closes its incident"
        assert data(read(probe, found)).mounted is False
        assert [probe.source(name) for name in ("disk:x", "disk:", "disk:/a/../b", "x")] == [None] * 4


@pytest.mark.req("R9")
def test_a_mount_point_of_fstab_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fstab = tmp_path / "fstab"
    backup = tmp_path / "my backup"
    backup.mkdir()
    escaped = str(backup).replace(" ", "\\040")
    fstab.write_text(f"# a comment\nUUID=1 {escaped} ext4 defaults 0 2\nUUID=2 none swap sw 0 0\nbroken\n")
    monkeypatch.setattr(mounts_module, "FSTAB", str(fstab))
    probe = HostProbe(config(backup, tmp_path))
    assert read(probe, backup).reason is Unavailable.MISSING, "not the figures of the disk below it"
    with mounts.tmpfs(backup):
        probe.reconfigure(config(backup, tmp_path))
        assert data(read(probe, backup)).fs_type == "tmpfs"


def test_limits_change_and_the_growth_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("probes.base.clock.monotonic_s", lambda: now[0])
    with mounts.tmpfs(tmp_path / "d", "size=4m") as point:
        probe = HostProbe(config(point))
        for number in range(8):
            mounts.fill(point, 64 * KIB, str(number))
            now[0] += 600
            found = data(read(probe, point))
        assert found.full_in_s == pytest.approx((4096 - 512) / 64 * 600)
        probe.reconfigure(config(point, pressure=0.5, critical=0.6, interval=Duration(2)))
        again = data(read(probe, point))
        assert (again.pressure, again.critical) == (0.5, 0.6)
        assert again.full_in_s == found.full_in_s
        assert probe.sources()[0].poll_interval_ms == 2000


# --- what hangs, what comes and goes ---------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "R9")
def test_a_hung_mount_delays_nobody_and_takes_one_thread(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "well") as well, mounts.hung(tmp_path / "hung") as hung:
        probe = HostProbe(config(hung, hung / "below", well))
        assert disks(probe) == [str(hung), str(well)], "found without waiting for it"

        async def both() -> None:
            before = threading.active_count()
            for _ in range(3):
                late = asyncio.create_task(probe.read(f"disk:{hung}", 0.5))
                good = await probe.read(f"disk:{well}", DEADLINE_S)
                assert not late.done()
                assert data(good).fs_type == "tmpfs"
                reading = await late
                assert reading.reason is Unavailable.DEADLINE
                assert reading.took_ms < 5000
            assert threading.active_count() == before + 1
            given_up = asyncio.create_task(probe.read(f"disk:{hung}", DEADLINE_S))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.gather(given_up, return_exceptions=True)
            assert threading.active_count() == before + 1

        asyncio.run(both())
    deadline = time.monotonic() + 60
    while (reading := read(probe, hung, 1.0)).reason is Unavailable.DEADLINE:
        assert time.monotonic() < deadline
    assert not reading.available, "its server is gone and it is not mounted: said, and never an old answer"


def test_a_hung_mount_does_not_keep_a_process_from_ending(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\nfrom probes.host import HostProbe\nfrom supervisor.config import Config, DiskSection\n"
        "probe = HostProbe(Config(disk=DiskSection(mounts=(sys.argv[1],), discover=False)))\n"
        "print(asyncio.run(probe.read('disk:' + sys.argv[1], 0.3)).reason.value)\n"
    )
    with mounts.hung(tmp_path / "hung") as hung:
        done = subprocess.run(
            [sys.executable, "-c", code, str(hung)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
        )
    assert done.stdout.strip() == "deadline"


@pytest.mark.req("R8", "FR-001")
def test_mounts_that_come_and_go_are_told_by_the_kernel(tmp_path: Path) -> None:
    probe = HostProbe(config("/", tmp_path / "named", discover=True))
    point, named = tmp_path / "found", tmp_path / "named"

    async def story(events: Recorder) -> None:
        def found() -> bool:
            return str(point) in disks(probe)

        assert not found()
        with mounts.ext4(point):
            await events.wait(found)
            assert events.changes == 1
        await events.wait(lambda: not found())
        assert events.changes == 2
        assert read_reason(await probe.read(f"disk:{named}", 5)) is Unavailable.MISSING
        with mounts.tmpfs(named):
            await events.wait(lambda: (f"disk:{named}", 0) in events.soon)
            assert data(await probe.read(f"disk:{named}", 5)).mounted
            events.soon.clear()
        await events.wait(lambda: (f"disk:{named}", 0) in events.soon)
        assert read_reason(await probe.read(f"disk:{named}", 5)) is Unavailable.MISSING

    watched(probe, story)


def read_reason(reading: HealthReading) -> Unavailable:
    return reading.reason


@pytest.mark.req("R8")
def test_a_named_folder_that_appears_is_read_from_then_on(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d") as point:
        probe = HostProbe(config(point / "later"))
        assert disks(probe) == [str(point / "later")]

        async def story(events: Recorder) -> None:
            (point / "later").mkdir()  # no mount: the kernel does not tell
            await probe.read(f"disk:{point / 'later'}", 5)
            assert events.changes == 1
            assert disks(probe) == [str(point)]

        watched(probe, story)


def test_a_disk_near_its_limit_is_read_more_often(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "d", "size=400k") as point:
        probe = HostProbe(config(point))
        target = f"disk:{point}"

        async def story(events: Recorder) -> None:
            mounts.fill(point, 79 * 4 * KIB)
            await probe.read(target, 5)
            assert events.soon == []
            mounts.fill(point, 8 * KIB, "more")
            await probe.read(target, 5)
            assert events.soon == [(target, disk_module.NEAR_AGAIN_S)]

        watched(probe, story)


@contextlib.contextmanager
def _closing(probe: HostProbe) -> Iterator[HostProbe]:
    try:
        yield probe
    finally:
        probe.close()


def test_closing_lets_go_of_every_descriptor() -> None:
    async def story() -> None:
        before = len(os.listdir("/proc/self/fd"))
        with _closing(HostProbe(config("/"))) as probe:
            probe.watch(Recorder())
            assert len(os.listdir("/proc/self/fd")) > before
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(story())
