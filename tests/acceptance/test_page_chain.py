"""The way to Signal is itself what broke: neither its restart nor the page waits for the other (AC-011)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor import proc
from tests.doubles.senders import Sender
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import WAIT_S, Site, until

NUMBERS = 'account = "+15550100"\nrecipient = "+15550101"\n'


@pytest.mark.req("AC-011", "FR-005", "R2")
def test_ac_011_the_page_does_not_wait_for_the_restart_of_signal_cli(here: Site, tmp_path: Path) -> None:
    """Its daemon is gone, so the page leaves by openclaw, while the daemon's slow start still goes on."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    held = os.open(gate, os.O_RDWR)
    openclaw = Sender(tmp_path, "openclaw")
    service = here.service("signal-cli")
    before = service.start()
    slow = ("/bin/sh", "-c", f'read line < {gate}; exec "$@"', "-", *service.argv)
    recipe = ", ".join(f"'{word}'" for word in slow)
    daemon = here.daemon(
        f'[process.signal-cli]\npid_file = "{service.pid_file}"\nauto_restart = true\n'
        f"restart = {{ argv = [{recipe}] }}\n"
        f'[policy]\npage_hold = "300ms"\n'
        f'[notify.signal]\ntransports = ["http://127.0.0.1:9", "{openclaw.path}"]\n{NUMBERS}'
    )
    try:
        daemon.start()
        daemon.wait_known(service)
        service.kill()
        (started,) = until("the page", openclaw.runs)
        assert "signal-cli" in started["argv"][started["argv"].index("--message") + 1]
        (incident,) = daemon.open_incidents()
        assert incident["state"] in ("remediating", "verifying")
        assert service.ref() is None
        os.write(held, b"go\n")
        assert service.wait_new(before) != before
        daemon.wait_state("signal-cli", "resolved")
        daemon.stop()
    finally:
        os.close(held)


@pytest.mark.req("AC-011", "FR-005", "R2")
def test_ac_011_the_restart_of_signal_cli_does_not_wait_for_the_page(here: Site, phone: SignalDouble) -> None:
    """Whoever answers at its address accepts the page and hangs: the daemon is healed all the same."""
    phone.fault = Fault(Kind.HANG)
    service = here.service("signal-cli")
    service.start()
    daemon = here.daemon(service.toml() + f'[notify.signal]\ntransports = ["{phone.url}"]\n{NUMBERS}')
    daemon.start()
    daemon.wait_known(service)
    dead = service.kill()
    daemon.wait_state("signal-cli", "resolved")
    assert (new := service.ref()) is not None
    assert new != dead
    assert proc.same(new) is not None
    phone.wait_for_requests(1, WAIT_S)
    assert phone.sent == []
    assert "signal" in {one["channel"] for one in daemon.ask("tree")["outbox"]["rows"]}  # it stays visible
    phone.fault = Fault()
    phone.wait_for(1, 60)
    until("the receipt", lambda: daemon.ask("tree")["outbox"]["pending"] == 0, 60)
    daemon.stop()
