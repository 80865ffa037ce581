"""Steps that may not signal, as an ordinary user: what was and was not done is said, and nothing else is tried."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remediators.base import Context, StepFailed
from remediators.registry import step_of
from remediators.runbooks import RUNBOOKS
from supervisor import clock, proc
from supervisor.config import Config
from supervisor.incidents.model import Authority, Execution, Target
from supervisor.incidents.readings import HealthReading, ProcessData, ProcessRef, Zombie
from tests.process import executorlab as lab

started = lab.started
BY_ID = {runbook.id: runbook for runbook in RUNBOOKS}
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


def as_nobody(execution: Execution, state_dir: Path, index: int = 0) -> str:
    """The step's output, or its failure, when an ordinary user runs it."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            os.write(write_fd, _run(execution, state_dir, index).encode())
        finally:
            os._exit(0)
    os.close(write_fd)
    os.waitpid(pid, 0)
    with os.fdopen(read_fd) as said:
        return said.read()


def _run(execution: Execution, state_dir: Path, index: int) -> str:
    nothing: object = None
    context = Context(execution, nothing, state_dir, frozenset(), Config(), nothing, nothing)  # type: ignore[arg-type]
    try:
        return asyncio.run(step_of(execution.runbook.steps[index]).run(context)).output
    except (StepFailed, OSError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.req("FR-003", "R12")
@needs_root
def test_another_user_s_zombie_is_not_signalled_and_its_parent_is_named(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", ZOMBIE], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        status = proc.stat(int(parent.stdout.readline()))
        assert status is not None
        now_s = clock.monotonic_s()
        data = ProcessData(alive=False, zombies=(Zombie(status.ref, parent.pid, "python", 11.0),))
        reading = HealthReading("toy", "process", now_s, clock.wall_s(), 1.0, 1000, True, data)
        execution = lab.execution(Target("toy", "process"), runbook=BY_ID["rb-kill-zombie"], reading=reading)
        said = as_nobody(execution, tmp_path)
        assert f"zombie {status.pid} of " in said
        assert f"({parent.pid}) could not be signalled: it is another user's" in said
        left = proc.same(status.ref)
        assert left is not None
        assert left.state == "Z"
    finally:
        parent.kill()
        parent.communicate()


ZOMBIE = """
import os, signal
child = os.fork()
if child == 0:
    os._exit(0)
os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
print(child, flush=True)
signal.pause()
"""


@pytest.mark.req("FR-003", "R3")
@needs_root
def test_another_user_s_service_is_not_ended(tmp_path: Path, started: lab.Started) -> None:
    ref: ProcessRef = started.program("sleep", "86211")
    target = lab.target("toy", ("true",), match="^sleep 86211$")
    execution = lab.execution(target, authority=Authority.PERSON, grounds_mono_s=None, known=ref)
    assert "PermissionError" in as_nobody(execution, tmp_path)
    assert lab.alive(ref)
    assert not _signalled(ref, signal.SIGTERM)


def _signalled(ref: ProcessRef, number: int) -> bool:
    text = Path(f"/proc/{ref.pid}/status").read_text()
    pending = int(text.partition("ShdPnd:\t")[2].split()[0], 16)
    return bool(pending >> (number - 1) & 1)
