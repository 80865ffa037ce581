"""rb-force-gc on real processes, in a pid namespace without any others: whom it ends, and whom it passes over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from remediators import evidence
from remediators.runbooks import RUNBOOKS
from supervisor import cgroups, clock, proc
from supervisor.config import parse
from supervisor.incidents.model import Authority, Execution, Runbook, Target
from supervisor.incidents.readings import HealthReading, MemoryData, ProcessRef
from supervisor.messages import PlanAnswer, PlanRequest
from tests.lab import mounts, pidns
from tests.process import executorlab as lab

FORCE = next(runbook for runbook in RUNBOOKS if runbook.id == "rb-force-gc")
RECORD = next(runbook for runbook in RUNBOOKS if runbook.id == "rb-gc-trigger")
MIB = 1024**2
HOG = """
import ctypes, os, signal, sys
if len(sys.argv) > 3 and sys.argv[3] != "-":
    ctypes.CDLL(None).prctl(15, sys.argv[3].encode(), 0, 0, 0)
held = bytearray(os.urandom(1)) * (int(sys.argv[1]) * 1024 * 1024)
if "deaf" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[2], "w").close()
while True:
    signal.pause()
"""


class Hogs:
    """Processes that hold memory, children of init: none is the test's own, of which nothing would be ended."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.refs: dict[str, ProcessRef] = {}

    async def start(self, name: str, mib: int, *words: str) -> ProcessRef:
        ready, pid_file = self._folder / f"{name}.ready", self._folder / f"{name}.pid"
        script = 'setsid "$@" >/dev/null 2>&1 </dev/null & echo $! > "$0"'
        argv = [sys.executable, "-S", "-E", "-c", HOG, str(mib), str(ready), *words]
        subprocess.run(["bash", "-c", script, str(pid_file), *argv], check=True)
        await lab.appears(ready)
        status = proc.stat(int(pid_file.read_text()))
        assert status is not None
        self.refs[name] = status.ref
        return status.ref

    def alive(self) -> set[str]:
        return {name for name, ref in self.refs.items() if lab.alive(ref)}


@contextlib.contextmanager
def memory(folder: Path, available_mib: int) -> Iterator[None]:
    fake = folder / "meminfo"
    fake.write_text(f"MemTotal: {8192 * 1024} kB\nMemAvailable: {available_mib * 1024} kB\n")
    with mounts.bound(fake, Path("/proc/meminfo")):
        yield


def execution(runbook: Runbook = FORCE) -> Execution:
    return lab.execution(Target("system-memory", "host"), runbook=runbook, authority=Authority.APPROVED)


@contextlib.asynccontextmanager
async def short(tmp_path: Path, toml: str = "", available_mib: int = 100) -> AsyncIterator[tuple[lab.Core, Hogs]]:
    """A lab whose configuration is `toml`, while memory is short."""
    with memory(tmp_path, available_mib):
        async with lab.lab(config=parse(toml, "x")) as core:
            yield core, Hogs(tmp_path)


