"""Whom rb-force-gc takes for a declared service, on real processes and sockets; who cannot be told forbids the step."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from remediators import processes, victim
from remediators.base import StepFailed
from supervisor.config import parse
from tests.lab.cgroup import memory_group

Start = Callable[..., int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts /bin/sleep under another name; returns its pid once it runs. `fd`: what it inherits."""
    began: list[subprocess.Popen[bytes]] = []

    def begin(program: str, *, fd: int | None = None, title: str = "") -> int:
        argv = [title or program, "300"]
        began.append(subprocess.Popen(argv, executable=program, pass_fds=[] if fd is None else [fd]))
        return began[-1].pid

    yield begin
    for one in began:
        one.kill()
        one.wait()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one


def program(folder: Path, name: str) -> str:
    return shutil.copy("/bin/sleep", folder / name)


def at(one: socket.socket, host: str = "127.0.0.1") -> str:
    return f'endpoint = "tcp://{host}:{one.getsockname()[1]}"\n'


def declared(toml: str) -> dict[str, set[int]]:
    return victim.declared(processes.table(), parse(toml, "x"), frozenset())


def refused(toml: str) -> str:
    with pytest.raises(StepFailed, match="nothing was ended") as caught:
        declared(toml)
    assert "match" in caught.value.hint or "health_url" in caught.value.hint
    return caught.value.message


@pytest.mark.req("FR-003", "R3")
def test_a_service_that_only_a_proxy_stands_in_for_forbids_the_step(
    tmp_path: Path, start: Start, listener: socket.socket
) -> None:
    proxy = start(program(tmp_path, "docker-proxy"), fd=listener.fileno())
    toml = f"[process.db]\n{at(listener)}"
    assert os.getpid() in declared(toml)["[process.db]"], "while we listen, too, somebody is known"
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    gateway = f'[gateway.gw]\nstatus = ["/x/nobody-has-this-name"]\nhealth_url = "{url}"\n'
    absent = f'{toml}match = "^/x/nobody-has-this-command-line"\n'
    gone = f'{toml}pid_file = "{tmp_path}/none.pid"\n'
    listener.close()
    for text in (toml, absent, gone, gateway):
        assert f"docker-proxy ({proxy})" in refused(text), text
    own = start(program(tmp_path, "the-database"))
    assert declared(f'{toml}match = "/the-database "\n')["[process.db]"] >= {own, proxy}
    assert declared(f"{toml}critical = false\n") == {}


@pytest.mark.req("FR-003", "R3")
def test_an_endpoint_alone_at_which_nobody_listens_forbids_the_step_and_what_is_down_does_not(
    tmp_path: Path, listener: socket.socket
) -> None:
    elsewhere = f"[process.db]\n{at(listener, '192.0.2.1')}"
    assert "none is known to be it" in refused(elsewhere), "who listens at the same port here is another"
    toml = f"[process.db]\n{at(listener)}"
    listener.close()
    assert "none is known to be it" in refused(toml)
    assert "none is known to be it" in refused('[gateway.gw]\nstatus = ["/x/nobody-has-this-name"]\n')
    assert declared(f'{toml}match = "^/x/nobody-has-this-command-line"\n') == {"[process.db]": set()}
    assert declared(f'{toml}pid_file = "{tmp_path}/none.pid"\n') == {"[process.db]": set()}
    (tmp_path / "bad.pid").write_text("")
    assert "none is known to be it" in refused(f'{toml}pid_file = "{tmp_path}/bad.pid"\n')


@pytest.mark.req("FR-003", "R3")
def test_a_gateway_is_not_known_by_its_own_status_command(tmp_path: Path, start: Start) -> None:
    status = program(tmp_path, "gw")
    start(status)
    assert "none is known to be it" in refused(f'[gateway.gw]\nstatus = ["{status}", "300"]\n')
    assert len(declared(f'[gateway.gw]\nstatus = ["{status}", "status"]\n')["[gateway.gw]"]) == 1


@pytest.mark.req("FR-003", "R3")
def test_every_process_that_match_finds_is_the_service_whatever_its_pid_file_names(
    tmp_path: Path, start: Start
) -> None:
    bot = program(tmp_path, "bot")
    pids = {start(bot), start(bot)}
    (tmp_path / "pid").write_text(f"{min(pids)}\n")
    toml = f'[process.bot]\npid_file = "{tmp_path}/pid"\nmatch = "^{bot} "\n'
    assert declared(toml) == {"[process.bot]": pids}


@pytest.mark.req("FR-003", "R3", "R8")
def test_what_a_unit_s_control_group_holds_is_the_service(
    start: Start, tmp_path: Path, listener: socket.socket
) -> None:
    member, toml = start(program(tmp_path, "worker")), f"[process.db]\n{at(listener)}"
    listener.close()
    with memory_group(2**30, "svc.") as group:
        group.enter(member)
        toml += f'restart = {{ systemd = "{group.folder.name}" }}\n'
        assert declared(toml) == {"[process.db]": {member}}, "though it does not listen yet"


@pytest.mark.req("FR-003", "R3", "R8")
def test_what_descends_from_pm2_is_protected_but_tells_nothing_of_the_service(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: socket.socket
) -> None:
    monkeypatch.setenv("PM2_HOME", str(tmp_path))
    script = "/bin/sleep 300 & echo $! >child; wait"
    argv = ["PM2 v5.3.0: God Daemon", "-c", script]
    with subprocess.Popen(argv, executable="/bin/sh", cwd=tmp_path) as daemon:
        child = _number(tmp_path / "child")
        try:
            (tmp_path / "pm2.pid").write_text(f"{daemon.pid}\n")
            toml = f'[process.app]\n{at(listener)}restart = {{ pm2 = "app" }}\n'
            assert {child, os.getpid()} <= declared(toml)["[process.app]"]
            listener.close()
            assert "none is known to be it" in refused(toml)
        finally:
            os.kill(child, 9)


def _number(path: Path) -> int:
    while not (path.exists() and path.read_text().endswith("\n")):
        os.sched_yield()
    return int(path.read_text())
