"""The mount table, what of it is worth watching, and the trend of what fills up: all on values."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from probes import memory
from probes.growth import SAMPLES_MAX, Growth
from probes.memory import groups, machine
from probes.mounts import CHROOT, Mount, MountTable, parse, unescaped, upwards
from supervisor.cgroups import Room

GIB = 1024**3
TABLE = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
22 27 0:21 / /proc rw,relatime - proc proc rw
25 27 0:23 / /dev/shm rw,relatime shared:4 master:7 - tmpfs tmpfs rw,size=1k
30 25 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=2k
40 27 8:1 / /mnt/my\040disk rw - ext4 /dev/sda1 rw
41 27 8:1 /sub /tmp rw - ext4 /dev/sda1 rw
50 27 7:3 / /snap/core ro - squashfs /dev/loop3 ro
51 27 8:2 / /boot rw - ext4 /dev/sda2 ro,errors=remount-ro
60 27 0:44 / /btr rw - btrfs /dev/sdb rw
61 27 0:45 / /net rw - nfs4 host:/x rw
62 27 8:9 / /usb rw - fuseblk /dev/sdc1 rw
63 27 0:50 / / rw - broken
""".strip()


def by_point(text: str = TABLE) -> dict[str, Mount]:
    return {name: mount for name, mount in MountTable(parse(text)).by_point.items() if mount is not CHROOT}


@pytest.mark.req("FR-001")
def test_the_table_is_read_with_escapes_options_and_what_covers_what() -> None:
    found = by_point()
    assert found["/mnt/my disk"].device == "8:1"
    assert found["/dev/shm"].mount_id == 30, "the upper of two mounts at one point is what a path leads to"
    assert found["/tmp"].root == "/sub"
    assert found["/"].mount_id == 27, "a line that is no mount is left out"
    assert (found["/boot"].read_only, found["/"].read_only) == (True, False)


@pytest.mark.req("FR-001")
def test_what_is_worth_watching() -> None:
    assert {point for point, mount in by_point().items() if mount.worth_watching} == {
        "/", "/mnt/my disk", "/tmp", "/btr", "/usb",
    }  # fmt: skip


@pytest.mark.req("R9")
def test_only_what_cannot_wait_for_anybody_is_local() -> None:
    assert {point for point, mount in by_point().items() if not mount.local} == {"/net", "/usb"}


@pytest.mark.req("FR-001")
def test_a_mount_below_one_that_covers_it_cannot_be_reached() -> None:
    below = "70 27 8:3 / /a/b rw - ext4 /dev/sda3 rw\n"
    cover = "71 27 8:4 / /a rw - ext4 /dev/sda4 rw\n"
    beneath = "72 70 8:5 / /a/b/c rw - ext4 /dev/sda5 rw\n"
    assert "/a/b/c" in by_point(TABLE + "\n" + below + beneath)
    covered = by_point(TABLE + "\n" + below + beneath + cover)
    assert covered["/a"].device == "8:4"
    assert "/a/b" not in covered
    assert "/a/b/c" not in covered
    upon = "73 71 8:6 / /a/b rw - ext4 /dev/sda6 rw\n"
    assert by_point(TABLE + "\n" + below + cover + upon)["/a/b"].device == "8:6"


def test_a_table_in_a_circle_and_names_that_nobody_can_read_end_well() -> None:
    circle = "1 2 8:1 / /x rw - ext4 /dev/a rw\n2 1 8:2 / /y rw - ext4 /dev/b rw\n3 3 8:3 / /z rw - ext4 /dev/c rw\n"
    assert set(by_point(circle)) == {"/z"}, "the top may be its own parent"
    odd = "1 0 8:1 / /x\\012y rw - ext4 /dev/a rw\n2 0 8:2 / /gone//deleted rw - ext4 /dev/b rw\n"
    assert by_point(odd) == {}
    assert by_point("") == by_point("x\n - \n1 2 3 - 4 5 6\n") == {}


def test_the_holder_of_a_path_is_the_nearest_mount_above_it() -> None:
    table = MountTable(parse(TABLE))
    for path, expected in (("/tmp/a/b", "/tmp"), ("/tmp2", "/"), ("/mnt/my disk", "/mnt/my disk"), ("/", "/")):
        assert table.holding(path).point == expected
    assert MountTable(()).holding("/x") == CHROOT, "the table of a chroot does not name its root"
    assert list(upwards("/a/b")) == ["/a/b", "/a", "/"]
    assert unescaped(r"a\134b\011c\043") == "a\\b\tc#"


# --- growth ---------------------------------------------------------------------------------------------------------


def grown(samples: list[tuple[float, int]], available: int = 10 * GIB) -> float | None:
    growth = Growth()
    for at_s, used in samples:
        growth.add(at_s, used)
    return growth.full_in_s(available)


