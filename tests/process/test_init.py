"""`healctl init` on a host with a service of each kind, and on one with nothing; what it writes is a configuration."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from probes.survey import SIGNAL, Service, SignalDaemon, Survey, signal_daemon, survey
from supervisor import config, proc
from supervisor.cli.init import written
from supervisor.targets import targets
from supervisor.transports import parse
from tests import parts
from tests.lab import systemd
from tests.lab.daemon import Site, site, until
from tests.lab.pm2 import pm2

HEALCTL = Path(sys.executable).with_name("healctl")


@pytest.fixture
def here() -> Iterator[Site]:
    with site() as made:
        yield made


def healctl(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    return subprocess.run([HEALCTL, *words], env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.req("FR-001", "R3", "R8")
@pytest.mark.skipif(bool(systemd.missing()), reason=systemd.missing())
def test_a_unit_a_pm2_app_and_a_pid_file_are_found_and_what_is_written_passes_check(here: Site, tmp_path: Path) -> None:
    parts.pm2()
    toy = here.service("toy")
    toy.start()
    sleep = ["/bin/sleep", "1000077"]
    with systemd.user_manager() as manager, pm2() as apps:
        manager.unit("web", sleep)
        apps.start("api", sleep)
        home = tmp_path / "home"
        home.mkdir()
        (home / "Toy Service.pid").write_text(str(toy.ref().pid))  # type: ignore[union-attr]
        environment = {**apps.environment, **manager.environment, "HOME": str(home)}
        done = healctl("init", "--json", **environment)
        assert done.returncode == 0, done.stderr
        body = json.loads(done.stdout)
        by_name = {service["name"]: service for service in body["found"]["services"]}
        assert by_name["web"]["systemd"] == "web.service"
        assert by_name["api"]["pm2"] == "api"
        assert by_name["toy-service"]["pid_file"] == str(home / "Toy Service.pid")
        file = Path(body["file"])
        assert file == Path(environment["XDG_CONFIG_HOME"]) / "healctl/healctl.toml"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        checked = healctl("check", "--json", **environment)
        assert checked.returncode == 0, checked.stderr
        assert {"web", "api", "toy-service"} <= set(json.loads(checked.stdout)["targets"])
        live = json.loads(healctl("check", "--live", "--json", **environment).stdout)
        outcomes = {it["target_id"]: it["outcome"] for it in live["targets"]}
        assert {outcomes[name] for name in ("web", "api", "toy-service")} == {"clear"}
        loaded = config.load(file, {})
        assert [t.target_id for t in targets(loaded) if t.auto_restart] == []
        again = healctl("init", **environment)
        assert (again.returncode, "--force" in again.stderr + again.stdout) == (1, True)
        before = file.read_text()
        assert healctl("init", "--force", **environment).returncode == 0
        assert file.with_name("healctl.toml.before").read_text() == before


@pytest.mark.req("FR-001")
def test_a_host_with_nothing_is_no_error_and_the_text_is_a_configuration(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "PATH": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path)}
    done = healctl("init", "--print", **environment)
    assert done.returncode == 0, done.stderr
    assert "# Not asked: systemd" in done.stdout
    assert config.parse(done.stdout, "printed").process == {}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(("line", "transports", "account"), [
    ("java Main signal-cli -a +15550100 daemon --http 127.0.0.1:8081", ("http://127.0.0.1:8081",), "+15550100"),
    ("signal-cli --account=+15550100 daemon --http", ("http://localhost:8080",), "+15550100"),
    ("signal-cli daemon --socket /run/s --tcp --no-receive-stdout", ("unix:/run/s", "tcp://localhost:7583"), ""),
    ("signal-cli daemon --socket", (), ""),
])  # fmt: skip
def test_a_signal_cli_daemon_is_read_off_its_command_line(line: str, transports: tuple[str, ...], account: str) -> None:
    assert SIGNAL.search(line)
    assert signal_daemon(line) == SignalDaemon(transports, account)
    for way in transports:
        parse(way)


@pytest.mark.req("FR-001")
def test_signal_cli_openclaw_and_the_mounts_are_found_on_this_host(tmp_path: Path) -> None:
    (tmp_path / "openclaw").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "openclaw").chmod(0o700)
    environment = {"HOME": str(tmp_path), "PATH": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    signal_cli = tmp_path / "signal-cli"
    signal_cli.write_text("#!/bin/sh\nread line\n")
    signal_cli.chmod(0o700)
    argv = [str(signal_cli), "-a", "+15550100", "daemon", "--http", "127.0.0.1:8081"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
        until("it runs", lambda: "daemon" in proc.command_line(child.pid))
        done = healctl("init", "--print", **environment)
        child.communicate(b"end\n")
    assert done.returncode == 0, done.stderr
    loaded = config.parse(done.stdout, "printed")
    assert "signal-cli" in loaded.process
    assert "# [notify.signal]\n# transports = [" in done.stdout
    assert loaded.gateway["openclaw-gateway"].restart[0] == str(tmp_path / "openclaw")
    assert "# Watched anyway: the disks under /" in done.stdout


@pytest.mark.req("FR-001")
@pytest.mark.parametrize("name", ['a"b', "x\ny", "\x1b[2J", "ünïcode", "..", "a" * 300, "[process]"])
def test_hostile_names_do_not_break_the_file(name: str) -> None:
    found = Survey(
        services=(Service("ok", pid_file=f"/run/{name}.pid", command=name), Service("two", pm2=name, command=name)),
        signal=SignalDaemon((f"unix:/run/{name}",), ""),
        databases=(f"/srv/{name}/x.db",),
        unasked=(name,),
    )
    loaded = config.parse(written(found), "printed")
    assert set(loaded.process) == {"ok", "two", "signal-cli"}
    assert loaded.process["ok"].pid_file == f"/run/{name}.pid"


@pytest.mark.req("FR-001")
def test_databases_are_known_by_their_header_and_a_fleet_file_by_its_place(tmp_path: Path) -> None:
    memory = tmp_path / ".openclaw/workspace/memory"
    memory.mkdir(parents=True)
    (memory / "brain.db").write_bytes(b"SQLite format 3\x00" + bytes(100))
    (memory / "notes.db").write_bytes(b"no database")
    (memory / "again.db").symlink_to(memory / "brain.db")
    fleet = tmp_path / ".openclaw/workspace/fleet.json"
    fleet.write_text("[]")
    found = asyncio.run(survey({"HOME": str(tmp_path), "PATH": ""}))
    assert ([Path(path).name for path in found.databases], found.fleet) == (["again.db"], str(fleet))
    assert msgspec.json.encode(found)


@pytest.mark.req("FR-001")
def test_a_place_that_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = healctl("init", "-c", str(blocked / "healctl.toml"), "-o", "table")
    assert done.returncode == 1
    assert "nothing was changed" in done.stderr


@pytest.mark.req("FR-001", "NFR-003")
def test_where_no_service_was_found_the_example_of_one_is_a_configuration_too() -> None:
    text = written(Survey())
    assert targets(config.parse(text, "x")) == targets(config.parse("", "x")), "all of it is commented out"
    _, _, example = text.partition("put your own in:\n")
    lines = [line.removeprefix("# ") for line in example.split("\n\n")[0].splitlines()]
    (web,) = config.parse("\n".join(lines), "x").process.values()
    assert (web.pid_file, web.auto_restart, web.restart is None) == ("/run/web.pid", True, False)
