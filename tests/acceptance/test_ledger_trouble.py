"""The ledger breaks under the real daemon: nothing known is lost, the damaged one is kept, a page says so."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor import proc
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import HEALCTL, Daemon, Site, gone, until


def overwrite(ledger: Path, first: int, last: int) -> None:
    """Garbage in these pages (counted from 1), as a failing disk leaves it."""
    with ledger.open("r+b") as file:
        file.seek((first - 1) * 4096)
        file.write(os.urandom((last - first + 1) * 4096))


def checkpointed(ledger: Path) -> None:
    """Everything is in the file itself, nothing in its WAL."""

    def look() -> bool:
        with contextlib.closing(sqlite3.connect(ledger, timeout=5)) as db:
            return not db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]

    until("the ledger's checkpoint", look)


def root_page(ledger: Path, name: str) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
    return int(page)


def a_page(ledger: Path) -> None:
    """Of a table that is read when a healer starts, and not before."""
    page = root_page(ledger, "breakers")
    overwrite(ledger, page, page)


def a_key(ledger: Path) -> None:
    """An index entry for a row that is not there: quick_check does not see that."""
    page = root_page(ledger, "sqlite_autoindex_trail_1")
    with ledger.open("r+b") as file:
        file.seek(page * 4096 - 4096)
        at = page * 4096 - 4096 + file.read(4096).rindex(b"inc_") + 4
        file.seek(at)
        file.write(b"zz")


def one(found: list[dict[str, Any]], target_id: str) -> dict[str, Any]:
    (row,) = [row for row in found if row["target_id"] == target_id]
    return row


def kept(daemon: Daemon) -> list[Path]:
    return [it for it in daemon.state_dir.glob("ledger.db.damaged-*") if not it.name.endswith(("-wal", "-shm"))]


def sound(daemon: Daemon) -> None:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.req("FR-004", "FR-005")
def test_the_living_healer_writes_down_what_it_knows_into_a_new_ledger(here: Site, phone: SignalDouble) -> None:
    broken, healed = here.service("broken"), here.service("healed")
    broken.start()
    healed.start()
    daemon = here.daemon(
        broken.toml(auto_restart=False) + healed.toml() + '[policy]\nsettle = "100ms"\n' + signal_toml(phone)
    )
    daemon.start()
    broken.kill()
    daemon.wait_state("broken", "escalated")
    before = one(daemon.open_incidents(), "broken")
    healer = daemon.worker("healer")
    checkpointed(daemon.state_dir / "ledger.db")
    overwrite(daemon.state_dir / "ledger.db", 1, 1)
    daemon.kill_worker("store")
    row = until("the page", lambda: [s for s in phone.sent if "own records were damaged" in s.text])
    assert "damaged-" in row[0].text
    after = one(daemon.open_incidents(), "broken")
    assert after["id"] == before["id"]
    assert after["audit_trail"][: len(before["audit_trail"])] == before["audit_trail"]
    assert daemon.worker("healer") == healer, "it lives on, with what it knows"
    healed.kill()
    daemon.wait_state("healed", "resolved")
    assert healed.starts() == 2
    daemon.kill_worker("healer")
    again = one(until("the new healer", daemon.open_incidents), "broken")
    assert again["audit_trail"][: len(before["audit_trail"])] == before["audit_trail"], "the new ledger has it all"
    (file,) = kept(daemon)
    for part in daemon.state_dir.glob(f"{file.name}*"):
        part.unlink()
    daemon.wait_state("healctl:ledger", "self_resolved")
    assert len(daemon.incidents("broken")) == len(daemon.incidents("healed")) == 1
    daemon.stop()
    sound(daemon)


@pytest.mark.req("FR-004")
def test_a_ledger_that_lost_the_end_of_its_log_is_given_it_again(here: Site) -> None:
    """A WAL that cannot be read is no fault to SQLite: the database is simply as old as its last checkpoint."""
    first, second = here.service("first"), here.service("second")
    first.start()
    second.start()
    daemon = here.daemon(first.toml(auto_restart=False) + second.toml() + '[policy]\nsettle = "100ms"\n')
    daemon.start()
    daemon.wait_known(first, second)
    checkpointed(daemon.state_dir / "ledger.db")
    first.kill()
    daemon.wait_state("first", "escalated")
    before = one(daemon.open_incidents(), "first")
    healer = daemon.worker("healer")
    assert daemon.process is not None
    store = daemon.worker("store")
    daemon.process.send_signal(signal.SIGSTOP)  # no new store before its log is spoiled
    try:
        assert proc.send_signal(store, signal.SIGKILL)
        gone(store)
        with (daemon.state_dir / "ledger.db-wal").open("r+b") as wal:
            wal.write(os.urandom(32))
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    second.kill()
    daemon.wait_state("second", "resolved")
    daemon.kill_worker("healer")
    after = one(until("the new healer", daemon.open_incidents), "first")
    assert after["id"] == before["id"]
    assert after["audit_trail"][: len(before["audit_trail"])] == before["audit_trail"]
    assert daemon.worker("healer") != healer
    assert "does not hold what it acknowledged" in daemon.tail()
    assert second.starts() == 2
    assert len(daemon.incidents("first")) == len(daemon.incidents("second")) == 1
    daemon.stop()
    sound(daemon)


@pytest.mark.req("FR-004", "FR-005")
def test_a_healer_that_is_new_too_goes_on_with_what_could_be_read(here: Site, phone: SignalDouble) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False) + signal_toml(phone))
    daemon.start()
    toy.kill()
    daemon.wait_state("toy", "escalated")
    until("nothing waits to be told", lambda: daemon.ask("tree")["outbox"]["pending"] == 0)
    before = one(daemon.open_incidents(), "toy")
    daemon.stop()
    ledger = daemon.state_dir / "ledger.db"
    with contextlib.closing(sqlite3.connect(ledger)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'runbook_states'").fetchone()
        (metrics,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'epochs'").fetchone()
    overwrite(ledger, page, page)
    overwrite(ledger, metrics, metrics)
    damaged = ledger.read_bytes()
    daemon.start()
    found = until("the page", lambda: [s for s in phone.sent if "own records were damaged" in s.text])
    assert "a part of it could be read" in found[0].text, found[0].text + daemon.tail()
    after = one(daemon.open_incidents(), "toy")
    assert (after["id"], after["detected_at"]) == (before["id"], before["detected_at"])
    assert after["audit_trail"][: len(before["audit_trail"])] == before["audit_trail"]
    (file,) = kept(daemon)
    assert file.read_bytes() == damaged
    assert len([s for s in phone.sent if "toy" in s.text]) == 1, "what was told is not told again"
    assert len(daemon.incidents("toy")) == 1
    daemon.stop()
    sound(daemon)


@pytest.mark.parametrize("what", ["foreign", "newer", "directory"])
def test_a_ledger_that_can_never_be_used_is_one_sentence_and_exit_78(here: Site, what: str) -> None:
    daemon = here.daemon("")
    daemon.state_dir.mkdir(mode=0o700)
    ledger = daemon.state_dir / "ledger.db"
    if what == "directory":
        ledger.mkdir()
    else:
        with contextlib.closing(sqlite3.connect(ledger)) as db:
            db.execute("CREATE TABLE accounts (id)" if what == "foreign" else "CREATE TABLE head (id)")
            db.execute("PRAGMA user_version=99")
    done = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "start"], capture_output=True, timeout=60, check=False
    )
    log = done.stderr.decode()
    assert done.returncode == 78, log
    words = {"foreign": "another program", "newer": "schema 99", "directory": "cannot be used"}[what]
    assert words in log
    assert "Traceback" not in log
    assert log.count(words) <= 2


@pytest.mark.req("FR-001", "FR-004", "R10")
@pytest.mark.parametrize("damage", [a_page, a_key])
def test_what_the_database_check_finds_in_the_ledger_is_acted_upon(
    here: Site, phone: SignalDouble, damage: Callable[[Path], None]
) -> None:
    """Damage that no query of the store meets: the probe finds it, the store looks itself, and begins anew."""
    toy = here.service("toy")
    toy.start()
    ledger = here.folder / "state" / "ledger.db"
    more = f'[database.ledger]\npath = "{ledger}"\ninterval = "1s"\n[policy]\nsettle = "100ms"\n'
    daemon = here.daemon(toy.toml() + more + signal_toml(phone))
    daemon.start()
    daemon.wait_known(toy)
    toy.kill()
    daemon.wait_state("toy", "resolved")
    until("nothing waits to be told", lambda: daemon.ask("tree")["outbox"]["pending"] == 0)
    before, healer = daemon.incidents("toy"), daemon.worker("healer")
    checkpointed(ledger)
    damage(ledger)
    (row,) = daemon.wait_state("ledger", "resolved")
    (halt,) = [entry["output"] for entry in row["audit_trail"] if entry.get("step_id") == "halt"]
    assert "the store checks it, sets it aside" in halt
    page = until("the page", lambda: next((s for s in phone.sent if "new ones begun" in s.text), None))
    assert ("everything of it could be read" in page.text) is (damage is a_key), page.text
    assert daemon.worker("healer") == healer
    (file,) = kept(daemon)
    assert file.name in page.text
    assert daemon.incidents("toy") == before
    toy.kill()
    daemon.wait_state("toy", "resolved", count=2)
    daemon.stop()
    sound(daemon)
