"""An order hits what the person saw when they pressed its key, and nothing is confirmed by accident."""

from __future__ import annotations

import threading

import pytest
from textual.widgets import Input, Static

from supervisor.cli.feed import Item
from tests.tui.recorded import NOW_S, Json, Recorded, incident, snapshot
from tests.tui.test_app import PLAN, recorded, run, screen_text, until
from tui.acting import EVERY
from tui.app import Board
from tui.detail import Detail
from tui.dialogs import Question
from tui.model import STANDING

pytestmark = pytest.mark.req("FR-007")

ORDERED = {"approve", "execute", "ack", "dismiss", "undo", "pause", "resume", "cancel"}


def orders(source: Recorded) -> list[tuple[str, Json]]:
    return [it for it in source.asked if it[0] in ORDERED]


def resolved(name: str, severity: str = "high") -> Item:
    return Item(3, "incident", NOW_S, incident(name, severity, state="resolved"))


@pytest.mark.parametrize("key", ["k", "a", "d", "x", "i", "r", "p", "u", "c"])
@run
async def test_a_key_that_was_meant_for_a_row_that_just_went_orders_nothing(key: str) -> None:
    """It was under the cursor when the finger came down; now another is."""
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: rows.key == "inc_web")
        source.push(resolved("web", "critical"))
        await until(pilot, lambda: rows.key == "inc_api")
        await pilot.press(key)
        await until(pilot, lambda: "web has just left the list" in screen_text(board))
        assert not isinstance(board.screen, Question)
        assert orders(source) == []
        await pilot.press("k")  # they have been told: this one is for what they see
        await until(pilot, lambda: orders(source) == [("ack", {"incident_id": "inc_api"})])


@run
async def test_nor_is_one_who_has_had_time_to_see_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.rows.LOST_S", 0.0)
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        source.push(resolved("web", "critical"))
        await until(pilot, lambda: board._rows["incidents"].key == "inc_api")
        await pilot.press("k")
        await until(pilot, lambda: orders(source) == [("ack", {"incident_id": "inc_api"})])


@run
async def test_whoever_moved_the_cursor_themselves_is_not_asked_again() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: rows.key == "inc_web")
        source.push(resolved("web", "critical"))
        await until(pilot, lambda: rows.key == "inc_api")
        await pilot.press("down", "k")
        await until(pilot, lambda: orders(source) == [("ack", {"incident_id": "inc_db"})])
        await pilot.press("slash", *"api", "enter", "k")  # the filter took the row away: by their word
        await until(pilot, lambda: orders(source)[1:] == [("ack", {"incident_id": "inc_api"})])


@run
async def test_the_cursor_stays_in_sight_when_news_push_its_row_away() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: rows.key == "inc_web")
        source.push(*(Item(n, "incident", NOW_S, incident(f"t{n}", "critical", ago_s=9000.0)) for n in range(60)))
        await until(pilot, lambda: len(rows.keys) == 63)
        assert (rows.key, list(rows.keys).index("inc_web")) == ("inc_web", 60)
        await until(pilot, lambda: rows.scroll_offset.y <= 60 < rows.scroll_offset.y + rows.size.height - 1)


@run
async def test_of_a_target_with_two_incidents_none_is_guessed() -> None:
    source = recorded()
    two = [incident("web"), incident("web", id="inc_other", anomaly_type="gateway_unresponsive")]
    source._items = [snapshot(two)]
    source.answers["targets"]["targets"][0] |= {"target_id": "web"}
    board = Board(source)
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        await pilot.press("4")
        await until(pilot, lambda: board._rows["targets"].key == "web" and len(board.model.incidents) == 2)
        await pilot.press("k")
        await until(pilot, lambda: "needs an incident" in screen_text(board))
        assert orders(source) == []
    source.answers["targets"]["targets"][0] |= {"target_id": "disk:/"}


@run
async def test_an_emptied_field_approves_for_every_target_only_if_that_is_typed() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(board.screen, Question) and isinstance(board.focused, Input))
        await pilot.press("backspace", "enter")
        await until(pilot, lambda: "Approve for every target" in screen_text(board))
        await pilot.press("enter")
        assert orders(source) == []
        board.screen.query_one(Input).value = EVERY
        await pilot.press("enter")
        await until(pilot, lambda: orders(source) == [("approve", {"runbook_id": "rb-restart-service"})])


