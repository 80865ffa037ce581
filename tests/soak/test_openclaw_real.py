"""The real OpenClaw gateway, up, stopped (SIGSTOP) and ended: the probe's two ways to judge it, and that the recorded
answers on which `make check` relies are still what it says."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from probes import selfreport
from probes.base import DEADLINE_S
from probes.gateway import GatewayProbe
from supervisor import http, proc
from supervisor.config import Config, GatewaySection
from supervisor.incidents.readings import Endpoint, GatewayData
from tests import parts
from tests.doubles.openclaw_double import recorded
from tests.lab.daemon import gone, site, until

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

UP_WITHIN_S = 120.0


class OpenClaw:
    def __init__(self, folder: Path, more: dict[str, Any] | None = None, plugin: Path | None = None) -> None:
        """`more`: of its configuration; `plugin`: the folder of one that is installed first."""
        part = parts.openclaw()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        (folder / "state").mkdir()
        auth = {"mode": "token", "token": "t"}
        settings = {"gateway": {"mode": "local", "port": self.port, "bind": "loopback", "auth": auth}, **(more or {})}
        (folder / "state" / "openclaw.json").write_bytes(msgspec.json.encode(settings))
        self.url = f"http://127.0.0.1:{self.port}"
        self.status = (str(part.program), "gateway", "status", "--json")
        self.environment = {
            "PATH": f"{part.node}:{os.defpath}:/usr/bin:/bin",
            "HOME": str(folder),
            "OPENCLAW_STATE_DIR": str(folder / "state"),
        }
        if plugin is not None:
            words = ("plugins", "install", "-l", "--force", "--accept-capabilities", str(plugin))
            environment = {**os.environ, **self.environment}
            done = subprocess.run(
                [part.program, *words], env=environment, capture_output=True, timeout=120, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [part.program, "gateway", "run"],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def answers(self, path: str) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            answer = asyncio.run(http.request(self.url, path=path, timeout_s=2))
        except http.HttpError:
            return False
        return selfreport.health(answer.status, answer.body).endpoint is Endpoint.OK

    def end(self) -> None:
        """An orderly end: it takes its helpers, which have sessions of their own, along."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                helpers = [s for pid in proc.pids() if (s := proc.stat(pid)) and s.parent_pid == self.process.pid]
                self.process.kill()
                self.process.wait(30)
                for helper in helpers:
                    proc.send_signal(helper.ref, signal.SIGKILL)
                    gone(helper.ref)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[OpenClaw]:
    gateway = OpenClaw(tmp_path)
    try:
        until(
            "OpenClaw is live and ready",
            lambda: gateway.answers("/healthz") and gateway.answers("/readyz"),
            UP_WITHIN_S,
        )
        yield gateway
    finally:
        gateway.end()


async def verdict(**keys: Any) -> GatewayData:
    """The first verdict of a new probe; every reading on the way comes within its deadline."""
    probe = GatewayProbe(Config(gateway={"gw": GatewaySection(**keys)}))
    try:
        async with asyncio.timeout(60):
            while True:
                reading = await probe.read("gw", DEADLINE_S)
                assert reading.took_ms < DEADLINE_S * 1000
                assert isinstance(reading.data, GatewayData), reading.error
                if reading.data.endpoint is not Endpoint.UNSET:
                    return reading.data
                running = probe._gateways["gw"].running
                if running is not None:
                    await running
    finally:
        probe.close()


def form(value: object) -> object:
    """The keys and the types of a JSON value, and no more."""
    if isinstance(value, dict):
        return {key: form(inner) for key, inner in value.items()}
    return [form(inner) for inner in value[:1]] if isinstance(value, list) else type(value).__name__


def said_as_recorded(real: OpenClaw, name: str) -> None:
    """The fields that are judged have their recorded values, and the parts they stand in their recorded form."""
    environment = {**os.environ, **real.environment}
    done = subprocess.run(real.status, capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, "it exits 0 whatever it found"
    now, then = msgspec.json.decode(done.stdout), msgspec.json.decode(recorded(name))
    for part in ("rpc", "port"):
        assert form(now[part]) == form(then[part])
    assert now["rpc"]["ok"] == then["rpc"]["ok"]
    assert now["rpc"].get("timedOut") == then["rpc"].get("timedOut")
    assert now["port"]["status"] == then["port"]["status"]


@pytest.mark.req("FR-001", "FR-002", "R9")
def test_up_hung_and_stopped(real: OpenClaw, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in real.environment.items():
        monkeypatch.setenv(key, value)

    def both(endpoint: Endpoint, by_address: Endpoint) -> None:
        assert asyncio.run(verdict(status=real.status)).endpoint is endpoint
        for path in ("/healthz", "/readyz"):
            found = asyncio.run(verdict(status=("true",), health_url=real.url + path))
            assert found.endpoint is by_address, found.detail

    both(Endpoint.OK, Endpoint.OK)
    said_as_recorded(real, "status-up.json")
    page = asyncio.run(verdict(status=("true",), health_url=real.url + "/no-such-path"))
    assert page.endpoint is Endpoint.BAD_ANSWER, "200, but it is the control page"

    real.process.send_signal(signal.SIGSTOP)
    both(Endpoint.TIMEOUT, Endpoint.TIMEOUT)
    said_as_recorded(real, "status-hung.json")
    real.process.send_signal(signal.SIGCONT)
    until("it answers again", lambda: real.answers("/healthz"))

    real.end()
    both(Endpoint.REFUSED, Endpoint.REFUSED)
    said_as_recorded(real, "status-stopped.json")


@pytest.mark.req("FR-003", "FR-007", "R15")
def test_a_restart_through_healctl(real: OpenClaw) -> None:
    """The whole way: a person's order, the step, the real command, its answer judged, the probe's last word."""
    with site() as here:
        own = f"OPENCLAW_STATE_DIR={real.environment['OPENCLAW_STATE_DIR']}"  # a step's environment is a clean one
        restart = ["env", own, str(real.status[0]), "gateway", "restart", "--json"]
        words = ", ".join(f'"{word}"' for word in restart)
        status = ", ".join(f'"{word}"' for word in real.status)
        daemon = here.daemon(
            f'[gateway.gw]\nstatus = [{status}]\nrestart = [{words}]\nrestart_timeout = "90s"\n'
            f'health_url = "{real.url}/healthz"\ninterval = "5s"\n[policy]\nclear_interval = "1s"\n'
        )
        daemon.start(**real.environment)
        until("it reads well", lambda: daemon.ask("probe", target_id="gw")["outcome"] == "clear")
        before = real.process.pid
        answer = daemon.ask("execute", runbook_id="rb-gateway-restart", target_id="gw", confirm=True, deadline_s=200.0)
        print(answer)
        (step,) = answer["steps_executed"]
        if step["status"] == "success":
            assert answer["verification_passed"]
        else:  # a gateway that is no service of the machine's: nothing was restarted, and that is said
            assert "not-loaded" in step["output"]
        assert real.process.pid == before
        assert real.answers("/healthz")
        daemon.stop()
