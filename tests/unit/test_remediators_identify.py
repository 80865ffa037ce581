"""Who is alive for a pid file and a match: bad files, recycled numbers, and our own command line."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import clock, identify, proc
from supervisor.incidents.readings import PidFile

SLEEP = f"86399.{os.getpid()}"  # a command line of our own


@pytest.fixture
def sleeper() -> Iterator[int]:
    with subprocess.Popen(["/bin/sleep", SLEEP]) as child:
        while not proc.command_line(child.pid):  # an exec closes its descriptors before the kernel shows its arguments
            pass
        yield child.pid
        child.kill()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"abc\n",
        b"-5\n",
        b"0\n",
        b"1\n",
        b"12 34\n",
        b"\xff\xfe\x00\x01",
        b"9" * 4000,
        b"1" * 100_000,
        b"4194305",
    ],
)
def test_what_is_no_pid_is_malformed(tmp_path: Path, content: bytes) -> None:
    """1 is init: never a service of ours, and never to be signalled because a file says so."""
    path = tmp_path / "x.pid"
    path.write_bytes(content)
    assert identify.read_pid_file(str(path)).status is PidFile.MALFORMED
    assert identify.live_processes(str(path), "") == []


def test_fifos_devices_and_directories_block_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (str(tmp_path / "fifo"), "/dev/zero", str(tmp_path)):
        assert identify.read_pid_file(path).status is PidFile.MALFORMED


def test_a_missing_file_is_missing(tmp_path: Path, sleeper: int) -> None:
    (tmp_path / "file").touch()
    assert identify.read_pid_file(str(tmp_path / "x.pid")).status is PidFile.MISSING
    assert identify.read_pid_file(str(tmp_path / "file" / "x.pid")).status is PidFile.MISSING


def test_cannot_tell_is_not_the_same_as_not_running(tmp_path: Path) -> None:
    """R9: a loop of links is not readable for root either."""
    (tmp_path / "x.pid").symlink_to(tmp_path / "x.pid")
    assert identify.read_pid_file(str(tmp_path / "x.pid")).status is PidFile.UNREADABLE
    with pytest.raises(PermissionError):
        identify.live_processes(str(tmp_path / "x.pid"), "")
    assert identify.live_processes(str(tmp_path / "x.pid"), "no such command line at all") == []


@pytest.mark.parametrize("text", ["{}", "{}\n", "  {} \n", "{}\n/var/lib/postgresql\n5432\n"])
def test_a_good_file_names_its_process(tmp_path: Path, sleeper: int, text: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(text.format(sleeper))
    finding = identify.read_pid_file(str(path))
    assert finding.status is PidFile.OK
    assert [ref.pid for ref in identify.live_processes(str(path), "")] == [sleeper]
    assert identify.live_processes(str(path), "", frozenset({sleeper})) == []


def test_a_process_younger_than_the_file_is_another_one(tmp_path: Path, sleeper: int) -> None:
    path = tmp_path / "x.pid"
    path.write_text(str(sleeper))
    hour_ago_s = clock.wall_s() - 3600
    os.utime(path, (hour_ago_s, hour_ago_s))
    assert identify.read_pid_file(str(path)).status is PidFile.RECYCLED
    assert identify.read_pid_file(str(path), f"sleep {SLEEP}").status is PidFile.OK
    assert identify.read_pid_file(str(path), "nginx").status is PidFile.RECYCLED


def test_the_number_of_a_thread_is_no_process(tmp_path: Path) -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        path = tmp_path / "x.pid"
        path.write_text(str(thread.native_id))
        assert identify.read_pid_file(str(path)).status is PidFile.RECYCLED
    finally:
        done.set()
        thread.join()


@pytest.mark.req("R12")
def test_a_zombie_is_dead_and_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    child = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    path.write_text(str(child.pid))
    finding = identify.read_pid_file(str(path))
    assert finding.status is PidFile.STALE
    assert finding.process is not None
    assert identify.live_processes(str(path), "") == []
    child.wait()
    assert identify.read_pid_file(str(path)).status is PidFile.STALE


def test_match_finds_every_live_process_but_our_own(sleeper: int) -> None:
    """The command line of `healctl heal execute --target NAME` matches NAME too, and must never be ended for it."""
    code = "import signal; signal.pause()"
    with (
        subprocess.Popen(["healctl", "-c", code, f"sleep {SLEEP}"], executable=sys.executable) as by_name,
        subprocess.Popen([sys.executable, "-c", code, f"sleep {SLEEP}"]) as other,
    ):
        while not (proc.command_line(by_name.pid) and proc.command_line(other.pid)):
            pass
        found = [ref.pid for ref in identify.matching(f"sleep {SLEEP}")]
        by_name.kill()
        other.kill()
    assert sleeper in found
    assert other.pid in found
    assert by_name.pid not in found
    assert os.getpid() not in [ref.pid for ref in identify.matching("python")]


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (("healctl: executor",), True),
        (("/usr/bin/python3", "/usr/local/bin/healctl", "heal"), True),
        (("healctl", "start"), True),
        ((), False),
        (("vim", "notes", "healctl"), False),
        (("/opt/healctl-exporter",), False),
    ],
)
def test_which_command_lines_are_ours(words: tuple[str, ...], ours: bool) -> None:
    assert identify.is_healctl(words) is ours


def test_a_stale_file_gives_way_to_the_match(tmp_path: Path, sleeper: int) -> None:
    path = tmp_path / "x.pid"
    path.write_text("4194304")
    assert proc.stat(4194304) is None
    assert [ref.pid for ref in identify.live_processes(str(path), f"^/bin/sleep {SLEEP}$")] == [sleeper]