@run
async def test_a_name_that_cannot_be_typed_is_shown_and_typed_as_its_escape() -> None:
    name = "w\x1b]0;owned\x07[red]e\u202eb "
    source = Recorded([snapshot([incident("web", target_id=name)])], {"targets": {"targets": []}, "dry_run": PLAN})
    board = Board(source)
    async with board.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        for key in "xaip":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(board.screen, Question))
            for it in board.screen.query(Static):
                assert "\x1b" not in str(it.render())
            assert "\x1b" not in board.screen.query_one(Input).value
            assert "\x1b" not in board.screen.query_one(Input).placeholder
            await pilot.press("escape")
        await pilot.press("x")
        await until(pilot, lambda: isinstance(board.screen, Question))
        board.screen.query_one(Input).value = r"w\x1b]0;owned\x07[red]e\u202eb"
        await pilot.press("enter")
        await until(pilot, lambda: orders(source) != [])
        assert orders(source)[0][1]["target_id"] == name


@run
async def test_before_the_first_word_of_a_daemon_nothing_is_called_well() -> None:
    source = Recorded([])
    source.said = "connecting"
    board = Board(source)
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "No news from healctl: connecting" in screen_text(board))
        text = screen_text(board)
        assert "nothing is known yet" in text
        assert "0 open" not in text
        assert "Nothing is broken" not in text
        source.said = ""
        source.push(snapshot([]))
        await until(pilot, lambda: "0 open" in screen_text(board) and "Nothing is broken" in screen_text(board))


@run
async def test_a_pause_and_a_halt_are_seen_when_they_begin_and_when_they_end() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(100, 24)) as pilot:
        await until(pilot, lambda: "3 open" in screen_text(board))
        standing: Json = {"pauses": [{"name": "web"}], "halted": [{"database": "brain"}]}
        source.push(Item(0, STANDING, NOW_S, standing))
        await until(pilot, lambda: "brain is halted 1 paused" in screen_text(board))
        source.push(Item(0, STANDING, NOW_S, {"pauses": [], "halted": []}))
        await until(pilot, lambda: "halted" not in screen_text(board) and "paused" not in screen_text(board))


@run
async def test_what_ended_while_the_daemon_was_away_is_asked_about_and_shown_with_those_over() -> None:
    board = Board(source := recorded())
    source.answers["incident"] = lambda args: {"incident": incident("web", "critical", "resolved")}
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: len(rows.keys) == 3)
        source.push(snapshot([incident("db", "medium"), incident("api")]))
        await until(pilot, lambda: ("incident", {"incident_id": "inc_web"}) in source.asked)
        await pilot.press("e")
        await until(pilot, lambda: "inc_web" in rows.keys and "+ resolved" in screen_text(board))


@run
async def test_a_question_that_nobody_answers_is_not_asked_again_and_again() -> None:
    released = threading.Event()
    board = Board(source := recorded())

    def never(_: Json) -> Json:
        released.wait(60.0)
        return {"targets": []}

    source.answers["targets"] = never
    try:
        async with board.run_test(size=(80, 24)) as pilot:
            await until(pilot, lambda: ("targets", {}) in source.asked)
            for _ in range(5):
                board._look()
            await pilot.press("down", "k")  # and orders go past it
            await until(pilot, lambda: orders(source) == [("ack", {"incident_id": "inc_api"})])
            assert source.asked.count(("targets", {})) == 1
    finally:
        released.set()


@run
async def test_a_tiny_terminal_shows_a_row_and_the_line_to_type_in() -> None:
    board = Board(recorded())
    async with board.run_test(size=(20, 5)) as pilot:
        await until(pilot, lambda: "!! web" in screen_text(board))
        await pilot.press("x")
        await until(pilot, lambda: "type web" in screen_text(board))
        await pilot.press("escape", "enter")
        await until(pilot, lambda: isinstance(board.screen, Detail))
        await pilot.resize_terminal(300, 80)
        await until(pilot, lambda: "What happened" in screen_text(board))


@pytest.mark.parametrize(("running", "said"), [(["inc_web"], "and runs now"), ([], "and does not run now")])
@run
async def test_an_approval_says_whether_anything_runs_by_it(running: list[str], said: str) -> None:
    """The incident may have ended while its person still read the question, or another dashboard was first."""
    board = Board(source := recorded())
    source.answers["approve"] = source.answers["approve"] | {"running_for": running}
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        await pilot.press("a")
        await until(pilot, lambda: isinstance(board.screen, Question))
        source.push(resolved("web", "critical"))
        await until(pilot, lambda: "inc_web" not in board._rows["incidents"].keys)
        await pilot.press("enter")
        await until(pilot, lambda: said in screen_text(board))
        assert orders(source) == [("approve", {"runbook_id": "rb-restart-service", "target_id": "web"})]
