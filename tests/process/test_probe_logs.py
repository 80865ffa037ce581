"""The logs probe on real files: sparse, linked, rotated, forbidden, many, and on a mount that is dead (FR-001)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from probes import logs
from probes.base import Events
from probes.logs import LogsProbe
from supervisor import logfiles
from supervisor.config import Config, Duration, HealctlSection, LogsSection, Size
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import Instant, Severity, Status
from supervisor.incidents.readings import HealthReading, LogsData, Unavailable
from supervisor.incidents.resources import logs as rule
from tests.lab import mounts
from tests.lab.databases import listing

MIB = 1024**2
NOW = Instant(steady_s=0.0, wall_s=0.0, mono_s=0.0)


class Wishes(Events):
    def __init__(self) -> None:
        self.soon: list[float] = []

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.soon.append(in_s)

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        raise AssertionError("its sources are configured")


def probe_of(*patterns: object, max_size: int = 100 * MIB, interval_s: float = 1800) -> LogsProbe:
    section = LogsSection(paths=tuple(map(str, patterns)), max_size=Size(max_size), interval=Duration(interval_s))
    return LogsProbe(Config(healctl=HealctlSection(state_dir="/nonexistent"), logs={"l": section}))


def read(*patterns: object, probe: LogsProbe | None = None) -> HealthReading:
    reading = asyncio.run((probe or probe_of(*patterns)).read("l", 5.0))
    assert reading.took_ms < 5000
    return reading


def data(reading: HealthReading) -> LogsData:
    assert reading.available, (reading.reason, reading.error)
    assert isinstance(reading.data, LogsData)
    return reading.data


def status(reading: HealthReading) -> Status:
    (verdict,) = rule(Judge(reading, NOW), data(reading))
    assert verdict.severity is Severity.MEDIUM
    return verdict.status


def names(found: LogsData) -> list[str]:
    return [os.path.basename(file.path) for file in found.largest]


def write(path: Path, count: int) -> Path:
    """A file whose bytes are really there."""
    with path.open("wb") as file:
        file.write(b"x" * count)
        file.flush()
        os.fsync(file.fileno())
    return path


# --- sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "FR-002")
def test_exactly_100_mib_are_well_and_one_byte_more_is_not(tmp_path: Path) -> None:
    real = tmp_path / "real.log"
    subprocess.run(["dd", "if=/dev/zero", f"of={real}", "bs=1M", "count=100", "conv=fsync"], check=True, stderr=-3)
    before = listing(tmp_path)
    assert status(read(tmp_path / "*.log")) is Status.CLEAR
    with real.open("ab") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    found = read(tmp_path / "*.log")
    assert data(found).largest[0].bytes == 100 * MIB + 1
    assert status(found) is Status.FIRING
    real.unlink()
    write(real, 10)
    assert status(read(tmp_path / "*.log")) is Status.CLEAR
    assert [name for name, _ in listing(tmp_path)] == [name for name, _ in before]


@pytest.mark.req("FR-002")
def test_holes_and_what_is_reserved_beyond_the_end_do_not_count(tmp_path: Path) -> None:
    with (tmp_path / "sparse.log").open("wb") as file:
        file.truncate(500 * MIB)
    reserved = write(tmp_path / "reserved.log", 100)
    subprocess.run(["fallocate", "--keep-size", "--length", "120M", str(reserved)], check=True)
    allocated = tmp_path / "allocated.log"
    subprocess.run(["fallocate", "--length", "120M", str(allocated)], check=True)
    found = read(tmp_path / "*.log")
    assert {os.path.basename(file.path): file.bytes for file in data(found).largest} == {
        "sparse.log": 0, "reserved.log": 100, "allocated.log": 120 * MIB,
    }  # fmt: skip
    assert status(found) is Status.FIRING
    allocated.unlink()
    assert status(read(tmp_path / "*.log")) is Status.CLEAR


@pytest.mark.req("FR-001")
def test_a_file_with_many_names_is_one_file(tmp_path: Path) -> None:
    real = write(tmp_path / "b.log", 5000)
    os.link(real, tmp_path / "c.log")
    (tmp_path / "a.log").symlink_to("b.log")
    (tmp_path / "gone.log").symlink_to("nowhere")
    (tmp_path / "loop.log").symlink_to("loop.log")
    found = data(read(tmp_path / "*.log", tmp_path / "b.*"))
    assert found.files == 1
    assert found.total_bytes == 5000
    assert names(found) in (["b.log"], ["c.log"])


@pytest.mark.req("FR-001", "R9")
def test_folders_fifos_and_devices_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "d.log").mkdir()
    os.mkfifo(tmp_path / "f.log")
    (tmp_path / "null.log").symlink_to("/dev/zero")
    assert data(read(tmp_path / "*.log", "/dev/null")).files == 0


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    "name",
    ["a.log.1", "a.log.12", "a.log-20260101", "a.log-20260101-0300", "a.log.2026-01-01", "a.log.old", "a.log.bak",
     "a.log.1.gz", "a.log-20260101.xz", "a.log.bz2", "a.log.zst", "a.log-1767225600"],
)  # fmt: skip
def test_what_a_rotation_left_behind_is_not_without_rotation(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 5000)
    write(tmp_path / "a.log", 10)
    found = data(read(tmp_path / "*"))
    assert names(found) == ["a.log"]
    assert (found.files, found.total_bytes) == (2, 5010)
    assert "1 rotated files with 4.9 KiB are not judged" in found.detail


@pytest.mark.parametrize("name", ["a.log", "syslog", "app-2.log", "a.8080", "x1", "20260101.log", "gz"])
def test_what_merely_looks_a_little_like_it_is_judged(tmp_path: Path, name: str) -> None:
    write(tmp_path / name, 10)
    assert names(data(read(tmp_path / "*"))) == [name]


@pytest.mark.req("FR-002")
def test_a_rotated_file_that_still_grows_is_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its program was never told to reopen its log."""
    monkeypatch.setattr(logs, "GROWTH_OVER_S", 0.0)
    probe = probe_of(tmp_path / "*")
    write(tmp_path / "a.log.1", 5000)
    write(tmp_path / "b.log.1", 5000)
    write(tmp_path / "c.log.gz", 5000)
    assert names(data(read(probe=probe))) == []
    write(tmp_path / "a.log.1", 9000)
    write(tmp_path / "c.log.gz", 9000)
    assert names(data(read(probe=probe))) == ["a.log.1"]
    assert names(data(read(probe=probe))) == ["a.log.1"], "written in bursts: the look before a repair says so too"
    monkeypatch.setattr(logs, "WRITTEN_WITHIN", 0.0)
    assert names(data(read(probe=probe))) == [], "nobody has written it for long"


