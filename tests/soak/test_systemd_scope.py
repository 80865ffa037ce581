"""Under a real systemd (a container booted on an overlay of this machine): a healed service gets a scope of its own.

Without it, stopping healctl.service would end every service that healctl has ever restarted (KillMode=control-group).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.container import Container, booted
from tests.lab.daemon import HEALCTL, TOY, until

pytestmark = pytest.mark.soak
HOME = "/srv/healctl-soak"


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    with booted(tmp_path) as made:
        yield made


@pytest.mark.req("FR-003", "AC-001")
def test_a_restarted_service_lives_in_its_own_scope_and_survives_the_stop_of_healctl(container: Container) -> None:
    toy = [sys.executable, str(TOY), "--pid-file", f"{HOME}/toy.pid", "--starts", f"{HOME}/starts"]
    argv = ", ".join(f'"{word}"' for word in toy)
    config = (
        f'[healctl]\nstate_dir = "{HOME}/state"\nruntime_dir = "{HOME}/run"\n'
        f'[process.toy]\npid_file = "{HOME}/toy.pid"\nauto_restart = true\nrestart = {{ argv = [{argv}] }}\n'
    )
    container.run("bash", "-c", f"mkdir -p {HOME} && cat >{HOME}/c.toml <<'END'\n{config}\nEND")
    container.run("systemd-run", "--unit=toy", *toy)
    first = until("the service", lambda: container.read(f"{HOME}/toy.pid").strip().isdigit())
    assert first
    old = container.read(f"{HOME}/toy.pid").strip()
    start = ["systemd-run", "--unit=healctl", "-p", "Type=notify", str(HEALCTL), "-c", f"{HOME}/c.toml", "start"]
    container.run(*start)
    until("healctl", lambda: container.run("systemctl", "is-active", "healctl").strip() == "active")
    container.run("kill", "-9", old)
    until("another process", lambda: container.read(f"{HOME}/toy.pid").strip() not in ("", old))
    new = container.read(f"{HOME}/toy.pid").strip()
    cgroup = next(line for line in container.read(f"/proc/{new}/cgroup").splitlines() if "systemd" in line)
    assert ".scope" in cgroup
    assert "healctl" not in cgroup
    status = [str(HEALCTL), "-c", f"{HOME}/c.toml", "heal", "status", "--json"]
    until("verified", lambda: '"open_incidents":[]' in container.run(*status))
    container.run("systemctl", "stop", "healctl")
    assert container.run("systemctl", "is-active", "healctl").strip() == "inactive"
    time.sleep(1)  # what would end it would have done so by now: there is no event for "nothing happens"
    assert container.read(f"{HOME}/toy.pid").strip() == new
    assert "sleeping" in container.read(f"/proc/{new}/status")
    assert len(container.read(f"{HOME}/starts").split()) == 2
