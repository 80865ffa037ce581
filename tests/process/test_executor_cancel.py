"""What the executor does when it is told to cancel: ends what may be ended, refuses the rest with the reason."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from remediators import registry
from remediators.base import Context, Stops
from supervisor import at_work, proc
from supervisor.incidents.model import Effect, Execution, StepResult, StepSpec
from supervisor.messages import Ack, AtWork, Cancel, Nack
from tests.process import executorlab as lab

TOLD = "told"


class Ended(lab.RunToEnd):
    kind = "lab-ended"
    stops = Stops.ENDED


class Asked(lab.RunToEnd):
    kind = "lab-asked"
    stops = Stops.ASKED

    def progress(self, ctx: Context) -> at_work.Progress | None:
        return at_work.read(ctx.state_dir / TOLD)


registry.KINDS = {**registry.KINDS, Ended.kind: Ended, Asked.kind: Asked}
# Says that it is there; when it is asked to stop it takes its time, and ends with the code that it was given.
POLITE = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
pathlib.Path(sys.argv[1]).write_text("there")
signal.sigwait({signal.SIGTERM})
print("nothing is half done")
sys.exit(int(sys.argv[2]))
"""

# Says that it was asked, and goes on for ever.
DEAF = """
import pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
signal.sigwait({signal.SIGTERM})
pathlib.Path(sys.argv[1]).write_text("asked")
signal.pause()
"""


def polite(directory: Path, kind: str, code: int = 1, *, program: str = POLITE, timeout_s: float = 20.0) -> Execution:
    """Two steps; the second must never run."""
    argv = (sys.executable, "-c", program, str(directory / "there"), str(code))
    steps = tuple(StepSpec(name, kind, Effect.CHANGE, timeout_s=timeout_s) for name in ("first", "second"))
    runbook = msgspec.structs.replace(lab.COMMAND, steps=steps)
    return lab.execution(lab.target("polite", argv), runbook=runbook)


async def cancelled(core: lab.Core, directory: Path, execution: Execution) -> list[StepResult]:
    await core.dispatch(execution)
    await lab.appears(directory / "there")
    assert isinstance(await core.ask(Cancel("anna", execution.id)), Ack)
    await core.until(lambda: core.ended(execution.id))
    return core.results()


@pytest.mark.req("R15", "FR-003")
def test_a_step_that_may_be_ended_is_ended_and_no_other_begins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            (result,) = await cancelled(core, tmp_path, polite(tmp_path, Ended.kind))
            assert (result.success, result.cancelled_by) == (False, "anna")
            assert result.output.startswith("cancelled by anna: it was ended; ")
            assert not lab.alive(core.programs[0].process)

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-003")
def test_a_program_that_is_asked_ends_by_itself_and_its_word_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            (result,) = await cancelled(core, tmp_path, polite(tmp_path, Asked.kind))
            assert (result.success, result.cancelled_by) == (False, "anna")
            assert result.output.startswith("cancelled by anna: ")
            assert "nothing is half done" in result.output
            assert "exit 1" in result.output, "by itself, not killed"

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-003")
def test_a_program_that_is_still_held_back_never_runs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.acknowledge_programs = False  # it is not durable yet
            execution = polite(tmp_path, Asked.kind)
            await core.dispatch(execution)
            await core.until(lambda: bool(core.programs))
            assert isinstance(await core.ask(Cancel("anna", execution.id)), Ack)
            await core.until(lambda: core.ended(execution.id))
            assert [result.cancelled_by for result in core.results()] == ["anna"]
            assert await lab.ended(core.programs[0].process)
            assert not (tmp_path / "there").exists()

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-003")
def test_what_was_done_before_it_could_be_cancelled_counts_and_the_next_step_does_not_begin(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            first, second = await cancelled(core, tmp_path, polite(tmp_path, Asked.kind, code=0))
            assert (first.success, first.cancelled_by) == (True, "")
            assert "it was done before anna could cancel it" in first.output
            assert (second.success, second.cancelled_by) == (False, "anna")
            assert second.output == "cancelled by anna: nothing of this step was done"
            assert len(core.programs) == 1

    asyncio.run(scenario())


@pytest.mark.req("R10", "R15")
@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (lab.RunToEnd.kind, "is all or nothing"),
        (Asked.kind, "is past the point where it can be stopped: restore, 3 of 9 pages"),
    ],
)
def test_what_would_be_unsafe_is_refused_and_goes_on(tmp_path: Path, kind: str, why: str) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            told = at_work.Progress(os.getpid(), "restore", 3, 9, "pages", final=True)
            (core.state_dir / TOLD).write_bytes(msgspec.json.encode(told))
            execution = polite(tmp_path, kind)
            await core.dispatch(execution)
            await lab.appears(tmp_path / "there")
            answer = await core.ask(Cancel("anna", execution.id))
            assert isinstance(answer, Nack)
            assert why in answer.message
            assert lab.alive(core.programs[0].process)
            lab.kill(core.programs[0].process)
            await core.until(lambda: core.ended(execution.id))
            assert [result.cancelled_by for result in core.results()] == [""]

    asyncio.run(scenario())