@pytest.mark.req("FR-002")
def test_what_a_file_grew_before_it_was_rotated_away_is_not_held_against_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "GROWTH_OVER_S", 0.0)
    probe = probe_of(tmp_path / "*")
    written = write(tmp_path / "a.log", 5000)
    assert names(data(read(probe=probe))) == ["a.log"]
    write(written, 9000).rename(tmp_path / "a.log.1")
    assert names(data(read(probe=probe))) == []
    assert names(data(read(probe=probe))) == []
    write(tmp_path / "a.log.1", 12_000)
    assert names(data(read(probe=probe))) == ["a.log.1"], "its program was never told to reopen its log"


@pytest.mark.req("FR-001")
def test_patterns_reach_as_far_as_they_say(tmp_path: Path) -> None:
    for path in ("a.log", "d/b.log", "d/e/c.log", "d/.hidden/h.log", ".x.log"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / path, 1)
    (tmp_path / "d" / "up").symlink_to("..")  # a loop for whoever follows links
    assert sorted(names(data(read(tmp_path / "**" / "*.log")))) == ["a.log", "b.log", "c.log"]
    assert sorted(names(data(read(tmp_path / "**")))) == ["a.log", "b.log", "c.log"]
    assert names(data(read(tmp_path / "*" / "*.log"))) == ["b.log"]
    assert names(data(read(tmp_path / "d" / "e" / "c.log"))) == ["c.log"]
    assert names(data(read(tmp_path / ".*"))) == [".x.log"]
    assert names(data(read(tmp_path / "[ab].log"))) == ["a.log"]


@pytest.mark.req("FR-001")
def test_where_nothing_matches_all_is_well(tmp_path: Path) -> None:
    write(tmp_path / "file", 1)
    found = read(tmp_path / "none" / "*.log", tmp_path / "file" / "*", tmp_path / "*.log", "/a\0b")
    assert data(found).files == 0
    assert status(found) is Status.CLEAR


