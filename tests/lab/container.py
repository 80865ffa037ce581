"""A real systemd as pid 1: a container booted on an overlay of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import proc
from tests.lab.daemon import until


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


@contextlib.contextmanager
def booted(tmp_path: Path) -> Iterator[Container]:
    """On an overlay of this machine; `tmp_path` must be empty. Skips where none can run."""
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
        nspawn.wait(60)
    finally:
        if nspawn.poll() is None:
            nspawn.kill()
            nspawn.wait(60)
        subprocess.run(["umount", "-l", f"{tmp_path}/root"], check=False)
        subprocess.run(["umount", "-l", str(tmp_path)], check=False)


def _child_of(parent: int) -> int | None:
    stats = (proc.stat(pid) for pid in proc.pids())
    return next((s.pid for s in stats if s is not None and s.parent_pid == parent and s.name == "systemd"), None)
