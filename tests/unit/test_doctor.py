"""`healctl doctor`: each trouble is made, seen and named with its remedy; a host that is well is told so."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from click.testing import CliRunner

from supervisor import config, doctor
from supervisor.cli.main import cli
from supervisor.doctor import CHECKS, Finding, Host, Level, examine
from supervisor.install import files, fitting
from supervisor.install.scope import scope
from supervisor.store import sqlite

pytestmark = pytest.mark.req("FR-001", "NFR-003")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A kernel's files, as far as they are looked at: a machine that is well."""
    files = {
        "self/mounts": "/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw 0 0\n",
        "self/mountinfo": "22 1 252:1 / / rw shared:1 - ext4 /dev/vda1 rw\n",
        "pressure/memory": "some avg10=0.00\n",
        "sys/fs/inotify/max_user_watches": "65536\n",
        "sys/fs/inotify/max_user_instances": "128\n",
    }
    for name, text in files.items():
        path = tmp_path / "proc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "proc"


def host(tmp_path: Path, proc: Path, text: str = "", euid: int = 1000, runtime: str = "run") -> Host:
    head = f'[healctl]\nstate_dir = "{tmp_path / "state"}"\nruntime_dir = "{tmp_path / runtime}"\n'
    environment = {"PATH": os.environ["PATH"]}
    return Host(config.parse(head + text, "test"), environment, euid, "anna", proc, tmp_path / "var")


def of(check: str, found: Iterator[Finding] | list[Finding]) -> list[tuple[Level, str]]:
    return [(it.level, it.says) for it in found if it.check == check]


def test_a_host_that_is_well_is_told_so(tmp_path: Path, proc: Path) -> None:
    found = examine(host(tmp_path, proc))
    assert {it.check for it in found} >= {"directories", "sockets", "kernel", "permissions", "private_tmp"}
    assert [it for it in found if it.level is Level.BAD] == []
    assert all(it.mend for it in found if it.level is not Level.WELL), "a finding without a remedy helps nobody"


@pytest.mark.parametrize(
    ("file", "text", "level", "words"),
    [
        ("sys/fs/inotify/max_user_watches", "10\n", Level.WARN, "max_user_watches is 10"),
        ("sys/fs/inotify/max_user_watches", "nonsense", Level.WARN, "cannot be read"),
        ("self/mounts", "/dev/vda1 / ext4 rw 0 0\nproc /proc proc rw,hidepid=2 0 0\n", Level.BAD, "hidepid"),
    ],
)
def test_kernel(tmp_path: Path, proc: Path, file: str, text: str, level: Level, words: str) -> None:
    (proc / file).write_text(text)
    found = of("kernel", doctor.kernel(host(tmp_path, proc)))
    assert [it for it, said in found if words in said] == [level]


def test_no_pressure_file_is_a_warning(tmp_path: Path, proc: Path) -> None:
    (proc / "pressure/memory").unlink()
    assert "PSI" in of("kernel", doctor.kernel(host(tmp_path, proc)))[0][1]


def test_a_state_directory_on_a_remote_disk_and_a_path_too_long_for_sockets(tmp_path: Path, proc: Path) -> None:
    (proc / "self/mounts").write_text(f"/dev/vda1 / ext4 rw 0 0\nnas:/x {tmp_path} nfs4 rw 0 0\n")
    found = list(doctor.directories(host(tmp_path, proc, runtime="r" * 100)))
    assert {it.check for it in found if it.level is Level.BAD} == {"state_dir", "runtime_dir"}
    assert any("nfs4" in it.says for it in found)
    assert any("bytes" in it.says for it in found)


def test_a_directory_that_others_may_read(tmp_path: Path, proc: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o755)  # whatever the umask is
    assert of("state_dir", doctor.directories(host(tmp_path, proc)))[0][0] is Level.WARN


def test_sockets_of_a_daemon_that_was_killed(tmp_path: Path, proc: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "run/control.sock"))
    assert "control.sock" in of("sockets", doctor.sockets(host(tmp_path, proc)))[0][1]


def test_ports_and_ways_to_signal(tmp_path: Path, proc: Path) -> None:
    with socket.socket() as taken, socket.socket(socket.AF_UNIX) as stale:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        stale.bind(str(tmp_path / "signal.sock"))
        stale.listen()
        stale.close()
        ways = [f"http://127.0.0.1:{port}", f"unix:{tmp_path / 'signal.sock'}", "/nowhere/signal-cli"]
        text = f'[metrics]\nlisten = "127.0.0.1:{port}"\n[notify.signal]\ntransports = {json.dumps(ways)}\n'
        text += 'account = "+15550100"\nrecipient = "+15550101"\n'
        found = list(doctor.ports(host(tmp_path, proc, text)))
    assert [it.check for it in found] == ["ports", "signal", "signal"], "the port that answers is well"
    assert "rm " in found[1].mend
    assert "not found" in found[2].says


