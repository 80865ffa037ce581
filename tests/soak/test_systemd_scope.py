"""Under a real systemd (a container booted on an overlay of this machine): a healed service gets a scope of its own.

Without it, stopping healctl.service would end every service that healctl has ever restarted (KillMode=control-group).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import proc
from tests.lab.daemon import HEALCTL, TOY, until

pytestmark = pytest.mark.soak
HOME = "/srv/healctl-soak"


class Container:
    """Commands run inside by nsenter; `leader` is its pid 1 as this machine numbers it."""

    def __init__(self, leader: int) -> None:
        self.leader = leader

    def run(self, *argv: str) -> str:
        done = subprocess.run(
            ["nsenter", "-t", str(self.leader), "-a", *argv], capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def read(self, path: str) -> str:
        return self.run("cat", path)


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    if os.geteuid() != 0 or shutil.which("systemd-nspawn") is None:
        pytest.skip("needs root and systemd-nspawn (Debian: systemd-container)")
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(tmp_path)], check=True)
    for name in ("upper", "work", "root"):
        (tmp_path / name).mkdir()
    options = f"lowerdir=/,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, f"{tmp_path}/root"], check=True)
    # Never on the machine's own root: its tmpfiles would empty the temp directory.
    argv = ["systemd-nspawn", "--register=no", "--keep-unit", "-D", f"{tmp_path}/root", "--private-network"]
    nspawn = subprocess.Popen(
        [*argv, "--console=pipe", "-b", "systemd.unit=basic.target"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        leader = until("its pid 1", lambda: _child_of(nspawn.pid))
        made = Container(leader)
        until("systemd", lambda: "running" in made.run("systemctl", "is-system-running"), 60)
        yield made
        os.kill(leader, signal.SIGRTMIN + 4)  # power off
        nspawn.wait(30)
    finally:
        if nspawn.poll() is None:
            nspawn.kill()
            nspawn.wait(10)
        subprocess.run(["umount", "-l", f"{tmp_path}/root"], check=False)
        subprocess.run(["umount", "-l", str(tmp_path)], check=False)


def _child_of(parent: int) -> int | None:
    stats = (proc.stat(pid) for pid in proc.pids())
    return next((s.pid for s in stats if s is not None and s.parent_pid == parent and s.name == "systemd"), None)


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
