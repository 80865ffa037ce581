"""The steps of rb-rotate-logs and rb-emergency-cleanup in a real executor: planned, run, undone, refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

import msgspec
import pytest

from remediators.base import Context, Outcome, StepFailed
from remediators.command import Programs
from remediators.keeper import Nursery
from remediators.registry import step_of
from remediators.rotation import RotateLogs
from remediators.runbooks import RUNBOOKS
from supervisor.config import parse
from supervisor.incidents.model import Authority, Program, Runbook, StepResult, Target
from supervisor.messages import Body, StepPlan
from tests.lab import mounts
from tests.lab.logs import MIB, archives, text, unpacked, write
from tests.process.executorlab import execution
from tests.process.test_rotate import fill_up

ROTATE, CLEANUP = (
    next(book for book in RUNBOOKS if book.id == name) for name in ("rb-rotate-logs", "rb-emergency-cleanup")
)


async def record(program: Program) -> None:
    """As the store would, once it is durable."""


async def nobody(body: Body) -> Body:
    raise AssertionError(f"these steps ask nobody anything: {body}")


def context(target_id: str, config: str, state_dir: Path, runbook: Runbook = ROTATE) -> Context:
    of = execution(Target(target_id, "logs"), runbook=runbook, authority=Authority.PERSON)
    return Context(
        of, Programs("x", record, Nursery().take), state_dir, frozenset(), parse(config, "test"), nobody, nobody
    )


def run(ctx: Context, work: Callable[[Context], Coroutine[None, None, Outcome]]) -> Outcome:
    """As the executor does: whatever a step has started is over afterwards."""

    async def to_its_end() -> Outcome:
        nursery = Nursery()
        programs = Programs("x", record, nursery.take)
        try:
            return await work(msgspec.structs.replace(ctx, programs=programs))
        finally:
            await programs.end_all()
            nursery.let_go()

    return asyncio.run(to_its_end())


def everything(folder: Path) -> dict[str, tuple[int, ...]]:
    """All that a plan could change: inode, size, blocks, times of access and change of each file."""
    return {
        str(path): (
            s.st_ino,
            s.st_size,
            s.st_blocks,
            s.st_mtime_ns,
            s.st_ctime_ns,
            s.st_atime_ns if path.is_file() else 0,
        )
        for path in folder.rglob("*")
        for s in (path.lstat(),)
    }


@pytest.mark.req("FR-003", "FR-007", "R15")
def test_it_is_planned_without_a_trace_run_and_undone_to_the_byte(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    contents = {f"{number}.log": text(MIB, number) for number in range(3)}
    for name, content in contents.items():
        write(logs / name, content, days_old=8)
    ctx = context("app", f'[logs.app]\npaths = ["{logs}/*.log"]\n', tmp_path / "state")
    step = step_of(ROTATE.steps[0])
    before = everything(tmp_path)
    plan = step.plan(ctx)
    assert everything(tmp_path) == before
    assert plan.predicts_clear
    assert 3 * MIB * 0.5 < plan.frees_bytes < 3 * MIB
    outcome = run(ctx, step.run)
    assert len(archives(logs)) == 3
    result = StepResult("rotate", True, outcome.output, 1.0, undo=outcome.undo)
    write(logs / "1.log", b"new")
    with pytest.raises(StepFailed, match="another log stands in its place"):
        run(ctx, lambda own: step.undo(own, result))
    assert sorted(path.name for path in logs.iterdir()) == [".archive", "1.log"], "all or nothing"
    (logs / "1.log").unlink()
    run(ctx, lambda own: step.undo(own, result))
    assert archives(logs) == []
    assert {path.name: path.read_bytes() for path in logs.glob("*.log")} == contents
    for path in logs.glob("*.log"):
        assert path.stat().st_mtime_ns == before[str(path)][3]


@pytest.mark.req("FR-003", "R13", "R15")
def test_nothing_to_archive_is_a_failure_and_a_part_cannot_be_undone(tmp_path: Path) -> None:
    write(tmp_path / "young.log", text(MIB))
    ctx = context("app", f'[logs.app]\npaths = ["{tmp_path}/*.log"]\nmax_size = "4MB"\n', tmp_path / "state")
    step = step_of(ROTATE.steps[0])
    assert not step.plan(ctx).predicts_clear
    with pytest.raises(StepFailed, match="no configured log is older"):
        run(ctx, step.run)
    write(tmp_path / "young.log", text(5 * MIB))
    outcome = run(ctx, step.run)
    assert outcome.undo == ""
    with pytest.raises(StepFailed, match="cannot be put back"):
        run(ctx, lambda own: step.undo(own, StepResult("rotate", True, "", 1.0)))


@pytest.mark.req("FR-003", "NFR-001")
def test_a_read_only_disk_says_what_was_not_done(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "disk", "size=8m") as disk:
        write(disk / "a.log", text(MIB), days_old=8)
        mounts.run("mount", "-o", "remount,ro", str(disk))
        ctx = context("app", f'[logs.app]\npaths = ["{disk}/*.log"]\n', tmp_path / "state")
        with pytest.raises(StepFailed, match="Read-only file system"):
            run(ctx, step_of(ROTATE.steps[0]).run)
        assert os.listdir(disk) == ["a.log"]


@pytest.mark.req("FR-003", "R3")
def test_the_emergency_s_steps_make_room_on_a_full_disk_and_its_plan_says_how_much(tmp_path: Path) -> None:
    with mounts.tmpfs(tmp_path / "disk", "size=16m") as disk:
        for name in ("logs", "tmp", "src/__pycache__"):
            (disk / name).mkdir(parents=True)
        write(disk / "logs" / "a.log", text(2 * MIB), days_old=8)
        for name in ("tmp/a", "src/__pycache__/a.pyc"):
            write(disk / name, b"x" * 2 * MIB)
        fill_up(disk)
        config = (
            f'[disk]\nmounts = ["{disk}"]\n[logs.app]\npaths = ["{disk}/logs/*"]\n'
            f'[cleanup]\ntmp_dirs = ["{disk}/tmp"]\npycache_dirs = ["{disk}/src"]\n'
        )
        ctx = context(f"disk:{disk}", config, tmp_path / "state", CLEANUP)
        section = msgspec.structs.replace(ctx.config.cleanup, older_than=0.0)  # its files were changed just now
        ctx = msgspec.structs.replace(ctx, config=msgspec.structs.replace(ctx.config, cleanup=section))
        steps = [step_of(spec) for spec in CLEANUP.steps]
        plans: list[StepPlan] = []
        for step in steps:
            plans.append(step.plan(msgspec.structs.replace(ctx, planned=tuple(plans))))
        assert plans[1].frees_bytes == plans[2].frees_bytes == 2 * MIB
        assert plans[-1].predicts_clear, "all three together"
        for step in steps:
            run(ctx, step.run)
        assert os.listdir(disk / "tmp") == os.listdir(disk / "src") == []
        assert b"".join(map(unpacked, archives(disk / "logs"))) == text(2 * MIB)


@pytest.mark.req("FR-003")
def test_a_plan_says_what_it_had_no_time_to_look_at(tmp_path: Path) -> None:
    write(tmp_path / "a.log", text(MIB), days_old=8)
    config = f'[logs.app]\npaths = ["{tmp_path}/a.log"]\n[cleanup]\ntmp_dirs = ["{tmp_path}"]\n'
    ctx = context("app", config, tmp_path / "state", CLEANUP)
    late = msgspec.structs.replace(ctx, look_until_mono_s=0.0)
    assert "there was no time to look into all of them" in step_of(ROTATE.steps[0]).plan(late).description
    prune = next(spec for spec in CLEANUP.steps if dict(spec.params).get("what") == "tmp")
    assert "the time was over" in step_of(prune).plan(late).description
    assert "archive 1 logs" in step_of(ROTATE.steps[0]).plan(ctx).description


@pytest.mark.req("FR-003")
def test_rotate_logs_is_for_disks_and_logs_only(tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="neither a disk nor"):
        RotateLogs(ROTATE.steps[0]).plan(context("system-memory", "", tmp_path))
