"""The plugin by itself, without a daemon: each piece is asked as healctl asks it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from acme_spool.channel import Webhook
from acme_spool.probe import SpoolProbe
from acme_spool.settings import waiting
from acme_spool.step import ASIDE, ClearSpool

from remediators.base import Context
from supervisor.config import Config
from supervisor.incidents.model import Effect, StepResult, StepSpec, Target
from supervisor.incidents.readings import CheckData, Status, Unavailable
from supervisor.notifier.channel import Unreachable
from supervisor.plugins import of_contract


def spool(folder: Path, count: int) -> Config:
    for number in range(count):
        file = folder / f"job-{number}"
        file.write_text("work")
        os.utime(file, (number, number))
    return Config(
        plugin={"spool": {"folders": {"orders": str(folder)}, "max_files": 3}, "webhook": {"url": "http://127.0.0.1:1"}}
    )


@pytest.mark.parametrize("piece", [SpoolProbe, ClearSpool, Webhook])
def test_it_keeps_to_the_contract(piece: type) -> None:
    assert of_contract(piece) == []


@pytest.mark.parametrize(("count", "status"), [(3, Status.CLEAR), (4, Status.FIRING)])
def test_the_probe_tells_a_backlog(tmp_path: Path, count: int, status: Status) -> None:
    probe = SpoolProbe(spool(tmp_path, count))
    reading = asyncio.run(probe.read("spool:orders", 4.8))
    assert isinstance(reading.data, CheckData)
    assert [(it.anomaly, it.status) for it in reading.data.findings] == [("backlog", status)]


def test_the_probe_says_why_it_cannot_look(tmp_path: Path) -> None:
    probe = SpoolProbe(spool(tmp_path / "gone", 0))
    assert asyncio.run(probe.read("spool:orders", 4.8)).reason is Unavailable.MISSING


def test_the_step_sets_the_oldest_aside_and_puts_them_back(tmp_path: Path, context) -> None:
    ctx: Context = context(spool(tmp_path, 5), Target("spool:orders", "spool"))
    step = ClearSpool(StepSpec("clear", "clear-spool", Effect.CHANGE, params=(("keep", 2),)))
    assert step.plan(ctx).predicts_clear
    assert len(waiting(str(tmp_path))) == 5  # a plan reads only
    done = asyncio.run(step.run(ctx))
    assert waiting(str(tmp_path)) == ["job-3", "job-4"]
    assert sorted(os.listdir(tmp_path / ASIDE)) == ["job-0", "job-1", "job-2"]
    asyncio.run(step.undo(ctx, StepResult("clear", True, done.output, 1.0, undo=done.undo)))
    assert len(waiting(str(tmp_path))) == 5


def test_the_channel_gives_no_receipt_where_nobody_listens(tmp_path: Path, message) -> None:
    with pytest.raises(Unreachable):
        asyncio.run(Webhook(spool(tmp_path, 0)).deliver(message))
