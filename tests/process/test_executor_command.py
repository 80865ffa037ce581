"""The step that runs a declared command (R11): as it stands, to its end, bounded; its plan starts nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from remediators.command import OUTPUT_END_BYTES
from supervisor import clock
from supervisor.incidents.model import Authority, Effect, Execution, Runbook, StepResult, StepSpec, Target
from supervisor.messages import PlanAnswer, PlanRequest
from tests.process import executorlab as lab

# Words that a shell, a template or a terminal would make something of.
HOSTILE = (
    "; touch owned", "$(touch owned)", "`touch owned`", "| touch owned", "&& touch owned", "> owned", "\ntouch owned\n",
    "{target}", "%s", "${IFS}", "--", "-rf", "*", "~root", "'", '"', "\\", "\x1b[31m", "\u202e", "é" * 100, "",
)  # fmt: skip
SHOW = "import os, sys; print(sys.argv[1:]); print(os.getcwd()); print(sorted(os.environ))"


def runbook(*argv: str, timeout_s: float = 30.0, **more: object) -> Runbook:
    params = {"command": "it", "argv": argv, "effect": "change", **more}
    spec = StepSpec(
        "it", "run-command", Effect.CHANGE, timeout_s=timeout_s, params=tuple(sorted(params.items()))  # type: ignore[arg-type]
    )  # fmt: skip
    return Runbook("rb-mine", "Mine", (), (spec,), "x:{target}", verifies=False, author="file:mine.toml")


def execution(book: Runbook) -> Execution:
    of = Target("$(touch owned)", "process")
    return lab.execution(of, runbook=book, authority=Authority.APPROVED)


def run(book: Runbook) -> StepResult:
    async def scenario() -> StepResult:
        async with lab.lab() as core:
            (result,) = await core.execute(execution(book))
            return result

    return asyncio.run(scenario())


def plan(book: Runbook) -> PlanAnswer:
    async def scenario() -> PlanAnswer:
        async with lab.lab() as core:
            answer = await core.ask(PlanRequest(execution(book)))
            assert isinstance(answer, PlanAnswer)
            assert core.programs == []
            return answer

    return asyncio.run(scenario())


@pytest.mark.req("R11", "NFR-001")
def test_every_word_arrives_as_it_stands_and_nothing_else_is_made_of_it(tmp_path: Path) -> None:
    result = run(runbook(*lab.PYTHON, "-c", SHOW, *HOSTILE, cwd=str(tmp_path), env=("A=1;touch owned", "B=")))
    assert result.success
    words, cwd, names = result.output.splitlines()[-3:]
    assert words == repr(list(HOSTILE))
    assert cwd == str(tmp_path)
    assert {"A", "B", "PATH", "HOME"} <= set(eval(names))  # a list of strings that we have just had printed
    assert "HEALCTL_CONFIG" not in names
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("FR-003", "R11")
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ((*lab.PYTHON, "-c", "raise SystemExit(3)"), "exit 3"),
        ((*lab.PYTHON, "-c", "import os; os.abort()"), "killed by SIGABRT"),
        (("/no/such/program",), "/no/such/program"),
        (("sleep", "0"), "was not resolved"),
    ],
)
def test_anything_but_exit_0_is_a_failure(argv: tuple[str, ...], words: str) -> None:
    result = run(runbook(*argv))
    assert not result.success
    assert words in result.output


@pytest.mark.req("FR-003")
def test_its_time_ends_it_with_what_it_started(tmp_path: Path) -> None:
    script = f"import os,time; os.fork(); open('{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(600)"
    result = run(runbook(*lab.PYTHON, "-c", script, timeout_s=3.0))
    assert not result.success
    assert "timed out after 3 s" in result.output
    pids = [int(path.name) for path in tmp_path.iterdir()]
    assert len(pids) == 2
    assert not any(os.path.exists(f"/proc/{pid}") and _lives(pid) for pid in pids)


def _lives(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.req("FR-003")
def test_its_output_is_bounded() -> None:
    result = run(runbook(*lab.PYTHON, "-c", "print('x' * 10_000_000)"))
    assert result.success
    assert len(result.output) < 2 * OUTPUT_END_BYTES + 1_000
    assert "bytes left out" in result.output


@pytest.mark.req("FR-003", "NFR-001")
def test_a_plan_tells_the_exact_words_and_starts_nothing(tmp_path: Path) -> None:
    owned = tmp_path / "owned"
    book = runbook("/usr/bin/touch", str(owned), "a b", cwd=str(tmp_path), description="touch it")
    (step,) = plan(book).steps
    assert f"run it (touch it): /usr/bin/touch {owned} 'a b' in {tmp_path} to its end" in step.description
    assert step.predicts_clear is False  # nobody can tell from a command what it would cure
    assert not owned.exists()
    (step,) = plan(runbook("/no/such", cwd="/no/where")).steps
    assert "this would fail: its directory /no/where does not exist" in step.description
    (step,) = plan(runbook(str(tmp_path / "none"))).steps
    assert "is not an executable program" in step.description


@pytest.mark.req("FR-003")
def test_a_step_with_other_parameters_is_no_plan() -> None:
    book = runbook("/bin/true")
    (spec,) = book.steps
    bad = msgspec.structs.replace(book, steps=(msgspec.structs.replace(spec, params=(("argv", "/bin/true"),)),))
    answer = plan(bad)
    assert not answer.ok
    assert "run-command" in answer.error


@pytest.mark.req("FR-003", "NFR-001")
@pytest.mark.parametrize("point", ["program.before", "program.recorded", "program.released", "program.ended"])
def test_an_executor_that_dies_in_it_never_runs_it_twice(tmp_path: Path, point: str) -> None:
    ran = tmp_path / "ran"
    script = f"open('{ran}', 'a').write('x')"

    async def scenario() -> None:
        async with lab.core() as core:
            first = await lab.executor(core, "inc-1", crash=point)
            wanted = execution(runbook(*lab.PYTHON, "-c", script))
            await core.crash(wanted, first)
            await lab.executor(core, "inc-2")
            known = {"claimed_by": "inc-1", "programs": tuple(core.programs), "grounds_mono_s": clock.monotonic_s()}
            claimed = msgspec.structs.replace(wanted, **known)
            await core.finish(claimed)  # refused: it is claimed already
            assert core.refusals() == ["not_claimed"]
            for program in core.programs:
                assert await lab.ended(program.process)

    asyncio.run(scenario())
    times = len(ran.read_text()) if ran.exists() else 0
    assert times == (1 if point in ("program.released", "program.ended") else 0)
