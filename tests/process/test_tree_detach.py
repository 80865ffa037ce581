"""Starting in the background: the caller returns when the tree is ready, or with the reason why it is not."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator

import pytest

from supervisor import proc
from supervisor.tree import lock
from tests.process.treelab import Lab, children_of, gone


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    yield lab
    ref = lock.holder(lab.runtime_dir)
    if ref is not None:
        proc.send_signal(ref, signal.SIGKILL)
    lab.close()


def test_returns_when_ready_and_lives_on(lab: Lab) -> None:
    caller = lab.start([("a", "Toy", "core"), ("b", "Toy", "hands")], detach=True)
    assert caller.wait(60) == 0
    ref = lock.holder(lab.runtime_dir)
    assert ref is not None
    assert f"healctl runs in the background (pid {ref.pid})" in lab.log()
    assert len(children_of(ref.pid)) == 2
    stat = proc.stat(ref.pid)
    assert stat is not None
    assert stat.session not in (ref.pid, os.getsid(0))  # no terminal can come back
    assert "[b] ready" in (lab.state_dir / "healctl.log").read_text()
    second = lab.start([("a", "Toy", "core")], detach=True)
    assert second.wait(60) == 1
    assert f"healctl did not start: healctl is already running: pid {ref.pid}" in lab.log()
    proc.send_signal(ref, signal.SIGTERM)
    assert gone(ref.pid, 60)
    assert lock.holder(lab.runtime_dir) is None


def test_a_core_that_cannot_start_is_shown(lab: Lab) -> None:
    lab.do("a", "crash", times=99)
    caller = lab.start([("a", "Toy", "core")], detach=True, core_intensity=2, backoff_base=0.01)
    assert caller.wait(60) == 70
    assert "healctl did not start: a failed 3 times in 60 s" in lab.log()
    assert "a toy was told to crash" in lab.log()


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(lab: Lab, abstract: bool) -> None:
    path = f"\0{lab.dir}" if abstract else str(lab.dir / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.settimeout(60)
        systemd.bind(path)
        env = {"NOTIFY_SOCKET": path.replace("\0", "@"), "WATCHDOG_USEC": "200000"}
        lab.start([("a", "Rounding", "core")], listener="a", env=env, beat=0.1)
        told = [systemd.recv(4096).decode()]
        while "READY=1" not in told[-1]:
            told.append(systemd.recv(4096).decode())
        assert told[-1] == "READY=1\nSTATUS=1 of 1 workers ready"
        assert told[0] == "EXTEND_TIMEOUT_USEC=41000000", "a start that goes on may take so much longer"
        while told[-1] != "WATCHDOG=1":
            told.append(systemd.recv(4096).decode())
        assert lab.stop() == 0
        while told[-1] != "STOPPING=1":
            told.append(systemd.recv(4096).decode())
