"""The process probe on real processes: who is alive, who is not, and when nobody can tell."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from probes import process as process_module
from probes.process import ProcessProbe
from supervisor import proc
from supervisor.config import Config, Duration, ProcessSection
from supervisor.incidents.readings import Endpoint, HealthReading, PidFile, ProcessData, Unavailable

Start = Callable[..., "subprocess.Popen[bytes]"]
DEADLINE_S = 5.0


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts real programs; each is ended, and reaped, at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        running.append(child)
        return child

    yield begin
    for child in running:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()


def python(start: Start, code: str, *args: str) -> subprocess.Popen[bytes]:
    """A Python program that has printed a line when it is ready."""
    child = start(sys.executable, "-c", code, *args)
    assert child.stdout is not None
    child.stdout.readline()
    return child


def probe_of(**keys: object) -> ProcessProbe:
    return ProcessProbe(Config(process={"svc": ProcessSection(**keys)}))  # type: ignore[arg-type]


def read(probe: ProcessProbe) -> HealthReading:
    return asyncio.run(probe.read("svc", DEADLINE_S))


def data(reading: HealthReading) -> ProcessData:
    assert reading.available, reading.error
    assert isinstance(reading.data, ProcessData)
    return reading.data


def write_pid(path: Path, pid: int, age_s: float = 0.0) -> str:
    path.write_text(f"{pid}\n")
    if age_s:
        os.utime(path, (time.time() - age_s,) * 2)
    return str(path)


def wait_state(pid: int, state: str) -> None:
    """Waits for the event itself: the kernel's state of the process."""
    deadline = time.monotonic() + 60
    while (status := proc.stat(pid)) is None or status.state != state:
        assert time.monotonic() < deadline, status
        os.sched_yield()


def sleeper(start: Start, name: str) -> subprocess.Popen[bytes]:
    """A process whose command line holds `name`."""
    return python(start, "import time; print(flush=True); time.sleep(60)", name)


# --- pid files ------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "FR-002")
def test_a_pid_file_names_a_live_process(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    reading = read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid)))
    assert data(reading).alive
    assert data(reading).pid_file is PidFile.OK
    assert data(reading).process is not None
    assert reading.took_ms < 5000


@pytest.mark.req("FR-002")
def test_a_stale_pid_file_is_no_live_service(start: Start, tmp_path: Path) -> None:
    child = start("true")
    child.wait()
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid))))
    assert found.alive is False
    assert found.pid_file is PidFile.STALE


@pytest.mark.req("FR-002")
def test_a_recycled_pid_is_no_live_service(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid, age_s=3600))))
    assert found.alive is False
    assert found.pid_file is PidFile.RECYCLED


def test_a_pid_file_of_a_live_process_that_does_not_match(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid), match=r"no-such-service-\d{9}")))
    assert found.alive is False
    assert found.pid_file is PidFile.RECYCLED


def test_a_pid_file_that_names_a_thread(start: Start, tmp_path: Path) -> None:
    code = "import threading,time; threading.Thread(target=time.sleep,args=(60,)).start(); print(flush=True)"
    child = python(start, code)
    thread = next(int(name) for name in os.listdir(f"/proc/{child.pid}/task") if int(name) != child.pid)
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", thread))))
    assert found.pid_file is PidFile.RECYCLED
    assert found.alive is False


