"""`rb-probe-then-alert` on the real daemon: a host that stays away is told of once, one that comes back is not."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests import parts
from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_anomaly_fleet import fleet_toml, reached
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import Daemon, Site, gone, until
from tests.lab.sshd import Lab

pytestmark = pytest.mark.req("FR-003", "FR-005", "R1", "R7")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    parts.openssh()
    made = Lab(tmp_path)
    yield made
    made.close()


def messages(daemon: Daemon) -> list[tuple[str, str, str]]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute("SELECT priority, subject, body FROM messages").fetchall()


def step_of(daemon: Daemon, target_id: str) -> str:
    (row,) = daemon.incidents(target_id)
    return next((str(entry["output"]) for entry in row["audit_trail"] if entry.get("step_id")), "")


def test_one_that_stays_away_is_tried_three_times_and_told_of_on_synapse_only(
    here: Site, lab: Lab, phone: SignalDouble
) -> None:
    away, well = lab.sshd("127.0.77.111"), lab.sshd("127.0.77.112")
    daemon = here.daemon(fleet_toml(lab, away=away.address, well=well.address) + signal_toml(phone))
    daemon.start()
    reached(away, well)
    away.stop()
    (row,) = daemon.wait_state("fleet:away", "escalated")
    assert row["escalation_tier"] == 1
    said = step_of(daemon, "fleet:away")
    assert "still not clear after 3 tries: try 1: fleet_unreachable" in said
    assert "try 3: fleet_unreachable" in said
    (message,) = until("its message", lambda: [m for m in messages(daemon) if "fleet:away" in m[1] + m[2]])
    assert message[0] == "info"
    away.start()
    daemon.wait_state("fleet:away", "self_resolved")
    assert phone.sent == []
    assert daemon.incidents("fleet:well") == []
    daemon.stop()


def test_one_that_comes_back_during_the_tries_is_not_told_of(here: Site, lab: Lab) -> None:
    away = lab.sshd("127.0.77.113")
    daemon = here.daemon(fleet_toml(lab, "retries = 10", away=away.address).replace('"100ms"', '"1s"', 1))
    daemon.start()
    reached(away)
    away.signal(signal.SIGSTOP)
    daemon.wait_state("fleet:away", "remediating")
    away.signal(signal.SIGCONT)
    daemon.wait_state("fleet:away", "resolved")
    assert "it reads clear again" in step_of(daemon, "fleet:away")
    assert [m for m in messages(daemon) if "fleet:away" in m[1] + m[2]] == []
    daemon.stop()


@pytest.mark.parametrize("worker", ["executor", "healer"])
def test_a_worker_killed_during_the_tries_loses_nothing(here: Site, lab: Lab, worker: str) -> None:
    away = lab.sshd("127.0.77.114")
    daemon = here.daemon(fleet_toml(lab, "retries = 4", away=away.address).replace('"100ms"', '"500ms"', 1))
    daemon.start()
    reached(away)
    away.stop()
    daemon.wait_state("fleet:away", "remediating")
    old = daemon.worker(worker)
    daemon.kill_worker(worker)
    gone(old)
    daemon.wait_state("fleet:away", "escalated")
    until("its message", lambda: [m for m in messages(daemon) if "fleet:away" in m[1] + m[2]])
    assert len(daemon.incidents("fleet:away")) == 1
    daemon.stop()


@pytest.mark.req("FR-003")
def test_the_dry_run_tells_what_would_be_looked_at(here: Site, lab: Lab) -> None:
    well = lab.sshd("127.0.77.115")
    daemon = here.daemon(fleet_toml(lab, well=well.address))
    daemon.start()
    reached(well)
    code, plan = daemon.cli("heal", "dry_run", "rb-probe-then-alert", "--target", "fleet:well")
    assert code == 0
    assert plan["steps"][0]["description"].startswith("look at fleet:well 3 more times, 0.1 s apart")
    assert daemon.incidents() == []
    daemon.stop()