def line(count: int = 12, step_s: float = 600.0, slope: int = 1000_000) -> list[tuple[float, int]]:
    return [(n * step_s, 50 * GIB + int(n * step_s * slope)) for n in range(count)]


@pytest.mark.req("FR-001")
def test_steady_growth_tells_when_the_disk_is_full() -> None:
    assert grown(line()) == pytest.approx(10 * GIB / 1_000_000)


@pytest.mark.req("FR-001")
def test_a_few_readings_or_a_few_minutes_tell_nothing() -> None:
    assert grown([]) is None
    assert grown(line(5)) is None
    assert grown(line(6)) is not None
    assert grown(line(6, step_s=59.0)) is None, "they reach over less than five minutes"
    assert grown(line(6, step_s=60.0, slope=10_000_000)) is not None
    assert grown(line(1000, step_s=1.0)[:60]) is None, "close readings are not more readings"


@pytest.mark.req("FR-001")
def test_what_does_not_grow_is_never_full() -> None:
    assert grown(line(slope=0)) is None
    assert grown(line(slope=-1000)) is None
    assert grown(line(slope=1)) is None, "the forecast would reach much further than what was seen"
    saw = [(n * 600.0, 50 * GIB + (n % 4) * GIB) for n in range(24)]
    assert grown(saw) is None, "filled and cleaned in turn"


@pytest.mark.req("FR-001")
def test_noise_and_single_outliers_do_not_move_the_forecast() -> None:
    chance = random.Random(7)
    noisy = [(at_s, used + chance.randrange(-(10**8), 10**8)) for at_s, used in line(30)]
    noisy[12] = (noisy[12][0], noisy[12][1] + 8 * GIB)  # an archive was unpacked and removed again
    assert grown(noisy) == pytest.approx(10 * GIB / 1_000_000, rel=0.1)


def test_only_the_newest_samples_count() -> None:
    flat = [(n * 600.0, 10 * GIB) for n in range(500)]
    then = [(300_000 + at_s, used) for at_s, used in line(SAMPLES_MAX)]
    assert grown(flat + then) == pytest.approx(10 * GIB / 1_000_000)


# --- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_meminfo_is_read_in_kib() -> None:
    text = "MemTotal:       24684096 kB\nMemFree: 1 kB\nMemAvailable:   262144 kB\n"
    assert machine(text) == Room(256 * 1024**2, 24684096 * 1024)


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    "text",
    ["", "MemTotal: 1 kB\n", "MemTotal: 1 kB\nMemAvailable: x kB\n", "MemTotal: 1 kB\nMemAvailable: -5 kB\n",
     "MemTotal: 1 kB\nMemAvailable: 12\n", "MemTotal: 1 kB\nMemAvailable: ٣ kB\n", "\0\xff"],
)  # fmt: skip
def test_a_meminfo_that_does_not_tell_is_bad_data(text: str) -> None:
    with pytest.raises(memory.BadData):
        machine(text)


@pytest.mark.parametrize(
    ("root", "path", "expected"),
    [
        ("/", "/a/b", ["/cg/a/b", "/cg/a", "/cg"]),
        ("/", "/", ["/cg"]),
        ("/docker/x", "/docker/x/y", ["/cg/y", "/cg"]),  # version 1 in a container: a part is mounted
        ("/docker/x", "/docker/x", ["/cg"]),
        ("/docker/x", "/docker/xy", ["/cg/docker/xy", "/cg/docker", "/cg"]),
        ("/", "/../other", ["/cg"]),  # outside of our namespace
    ],
)
def test_our_group_is_found_where_its_hierarchy_is_mounted(root: str, path: str, expected: list[str]) -> None:
    mount = Mount(1, 0, "0:1", root, "/cg", False, "cgroup2", "cgroup2")
    assert list(memory._folders(mount, path)) == expected


def test_without_control_groups_there_are_no_limits() -> None:
    details: list[str] = []
    assert list(groups("", MountTable(()), details)) == []
    assert list(groups("0::/a\n4:memory:/b\nx\n", MountTable(()), details)) == []
    assert details == []


@pytest.mark.req("FR-001", "R9")
def test_limits_are_found_on_the_whole_way_up_and_bad_ones_are_told(tmp_path: Path) -> None:
    top = tmp_path / "cg"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/memory.max").write_text("max\n")
    (top / "a/memory.max").write_text("1000000\n")
    (top / "a/memory.current").write_text("900000\n")
    (top / "a/memory.stat").write_text("anon 1\ninactive_file 300000\n")
    (top / "memory.max").write_text("lots\n")
    table = MountTable((Mount(1, 0, "0:1", "/", str(top), False, "cgroup2", "cgroup2"),))
    details: list[str] = []
    assert list(groups("0::/a/b\n", table, details)) == [Room(400_000, 1_000_000, str(top / "a/memory.max"))]
    (detail,) = details
    assert "not known" in detail
