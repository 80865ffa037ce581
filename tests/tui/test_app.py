"""The real app on a recorded feed: keys in, orders out, and what is seen."""

from __future__ import annotations

import asyncio
import html
import re
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input

from supervisor.cli.feed import Item
from supervisor.errors import NotRunning, Refused
from tests.tui.recorded import NOW_S, Json, Recorded, incident, snapshot, stamp
from tui import keys, look
from tui.app import TABS, Board
from tui.detail import Detail
from tui.dialogs import Consent, Question, Reader
from tui.report import report_text

pytestmark = pytest.mark.req("FR-007")

Test = Callable[..., Coroutine[Any, Any, None]]
PLAN = {
    "runbook_id": "rb-restart-service",
    "target_id": "web",
    "steps": [{"description": "start web by its recipe"}],
    "predicts_clear": True,
}
DONE = {
    "runbook_id": "rb-restart-service",
    "target_id": "web",
    "steps_executed": [{"step_id": "start", "status": "success", "output": "started\x1b[2J", "duration_ms": 12.0}],
    "verification_passed": True,
    "escalation_needed": False,
}
RUNBOOK = {
    "id": "rb-restart-service", "label": "Restart a service", "applies_to": ["process_dead"], "mode": "dry_run",
    "confidence": 0.5, "dry_run_count": 1, "last_executed_at": None, "approved_at": None, "version": "abcdef0123456789",
    "author": "healctl", "steps": [{"step_id": "start", "effect": "change"}], "successes": 2, "failures": 0,
    "success_rate_lower_bound": 0.34, "targets": [],
}  # fmt: skip
TARGET = {
    "target_id": "disk:/", "family": "host", "available": True, "error": None, "anomaly": None, "taken_at": stamp(2.0),
    "took_ms": 0.5, "every_s": 600.0, "value": 0.5, "unit": "share", "trend": [0.1, 0.5], "full_in_s": 90_000.0,
}  # fmt: skip


def run(test: Test) -> Callable[..., None]:
    @wraps(test)
    def outer(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return outer


def recorded() -> Recorded:
    some = [incident("web", "critical"), incident("db", "medium", execution_id="exe_1"), incident("api")]
    answers: Json = {
        "targets": {"targets": [TARGET], "more": 0},
        "list_runbooks": {"runbooks": [RUNBOOK]},
        "dry_run": PLAN,
        "execute": DONE,
        "undo": DONE,
        "ack": {"incident_id": "inc_web"},
        "approve": {"runbook_id": "rb-restart-service", "mode": "auto_execute", "running_for": ["inc_web"]},
        "dismiss": {"incident_id": "inc_web", "dismiss_until": stamp(-3600.0)},
        "pause": {},
        "resume": {},
        "cancel": {"what": "rb-rotate-logs", "target_id": "web"},
        "incident": lambda args: {
            "incident": incident(args["incident_id"].removeprefix("inc_")), "executions": [], "messages": []
        },
    }  # fmt: skip
    return Recorded([snapshot(some)], answers)


def screen_text(board: Board) -> str:
    """What a person reads, row by row."""
    svg = board.export_screenshot()
    return re.sub(r"\s+", " ", html.unescape(" ".join(re.findall(r">([^<>]+)</text>", svg))))


async def until(pilot: Pilot[None], true: Callable[[], object], within_s: float = 60.0) -> None:
    async with asyncio.timeout(within_s):
        while not true():
            await pilot.pause(0.02)


@run
async def test_what_is_broken_is_seen_at_once_with_what_it_needs() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        await until(pilot, lambda: "no process of web is alive" in screen_text(board))
        text = screen_text(board)
        assert "3 open" in text
        assert "!! 1 critical" in text
        assert [action for action, _ in source.asked if action not in ("targets",)] == []


@run
async def test_news_move_the_list_and_the_cursor_stays_on_its_incident() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: len(rows.keys) == 3)
        await pilot.press("down", "down")
        assert rows.key == "inc_db"
        more = incident("alone", "critical")
        del more["audit_trail"]
        source.push(Item(2, "incident", NOW_S, more))
        await until(pilot, lambda: len(rows.keys) == 4)
        assert rows.key == "inc_db"
        gone = incident("db", "medium", state="resolved")
        source.push(Item(3, "incident", NOW_S, gone))
        await until(pilot, lambda: len(rows.keys) == 3)
        assert rows.key in rows.keys


