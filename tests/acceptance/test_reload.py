"""Another configuration while healctl runs (DESIGN §7): only what changed is touched, a bad file changes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from supervisor import proc
from supervisor.errors import HealError
from tests.acceptance.conftest import signal_toml
from tests.doubles.signal_double import SignalDouble
from tests.lab.daemon import HEALCTL, WAIT_S, Daemon, Site, gone, until

OURS = ("store", "healer", "executor", "notifier", "process")


def settled(daemon: Daemon, *names: str) -> dict[str, dict[str, Any]]:
    """The workers by name, as soon as the core, the hands and these are READY."""

    def look() -> dict[str, dict[str, Any]] | None:
        children = {child["name"]: child for child in daemon.ask("tree")["children"]}
        wanted = {"store", "healer", "executor", "notifier", *names}
        ready = {name for name, child in children.items() if child["state"] == "ready"}
        return children if wanted <= ready else None

    found: dict[str, dict[str, Any]] = until(f"{names} ready\n{daemon.tail()}", look)
    return found


def reload(daemon: Daemon, config: str) -> tuple[int, Any]:
    daemon.config_file.write_text(daemon.text(config))
    return daemon.cli("reload", "--json")


@pytest.mark.req("FR-001")
def test_a_target_comes_and_goes_and_the_others_are_left_alone(here: Site) -> None:
    one, two = here.service("one"), here.service("two")
    one.start()
    two.start()
    daemon = here.daemon(one.toml())
    daemon.start()
    before = settled(daemon, "process")
    code, told = reload(daemon, one.toml() + two.toml())
    assert (code, told) == (0, {"ok": True, "changes": ["process.two added"]})
    two.kill()
    daemon.wait_state("two", "resolved")
    one.kill()
    daemon.wait_state("one", "resolved")
    code, told = reload(daemon, two.toml())
    assert (code, told["changes"]) == (0, ["process.one removed"])
    after = settled(daemon, "process")
    for name in OURS:
        assert (after[name]["pid"], after[name]["restarts"]) == (before[name]["pid"], 0), name
    assert daemon.ask("tree")["last_reload"]["ok"] is True
    daemon.stop()


@pytest.mark.req("FR-001", "FR-004")
def test_a_target_that_leaves_with_an_open_incident_takes_it_along(here: Site) -> None:
    one, two = here.service("one"), here.service("two")
    two.start()
    daemon = here.daemon(one.toml(auto_restart=False) + two.toml())
    daemon.start()
    daemon.wait_state("one", "escalated")
    assert reload(daemon, two.toml())[0] == 0
    (row,) = daemon.wait_state("one", "dismissed")
    assert row["audit_trail"][-1]["note"] == "its target is no longer configured"
    assert daemon.open_incidents() == []
    daemon.stop()


@pytest.mark.req("FR-001", "FR-003")
def test_a_changed_target_and_a_changed_policy_are_in_force_at_once(here: Site) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml(auto_restart=False))
    daemon.start()
    settled(daemon, "process")
    code, told = reload(daemon, one.toml() + '[policy]\nauto_execute = ["rb-restart-service"]\n')
    assert (code, told["changes"]) == (0, ["policy changed", "process.one changed"])
    listed = daemon.ask("list_runbooks")["runbooks"]
    assert next(r for r in listed if r["id"] == "rb-restart-service")["auto_approve_whitelist"] is True
    one.kill()
    daemon.wait_state("one", "resolved")  # nobody approved it: the new file did
    daemon.stop()


@pytest.mark.req("FR-001")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[process.web\n", "healctl.toml"),
        ('[process.web]\nmatsch = "x"\n', "matsch"),
        ('[store]\nbrain_db = "/nowhere/brain.db"\n', "needs a restart"),
        ("[tree]\nbackoff_base = 20\n", "tree.backoff_base"),
        ('[tree]\nbackoff_max = "60s"\nbackoff_base = "30s"\n', "core_period"),
    ],
)
def test_a_bad_file_changes_nothing_and_says_so(here: Site, text: str, words: str) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml())
    daemon.start()
    before = settled(daemon, "process")
    code, told = reload(daemon, one.toml() + text)
    assert words in told["error"]
    if code == 78:  # no TOML at all: the command line itself cannot tell where the daemon is
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
    else:
        assert code == 1
    until("it stands in the log", lambda: "not reloaded, nothing was changed" in daemon.tail())
    last = until("it is told", lambda: daemon.ask("tree")["last_reload"])
    assert last["ok"] is False
    assert words in last["error"]
    after = settled(daemon, "process")
    assert {name: after[name]["pid"] for name in OURS} == {name: before[name]["pid"] for name in OURS}
    one.kill()
    daemon.wait_state("one", "resolved")
    assert reload(daemon, one.toml())[1] == {"ok": True, "changes": []}  # and a good one is taken after it
    daemon.stop()


@pytest.mark.req("FR-001")
def test_a_file_that_cannot_be_read_holds_nobody_up(here: Site) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon(one.toml())
    daemon.start()
    settled(daemon, "process")
    good = daemon.config_file.read_text()
    daemon.config_file.unlink()
    os.mkfifo(daemon.config_file)  # whoever opens it waits for ever
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    daemon.process.send_signal(signal.SIGHUP)
    one.kill()
    daemon.wait_state("one", "resolved")
    until("it is given up", lambda: "could not be read within" in daemon.tail())
    daemon.config_file.unlink()
    daemon.config_file.write_text(good)
    assert daemon.cli("reload", "--json") == (0, {"ok": True, "changes": []})
    daemon.stop()


@pytest.mark.req("FR-001")
def test_a_family_comes_and_goes(here: Site) -> None:
    one = here.service("one")
    one.start()
    daemon = here.daemon("")
    daemon.start()
    before = settled(daemon)
    assert "process" not in before
    assert reload(daemon, one.toml(auto_restart=False))[0] == 0
    worker = daemon.worker("process")
    settled(daemon, "process")
    one.kill()
    daemon.wait_state("one", "escalated")
    assert reload(daemon, "")[0] == 0
    gone(worker)
    daemon.wait_state("one", "dismissed")
    until("it is not shown", lambda: "process" not in {child["name"] for child in daemon.ask("tree")["children"]})
    after = settled(daemon)
    for name in OURS[:4]:
        assert (after[name]["pid"], after[name]["restarts"]) == (before[name]["pid"], 0), name
    assert reload(daemon, one.toml())[0] == 0
    daemon.wait_state("one", "resolved")  # dismissed without a window: it is watched again, and healed
    daemon.stop()


@pytest.mark.req("FR-005", "AC-011")
def test_only_the_notifier_starts_anew_for_another_way_to_page(here: Site, phone: SignalDouble) -> None:
    one = here.service("one")
    daemon = here.daemon(one.toml(auto_restart=False, more=""))
    daemon.start()
    before = settled(daemon, "process")
    daemon.wait_state("one", "escalated")
    code, told = reload(daemon, one.toml(auto_restart=False) + signal_toml(phone))
    assert (code, told["changes"]) == (0, ["notify changed"])
    until("the page that waited", lambda: phone.sent)
    after = settled(daemon, "process")
    assert after["notifier"]["pid"] != before["notifier"]["pid"]
    for name in ("store", "healer", "executor", "process"):
        assert after[name]["pid"] == before[name]["pid"], name
    daemon.stop()


@pytest.mark.req("FR-001")
def test_who_dies_after_a_reload_lives_on_with_the_new_configuration(here: Site) -> None:
    one, two = here.service("one"), here.service("two")
    one.start()
    two.start()
    daemon = here.daemon(one.toml())
    daemon.start()
    settled(daemon, "process")
    assert reload(daemon, one.toml() + two.toml())[0] == 0
    for name in ("healer", "process"):
        daemon.kill_worker(name)
    settled(daemon, "process")
    assert daemon.ask("tree")["last_reload"]["changes"] == ["process.two added"]  # a new healer is told of it
    two.kill()
    daemon.wait_state("two", "resolved")
    daemon.stop()


def test_a_hangup_is_for_the_root_alone(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    before = settled(daemon)
    for name in OURS[:4]:
        assert proc.send_signal(daemon.worker(name), signal.SIGHUP)
    assert daemon.cli("reload", "--json") == (0, {"ok": True, "changes": []})
    after = settled(daemon)
    assert {name: after[name]["pid"] for name in OURS[:4]} == {name: before[name]["pid"] for name in OURS[:4]}
    daemon.stop()


def test_nobody_runs_is_3(here: Site) -> None:
    assert here.daemon("").cli("reload", "--json")[0] == 3


def test_a_terminal_that_closes_ends_the_daemon_that_was_started_from_it(here: Site) -> None:
    daemon = here.daemon("")
    master, slave = os.openpty()
    script = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    daemon.process = subprocess.Popen(
        [sys.executable, "-c", script, str(HEALCTL), "-c", str(daemon.config_file), "start"],
        stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    settled_after_start(daemon)
    daemon.process.send_signal(signal.SIGHUP)  # the terminal is there: this is an order to reload
    until("it is carried out", lambda: daemon.ask("tree")["last_reload"])
    os.close(master)
    assert daemon.process.wait(WAIT_S) == 0


def settled_after_start(daemon: Daemon) -> None:
    def look() -> object:
        with contextlib.suppress(HealError):
            return settled(daemon)
        return None

    until("it is ready", look)
