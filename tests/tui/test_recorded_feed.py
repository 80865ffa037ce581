"""The real app on what a real daemon said, and that recording beside a daemon of today."""

from __future__ import annotations

import gzip
import re

import pytest
from textual.pilot import Pilot

from supervisor.cli.feed import Item
from tests.tui.recorded import Json
from tests.tui.recording import FILE, Played, kept, live, names
from tests.tui.test_app import run, screen_text, until
from tui.app import Board
from tui.detail import Detail
from tui.dialogs import Question, Reader
from tui.model import Model

pytestmark = pytest.mark.req("FR-007")


def test_a_daemon_of_today_says_the_same_by_the_same_names() -> None:
    """Whoever renames a field, or a kind of event, makes the recording anew: python -m tests.tui.recording."""
    assert names(live()) == names(kept())


def test_the_recording_is_small_and_names_no_place_of_the_machine_that_made_it() -> None:
    raw = gzip.decompress(FILE.read_bytes())
    assert FILE.stat().st_size < 20_000
    assert re.findall(rb"/(?:tmp|work|root|home)/", raw) == []


def test_a_snapshot_brought_forward_by_its_events_is_the_next_snapshot() -> None:
    *items, last = kept().items
    model, then = Model(), Model()
    for item in items:
        model.apply(item)
    then.apply(last)
    assert list(model.incidents) == list(then.incidents)
    for incident_id, incident in then.incidents.items():
        known = model.incidents[incident_id]
        assert {name: known[name] for name in incident} == incident
    assert [row["state"] for row in model.over.values()] == ["resolved", "resolved", "dismissed"]
    for name, row in then.children.items():
        keys = ("state", "pid", "restarts", "last_exit", "last_words")
        assert {key: model.children[name].get(key) for key in keys} == {key: row[key] for key in keys}


async def see(pilot: Pilot[None], board: Board, *words: str) -> None:
    try:
        await until(pilot, lambda: all(it in screen_text(board) for it in words), 60.0)
    except TimeoutError:
        raise AssertionError(f"not seen: {words}\n{screen_text(board)}") from None


def orders(source: Played) -> list[tuple[str, Json]]:
    return [it for it in source.asked if it[0] in ("approve", "dismiss", "ack", "dry_run", "execute")]


@run
async def test_a_person_goes_through_all_that_happened() -> None:
    source = Played(kept())
    board = Board(source)

    def on(target: str, state: str) -> None:
        assert source.go_on(
            lambda it: it.kind == "incident" and (it.data["target_id"], it.data["state"]) == (target, state)
        )

    async with board.run_test(size=(80, 24)) as pilot:
        await see(pilot, board, "0 open", "Nothing is broken")
        on("api", "remediating")
        await see(pilot, board, "1 open", "> remediating")
        on("api", "resolved")
        await see(pilot, board, "0 open")
        on("web", "escalated")
        await see(pilot, board, "@ 1 wait for you", "no live process")
        await pilot.press("down", "d")
        await see(pilot, board, "Dry run of rb-restart-service for web", "Clears the trouble: yes")
        assert isinstance(board.screen, Reader)
        await pilot.press("escape", "k", "a")
        await until(pilot, lambda: isinstance(board.screen, Question))
        await pilot.press("enter")
        await until(pilot, lambda: len(orders(source)) == 3)
        web = board._rows["incidents"].key
        on_web = {"runbook_id": "rb-restart-service", "target_id": "web"}
        assert orders(source) == [("dry_run", on_web), ("ack", {"incident_id": web}), ("approve", on_web)]
        on("web", "resolved")
        on("batch", "dismissed")
        await see(pilot, board, "0 open")
        source.go_on(lambda it: it.kind == "tree" and it.data["kind"] == "exited")
        await pilot.press("2")
        await see(pilot, board, "executor x exited")
        source.go_on()
        await see(pilot, board, "executor + ready", "1 wait for you")
        await pilot.press("1", "e")
        await see(pilot, board, "cron", "batch", "z dismissed", "+ resolved")


@run
async def test_each_page_shows_what_the_daemon_answered() -> None:
    source = Played(kept(), count=len(kept().items) - 1)
    board = Board(source)
    async with board.run_test(size=(80, 60)) as pilot:
        await see(pilot, board, "1 wait for you", "cron")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(board.screen, Detail))
        await see(pilot, board, "What happened", "What people were told", "cron is down", "synapse page", "Readings:")
        await pilot.press("escape", "e", "home")
        await until(pilot, lambda: (board.model.get(board._rows["incidents"].key or "") or {})["target_id"] == "api")
        await pilot.press("enter")
        await see(pilot, board, "rb-restart-service, by", "verified", "on grounds of")
        for key, words in (("3", "auto_execute"), ("4", "process_dead"), ("5", "pages per week")):
            await pilot.press(key)
            await see(pilot, board, words)


def test_the_recording_holds_what_a_dashboard_must_be_able_to_show() -> None:
    items: list[Item] = kept().items
    states = {it.data["state"] for it in items if it.kind == "incident"}
    assert {"diagnosing", "remediating", "verifying", "resolved", "escalated", "dismissed"} <= states
    assert {it.kind for it in items} == {"snapshot", "incident", "trail", "execution", "message", "metric", "tree"}
    assert {it.data["kind"] for it in items if it.kind == "tree"} >= {"exited", "started", "ready"}
    assert any(it.kind == "message" and it.data["receipt"] for it in items), "a page that arrived"
