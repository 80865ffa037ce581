"""rb-restart-augur on a real program that hangs while its live signal grows old, on the real daemon (FR-003)."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from supervisor import proc
from supervisor.incidents.readings import ProcessRef
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import ROOT, Daemon, Service, Site, gone, until

SOON = 'interval = "1s"'
FAST = '[policy]\nsettle = "100ms"\nbreaker_per_target = 100\nbreaker_total = 100\nclear_interval = "100ms"\n'
ANOMALIES = {"toy": "process_dead", "bot-signals": "signal_stale"}


class Executor(Service):
    """`[process.toy]`, and `[trading.bot]` with the signal that it writes."""

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__(folder, name)
        self.signal_file = folder / f"{name}.json"
        program = str(ROOT / "tests/doubles/toy_executor.py")
        files = {"--pid-file": self.pid_file, "--starts": self.starts_file, "--signal": self.signal_file}
        self.argv = [sys.executable, program, *(str(word) for pair in files.items() for word in pair)]

    def trading(self, max_age: str = "2s", process: str = "toy") -> str:
        behind = f'process = "{process}"\n' if process else ""
        return f'[trading.bot]\nsignal_file = "{self.signal_file}"\nmax_age = "{max_age}"\n{SOON}\n{behind}'

    def hang(self) -> ProcessRef:
        ref = self.ref()
        assert ref is not None
        assert proc.send_signal(ref, signal.SIGSTOP)
        return ref

    def end(self) -> None:
        for line in self.starts_file.read_text().splitlines() if self.starts_file.exists() else ():
            status = proc.stat(int(line))
            if status is not None and str(self.signal_file) in proc.command_line(status.pid):
                proc.send_signal(status.ref, signal.SIGKILL)


def executor(here: Site) -> Executor:
    made = Executor(here.folder, "toy")
    here.services.append(made)
    return made


def approve(daemon: Daemon, runbook: str, target: str) -> None:
    code, answer = daemon.cli("heal", "approve", runbook, "--target", target, "--json")
    assert code == 0, answer


def all_over(daemon: Daemon) -> None:
    """Nothing is open, and brain.db has caught up with that."""

    def look() -> bool:
        return not daemon.open_incidents() and all(row["resolved_at"] for row in daemon.incidents())

    until("nothing open", look)


@pytest.mark.req("FR-003", "R3", "R6", "FR-006")
def test_a_hung_executor_is_killed_and_restarted_once_approved_and_its_signal_freshens(here: Site) -> None:
    toy = executor(here)
    toy.start()
    daemon = here.daemon(FAST + toy.toml(more=SOON) + toy.trading())
    daemon.start()
    daemon.wait_known(toy)
    old = toy.hang()
    (row,) = daemon.wait_state("bot-signals", "escalated")
    assert (row["anomaly_type"], row["runbook_id"], row["escalation_tier"]) == ("signal_stale", "rb-restart-augur", 2)
    code, plan = daemon.cli("heal", "dry_run", "rb-restart-augur", "--target", "bot-signals", "--json")
    assert code == 0
    assert f"end process {old.pid} (" in str(plan)
    assert toy.ref() == old
    approve(daemon, "rb-restart-augur", "bot-signals")
    new = toy.wait_new(old)
    gone(old)
    (row,) = daemon.wait_state("bot-signals", "resolved")
    assert f"killed {old.pid}" in str(row["audit_trail"]) or f"ended {old.pid}" in str(row["audit_trail"])
    all_over(daemon)
    assert toy.ref() == new
    assert toy.starts() == 2
    (row,) = [row for row in daemon.incidents("toy") if row["state"] == "self_resolved"]
    assert row["anomaly_type"] == "process_dead", "the stopped process was its own incident, and went with the restart"


@pytest.mark.req("FR-003", "R3", "R11")
def test_without_a_process_behind_it_nothing_is_restarted_and_the_key_is_named(here: Site, phone: SignalDouble) -> None:
    toy = executor(here)
    toy.start()
    daemon = here.daemon(FAST + toy.toml(more=SOON) + toy.trading(process="") + signal_toml(phone))
    daemon.start()
    daemon.wait_known(toy)
    toy.hang()
    (row,) = daemon.wait_state("bot-signals", "escalated")
    assert "set process in [trading.bot]" in str(row["audit_trail"])
    code, answer = daemon.cli("heal", "execute", "rb-restart-augur", "--target", "bot-signals", "--confirm", "--json")
    assert code == 1
    assert "set process in [trading.bot]" in str(answer)
    assert toy.starts() == 1


@pytest.mark.req("FR-003", "R3", "NFR-001")
def test_two_incidents_about_one_service_act_once(here: Site) -> None:
    """DESIGN §2.7: whichever gets the lock first restarts it; the other finds it well by its own fresh probe."""
    toy = executor(here)
    toy.start()
    daemon = here.daemon(FAST + toy.toml(more=SOON) + toy.trading())
    daemon.start()
    for round_number in range(3):
        daemon.wait_known(toy)
        old = toy.hang()
        for target, anomaly in ANOMALIES.items():
            until(f"{anomaly} waits", lambda t=target: _waits(daemon, t))
        approve(daemon, "rb-restart-service", "toy")
        approve(daemon, "rb-restart-augur", "bot-signals")
        toy.wait_new(old)
        all_over(daemon)
        assert toy.starts() == 2 + round_number
        ended = [daemon.incidents(target)[-1]["state"] for target in ANOMALIES]
        assert sorted(ended)[-1] == "self_resolved", "one acted, the other did not"
        assert "resolved" in ended
        for runbook, target in (("rb-restart-service", "toy"), ("rb-restart-augur", "bot-signals")):
            code, _ = daemon.cli("heal", "approve", runbook, "--target", target, "--revoke", "--json")
            assert code == 0


def _waits(daemon: Daemon, target: str) -> bool:
    return any(one["target_id"] == target and one["state"] == "escalated" for one in daemon.open_incidents())


POINTS = ("claim.after", "evidence.after", "result.before", "program.recorded", "program.released", "result.after")


@pytest.mark.req("FR-003", "FR-004", "R3", "NFR-001")
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_work_the_executor_s_successor_finishes_it_once(here: Site, point: str) -> None:
    toy = executor(here)
    toy.start()
    token = here.folder / "token"
    daemon = here.daemon(FAST + toy.toml(auto_restart=False, more=SOON) + toy.trading())
    daemon.start(HEALCTL_TEST_CRASH=f"executor:{point}:{token}")
    daemon.wait_known(toy)
    approve(daemon, "rb-restart-augur", "bot-signals")
    hands = daemon.worker("executor")
    token.touch()
    old = toy.hang()
    gone(hands)
    toy.wait_new(old)
    gone(old)
    all_over(daemon)
    assert toy.starts() == 2, "the owner's start and exactly one of ours"
    assert daemon.incidents("bot-signals")[-1]["state"] == "resolved"


@pytest.mark.req("FR-003", "FR-004", "R1", "R2")
def test_what_was_and_was_not_done_is_told_when_the_program_cannot_be_started(here: Site, phone: SignalDouble) -> None:
    toy = executor(here)
    toy.start()
    toy.argv = [str(here.folder / "no-such-program"), *toy.argv]
    daemon = here.daemon(FAST + toy.toml(auto_restart=False, more=SOON) + toy.trading() + signal_toml(phone))
    daemon.start()
    daemon.wait_known(toy)
    old = toy.hang()
    approve(daemon, "rb-restart-augur", "bot-signals")
    gone(old)
    (row,) = daemon.wait_state("bot-signals", "escalated")
    steps = {entry["step_id"]: entry for entry in row["audit_trail"] if "step_id" in entry}
    assert steps["stop"]["success"]
    assert str(old.pid) in steps["stop"]["output"]
    assert not steps["start"]["success"]
    assert "no-such-program" in steps["start"]["output"]
    assert row["escalation_tier"] == 3
    texts = until("paged", lambda: [sent.text for sent in phone.sent if "bot-signals" in sent.text])
    assert "It failed: " in texts[0]
    assert "no-such-program" in texts[0]
    assert toy.starts() == 1
