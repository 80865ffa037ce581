"""`clear-phantom` as a step: what it would write, how it writes the time, its undo; the store is the real one."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from remediators.base import Context, StepFailed
from remediators.phantom import ClearPhantom
from remediators.runbooks import RUNBOOKS
from supervisor import stamps
from supervisor.config import Config, TradingSection
from supervisor.incidents.model import Authority, Execution, ExecutionState, StepResult, Target
from supervisor.incidents.readings import HealthReading, Position, PositionsData
from supervisor.messages import Body, GuardedWrite, Nack
from supervisor.store import guarded

pytestmark = pytest.mark.req("FR-003", "R15")
RUNBOOK = next(runbook for runbook in RUNBOOKS if runbook.id == "rb-clear-phantom")
STEP = ClearPhantom(RUNBOOK.steps[0])
SIDE = {"signal": "BUY", "symbol": "BTC/USDT"}


class Scene:
    """A trades database with two phantoms and a live signal; the reading names both."""

    def __init__(self, folder: Path, opened: object = "2026-02-18T09:30:00Z") -> None:
        self.path = folder / "trades.db"
        self.signal = folder / "signal.json"
        with closing(sqlite3.connect(self.path)) as db:
            db.execute("CREATE TABLE trades (id INTEGER PRIMARY KEY, symbol, side, status, opened_at, closed_at)")
            rows = [(1, "ETH/USDT", "LONG", "open", opened, None), (2, "SOL/USDT", "LONG", "OPEN", opened, None)]
            db.executemany("INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?)", rows)
            db.commit()
        self.says()
        self.config = Config(trading={"a": TradingSection(signal_file=str(self.signal), trades_db=str(self.path))})
        self.asked: list[GuardedWrite] = []
        self.seen = PositionsData(True, 2, (Position("1", "ETH/USDT", "LONG"), Position("2", "SOL/USDT", "LONG")))

    def says(self, **keys: object) -> None:
        self.signal.write_bytes(msgspec.json.encode({**SIDE, "updated_at": time.time(), **keys}))

    def rows(self) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as db:
            return db.execute("SELECT * FROM trades ORDER BY id").fetchall()

    async def store(self, body: Body) -> Body:
        assert isinstance(body, GuardedWrite)
        self.asked.append(body)
        return guarded.write(body, self.config, frozenset())

    def context(self) -> Context:
        reading = HealthReading("a-positions", "trading", 0.0, 0.0, 1.0, 1000, True, self.seen)
        execution = Execution(
            id="exe", incident_id=None, runbook=RUNBOOK, version="v", target=Target("a-positions", "trading"),
            resource="r", authority=Authority.APPROVED, state=ExecutionState.CLAIMED, created_steady_s=0.0,
            created_wall_s=0.0, boot_id="b", expires_mono_s=0.0, grounds_mono_s=0.0, reading=reading,
        )  # fmt: skip
        nothing: Any = None
        return Context(execution, nothing, self.path.parent, frozenset(), self.config, self.store, self.store)


def run(scene: Scene) -> Any:
    return asyncio.run(STEP.run(scene.context()))


def undo(scene: Scene, text: str) -> Any:
    return asyncio.run(STEP.undo(scene.context(), StepResult("close", True, "", 1.0, undo=text)))


def test_the_plan_says_what_run_does_and_changes_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    before = scene.rows()
    plan = STEP.plan(scene.context())
    assert plan.predicts_clear
    assert "1 (ETH/USDT LONG), 2 (SOL/USDT LONG)" in plan.description
    assert scene.rows() == before
    assert scene.asked == []
    assert "1 (ETH/USDT LONG), 2 (SOL/USDT LONG)" in run(scene).output
    assert [row[3] for row in scene.rows()] == ["closed", "closed"]


def test_undo_puts_back_what_was_there_to_the_letter_once_and_only_as_we_left_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    before = scene.rows()
    done = run(scene).undo
    undo(scene, done)
    assert scene.rows() == before, "'OPEN' of trade 2, too"
    undo(scene, done)  # asked twice
    assert scene.rows() == before
    with closing(sqlite3.connect(scene.path)) as db:
        db.execute("UPDATE trades SET status = 'settled' WHERE id = 1")
        db.commit()
    after = scene.rows()
    with pytest.raises(StepFailed, match="nothing was written"):
        undo(scene, done)
    assert scene.rows() == after


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"updated_at": time.time() - 3600}, "stale"),
        ({"updated_at": time.time() + 3600}, "in the future"),
        ({"signal": "$(pwned)"}, "no side that healctl knows"),
        ({"symbol": None}, "names no symbol"),
    ],
)
def test_without_a_signal_to_compare_with_nothing_is_written(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    scene = Scene(tmp_path)
    scene.says(**change)
    with pytest.raises(StepFailed, match=words):
        run(scene)
    assert f"this would fail: {''}" in STEP.plan(scene.context()).description
    assert scene.asked == []


def test_only_what_is_still_a_phantom_and_was_called_one_is_closed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.says(symbol="ETH/USDT")  # meanwhile a signal for the first
    with closing(sqlite3.connect(scene.path)) as db:  # and a trade that nobody has called a phantom yet
        db.execute("INSERT INTO trades VALUES (3, 'XRP/USDT', 'LONG', 'open', NULL, NULL)")
        db.commit()
    run(scene)
    assert [row[3] for row in scene.rows()] == ["open", "closed", "open"]


def test_while_they_may_still_be_closed_by_their_own_program_nothing_is_written(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.seen = msgspec.structs.replace(scene.seen, settling=True)
    with pytest.raises(StepFailed, match="long enough"):
        run(scene)


def test_what_the_store_refuses_is_the_steps_failure(tmp_path: Path) -> None:
    scene = Scene(tmp_path)

    async def busy(body: Body) -> Body:
        return Nack("busy", "locked by another program")

    quick = ClearPhantom(msgspec.structs.replace(RUNBOOK.steps[0], timeout_s=4.5))
    context = msgspec.structs.replace(scene.context(), ask_store=busy)
    with pytest.raises(StepFailed, match="locked by another program, all the time: nothing was written"):
        asyncio.run(quick.run(context))


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("2026-02-18T09:30:00Z", "2026-11-25T21:00:01Z"),
        ("2026-02-18 09:30:00.123456+00:00", "2026-11-25 21:00:01.250000+00:00"),
        ("2026-02-18T09:30:00.123+02:00", "2026-11-25T23:00:01.250+02:00"),
        ("2026-02-18T09:30-0330", "2026-11-25T17:30-0330"),
        (1_771_407_000, 1_795_640_401),
        (1_771_407_000.5, 1_795_640_401.25),
        (1_771_407_000_000, 1_795_640_401_250),
        ("1771407000", "1795640401"),
    ],
)
def test_a_time_is_written_as_its_neighbours_are(example: object, expected: object) -> None:
    assert stamps.like(example, 1_795_640_401.25) == expected
    assert abs(stamps.wall_s_of(stamps.like(example, 1_795_640_401.25)) - 1_795_640_401.25) < 60


def test_what_is_no_time_is_no_example() -> None:
    for odd in ("soon", "$(date)", None, 7, "2026-02-30T00:00:00"):
        with pytest.raises(stamps.BadStamp):
            stamps.like(odd, 1.0)