def test_a_recipe_that_cannot_be_run_and_files_in_a_temp_directory_of_ones_own(tmp_path: Path, proc: Path) -> None:
    text = '[process.web]\npid_file = "/tmp/web.pid"\nrestart = { argv = ["/nowhere/web"] }\n'
    assert of("permissions", doctor.targets(host(tmp_path, proc, text)))[0][0] is Level.BAD
    assert list(doctor.private_tmp(host(tmp_path, proc, text))) == []
    (proc / "self/mountinfo").write_text("9 1 0:1 /systemd-private-a-b/tmp /tmp rw - ext4 /dev/vda1 rw\n")
    assert "[process.web]" in of("private_tmp", doctor.private_tmp(host(tmp_path, proc, text)))[0][1]


def test_a_login_that_ends_its_services_unless_it_lingers(tmp_path: Path, proc: Path) -> None:
    made = msgspec.structs.replace(host(tmp_path, proc), run=tmp_path / "run")
    assert of("linger", doctor.lingering(made)) == [], "no systemd runs here"
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (finding,) = doctor.lingering(made)
    assert (finding.level, finding.mend) == (Level.WARN, "loginctl enable-linger anna")
    assert list(doctor.lingering(msgspec.structs.replace(made, euid=0))) == [], "the system's does not end"
    (tmp_path / "var/lib/systemd/linger").mkdir(parents=True)
    (tmp_path / "var/lib/systemd/linger/anna").touch()
    assert list(doctor.lingering(made)) == []


@pytest.mark.parametrize(("state", "count"), [(0, 0), (doctor.TIME_ERROR, 1)])
def test_a_clock_that_is_not_set(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch, state: int, count: int
) -> None:
    """adjtimex(2): what the kernel of this machine says cannot be chosen by a test."""
    libc = SimpleNamespace(adjtimex=lambda buffer: state)
    monkeypatch.setattr(doctor.ctypes, "CDLL", lambda *args, **kwargs: libc)
    found = list(doctor.clock(host(tmp_path, proc)))
    assert [(it.level, "timedatectl" in it.mend) for it in found] == [(Level.WARN, True)] * count


@pytest.mark.parametrize("affected", [False, True])
def test_a_library_of_sqlite_with_a_known_fault(
    tmp_path: Path, proc: Path, monkeypatch: pytest.MonkeyPatch, affected: bool
) -> None:
    monkeypatch.setattr(sqlite, "has_wal_reset_bug", lambda: affected)
    found = list(doctor.sqlite(host(tmp_path, proc)))
    assert [it.level for it in found] == [Level.WARN] * affected
    assert all(sqlite.VERSION in it.says and "3.51.3" in it.mend for it in found)


def test_a_check_that_cannot_look_says_so(tmp_path: Path, proc: Path) -> None:
    (proc / "self/mounts").unlink()
    found = examine(host(tmp_path, proc))
    assert {it.check for it in found} >= set(CHECKS) - {"clock", "sqlite", "ports"}
    assert any("cannot look" in it.says for it in found)


def test_the_command_ends_with_1_for_what_will_not_work(tmp_path: Path) -> None:
    file = tmp_path / "healctl.toml"
    text = f'[healctl]\nstate_dir = "{tmp_path / "s"}"\nruntime_dir = "{tmp_path / "r"}"\n'
    file.write_text(text)
    well = CliRunner().invoke(cli, ["doctor", "-c", str(file), "--json"], standalone_mode=False)
    assert (well.return_value, json.loads(well.output)["ok"]) == (0, True)
    file.write_text(text + '[process.web]\nmatch = "web"\nrestart = { argv = ["/nowhere/web"] }\n')
    bad = CliRunner().invoke(cli, ["doctor", "-c", str(file), "--json"], standalone_mode=False)
    assert (bad.return_value, json.loads(bad.output)["ok"]) == (1, False)


def test_a_unit_that_was_installed_for_another_configuration_is_told(tmp_path: Path, proc: Path) -> None:
    file = tmp_path / "healctl.toml"

    def looked(text: str) -> list[tuple[Level, str]]:
        made = host(tmp_path, proc, text)
        made = msgspec.structs.replace(made, env={"XDG_CONFIG_HOME": str(tmp_path / "config")}, file=file)
        return of("unit", examine(made))

    def install(text: str) -> None:
        found = host(tmp_path, proc, text)
        place = scope({"XDG_CONFIG_HOME": str(tmp_path / "config")}, user=True)
        units, _ = fitting.units(found.config, file, Path("/opt/healctl"), place, {}, ("/",))
        files.put(units)

    starts = '[process.web]\nmatch = "web"\nrestart = { argv = ["/bin/web"] }\n'
    assert looked("") == [(Level.WELL, "well")], "none is installed"
    install("")
    assert looked("") == [(Level.WELL, "well")]
    (found,) = looked(starts)
    assert found[0] is Level.WARN
    assert "made for another state of the configuration" in found[1]
    install(starts)
    assert looked(starts) == [(Level.WELL, "well")]
    file = tmp_path / "another.toml"
    assert looked("") == [(Level.WELL, "well")], "another configuration's unit"
