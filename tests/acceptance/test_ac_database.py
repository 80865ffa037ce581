"""AC-005 on the real daemon and a real brain.db that another program writes: halted, paged, and healing goes on."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import WAIT_S, Daemon, Service, Site, until
from tests.lab.databases import destroy_header, overwrite_page, program
from tests.lab.halted import bytes_of, in_ledger, tried, wait_halted, writer


def started(here: Site, *services: Service, more: str = "") -> tuple[Daemon, Path]:
    """A daemon that looks at its brain.db every second; brain.db, which has been made."""
    tables = "".join(service.toml() for service in services)
    path = here.folder / "state" / "brain.db"
    daemon = here.daemon(f'{tables}[database.brain-db]\npath = "{path}"\ninterval = "1s"\n{more}')
    daemon.start()
    until("brain.db", lambda: path.exists() and tried(path, "SELECT count(*) FROM incidents") == "ok")
    return daemon, path


def steps(incident: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["step_id"]: entry for entry in incident["audit_trail"] if "step_id" in entry}


@pytest.mark.req("AC-005", "FR-001", "FR-002", "FR-003", "R2", "R7", "R10")
def test_ac_005_corruption_halts_writes_at_once_pages_and_healing_goes_on(here: Site, phone: SignalDouble) -> None:
    toy = here.service("toy")
    old = toy.start()
    daemon, path = started(here, toy, more=signal_toml(phone))
    daemon.wait_known(toy)
    good = here.folder / "good.db"
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(good)) as copy:
        source.backup(copy)
    with writer(path) as other:
        overwrite_page(path)
        (page,) = phone.wait_for(1, WAIT_S)
        assert other.stdout is not None
        assert other.stdout.readline() == "database is locked\n", "the other program was refused, again and again"
        assert tried(path) == "SQLITE_BUSY"
        assert tried(path, "SELECT count(*) FROM runbooks") == "ok", "readers go on"
        assert "brain-db is damaged" in page.text
        found = re.search(r"Halted within (\d+\.\d+) s of the reading", page.text)
        assert found, page.text
        assert float(found[1]) < 10
        assert str(daemon.state_dir / "backups") in page.text
        incident = until("the emergency's end", lambda: _escalated(daemon))
        notes = [entry["note"] for entry in incident["audit_trail"]]
        assert notes.index("step halt done") < next(n for n, note in enumerate(notes) if "page delivered" in note)
        assert steps(incident)["halt"]["success"] is True
        assert found[0] in steps(incident)["halt"]["output"]
        (halt,) = daemon.ask("tree")["halted"]
        assert (halt["database"], halt["phase"], halt["incident_id"]) == ("brain-db", "held", incident["id"])
        before = bytes_of(path)
        assert toy.kill() == old
        toy.wait_new(old)
        until("the repair in the ledger", lambda: in_ledger(daemon, "toy", "resolved"))
        phone.wait_for(2, WAIT_S)
        assert bytes_of(path) == before, "nothing was written to the damaged file"
        assert {h["database"] for h in daemon.ask("status")["halted"]} == {"brain-db"}, "metrics.db is well"
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    shutil.move(good, path)  # as an operator would by hand
    daemon.wait_state("brain-db", "resolved")
    daemon.wait_state("toy", "resolved")
    assert daemon.ask("tree")["halted"] == []
    until("the lock is let go of", lambda: "hold:brain-db" not in daemon.workers())
    assert len(daemon.incidents()) == 2
    assert len(phone.wait_for(3, WAIT_S)) == 3, "a page, the service's, and the closing word"
    daemon.stop()


def _escalated(daemon: Daemon) -> dict[str, Any] | None:
    return next(
        (i for i in daemon.open_incidents() if i["target_id"] == "brain-db" and i["state"] == "escalated"), None
    )


@pytest.mark.req("AC-005", "R10")
def test_ac_005_the_halt_outlives_every_worker_and_the_root(here: Site) -> None:
    daemon, path = started(here)
    with writer(path):
        overwrite_page(path)
        wait_halted(path)
    until("the emergency's end", lambda: _escalated(daemon))
    holder, before = daemon.worker("hold:brain-db"), bytes_of(path)
    for name in ("store", "healer", "executor"):
        daemon.kill_worker(name)
        daemon.wait_ready()
        assert daemon.worker("hold:brain-db") == holder, f"it does not depend on the {name}"
        assert tried(path) == "SQLITE_BUSY"
    daemon.config_file.write_text(daemon.config_file.read_text() + f'[logs.x]\npaths = ["{here.folder}/*.log"]\n')
    assert daemon.cli("reload", "--json")[0] == 0
    daemon.wait_ready()
    assert daemon.worker("hold:brain-db") == holder, "another tree has it, too"
    daemon.kill_worker("hold:brain-db")
    assert daemon.worker("hold:brain-db") != holder
    wait_halted(path)
    daemon.kill_root()
    daemon.start()
    wait_halted(path)
    assert [h["database"] for h in daemon.ask("tree")["halted"]] == ["brain-db"]
    assert bytes_of(path) == before
    daemon.stop()
    assert bytes_of(path) == before, "not even the last close has written"
    daemon.start()
    wait_halted(path)
    assert len(in_ledger(daemon, "brain-db", "escalated")) == 1
    daemon.stop()


@pytest.mark.req("AC-005", "R10")
def test_ac_005_where_another_program_keeps_the_lock_it_is_named_and_copies_are_made_all_the_same(
    here: Site, phone: SignalDouble
) -> None:
    daemon, path = started(here, more=signal_toml(phone))
    merge = "db.execute('PRAGMA wal_checkpoint(TRUNCATE)'); db.execute('BEGIN IMMEDIATE')"
    with program(merge, path) as other:
        overwrite_page(path)
        (page,) = phone.wait_for(1, WAIT_S)
        assert f"process {other.pid} (" in page.text
        assert "has the write lock and does not let go of it" in page.text
        incident = until("the emergency's end", lambda: _escalated(daemon))
        assert steps(incident)["halt"]["success"] is False
        assert "raw copies with checksums are in" in steps(incident)["backup"]["output"]
        assert "it is not known whether others write" in str(incident["audit_trail"])
    wait_halted(path)
    assert len(phone.sent) == 1
    daemon.stop()


@pytest.mark.req("AC-005", "R10")
def test_ac_005_with_its_header_destroyed_nobody_can_write_and_the_page_says_so(
    here: Site, phone: SignalDouble
) -> None:
    daemon, path = started(here, more=signal_toml(phone))
    with writer(path) as other:  # in WAL mode it would write on: it does not read the header again
        destroy_header(path)
        (page,) = phone.wait_for(1, WAIT_S)
        assert "its header is destroyed" in page.text
        assert "writing is impossible, no program can open it; who had it open is locked out" in page.text
        assert other.stdout is not None
        assert other.stdout.readline() == "database is locked\n"
        assert tried(path) == "SQLITE_NOTADB"
        before = bytes_of(path)
        until("the emergency's end", lambda: _escalated(daemon))
        daemon.kill_worker("hold:brain-db")
        until("the lock again", lambda: "hold:brain-db" in daemon.workers())
        daemon.kill_worker("store")
        daemon.wait_ready()
        assert bytes_of(path) == before
    daemon.stop()
