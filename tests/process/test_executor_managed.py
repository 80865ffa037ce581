"""rb-restart-service for a service that a manager runs: what is asked of it, in which order, and what forbids it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from remediators import service
from supervisor import proc
from supervisor.incidents.model import Authority, ExecutionState, Program, Recipe, Target
from supervisor.messages import PlanAnswer, PlanRequest, Settle, Settled
from tests.process import executorlab as lab

started = lab.started
PERSON = {"authority": Authority.PERSON, "grounds_mono_s": None}


def managed(folder: Path, script: str = "true", before: str = "") -> Target:
    """A target whose "manager" is a shell that runs `script`; it notes that it was asked."""
    first = ("/bin/sh", "-c", f"echo before >>{folder}/asked; {before}") if before else ()
    argv = ("/bin/sh", "-c", f"echo restart >>{folder}/asked; {script}")
    recipe = Recipe(argv=argv, before=first, manager="systemd")
    return Target("svc", "process", auto_restart=True, recipe=recipe, pid_file=str(folder / "toy.pid"))


def asked(folder: Path) -> list[str]:
    path = folder / "asked"
    return path.read_text().split() if path.exists() else []


@pytest.mark.req("R8", "FR-003")
def test_before_is_run_first_and_may_fail_and_the_restart_runs_to_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = managed(tmp_path, "echo done; exit 0", before="echo not loaded >&2; exit 5")
            stop, start = await core.execute(lab.execution(target))
            assert (stop.success, start.success) == (True, True)
            assert asked(tmp_path) == ["before", "restart"]
            assert "exit 5\nnot loaded" in start.output
            assert start.output.endswith("exit 0\ndone")
            assert start.process is None, "the service is not ours, and not this program"
            assert [program.step_id for program in core.programs] == ["start", "start"]

    asyncio.run(scenario())


@pytest.mark.req("R8")
def test_a_restart_that_fails_or_does_not_end_is_a_failed_step(tmp_path: Path) -> None:
    stop, start = lab.RESTART.steps
    steps = (stop, msgspec.structs.replace(start, timeout_s=0.5))
    short = msgspec.structs.replace(lab.RESTART, steps=steps)

    async def scenario() -> None:
        async with lab.lab() as core:
            target = managed(tmp_path, "echo no such app; exit 1", before="exit 0")
            assert (await core.execute(lab.execution(target)))[-1].success is False
            assert core.results()[-1].output.endswith("exit 1\nno such app")
            hung = managed(tmp_path, "sleep 600")
            failed = (await core.execute(lab.execution(hung, runbook=short)))[-1]
            assert not failed.success
            assert "timed out" in failed.output
            assert not lab.alive(core.programs[-1].process)

    asyncio.run(scenario())


@pytest.mark.req("R3", "R15", "NFR-001")
def test_a_live_service_is_neither_restarted_unasked_nor_when_its_manager_does_not_run_it(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        ref = await started.toy(tmp_path)
        async with lab.lab() as core:
            target = managed(tmp_path)
            for authority in (Authority.NOT_RUNNING, Authority.WHITELIST, Authority.HARMLESS):
                (result,) = (await core.execute(lab.execution(target, authority=authority, known=ref)))[-1:]
                assert not result.success
                assert f"{ref.pid} (" in result.output
            (result,) = (await core.execute(lab.execution(target, known=ref, **PERSON)))[-1:]
            assert not result.success
            assert "systemd does not run it" in result.output
            plan = await core.ask(PlanRequest(lab.execution(target, known=ref, **PERSON)))
            assert isinstance(plan, PlanAnswer)
            assert "systemd does not run it" in plan.steps[0].description
            assert not plan.steps[0].predicts_clear
            assert not core.programs
            assert asked(tmp_path) == []
            assert lab.alive(ref)

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-007")
def test_a_process_that_only_a_pid_file_calls_the_service_is_shown_and_not_ended(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        stranger = await started.toy(tmp_path)
        other = started.program("sleep", "600")
        async with lab.lab() as core:
            for known in (None, other):
                execution = lab.execution(lab.toy(tmp_path), known=known, **PERSON)
                (result,) = (await core.execute(execution))[-1:]
                assert not result.success
                assert "never seen to be toy" in result.output
                assert str(stranger.pid) in result.output
                assert os.path.basename(lab.TOY) in result.output, "its command line"
            assert lab.alive(stranger)
            assert lab.alive(other)

    asyncio.run(scenario())


@pytest.mark.req("R8", "FR-003")
def test_what_asks_a_manager_is_awaited_after_a_crash_and_is_not_the_service(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        ref = started.program(sys.executable, "-c", f"open({str(gate)!r}).read()")
        program = Program("start", ref, ("systemctl", "restart", "svc"))
        execution = lab.execution(managed(tmp_path), programs=(program,), state=ExecutionState.INTERRUPTED)
        async with lab.lab() as core:
            settling = asyncio.create_task(core.ask(Settle(execution)))
            await asyncio.to_thread(gate.write_text, "")  # it has opened the other end, and ends
            settled = await settling
            assert isinstance(settled, Settled)
            assert (settled.ok, settled.running) == (True, False)
            assert any("has ended" in line for line in settled.ended)
        assert proc.same(ref) is None or not lab.alive(ref)

    asyncio.run(scenario())


@pytest.mark.req("R3", "R15", "NFR-001")
def test_a_known_process_that_lives_is_never_doubled_whatever_its_pid_file_says(
    tmp_path: Path, started: lab.Started
) -> None:
    """The last fence, should a probe without a memory ever call it dead."""

    async def scenario() -> None:
        ref = await started.toy(tmp_path)
        (tmp_path / "toy.pid").unlink()
        async with lab.lab() as core:
            for target in (lab.toy(tmp_path), managed(tmp_path)):
                (result,) = (await core.execute(lab.execution(target, known=ref)))[-1:]
                assert not result.success
                assert f"process {ref.pid} (" in result.output
                assert "is alive" in result.output
            assert not core.programs
            assert asked(tmp_path) == []

    asyncio.run(scenario())


@pytest.mark.req("R8", "R15")
def test_a_unit_of_the_same_name_of_another_manager_is_another_service() -> None:
    """The restart of one would start it beside the other's."""
    mine = f"/user.slice/user-1.slice/user@{os.geteuid()}.service/app.slice"
    another = f"/user.slice/user-2.slice/user@{os.geteuid() + 1}.service/app.slice"
    cases = [
        ("/system.slice", True, False),
        ("/system.slice/system-svc.slice", True, False),
        ("", True, True),  # a container, where nobody can tell
        (mine, False, True),
        (another, False, False),
        ("/session/app.slice", True, True),  # a user's manager that no login has started
    ]
    for above, of_system, of_user in cases:
        groups = f"0::{above}/svc.service/worker\n"
        assert service._of_unit(groups, "svc.service", user=False) is of_system, above
        assert service._of_unit(groups, "svc.service", user=True) is of_user, above
        assert not service._of_unit(groups, "vc.service", user=False)
