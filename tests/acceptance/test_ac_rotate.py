"""AC-003 on the real daemon: a disk past 85 % and a log that nobody rotates are healed silently, and told of once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import Any

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab import mounts
from tests.lab.daemon import WAIT_S, Daemon, Site, until
from tests.lab.logs import MIB, archives, everything, leftovers, line, text, unpacked, write, writing


@pytest.fixture(autouse=True)
def _namespace() -> None:
    mounts.own_namespace()


def summaries(daemon: Daemon) -> list[dict[str, Any]]:
    """What stands on Synapse, in brain.db."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        return [dict(row) for row in db.execute("SELECT * FROM messages")]


@pytest.mark.req("AC-003", "FR-001", "FR-003", "FR-004", "FR-005", "R1", "R3")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_ac_003_a_disk_past_85_percent_rotates_silently_and_sends_a_summary(
    here: Site, phone: SignalDouble, kind: str
) -> None:
    make = (
        mounts.tmpfs(here.folder / "disk", "size=32m") if kind == "tmpfs" else mounts.ext4(here.folder / "disk", "48M")
    )
    with make as disk:
        logs, content = disk / "logs", text(MIB)
        logs.mkdir()
        daemon = here.daemon(
            f'[disk]\nmounts = ["{disk}"]\ndiscover = false\ninterval = "1s"\n'
            f'[logs.app]\npaths = ["{logs}/*.log*"]\ninterval = "1h"\n{signal_toml(phone)}'
        )
        written = 0
        while _used(disk) <= 0.6:
            write(logs / f"app.log.{written}", content, days_old=8)
            written += 1
        write(logs / "app.log", content)
        daemon.start()
        assert daemon.incidents() == []
        mounts.fill(disk, round((0.88 - _used(disk)) * _size(disk)))
        (row,) = daemon.wait_state(f"disk:{disk}", "resolved")
        assert row["anomaly_type"] == "disk_pressure"
        steps = [entry for entry in row["audit_trail"] if entry.get("step_id") == "rotate"]
        assert steps[-1]["success"] is True
        assert f"{written} of {written} logs archived" in steps[-1]["output"]
        assert _used(disk) < 0.83
        assert [unpacked(path) == content for path in archives(logs)] == [True] * written
        assert (logs / "app.log").read_bytes() == content, "what is neither old nor too large stays"
        assert leftovers(logs) == []
        (told,) = until("the summary", lambda: summaries(daemon))
        assert told["priority"] == "info"
        assert "rb-rotate-logs" in told["body"]
        daemon.stop()
        assert phone.sent == [], "no Signal: it was high, not critical, and it was healed"


def _used(disk: os.PathLike[str]) -> float:
    """As df counts it."""
    now = os.statvfs(disk)
    return (now.f_blocks - now.f_bfree) * now.f_frsize / _size(disk)


def _size(disk: os.PathLike[str]) -> int:
    now = os.statvfs(disk)
    return (now.f_blocks - now.f_bfree + now.f_bavail) * now.f_frsize


@pytest.mark.req("AC-003", "FR-002", "FR-003", "R13")
def test_ac_003_a_log_that_grows_for_ever_is_rotated_under_its_writer(here: Site, phone: SignalDouble) -> None:
    folder = here.folder / "logs"
    folder.mkdir()
    log = folder / "app.log"
    daemon = here.daemon(
        f'[logs.app]\npaths = ["{folder}/*.log"]\nmax_size = "8MiB"\ninterval = "1s"\n{signal_toml(phone)}'
    )
    daemon.start()
    with writing(log, "steady") as writer:
        rows = daemon.wait_state("app", "resolved")
        count = writer.stop()
    assert rows[0]["anomaly_type"] == "log_bloat"
    daemon.stop()
    kept = everything(folder, log)
    assert len(kept) == count * len(line(0)), "not a byte was lost or doubled"
    assert kept == b"".join(line(number) for number in range(count))
    assert [sent.text for sent in phone.sent] == []


@pytest.mark.soak  # nothing that is younger than a minute is ever removed
@pytest.mark.timeout(240)
@pytest.mark.req("AC-004", "FR-003", "R2", "R3")
def test_an_almost_full_disk_pages_at_once_and_is_cleaned_up_once_a_person_approves(
    here: Site, phone: SignalDouble
) -> None:
    with mounts.tmpfs(here.folder / "disk", "size=32m,mode=755") as disk:
        place, logs = disk / "tmp", disk / "logs"
        place.mkdir()
        logs.mkdir()
        (place / "app.pid").write_text("1\n")
        mounts.fill(place, round(0.97 * _size(disk)))
        old = max(path.stat().st_ctime for path in place.iterdir())
        daemon = here.daemon(
            f'[disk]\nmounts = ["{disk}"]\ndiscover = false\ninterval = "1s"\n'
            f'[logs.app]\npaths = ["{logs}/*.log*"]\ninterval = "1h"\n'
            f'[cleanup]\ntmp_dirs = ["{place}"]\nolder_than = "1m"\n{signal_toml(phone)}'
        )
        daemon.start()
        (page,) = phone.wait_for(1, WAIT_S)
        assert "nearly full" in page.text
        (row,) = daemon.wait_state(f"disk:{disk}", "escalated")
        assert row["anomaly_type"] == "disk_critical"
        assert _used(disk) > 0.95, "nothing was removed on nobody's word"
        until("its files are a minute old", lambda: time.time() - old > 61, 90)
        code, plan = daemon.cli("heal", "dry_run", "rb-emergency-cleanup", "--target", f"disk:{disk}", "--json")
        assert (code, plan["steps"][-1]["predicts_clear"]) == (0, True), plan
        assert _used(disk) > 0.95, "a dry run changes nothing"
        code, approved = daemon.cli("heal", "approve", "rb-emergency-cleanup", "--target", f"disk:{disk}", "--json")
        assert (code, approved["running_for"]) == (0, [row["id"]])
        (row,) = daemon.wait_state(f"disk:{disk}", "resolved")
        assert row["runbook_id"] == "rb-emergency-cleanup"
        assert sorted(path.name for path in place.iterdir()) == ["app.pid"]
        pages = phone.wait_for(2, WAIT_S)
        assert "Over:" in pages[-1].text
        daemon.stop()
