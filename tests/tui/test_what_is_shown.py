"""What stands on each page, word for word, out of what a daemon has answered."""

from __future__ import annotations

from unittest.mock import patch

import pytest

from supervisor import clock
from supervisor.incidents.model import Authority
from tests.tui import story
from tests.tui.recorded import NOW_S
from tests.tui.test_app import recorded, run, screen_text, until
from tui import panes
from tui.app import Board
from tui.detail import AUTHORITY, OUTPUT_LINES_MAX, describe
from tui.dialogs import Question, Reader

pytestmark = pytest.mark.req("FR-007")


def test_an_incident_has_its_trail_its_readings_its_steps_with_their_output_and_their_evidence() -> None:
    answer = story.detail({"incident_id": "inc_90ab33d17c52"})
    bad = {"step_id": "look", "status": "failed", "duration_ms": 3.0, "output": "no\n" * (OUTPUT_LINES_MAX + 5)}
    answer["executions"] = [answer["executions"][0] | {"steps_executed": [*story.GATEWAY_RUN["steps_executed"], bad]}]
    lines = describe(answer, [1.0, 3.0]).plain.splitlines()
    assert "Readings: ▁█" in lines
    assert "Seen: it refuses connections, 2 in a row, by its health address" in lines
    assert [line.split("  ", 1)[1] for line in lines if "engine: " in line] == [
        "o diagnosing  engine: a fresh probe will tell whether it is still so",
        "> remediating  engine: runs rb-gateway-restart: auto_restart is set and nothing of it is running",
    ]
    at = lines.index("+ restart (4180 ms)")
    assert lines[at + 1] == "    openclaw gateway restart --json: exit 0; it says 'restarted'"
    assert lines[at + 2] == "x look (3 ms)"
    assert lines.count("    no") == OUTPUT_LINES_MAX
    assert lines[-1].startswith("  on grounds of: endpoint=refused, failures=2")


def test_an_incident_has_the_page_that_was_sent_and_whether_it_arrived() -> None:
    answer = story.detail({"incident_id": "inc_7d029917fc81"})
    text = describe(answer, []).plain
    assert "".join(f"  {line}\n" for line in story.PAGE.splitlines()) in text
    assert ", delivered " in text
    answer["messages"][0] |= {"receipt": None, "last_error": "unreachable"}
    text = describe(answer, []).plain
    assert ", not delivered yet\n" in text
    assert text.endswith("  unreachable\n")


def test_every_ground_on_which_something_runs_has_its_words() -> None:
    assert set(AUTHORITY) == set(Authority)


def test_a_target_has_its_reading_its_latency_its_next_poll_its_trend_and_its_time_to_full() -> None:
    with patch.object(clock, "wall_s", lambda: NOW_S):
        row = story.target("disk:/srv", "host", 0.874, "share", [0.8, 0.9], 600.0, full_in_s=32_400.0, took_ms=21.25)
    cells = [cell.plain for cell in panes.target(row, NOW_S)]
    assert cells == ["+ ", "disk:/srv", "host", "87.4%", "▁█", "21.2 ms", "7s", "9m", "9h"]
    assert "full in 9h" in panes.below_target(row, None).plain


def test_a_part_that_crashed_has_the_end_of_its_last_words_line_by_line() -> None:
    row = {"last_exit": "killed by SIGSEGV", "last_words": "one\ntwo\x1b[2J\nthree"}
    assert panes.below_child(row).plain == "Last exit: killed by SIGSEGV\ntwo\\x1b[2J\nthree"
    assert panes.below_child({}).plain == f"Last exit: -\n{panes.NO_LAST_WORDS}"


@run
async def test_a_runbook_has_its_mode_and_history_and_is_run_dry_in_its_place() -> None:
    board = Board(source := recorded(), read_only=True)
    async with board.run_test(size=(80, 24)) as pilot:
        await pilot.press("3")
        await until(pilot, lambda: "rb-restart-service" in screen_text(board))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(board.screen, Reader))
        shown = ("Mode: dry_run", "Confidence: 0.50", "2 good, 0 failed", "Author: healctl", "1. start")
        await until(pilot, lambda: all(words in screen_text(board) for words in shown))
        await pilot.press("escape", "d")
        await until(pilot, lambda: isinstance(board.screen, Question))
        await pilot.press(*"web", "enter")
        await until(pilot, lambda: "start web by its recipe" in screen_text(board))
        assert ("dry_run", {"runbook_id": "rb-restart-service", "target_id": "web"}) in source.asked


@run
async def test_an_age_ticks_although_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board(recorded())
    async with board.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: screen_text(board).count(" 5m ") == 3)
        later_s = clock.wall_s() + 3600.0
        monkeypatch.setattr(clock, "wall_s", lambda: later_s)
        await until(pilot, lambda: screen_text(board).count(" 1h ") == 3)
