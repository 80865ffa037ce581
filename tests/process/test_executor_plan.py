"""A dry run that hangs: the hands go on, whoever asked is answered in time, and the next target has its dry run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import msgspec
import pytest

from remediators import command, planning, registry
from remediators.base import Context
from supervisor import asking, clock
from supervisor.incidents.model import Execution
from supervisor.messages import PlanAnswer, PlanRequest, StepPlan
from tests.process import executorlab as lab

HANGS = "hangs"  # the target whose plan waits until the test lets it go


class MayHang(lab.RunToEnd):
    kind = "lab-may-hang"
    let_go = threading.Event()

    def plan(self, ctx: Context) -> StepPlan:
        if ctx.target.target_id.startswith(HANGS):
            self.let_go.wait(lab.DEADLINE_S)
        return StepPlan(self.spec.step_id, command.words(ctx.recipe.argv), True)


class TellsBefore(lab.RunToEnd):
    kind = "lab-tells-before"

    def plan(self, ctx: Context) -> StepPlan:
        before = " ".join(plan.step_id for plan in ctx.planned)
        return StepPlan(self.spec.step_id, f"{before}; {ctx.look_until_mono_s}", True)


registry.KINDS = {**registry.KINDS, MayHang.kind: MayHang, TellsBefore.kind: TellsBefore}
STEP = msgspec.structs.replace(lab.COMMAND.steps[0], kind=MayHang.kind)
RUNBOOK = msgspec.structs.replace(lab.COMMAND, steps=(STEP,))


@pytest.fixture(autouse=True)
def let_go() -> Iterator[threading.Event]:
    """No thread outlives its test."""
    MayHang.let_go.clear()
    yield MayHang.let_go
    MayHang.let_go.set()


def of(name: str) -> Execution:
    return lab.execution(lab.target(name, ("true",)), runbook=RUNBOOK)


async def planned(core: lab.Core, name: str) -> PlanAnswer:
    answer = await core.ask(PlanRequest(of(name)))
    assert isinstance(answer, PlanAnswer)
    return answer


@pytest.mark.req("FR-003", "NFR-002")
def test_while_a_plan_hangs_the_loop_beats_and_executions_run(let_go: threading.Event) -> None:
    async def scenario() -> None:
        async with lab.lab() as core:
            asked = asyncio.create_task(planned(core, HANGS))
            results = await core.execute(of("another"))
            assert [result.success for result in results] == [True]
            for _ in range(20):  # turns of the loop, from which the beat comes
                await asyncio.sleep(0.02)
                assert not asked.done(), "it ran while the plan hung"
            let_go.set()
            assert (await asked).ok

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_a_plan_that_never_ends_is_answered_in_time_and_costs_only_its_target(
    monkeypatch: pytest.MonkeyPatch, let_go: threading.Event
) -> None:
    assert planning.ANSWER_S < asking.PLAN_WITHIN_S, "else the healer says that there was no answer"
    monkeypatch.setattr(planning, "ANSWER_S", 0.2)

    async def scenario() -> None:
        async with lab.lab() as core:
            answer = await planned(core, HANGS)
            assert (answer.ok, answer.error) == (False, "the dry run took longer than 0.2 s")
            again = await planned(core, HANGS)
            assert not again.ok
            assert f"an earlier dry run for {HANGS} still hangs" in again.error
            assert (await planned(core, "another")).ok
            let_go.set()
            async with asyncio.timeout(lab.DEADLINE_S):
                while not (await planned(core, HANGS)).ok:
                    pass  # its thread has yet to end

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_only_so_many_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "ANSWER_S", 0.2)

    async def scenario() -> None:
        async with lab.lab() as core:
            for number in range(planning.AT_WORK_MAX):
                assert "took longer" in (await planned(core, f"{HANGS}-{number}")).error
            refused = await planned(core, "another")
            assert not refused.ok
            assert "ask again later" in refused.error

    asyncio.run(scenario())


@pytest.mark.req("FR-003")
def test_the_steps_share_one_deadline_and_know_what_those_before_them_would_do() -> None:
    assert planning.LOOK_S < planning.ANSWER_S, "else nobody hears what they have seen"
    steps = tuple(msgspec.structs.replace(STEP, step_id=name, kind=TellsBefore.kind) for name in ("a", "b", "c"))
    runbook = msgspec.structs.replace(RUNBOOK, steps=steps)

    async def scenario() -> None:
        async with lab.lab() as core:
            began_s = clock.monotonic_s()
            answer = await core.ask(PlanRequest(lab.execution(lab.target("t", ("true",)), runbook=runbook)))
            assert isinstance(answer, PlanAnswer)
            told = [plan.description.split("; ") for plan in answer.steps]
            assert [before for before, _ in told] == ["", "a", "a b"]
            (until,) = {until for _, until in told}
            assert began_s + planning.LOOK_S <= float(until) <= clock.monotonic_s() + planning.LOOK_S

    asyncio.run(scenario())