@pytest.mark.req("R15")
def test_what_is_not_at_work_cannot_be_cancelled(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            answer = await core.ask(Cancel("anna", "x-1"))
            assert isinstance(answer, Nack)
            assert "x-1 is not at work" in answer.message

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-003")
def test_what_waits_for_its_turn_is_cancelled_before_it_begins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            at_once = [polite(tmp_path / str(number), Ended.kind) for number in range(8)]
            for number, execution in enumerate(at_once):
                (tmp_path / str(number)).mkdir()
                await core.dispatch(execution)
                await lab.appears(tmp_path / str(number) / "there")
            waits = polite(tmp_path, Ended.kind)
            await core.dispatch(waits)
            assert isinstance(await core.ask(Cancel("anna", waits.id)), Ack)
            for execution in at_once:
                assert isinstance(await core.ask(Cancel("anna", execution.id)), Ack)
            await core.until(lambda: core.ended(waits.id))
            assert core.refusals() == ["cancelled"]
            assert waits.id not in core.claims

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_how_far_a_step_is_is_told_only_when_it_has_moved(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            execution = polite(tmp_path, Asked.kind)
            await core.dispatch(execution)

            def told() -> list[AtWork]:
                return [body for body in core.came if isinstance(body, AtWork)]

            for done in (3, 6):
                part = core.state_dir / "part"
                part.write_bytes(msgspec.json.encode(at_work.Progress(1, "copy", done, 9, "pages")))
                part.replace(core.state_dir / TOLD)
                await core.until(lambda done=done: any(it.done == done for it in told()))  # type: ignore[misc]
            assert [it for it in told() if it.over] == []
            assert [(it.execution_id, it.target_id, it.stage, it.done, it.total, it.unit) for it in told()] == [
                (execution.id, "polite", "copy", done, 9, "pages") for done in (3, 6)
            ]
            assert isinstance(await core.ask(Cancel("anna", execution.id)), Ack)
            await core.until(lambda: core.ended(execution.id))
            assert told()[-1].over, "nothing of it is shown beside the next step"

    asyncio.run(scenario())


@pytest.mark.req("R15", "R4")
def test_a_step_that_failed_by_itself_is_not_made_a_cancelled_one_while_its_program_is_ended(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            execution = polite(tmp_path, Ended.kind, program=DEAF, timeout_s=1.0)
            await core.dispatch(execution)
            await lab.appears(tmp_path / "there")  # its time was over
            await core.ask(Cancel("anna", execution.id))
            await core.until(lambda: core.ended(execution.id))
            (result,) = core.results()
            assert (result.success, result.cancelled_by) == (False, "")
            assert result.output.startswith("timed out after 1 s; ")

    asyncio.run(scenario())


@pytest.mark.req("R15", "NFR-003")
def test_a_program_that_may_not_be_signalled_goes_on_and_so_do_the_hands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(ref: object, number: int) -> bool:
        raise PermissionError(1, "Operation not permitted")

    async def scenario() -> None:
        async with lab.lab() as core:
            execution = polite(tmp_path, Asked.kind)
            await core.dispatch(execution)
            await lab.appears(tmp_path / "there")
            with monkeypatch.context() as patched:
                patched.setattr(proc, "send_signal", refused)
                answer = await core.ask(Cancel("anna", execution.id))
            assert isinstance(answer, Nack)
            assert "could not be asked: [Errno 1] Operation not permitted" in answer.message
            assert isinstance(await core.ask(Cancel("anna", execution.id)), Ack), "the executor lives, and asks again"
            await core.until(lambda: core.ended(execution.id))

    asyncio.run(scenario())


@pytest.mark.req("R15", "FR-003")
def test_what_is_over_or_takes_something_back_is_not_cancelled_between_two_steps_either(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            core.acknowledge_reports = False
            execution = polite(tmp_path, Ended.kind)
            await core.dispatch(execution)
            await lab.appears(tmp_path / "there")
            lab.kill(core.programs[0].process)
            await core.until(lambda: core.ended(execution.id))
            answer = await core.ask(Cancel("anna", execution.id))
            assert isinstance(answer, Nack)
            assert "its steps are over" in answer.message
            core.store_answers = False  # no step of it is at work, and none has been
            back = msgspec.structs.replace(polite(tmp_path, Ended.kind), undoes=execution.id)
            await core.dispatch(back)
            answer = await core.ask(Cancel("anna", back.id))
            assert isinstance(answer, Nack)
            assert "it takes something back" in answer.message

    asyncio.run(scenario())
