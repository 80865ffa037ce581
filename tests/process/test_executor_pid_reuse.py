"""A number that was given away again, against every step that signals: the stranger who bears it is never signalled.

Each runs in a pid namespace of its own with so few numbers that forking soon comes round to the same one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import msgspec
import pytest

from remediators import fence, memory, victim
from remediators.base import Context
from remediators.processes import Memory, table
from remediators.runbooks import RUNBOOKS
from supervisor import clock, proc
from supervisor.incidents.model import Authority, Execution, StepResult, Target
from supervisor.incidents.readings import HealthReading, ProcessData, ProcessRef, Zombie
from tests.lab import pidns
from tests.process import executorlab as lab

BY_ID = {runbook.id: runbook for runbook in RUNBOOKS}
NUMBERS = 60
FORKS_MAX = 20 * NUMBERS
TICK_S = 1 / proc.CLK_TCK
# Every signal that can be caught is noted: the stranger knows whether it was meant.
NOTED = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Stranger:
    """A living process that bears the very number of one that has ended, and notes what it is sent."""

    def __init__(self, old: ProcessRef) -> None:
        while (status := proc.stat(old.pid)) is not None:
            assert not status.live
            os.waitpid(old.pid, 0)
        while time.clock_gettime(time.CLOCK_BOOTTIME) < (old.start_ticks + 2) * TICK_S:
            os.sched_yield()  # a start time has a grain of 10 ms: the kernel itself could not tell them apart within it
        for _ in range(FORKS_MAX):
            read_fd, write_fd = os.pipe()
            pid = os.fork()
            if pid == 0:
                self._live(read_fd, write_fd, old.pid)
            os.close(write_fd)
            if pid == old.pid:
                assert os.read(read_fd, 1) == b"!"
                self._noted = read_fd
                break
            os.close(read_fd)
            os.waitpid(pid, 0)
        else:
            raise AssertionError(f"process number {old.pid} never came round")
        found = proc.stat(old.pid)
        assert found is not None
        self.ref = found.ref
        assert self.ref != old

    @staticmethod
    def _live(read_fd: int, write_fd: int, wanted: int) -> None:
        try:
            if os.getpid() == wanted:
                signal.pthread_sigmask(signal.SIG_BLOCK, NOTED)
                os.write(write_fd, b"!")
                while True:
                    os.write(write_fd, bytes([signal.sigwait(NOTED)]))
        finally:
            os._exit(0)

    def untouched(self) -> bool:
        os.set_blocking(self._noted, False)
        try:
            return lab.alive(self.ref) and os.read(self._noted, 1) == b""
        except BlockingIOError:
            return lab.alive(self.ref)

    def close(self) -> None:
        os.kill(self.ref.pid, signal.SIGKILL)
        os.waitpid(self.ref.pid, 0)
        os.close(self._noted)


def child(*, term_ends_it: bool = True) -> ProcessRef:
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, set() if term_ends_it else {signal.SIGTERM})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            signal.pause()
    status = proc.stat(pid)
    assert status is not None
    return status.ref


def end(ref: ProcessRef) -> None:
    os.kill(ref.pid, signal.SIGKILL)
    os.waitpid(ref.pid, 0)


async def run_step(core: lab.Core, execution: Execution) -> StepResult:
    await core.finish(execution)
    return core.results()[-1]


@pytest.mark.req("FR-003", "R3", "NFR-001")
def test_stop_service_never_signals_who_bears_the_number_of_its_service(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """By what was known, and by a pid file that outlived its writer."""
    if not pidns.inside(request, numbers=NUMBERS):
        return

    async def scenario() -> None:
        async with lab.lab() as core:
            for named in ("known", "pid_file"):
                old = child()
                pid_file = tmp_path / "toy.pid"
                pid_file.write_text(f"{old.pid}\n")
                end(old)
                os.utime(pid_file, (time.time() - 60, time.time() - 60))
                stranger = Stranger(old)
                target = msgspec.structs.replace(lab.target("toy", ("true",)), pid_file=str(pid_file))
                if named == "known":
                    pid_file.unlink()
                execution = lab.execution(target, authority=Authority.PERSON, grounds_mono_s=None, known=old)
                stop = msgspec.structs.replace(execution.runbook, steps=execution.runbook.steps[:1])
                result = await run_step(core, msgspec.structs.replace(execution, runbook=stop))
                assert result.success, result.output
                assert "nothing of toy was alive" in result.output
                assert stranger.untouched()
                stranger.close()

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "NFR-001")
def test_a_number_given_away_between_term_and_kill_is_not_killed(request: pytest.FixtureRequest) -> None:
    if not pidns.inside(request, numbers=NUMBERS):
        return

    async def scenario() -> None:
        old = child(term_ends_it=False)
        ending = asyncio.create_task(fence.end([old], 0.3))
        await asyncio.sleep(0)  # TERM has been sent: from here on it waits
        end(old)
        stranger = Stranger(old)
        result = await ending
        assert result.ended == (old,)
        assert result.killed == result.left == ()
        assert stranger.untouched()
        stranger.close()

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R12", "NFR-001")
def test_kill_zombie_never_signals_who_bears_the_number_of_the_zombie(request: pytest.FixtureRequest) -> None:
    if not pidns.inside(request, numbers=NUMBERS):
        return

    async def scenario() -> None:
        async with lab.lab() as core:
            old = child()
            end(old)
            stranger = Stranger(old)
            zombie = Zombie(old, os.getpid(), "pytest", 11.0)
            now_s = clock.monotonic_s()
            data = ProcessData(alive=False, zombies=(zombie,))
            reading = HealthReading("toy", "process", now_s, clock.wall_s(), 1.0, 1000, True, data)
            execution = lab.execution(
                Target("toy", "process"), runbook=BY_ID["rb-kill-zombie"], authority=Authority.APPROVED, reading=reading
            )
            result = await run_step(core, execution)
            assert result.success
            assert "nothing was signalled" in result.output
            assert stranger.untouched()
            stranger.close()

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "NFR-001")
def test_force_gc_never_ends_who_bears_the_number_of_its_choice(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number is given away after the choice and before the signal, the worst of moments."""
    if not pidns.inside(request, numbers=NUMBERS):
        return
    old = child()
    strangers: list[Stranger] = []

    def chosen_then_recycled(ctx: Context, short: memory.Shortage) -> victim.Choice:
        process = table()[old.pid]
        end(old)
        strangers.append(Stranger(old))
        return victim.Choice(victim.Victim(process, Memory(1, 1)), ())

    monkeypatch.setattr(memory, "_choose", chosen_then_recycled)
    monkeypatch.setattr(memory, "shortage", lambda ctx: memory.Shortage(0, 1))

    async def scenario() -> None:
        async with lab.lab() as core:
            execution = lab.execution(
                Target("system-memory", "host"), runbook=BY_ID["rb-force-gc"], authority=Authority.APPROVED
            )
            result = await run_step(core, execution)
            assert not result.success
            assert "has just ended by itself; nothing else was ended" in result.output
            assert strangers[0].untouched()
            strangers[0].close()

    asyncio.run(scenario())
