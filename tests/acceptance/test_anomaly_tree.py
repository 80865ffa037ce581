"""Our own parts fail for real (DESIGN §1, §2.6): an incident each, told like any other, closed when it is over."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.conftest import signal_toml
from tests.acceptance.test_reload import reload, settled
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import Daemon, Site, until


def wait_open(daemon: Daemon, target_id: str, anomaly: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        rows = [r for r in daemon.open_incidents() if (r["target_id"], r["anomaly_type"]) == (target_id, anomaly)]
        return rows[0] if rows else None

    found: dict[str, Any] = until(f"{anomaly} of {target_id}\n{daemon.tail()}", look)
    return found


@pytest.mark.req("R1", "FR-004")
def test_a_worker_that_keeps_dying_is_told_and_its_twin_is_not(here: Site, phone: SignalDouble) -> None:
    daemon = here.daemon(signal_toml(phone))
    daemon.start()
    settled(daemon)
    for n in range(3):
        daemon.kill_worker("notifier")
        until("it is back", lambda n=n: settled(daemon)["notifier"]["restarts"] == n + 1)
    found = wait_open(daemon, "worker:notifier", "worker_failing")
    assert (found["severity"], found["escalation_tier"]) == ("high", 3)
    assert not [row for row in daemon.open_incidents() if row["target_id"] == "worker:executor"]
    until("its page", lambda: any("worker:notifier" in sent.text for sent in sent_by(phone)))
    daemon.stop()


@pytest.mark.req("R1", "FR-004")
def test_a_quarantined_family_pages_and_closes_when_it_is_back(here: Site, phone: SignalDouble) -> None:
    one = here.service("one")
    one.start()
    tree = '[tree]\nprobes_intensity = 1\nquarantine_retry = "2s"\n'
    daemon = here.daemon(one.toml() + signal_toml(phone) + tree)
    daemon.start()
    settled(daemon, "process")
    for _ in range(2):
        daemon.kill_worker("process")
    found = wait_open(daemon, "worker:process", "worker_quarantined")
    assert (found["severity"], found["escalation_tier"]) == ("high", 3)
    daemon.wait_state("worker:process", "self_resolved")
    until("page and closing message", lambda: len([m for m in sent_by(phone) if "own part process" in m.text]) >= 2)
    daemon.stop()


@pytest.mark.req("FR-005", "AC-011")
def test_pages_that_nobody_takes_are_told_over_synapse_and_that_closes_with_the_first_receipt(
    here: Site, phone: SignalDouble
) -> None:
    one, twin = here.service("one"), here.service("twin")
    twin.start()
    phone.fault = Fault(Kind.STATUS, code=503)
    daemon = here.daemon(one.toml(auto_restart=False) + twin.toml() + signal_toml(phone))
    daemon.start()
    found = wait_open(daemon, "messages:signal", "delivery_failing")  # after five attempts, some 15 s
    assert found["escalation_tier"] == 3
    assert daemon.ask("tree")["outbox"]["pending"] >= 1
    waiting = daemon.ask("tree")["outbox"]["rows"]
    assert not [row for row in waiting if row["channel"] == "signal" and "over Signal" in row["subject"]]
    phone.fault = Fault()
    twin.kill()  # its message is tried at once, and its receipt shows that the channel works
    daemon.wait_state("messages:signal", "self_resolved")
    assert not [m for m in sent_by(phone) if "over Signal" in m.text]
    daemon.stop()


@pytest.mark.req("FR-004")
def test_a_ledger_near_its_limit_is_told_until_the_limit_is_raised(here: Site) -> None:
    daemon = here.daemon('[store]\nledger_max = "1KB"\n')
    daemon.start()
    found = wait_open(daemon, "healctl:ledger", "ledger_near_limit")
    assert "ledger_max" in found["evidence"]
    assert reload(daemon, "")[0] == 0
    daemon.wait_state("healctl:ledger", "self_resolved")
    daemon.stop()


def sent_by(phone: SignalDouble) -> list[Any]:
    return list(phone.sent)
