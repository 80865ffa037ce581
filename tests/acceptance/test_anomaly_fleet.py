"""`fleet_unreachable` on the real daemon: hosts that are really cut off, hang, refuse, or are not who they were."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import parts
from tests.lab.daemon import Daemon, Site, until
from tests.lab.sshd import PORT, Far, Lab, new_key

pytestmark = pytest.mark.req("FR-001", "FR-002", "R9")
POLICY = '[policy]\nclear_interval = "100ms"\n'


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    parts.openssh()
    made = Lab(tmp_path)
    yield made
    made.close()


@pytest.fixture
def far() -> Iterator[Far]:
    parts.namespaces()
    made = Far("10.253.77.1", "10.253.77.2")
    yield made
    made.close()


def fleet_toml(lab: Lab, *more: str, **hosts: str) -> str:
    keys = [
        'interval = "1s"', 'timeout = "3s"', 'user = "root"', f'identity_file = "{lab.login}"',
        f'known_hosts = "{lab.known_hosts}"', 'retry_interval = "100ms"', *more,
    ]  # fmt: skip
    tables = [f'[fleet.hosts.{name}]\naddress = "{address}"\nport = {PORT}' for name, address in hosts.items()]
    return "\n".join(["[fleet]", *keys, *tables, POLICY])


def reached(*hosts: object) -> None:
    """Every host has been logged in to."""
    until("the first logins", lambda: all(host.logins() for host in hosts))  # type: ignore[attr-defined]


def told(daemon: Daemon, target_id: str, anomaly: str) -> dict[str, Any] | None:
    """Its incident that waits for a person, if there is one."""
    rows = [row for row in daemon.incidents(target_id) if row["anomaly_type"] == anomaly]
    return rows[0] if rows and rows[0]["state"] == "escalated" else None


def closed_by_three_clear_readings(daemon: Daemon, target_id: str) -> None:
    (row,) = daemon.wait_state(target_id, "self_resolved")
    assert row["anomaly_type"] == "fleet_unreachable"
    assert daemon.open_incidents() == []


@pytest.mark.req("R6", "R7", "NFR-002")
@pytest.mark.parametrize("how", ["link down", "answers lost"])
def test_a_host_that_is_cut_off_and_comes_back(here: Site, lab: Lab, far: Far, how: str) -> None:
    away, near = lab.sshd(far.theirs, *far.within), lab.sshd("127.0.77.101")
    hosts = here.folder / "fleet.json"
    hosts.write_text(json.dumps({"hosts": [{"name": "away", "host": f"root@{far.theirs}:{PORT}"}]}))
    daemon = here.daemon(fleet_toml(lab, f'hosts_file = "{hosts}"', near="127.0.77.101"))
    daemon.start()
    reached(away, near)
    assert daemon.open_incidents() == []
    if how == "link down":
        far.cut()
    else:
        far.swallow()
    (row,) = daemon.wait_state("fleet:away", "escalated")
    assert row["anomaly_type"] == "fleet_unreachable"
    assert row["severity"] == "high"
    assert far.theirs in row["details"]
    if how == "link down":
        far.join()
    else:
        far.answer()
    closed_by_three_clear_readings(daemon, "fleet:away")
    assert daemon.incidents("fleet:near") == [], "its healthy twin"


def test_a_host_that_hangs_and_one_that_refuses(here: Site, lab: Lab) -> None:
    hung, dead, well = (lab.sshd(f"127.0.77.{n}") for n in (102, 103, 104))
    daemon = here.daemon(fleet_toml(lab, hung=hung.address, dead=dead.address, well=well.address))
    daemon.start()
    reached(hung, dead, well)
    hung.signal(signal.SIGSTOP)
    dead.stop()
    for name in ("hung", "dead"):
        (row,) = daemon.wait_state(f"fleet:{name}", "escalated")
        assert (row["anomaly_type"], row["severity"]) == ("fleet_unreachable", "high")
    hung.signal(signal.SIGCONT)
    dead.start()
    for name in ("hung", "dead"):
        daemon.wait_state(f"fleet:{name}", "self_resolved")
    assert daemon.incidents("fleet:well") == []


@pytest.mark.req("NFR-001")
def test_a_host_that_is_not_who_it_was_is_told_at_once_and_never_called_reachable(here: Site, lab: Lab) -> None:
    changed, well = lab.sshd("127.0.77.105"), lab.sshd("127.0.77.106")
    daemon = here.daemon(fleet_toml(lab, changed=changed.address, well=well.address))
    daemon.start()
    reached(changed, well)
    logins = changed.logins()
    changed.stop()
    new_key(changed.key)
    changed.start()
    row = until("the incident", lambda: told(daemon, "fleet:changed", "probe_unavailable"))
    assert "HAS CHANGED" in row["details"]
    assert "ssh-keygen -R" in row["details"]
    assert changed.logins() == logins
    assert daemon.incidents("fleet:well") == []


def test_a_host_that_leaves_the_hosts_file_ends_its_incident(here: Site, lab: Lab) -> None:
    lab.sshd("127.0.77.107")
    hosts = here.folder / "fleet.json"
    both = [{"name": "gone", "host": f"127.0.77.108:{PORT}"}, {"name": "well", "host": f"127.0.77.107:{PORT}"}]
    hosts.write_text(json.dumps(both))
    daemon = here.daemon(fleet_toml(lab, f'hosts_file = "{hosts}"'))
    daemon.start()
    daemon.wait_state("fleet:gone", "escalated")
    hosts.write_text(json.dumps(both[1:]))
    closed_by_three_clear_readings(daemon, "fleet:gone")
    assert daemon.incidents("fleet:well") == []
