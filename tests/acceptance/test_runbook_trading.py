"""`rb-clear-phantom` on the real daemon: from a phantom to a closed row, crashes and refusals in between."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lab.daemon import Daemon, Site, gone, locked, until
from tests.lab.probes import database, write

pytestmark = pytest.mark.req("FR-003", "FR-004", "R15")
FAST = '[policy]\nclear_interval = "100ms"\nsettle = "100ms"\n'
COLUMNS = (
    "id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT, entry_price REAL, opened_at TEXT, closed_at TEXT"
)
RUNBOOK = ("--target", "ghost-positions")


def trades(folder: Path, mode: str = "wal") -> Path:
    """Two phantoms, a trade that the signal accounts for, and a closed one that shows how times are written."""
    rows = [
        (1, "ETH/USDT", "LONG", "open", 1.0, "2026-02-18 09:30:00", None),
        (2, "SOL/USDT", "SHORT", "open", 2.0, "2026-02-18 09:31:00", None),
        (3, "BTC/USDT", "LONG", "open", 3.0, "2026-02-18 09:32:00", None),
        (4, "XRP/USDT", "LONG", "closed", 4.0, "2026-02-17 09:30:00", "2026-02-17 10:30:00"),
    ]
    path = database(folder / "ghost.db", f"PRAGMA journal_mode={mode}", f"CREATE TABLE trades ({COLUMNS})")
    with closing(sqlite3.connect(path)) as connection:
        connection.executemany("INSERT INTO trades VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        connection.commit()
    return path


def rows_of(path: Path) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path, timeout=5)) as connection:  # one that reads only would leave files behind
        return connection.execute("SELECT * FROM trades ORDER BY id").fetchall()


def phantom(here: Site, path: Path, **environment: str) -> Daemon:
    """A daemon that has told of the phantoms and waits for a person."""
    write(here.folder / "ghost.json", msgspec.json.encode({"signal": "BUY", "symbol": "BTC/USDT", "updated_at": now()}))
    config = f'[trading.ghost]\nsignal_file = "{here.folder / "ghost.json"}"\nmax_age = "10m"\ninterval = "1s"\n'
    daemon = here.daemon(f'{FAST}{config}trades_db = "{path}"\n')
    daemon.start(**environment)
    daemon.wait_state("ghost-positions", "escalated")
    return daemon


def now() -> float:
    return time.time()


def closed(before: list[tuple[Any, ...]], after: list[tuple[Any, ...]]) -> None:
    """Exactly the two phantoms are closed, in status and closed_at only, and all else is as it was."""
    assert after[2:] == before[2:]
    for old, new in zip(before[:2], after[:2], strict=True):
        assert new[:3] + new[4:6] == old[:3] + old[4:6]
        assert new[3] == "closed"
        at = time.mktime(time.strptime(new[6], "%Y-%m-%d %H:%M:%S"))
        assert abs(time.time() - at) < 60
    assert after[0][6] == after[1][6], "one transaction, one time"


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_phantom_is_closed_once_approved_and_told_on_synapse(here: Site, mode: str) -> None:
    path = trades(here.folder, mode)
    before = rows_of(path)
    daemon = phantom(here, path)
    (row,) = daemon.incidents("ghost-positions")
    assert row["escalation_tier"] == 2
    assert rows_of(path) == before, "nothing without a person's word"

    code, plan = daemon.cli("heal", "dry_run", "rb-clear-phantom", *RUNBOOK)
    assert code == 0
    assert "1 (ETH/USDT LONG), 2 (SOL/USDT SHORT)" in plan["steps"][0]["description"].replace("trade ", "")
    assert rows_of(path) == before, "a dry run changes nothing"

    assert daemon.cli("heal", "approve", "rb-clear-phantom", *RUNBOOK)[0] == 0
    daemon.wait_state("ghost-positions", "resolved")
    closed(before, rows_of(path))
    until("the summary on Synapse", lambda: [m for m in messages(daemon) if "resolved" in m or "Done" in m])
    assert list(here.folder.glob("ghost.db-*")) == [], "nothing is left beside it"


def messages(daemon: Daemon) -> list[str]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True, timeout=5)) as connection:
        return [body for (body,) in connection.execute("SELECT body FROM messages WHERE body LIKE '%ghost%'")]


CRASHES = [
    ("store", "guarded.before"), ("store", "guarded.after"),
    ("executor", "claim.after"), ("executor", "result.before"), ("executor", "result.after"),
]  # fmt: skip


@pytest.mark.parametrize(("worker", "point"), CRASHES)
def test_killed_half_way_it_is_all_or_nothing_and_done_once(here: Site, worker: str, point: str) -> None:
    path = trades(here.folder)
    before = rows_of(path)
    token = here.folder / "token"
    daemon = phantom(here, path, HEALCTL_TEST_CRASH=f"{worker}:{point}:{token}")
    old = daemon.worker(worker)
    token.touch()
    daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")
    gone(old)
    daemon.wait_state("ghost-positions", "resolved")
    closed(before, rows_of(path))
    assert len(daemon.incidents("ghost-positions")) == 1


def test_the_whole_program_killed_half_way_goes_on(here: Site) -> None:
    path = trades(here.folder)
    before = rows_of(path)
    token = here.folder / "token"
    daemon = phantom(here, path, HEALCTL_TEST_CRASH=f"store:guarded.before:{token}")
    old = daemon.worker("store")
    token.touch()
    daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")
    gone(old)
    for ref in daemon.kill_root():
        gone(ref)
    assert rows_of(path) in (before, rows_of(path))
    daemon.start()
    daemon.wait_state("ghost-positions", "resolved")
    closed(before, rows_of(path))


def _trigger(path: Path) -> None:
    database(path, "CREATE TRIGGER no BEFORE UPDATE ON trades BEGIN SELECT RAISE(ABORT, 'not you'); END")


def _silent_trigger(path: Path) -> None:
    database(path, "CREATE TRIGGER no BEFORE UPDATE ON trades WHEN old.id = 2 BEGIN SELECT RAISE(IGNORE); END")


REFUSALS: list[tuple[Callable[[Path], None], str]] = [(_trigger, "not you"), (_silent_trigger, "cannot be written")]


@pytest.mark.parametrize(("spoil", "words"), REFUSALS)
def test_what_cannot_be_written_is_left_whole_and_said(here: Site, spoil: Callable[[Path], None], words: str) -> None:
    path = trades(here.folder)
    spoil(path)
    before = rows_of(path)
    daemon = phantom(here, path)
    daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")

    def failed() -> Any:
        (row,) = daemon.incidents("ghost-positions")
        trail = row["audit_trail"] if row["state"] == "escalated" else []
        return [entry for entry in trail if entry["state"] == "remediation_failed"]

    (entry,) = until("its failure", failed)
    assert words in entry["note"], entry
    assert rows_of(path) == before


def test_a_locked_database_is_waited_for(here: Site) -> None:
    path = trades(here.folder)
    before = rows_of(path)
    daemon = phantom(here, path)
    log = here.folder / "daemon.log"
    with locked(path):
        daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")
        daemon.wait_state("ghost-positions", "remediating")
    daemon.wait_state("ghost-positions", "resolved")
    assert "Traceback" not in log.read_text()
    closed(before, rows_of(path))


@pytest.mark.req("R3")
def test_a_trade_that_was_closed_meanwhile_is_not_touched(here: Site) -> None:
    path = trades(here.folder)
    daemon = phantom(here, path)
    database(path, "UPDATE trades SET status = 'closed', closed_at = 'by hand' WHERE id IN (1, 2)")
    after = rows_of(path)
    daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")
    until("closed", lambda: daemon.open_incidents() == [])
    assert rows_of(path) == after


@pytest.mark.req("R15")
def test_undo_opens_them_again_as_they_were(here: Site) -> None:
    path = trades(here.folder)
    before = rows_of(path)
    daemon = phantom(here, path)
    code, answer = daemon.cli("heal", "execute", "rb-clear-phantom", *RUNBOOK, "--confirm")
    assert (code, answer["success"]) == (0, True), answer
    closed(before, rows_of(path))
    code, undone = daemon.cli("heal", "undo", answer["execution_id"])
    assert code == 0, undone
    assert rows_of(path) == before
    daemon.stop()
