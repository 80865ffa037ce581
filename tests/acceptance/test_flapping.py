"""A service that does not stay up (R6, DESIGN §2.8): tried 3 times, then a loud breaker, then one more try."""

from __future__ import annotations

import os
import time

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import WAIT_S, Daemon, Site, until

# The shape of the defaults at a tenth of their length: what lives 2 s with a settle of 1 s lives 0.6 s with 0.3 s.
TENTH = """
[policy]
settle = "300ms"
verify_within = "3s"
clear_interval = "3s"
breaker_window = "25s"
"""


def cpu_s(daemon: Daemon) -> float:
    """User and system time of the whole tree, in seconds."""
    assert daemon.process is not None
    total = 0
    for pid in (daemon.process.pid, *(ref.pid for ref in daemon.workers().values())):
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


@pytest.mark.req("R6", "R2", "FR-005")
def test_three_runs_then_the_breaker_opens_loudly_stays_idle_and_half_opens_once(
    here: Site, phone: SignalDouble
) -> None:
    toy = here.service("toy", "--exit-after", "0.6", "--exit-code", "1")
    daemon = here.daemon(toy.toml() + TENTH + signal_toml(phone))
    daemon.start()
    (row,) = daemon.wait_state("toy", "escalated")
    opened = time.monotonic()
    assert toy.starts() == 3
    (breaker,) = daemon.ask("tree")["breakers"]
    assert breaker["state"] == "open"
    assert row["escalation_tier"] == 3
    page = until("the breaker's page", lambda: [s for s in phone.sent if "healctl tries once more at" in s.text])
    assert "healctl tried to restart toy 3 times" in page[0].text
    before = cpu_s(daemon)
    until("five idle seconds", lambda: time.monotonic() > opened + 6)
    assert toy.starts() == 3
    assert cpu_s(daemon) - before < 3.0, "an open breaker keeps nobody busy: not half a core, however slow it is"
    until("the one more try", lambda: toy.starts() == 4, 40)
    assert time.monotonic() - opened > 15
    until("the breaker stands again", lambda: daemon.ask("tree")["breakers"][0]["state"] == "open")
    assert toy.starts() == 4
    assert len(daemon.open_incidents()) == 1
    daemon.stop()


@pytest.mark.req("R6", "FR-004")
def test_what_dies_within_settle_escalates_after_its_first_run_with_its_last_words(
    here: Site, phone: SignalDouble
) -> None:
    toy = here.service("toy", "--say", "the port is taken", "--exit-after", "0.1", "--exit-code", "3")
    daemon = here.daemon(toy.toml() + signal_toml(phone))
    daemon.start()
    (row,) = daemon.wait_state("toy", "escalated")
    assert toy.starts() == 1
    assert "the port is taken" in str(row["audit_trail"])
    (page,) = phone.wait_for(1, WAIT_S)
    assert "port is taken" in page.text
    daemon.stop()
