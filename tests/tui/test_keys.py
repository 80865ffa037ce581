"""Every key of the dashboard does what the help says: a key that is added without a test is found here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from textual.command import CommandPalette

from tests.tui.recorded import incident, snapshot
from tests.tui.test_app import ORDERS, recorded, run, screen_text, until
from tui import keys
from tui.app import TABS, Board
from tui.dialogs import Reader
from tui.model import SORTS

pytestmark = pytest.mark.req("FR-007")

# What each key that orders nothing changes, on a list of three.
VIEWS: dict[str, Callable[[Board], object]] = {
    **{str(n): lambda board, tab=tab: board._tabs.active == tab for n, tab in enumerate(TABS, 1)},  # type: ignore[misc]
    "question_mark": lambda board: isinstance(board.screen, Reader) and "Light or dark" in screen_text(board),
    "slash": lambda board: board._filter.has_focus and "words to filter by" in screen_text(board),
    "s": lambda board: "by age" in screen_text(board),
    "S": lambda board: "by severity, reversed" in screen_text(board),
    "e": lambda board: "with those over" in screen_text(board),
    "t": lambda board: not board.current_theme.dark,
}
ORDERING = {key for key, *_ in ORDERS} | {"x", "u"}  # `test_app`, each from the key to what the daemon is asked
LEAVING = {"q", "ctrl+c", "ctrl+z"}  # `test_terminal`, on a real terminal


def test_every_key_has_its_test() -> None:
    tested = [*VIEWS, *ORDERING, *LEAVING]
    assert sorted(tested) == sorted(it.key for it in keys.BINDINGS)


@pytest.mark.parametrize("key", VIEWS)
@run
async def test_what_a_key_shows(key: str) -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        if key == "1":
            await pilot.press("2")
        assert not VIEWS[key](board)
        await pilot.press(key)
        await until(pilot, lambda: VIEWS[key](board), 60.0)


@run
async def test_the_list_is_sorted_by_each_of_its_columns_and_the_other_way_round() -> None:
    source = recorded()
    source.drain()
    source.push(
        snapshot([
            incident("a", "medium", "verifying", 100.0, anomaly_type="db_corruption"),
            incident("b", "critical", "escalated", 200.0, anomaly_type="process_dead"),
            incident("c", "high", "remediating", 300.0, anomaly_type="disk_pressure"),
        ])
    )  # fmt: skip
    board = Board(source)
    found = {}
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: len(rows.keys) == 3)
        for _ in SORTS:
            found[board._order] = "".join(key.removeprefix("inc_") for key in rows.keys)
            await pilot.press("S")
            assert "".join(key.removeprefix("inc_") for key in rows.keys) == found[board._order][::-1]
            await pilot.press("S", "s")
        assert board._order == "severity", "round again"
    assert found == {"severity": "bca", "age": "cba", "target": "abc", "state": "bca", "anomaly": "acb"}


@run
async def test_the_command_palette_finds_every_key_by_its_words() -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        offered = {it.title for it in board.get_system_commands(board.screen)}
        assert offered == {it.description for it in keys.BINDINGS}
        await pilot.press("ctrl+p")
        await until(pilot, lambda: isinstance(board.screen, CommandPalette))
        await pilot.press(*"light")
        await until(pilot, lambda: "Key t" in screen_text(board))
        await pilot.press("enter")
        await until(pilot, lambda: not board.current_theme.dark)