@run
async def test_a_filter_is_typed_and_taken_back() -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        rows = board._rows["incidents"]
        await until(pilot, lambda: len(rows.keys) == 3)
        await pilot.press("slash", *"api", "enter")
        await until(pilot, lambda: list(rows.keys) == ["inc_api"])
        await pilot.press("slash", "escape")
        await until(pilot, lambda: len(rows.keys) == 3)


@run
async def test_an_execution_is_confirmed_by_typing_the_targets_name() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        await pilot.press("x")
        await until(pilot, lambda: isinstance(board.screen, Question))
        await pilot.press(*"wen", "enter")
        assert isinstance(board.screen, Question), "another name is no confirmation"
        board.screen.query_one(Input).value = "web"
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(board.screen, Reader))
        orders = [(action, args) for action, args in source.asked if action == "execute"]
        assert orders == [("execute", {"runbook_id": "rb-restart-service", "target_id": "web", "confirm": True})]
        assert "\x1b" not in board.export_screenshot()


@run
async def test_a_cancelled_question_orders_nothing() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        for key in "axipc":
            await pilot.press(key)
            await until(pilot, lambda: isinstance(board.screen, Question | Consent))
            await pilot.press("escape")
        assert {action for action, _ in source.asked} <= {"targets"}


ORDERS = [
    ("a", "enter", "approve", {"runbook_id": "rb-restart-service", "target_id": "web"}),
    ("k", "", "ack", {"incident_id": "inc_web"}),
    ("i", "noise", "dismiss", {"incident_id": "inc_web", "reason": "noise"}),
    ("p", "enter", "pause", {"target_id": "web", "for_s": 3600, "reason": "from the dashboard"}),
    ("r", "enter", "resume", {"target_id": "web"}),
    ("c", "enter", "cancel", {"id": "inc_web"}),
    ("d", "", "dry_run", {"runbook_id": "rb-restart-service", "target_id": "web"}),
]


@pytest.mark.parametrize(("key", "typed", "action", "args"), ORDERS)
@pytest.mark.parametrize("where", ["list", "detail"])
@run
async def test_each_key_gives_its_order(key: str, typed: str, action: str, args: Json, where: str) -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        if where == "detail":
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(board.screen, Detail))
        await pilot.press(key)
        if typed:
            await until(pilot, lambda: isinstance(board.screen, Question | Consent))
            await pilot.press(*(["enter"] if typed == "enter" else [*typed, "enter"]))
        await until(pilot, lambda: action in [it for it, _ in source.asked])
        assert [it for it in source.asked if it[0] == action] == [(action, args)]


@run
async def test_an_undo_names_the_execution() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        await pilot.press("end", "u")
        await until(pilot, lambda: isinstance(board.screen, Question))
        await pilot.press(*"db", "enter")
        await until(pilot, lambda: ("undo", {"execution_id": "exe_1"}) in source.asked)


@run
async def test_read_only_takes_no_orders_but_shows_plans() -> None:
    board = Board(source := recorded(), read_only=True)
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        await pilot.press(*"axkiuprc")
        assert not isinstance(board.screen, Question | Consent)
        await pilot.press("d")
        await until(pilot, lambda: isinstance(board.screen, Reader))
        assert {action for action, _ in source.asked} <= {"targets", "dry_run"}
        await until(pilot, lambda: "read-only" in screen_text(board))


@run
async def test_a_refusal_is_shown_with_its_hint() -> None:
    source = recorded()
    source.answers["ack"] = Refused("it is over", "look at healctl heal status")
    board = Board(source)
    async with board.run_test(size=(80, 24), notifications=True) as pilot:
        await until(pilot, lambda: board._rows["incidents"].key == "inc_web")
        await pilot.press("k")
        await until(pilot, lambda: "it is over" in screen_text(board))
        await until(pilot, lambda: "heal status" in screen_text(board))