def test_a_pid_file_that_names_healctl_itself(start: Start, tmp_path: Path) -> None:
    titled = "import setproctitle,time; setproctitle.setproctitle('healctl: store'); print(flush=True)"
    child = python(start, titled + "; time.sleep(60)")
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid))))
    assert found.alive is False
    assert found.pid_file is PidFile.RECYCLED


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"-5\n", b"0\n", b"1\n", b"1 2\n", b"12x\n", b"\x00\xff\xfe\x01", b"9" * 30, b"4194305\n", b"7" * 9000,
     "٣٤\n".encode(), b"+77\n", b"0x10\n"],
)  # fmt: skip
@pytest.mark.req("FR-001", "R9")
def test_a_malformed_pid_file_is_a_value_and_never_dead(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "p"
    path.write_bytes(content)
    reading = read(probe_of(pid_file=str(path)))
    assert not reading.available
    assert reading.reason is Unavailable.ERROR
    assert str(path) in reading.error
    assert reading.data is None


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.req("FR-001", "R9")
def test_a_fifo_or_directory_in_its_place_does_not_block(make: Callable[[str], None], tmp_path: Path) -> None:
    make(str(tmp_path / "p"))
    reading = read(probe_of(pid_file=str(tmp_path / "p")))
    assert not reading.available
    assert reading.reason is not Unavailable.DEADLINE


@pytest.mark.req("R9")
def test_endless_links_and_impossible_paths_are_values(tmp_path: Path) -> None:
    os.symlink("loop", tmp_path / "loop")
    assert not read(probe_of(pid_file=str(tmp_path / "loop"))).available
    assert not read(probe_of(pid_file="/tmp/\0")).available
    assert not read(probe_of(pid_file="/tmp/none", stop_file="/tmp/\0")).available
    too_long = read(probe_of(pid_file="/" + "x" * 5000))
    assert not too_long.available


@pytest.mark.req("R9")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody who may not read")
def test_permission_denied_is_unavailable_not_dead(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    write_pid(tmp_path / "closed/p", 4242)
    os.chmod(tmp_path, 0o755)
    for parent in list(tmp_path.parents)[:3]:
        os.chmod(parent, os.stat(parent).st_mode | 0o055)
    os.seteuid(65534)
    try:
        reading = read(probe_of(pid_file=str(tmp_path / "closed/p")))
        unknown = read(probe_of(pid_file=str(tmp_path / "none"), stop_file=str(tmp_path / "closed/stop")))
    finally:
        os.seteuid(0)
    assert not reading.available
    assert reading.reason is Unavailable.PERMISSION
    assert not unknown.available  # whether it is meant to stop cannot be told, so nothing may be started
    assert unknown.reason is Unavailable.PERMISSION


@pytest.mark.req("R8")
def test_a_process_once_known_lives_on_when_its_pid_file_is_lost_or_damaged(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    path = tmp_path / "p"
    probe = probe_of(pid_file=write_pid(path, child.pid))
    first = data(read(probe))
    path.unlink()
    for content, expected in ((None, PidFile.MISSING), ("", PidFile.MALFORMED), ("3999999\n", PidFile.STALE)):
        if content is not None:
            path.write_text(content)
        found = data(read(probe))
        assert (found.alive, found.pid_file, found.process) == (True, expected, first.process)
    write_pid(path, child.pid, age_s=3600)  # as if the wall clock had been set
    assert data(read(probe)).alive
    child.kill()
    child.wait()
    path.write_text("")
    assert data(read(probe)).alive is False  # it was seen, and it is gone


# --- the process table -----------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_match_finds_the_process(start: Start) -> None:
    child = sleeper(start, "toy-service-4711")
    found = data(read(probe_of(match=r"toy-service-\d+$")))
    assert found.alive
    assert found.process is not None
    assert found.process.pid == child.pid


def test_match_finds_the_parent_and_counts_strangers(start: Start) -> None:
    code = "import os,sys,time; os.fork(); os.fork(); print(flush=True); time.sleep(60)"
    first = python(start, code, "toy-forker-4712")
    assert first.stdout is not None
    for _ in range(3):
        first.stdout.readline()
    try:
        found = data(read(probe_of(match="toy-forker-4712")))
        assert found.process is not None
        assert found.process.pid == first.pid
        assert "unrelated" not in found.detail
        python(start, "import time; print(flush=True); time.sleep(60)", "toy-forker-4712")
        found = data(read(probe_of(match="toy-forker-4712")))
        assert found.process is not None
        assert found.process.pid == first.pid
        assert "2 unrelated processes match" in found.detail
    finally:
        for pid in proc.pids():
            if "toy-forker-4712" in proc.command_line(pid):
                os.kill(pid, signal.SIGKILL)


def test_match_never_finds_healctl_itself(start: Start) -> None:
    titled = "import setproctitle,time; setproctitle.setproctitle('healctl: toy-own-4715'); print(flush=True)"
    python(start, titled + "; time.sleep(60)")
    assert data(read(probe_of(match="toy-own-4715"))).alive is False


def test_match_outweighs_a_lost_pid_file(start: Start, tmp_path: Path) -> None:
    child = sleeper(start, "toy-both-4716")
    probe = probe_of(pid_file=str(tmp_path / "p"), match="toy-both-4716")
    found = data(read(probe))
    assert (found.alive, found.pid_file) == (True, PidFile.MISSING)
    write_pid(tmp_path / "p", child.pid)
    assert data(read(probe)).pid_file is PidFile.OK


def test_a_match_on_another_program_after_exec_is_not_kept(start: Start, tmp_path: Path) -> None:
    """One number and one start time, two programs: nothing about a process may be remembered by those alone."""
    code = "import os,sys; print(flush=True); sys.stdin.readline(); os.execlp('sleep', 'sleep', '60')"
    child = subprocess.Popen([sys.executable, "-c", code, "toy-exec-4717"], stdin=-1, stdout=-1)
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdout.readline()
    probe = probe_of(match="toy-exec-4717")
    try:
        assert data(read(probe)).alive
        child.stdin.write(b"\n")
        child.stdin.flush()
        deadline = time.monotonic() + 60
        while "sleep" not in proc.command_line(child.pid):
            assert time.monotonic() < deadline
        assert data(read(probe)).alive is False
    finally:
        child.kill()
        child.communicate()


def test_reads_of_one_moment_share_one_pass(start: Start) -> None:
    sections = {f"t{n}": ProcessSection(match=f"no-such-{n}-\\d{{9}}") for n in range(20)}
    probe = ProcessProbe(Config(process=sections))
    passes = 0
    original = probe._table._pass

    async def counted() -> object:
        nonlocal passes
        passes += 1
        return await original()

    probe._table._pass = counted  # type: ignore[method-assign, assignment]

    async def everybody() -> list[HealthReading]:
        return list(await asyncio.gather(*(probe.read(name, DEADLINE_S) for name in sections)))

    readings = asyncio.run(everybody())
    assert passes == 1
    assert all(data(reading).alive is False for reading in readings)


# --- zombies, stops -------------------------------------------------------------------------------------------------


@pytest.mark.req("R12", "FR-002")
def test_a_zombie_is_dead_and_its_parent_is_named(start: Start, tmp_path: Path) -> None:
    code = "import subprocess,time; p=subprocess.Popen(['sleep','0']); print(p.pid,flush=True); time.sleep(60)"
    parent = start(sys.executable, "-c", code)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    wait_state(pid, "Z")
    probe = probe_of(pid_file=write_pid(tmp_path / "p", pid))
    first = data(read(probe))
    assert first.alive is False
    (zombie,) = first.zombies
    assert zombie.process.pid == pid
    assert zombie.parent_pid == parent.pid
    assert zombie.parent_name.startswith("python")
    (again,) = data(read(probe)).zombies
    assert again.seen_for_s > zombie.seen_for_s
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while data(read(probe)).zombies:  # whoever inherits it reaps it, some time
        assert time.monotonic() < deadline


@pytest.mark.req("R12")
def test_a_parent_that_reaps_late_leaves_a_dead_service_and_no_zombie(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    probe = probe_of(pid_file=write_pid(tmp_path / "p", child.pid))
    assert data(read(probe)).alive
    child.kill()
    wait_state(child.pid, "Z")
    found = data(read(probe))
    assert (found.alive, len(found.zombies)) == (False, 1)
    child.wait()
    found = data(read(probe))
    assert (found.alive, found.zombies) == (False, ())


@pytest.mark.req("R8")
def test_a_stop_file_says_that_it_is_meant_to_stop(tmp_path: Path) -> None:
    probe = probe_of(pid_file=str(tmp_path / "p"), stop_file=str(tmp_path / "stop"))
    assert data(read(probe)).meant_to_stop is False
    os.symlink("nowhere", tmp_path / "stop")
    found = data(read(probe))
    assert found.meant_to_stop
    assert found.alive is False


def test_a_stopped_process_is_alive_and_said_to_be_stopped(start: Start, tmp_path: Path) -> None:
    child = start("sleep", "60")
    child.send_signal(signal.SIGSTOP)
    wait_state(child.pid, "T")
    found = data(read(probe_of(pid_file=write_pid(tmp_path / "p", child.pid))))
    assert found.alive
    assert "stopped" in found.detail


# --- endpoints -------------------------------------------------------------------------------------------------------

SERVER = """
import http.server, sys
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@pytest.mark.req("FR-001", "R9")
def test_a_stopped_http_server_accepts_but_does_not_serve(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_module, "ENDPOINT_TIMEOUT_S", 0.3)
    server = start(sys.executable, "-c", SERVER)
    assert server.stdout is not None
    port = int(server.stdout.readline())
    probe = probe_of(pid_file=write_pid(tmp_path / "p", server.pid), endpoint=f"http://127.0.0.1:{port}/?a=b")
    found = data(read(probe))
    assert (found.alive, found.endpoint, found.endpoint_failures) == (True, Endpoint.OK, 0)
    server.send_signal(signal.SIGSTOP)
    wait_state(server.pid, "T")
    for failures in (1, 2):
        found = data(read(probe))
        assert (found.alive, found.endpoint, found.endpoint_failures) == (True, Endpoint.TIMEOUT, failures)
        assert "no answer within 0.3 s" in found.detail
    server.send_signal(signal.SIGCONT)
    found = data(read(probe))
    assert (found.endpoint, found.endpoint_failures) == (Endpoint.OK, 0)


def test_failures_of_the_endpoint_are_not_inherited_by_the_next_process(start: Start, tmp_path: Path) -> None:
    first, path = start("sleep", "60"), tmp_path / "p"
    probe = probe_of(pid_file=write_pid(path, first.pid), endpoint="tcp://127.0.0.1:1")
    for failures in (1, 2):
        found = data(read(probe))
        assert (found.endpoint, found.endpoint_failures) == (Endpoint.REFUSED, failures)
    first.kill()
    first.wait()
    assert data(read(probe)).alive is False
    write_pid(path, start("sleep", "60").pid)
    assert data(read(probe)).endpoint_failures == 1


def test_an_endpoint_alone_cannot_tell_whether_a_process_exists() -> None:
    found = data(read(probe_of(endpoint="tcp://127.0.0.1:1")))
    assert (found.alive, found.endpoint, found.process) == (None, Endpoint.REFUSED, None)


def test_sources_are_the_sites_adapter() -> None:
    (source,) = ProcessProbe(Config(process={"svc": ProcessSection(match="x", interval=Duration(90))})).sources()
    assert (source.source_id, source.poll_interval_ms, source.freshness_threshold_ms) == ("svc", 90_000, 90_000)


@pytest.mark.req("FR-001")
def test_a_target_that_leaves_while_it_is_read_makes_nothing_raise(start: Start) -> None:
    child = start("sleep", "61.2345")
    probe = probe_of(match=r"^sleep 61\.2345$")

    async def scenario() -> HealthReading:
        reading = asyncio.create_task(probe.read("svc", DEADLINE_S))
        while probe._table._queued is None:
            await asyncio.sleep(0)
        probe.reconfigure(Config())  # a reload, in the middle of the look at the process table
        return await reading

    assert not asyncio.run(scenario()).available
    assert child.poll() is None
