"""The shipped units under a real systemd, booted: its watchdog, its limit on starts, and the last page."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import proc
from supervisor.install.unit import FAILURE, SERVICE, failure, service
from tests.lab.container import Container, booted
from tests.lab.daemon import HEALCTL, ROOT, until

pytestmark = pytest.mark.soak
HOME = "/srv/healctl-soak"
SENT = f"{HOME}/sent"


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with booted(tmp_path) as made:
        yield made


def put(container: Container, path: str, text: str) -> None:
    done = subprocess.run(
        ["nsenter", "-t", str(container.leader), "-a", "tee", path],
        input=text,
        text=True,
        capture_output=True,
        check=True,
    )
    assert done.stdout == text


def show(container: Container, key: str, unit: str = SERVICE) -> str:
    return container.run("systemctl", "show", "-p", key, "--value", unit).strip()


def install(container: Container, tree: str) -> None:
    """The units as they are shipped, with a shorter watchdog and no wait between starts; and a phone."""
    container.run("mkdir", "-p", HOME)
    double = [sys.executable, "-m", "tests.doubles.signal_double", "--port", "8080", "--log", SENT]
    container.run("ip", "link", "set", "lo", "up")
    container.run("systemd-run", "--unit=phone", f"--working-directory={ROOT}", *double)
    until("the phone", lambda: ":1F90 " in container.read("/proc/net/tcp"))  # 8080
    config = (
        f'[healctl]\nstate_dir = "{HOME}/state"\nruntime_dir = "{HOME}/run"\n'
        f'[disk]\nmounts = []\ndiscover = false\n[memory]\npressure = "2MB"\ncritical = "1MB"\n[logs]\n{tree}\n'
        '[notify.signal]\ntransports = ["http://127.0.0.1:8080"]\naccount = "+15550100"\nrecipient = "+15550101"\n'
    )
    put(container, f"{HOME}/c.toml", config)
    program = (str(HEALCTL), "-c", f"{HOME}/c.toml")
    put(container, f"/etc/systemd/system/{SERVICE}", service(program))
    put(container, f"/etc/systemd/system/{FAILURE}", failure(program))
    container.run("mkdir", "-p", f"/etc/systemd/system/{SERVICE}.d")
    put(container, f"/etc/systemd/system/{SERVICE}.d/quick.conf", "[Service]\nWatchdogSec=6\nRestartSec=100ms\n")
    container.run("systemctl", "daemon-reload")


def sent(container: Container) -> list[str]:
    return [json.loads(line)["text"] for line in container.read(SENT).splitlines() if line.startswith("{")]


def active(container: Container) -> str:
    """The main process, once the unit is active."""
    until("active", lambda: show(container, "ActiveState") == "active", 60)
    return show(container, "MainPID")


def child(container: Container, root: str, name: str) -> int:
    """The worker's pid as the container numbers it."""
    found = container.run("pgrep", "-P", root, "-f", f"^healctl: {name}")
    assert found.strip().isdigit(), found
    return int(found)


@pytest.mark.req("NFR-002", "FR-005")
def test_systemd_restarts_what_completes_no_round_and_the_last_failure_is_paged_without_a_daemon(
    container: Container,
) -> None:
    # The tree's own ladder is made slow, so that systemd's watchdog must act.
    install(container, '[tree]\nbeat = "200ms"\nbeat_within = "10m"\n')
    assert "healctl" not in container.run("systemd-analyze", "verify", f"/etc/systemd/system/{SERVICE}")
    assert container.run("systemctl", "start", SERVICE) == ""
    first = active(container)
    until("it is fed", lambda: int(show(container, "WatchdogTimestampMonotonic") or 0) > 0, 30)
    container.run("sleep", "15")  # more than two watchdog intervals: a healthy one is left alone
    assert active(container) == first
    healer = child(container, first, "healer")
    container.run("kill", "-STOP", str(healer))
    until("another daemon", lambda: show(container, "MainPID") not in ("0", first), 60)
    second = active(container)
    assert show(container, "NRestarts") == "1"
    assert not proc.command_line(healer) or "healctl" not in container.read(f"/proc/{healer}/cmdline")
    (page,) = until("the page about the watchdog", lambda: sent(container), 30)
    assert "completed no round within WatchdogSec" in page
    assert "systemd starts it again" in page

    # Somebody waits for the daemon's place, and gets it when the daemon dies: each new one ends at its start.
    container.run("systemd-run", "--unit=squatter", "flock", f"{HOME}/run/healctl.lock", "sleep", "600")
    until("the squatter waits", lambda: "-> FLOCK" in container.read("/proc/locks"))
    container.run("kill", "-9", second)
    until("failed for good", lambda: show(container, "ActiveState") == "failed", 120)
    last = until("the last page", lambda: [text for text in sent(container) if "is down" in text], 60)
    assert len(last) == 1
    assert "failed (exit 1; after 5 restarts)" in last[0]
    assert sent(container) == [page, *last], "nothing else within the hour"
    assert f"systemctl start {SERVICE}" in last[0]
    assert len(last[0]) < 600
    assert container.run("pgrep", "-f", "^healctl:") == ""
    print(page, last[0], sep="\n\n")