@pytest.mark.req("FR-001")
def test_a_name_of_any_bytes_is_shown(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/\xff\x1b[31m\n.log"
    with open(path, "wb") as file:
        file.write(b"x")
    reading = read(tmp_path / "*.log")
    (one,) = data(reading).largest
    assert one.path.endswith("/��[31m�.log")
    one.path.encode()


# --- what cannot be seen --------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "R9")
def test_what_is_denied_is_named_and_nothing_at_all_is_unavailable(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    (tmp_path / "shut").mkdir()
    write(tmp_path / "shut" / "b.log", 1)
    (tmp_path / "shut").chmod(0o700)
    write(tmp_path / "a.log", 1)
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    code = (
        "import asyncio, os, sys; from tests.process.test_probe_logs import *\n"
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "some = data(read(sys.argv[1] + '/*.log', sys.argv[1] + '/shut/*.log', sys.argv[1] + '/shut/b.log'))\n"
        "print(some.files, len(some.denied), status(read(sys.argv[1] + '/*.log', sys.argv[1] + '/shut/*.log')))\n"
        "none = read(sys.argv[1] + '/shut/*')\n"
        "print(none.available, none.reason)\n"
    )
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.split() == ["1", "2", "clear", "False", "permission"], done


@pytest.mark.req("R9")
def test_a_bound_that_is_reached_is_told_and_is_not_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(30):
        write(tmp_path / f"{n}.log", 1)
    monkeypatch.setattr(logfiles, "FILES_MAX", 10)
    found = read(tmp_path / "*.log")
    assert data(found).files == 10
    assert not data(found).complete
    assert "first 10 files" in data(found).detail
    assert status(found) is Status.UNKNOWN
    monkeypatch.setattr(logfiles, "FILES_MAX", 30)
    assert data(read(tmp_path / "*.log")).complete
    monkeypatch.setattr(logfiles, "ENTRIES_MAX", 29)
    assert "directory entries" in data(read(tmp_path / "*.log")).detail
    monkeypatch.setattr(logs, "SCAN_SHARE", -1.0)
    assert "no time" in data(read(tmp_path / "*.log")).detail


@pytest.mark.req("R9")
def test_a_dead_mount_is_told_in_time_and_delays_no_other(tmp_path: Path) -> None:
    write(tmp_path / "a.log", 1)
    with mounts.hung(tmp_path / "dead"):
        sections = {
            "dead": LogsSection(paths=(str(tmp_path / "dead" / "*"),)),
            "well": LogsSection(paths=(str(tmp_path / "*.log"),)),
        }
        probe = LogsProbe(Config(healctl=HealctlSection(state_dir=str(tmp_path)), logs=sections))

        async def both() -> list[HealthReading]:
            return await asyncio.gather(probe.read("dead", 1.0), probe.read("well", 5.0), probe.read("dead", 1.0))

        dead, well, again = asyncio.run(both())
    assert dead.reason is again.reason is Unavailable.DEADLINE
    assert data(well).files == 1


# --- growth ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_growth_is_told_and_the_next_reading_wished_for_when_it_would_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "GROWTH_OVER_S", 0.0)
    probe, wishes = probe_of(tmp_path / "*.log", max_size=10**9), Wishes()
    probe.watch(wishes)
    path, still = write(tmp_path / "a.log", 1000), write(tmp_path / "b.log", 500)
    assert data(read(probe=probe)).largest[0].growth_bytes_s is None
    assert wishes.soon == []
    began_s = time.monotonic()
    write(path, 5 * MIB)
    found = data(read(probe=probe))
    growth = found.largest[0].growth_bytes_s
    assert growth is not None
    assert growth > 5 * MIB / 60
    assert found.largest[1].growth_bytes_s == 0
    assert time.monotonic() - began_s < 60
    (in_s,) = wishes.soon
    assert in_s == pytest.approx(max((10**9 - 5 * MIB) / growth, logs.SOON_S_MIN))
    write(path, 10)
    assert data(read(probe=probe)).largest[1].growth_bytes_s is None, "it was cut off in between"
    still.unlink()
    assert len(wishes.soon) == 1


def test_a_new_configuration_leaves_alone_what_has_not_changed(tmp_path: Path) -> None:
    write(tmp_path / "a.log", 10)
    probe = probe_of(tmp_path / "*.log")
    read(probe=probe)
    seen = probe._targets["l"].seen
    section = LogsSection(paths=(str(tmp_path / "*.log"),), max_size=Size(5))
    probe.reconfigure(Config(healctl=HealctlSection(state_dir="/nonexistent"), logs={"l": section}))
    assert probe._targets["l"].seen is seen
    assert status(read(probe=probe)) is Status.FIRING
    assert {source.source_id for source in probe.sources()} == {"l", "service-output"}
    probe.reconfigure(Config(healctl=HealctlSection(state_dir="/nonexistent"), logs={}))
    assert probe.sources() == ()
    assert not asyncio.run(probe.read("l", 5.0)).available
