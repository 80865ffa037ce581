"""A person who closes what is not there yet, and names that nobody would give: the dashboard goes on."""

from __future__ import annotations

import threading

import pytest
from textual.events import Paste
from textual.widgets import Input

from supervisor.errors import UnknownId
from tests.tui.recorded import Json, Recorded, incident, snapshot
from tests.tui.test_app import recorded, run, screen_text, until
from tui.app import Board
from tui.detail import Detail
from tui.dialogs import Consent, Question

pytestmark = pytest.mark.req("FR-007")

NAMES = {
    "endless": "N" * 5000,
    "endless words": "many words " * 450,
    "of all kinds": "a\x00b\x1b[2Jd\te\nf[red]x[/red][/]\u65e5\u672c\u0627\u0644\u0639 " * 150,
}


@pytest.mark.parametrize("answer", ["a file", "an error"])
@run
async def test_an_answer_for_a_screen_that_was_left_meanwhile_harms_nothing(answer: str) -> None:
    """It found no widget to write into, and took the whole dashboard down."""
    released, answered = threading.Event(), threading.Event()
    source = recorded()

    def late(args: Json) -> Json:
        released.wait(60.0)
        answered.set()
        if answer == "an error":
            raise UnknownId("it is in the archive", "")
        return {"incident": incident("web"), "executions": [], "messages": []}

    source.answers["incident"] = late
    board = Board(source)
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(board.screen, Detail))
        left = board.screen
        await pilot.press("escape")
        await until(pilot, lambda: not left.is_attached)
        released.set()
        await until(pilot, answered.is_set)
        await pilot.press("slash", *"api", "enter")
        await until(pilot, lambda: list(board._rows["incidents"].keys) == ["inc_api"])


@pytest.mark.parametrize("name", NAMES)
@run
async def test_whatever_a_target_is_called_a_question_shows_where_it_is_answered(name: str) -> None:
    called = NAMES[name]
    row = incident("web", target_id=called, runbook_id=called, evidence=called, hint=called, anomaly_type=called)
    board = Board(Recorded([snapshot([row])], {"targets": {"targets": []}}))
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 1)
        for key in "xi":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(board.screen, Question) and isinstance(board.focused, Input))
            await until(pilot, lambda: "Enter confirms, Esc gives up" in screen_text(board))
            box = board.screen.query_one(Input).region
            assert 0 <= box.y < box.bottom <= 24
            await pilot.press("escape")
            await until(pilot, lambda: not isinstance(board.screen, Question))
        await pilot.press("c")
        await until(pilot, lambda: isinstance(board.screen, Consent) and "Enter confirms" in screen_text(board))


@run
async def test_a_megabyte_that_is_pasted_is_not_taken_and_what_stands_there_stays() -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: len(rows.keys) == 3)
        await pilot.press("slash")
        board._filter.post_message(Paste("x [red] \u202e " * 90_000 + "\nand more"))
        await pilot.press(*"api")
        await until(pilot, lambda: list(rows.keys) == ["inc_api"])
        assert board._filter.value == "api"
        await pilot.press("enter", "i")
        await until(pilot, lambda: isinstance(board.focused, Input))
        board.screen.query_one(Input).post_message(Paste("because " * 90_000))
        await pilot.press(*"noise")
        await until(pilot, lambda: board.screen.query_one(Input).value == "noise")


@run
async def test_a_storm_of_sizes_ends_with_the_last_one_drawn_whole() -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "3 open" in screen_text(board))
        for size in [(1, 1), (2, 2), (40, 10), (300, 80), (3, 40), (200, 1), (10, 3)]:
            await pilot.resize_terminal(*size)
        await pilot.press("x")
        await pilot.resize_terminal(40, 10)
        await until(pilot, lambda: "type web" in screen_text(board))
        await pilot.press("escape")
        await pilot.resize_terminal(80, 24)
        await until(
            pilot, lambda: "no process of web is alive" in screen_text(board) and "q Quit" in screen_text(board)
        )


@pytest.mark.parametrize("size", [(80, 16), (40, 10), (40, 5)])
@run
async def test_what_is_read_in_a_small_window_is_read_to_its_end(size: tuple[int, int]) -> None:
    """Its last lines lay below the window, out of reach of any key."""
    board = Board(recorded())
    async with board.run_test(size=size) as pilot:
        await pilot.press("question_mark")
        await until(pilot, lambda: "Incidents" in screen_text(board) and "Esc closes" in screen_text(board))
        await pilot.press("end")
        await until(pilot, lambda: "dismissed" in screen_text(board) and "Esc closes" in screen_text(board))
