"""What the process probe reads of services that systemd or PM2 runs, and of processes from before its own time."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from probes import managers
from probes import process as process_module
from probes.base import Events
from probes.process import ProcessProbe
from supervisor import proc
from supervisor.config import Config, Duration, PolicySection, ProcessSection, RestartSection
from supervisor.incidents.readings import HealthReading, Manager, PidFile, ProcessData, ProcessRef, Unavailable
from tests import parts
from tests.lab.daemon import gone, until
from tests.lab.pm2 import Pm2, pm2
from tests.lab.systemd import UserManager, main_pid, user_manager


@pytest.fixture(scope="module")
def systemd() -> Iterator[UserManager]:
    parts.systemd()
    with user_manager() as made:
        yield made


def ask(restart: RestartSection, env: Mapping[str, str], last_pid: int = 0, timeout_s: float = 10.0) -> managers.Told:
    return asyncio.run(managers.ask(restart, env, last_pid, timeout_s))


def kill(ref: ProcessRef | None) -> ProcessRef:
    assert ref is not None
    assert proc.send_signal(ref, signal.SIGKILL)
    gone(ref)
    return ref


# --- systemd ---------------------------------------------------------------------------------------------------------


@pytest.mark.req("R8")
def test_the_word_of_a_real_systemd_on_every_state(systemd: UserManager) -> None:
    def told(unit: str) -> Manager:
        return ask(RestartSection(systemd=unit, user=True), systemd.environment).manager

    for name, options in (("slow", ["Restart=always", "RestartSec=600"]), ("once", []), ("ended", [])):
        systemd.unit(f"state-{name}", ["/bin/sleep", "600"], *options)
        assert told(f"state-{name}.service") is Manager.RUNNING
    kill(main_pid(systemd, "state-slow"))
    until("auto-restart", lambda: told("state-slow.service") is Manager.RESTARTING)
    kill(main_pid(systemd, "state-once"))
    until("failed", lambda: told("state-once.service") is Manager.FAILED)
    assert systemd.systemctl("stop", "state-slow", "state-ended")[0] == 0
    assert told("state-slow") is Manager.STOPPED  # the suffix may be left out
    assert told("state-ended") is Manager.STOPPED
    answer = ask(RestartSection(systemd="no-such.service", user=True), systemd.environment)
    assert (answer.manager, answer.words) == (
        Manager.FAILED,
        "systemd knows no usable unit no-such.service (not-found)",
    )


@pytest.mark.req("R9", "R8")
def test_a_systemd_that_cannot_be_asked_is_unknown(tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": ""}
    answer = ask(RestartSection(systemd="x.service", user=True), env)
    assert answer.manager is Manager.UNKNOWN
    answer = ask(RestartSection(systemd="x.service"), {"PATH": str(tmp_path)})
    assert answer.manager is Manager.UNKNOWN
    assert "systemctl does not exist" in answer.words


# --- PM2 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def manager() -> Iterator[Pm2]:
    parts.pm2()
    with pm2() as made:
        yield made


@pytest.mark.req("R8", "R9")
def test_a_pm2_that_does_not_run_is_not_started_by_asking(manager: Pm2) -> None:
    answer = ask(RestartSection(pm2="svc"), manager.environment)
    assert answer.manager is Manager.UNKNOWN
    assert "PM2 is not running" in answer.words
    assert not manager.home.exists()
    manager.home.mkdir()
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (manager.home / "pm2.pid").write_text(str(stranger.pid))  # a recycled number
        assert ask(RestartSection(pm2="svc"), manager.environment).manager is Manager.UNKNOWN
    finally:
        stranger.kill()
        stranger.wait()
        (manager.home / "pm2.pid").unlink()
    assert list(manager.home.iterdir()) == []


@pytest.mark.req("R8", "R9")
def test_the_word_of_a_real_pm2_and_of_one_that_hangs(manager: Pm2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HC_SECRET", "hunter2")
    manager.start("svc", ["sleep", "600"])
    assert ask(RestartSection(pm2="svc"), manager.environment) == managers.Told(Manager.RUNNING, "PM2: svc is online")
    assert ask(RestartSection(pm2="nope"), manager.environment).words == "PM2 knows no app nope"
    assert manager.run("stop", "svc")[0] == 0
    assert ask(RestartSection(pm2="svc"), manager.environment).manager is Manager.STOPPED
    status = proc.stat(int((manager.home / "pm2.pid").read_text()))
    assert status is not None
    assert proc.send_signal(status.ref, signal.SIGSTOP)
    answer = ask(RestartSection(pm2="svc"), manager.environment, timeout_s=1.0)
    assert (answer.manager, answer.words) == (Manager.UNKNOWN, "pm2: it did not end within 1 s")
    assert proc.send_signal(status.ref, signal.SIGCONT)
    (manager.home / "rpc.sock").unlink()
    answer = ask(RestartSection(pm2="svc"), manager.environment)
    assert answer.manager is Manager.UNKNOWN
    assert "does not listen" in answer.words
    assert int((manager.home / "pm2.pid").read_text()) == status.pid, "no second one was started"
    kill(status.ref)


# --- the probe -------------------------------------------------------------------------------------------------------


class Wishes(Events):
    """Notes what the probe wishes."""

    def __init__(self) -> None:
        self.soon: list[float] = []

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.soon.append(in_s)

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        raise AssertionError("the sources of this family come from the configuration alone")


def probe_of(act_after_s: float = 2.0, **keys: object) -> ProcessProbe:
    section = ProcessSection(**keys)  # type: ignore[arg-type]
    return ProcessProbe(Config(process={"svc": section}, policy=PolicySection(act_after=Duration(act_after_s))))


def data(reading: HealthReading) -> ProcessData:
    assert reading.available, reading.error
    assert isinstance(reading.data, ProcessData)
    return reading.data


def fake(folder: Path, name: str, script: str) -> dict[str, str]:
    """A program in the manager's place, for answers that a real one does not give at a test's word."""
    (folder / name).write_text(f"#!/bin/sh\necho asked >>{folder}/asked\n{script}\n")
    (folder / name).chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.req("R8")
def test_a_managed_service_is_read_again_at_act_after_and_while_its_manager_is_at_it(tmp_path: Path) -> None:
    env = fake(tmp_path, "systemctl", "echo LoadState=loaded; echo ActiveState=activating; echo SubState=auto-restart")
    asked = tmp_path / "asked"
    probe = probe_of(30.0, pid_file=str(tmp_path / "p"), restart=RestartSection(systemd="x"), restart_env=env)
    wishes = Wishes()

    async def scenario() -> None:
        probe.watch(wishes)
        probe.remember({})
        wishes.soon.clear()
        first = data(await probe.read("svc", 5.0))
        assert (first.alive, first.manager, first.act_after_s) == (False, Manager.RESTARTING, 30.0)
        assert "x is activating (auto-restart)" in first.detail
        assert wishes.soon == [pytest.approx(30.0 - first.dead_for_s + 0.01)]
        second = data(await probe.read("svc", 5.0))
        assert second.dead_for_s > first.dead_for_s
        assert asked.read_text().count("asked") == 1, "nothing would be done before act_after, so once is enough"
        probe._act_after_s = 0.0
        wishes.soon.clear()
        data(await probe.read("svc", 5.0))
        assert asked.read_text().count("asked") == 2
        assert min(wishes.soon) >= 1.0
        probe.close()

    asyncio.run(scenario())


@pytest.mark.req("R9")
def test_a_manager_that_hangs_or_shouts_keeps_no_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_module, "MANAGER_TIMEOUT_S", 0.5)
    for script, words in (("sleep 60", "did not end"), ("yes", "more than"), ("exit 3", "exit 3")):
        env = fake(tmp_path, "systemctl", script)
        probe = probe_of(match="no-such-process-[0-9]{9}", restart=RestartSection(systemd="x"), restart_env=env)
        reading = asyncio.run(probe.read("svc", 5.0))
        assert data(reading).manager is Manager.UNKNOWN
        assert words in data(reading).detail
        assert reading.took_ms < 5000


def test_nobody_is_asked_about_a_live_service_or_one_that_is_meant_to_be_stopped(tmp_path: Path) -> None:
    env = fake(tmp_path, "systemctl", "exit 1")
    (tmp_path / "p").write_text(f"{os.getpid()}\n")
    alive = probe_of(pid_file=str(tmp_path / "p"), restart=RestartSection(systemd="x"), restart_env=env)
    found = data(asyncio.run(alive.read("svc", 5.0)))
    assert (found.alive, found.manager, found.act_after_s) == (True, Manager.NONE, 0.0)
    (tmp_path / "stop").touch()
    stopped = probe_of(
        match="no-such-process-[0-9]{9}", stop_file=str(tmp_path / "stop"),
        restart=RestartSection(systemd="x"), restart_env=env,
    )  # fmt: skip
    assert data(asyncio.run(stopped.read("svc", 5.0))).manager is Manager.NONE
    assert not (tmp_path / "asked").exists()


# --- memory from before ----------------------------------------------------------------------------------------------


@pytest.mark.req("R3", "R9")
def test_a_death_by_a_lost_pid_file_alone_waits_for_what_the_healer_knows(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    status = proc.stat(child.pid)
    assert status is not None
    probe = probe_of(pid_file=str(tmp_path / "p"))
    wishes = Wishes()

    async def scenario() -> None:
        probe.watch(wishes)
        early = await probe.read("svc", 5.0)
        assert (early.available, early.reason) == (False, Unavailable.ERROR)
        assert "not known yet" in early.error
        assert len(wishes.soon) == 1
        probe.remember({"svc": status.ref, "another": status.ref})
        found = data(await probe.read("svc", 5.0))
        assert (found.alive, found.pid_file, found.process) == (True, PidFile.MISSING, status.ref)
        assert "is still alive" in found.detail
        child.kill()
        child.wait()
        assert data(await probe.read("svc", 5.0)).alive is False
        probe.close()

    try:
        asyncio.run(scenario())
    finally:
        child.kill()
        child.wait()


@pytest.mark.req("R3")
def test_what_has_ended_or_is_another_process_now_is_no_memory(tmp_path: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    status = proc.stat(child.pid)
    assert status is not None
    ref = status.ref
    others = (
        msgspec.structs.replace(ref, start_ticks=ref.start_ticks - 1),  # the number was given away since
        msgspec.structs.replace(ref, boot_id="another boot"),
        ProcessRef(ref.boot_id, 2**22 - 1, 5),
    )

    async def read(known: dict[str, ProcessRef], **keys: object) -> ProcessData:
        probe = probe_of(**keys)
        probe.watch(Wishes())
        probe.remember(known)
        try:
            return data(await probe.read("svc", 5.0))
        finally:
            probe.close()

    path = str(tmp_path / "p")
    try:
        for other in others:
            assert asyncio.run(read({"svc": other}, pid_file=path)).alive is False
        assert asyncio.run(read({}, pid_file=path)).alive is False
        mismatch = asyncio.run(read({"svc": ref}, pid_file=path, match="no-such-process-[0-9]{9}"))
        assert mismatch.alive is False, "a match has the last word"
        child.kill()
        until("a zombie", lambda: (found := proc.stat(child.pid)) is not None and found.state == "Z")
        assert asyncio.run(read({"svc": ref}, pid_file=path)).alive is False
    finally:
        child.kill()
        child.wait()
