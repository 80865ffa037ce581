"""Starting: with nothing, twice, wrongly (issue's "It must show"; DESIGN §6)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from contextlib import closing

import pytest

from remediators.runbooks import RUNBOOKS
from tests.lab.daemon import HEALCTL, Site, until


def environment(here: Site) -> dict[str, str]:
    """A user without any configuration."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HEALCTL", "XDG"))}
    return kept | {
        "HOME": str(here.folder),
        "XDG_CONFIG_HOME": str(here.folder / "none"),
        "XDG_STATE_HOME": str(here.folder / "s"),
        "XDG_RUNTIME_DIR": str(here.folder / "r"),
    }


@pytest.mark.req("FR-001")
def test_started_twice_says_so_with_exit_1_and_the_first_goes_on(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    second = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "start"], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert daemon.process is not None
    assert str(daemon.process.pid) in second.stderr
    assert daemon.ask("status")["open_incidents"] == []


def test_one_state_directory_has_one_daemon_whatever_its_sockets(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    other = here.folder / "other.toml"
    other.write_text(f'[healctl]\nstate_dir = "{daemon.state_dir}"\nruntime_dir = "{here.folder}/run2"\n')
    second = subprocess.run(
        [str(HEALCTL), "-c", str(other), "start"], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert str(daemon.process.pid) in second.stderr  # type: ignore[union-attr]


@pytest.mark.req("FR-001")
def test_an_empty_configuration_is_healthy_idle_and_says_how_to_add_a_target(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    tree = daemon.ask("tree")
    core = {"store", "healer", "executor", "notifier"}
    assert {child["name"] for child in tree["children"]} == core | {"host", "database"}
    assert tree["targets"] == 4, "memory and our own databases"
    until("what it watches", lambda: "[process." in daemon.tail())
    assert daemon.cli("heal", "status", "--json") == (
        0,
        {
            "halted": [],
            "paused": [],
            "at_work": [],
            "open_incidents": [],
            # NFR-001's whitelist: rb-rotate-logs and rb-gc-trigger
            "runbook_summary": {"total": len(RUNBOOKS), "auto_execute": 2, "dry_run": len(RUNBOOKS) - 2},
        },
    )
    daemon.stop()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[process.web]\nmatch = "x"\ninterval = 60\n', ("process.web.interval", "60", "duration")),
        ('[process.web]\nmatsch = "x"\n', ("matsch", "match")),
        ("[process.web]\n", ("pid_file",)),
        ('[proces.web]\nmatch = "x"\n', ("proces", "process")),
        ("[process.web\n", ("healctl.toml",)),
        ('[process.web]\nmatch = "("\n', ("match",)),
        ('[process.web]\nmatch = "x"\nauto_restart = true\n', ("restart",)),
    ],
)
@pytest.mark.req("FR-001")
def test_bad_configuration_exits_78_and_names_file_key_and_what_was_expected(
    here: Site, text: str, words: tuple[str, ...]
) -> None:
    file = here.folder / "healctl.toml"
    file.write_text(text)
    done = subprocess.run(
        [str(HEALCTL), "-c", str(file), "start"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78, done.stderr
    assert str(file) in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def test_a_configuration_that_does_not_exist_is_78_too(here: Site) -> None:
    done = subprocess.run(
        [str(HEALCTL), "-c", str(here.folder / "nope.toml"), "start"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert "nope.toml" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become somebody else")
def test_without_any_configuration_as_an_ordinary_user(here: Site) -> None:
    os.chmod(here.folder, 0o777)
    argv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", str(HEALCTL)]
    probe = subprocess.run([*argv, "--version"], capture_output=True, timeout=60, check=False)
    if probe.returncode != 0:
        pytest.skip("the virtual environment cannot be read by an ordinary user")
    ours = environment(here)
    for name in ("s", "r"):
        (here.folder / name).mkdir(mode=0o700)
        os.chown(here.folder / name, 65534, 65534)
    started = subprocess.run(
        [*argv, "start", "--detach"], env=ours, capture_output=True, text=True, timeout=60, check=False
    )
    assert started.returncode == 0, started.stderr + started.stdout
    try:
        status = subprocess.run(
            [*argv, "heal", "status", "--json"], env=ours, capture_output=True, timeout=60, check=False
        )
        assert status.returncode == 0, status.stderr
    finally:
        stopped = subprocess.run([*argv, "stop"], env=ours, capture_output=True, text=True, timeout=60, check=False)
        assert stopped.returncode == 0, stopped.stderr


def test_a_ledger_of_a_newer_healctl_ends_it_at_once_with_78(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    daemon.stop()
    with closing(sqlite3.connect(daemon.state_dir / "ledger.db", isolation_level=None)) as ledger:
        ledger.execute("PRAGMA user_version=99")
    done = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "start"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 78, "no restart helps, by us or by systemd"
    assert "the ledger has schema 99" in done.stderr + done.stdout
