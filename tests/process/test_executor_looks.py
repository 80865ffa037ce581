"""What a run looks at before it acts may hang: the executor's loop, from which its beat comes, does not wait for it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from remediators import cleanup, memory, rotation, run
from remediators.base import StepFailed
from remediators.registry import step_of
from remediators.run import Refusal
from remediators.runbooks import RUNBOOKS
from supervisor import clock
from supervisor.config import parse
from supervisor.incidents.model import Authority, Target
from supervisor.incidents.readings import HealthReading, SignalData, Stamp
from tests.process import executorlab as lab
from tests.process.test_rotate_step import CLEANUP, ROTATE, context

FORCE = next(runbook for runbook in RUNBOOKS if runbook.id == "rb-force-gc")
LET_GO, KEPT = "let go by the loop", "it has kept the loop"
SOON_S = 0.05


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.mark.req("FR-003", "NFR-002")
@pytest.mark.parametrize("look", ["shortage", "_choose", "device_of", "_kept"])
def test_a_look_that_hangs_does_not_keep_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_go: threading.Event, look: str
) -> None:
    def hang(*_: object) -> None:
        raise StepFailed(LET_GO if let_go.wait(lab.DEADLINE_S / 2) else KEPT)

    if look == "_choose":
        monkeypatch.setattr(memory, "shortage", lambda ctx: memory.Shortage(0, 1))
    module, spec, target_id = {
        "shortage": (memory, FORCE.steps[0], "system-memory"),
        "_choose": (memory, FORCE.steps[0], "system-memory"),
        "device_of": (rotation, ROTATE.steps[0], "disk:/"),
        "_kept": (cleanup, CLEANUP.steps[1], "disk:/"),
    }[look]
    monkeypatch.setattr(module, look, hang)
    ctx = context(target_id, "", tmp_path)

    async def scenario() -> None:
        asyncio.get_running_loop().call_later(SOON_S, let_go.set)
        with pytest.raises(StepFailed, match=LET_GO):
            await step_of(spec).run(ctx)

    asyncio.run(scenario())


@pytest.mark.req("FR-003", "R7")
def test_where_the_live_signal_cannot_be_looked_at_in_time_nothing_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, let_go: threading.Event
) -> None:
    file = tmp_path / "signal.json"
    file.touch()
    config = parse(f'[trading.bot]\nsignal_file = "{file}"\n', "test")
    reading = HealthReading(
        "bot-signals", "trading", clock.monotonic_s(), clock.wall_s(), 1.0, 1000, True, SignalData(9.0, 1.0, Stamp.KEY)
    )
    execution = lab.execution(Target("bot-signals", "trading"), reading=reading, authority=Authority.APPROVED)
    stat = os.stat

    def hanging_stat(path: str, **how: Any) -> os.stat_result:
        if path == str(file):
            let_go.wait(lab.DEADLINE_S / 2)
        return stat(path, **how)

    asyncio.run(run.check_signal(execution, config))
    monkeypatch.setattr(run, "SIGNAL_S", SOON_S)
    monkeypatch.setattr(run.os, "stat", hanging_stat)
    with pytest.raises(Refusal, match="could not be looked at in time"):
        asyncio.run(run.check_signal(execution, config))
    monkeypatch.undo()
    os.utime(file, (clock.wall_s() + 1, clock.wall_s() + 1))
    with pytest.raises(Refusal, match="has been written since"):
        asyncio.run(run.check_signal(execution, config))
