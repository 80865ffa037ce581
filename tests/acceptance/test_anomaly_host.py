"""Disks and memory that run short for real, on the real daemon, each beside a healthy twin (FR-001, FR-002, R7, R8).

All of it happens in a mount namespace of the test run, and in control groups of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import mounts
from tests.lab.cgroup import memory_group
from tests.lab.daemon import Daemon, Site, until

MIB = 1024**2
FAST = '[policy]\nclear_interval = "100ms"\n'
MEMORY = '[memory]\ninterval = "1s"\n'


@pytest.fixture(autouse=True)
def _namespace() -> None:
    mounts.own_namespace()


def disk_toml(*points: Path, discover: bool = False) -> str:
    named = ", ".join(f'"{point}"' for point in points)
    return f'[disk]\nmounts = [{named}]\ndiscover = {str(discover).lower()}\ninterval = "1s"\n'


def found(daemon: Daemon, target: str, anomaly: str, severity: str) -> dict[str, object]:
    """The open incident of this anomaly, as it stands in brain.db."""

    def look() -> dict[str, object] | None:
        rows = [row for row in daemon.incidents(target) if row["anomaly_type"] == anomaly and not row["resolved_at"]]
        return rows[-1] if rows else None

    try:
        row: dict[str, object] = until(f"{anomaly} of {target}", look)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{daemon.incidents()}\n{daemon.tail()}") from None
    assert row["severity"] == severity
    return row


def closed(daemon: Daemon, target: str, count: int, state: str = "self_resolved") -> None:
    """So many incidents of the target, all of them closed, by nobody's doing or after a runbook had its try."""
    rows = daemon.wait_state(target, state, count)
    assert len(rows) == len(daemon.incidents(target)) == count


def targets(daemon: Daemon) -> set[str]:
    return {str(row["target_id"]) for row in daemon.incidents()}


@pytest.mark.req("FR-001", "FR-002", "FR-004", "R7")
def test_a_disk_past_85_and_past_95_percent(here: Site) -> None:
    with (
        mounts.tmpfs(here.folder / "full", "size=400k") as full,
        mounts.tmpfs(here.folder / "twin", "size=400k") as twin,
    ):
        mounts.fill(twin, 85 * 4096)  # exactly at the limit
        daemon = here.daemon(disk_toml(full, twin) + FAST)
        daemon.start()
        assert daemon.open_incidents() == []
        some = mounts.fill(full, 86 * 4096)
        row = found(daemon, f"disk:{full}", "disk_pressure", "high")
        assert "86.0% full" in str(row["audit_trail"])
        more = mounts.fill(full, 10 * 4096, "more")
        row = found(daemon, f"disk:{full}", "disk_critical", "critical")
        assert "96.0% full" in str(row["audit_trail"])
        some.unlink()
        more.unlink()
        closed(daemon, f"disk:{full}", 2, "resolved")
        assert targets(daemon) == {f"disk:{full}"}, "the twin stayed silent"
        daemon.stop()


@pytest.mark.req("FR-001", "FR-002")
def test_a_disk_that_fills_at_once_is_one_critical_incident_and_its_inodes_count(here: Site) -> None:
    with (
        mounts.tmpfs(here.folder / "full", "size=4m,nr_inodes=20") as full,
        mounts.ext4(here.folder / "twin", "16M", "-m", "20") as twin,
    ):
        daemon = here.daemon(disk_toml(full, twin) + FAST)
        daemon.start()
        for number in range(19):
            (full / str(number)).touch()
        row = found(daemon, f"disk:{full}", "disk_critical", "critical")
        assert "0.0% full" in str(row["audit_trail"])
        assert "100.0% of its inodes" in str(row["audit_trail"])
        for file in full.iterdir():
            file.unlink()
        closed(daemon, f"disk:{full}", 1, "resolved")
        assert targets(daemon) == {f"disk:{full}"}