@pytest.mark.req("FR-003", "R3", "R6")
def test_the_largest_that_is_not_protected_is_ended_and_no_other(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not pidns.inside(request):
        return

    async def scenario() -> None:
        pid_file = tmp_path / "declared.pid"
        toml = (
            f'[process.declared]\npid_file = "{pid_file}"\n'
            '[process.expendable]\nmatch = "worthless"\ncritical = false\n'
            '[memory]\nprotect = ["precious"]\n'
        )
        async with short(tmp_path, toml) as (core, hogs):
            await hogs.start("declared", 260)
            await hogs.start("precious", 250, "-", "precious")
            await hogs.start("sshd", 240, "sshd")
            await hogs.start("tmux", 230, "tmux: server")
            await hogs.start("expendable", 220, "-", "worthless")
            await hogs.start("small", 20)
            before = hogs.alive()
            answer = await core.ask(PlanRequest(execution()))
            assert isinstance(answer, PlanAnswer)
            assert answer.ok
            (plan,) = answer.steps
            assert f"end process {hogs.refs['expendable'].pid} (" in plan.description
            assert plan.predicts_clear
            assert plan.frees_bytes > 215 * MIB
            for name, why in (("declared", "it belongs to [process.declared]"), ("precious", "[memory] protect"),
                              ("sshd", "part of the system"), ("tmux", "part of the system")):  # fmt: skip
                assert f"({hogs.refs[name].pid}, " in plan.description, name
                assert why in plan.description
            assert hogs.alive() == before, "a plan ends nothing"
            assert not (core.state_dir / evidence.FOLDER).exists(), "and writes nothing"
            (result,) = await core.execute(execution())
            assert result.success, result.output
            assert before - hogs.alive() == {"expendable"}
            assert f"ended {hogs.refs['expendable'].pid}" in result.output
            told = msgspec.json.decode(Path(result.artifacts[0]).read_bytes())
            assert hogs.refs["expendable"].pid in [one["pid"] for one in told["facts"]["processes"]], (
                "seen while it lived"
            )

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_one_that_ignores_term_is_killed_and_what_is_protected_alone_is_never_ended(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not pidns.inside(request):
        return
    runbook = msgspec.structs.replace(FORCE, steps=(msgspec.structs.replace(FORCE.steps[0], timeout_s=2.0),))

    async def scenario() -> None:
        async with short(tmp_path) as (core, hogs):
            ref = await hogs.start("deaf", 220, "-", "deaf")
            await hogs.start("sshd", 300, "sshd")
            await hogs.start("small", 4)
            (result,) = await core.execute(execution(runbook))
            assert result.success, result.output
            assert f"killed {ref.pid}" in result.output
            assert hogs.alive() == {"sshd", "small"}
            second = (await core.execute(execution(runbook)))[1]
            assert not second.success
            assert "nothing worth killing" in second.output
            assert "part of the system" in second.output
            assert hogs.alive() == {"sshd", "small"}

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R7")
def test_where_memory_is_no_longer_short_nothing_is_ended(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not pidns.inside(request):
        return

    async def scenario() -> None:
        async with short(tmp_path, available_mib=300) as (core, hogs):
            await hogs.start("large", 200)
            (result,) = await core.execute(execution())
            assert result.success
            assert "nothing was ended" in result.output
            assert hogs.alive() == {"large"}

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_without_its_evidence_nothing_is_ended(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not pidns.inside(request):
        return

    async def scenario() -> None:
        async with short(tmp_path) as (core, hogs):
            (core.state_dir / evidence.FOLDER).write_text("a file where a directory should be")
            await hogs.start("large", 200)
            (result,) = await core.execute(execution())
            assert not result.success
            assert "nothing was done, for the evidence could not be written" in result.output
            assert hogs.alive() == {"large"}

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_who_leads_a_session_on_a_terminal_is_passed_over(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not pidns.inside(request):
        return

    async def scenario() -> None:
        async with short(tmp_path) as (core, _):
            line = shlex.join([sys.executable, "-S", "-E", "-c", HOG, "200", str(tmp_path / "terminal.ready")])
            script = 'setsid script -qec "exec $1" /dev/null >/dev/null 2>&1 </dev/null &'  # a terminal of its own
            subprocess.run(["bash", "-c", script, "-", line], check=True)
            await lab.appears(tmp_path / "terminal.ready")
            (pid,) = [pid for pid in proc.pids() if HOG in proc.command_line(pid) and "-c" in proc.command_line(pid)]
            terminal = proc.stat(pid)
            assert terminal is not None
            assert terminal.terminal
            (result,) = await core.execute(execution())
            assert not result.success
            assert "leads a session on a terminal" in result.output
            assert lab.alive(terminal.ref)
            lab.kill(terminal.ref)

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R1")
def test_the_state_of_memory_is_written_down_and_told(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if not pidns.inside(request):
        return

    async def scenario() -> None:
        async with short(tmp_path, available_mib=400) as (core, hogs):
            ref = await hogs.start("large", 200, "-", "--password", "hunter2")
            (result,) = await core.execute(execution(RECORD))
            assert result.success, result.output
            assert "400 MiB of 8 GiB memory are free" in result.output
            assert f"({ref.pid}) 2" in result.output
            (path,) = result.artifacts
            assert os.stat(path).st_mode & 0o777 == 0o600
            text = Path(path).read_text()
            assert "hunter2" not in text
            assert "[redacted]" in text
            assert hogs.alive() == {"large"}

    asyncio.run(scenario())


def reading(available: int, limited_by: str) -> HealthReading:
    data = MemoryData(available, 8192 * MIB, 512 * MIB, 256 * MIB, limited_by)
    now_s = clock.monotonic_s()
    return HealthReading("system-memory", "host", now_s, clock.wall_s(), 1.0, 1000, True, data)


def limited(folder: Path, available_mib: int, version: cgroups.Version = cgroups.V2) -> tuple[Execution, Path]:
    """An execution whose stored reading says 100 MiB, and the group that had it; its files say `available_mib`."""
    group = folder / "group"
    (group / "below").mkdir(parents=True)
    (group / version.limit).write_text(f"{8192 * MIB}\n")
    (group / version.usage).write_text(f"{(8192 - available_mib + 50) * MIB}\n")
    (group / "memory.stat").write_text(f"{version.inactive} {50 * MIB}\n")
    seen = reading(100 * MIB, f"{group}/{version.limit}")
    return msgspec.structs.replace(execution(), reading=seen), group


@pytest.mark.req("FR-003")
def test_where_a_control_group_s_limit_is_reached_only_its_members_would_help(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if not pidns.inside(request):
        return
    order, group = limited(tmp_path, 100)

    async def scenario() -> None:
        async with short(tmp_path, available_mib=4000) as (core, hogs):
            await hogs.start("outside", 300)
            member = await hogs.start("member", 200)
            (group / "below" / "cgroup.procs").write_text(f"{member.pid}\n")
            (result,) = await core.execute(order)
            assert result.success, result.output
            assert "not in the control group whose limit is reached" in result.output
            assert hogs.alive() == {"outside"}

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R7")
@pytest.mark.parametrize("version", [cgroups.V1, cgroups.V2])
def test_a_limit_of_a_control_group_is_read_anew_and_the_stored_reading_ends_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, version: cgroups.Version
) -> None:
    if not pidns.inside(request):
        return
    order, group = limited(tmp_path, 4000, version)

    async def scenario() -> None:
        async with short(tmp_path, available_mib=4000) as (core, hogs):
            member = await hogs.start("member", 200)
            (group / "cgroup.procs").write_text(f"{member.pid}\n")
            (result,) = await core.execute(order)
            assert result.success, result.output
            assert "nothing was ended" in result.output
            (group / version.usage).unlink()
            *_, second = await core.execute(msgspec.structs.replace(execution(), reading=order.reading))
            assert not second.success
            assert "cannot tell how much memory is missing" in second.output
            assert hogs.alive() == {"member"}

    asyncio.run(scenario())
