"""`gateway_unresponsive` on the real daemon: stopped and hung gateways, by address and by status command, beside a
healthy twin of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.doubles.openclaw_double import HttpPort, Program, recorded
from tests.lab.daemon import Daemon, Site, until

QUICK = '[policy]\nclear_interval = "100ms"\n'


def toml(name: str, program: Program, health_url: str = "") -> str:
    argv = ", ".join(f'"{word}"' for word in program.argv)
    address = f'health_url = "{health_url}"\n' if health_url else ""
    return f'[gateway.{name}]\nstatus = [{argv}]\n{address}interval = "1s"\n'


def fired(daemon: Daemon, target: str, *words: str) -> None:
    (row,) = daemon.wait_state(target, "escalated")  # nothing may restart it by itself; a person was told
    assert (row["anomaly_type"], row["severity"]) == ("gateway_unresponsive", "critical")
    for word in ("2 in a row", *words):
        assert word in str(row["audit_trail"]), row


def closes(daemon: Daemon, target: str) -> None:
    (row,) = daemon.wait_state(target, "self_resolved")
    assert not any("step_id" in entry for entry in row["audit_trail"])


@pytest.mark.req("FR-001", "FR-002", "NFR-002")
@pytest.mark.parametrize("fault", ["stopped", "hangs"])
def test_by_its_address(here: Site, tmp_path: Path, fault: str) -> None:
    program = Program(tmp_path / "openclaw", recorded(f"status-{'stopped' if fault == 'stopped' else 'hung'}.json"))
    with HttpPort() as ill, HttpPort() as well:
        daemon = here.daemon(toml("ill", program, ill.url) + toml("well", Program(tmp_path / "well"), well.url) + QUICK)
        daemon.start()
        assert daemon.open_incidents() == []
        if fault == "stopped":
            ill.shut()
        else:
            ill.mode = "hangs"
        fired(daemon, "ill", "refuses connections" if fault == "stopped" else "does not answer", "health_url")
        if fault == "stopped":
            ill.reopen()
        else:
            ill.mode = "answers"
        closes(daemon, "ill")
        assert daemon.incidents("well") == []
        daemon.stop()


@pytest.mark.req("FR-001", "FR-002", "R9", "NFR-002")
@pytest.mark.parametrize(("answer", "words"), [("stopped", "ECONNREFUSED"), ("hung", "port: busy; rpc: timeout")])
def test_by_its_status_command(here: Site, tmp_path: Path, answer: str, words: str) -> None:
    """It exits 0 whatever it found; what it prints are the real one's recorded answers."""
    ill, well = Program(tmp_path / "ill"), Program(tmp_path / "well")
    daemon = here.daemon(toml("ill", ill) + toml("well", well) + QUICK)
    daemon.start()
    until("both were asked", lambda: ill.runs() and well.runs())
    assert daemon.open_incidents() == []
    ill.says(recorded(f"status-{answer}.json"))
    fired(daemon, "ill", words, "by its status")
    before = len(ill.runs())
    ill.says(recorded("status-up.json"))
    closes(daemon, "ill")
    assert len(ill.runs()) >= before + 3, "three clear readings, each with a command of its own"
    assert daemon.incidents("well") == []
    daemon.stop()