@pytest.mark.req("FR-001", "R8", "R7")
def test_a_disk_that_is_found_full_when_it_is_mounted_and_closes_when_it_is_unmounted(here: Site) -> None:
    """Its interval is an hour: it is the kernel that tells."""
    point = here.folder / "stick"
    with mounts.tmpfs(here.folder / "named") as named:
        daemon = here.daemon(disk_toml(named, discover=True).replace('"1s"', '"1h"') + FAST)
        daemon.start()
        with mounts.ext4(point, "16M", "-m", "50") as stick:
            assert stick == point
            mounts.fill(point, 7 * MIB)
            mounts.unmount(point)
            mounts.run("mount", "-o", "loop", str(point.with_suffix(".image")), str(point))
            found(daemon, f"disk:{point}", "disk_critical", "critical")
            daemon.wait_state(f"disk:{point}", "escalated")  # there was no log to rotate
        closed(daemon, f"disk:{point}", 1, "resolved")
        assert f"disk:{named}" not in targets(daemon)


@pytest.mark.req("FR-001", "R9")
def test_a_hung_disk_is_told_as_ours_and_delays_no_other(here: Site) -> None:
    with mounts.tmpfs(here.folder / "full", "size=400k") as full, mounts.hung(here.folder / "hung") as hung:
        mounts.fill(full, 96 * 4096)
        daemon = here.daemon(disk_toml(full, hung) + FAST)
        daemon.start()
        critical = found(daemon, f"disk:{full}", "disk_critical", "critical")
        row = found(daemon, f"disk:{hung}", "probe_unavailable", "high")
        assert "does not tell how full it is" in str(row["audit_trail"])
        assert str(critical["detected_at"]) < str(row["detected_at"]), "three looks of 5 s at the hung one came first"
        daemon.stop()


@pytest.mark.req("FR-001", "FR-002", "R7", "NFR-002")
def test_memory_below_512_and_256_mib_by_a_false_meminfo(here: Site) -> None:
    fake = here.folder / "meminfo"

    def available(kib: int) -> None:
        fake.write_text(f"MemTotal:       8388608 kB\nMemAvailable:   {kib} kB\n")

    available(512 * 1024)
    with mounts.bound(fake, Path("/proc/meminfo")):
        daemon = here.daemon(MEMORY + FAST)
        daemon.start()
        available(512 * 1024 - 4)
        found(daemon, "system-memory", "memory_pressure", "medium")
        available(256 * 1024)  # exactly 256 MiB is not critical
        until("it is seen", lambda: "256 MiB of" in str(daemon.incidents("system-memory")[0]["details"]))
        assert len(daemon.incidents("system-memory")) == 1
        available(256 * 1024 - 4)
        found(daemon, "system-memory", "memory_critical", "critical")
        available(4 * 1024**2)
        closed(daemon, "system-memory", 2)


@pytest.mark.req("FR-001", "FR-002")
def test_memory_short_by_the_limit_of_the_daemon_s_control_group(here: Site) -> None:
    """Its twin is the same daemon before it is put under the limit."""
    with memory_group(200 * MIB, "daemon") as group:
        daemon = here.daemon(MEMORY + FAST)
        daemon.start()
        twin = here.folder / "twin"
        twin.mkdir()
        other = Daemon(twin, MEMORY + FAST)
        here.daemons.append(other)
        other.start()
        group.enter(daemon.worker("host").pid)
        row = found(daemon, "system-memory", "memory_critical", "critical")
        assert str(group.limit_file) in str(row["audit_trail"])
        group.limit(1024 * MIB)
        closed(daemon, "system-memory", 1)
        assert other.incidents() == []
        daemon.stop()
        other.stop()


@pytest.mark.req("FR-001")
def test_without_a_table_of_disks_the_root_and_the_home_are_watched(here: Site) -> None:
    everything = 'pressure = 0.0001\ncritical = 0.9999\ninterval = "1s"\n'  # so that what is watched tells of itself
    daemon = here.daemon("[disk]\n" + everything + FAST)
    daemon.start()
    found(daemon, "disk:/", "disk_pressure", "high")
    assert all(target.startswith("disk:/") for target in targets(daemon))
