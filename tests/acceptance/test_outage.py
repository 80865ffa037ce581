"""Signal takes nothing for a while: said over Synapse meanwhile, and over Signal as soon as it works again, once."""

from __future__ import annotations

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import Site, until


@pytest.mark.req("FR-005", "AC-011", "R2")
def test_an_outage_of_signal_is_told_over_synapse_and_its_end_once_whoever_dies_meanwhile(
    here: Site, phone: SignalDouble
) -> None:
    phone.fault = Fault(Kind.STATUS, code=503)
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False) + '[escalation]\nundelivered_after = "1s"\n' + signal_toml(phone))
    daemon.start()
    daemon.wait_known(toy)
    toy.kill()
    daemon.wait_state("toy", "escalated")
    (row,) = daemon.wait_state("messages:signal", "escalated", within_s=90)
    assert row["escalation_tier"] == 3
    until("Synapse says so", lambda: [m for m in daemon.synapse() if "has arrived over signal" in m["body"]])
    for name in ("notifier", "healer", "store"):
        daemon.kill_worker(name)
        daemon.wait_ready()
    phone.fault = Fault()
    said = until("the end", lambda: [one.text for one in phone.sent if "Signal works again" in one.text], 60)
    assert "nothing over it; " in said[0]
    daemon.wait_state("messages:signal", "self_resolved")
    daemon.kill_worker("healer")
    daemon.wait_ready()
    until("everything is delivered", lambda: daemon.ask("tree")["outbox"]["pending"] == 0, 60)
    assert len([one for one in phone.sent if "Signal works again" in one.text]) == 1
    assert [one.text for one in phone.sent if one.text.startswith("toy is down")]
    daemon.stop()
