"""The pages that no daemon sends: the core gave up, or systemd says that the whole unit has failed."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest

from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import Fault, Kind, SignalDouble
from tests.lab.daemon import HEALCTL, WAIT_S, Daemon, Site

UNIT = "healctl.service"


def give_up(daemon: Daemon, worker: str, **environment: str) -> None:
    daemon.start(**environment)
    daemon.kill_worker(worker)
    daemon.wait_ready()
    daemon.kill_worker(worker)
    assert daemon.process is not None
    assert daemon.process.wait(WAIT_S) == 70
    assert daemon.workers() == {}


@pytest.mark.req("FR-005", "NFR-003", "R2")
def test_the_core_gives_up_pages_and_exits_70_and_pages_once_for_what_systemd_starts_again(
    here: Site, phone: SignalDouble
) -> None:
    daemon = here.daemon("[tree]\ncore_intensity = 1\n" + signal_toml(phone))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("")
        address = "@" + systemd.getsockname()[1:].decode()
        give_up(daemon, "healer", NOTIFY_SOCKET=address)
        (page,) = phone.sent
        assert page.text.startswith("healctl gave up: healer failed 2 times in 60 s; last: killed by SIGKILL")
        assert len(page.text) < 600
        assert "[root] paged" in daemon.tail()
        give_up(daemon, "healer", NOTIFY_SOCKET=address)
    assert phone.sent == [page]
    assert "paged for this 0 minutes ago" in daemon.tail()


@pytest.mark.req("FR-005")
def test_a_core_that_gives_up_and_reaches_nobody_says_so_and_ends_all_the_same(here: Site) -> None:
    daemon = here.daemon(
        '[tree]\ncore_intensity = 1\n[notify.signal]\ntransports = ["http://127.0.0.1:9"]\n'
        'account = "+15550100"\nrecipient = "+15550101"\n'
    )
    give_up(daemon, "store")
    assert "the page was not sent" in daemon.tail()
    assert "127.0.0.1:9" in daemon.tail(), "and why"


def page(here: Site, config: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`healctl page` as systemd runs it: there is no daemon."""
    file = here.daemon(config).config_file
    return subprocess.run(
        [str(HEALCTL), "-c", str(file), "page", "--unit", UNIT, *words],
        env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.req("FR-005", "NFR-003")
def test_a_failed_unit_is_paged_once_an_hour_and_a_page_that_nobody_took_does_not_count(
    here: Site, phone: SignalDouble
) -> None:
    config = signal_toml(phone)
    phone.fault = Fault(Kind.ERROR, code=-1)
    done = page(here, config, MONITOR_SERVICE_RESULT="start-limit-hit")
    assert (done.returncode, phone.sent) == (1, [])
    assert "the last page could not be sent" in done.stderr
    phone.fault = Fault()
    done = page(here, config, MONITOR_SERVICE_RESULT="start-limit-hit", MONITOR_EXIT_CODE="exited",
                MONITOR_EXIT_STATUS="70")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, f"{UNIT}: paged\n")
    assert "it failed too often, one start after another; exit 70: the core gave up" in phone.sent[0].text
    done = page(here, config)
    assert (done.returncode, done.stderr) == (0, f"{UNIT}: paged 0 minutes ago, not again within the hour\n")
    assert len(phone.sent) == 1


@pytest.mark.req("FR-005")
def test_what_systemd_has_ended_is_told_and_what_has_stopped_in_good_order_is_not(
    here: Site, phone: SignalDouble
) -> None:
    config = signal_toml(phone)
    for result in ("success", "exit-code", ""):
        assert page(here, config, "--restarted", SERVICE_RESULT=result).returncode == 0
    assert phone.sent == []
    assert page(here, config, "--restarted", SERVICE_RESULT="watchdog").returncode == 0
    assert "systemd starts it again" in phone.sent[0].text
    assert page(here, config, SERVICE_RESULT="watchdog").returncode == 0, "that it is down for good is another thing"
    assert "is down" in phone.sent[1].text


@pytest.mark.req("FR-005")
def test_with_nobody_to_page_it_says_so(here: Site) -> None:
    done = page(here, "")
    assert done.returncode == 1
    assert "nobody to send to: set notify.signal.recipient" in done.stderr
