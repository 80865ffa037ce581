"""A database that rots under the real daemon, beside a whole one, and others that cannot be read (FR-001, FR-002)."""

from __future__ import annotations

import shutil

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import WAIT_S, Site, locked
from tests.lab.databases import change_index_key, destroy_header, listing, make, overwrite_page


def table(name: str, path: object) -> str:
    return f'[database.{name}]\npath = "{path}"\ninterval = "1s"\n'


@pytest.mark.req("FR-001", "FR-002", "FR-004", "R2", "R7", "R9")
def test_db_corruption_is_critical_and_closes_when_the_database_is_whole_again(here: Site, phone: SignalDouble) -> None:
    folder = here.folder / "data"
    folder.mkdir()
    rotten, twin = make(folder / "rotten.db"), make(folder / "twin.db", wal=True)
    copy = here.folder / "copy.db"
    shutil.copy(rotten, copy)
    daemon = here.daemon(table("rotten", rotten) + table("twin", twin) + signal_toml(phone))
    daemon.start()
    assert daemon.open_incidents() == []
    before = listing(folder)
    overwrite_page(rotten)
    (row,) = daemon.wait_state("rotten", "escalated")
    assert (row["anomaly_type"], row["severity"], row["escalation_tier"]) == ("db_corruption", "critical", 3)
    assert "quick_check found errors" in row["audit_trail"][0]["note"]
    (page,) = phone.wait_for(1, WAIT_S)
    assert "rotten" in page.text
    assert listing(folder) == before
    shutil.copy(copy, folder / "new.db")
    (folder / "new.db").replace(rotten)
    daemon.wait_state("rotten", "resolved")  # the emergency has acted
    assert {row["target_id"] for row in daemon.incidents()} == {"rotten"}
    daemon.stop()


@pytest.mark.req("FR-002", "R9")
def test_a_key_that_only_the_full_check_misses_and_a_header_are_corruption_a_lock_is_not(here: Site) -> None:
    key, header, shut = (make(here.folder / f"{name}.db") for name in ("key", "header", "shut"))
    change_index_key(key)
    destroy_header(header)
    with locked(shut):
        daemon = here.daemon(table("key", key) + table("header", header) + table("shut", shut))
        daemon.start()
        (row,) = daemon.wait_state("key", "escalated")
        assert "integrity_check found errors" in row["audit_trail"][0]["note"]
        (row,) = daemon.wait_state("header", "escalated")
        assert "header is destroyed" in row["audit_trail"][0]["note"]
        (row,) = daemon.wait_state("shut", "escalated")  # nobody can tell: our own trouble, and named as that
        assert row["anomaly_type"] == "probe_unavailable"
        assert "locked" in row["audit_trail"][0]["note"]
    daemon.wait_state("shut", "self_resolved")
    assert {row["target_id"] for row in daemon.incidents()} == {"key", "header", "shut"}
    daemon.stop()
