"""The real signal-cli daemon, watched as the site has it: by its command line and its check address (SITE.md).

Killed it is dead; stopped (SIGSTOP) it lives and does not answer, though the kernel still accepts connections for it.
Its twin is never touched and stays silent.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import http, proc
from supervisor.incidents.readings import ProcessRef
from tests import parts
from tests.lab.daemon import Site, gone, until

UP_WITHIN_S = 60.0


class SignalCli:
    """One daemon in a folder of its own; it runs as `java`, so that only its command line tells which it is."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        part = parts.signal_cli()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.name = folder.name
        self._log = folder / "log"
        self._argv = [str(part.program), "--config", str(folder / "data"), "daemon", "--http", self.address]
        self._env = {**os.environ, "JAVA_HOME": str(part.java_home)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait_up(self) -> None:
        until(f"{self.name} is up: {self._log.read_text()}", self._answers, UP_WITHIN_S)

    def _answers(self) -> bool:
        try:
            return asyncio.run(http.request(f"http://{self.address}", path="/api/v1/check", timeout_s=2)).status == 200
        except http.HttpError:
            return False

    def ref(self) -> ProcessRef:
        assert self.process is not None
        status = proc.stat(self.process.pid)
        assert status is not None
        return status.ref

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)

    def toml(self) -> str:
        return (
            f"[process.{self.name}]\nmatch = 'signal-cli.* daemon --http {self.address}( |$)'\n"
            f'endpoint = "http://{self.address}/api/v1/check"\ninterval = "1s"\n'
        )


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[SignalCli, SignalCli]]:
    watched, twin = SignalCli(tmp_path / "watched"), SignalCli(tmp_path / "twin")
    try:
        watched.start()
        twin.start()
        watched.wait_up()
        twin.wait_up()
        yield watched, twin
    finally:
        watched.end()
        twin.end()


@pytest.mark.req("FR-001", "FR-002", "R7")
def test_killed_it_is_dead_and_stopped_it_hangs(here: Site, pair: tuple[SignalCli, SignalCli]) -> None:
    watched, twin = pair
    daemon = here.daemon(watched.toml() + twin.toml())
    daemon.start()
    assert daemon.open_incidents() == []

    watched.signal(signal.SIGSTOP)
    until("the hang is detected", lambda: daemon.incidents("watched"), 60)
    (hung,) = daemon.incidents("watched")
    assert (hung["anomaly_type"], hung["severity"]) == ("process_dead", "critical")
    assert "it is alive, but its endpoint accepts but does not answer" in str(hung["audit_trail"])
    watched.signal(signal.SIGCONT)
    daemon.wait_state("watched", "self_resolved")

    ref = watched.ref()
    watched.end()
    gone(ref)
    until("the death is detected", lambda: len(daemon.incidents("watched")) == 2)
    dead = daemon.incidents("watched")[1]
    assert (dead["anomaly_type"], dead["severity"]) == ("process_dead", "critical")
    assert "no live process" in str(dead["audit_trail"])
    watched.start()
    watched.wait_up()
    daemon.wait_state("watched", "self_resolved", count=2, within_s=60)
    assert daemon.incidents("twin") == []
    daemon.stop()
