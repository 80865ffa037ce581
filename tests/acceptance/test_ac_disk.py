"""AC-004 on the real daemon and a real file system: past 95 % it is paged at once, in plain words."""

from __future__ import annotations

import re

import pytest

from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_anomaly_host import FAST, disk_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab import mounts
from tests.lab.daemon import WAIT_S, Site
from tests.lab.heard import synapse


@pytest.mark.req("AC-004", "FR-002", "FR-005", "NFR-003", "R1", "R2")
def test_ac_004_a_disk_past_95_percent_is_paged_in_plain_language(here: Site, phone: SignalDouble) -> None:
    mounts.own_namespace()
    with (
        mounts.tmpfs(here.folder / "full", "size=400k") as full,
        mounts.tmpfs(here.folder / "twin", "size=400k") as twin,
        synapse("brain_db") as mail,
    ):
        mounts.fill(twin, 85 * 4096)  # exactly at the lower limit
        daemon = here.daemon(disk_toml(full, twin) + FAST + signal_toml(phone) + mail.toml)
        daemon.start()
        assert phone.sent == []
        filled = mounts.fill(full, 97 * 4096)
        (page,) = phone.wait_for(1, WAIT_S)
        _plain(page.text, str(full))
        (row,) = daemon.wait_state(f"disk:{full}", "escalated")
        assert (row["anomaly_type"], row["severity"], row["escalation_tier"]) == ("disk_critical", "critical", 3)
        notes = [entry["note"] for entry in row["audit_trail"]]
        assert any("paged at once" in note for note in notes)
        first = mail.wait(daemon, "the same on Synapse", bool)[0]
        assert (first.priority, str(full) in first.subject) == ("urgent", True)
        filled.unlink()
        daemon.wait_state(f"disk:{full}", "resolved")
        closing = phone.wait_for(2, WAIT_S)[-1].text
        assert "Over: " in closing
        assert str(full) in closing
        found = mail.wait(daemon, "the closing word", lambda told: told[-1].subject.startswith("Over: "))
        assert {one.thread for one in found} == {first.thread}
        daemon.stop()
        assert len(phone.sent) == 2, "one page and one closing word; of the twin nothing"


def _plain(text: str, disk: str) -> None:
    """NFR-003: what broke, what was tried, exactly what there is to decide; short, and no word of our own making."""
    assert len(text) <= 600 + len(disk) + 40, "its body is bounded"
    assert disk in text
    assert "nearly full" in text
    assert re.search(r"97\.\d% full", text)
    assert "Tried: " in text or "Nothing was tried" in text
    assert re.search(r"ecide", text)
    jargon = ("disk_critical", "tier", "escalated", "inc_", "outbox", "runbook_id", "{", "remediat", "anomaly")
    assert [word for word in jargon if word in text.lower()] == []
