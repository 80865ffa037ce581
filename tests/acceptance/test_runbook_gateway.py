"""`rb-gateway-restart` on the real daemon: a stopped gateway is restarted by itself, a hung one only on a
person's word, and what its command says, or does not, is believed as it should be."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from supervisor import proc
from tests.doubles.openclaw_double import HANGS, HttpPort, Program, recorded
from tests.lab.daemon import Daemon, Site, gone, until

pytestmark = pytest.mark.req("FR-003", "FR-004", "R3")
QUICK = '[policy]\nclear_interval = "100ms"\nsettle = "100ms"\nverify_within = "5s"\n'
RESTARTED = b'{"ok": true, "action": "restart", "result": "restarted", "service": {"loaded": true}}\n'
NOT_LOADED = b'Service not loaded.\n{\n  "ok": true,\n  "action": "restart",\n  "result": "not-loaded"\n}\n'


def words(program: Program) -> str:
    return ", ".join(f'"{word}"' for word in program.argv)


class Gateway:
    """A gateway by its doubles: its port, its status command, its restart command."""

    def __init__(self, folder: Path, name: str = "gw") -> None:
        self.name = name
        self.port = HttpPort()
        self.status = Program(folder / f"{name}-status", recorded("status-stopped.json"))
        self.restart = Program(folder / f"{name}-restart", RESTARTED)

    def toml(self, *more: str) -> str:
        keys = [
            f"status = [{words(self.status)}]", f"restart = [{words(self.restart)}]", f'health_url = "{self.port.url}"',
            'interval = "1s"', *more,
        ]  # fmt: skip
        return "\n".join([f"[gateway.{self.name}]", *keys, QUICK])

    def restarts(self) -> int:
        return len(self.restart.runs())


def trail(daemon: Daemon) -> str:
    (row,) = daemon.incidents("gw")
    return str(row["audit_trail"])


def test_a_stopped_one_is_restarted_by_itself_and_verified(here: Site, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    daemon = here.daemon(gateway.toml("auto_restart = true"))
    daemon.start()
    gateway.port.shut()
    until("its restart", gateway.restarts)
    gateway.port.reopen()
    (row,) = daemon.wait_state("gw", "resolved")
    assert gateway.restarts() == 1
    assert "it says 'restarted'" in str(row["audit_trail"])
    assert "auto_restart is set and nothing of it is running" in str(row["audit_trail"])
    daemon.stop()
    gateway.port.shut()


@pytest.mark.req("R3", "NFR-001")
@pytest.mark.parametrize("how", ["hangs", "its service runs"])
def test_one_that_lives_waits_for_a_person(here: Site, tmp_path: Path, how: str) -> None:
    gateway = Gateway(tmp_path)
    daemon = here.daemon(gateway.toml("auto_restart = true"))
    daemon.start()
    if how == "hangs":
        gateway.status.says(recorded("status-hung.json"))
        gateway.port.mode = "hangs"
    else:  # nobody accepts, but its manager says that it lives: it is starting, or has lost its port
        found = msgspec.json.decode(recorded("status-stopped.json"))
        found["service"]["runtime"] = {"status": "running", "pid": 1}
        gateway.status.says(msgspec.json.encode(found))
        gateway.port.shut()
    (row,) = daemon.wait_state("gw", "escalated")
    assert row["escalation_tier"] == 3
    assert "auto_restart never ends a live process" in str(row["audit_trail"])
    assert gateway.restarts() == 0
    code, plan = daemon.cli("heal", "dry_run", "rb-gateway-restart", "--target", "gw")
    assert (code, gateway.restarts()) == (0, 0)
    assert "at most 90 s" in plan["steps"][0]["description"]
    assert daemon.cli("heal", "approve", "rb-gateway-restart", "--target", "gw")[0] == 0
    until("its restart", gateway.restarts)
    gateway.port.mode = "answers"
    if how != "hangs":
        gateway.port.reopen()
    daemon.wait_state("gw", "resolved")
    assert gateway.restarts() == 1
    daemon.stop()
    gateway.port.shut()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (NOT_LOADED, "its service is not installed, nothing was restarted"),
        (b'{"ok": false, "action": "restart", "error": "launchctl: \\u001b[31mno\\u202e"}', "launchctl"),
    ],
)
def test_an_answer_that_restarted_nothing_is_a_failure(here: Site, tmp_path: Path, answer: bytes, said: str) -> None:
    gateway = Gateway(tmp_path)
    gateway.restart.says(answer)
    daemon = here.daemon(gateway.toml("auto_restart = true"))
    daemon.start()
    gateway.port.shut()
    (row,) = daemon.wait_state("gw", "escalated")
    assert row["escalation_tier"] == 3
    assert said in str(row["audit_trail"])
    assert gateway.restarts() == 1, "not a second time by itself"
    gateway.port.reopen()
    daemon.wait_state("gw", "resolved")  # R7: somebody mended it; a runbook had acted
    daemon.stop()
    gateway.port.shut()


def test_a_restart_that_hangs_is_ended_with_all_that_it_started(here: Site, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    gateway.restart.says(b"", after=HANGS)
    daemon = here.daemon(gateway.toml("auto_restart = true", 'restart_timeout = "1s"'))
    daemon.start()
    gateway.port.shut()
    (row,) = daemon.wait_state("gw", "escalated")
    assert "timed out after 1 s" in str(row["audit_trail"])
    (pid,) = gateway.restart.runs()
    status = proc.stat(pid)
    assert status is None or not status.live
    gateway.port.reopen()
    (row,) = daemon.wait_state("gw", "resolved")
    daemon.stop()
    gateway.port.shut()


@pytest.mark.req("NFR-001")
@pytest.mark.parametrize("point", ["claim.after", "program.recorded", "program.released", "result.before"])
def test_the_executor_killed_half_way_never_restarts_it_blindly_again(here: Site, tmp_path: Path, point: str) -> None:
    gateway = Gateway(tmp_path)
    token = here.folder / "token"
    daemon = here.daemon(gateway.toml("auto_restart = true"))
    daemon.start(HEALCTL_TEST_CRASH=f"executor:{point}:{token}")
    old = daemon.worker("executor")
    token.touch()
    gateway.port.shut()
    gone(old)
    (row,) = daemon.wait_state("gw", "escalated")
    assert "interrupted" in str(row["audit_trail"])
    assert gateway.restarts() <= 1
    gateway.port.reopen()
    daemon.wait_state("gw", "resolved")
    assert gateway.restarts() <= 1
    daemon.stop()
    gateway.port.shut()


def test_a_command_that_may_not_be_run_is_said(here: Site, tmp_path: Path) -> None:
    gateway = Gateway(tmp_path)
    program = tmp_path / "no-exec"
    program.write_text("#!/bin/sh\n")
    config = gateway.toml("auto_restart = true").replace(
        f"restart = [{words(gateway.restart)}]", f'restart = ["{program}"]'
    )
    daemon = here.daemon(config)
    daemon.start()
    gateway.port.shut()
    (row,) = daemon.wait_state("gw", "escalated")
    assert "Permission denied" in str(row["audit_trail"])
    daemon.stop()
