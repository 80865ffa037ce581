"""`healctl report` and `heal mark` on the real daemon: the figures are those of the ledger, read beside it."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import time
from typing import Any

import msgspec
import pytest

from tests.acceptance.conftest import here as here
from tests.acceptance.conftest import phone as phone
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import HEALCTL, Daemon, Site, until
from tests.lab.probes import database, write


def bodies(daemon: Daemon, table: str) -> list[dict[str, Any]]:
    """Whole rows of the ledger, by another way than the report's."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        return [msgspec.json.decode(body) for (body,) in db.execute(f"SELECT body FROM {table} ORDER BY rowid")]


@pytest.mark.req("FR-006", "FR-008", "R15")
def test_a_report_counts_what_was_healed_undone_marked_and_paged(here: Site, phone: SignalDouble) -> None:
    one, two = here.service("one"), here.service("two")
    one.start()
    two.start()
    columns = "id INTEGER PRIMARY KEY, symbol TEXT, side TEXT, status TEXT, opened_at TEXT, closed_at TEXT"
    phantom = "INSERT INTO trades VALUES (1, 'ETH/USDT', 'LONG', 'open', '2026-02-18 09:30:00', NULL)"
    trades = database(here.folder / "ghost.db", f"CREATE TABLE trades ({columns})")
    live = {"signal": "BUY", "symbol": "BTC/USDT", "updated_at": time.time()}
    write(here.folder / "ghost.json", msgspec.json.encode(live))
    table = f'[trading.ghost]\nsignal_file = "{here.folder / "ghost.json"}"\nmax_age = "1h"\ninterval = "1s"\n'
    table += f'trades_db = "{trades}"\n'
    fast = '[policy]\nclear_interval = "100ms"\nsettle = "100ms"\n'
    daemon = here.daemon(fast + one.toml() + two.toml() + table + signal_toml(phone))
    daemon.start()
    daemon.wait_known(one, two)
    code, empty = daemon.cli("report", "--json")
    assert (code, empty["incidents"]["detected"], empty["mttr"]["median_s"], empty["actions"]) == (0, 0, None, 0)
    plain = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "report", "-o", "table"], capture_output=True, check=True
    )
    assert plain.stdout.startswith(b"Nothing to report since ")
    for service in (one, two):
        service.kill()
        daemon.wait_state(service.name, "resolved")
    database(trades, phantom)
    daemon.wait_state("ghost-positions", "escalated")
    daemon.ask("approve", runbook_id="rb-clear-phantom", target_id="ghost-positions")
    daemon.wait_state("ghost-positions", "resolved")
    cleared = next(it for it in bodies(daemon, "executions") if it["target"]["target_id"] == "ghost-positions")
    code, undone = daemon.cli("heal", "undo", cleared["id"], "--json")
    assert (code, undone["success"]) == (0, True), undone
    daemon.wait_state("ghost-positions", "escalated")  # it is there again, and nobody closes it again by itself
    marked = daemon.incidents("two")[0]["id"]
    code, answer = daemon.cli("heal", "mark", marked, "should-not-have", "--note", "it was being deployed", "--json")
    assert (code, answer["verdict"]) == (0, "should_not_have")
    assert daemon.cli("heal", "mark", "inc_nothing", "fine", "--json")[0] == 4
    assert daemon.cli("heal", "--agent", "claude", "mark", marked, "fine", "--json")[0] == 1
    assert daemon.cli("audit", "--json")[1]["orders"][0]["action"] == "mark"
    until("the mark in the trail", lambda: "should not have" in daemon.incidents("two")[0]["audit_trail"][-1]["note"])
    daemon.kill_worker("healer")  # the figures rest on what is written, not on what is remembered
    daemon.wait_ready()
    code, report = daemon.cli("report", "--by", "target", "--json")
    assert code == 0
    incidents = [it for it in bodies(daemon, "incidents") if it["detected_wall_s"] > 0]
    ended = sorted(round(it["resolved_wall_s"] - it["detected_wall_s"], 3) for it in incidents if it["resolved_wall_s"])
    assert report["incidents"]["detected"] == len(incidents) == 4
    assert report["mttr"] == {"count": len(ended), "median_s": ended[(len(ended) + 1) // 2 - 1], "p95_s": ended[-1]}
    by_itself = [it for it in bodies(daemon, "executions") if it["incident_id"] and it["authority"] != "person"]
    assert report["actions"] == len(by_itself) == report["incidents"]["resolved_by_runbook"]
    assert report["false_actions"] == 2, "one undone, one marked"
    pages = [it for it in bodies(daemon, "outbox") if it["channel"] == "signal" and it["tier"] == 3]
    assert report["pages"] == len(pages) == len(phone.sent)
    groups = {it["name"]: it for it in report["groups"]}
    assert [groups[name]["false_actions"] for name in ("one", "two", "ghost-positions")] == [0, 1, 1]
    assert groups["one"]["mttd"]["at_most"]["median_s"] >= groups["one"]["mttd"]["at_least"]["median_s"] >= 0.0
    assert report["passed_over"] == []
    assert daemon.cli("heal", "mark", marked, "fine", "--json")[0] == 0
    assert daemon.cli("report", "--json")[1]["false_actions"] == 1
    assert daemon.cli("report", "--since", "0s", "--json")[0] == 2
    assert daemon.cli("report", "--by", "moon", "--json")[0] == 2
