"""AC-005's second half on the real daemon: a person restores brain.db, and every record is in it exactly once (R10)."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.synapse_ids import message_id
from tests.lab.daemon import Daemon, Service, Site, until
from tests.lab.databases import destroy_header, make, overwrite_page, program
from tests.lab.halted import tried, wait_halted, writer

RESTORE = ("db", "restore", "--confirm")


def started(here: Site, *services: Service) -> tuple[Daemon, Path]:
    """A daemon that looks at its brain.db every second and has made a good copy of it."""
    path = here.folder / "state" / "brain.db"
    tables = "".join(service.toml() for service in services)
    daemon = here.daemon(f'{tables}[database.brain-db]\npath = "{path}"\ninterval = "1s"\n')
    daemon.start()
    until("brain.db", lambda: path.exists() and tried(path, "SELECT count(*) FROM incidents") == "ok")
    daemon.wait_known(*services)
    code, answer = daemon.cli("db", "backup")
    assert (code, answer["success"]) == (0, True), answer
    return daemon, path


def escalated(daemon: Daemon) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        return next((i for i in daemon.open_incidents() if i["state"] == "escalated"), None)

    found: dict[str, Any] = until("an escalated incident", look)
    return found


def in_ledger(daemon: Daemon, query: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()


def same(daemon: Daemon, path: Path) -> bool:
    """Is every incident, transition and message of the ledger in brain.db, once each, and no other of ours?"""
    trails = Counter(row[0] for row in in_ledger(daemon, "SELECT incident_id FROM trail"))
    sent = {message_id(row[0]) for row in in_ledger(daemon, "SELECT id FROM outbox WHERE channel = 'synapse'")}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
        told = db.execute("SELECT id, audit_trail FROM incidents").fetchall()
        messages = [row[0] for row in db.execute("SELECT id FROM messages WHERE from_agent = 'helios'")]
    assert len({row[0] for row in told}) == len(told)
    assert len(set(messages)) == len(messages)
    assert {row[0] for row in told} <= trails.keys()
    assert set(messages) <= sent
    return {row[0]: len(msgspec.json.decode(row[1])) for row in told} == trails and set(messages) == sent


@pytest.mark.req("AC-005", "R3", "R7", "R10", "R14")
def test_ac_005_an_approved_restore_brings_every_record_back_exactly_once(here: Site) -> None:
    toy = here.service("toy")
    old = toy.start()
    daemon, path = started(here, toy)
    with writer(path) as other:
        assert toy.kill() == old
        new = toy.wait_new(old)
        daemon.wait_state("toy", "resolved")
        overwrite_page(path)
        wait_halted(path)
        waits = escalated(daemon)
        assert waits["target_id"] == "brain-db"
        daemon.wait_known(toy)
        assert toy.kill() == new  # healing goes on meanwhile
        toy.wait_new(new)
        code, plan = daemon.cli("db", "restore", "--dry-run")
        assert (code, plan["mode"]) == (0, "dry_run")
        assert "the good copy of" in plan["steps"][0]["description"]
        assert [row["halted"] for row in daemon.cli("db", "status")[1]["databases"] if row["name"] == "brain-db"] == [
            "held"
        ]
        assert daemon.cli("db", "restore")[0] == 5
        code, answer = daemon.cli("heal", "approve", "rb-db-restore", "--target", "brain-db")
        assert (code, answer["running_for"]) == (0, [waits["id"]])
        (row,) = daemon.wait_state("brain-db", "resolved")
        assert other.poll() is None, "the other program had it open all the time"
    restored = [entry for entry in row["audit_trail"] if entry.get("step_id") == "restore"]
    assert restored[-1]["success"], restored
    assert "is kept in" in restored[-1]["output"]
    daemon.wait_state("toy", "resolved", count=2)
    until("every record", lambda: same(daemon, path))
    assert daemon.ask("tree")["halted"] == []
    assert tried(path, "PRAGMA integrity_check") == "ok"
    daemon.stop()


@pytest.mark.req("R10", "R15")
def test_undoing_a_restore_puts_the_damaged_file_back_and_it_is_halted_again(here: Site) -> None:
    daemon, path = started(here)
    with writer(path):
        overwrite_page(path)
        wait_halted(path)
        escalated(daemon)
        assert daemon.cli("heal", "approve", "rb-db-restore", "--target", "brain-db")[0] == 0
        (row,) = daemon.wait_state("brain-db", "resolved")
    assert tried(path, "PRAGMA integrity_check") == "ok"
    (execution,) = {entry["execution_id"] for entry in row["audit_trail"] if entry.get("step_id") == "restore"}
    code, undone = daemon.cli("heal", "undo", execution, "--json")
    assert (code, undone["success"], undone["mode"]) == (0, True, "undo"), undone
    assert "is again what it was" in undone["steps_executed"][0]["output"]
    wait_halted(path)
    until("its damage is seen again", lambda: escalated(daemon)["target_id"] == "brain-db")
    code, again = daemon.cli("heal", "undo", execution, "--json")
    assert code == 1
    assert "has been undone already" in again["error"]
    assert daemon.cli("heal", "approve", "rb-db-restore", "--target", "brain-db")[0] == 0
    daemon.wait_state("brain-db", "resolved", count=2)
    until("every record", lambda: same(daemon, path))
    daemon.stop()


def headless(path: Path) -> None:
    """With nothing in the log: page 1 would be read from there."""

    def merged() -> bool:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as db:
            busy, pages, done = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            return not busy and pages == done == 0

    until("an empty log", merged)
    destroy_header(path)


def deleted(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@pytest.mark.req("AC-005", "R10")
@pytest.mark.parametrize("damage", [headless, deleted])
def test_ac_005_page_1_destroyed_or_the_file_deleted_a_person_restores_it(
    here: Site, damage: Callable[[Path], None]
) -> None:
    daemon, path = started(here)
    damage(path)
    if damage is headless:
        escalated(daemon)
    code, answer = daemon.cli(*RESTORE)
    assert (code, answer["verification_passed"]) == (0, True), answer
    until("every record", lambda: same(daemon, path))
    assert daemon.ask("tree")["halted"] == []
    assert daemon.cli("db", "backup", "nothing")[0] == 4
    code, answer = daemon.cli("db", "restore", "ledger", "--confirm")
    assert (code, answer["success"]) == (1, False)
    assert "is never set back" in answer["steps_executed"][0]["output"]
    code, answer = daemon.cli("db", "verify")
    assert (code, answer["success"]) == (0, True)
    assert "checksum and integrity hold" in answer["steps_executed"][0]["output"]
    daemon.stop()


@pytest.mark.req("AC-005", "R10")
def test_ac_005_page_1_destroyed_and_in_use_is_refused_and_named(here: Site) -> None:
    daemon, path = started(here)
    with program("db.execute('SELECT count(*) FROM incidents').fetchone()", path) as other:
        headless(path)
        escalated(daemon)
        code, answer = daemon.cli(*RESTORE)
        assert code == 1
        assert f"process {other.pid} (" in answer["steps_executed"][0]["output"]
        assert [halt["phase"] for halt in daemon.ask("tree")["halted"]] == ["held"]
    assert daemon.cli(*RESTORE)[0] == 0
    until("every record", lambda: same(daemon, path))
    daemon.stop()


@pytest.mark.req("AC-005", "R10", "NFR-001")
def test_ac_005_a_restore_that_is_cut_off_leaves_it_held_and_can_be_ordered_again(here: Site) -> None:
    daemon, path = started(here)
    with writer(path):
        overwrite_page(path)
        wait_halted(path)
        escalated(daemon)
    daemon.cli("heal", "approve", "rb-db-restore", "--target", "brain-db")
    until("the restore", lambda: [halt["phase"] for halt in daemon.ask("tree")["halted"]] == ["restoring"])
    daemon.kill_worker("executor")
    daemon.wait_ready()

    def over() -> bool:
        """Proved, or held again and a person asked anew."""
        phases = [halt["phase"] for halt in daemon.ask("tree")["halted"]]
        open_ones = daemon.open_incidents()
        return (phases, open_ones) == ([], []) or (
            phases == ["held"] and [incident["state"] for incident in open_ones] == ["escalated"]
        )

    until("the end of what was cut off", over)
    if daemon.open_incidents():
        assert daemon.cli(*RESTORE)[0] == 0
    until("every record", lambda: same(daemon, path))
    assert daemon.ask("tree")["halted"] == []
    daemon.stop()


@pytest.mark.req("AC-005", "R10")
def test_ac_005_a_trades_database_is_halted_and_restored_by_the_same_rules(here: Site) -> None:
    """Another program's database, in which a repair may close a position: `NAME-trades`, without a table of its own."""
    path, signal = make(here.folder / "trades.db", wal=True), here.folder / "signal.json"
    table = f'[trading.bot]\nsignal_file = "{signal}"\ntrades_db = "{path}"\n'
    daemon = here.daemon(table)
    daemon.start()
    assert daemon.cli("db", "backup", "bot-trades")[0] == 0
    daemon.stop()
    overwrite_page(path)
    daemon.start()
    wait_halted(path)
    (incident,) = daemon.wait_state("bot-trades", "escalated")
    assert (incident["anomaly_type"], incident["escalation_tier"]) == ("db_corruption", 3)
    assert [row["halted"] for row in daemon.cli("db", "status")[1]["databases"] if row["name"] == "bot-trades"] == [
        "held"
    ]
    code, answer = daemon.cli("db", "restore", "bot-trades", "--confirm")
    assert (code, answer["verification_passed"]) == (0, True), answer
    assert tried(path) == "ok", "its program writes it again"
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM t").fetchone() == (2000,)
    until("both metrics", lambda: halted_and_lifted(daemon) == [("bot-trades", "halted"), ("bot-trades", "lifted")])
    daemon.stop()


def halted_and_lifted(daemon: Daemon) -> list[Any]:
    query = "SELECT stage, result FROM heal_metrics WHERE task_id = 'heal_db_halted' ORDER BY timestamp"
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'metrics.db'}?mode=ro", uri=True)) as db:
        return db.execute(query).fetchall()
