"""What is at work is seen where a person looks, and `c` ends just that."""

from __future__ import annotations

from typing import Any

import pytest
from textual.pilot import Pilot

from supervisor.cli.feed import Item
from supervisor.errors import Refused
from tests.tui.recorded import NOW_S, Json, Recorded, incident, snapshot
from tests.tui.test_app import recorded, run, screen_text, until
from tui.app import Board
from tui.detail import Detail
from tui.dialogs import Consent

pytestmark = pytest.mark.req("FR-007", "R15")


def told(**more: Any) -> Item:
    data = {
        "target_id": "web", "execution_id": "exe_9", "incident_id": None, "what": "rb-rotate-logs", "stage": "archive",
        "done": 512, "total": 1024, "unit": "pages", "rate_per_s": 64.0, "left_s": 8.0, "can_be_cancelled": True,
        "over": False,
    }  # fmt: skip
    return Item(2, "progress", NOW_S, data | more)


WORDS = "> rb-rotate-logs on web: archive 50% of 1024 pages, 64 pages/s, 8 s left"


def cancelled(source: Recorded) -> list[Json]:
    return [args for action, args in source.asked if action == "cancel"]


async def consented(pilot: Pilot[None], board: Board, *keys: str) -> str:
    """What it says that `c` would end."""
    await pilot.press("c")
    await until(pilot, lambda: isinstance(board.screen, Consent) and "Enter confirms" in screen_text(board))
    said = screen_text(board)
    await pilot.press(*keys)
    return said


@run
async def test_an_incident_its_line_in_the_list_and_its_target_say_how_far_it_is() -> None:
    source = recorded()
    source.answers["targets"] = {"targets": [source.answers["targets"]["targets"][0] | {"target_id": "web"}]}
    board = Board(source)
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        source.push(told())
        await until(pilot, lambda: WORDS in screen_text(board) and "> 1 at work" in screen_text(board))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(board.screen, Detail) and WORDS in screen_text(board))
        await pilot.press("4")
        await until(pilot, lambda: "FAMILY" in screen_text(board) and WORDS in screen_text(board))
        source.push(told(over=True))
        await until(pilot, lambda: WORDS not in screen_text(board) and "1 at work" not in screen_text(board))


@pytest.mark.parametrize("size", [(80, 24), (40, 10)])
@run
async def test_the_execution_that_is_seen_is_what_ends_and_only_by_enter(size: tuple[int, int]) -> None:
    board = Board(source := recorded())
    async with board.run_test(size=size, notifications=True) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        source.push(told())
        await until(pilot, lambda: board.model.at_work != {})
        said = await consented(pilot, board, "escape")
        assert "> rb-rotate-logs on web" in said
        assert "stays so" in said
        await until(pilot, lambda: not isinstance(board.screen, Consent))
        assert cancelled(source) == []
        source.push(told(execution_id="exe_10", target_id="db"))
        await consented(pilot, board, "enter")
        await until(pilot, lambda: cancelled(source) == [{"id": "exe_9"}])
        if size == (80, 24):
            await until(pilot, lambda: "rb-rotate-logs is being stopped" in screen_text(board))


@run
async def test_a_check_that_is_over_by_then_ends_nothing_else_on_its_target() -> None:
    """It has no name but its target's, and what the check found may be under repair now."""
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        source.push(told(execution_id=None, what="integrity check"))
        await until(pilot, lambda: board.model.at_work != {})
        await consented(pilot, board)
        source.push(told(execution_id=None, over=True), told())
        await until(pilot, lambda: "web" not in board.model.at_work)
        await pilot.press("enter")
        await until(pilot, lambda: "the integrity check of web is over" in screen_text(board))
        assert cancelled(source) == []
        source.push(told(over=True), told(execution_id=None, what="integrity check"))
        await until(pilot, lambda: "web" in board.model.at_work)
        await consented(pilot, board, "enter")
        await until(pilot, lambda: cancelled(source) == [{"id": "web"}])


@run
async def test_what_tells_no_progress_is_named_and_where_nothing_is_seen_the_daemon_says_what_is() -> None:
    source = recorded()
    source.drain()
    source.push(snapshot([incident("web", state="remediating", execution_id="exe_1"), incident("db", "medium")]))
    source.answers["cancel"] = Refused("nothing is at work on db", "`healctl heal status` shows what is")
    board = Board(source)
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        said = await consented(pilot, board, "escape")
        assert "> rb-restart-service on web" in said
        await pilot.press("down")
        said = await consented(pilot, board, "enter")
        assert "db: nothing is seen to be at work" in said
        await until(pilot, lambda: "nothing is at work on db" in screen_text(board))
        assert cancelled(source) == [{"id": "inc_db"}]
