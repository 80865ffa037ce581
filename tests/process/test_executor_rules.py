"""What the executor refuses, how many it runs at once, and what a timeout ends."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import msgspec
import pytest

from supervisor import clock, proc
from supervisor.incidents.model import Authority, Effect, StepSpec
from supervisor.incidents.readings import ProcessRef
from supervisor.messages import Claimed, Dispatch
from tests.process import executorlab as lab

started = lab.started


@pytest.mark.req("FR-003")
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expires_mono_s": 0.0}, "expired"),
        ({"boot_id": "another-boot"}, "expired"),
        ({"grounds_mono_s": 0.0}, "stale_grounds"),
        ({"grounds_mono_s": None}, "stale_grounds"),
    ],
)
def test_what_is_too_late_or_groundless_is_refused_unclaimed(
    tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            assert await core.execute(lab.execution(lab.toy(tmp_path), **changes)) == []
            assert core.refusals() == [code]
            assert not core.claims
            assert not core.programs

    asyncio.run(scenario())


@pytest.mark.req("R11")
def test_a_target_without_a_recipe_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = msgspec.structs.replace(lab.toy(tmp_path), recipe=None)
            await core.execute(lab.execution(target))
            assert core.refusals() == ["no_recipe"]

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_claim_that_is_not_granted_runs_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.claims["x-1"] = "another incarnation"
            await core.execute(lab.execution(lab.toy(tmp_path), id="x-1"))
            assert core.refusals() == ["not_claimed"]
            assert not core.programs

    asyncio.run(scenario())


@pytest.mark.req("NFR-002")
def test_grounds_that_go_stale_while_the_store_is_away_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.store_answers = False
            grounds_s = clock.monotonic_s() - 4.5
            execution = lab.execution(lab.toy(tmp_path), grounds_mono_s=grounds_s)
            await core.dispatch(execution)
            while clock.monotonic_s() - grounds_s < 5.1:
                await asyncio.sleep(0.05)  # what is waited for is the time itself
            core.store_answers = True
            await core.until(lambda: core.ended(execution.id))
            assert core.refusals() == ["stale_grounds"]
            assert not core.programs
            assert not any(isinstance(body, Claimed) for body in core.came)

    asyncio.run(scenario())


def test_a_quarantined_execution_is_not_touched(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab(quarantined=frozenset({"execution:x-1"})) as core:
            await core.execute(lab.execution(lab.toy(tmp_path), id="x-1"))
            assert core.refusals() == ["quarantined"]
            assert not core.claims

    asyncio.run(scenario())


def test_a_suspect_runs_when_nothing_else_does(tmp_path: Path) -> None:
    """Two suspects and two others, dispatched together: they do not wait for one another for ever."""

    async def scenario() -> None:
        suspects = frozenset({"execution:s-1", "execution:s-2"})
        async with lab.lab(suspects=suspects) as core:
            target = lab.target("quick", ("true",))
            for name in ("s-1", "o-1", "s-2", "o-2"):
                await core.dispatch(lab.execution(target, id=name, runbook=lab.COMMAND))
            await core.until(lambda: all(core.ended(name) for name in ("s-1", "o-1", "s-2", "o-2")))
            assert all(result.success for result in core.results())

    asyncio.run(scenario())


def test_at_most_eight_run_at_once_and_the_others_follow(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.acknowledge_programs = False  # each holds its slot at its closed gate
            made = [
                lab.execution(lab.target(f"t{number}", ("true",)), runbook=lab.COMMAND, authority=Authority.PERSON)
                for number in range(12)
            ]
            for execution in made:
                await core.dispatch(execution)
            await core.until(lambda: len({program.process for program in core.programs}) == 8)
            assert list(core.claims) == [execution.id for execution in made[:8]]
            core.acknowledge_programs = True
            await core.until(lambda: all(core.ended(execution.id) for execution in made))
            assert list(core.claims) == [execution.id for execution in made]
            assert [result.success for result in core.results()] == [True] * 12

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
@pytest.mark.parametrize(
    ("argv", "cwd", "words"),
    [
        (("/no/such/program",), "", "No such file or directory"),
        (("no-such-program",), "", "PATH is"),
        (("sleep", "60"), "/no/such/directory", "its directory /no/such/directory: No such file or directory"),
        (("DIR/plain",), "", "Permission denied"),
        (("DIR/script",), "", "Exec format error"),
        (("DIR/orphan",), "", "No such file or directory"),
    ],
)
def test_a_program_that_cannot_be_started_says_why(tmp_path: Path, argv: tuple[str, ...], cwd: str, words: str) -> None:
    """No shell comes to the rescue: a script without an interpreter line is not a program."""
    for name, text in (("script", "echo hello\n"), ("orphan", "#!/no/such/interpreter\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "plain").touch(0o644)
    argv = tuple(word.replace("DIR", str(tmp_path)) for word in argv)

    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.target("t", argv, cwd=cwd, match="no such command line")
            results = await core.execute(lab.execution(target))
            assert not results[-1].success
            assert words in results[-1].output, results[-1].output
            for program in core.programs:
                assert await lab.ended(program.process)

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_timeout_ends_the_whole_session_and_says_so(tmp_path: Path, started: lab.Started) -> None:
    """Its children and those that made a session of their own too; TERM first, then KILL."""

    async def scenario() -> None:
        async with lab.lab() as core:
            runbook = with_timeout(0.5)
            target = lab.toy(tmp_path, "--ignore-term", "--children", "2", "--own-session-child")
            execution = lab.execution(target, runbook=runbook)
            await core.dispatch(execution)
            await lab.appears(tmp_path / "toy.pid")
            main = core.programs[0].process
            children = children_of(main.pid)
            started.add(main, *children)
            assert len(children) == 2
            await core.until(lambda: core.ended(execution.id))
            result = core.results()[0]
            assert not result.success
            assert "timed out after 0.5 s" in result.output
            assert f"killed {main.pid}" in result.output
            assert not any(lab.alive(ref) for ref in (main, *children))

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_timeout_while_the_record_is_not_durable_never_runs_the_program(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.acknowledge_programs = False
            proof = tmp_path / "ran"
            target = lab.target("t", ("touch", str(proof)))
            results = await core.execute(lab.execution(target, runbook=with_timeout(0.3)))
            assert results[0].output == "timed out after 0.3 s"
            assert await lab.ended(core.programs[0].process)
            assert not proof.exists()

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_command_runs_to_its_end_and_its_output_is_bounded(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.target("t", (*lab.PYTHON, "-c", "print('a' * 1000000); print('the end')"))
            results = await core.execute(lab.execution(target, runbook=lab.COMMAND))
            assert results[0].success
            assert len(results[0].output) < 66 * 1024
            assert "bytes left out" in results[0].output
            assert results[0].output.endswith("the end")
            assert results[0].process is None

            failing = lab.target("f", (*lab.PYTHON, lab.TOY, "--say", "broken", "--fail", "4"))
            results = await core.execute(lab.execution(failing, runbook=lab.COMMAND))
            assert not results[1].success
            assert "exit 4\nbroken" in results[1].output

    asyncio.run(scenario())


def test_a_command_is_over_when_it_ends_even_if_its_child_keeps_the_output(
    tmp_path: Path, started: lab.Started
) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            target = lab.toy(tmp_path, "--daemonize")
            results = await core.execute(lab.execution(target, runbook=lab.COMMAND))
            assert results[0].success, "its deadline did not come, though the child lives on"
            daemon = proc.stat(int(await lab.appears(tmp_path / "toy.pid")))
            assert daemon is not None
            started.add(daemon.ref)
            assert daemon.live

    asyncio.run(scenario())


def test_a_failed_step_is_the_last(tmp_path: Path) -> None:
    steps = tuple(StepSpec(f"s{number}", "lab-command", Effect.CHANGE, timeout_s=5.0) for number in range(3))
    runbook = msgspec.structs.replace(lab.COMMAND, steps=steps)

    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.target("f", ("false",)), runbook=runbook))
            assert [result.step_id for result in results] == ["s0"]
            results = await core.execute(lab.execution(lab.target("t", ("true",)), runbook=runbook))
            assert [result.step_id for result in results[1:]] == ["s0", "s1", "s2"]

    asyncio.run(scenario())


def test_a_killed_keeper_costs_the_exit_status_only(tmp_path: Path, started: lab.Started) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            results = await core.execute(lab.execution(lab.toy(tmp_path)))
            ref = results[-1].process
            started.add(ref)
            assert ref is not None
            status = proc.same(ref)
            assert status is not None
            os.kill(status.parent_pid, signal.SIGKILL)
            await core.until(lambda: bool(core.exits()))
            assert "its exit status is unknown" in core.exits()[0].exit_text
            assert lab.alive(ref)

    asyncio.run(scenario())


def test_nothing_but_the_spare_is_left_behind(tmp_path: Path) -> None:
    async def scenario() -> None:
        others = set(children_of(os.getpid(), zombies=True))
        async with lab.lab() as core:
            await core.execute(lab.execution(lab.target("t", ("true",)), runbook=lab.COMMAND))
            await only_the_spare(others)
            before = len(os.listdir("/proc/self/fd"))
            for _ in range(10):
                target = lab.target("t", ("true",))
                await core.execute(lab.execution(target, runbook=lab.COMMAND))
                await core.execute(lab.execution(lab.target("m", ("/no/such",)), runbook=lab.COMMAND))
            await only_the_spare(others)
            assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(scenario())


@pytest.mark.parametrize("victim", ["keeper", "program"])
def test_a_spare_that_was_killed_is_not_used(tmp_path: Path, started: lab.Started, victim: str) -> None:
    async def scenario() -> None:
        others = set(children_of(os.getpid(), zombies=True))
        async with lab.lab() as core:
            keeper, program = await only_the_spare(others)
            assert proc.command_line(keeper.pid) == proc.command_line(program.pid) == ("healctl: keeper",)
            lab.kill(keeper if victim == "keeper" else program)
            assert await lab.ended(keeper if victim == "keeper" else program)
            results = await core.execute(lab.execution(lab.toy(tmp_path)))
            started.add(results[-1].process)
            assert results[-1].success

    asyncio.run(scenario())


def test_what_is_dispatched_twice_while_it_waits_is_acknowledged_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            execution = lab.execution(lab.target("t", ("true",)), runbook=lab.COMMAND)
            core.store_answers = False
            await core.ask(Dispatch(execution))
            await core.ask(Dispatch(execution))
            core.store_answers = True
            await core.until(lambda: core.ended(execution.id))
            assert len({program.process for program in core.programs}) == 1

    asyncio.run(scenario())


async def only_the_spare(others: set[ProcessRef]) -> tuple[ProcessRef, ProcessRef]:
    """One keeper and its program to be: the last keeper is reaped, and the next made, a moment after the last run."""
    async with asyncio.timeout(lab.DEADLINE_S):
        while True:
            keepers = set(children_of(os.getpid(), zombies=True)) - others
            programs = [ref for keeper in keepers for ref in children_of(keeper.pid)]
            if len(keepers) == len(programs) == 1:
                return keepers.pop(), programs.pop()
            await asyncio.sleep(0.005)


def with_timeout(timeout_s: float) -> lab.Runbook:
    steps = (msgspec.structs.replace(lab.COMMAND.steps[0], timeout_s=timeout_s),)
    return msgspec.structs.replace(lab.COMMAND, steps=steps)


def children_of(pid: int, *, zombies: bool = False) -> list[ProcessRef]:
    table = [status for number in proc.pids() if (status := proc.stat(number)) is not None]
    return [status.ref for status in table if status.parent_pid == pid and (status.live or zombies)]
