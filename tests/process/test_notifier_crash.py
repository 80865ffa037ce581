"""Kill -9 of the notifier at every point of a delivery: nothing is lost, only a lost answer costs a second copy."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal as signals
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.messages import Ack
from tests.doubles.notifier_lab import WAIT_S, Healer, NotifierProcess, config, row
from tests.doubles.signal_double import Fault, Kind, SignalDouble


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    yield directory
    shutil.rmtree(directory)


async def _in_thread(wait: Any, *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, wait, *args)


async def _delivered_after_a_crash(runtime_dir: Path, signal: SignalDouble, crash: str) -> Healer:
    """Hands in one row, lets the notifier die, starts another and hands the row in again unless it has its receipt."""
    healer = Healer(runtime_dir)
    first = NotifierProcess(runtime_dir, config(signal.url), "n1", crash)
    try:
        handed_in = healer.deliver(row("r1"))
        if not crash:
            assert await handed_in == Ack(), "or the bus would hand in this one again, to the second"
            await _in_thread(signal.wait_for_requests, 1, WAIT_S)
            first.process.kill()
        assert await _in_thread(first.wait) == -signals.SIGKILL
    finally:
        if first.process.poll() is None:
            first.kill()
    signal.fault = Fault()
    second = NotifierProcess(runtime_dir, config(signal.url), "n2", crash)
    try:
        await _in_thread(second.wait_ready)
        if not any(one.receipt for one in healer.of("r1")):
            assert await healer.deliver(row("r1", attempts=1)) == Ack()
        assert (await healer.report("r1")).receipt
    finally:
        second.kill()
        healer.close()
    return healer


@pytest.mark.req("FR-005", "R2", "AC-011")
@pytest.mark.parametrize(
    ("point", "copies"), [("send.before", 1), ("send.after", 1), ("receipt.before", 1), ("receipt.after", 1)]
)
def test_killed_at_a_crash_boundary(runtime_dir: Path, tmp_path: Path, point: str, copies: int) -> None:
    token = tmp_path / "token"
    token.touch()
    with SignalDouble() as signal:
        crash = f"notifier:{point}:{token}"
        asyncio.run(asyncio.wait_for(_delivered_after_a_crash(runtime_dir, signal, crash), 60))
        assert not token.exists()
        assert len(signal.sent) == copies


@pytest.mark.req("FR-005", "R2")
@pytest.mark.parametrize(("kind", "copies"), [(Kind.HANG, 1), (Kind.DELAY, 2)])
def test_killed_in_the_middle_of_a_delivery(runtime_dir: Path, kind: Kind, copies: int) -> None:
    with SignalDouble() as signal:
        signal.fault = Fault(kind, seconds=60)
        healer = asyncio.run(asyncio.wait_for(_delivered_after_a_crash(runtime_dir, signal, ""), 60))
        assert len(signal.sent) == copies
        waited, delivered = healer.of("r1")
        assert "a second copy is given to it once it has answered for" in waited.error
        assert (waited.attempts, delivered.attempts) == (2, 3)


@pytest.mark.req("FR-005")
def test_idle_costs_nothing(runtime_dir: Path) -> None:
    """No polling: with a delivered row behind it and a failed one waiting for its time, the process only sleeps."""

    def cpu_ticks(pid: int) -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    async def test(signal: SignalDouble) -> float:
        healer = Healer(runtime_dir)
        notifier = NotifierProcess(runtime_dir, config(signal.url), "n1")
        try:
            healer.deliver(row("good"))
            await healer.report("good")
            signal.fault = Fault(Kind.ERROR, code=-32602)
            healer.deliver(row("waits"))
            await healer.report("waits", receipt=False)
            spent = []
            while len(spent) < 5 and min(spent, default=1.0) > 0.02:  # the end of its work is no part of its idle time
                before = cpu_ticks(notifier.process.pid)
                await asyncio.sleep(1.5)  # the window that is measured, not a wait for something
                spent.append((cpu_ticks(notifier.process.pid) - before) / os.sysconf("SC_CLK_TCK"))
            return min(spent)
        finally:
            notifier.kill()
            healer.close()

    with SignalDouble() as signal:
        assert asyncio.run(asyncio.wait_for(test(signal), 60)) <= 0.02
