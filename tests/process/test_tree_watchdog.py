"""systemd's watchdog against the real daemon: a WATCHDOG=1 is an engine's round, made durable, and nothing else."""

from __future__ import annotations

import select
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from supervisor import proc
from tests.lab.daemon import Daemon, Site, locked, site, until
from tests.process.treelab import Lab

QUIET_S = 1.0  # many beats


class Systemd:
    """The other end of NOTIFY_SOCKET, an abstract address."""

    def __init__(self, watchdog_s: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("")
        self.environment = {
            "NOTIFY_SOCKET": "@" + self.socket.getsockname()[1:].decode(),
            "WATCHDOG_USEC": str(int(watchdog_s * 1_000_000)),
        }
        self.told: list[str] = []

    def hear(self, within_s: float) -> str | None:
        if not select.select([self.socket], [], [], within_s)[0]:
            return None
        self.told.append(self.socket.recv(4096).decode())
        return self.told[-1]

    def wait_for_pings(self, count: int = 1, within_s: float = 60.0) -> None:
        """So many from now on."""
        end = time.monotonic() + within_s
        while count:
            said = self.hear(max(0.0, end - time.monotonic()))
            assert said is not None, f"no WATCHDOG=1 within {within_s} s; told: {self.told[-10:]}"
            count -= said == "WATCHDOG=1"

    def drain(self) -> None:
        """Forgets what it has been told so far."""
        while self.hear(0.0) is not None:
            pass

    def falls_silent(self, within_s: float = 20.0) -> bool:
        """Whether no ping comes for many beats, once those have come that were on their way when the cause was set."""
        last_s = began_s = time.monotonic()
        while (now_s := time.monotonic()) < last_s + QUIET_S:
            if self.hear(last_s + QUIET_S - now_s) == "WATCHDOG=1":
                last_s = time.monotonic()
            if last_s > began_s + within_s:
                return False
        return True


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    made = Systemd(1.5)
    yield made
    made.socket.close()


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


def started(here: Site, systemd: Systemd, tree: str) -> Daemon:
    daemon = here.daemon(f'[tree]\nbeat = "100ms"\n{tree}\n')
    daemon.start(**systemd.environment)
    systemd.wait_for_pings(3)
    return daemon


PATIENT = 'beat_within = "5m"'  # the tree's own ladder is not what is tested


@pytest.mark.req("NFR-002")
def test_the_pings_stop_while_nothing_becomes_durable_and_go_on_after_it(here: Site, systemd: Systemd) -> None:
    daemon = started(here, systemd, PATIENT)
    for name in ("healer", "store"):
        ref = daemon.worker(name)
        assert proc.send_signal(ref, signal.SIGSTOP)
        assert systemd.falls_silent(), f"no round comes round without the {name}"
        assert proc.send_signal(ref, signal.SIGCONT)
        systemd.wait_for_pings(2)
        assert daemon.worker(name) == ref
    with locked(daemon.state_dir / "ledger.db"):  # the store lives and answers, and acknowledges nothing
        assert systemd.falls_silent()
    systemd.wait_for_pings(2)
    daemon.stop()
    assert "STOPPING=1" in [*systemd.told, *iter(lambda: systemd.hear(0.0), None)]


@pytest.mark.req("NFR-002")
def test_the_ladder_replaces_a_hung_healer_and_killed_ones_and_the_pings_go_on(here: Site, systemd: Systemd) -> None:
    daemon = started(here, systemd, 'beat_within = "500ms"\nabort_grace = "100ms"')
    hung = daemon.worker("healer")
    assert proc.send_signal(hung, signal.SIGSTOP)
    until("another healer", lambda: daemon.worker("healer") != hung)
    systemd.drain()
    systemd.wait_for_pings(3)
    for name in ("healer", "store"):
        daemon.kill_worker(name)
        systemd.wait_for_pings(3)
    daemon.stop()


@pytest.mark.req("NFR-002")
def test_a_healer_that_dies_again_and_again_is_not_pinged_for_although_each_life_comes_round() -> None:
    lab, systemd = Lab(), Systemd(6.0)
    try:
        lab.do("ear", "failing", times=5)
        lab.start([("ear", "Rounding", "core")], listener="ear", env=systemd.environment,
                  beat=0.05, core_intensity=50, backoff_base=0.01, backoff_max=0.1)  # fmt: skip
        starts = [lab.what("start") for _ in range(5)]
        assert "WATCHDOG=1" not in [*iter(lambda: systemd.hear(0.0), None)], "0.3 s is less than a third of 6 s"
        systemd.wait_for_pings(1)
        steady = lab.what("start")
        assert len({said["pid"] for said in [*starts, steady]}) == 6
        assert lab.stop() == 0
    finally:
        lab.close()
        systemd.socket.close()
