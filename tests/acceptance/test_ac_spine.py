"""The acceptance criteria of the first whole path, on the real daemon with real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest

from remediators.runbooks import RUNBOOKS
from supervisor import proc
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import WAIT_S, Site, locked, until


@pytest.mark.req("AC-001", "FR-001", "FR-003", "FR-004", "R8")
def test_ac_001_killed_running_again_within_30_s_and_verified_within_60_s_at_default_settings(
    here: Site, phone: SignalDouble
) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml() + signal_toml(phone))
    daemon.start()
    assert daemon.open_incidents() == []
    killed = time.monotonic()
    old = toy.kill()
    new = toy.wait_new(old, 30)  # a second or two, unless the machine has no time for us
    daemon.wait_state("toy", "resolved", within_s=60 - (time.monotonic() - killed))
    assert toy.ref() == new
    assert proc.stat(new.pid).parent_pid != daemon.process.pid  # type: ignore[union-attr]
    (row,) = daemon.incidents("toy")
    states = [entry["state"] for entry in row["audit_trail"]]
    assert [s for n, s in enumerate(states) if n == 0 or states[n - 1] != s] == [
        "detected", "diagnosing", "remediating", "verifying", "resolved",
    ]  # fmt: skip
    (page,) = phone.wait_for(1, WAIT_S)
    assert "toy was down" in page.text
    assert "as a check has shown" in page.text
    daemon.stop()
    assert toy.ref() == new, "a healed service is not our child: it lives on"
    assert toy.starts() == 2


@pytest.mark.req("AC-009", "FR-007")
def test_ac_009_heal_status_returns_every_open_incident_with_its_current_state(here: Site) -> None:
    mine, other = here.service("mine"), here.service("other")
    mine.start()
    other.start()
    daemon = here.daemon(mine.toml(auto_restart=False) + other.toml(auto_restart=False))
    daemon.start()
    mine.kill()
    daemon.wait_state("mine", "escalated")
    code, status = daemon.cli("heal", "status", "-o", "json")
    assert code == 0
    (incident,) = status["open_incidents"]
    assert incident["target_id"] == "mine"
    assert incident["state"] == "escalated"
    assert incident["escalation_tier"] == 3
    assert {"id", "anomaly_type", "severity", "runbook_id", "detected_at", "state_changed_at"} <= set(incident)
    assert incident["audit_trail"][0]["state"] == "detected"
    listed = len({"rb-rotate-logs", "rb-gc-trigger"})  # NFR-001's whitelist
    summary = {"total": len(RUNBOOKS), "auto_execute": listed, "dry_run": len(RUNBOOKS) - listed}
    assert status["runbook_summary"] == summary
    other.kill()
    daemon.wait_state("other", "escalated")
    assert len(daemon.cli("heal", "status", "--json")[1]["open_incidents"]) == 2


def _pidfds(pid: int) -> int:
    """How many processes this one watches: the probe lets go of a pidfd when it has told of the death."""
    count = 0
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(fd) == "anon_inode:[pidfd]"
    return count


@pytest.mark.req("AC-010", "NFR-002", "R7")
def test_ac_010_healed_by_somebody_else_before_execution_closes_as_self_resolved(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    healer, probe = daemon.worker("healer"), daemon.worker("process")
    assert proc.send_signal(healer, signal.SIGSTOP)  # the death is seen, but nothing is decided yet
    until("the watch", lambda: _pidfds(probe.pid) == 1)
    toy.kill()
    until("the death seen by the probe", lambda: _pidfds(probe.pid) == 0)
    by_hand = toy.start()
    assert proc.send_signal(healer, signal.SIGCONT)
    (row,) = daemon.wait_state("toy", "self_resolved")
    assert not any("step_id" in entry for entry in row["audit_trail"])
    assert toy.ref() == by_hand
    assert toy.starts() == 2, "its owner's two starts, none of ours"


@pytest.mark.req("AC-011", "FR-005")
def test_ac_011_signal_is_sent_with_every_synapse_path_broken_at_once(here: Site, phone: SignalDouble) -> None:
    toy = here.service("toy")
    toy.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        dead = taken.getsockname()[1]
    config = toy.toml(auto_restart=False) + signal_toml(phone)
    daemon = here.daemon(config + f'[notify.synapse]\ntransport = "http://127.0.0.1:{dead}"\n')
    daemon.start()
    until("brain.db", (daemon.state_dir / "brain.db").exists)
    with locked(daemon.state_dir / "brain.db"):
        toy.kill()
        (page,) = phone.wait_for(1, WAIT_S)  # it does not wait for the lock, which is held until it has come
        assert "toy is down" in page.text
        (incident,) = daemon.open_incidents()
        assert incident["state"] == "escalated"
        tree = until("the failed Synapse row in status", lambda: _failing(daemon.ask("tree")))
        assert tree["outbox"]["pending"] == 1
    assert len(daemon.wait_state("toy", "escalated")) == 1
    assert len(phone.sent) == 1


def _failing(tree: dict[str, object]) -> dict[str, object] | None:
    text = msgspec.json.encode(tree).decode()
    return tree if "locked" in text or "refused" in text.lower() else None


@pytest.mark.req("R3", "R15", "FR-007")
def test_execute_by_a_person_ends_a_live_service_first_so_that_none_is_doubled(here: Site) -> None:
    toy = here.service("toy")
    old = toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    code, refused = daemon.cli("heal", "execute", "rb-restart-service", "--target", "toy", "--json")
    assert code == 5
    assert refused["error"] == "Safety check: must pass confirm=true to force-execute a runbook"
    code, answer = daemon.cli("heal", "execute", "rb-restart-service", "--target", "toy", "--confirm", "--json")
    assert code == 0, answer
    assert answer["success"] is True
    assert answer["verification_passed"] is True
    assert proc.same(old) is None or not proc.same(old).live  # type: ignore[union-attr]
    assert toy.wait_new(old) is not None
    assert toy.starts() == 2


@pytest.mark.req("FR-003", "FR-007")
def test_dry_run_says_what_would_be_done_and_does_nothing(here: Site) -> None:
    toy = here.service("toy")
    old = toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    code, plan = daemon.cli("heal", "dry_run", "rb-restart-service", "--target", "toy", "--json")
    assert code == 0
    assert [step["step_id"] for step in plan["steps"]] == ["stop", "start"]
    assert all(step["description"] for step in plan["steps"])
    assert toy.ref() == old
    assert toy.starts() == 1
    assert daemon.incidents() == []


@pytest.mark.req("AC-007", "R7", "R3", "FR-007")
def test_approve_runs_what_waits_for_it_and_dismiss_silences(here: Site) -> None:
    toy, api = here.service("toy"), here.service("api")
    toy.start()
    api.start()
    daemon = here.daemon(toy.toml(auto_restart=False) + api.toml(auto_restart=False))
    daemon.start()
    old = toy.kill()
    daemon.wait_state("toy", "escalated")
    code, answer = daemon.cli("heal", "approve", "rb-restart-service", "--target", "toy", "--json")
    assert (code, answer["mode"]) == (0, "auto_execute")
    toy.wait_new(old)
    daemon.wait_state("toy", "resolved")
    api.kill()
    (row,) = daemon.wait_state("api", "escalated")
    code, answer = daemon.cli("heal", "dismiss", row["id"], "--reason", "maintenance", "--json")
    assert code == 0
    assert answer["dismiss_until"]
    code, _ = daemon.cli("heal", "dismiss", row["id"], "--reason", "again", "--json")
    assert code == 4
    assert daemon.open_incidents() == []


@pytest.mark.req("FR-007")
def test_every_action_answers_json_to_bad_input_with_its_exit_code(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    for words, expected in (
        (("heal", "approve", "rb-nope"), 4),
        (("heal", "approve", "rb-restart-service", "--target", "nope"), 4),
        (("heal", "dry_run", "rb-nope", "--target", "toy"), 4),
        (("heal", "execute", "rb-restart-service", "--target", "nope", "--confirm"), 4),
        (("heal", "dismiss", "inc_nope", "--reason", "x"), 4),
        (("ack", "inc_nope"), 4),
    ):
        code, answer = daemon.cli(*words, "--json")
        assert code == expected, (words, answer)
        assert answer["error"], words
    daemon.stop()
    assert daemon.cli("heal", "status", "--json")[0] == 3


@pytest.mark.req("R3", "NFR-001")
def test_a_live_service_whose_pid_file_got_lost_is_not_doubled(here: Site) -> None:
    toy = here.service("toy")
    old = toy.start()
    daemon = here.daemon(toy.toml())
    daemon.start()
    daemon.wait_known(toy)
    toy.pid_file.unlink()
    before = daemon.worker("process")
    daemon.kill_worker("process")  # its memory of the process is gone with it; the healer's is not
    after = until("its successor", lambda: (now := daemon.worker("process")) != before and now)
    until("the successor watches it too", lambda: _pidfds(after.pid) == 1)
    assert proc.send_signal(old, signal.SIGKILL)
    toy.wait_new(old)
    daemon.wait_state("toy", "resolved")
    assert len(daemon.incidents("toy")) == 1, "none but its real death"
    assert toy.starts() == 2