@run
async def test_a_daemon_that_is_gone_is_said_and_what_was_known_stays() -> None:
    board = Board(source := recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 3)
        source.said = "not running; waiting for it"
        for action in list(source.answers):
            source.answers[action] = NotRunning("nobody is there")
        await until(pilot, lambda: "No news from healctl" in screen_text(board))
        assert len(board._rows["incidents"].keys) == 3
        source.said = ""
        source.push(snapshot([incident("after")]))
        await until(pilot, lambda: list(board._rows["incidents"].keys) == ["inc_after"])
        await until(pilot, lambda: "No news" not in screen_text(board))


@pytest.mark.parametrize("sixteen", [False, True])
@run
async def test_every_tab_both_themes_and_the_help_fit_a_small_terminal(sixteen: bool) -> None:
    source = recorded()
    source.answers["report"] = {"incidents": 3, "mttd_s": {"median": 0.2, "p95": 1.0}, "by": [{"name": "web"}]}
    board = Board(source, sixteen=sixteen)
    async with board.run_test(size=(80, 24)) as pilot:
        for number, tab in enumerate(TABS, 1):
            await pilot.press(str(number))
            await until(pilot, lambda wanted=tab: board._tabs.active == wanted)
            assert f"{number} {tab.title()}" in screen_text(board)
        await until(pilot, lambda: "mttd s" in screen_text(board))
        await pilot.press("t")
        assert not board.current_theme.dark
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(board.screen, Reader))
        await until(pilot, lambda: "Approve" in screen_text(board))
        for last in ("Open what is under the cursor", "Command palette", "dismissed"):  # nothing wraps or is below
            assert last in screen_text(board)


@run
async def test_hostile_text_is_shown_harmless() -> None:
    bad = "\x1b]0;owned\x07[bold red]x[/]\u202e{{x}} \U000e0001"
    row = incident("web", evidence=bad, target_id=bad, anomaly_type=bad, severity=bad, state=bad, hint=bad)
    board = Board(Recorded([snapshot([row])], {}))
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 1)
        await until(pilot, lambda: "[bold red]" in screen_text(board))
        shown = board.export_screenshot()
        assert "\x1b" not in shown
        assert "\u202e" not in shown


@run
async def test_what_is_cut_off_is_seen_to_be_and_yellow_can_be_read_on_the_light_theme() -> None:
    source = Recorded([snapshot([incident("web", anomaly_type="a_name_that_is_too_long_for_its_column")])], {})
    board = Board(source)
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: len(board._rows["incidents"].keys) == 1)
        await until(pilot, lambda: "a_name_that_is_too_… " in screen_text(board))
        await pilot.press("t")
        red, green, blue = look.ON_LIGHT.ansi_colors[3]
        wanted = f"{red:02x}{green:02x}{blue:02x}"  # "1 wait for you", and the bar
        source.said = "not running"
        await until(pilot, lambda: "No news" in screen_text(board))
        colours = set(re.findall(r"fill: #([0-9a-f]{6})", board.export_screenshot()))
        assert wanted in colours
        assert "ffff00" not in colours
        assert 0.2126 * red + 0.7152 * green + 0.0722 * blue < 110


def test_the_foot_fits_eighty_columns_and_names_the_way_out() -> None:
    assert keys.foot().plain.endswith("q Quit")
    assert keys.foot(("esc", "Back")).plain.startswith(" esc Back")
    assert "Quit" not in keys.foot(("esc", "Back")).plain, "there q goes back"
    assert max(len(keys.foot().plain), len(keys.foot(("esc", "Back")).plain)) <= 80


def test_what_belongs_together_in_a_report_stands_on_one_line() -> None:
    answer = {
        "since": stamp(86_400.0 * 30), "mttd": {"at_most": {"count": 3, "median_s": 0.02}}, "actions": 1,
        "false_action_percent": 1.7, "by": [{"name": "web", "pages": 2}], "passed_over": [],
    }  # fmt: skip
    lines = report_text(answer).plain.splitlines()
    assert lines[0].startswith("since: 20")
    assert "T" not in lines[0]
    assert lines[1:] == [
        "mttd: ", "  at most: count 3, median 0.02 s", "actions: 1", "false action: 1.7%",
        "by: ", "  name web, pages 2", "passed over: -",
    ]  # fmt: skip
