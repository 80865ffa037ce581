"""The executor killed at every one of its points: nothing runs unrecorded, nothing runs twice, services live on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from remediators import fence
from supervisor import clock, proc
from supervisor.incidents.readings import ProcessRef
from supervisor.messages import Dispatch, Nack, Settle, Settled
from tests.process import executorlab as lab

started = lab.started


@pytest.mark.req("FR-003")
@pytest.mark.parametrize("point", ["claim.before", "claim.after", "program.before", "program.recorded"])
def test_killed_before_the_gate_opens_the_program_never_runs(tmp_path: Path, point: str) -> None:
    proof = tmp_path / "ran"

    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1", point)
            execution = lab.execution(lab.target("t", ("touch", str(proof)), match="no such command line"))
            await core.crash(execution, executor)
            for program in core.programs:
                assert await lab.ended(program.process)
            assert len(core.programs) == (1 if point == "program.recorded" else 0)
            assert not proof.exists()

            await lab.executor(core, "inc-2")
            settled = await core.ask(Settle(recorded(execution, core)))
            assert isinstance(settled, Settled)
            assert settled.ok
            assert not settled.running
            assert not proof.exists()

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R3")
@pytest.mark.parametrize("point", ["program.released", "result.before", "result.after"])
def test_killed_after_the_release_the_service_lives_on_and_is_not_ours(
    tmp_path: Path, point: str, started: lab.Started
) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            runbook = msgspec.structs.replace(lab.RESTART, steps=lab.RESTART.steps[1:])
            executor = await lab.executor(core, "inc-1", point)
            execution = lab.execution(lab.toy(tmp_path), runbook=runbook)
            await core.crash(execution, executor)
            ref = core.programs[0].process
            started.add(ref)
            assert int(await lab.appears(tmp_path / "toy.pid")) == ref.pid
            await orphaned(ref, executor.process.pid)

            await lab.executor(core, "inc-2")
            settled = await core.ask(Settle(recorded(execution, core)))
            assert isinstance(settled, Settled)
            assert settled.ok
            assert settled.running
            assert "left alive" in settled.ended[0]
            assert lab.alive(ref)
            # The same decision again is refused by the claim; a new one by the fence.
            await core.dispatch(msgspec.structs.replace(execution, grounds_mono_s=clock.monotonic_s()))
            await core.until(lambda: core.refusals() == ["not_claimed"])
            await core.execute(lab.execution(lab.toy(tmp_path), runbook=runbook))
            assert "it was not started a second time" in core.results()[-1].output
            assert len(core.programs) == 1

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_daemon_whose_starter_is_gone_counts_as_running(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1", "result.before")
            runbook = msgspec.structs.replace(lab.RESTART, steps=lab.RESTART.steps[1:])
            execution = lab.execution(lab.toy(tmp_path, "--daemonize"), runbook=runbook)
            await core.crash(execution, executor)
            daemon = proc.stat(int(await lab.appears(tmp_path / "toy.pid")))
            assert daemon is not None
            started.add(daemon.ref)
            assert await lab.ended(core.programs[0].process)
            await lab.executor(core, "inc-2")
            settled = await core.ask(Settle(recorded(execution, core)))
            assert isinstance(settled, Settled)
            assert settled.running
            assert str(daemon.pid) in settled.ended[-1]

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_an_orphaned_command_is_awaited_and_then_ended_with_its_session(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1", "program.released")
            steps = (msgspec.structs.replace(lab.COMMAND.steps[0], timeout_s=1.0),)
            runbook = msgspec.structs.replace(lab.COMMAND, steps=steps)
            execution = lab.execution(lab.toy(tmp_path, "--children", "1", "--ignore-term"), runbook=runbook)
            await core.crash(execution, executor)
            ref = core.programs[0].process
            started.add(ref)
            await lab.appears(tmp_path / "toy.pid")
            await lab.executor(core, "inc-2")
            settled = await core.ask(Settle(recorded(execution, core)))
            assert isinstance(settled, Settled)
            assert settled.ok
            assert not settled.running
            assert "ran longer than 1 s: killed" in settled.ended[0]
            assert not lab.alive(ref)

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_an_orphaned_command_that_ends_in_time_is_not_hit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1", "program.released")
            execution = lab.execution(lab.toy(tmp_path, "--exit-after", "1"), runbook=lab.COMMAND)
            await core.crash(execution, executor)
            await lab.executor(core, "inc-2")
            settled = await core.ask(Settle(recorded(execution, core)))
            assert isinstance(settled, Settled)
            assert settled.ok
            assert "has ended" in settled.ended[0]

    asyncio.run(scenario())


def test_the_spare_dies_with_its_executor(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1")
            await core.execute(lab.execution(lab.target("t", ("true",)), runbook=lab.COMMAND))
            status = proc.stat(executor.process.pid)
            assert status is not None
            async with asyncio.timeout(lab.DEADLINE_S):
                while len(family := fence.family(status.ref)) != 2:  # keeper and program to be
                    await asyncio.sleep(0.005)
            executor.process.kill()
            for ref in family:
                assert await lab.ended(ref)

    asyncio.run(scenario())


def test_a_recycled_number_is_not_settled(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            stranger = started.program("/bin/sleep", "60")
            other = msgspec.structs.replace(stranger, start_ticks=stranger.start_ticks - 1)
            execution = lab.execution(lab.target("t", ("sleep", "1")), runbook=lab.COMMAND)
            program = lab.Program("run", other, ("sleep", "1"))
            settled = await core.ask(Settle(msgspec.structs.replace(execution, programs=(program,))))
            assert isinstance(settled, Settled)
            assert settled.ok
            assert "has ended" in settled.ended[0]
            assert lab.alive(stranger)

    asyncio.run(scenario())


def test_what_is_in_work_is_not_settled_away(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.store_answers = False
            execution = lab.execution(lab.target("t", ("true",)), runbook=lab.COMMAND)
            await core.ask(Dispatch(execution))
            assert isinstance(await core.ask(Settle(execution)), Nack)
            core.store_answers = True
            await core.until(lambda: core.ended(execution.id))

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_an_orderly_stop_leaves_what_runs_running(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.core() as core:
            executor = await lab.executor(core, "inc-1")
            execution = lab.execution(lab.toy(tmp_path))
            await core.execute(execution)
            ref = core.results()[-1].process
            started.add(ref)
            assert ref is not None
            await lab.appears(tmp_path / "toy.pid")
            executor.process.terminate()
            assert await executor.gone() == 0
            await orphaned(ref, executor.process.pid)
            assert lab.alive(ref)

    asyncio.run(scenario())


async def orphaned(ref: ProcessRef, executor: int) -> None:
    """Its keeper has seen the executor's death: neither of them is its parent."""
    async with asyncio.timeout(lab.DEADLINE_S):
        while (status := proc.same(ref)) is not None:
            parent = proc.stat(status.parent_pid)
            if parent is None or (parent.pid != executor and "python" not in parent.name):
                return
            await asyncio.sleep(0.002)


def recorded(execution: lab.Execution, core: lab.Core) -> lab.Execution:
    """As the store has it."""
    return msgspec.structs.replace(execution, programs=tuple(core.programs))
