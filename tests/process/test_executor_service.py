"""rb-restart-service on real processes: what is started, what is ended, and what is never touched."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from supervisor import clock, proc
from supervisor.incidents.model import Authority, StepSpec
from supervisor.messages import Dispatch, PlanAnswer, PlanRequest
from tests.process import executorlab as lab

started = lab.started
PERSON = {"authority": Authority.PERSON, "grounds_mono_s": None}


def impatient_stop(timeout_s: float) -> tuple[StepSpec, ...]:
    """Its two steps: the first gives a service so long to end, the second takes what a start takes."""
    stop, start = lab.RESTART.steps
    return msgspec.structs.replace(stop, timeout_s=timeout_s), start


@pytest.mark.req("FR-003", "R3", "AC-001")
def test_a_dead_service_is_started_and_both_steps_are_reported(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path)))
            assert [(result.step_id, result.success) for result in results] == [("stop", True), ("start", True)]
            ref = results[1].process
            started.add(ref)
            assert ref is not None
            assert "nothing of toy was alive" in results[0].output
            assert int(await lab.appears(tmp_path / "toy.pid")) == ref.pid
            assert {program.process for program in core.programs} == {ref}, "of one, however often it is told"
            status = proc.same(ref)
            assert status is not None
            assert status.session == ref.pid == status.group

    asyncio.run(scenario())


@pytest.mark.req("R11")
def test_the_service_inherits_nothing_of_ours(
    tmp_path: Path, started: lab.Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    environment = tmp_path / "env.json"
    target = lab.toy(tmp_path, "--environment", str(environment), env=(("COLOUR", "red"),), cwd=str(tmp_path))

    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(target))
            ref = results[-1].process
            started.add(ref)
            assert ref is not None
            await lab.appears(tmp_path / "toy.pid")  # the last thing it writes
            output = core.state_dir / "output" / "toy.log"
            links = {int(fd): os.readlink(f"/proc/{ref.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{ref.pid}/fd")}
            assert links == {0: "/dev/null", 1: str(output), 2: str(output)}
            assert output.stat().st_mode & 0o777 == 0o600
            assert os.readlink(f"/proc/{ref.pid}/cwd") == str(tmp_path)

    asyncio.run(scenario())
    found = json.loads(environment.read_text())
    assert found.pop("COLOUR") == "red"
    assert not found.keys() - {"PATH", "HOME", "LANG", "USER", "LOGNAME", "LC_CTYPE"}
    assert os.path.dirname(sys.executable) not in found["PATH"].split(":")


@pytest.mark.req("R11")
def test_the_service_starts_with_no_signal_blocked_or_ignored(started: lab.Started) -> None:
    """Python itself ignores SIGPIPE, and an ignored signal stays ignored over an exec."""

    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.target("sleeper", ("sleep", "60"), match="no such command line")
            results = await core.execute(lab.execution(target))
            ref = results[-1].process
            started.add(ref)
            assert ref is not None
            status = Path(f"/proc/{ref.pid}/status").read_text()
            for line in ("SigBlk:\t0000000000000000", "Umask:\t0022", "Threads:\t1"):
                assert line in status
            mask = int(status.partition("SigIgn:\t")[2].split()[0], 16)
            # 32 and 33 are the C library's own (nptl(7)): no program can set them, but one may inherit them ignored.
            assert [number for number in signal.valid_signals() if mask >> (number - 1) & 1] == []

    asyncio.run(scenario())


@pytest.mark.req("R3", "NFR-001")
def test_a_live_service_is_neither_ended_nor_doubled_without_a_persons_word(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        ref = await started.toy(tmp_path)
        for authority in (Authority.NOT_RUNNING, Authority.WHITELIST, Authority.HARMLESS):
            async with lab.lab() as core:
                results = await core.execute(lab.execution(lab.toy(tmp_path), authority=authority))
                assert [(result.step_id, result.success) for result in results] == [("stop", False)]
                assert "fence" in results[0].output
                assert str(ref.pid) in results[0].output
                assert not core.programs
                assert lab.alive(ref)

    asyncio.run(scenario())


@pytest.mark.req("R3")
def test_where_nobody_can_tell_that_it_is_dead_it_is_not_started_by_itself(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.target("blind", (*lab.PYTHON, lab.TOY))
            results = await core.execute(lab.execution(target))
            assert [result.success for result in results] == [True, False]
            assert "nobody can tell" in results[1].output
            assert not core.programs

    asyncio.run(scenario())


@pytest.mark.req("FR-007", "R15")
def test_a_persons_execute_ends_a_live_service_and_starts_it_once(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        old = await started.toy(tmp_path)
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path), known=old, **PERSON))
            new = results[-1].process
            started.add(new)
            assert [result.success for result in results] == [True, True], results
            assert f"ended {old.pid}" in results[0].output
            assert not lab.alive(old)
            assert new is not None
            assert lab.alive(new)

    asyncio.run(scenario())


@pytest.mark.req("FR-007", "R3")
def test_a_service_that_ignores_term_is_killed_after_the_grace(tmp_path: Path, started: lab.Started) -> None:
    steps = impatient_stop(1.0)
    runbook = msgspec.structs.replace(lab.RESTART, steps=steps)

    async def scenario() -> None:
        old = await started.toy(tmp_path, "--ignore-term")
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path), runbook=runbook, known=old, **PERSON))
            started.add(results[-1].process)
            assert f"killed {old.pid} (still there after SIGTERM)" in results[0].output
            assert results[0].duration_ms >= 500
            assert results[-1].success
            assert not lab.alive(old)

    asyncio.run(scenario())


@pytest.mark.req("FR-007")
def test_a_stopped_service_takes_its_term(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        old = await started.toy(tmp_path)
        proc.send_signal(old, signal.SIGSTOP)
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path), known=old, **PERSON))
            started.add(results[-1].process)
            assert f"ended {old.pid}" in results[0].output

    asyncio.run(scenario())


@pytest.mark.req("R15")
def test_children_that_outlive_the_service_are_named(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        old = await started.toy(tmp_path, "--children", "1", "--own-session-child", "--ignore-term")
        children = [status.ref for pid in proc.pids() if (status := proc.stat(pid)) and status.parent_pid == old.pid]
        started.add(*children)
        steps = impatient_stop(0.5)
        runbook = msgspec.structs.replace(lab.RESTART, steps=steps)
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path), runbook=runbook, known=old, **PERSON))
            started.add(results[-1].process)
            assert len(children) == 1
            assert f"its children still run: {children[0].pid}" in results[0].output
            assert lab.alive(children[0])

    asyncio.run(scenario())


@pytest.mark.req("R3")
def test_workers_that_match_are_ended_with_the_main_process(tmp_path: Path, started: lab.Started) -> None:
    """The pid file names the main process; its workers have the same command line and outlive it."""

    async def scenario() -> None:
        name = f"hc-{os.urandom(6).hex()}"
        old = await started.toy(tmp_path, "--name", name, "--children", "2", "--ignore-term")
        target = msgspec.structs.replace(lab.toy(tmp_path, "--name", name), match=name)
        steps = impatient_stop(2.0)
        runbook = msgspec.structs.replace(lab.RESTART, steps=steps)
        async with lab.lab() as core:
            results = await core.execute(lab.execution(target, runbook=runbook, **PERSON))
            new = results[-1].process
            started.add(new)
            assert [result.success for result in results] == [True, True], results
            matching = [pid for pid in proc.pids() if name in " ".join(proc.command_line(pid))]
            assert new is not None
            assert matching == [new.pid]
            assert not lab.alive(old)

    asyncio.run(scenario())


@pytest.mark.req("R3")
def test_a_recycled_pid_is_never_hit(tmp_path: Path, started: lab.Started) -> None:
    """The pid file is older than the process that has its number now, or names one that does not match."""
    stranger = started.program("/bin/sleep", "60")
    pid_file = tmp_path / "toy.pid"

    async def scenario() -> None:
        for target, written_s in (
            (lab.toy(tmp_path), clock.wall_s() - 3600),
            (msgspec.structs.replace(lab.toy(tmp_path), match="toy_service.py.*nobody"), clock.wall_s()),
        ):
            pid_file.write_text(f"{stranger.pid}\n")
            os.utime(pid_file, (written_s, written_s))
            async with lab.lab() as core:
                results = await core.execute(lab.execution(target, **PERSON))
                new = results[-1].process
                started.add(new)
                assert [result.success for result in results] == [True, True], results
                assert "nothing of toy was alive" in results[0].output
                assert lab.alive(stranger)
                assert new is not None
                lab.kill(new)
                await lab.ended(new)

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_daemonizing_starter_is_a_success_and_its_service_is_not_ours(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path, "--daemonize")))
            assert results[-1].success
            pid = int(await lab.appears(tmp_path / "toy.pid"))
            status = proc.stat(pid)
            assert status is not None
            started.add(status.ref)
            assert pid != core.programs[0].process.pid
            assert await lab.ended(core.programs[0].process)
            assert not core.exits()

    asyncio.run(scenario())


@pytest.mark.req("R6")
def test_a_service_that_fails_soon_after_its_start_is_evidence(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.toy(tmp_path, "--say", "no such table: users", "--fail", "3")
            results = await core.execute(lab.execution(target))
            if results[-1].success:  # it was still alive at the look right after its exec
                await core.until(lambda: bool(core.exits()))
                exit_text, output = core.exits()[0].exit_text, core.exits()[0].output
            else:
                exit_text = output = results[-1].output
            assert "exit 3" in exit_text
            assert "no such table: users" in output

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_service_becomes_inits_when_its_watch_is_over(tmp_path: Path, started: lab.Started) -> None:
    steps = tuple(msgspec.structs.replace(step, timeout_s=0.5) for step in lab.RESTART.steps)
    runbook = msgspec.structs.replace(lab.RESTART, steps=steps)

    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path), runbook=runbook))
            ref = results[-1].process
            started.add(ref)
            assert ref is not None
            first = proc.same(ref)
            assert first is not None
            async with asyncio.timeout(lab.DEADLINE_S):
                while (now := proc.same(ref)) is not None and now.parent_pid == first.parent_pid:
                    await asyncio.sleep(0.01)
            assert now is not None
            assert now.parent_pid != os.getpid()
            assert proc.stat(first.parent_pid) is None
            assert lab.alive(ref)
            assert not core.exits()

    asyncio.run(scenario())


@pytest.mark.req("R6")
def test_a_kill_after_the_step_is_reported_with_its_signal(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path)))
            ref = results[-1].process
            assert ref is not None
            lab.kill(ref)
            await core.until(lambda: bool(core.exits()))
            assert core.exits()[0].exit_text == "killed by SIGKILL"
            assert core.exits()[0].step_id == "start"

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_an_output_file_that_grew_is_set_aside_and_a_fifo_blocks_nobody(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            output = core.state_dir / "output" / "toy.log"
            output.parent.mkdir()
            output.write_bytes(b"x" * (1024 * 1024 + 1))
            results = await core.execute(lab.execution(lab.toy(tmp_path, "--say", "hello")))
            started.add(results[-1].process)
            await lab.appears(tmp_path / "toy.pid")
            assert output.read_text() == "hello\n"
            assert (output.parent / "toy.log.1").stat().st_size == 1024 * 1024 + 1

            fifo = tmp_path / "fifo"
            os.mkfifo(fifo)
            results = await core.execute(lab.execution(lab.toy(tmp_path, name="other", output=str(fifo))))
            assert not results[-1].success
            assert str(fifo) in results[-1].output

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R4")
def test_a_plan_changes_nothing_and_says_what_would_be_done(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            dead = await core.ask(PlanRequest(lab.execution(lab.toy(tmp_path))))
            assert isinstance(dead, PlanAnswer)
            assert dead.ok
            assert [step.predicts_clear for step in dead.steps] == [True, True]
            assert "nothing to end" in dead.steps[0].description
            assert "toy_service.py" in dead.steps[1].description

            unknown = lab.target("m", ("/no/such",), match="no such command line")
            missing = await core.ask(PlanRequest(lab.execution(unknown)))
            assert isinstance(missing, PlanAnswer)
            assert [step.predicts_clear for step in missing.steps] == [True, False]

            none = msgspec.structs.replace(lab.toy(tmp_path), recipe=None)
            answer = await core.ask(PlanRequest(lab.execution(none)))
            assert isinstance(answer, PlanAnswer)
            assert not answer.ok
            assert "no restart recipe" in answer.error

            ref = await started.toy(tmp_path)
            fenced = await core.ask(PlanRequest(lab.execution(lab.toy(tmp_path))))
            assert isinstance(fenced, PlanAnswer)
            assert [step.predicts_clear for step in fenced.steps] == [False, False]
            assert "not started a second time" in fenced.steps[1].description
            allowed = await core.ask(PlanRequest(lab.execution(lab.toy(tmp_path), known=ref, **PERSON)))
            assert isinstance(allowed, PlanAnswer)
            assert f"end process {ref.pid}" in allowed.steps[0].description
            assert allowed.steps[0].predicts_clear
            assert not core.programs
            assert not core.came
            assert not list(core.state_dir.iterdir())
            assert lab.alive(ref)

    asyncio.run(scenario())


@pytest.mark.req("FR-004")
def test_a_dispatch_that_comes_twice_runs_once(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            execution = lab.execution(lab.toy(tmp_path))
            await asyncio.gather(*(core.ask(Dispatch(execution)) for _ in range(5)))
            results = await core.execute(execution)
            started.add(results[-1].process)
            await core.execute(execution)
            assert len(core.programs) == 1
            assert len(core.results()) == 2

    asyncio.run(scenario())
