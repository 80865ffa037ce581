"""The real app on the real daemon: a person's first five minutes, and a daemon that is killed under the dashboard."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from textual.widgets import Input, Static

from tests.acceptance.test_cancel import ROTATE, at_work, held, large_logs
from tests.lab.daemon import Site, site
from tests.tui.test_app import screen_text, until
from tui.app import Board
from tui.detail import Detail
from tui.dialogs import Consent, Question
from tui.source import Daemon as Live


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


@pytest.mark.req("FR-007", "AC-007", "R7")
def test_a_persons_first_five_minutes(here: Site) -> None:
    """Start, break something, see it, look into it, approve, see it healed; then lose the daemon and have it back."""
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    daemon.wait_known(toy)

    async def person() -> None:
        board = Board(Live(daemon.runtime_dir))
        async with board.run_test(size=(100, 30), notifications=True) as pilot:
            await until(pilot, lambda: "0 open" in screen_text(board), 60.0)
            old = toy.kill()
            await until(pilot, lambda: "1 wait for you" in screen_text(board), 60.0)
            await pilot.press("enter")
            await until(pilot, lambda: isinstance(board.screen, Detail) and "What happened" in screen_text(board), 60.0)
            await pilot.press("a")
            await until(pilot, lambda: isinstance(board.screen, Question))
            assert board.screen.query_one(Input).value == "toy"
            await pilot.press("enter")
            await until(pilot, lambda: "0 open" in str(board._top.render()), 60.0)
            assert toy.wait_new(old) != old
            await until(pilot, lambda: "+ resolved" in screen_text(board), 60.0)
            await pilot.press("escape", "2")
            await until(pilot, lambda: "executor" in screen_text(board))
            daemon.kill_root()
            await until(pilot, lambda: "No news from healctl" in screen_text(board), 60.0)
            daemon.start()
            await until(pilot, lambda: "No news" not in screen_text(board) and board.model.known, 60.0)
            await pilot.press("4")
            await until(pilot, lambda: "system-memory" in screen_text(board), 60.0)

    asyncio.run(person())


@pytest.mark.req("FR-007", "R15")
def test_a_rotation_at_work_is_seen_in_its_incident_and_cancelled_there(here: Site) -> None:
    daemon, _ = large_logs(here)
    daemon.wait_state("app", "escalated")

    async def person() -> None:
        board = Board(Live(daemon.runtime_dir))
        async with board.run_test(size=(80, 24), notifications=True) as pilot:
            await until(pilot, lambda: "1 wait for you" in screen_text(board), 30.0)
            await pilot.press("enter", "a")
            await until(pilot, lambda: isinstance(board.screen, Question))
            await pilot.press("enter")
            with held(daemon):
                await until(pilot, lambda: f"> {ROTATE} on app: archive" in screen_text(board), 30.0)
                assert "of 120.0 MiB" in screen_text(board)
                await pilot.press("c")
                await until(pilot, lambda: isinstance(board.screen, Consent) and "stays so" in screen_text(board))
                assert at_work(daemon), "nothing is ended by the key alone"
                await pilot.press("enter")
                await until(pilot, lambda: f"{ROTATE} is being stopped" in screen_text(board), 30.0)
            file = board.screen.query_one("#file", Static)
            await until(pilot, lambda: "step rotate cancelled" in str(file.render()), 30.0)
            await until(pilot, lambda: f"> {ROTATE}" not in screen_text(board), 30.0)
            await pilot.press("c", "enter")
            await until(pilot, lambda: "nothing is at work on" in screen_text(board), 30.0)

    asyncio.run(person())
    orders = daemon.cli("audit", "-o", "json")[1]["orders"]
    assert [it["args"]["id"][:4] for it in orders if it["action"] == "cancel"][:1] == ["exe_"]
