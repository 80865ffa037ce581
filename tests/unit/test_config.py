"""The configuration as a user meets it: what is taken, and what each fault is called."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from supervisor import config, places
from supervisor.config import Config, Duration
from supervisor.errors import ConfigError
from supervisor.places import Dirs
from supervisor.targets import databases, targets, written
from supervisor.tree import lock
from supervisor.units import format_duration, parse_duration, parse_size

WEB = '[process.web]\npid_file = "/run/web.pid"\n'


def faults(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        config.parse(text, "f.toml")
    assert caught.value.exit_code == 78
    return str(caught.value)


def test_an_empty_file_is_the_defaults() -> None:
    assert config.parse("", "f.toml") == Config()


def test_a_whole_target() -> None:
    text = WEB + (
        'match = "web\\\\.py"\nendpoint = "http://127.0.0.1:1/"\nstop_file = "~/stop"\ninterval = "1m30s"\n'
        'auto_restart = true\nrestart = { argv = ["/bin/web", "-x"] }\nrestart_cwd = "/"\n'
        'restart_env = { B = "2", A = "1" }\n'
    )
    section = config.parse(text, "f.toml").process["web"]
    assert section.interval == 90
    assert section.stop_file == os.path.expanduser("~/stop")
    target = targets(config.parse(text, "f.toml"))[0]
    assert target.target_id == "web"
    assert target.auto_restart
    assert target.recipe is not None
    assert target.recipe.argv == ("/bin/web", "-x")
    assert target.recipe.env == (("A", "1"), ("B", "2"))


@pytest.mark.parametrize(
    ("text", "line", "key", "found", "hint"),
    [
        (WEB + "interval = 60", 3, "process.web.interval", "found 60, expected a duration", 'interval = "60s"'),
        (WEB + 'interval = "60"', 3, "process.web.interval", 'found "60", expected a duration', ""),
        (WEB + 'interval = "0s"', 3, "process.web.interval", "at least 0.1 s", ""),
        (WEB + 'interval = "9999999d"', 3, "process.web.interval", "expected a duration", ""),
        (WEB + "pidfile = 1", 3, "process.web.pidfile", "unknown key", 'did you mean "pid_file"?'),
        ("[polcy]\nx = 1", 1, "polcy", "unknown table", 'did you mean "policy"?'),
        ("zzz = 1", 1, "zzz", "unknown key", "may hold: healctl, store"),
        ("[policy]\nsettle = true", 2, "policy.settle", "found true, expected a duration", ""),
        ("[policy]\nbreaker_total = 0", 2, "policy.breaker_total", "found 0, expected between 1", ""),
        ("[policy]\nbreaker_total = true", 2, "policy.breaker_total", "expected a whole number", ""),
        ("[policy]\nconfidence_auto_execute = 1.5", 2, "policy.confidence_auto_execute", "between 0 and 1", ""),
        ('[policy]\nauto_execute = "x"', 2, "policy.auto_execute", "expected a list of strings", ""),
        ("[policy]\nauto_execute = [1]", 2, "policy.auto_execute", "found 1, expected a string", ""),
        ("policy = 3", 1, "policy", "found 3, expected a table", ""),
        ("process = 3", 1, "process", "found 3, expected a table", ""),
        ("[process]\nweb = 3", 2, "process.web", "found 3, expected a table", ""),
        ("[process.web]\n", 1, "process.web", "nothing tells whether it lives", "add pid_file"),
        ('[process.web]\npid_file = "web.pid"', 2, "process.web.pid_file", "expected an absolute path", "started"),
        ('[process.web]\npid_file = "/a\\u0000b"', 2, "process.web.pid_file", "without a NUL byte", ""),
        ('[process.web]\nmatch = "a{99999999999999999999}"', 2, "process.web.match", "regular expression", "too large"),
        (f'[process.web]\nmatch = "{"(" * 9000}"', 2, "process.web.match", "regular expression", "recursion"),
        ('[database.a]\npath = ""', 2, "database.a.path", "no default", ""),
        ('[fleet.hosts.a]\naddress = ""', 2, "fleet.hosts.a.address", "no default", ""),
        ('[healctl]\nlog_level = "\\u001b[31m"', 2, "healctl.log_level", 'found "\\x1b[31m"', ""),
        ('[healctl]\n"\\u001b[31m" = 1', 1, 'healctl."\\x1b[31m"', "unknown key", ""),
        ('[process.web]\npid_file = "~nobodyhere/x"', 2, "process.web.pid_file", "a user that exists", ""),
        (WEB + 'restart_cwd = "x"', 3, "process.web.restart_cwd", "expected an absolute path", ""),
        (WEB + 'match = "a("', 3, "process.web.match", "expected a regular expression", "missing )"),
        ('[process.web]\nmatch = ".*"', 2, "process.web.match", "matches every command line", ""),
        (WEB + 'endpoint = "ftp://x"', 3, "process.web.endpoint", 'expected "http://HOST', ""),
        (WEB + 'endpoint = "unix:x"', 3, "process.web.endpoint", "expected an absolute path", ""),
        (WEB + "restart = { argv = [] }", 3, "process.web.restart", "names no way to restart it", "exactly one of"),
        (WEB + 'restart = { pm3 = "x" }', 3, "process.web.restart.pm3", "unknown key", 'did you mean "pm2"?'),
        (WEB + 'restart = { argv = ["a\\u0000b"] }', 3, "process.web.restart.argv", "without a NUL byte", ""),
        (WEB + "restart = {}", 3, "process.web.restart", "names no way to restart it", "exactly one of"),
        (WEB + 'restart = { pm2 = "x", systemd = "y" }', 3, "process.web.restart", "names systemd and pm2", ""),
        (WEB + 'restart = { pm2 = "-x" }', 3, "process.web.restart.pm2", "expected a name", ""),
        (WEB + 'restart = { pm2 = "x", user = true }', 3, "process.web.restart.user", "only a systemd unit", ""),
        ("[disk]\npressure = 0.95", 1, "disk.critical", "expected more than disk.pressure", ""),
        ('[memory]\ncritical = "1GiB"', 2, "memory.critical", "is not less than memory.pressure", ""),
        (WEB + '[logs.web]\npaths = ["/l/*"]', 3, "logs.web", 'a second target of the name "web"', "[process.web]"),
        ('[database.brain-db]\npath = "/b"', 2, "database.brain-db.path", "healctl's own brain-db is", "another name"),
        (
            '[trading.bot]\nsignal_file = "/s"\ntrades_db = "/t"\n[database.bot-trades]\npath = "/other"',
            1,
            "trading.bot",
            'a second target of the name "bot-trades"',
            "[database.bot-trades]",
        ),
        ('[logs.brain-db]\npaths = ["/l/*"]', 1, "logs.brain-db", "target of healctl's own", ""),
        ('[trading.a]\nsignal_file = "/s"\nprocess = "x"', 3, "trading.a.process", 'no process "x"', "[process.x]"),
        ('[gateway.g]\nstatus = ["g"]\nauto_restart = true', 3, "gateway.g.auto_restart", "no restart command", ""),
        ('[gateway.g]\nstatus = ["g"]\nhealth_url = "g"', 3, "gateway.g.health_url", "expected an address", ""),
        (WEB + "auto_restart = true", 3, "process.web.auto_restart", "no restart recipe", "add restart"),
        ('[process.Web]\npid_file = "/x"', 1, "process.Web", 'found "Web", expected a name', ""),
        ('[process."a b"]\npid_file = "/x"', 1, 'process."a b"', "expected a name", ""),
        ('[process.brain-db]\npid_file = "/x"', 1, "process.brain-db", "target of healctl's own", ""),
        ('[healctl]\nlog_level = "loud"', 2, "healctl.log_level", "one of debug, info", ""),
        ('[notify.signal]\ntransports = ["http://a"]', 1, "notify.signal.recipient", "is missing", "recipient ="),
        ('[notify.signal]\ntransports = ["ftp://a"]', 2, "notify.signal.transports", "expected a signal-cli", ""),
        ('[notify.signal]\ntransports = ["tcp://a"]', 2, "notify.signal.transports", "expected tcp://HOST:PORT", ""),
        ('[notify.signal]\ntransports = ["http://a:99999"]', 2, "notify.signal.transports", "http://HOST:PORT", ""),
        ('[notify.signal]\ntransports = ["unix:run/s"]', 2, "notify.signal.transports", "an absolute path", ""),
        ('[notify.signal]\ntransports = ["/bin/sh"]', 2, "notify.signal.transports", "openclaw or signal-cli", ""),
        (
            '[notify.signal]\ntransports = ["signal-cli"]\nrecipient = "+15550101"',
            1,
            "notify.signal.account",
            "is missing",
            "account =",
        ),
        ('[notify.synapse]\ntransport = "x"', 2, "notify.synapse.transport", 'expected "brain_db"', ""),
        ('[tree]\nbeat = "20s"', 1, "tree.beat_within", "expected more than tree.beat", ""),
    ],
)
def test_each_fault_names_file_line_key_found_and_expected(
    text: str, line: int, key: str, found: str, hint: str
) -> None:
    message = faults(text)
    assert message.startswith(f"f.toml:{line}: key {key}: ")
    assert found in message
    assert hint in message


def test_auto_restart_with_only_an_endpoint_is_refused() -> None:
    text = '[process.web]\nendpoint = "tcp://h:1"\nauto_restart = true\nrestart = { argv = ["/bin/web"] }\n'
    assert "an endpoint alone cannot tell that nothing is running" in faults(text)


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    message = faults('[healctl]\nlog_level = "x"\n[process.web]\ninterval = 3\npid_file = 4\n')
    assert re.findall(r"^f\.toml:(\d+)", message, re.MULTILINE) == ["2", "4", "5"]


def test_a_flood_of_faults_is_cut() -> None:
    message = faults("".join(f"k{n} = 1\n" for n in range(100)))
    assert message.endswith("f.toml: and 80 more")


def test_what_is_not_toml_is_named_with_its_line() -> None:
    assert faults("[healctl]\nstate_dir = \n").startswith("f.toml:2: not TOML: Invalid value")
    assert faults('[healctl]\nx = "').startswith("f.toml:2: not TOML: ")


@pytest.mark.parametrize(
    ("raw", "said"), [(b"\n\xff", ":2: not UTF-8"), (b"#" * 2_000_000, "expected at most"), (None, "cannot be read")]
)
def test_a_file_that_cannot_be_text(tmp_path: Path, raw: bytes | None, said: str) -> None:
    file = tmp_path / "healctl.toml"
    if raw is not None:
        file.write_bytes(raw)
    with pytest.raises(ConfigError, match=said):
        config.load(file, {})


def test_the_search_order(tmp_path: Path) -> None:
    xdg = tmp_path / "xdg/healctl"
    xdg.mkdir(parents=True)
    (xdg / "healctl.toml").write_text("")
    env = {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}
    assert places.locate(None, env) == xdg / "healctl.toml"
    assert places.locate(None, {**env, "HEALCTL_CONFIG": "/e.toml"}) == Path("/e.toml")
    assert places.locate(Path("/c.toml"), {**env, "HEALCTL_CONFIG": "/e.toml"}) == Path("/c.toml")


def test_the_state_directory_is_made_closed_and_an_open_one_refused(tmp_path: Path) -> None:
    state = tmp_path / "a/state"
    lock.make_state_dir(state)
    assert state.stat().st_mode & 0o777 == 0o700
    state.chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        lock.make_state_dir(state)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used as state_dir"):
        lock.make_state_dir(tmp_path / "file")


def test_a_client_finds_the_daemon_although_another_table_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "healctl.toml"
    file.write_text('[healctl]\nruntime_dir = "~/run"\n[polcy]\nx = 1\n')
    assert places.load_dirs(file, {}).runtime_dir == Path.home() / "run"
    for wrong in ("healctl = 3", "[healctl]\nruntime_dir = 3", '[healctl]\nstate_dir = "x"'):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match="key healctl"):
            places.load_dirs(file, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="the root service's directories are root's")
def test_root_has_the_service_directories() -> None:
    assert config.dirs(Config()) == Dirs(Path("/var/lib/healctl"), Path("/run/healctl"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("60s", 60), ("5m", 300), ("1.5h", 5400), ("7d", 604800), ("1h30m", 5400), ("1h 30m", 5400),
     ("60", None), ("", None), ("s", None), ("5 minutes", None), ("-5s", None), ("5s!", None), ("1e3s", None)],
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 2**29), ("100MB", 10**8), ("1.5KiB", 1536), ("5", None), ("1mb", None)]
)
def test_sizes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("seconds", [0, 0.001, 0.25, 1, 59, 60, 90, 3600, 86400, 90061, 1.5])
def test_a_duration_survives_its_text(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == Duration(seconds)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "{a=" * 3_000, "nested too deeply"),
        ("[policy]\nbreaker_total = " + "9" * 5_000, "a number in it cannot be read"),
    ],
)
def test_toml_that_python_gives_up_on(text: str, said: str) -> None:
    assert said in faults(text)


def test_a_file_without_an_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="at most 1048576 bytes"):
        places.read(Path("/dev/zero"))


@pytest.mark.req("FR-003", "NFR-001")
@pytest.mark.parametrize(
    "path", ["/", "//", "/etc", "/usr", "/usr/lib", "/var", "/var/lib", "/home", "/home/1", "~", "/tmp/.."]
)
def test_a_cleanup_is_never_let_loose_on_a_folder_of_the_system_or_a_home(path: str) -> None:
    assert "cleanup.tmp_dirs" in faults(f'[cleanup]\ntmp_dirs = ["{path}"]\n')


@pytest.mark.req("FR-003")
def test_places_for_a_cleanup() -> None:
    text = '[cleanup]\ntmp_dirs = ["/tmp", "/var/tmp/"]\npycache_dirs = ["/usr/local/app"]\nolder_than = "2d"\n'
    section = config.parse(text, "f.toml").cleanup
    assert section.older_than == 2 * 86400
    assert section.tmp_dirs[0] == "/tmp"
    assert "at least" in faults('[cleanup]\nolder_than = "1s"\n')


BOT = '[trading.bot]\nsignal_file = "/s.json"\ntrades_db = "/t.db"\n'


@pytest.mark.req("R10")
@pytest.mark.parametrize("name", ["bot-trades", "ledger-of-trades"])
def test_a_trades_database_is_watched_and_written_under_one_name(name: str) -> None:
    """`NAME-trades`, unless the same file is configured as a database."""
    table = "" if name == "bot-trades" else f'[database.{name}]\npath = "/t.db"\ninterval = "1m"\n'
    loaded = config.parse(BOT + table, "f.toml")
    assert [it for it, section in databases(loaded).items() if section.path == "/t.db"] == [name]
    assert written(loaded)[name] == "/t.db"
    assert [(it.target_id, it.written) for it in targets(loaded) if it.path == "/t.db"] == [(name, True)]
    assert set(written(config.parse("", "f.toml"))) == {"brain-db", "metrics-db"}
