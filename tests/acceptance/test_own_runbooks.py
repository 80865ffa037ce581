"""An operator's own runbooks on the real daemon (FR-003): approved, run, changed, broken, removed, killed meanwhile."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
from typing import Any

import pytest

from tests.lab.daemon import HEALCTL, WAIT_S, Site, gone, until

RUNBOOK = """\
id = "rb-revive"
label = "Start it by a script of ours"
applies_to = ["process_dead"]
targets = ["web"]
before = "rb-restart-service"
[[step]]
kind = "run-command"
command = "revive"
"""


class House:
    """A daemon with a service that nothing can start but the operator's own script, which counts its runs."""

    def __init__(self, site: Site) -> None:
        self.service = site.service("web")
        self.script = site.folder / "revive"
        self.ran = site.folder / "ran"
        argv = " ".join(f"'{word}'" for word in self.service.argv)
        self.script.write_text(f"#!/bin/sh\necho ran >> {self.ran}\nsetsid {argv} >/dev/null 2>&1 </dev/null &\n")
        self.script.chmod(0o755)
        self.folder = site.folder / "runbooks.d"
        self.folder.mkdir(mode=0o700)
        self.put(RUNBOOK)
        self.daemon = site.daemon(self.toml())

    def toml(self, *words: str) -> str:
        argv = ", ".join(f'"{word}"' for word in (str(self.script), *words))
        watched = f'[process.web]\npid_file = "{self.service.pid_file}"\n'
        return f'{watched}[command.revive]\nargv = [{argv}]\neffect = "change"\ndescription = "by hand"\n'

    def put(self, text: str) -> None:
        file = self.folder / "revive.toml"
        file.write_text(text)
        file.chmod(0o600)

    def runs(self) -> int:
        return len(self.ran.read_text().splitlines()) if self.ran.exists() else 0

    def listed(self) -> dict[str, Any]:
        found = {book["id"]: book for book in self.daemon.ask("list_runbooks")["runbooks"]}
        return found.get("rb-revive", {})

    def reload(self, config: str = "") -> tuple[int, Any]:
        if config:
            self.daemon.config_file.write_text(self.daemon.text(config))
        return self.daemon.cli("reload", "--json")

    def approve(self) -> dict[str, Any]:
        return self.daemon.ask("approve", runbook_id="rb-revive", target_id="web")


@pytest.fixture
def house(here: Site) -> House:
    made = House(here)
    made.service.start()
    return made


@pytest.mark.req("FR-003", "FR-006", "AC-007", "R7", "R11")
def test_it_starts_in_dry_run_and_heals_once_it_is_approved(house: House) -> None:
    daemon = house.daemon
    daemon.start()
    book = house.listed()
    assert (book["mode"], book["author"], book["origin"]) == ("dry_run", "file:revive.toml", "own")
    plan = daemon.ask("dry_run", runbook_id="rb-revive", target_id="web")
    assert f"run revive (by hand): {house.script} in / to its end" in plan["steps"][0]["description"]
    daemon.wait_known(house.service)
    old = house.service.kill()
    (row,) = daemon.wait_state("web", "escalated")
    assert row["runbook_id"] == "rb-revive"
    assert house.runs() == 0
    approved = house.approve()
    assert approved["running_for"] == [row["id"]]
    (row,) = daemon.wait_state("web", "resolved")
    assert house.service.wait_new(old)
    assert house.runs() == 1
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True)) as db:
        assert db.execute("SELECT label FROM runbooks WHERE id = 'rb-revive'").fetchall() == [
            ("Start it by a script of ours",)
        ]
    house.service.kill()  # and from now on by itself
    daemon.wait_state("web", "resolved", 2)
    assert house.runs() == 2
    daemon.stop()


@pytest.mark.req("FR-003", "FR-006", "NFR-001")
@pytest.mark.parametrize("what", ["file", "command"])
def test_another_text_is_not_approved_and_a_comment_is_no_other_text(house: House, what: str) -> None:
    daemon = house.daemon
    daemon.start()
    daemon.wait_known(house.service)
    version = house.approve()["version"]
    house.put(
        "# mine\n" + RUNBOOK.replace('kind = "run-command"\ncommand = "revive"', 'command="revive"\nkind="run-command"')
    )
    assert house.reload() == (0, {"ok": True, "changes": []})
    house.service.kill()
    daemon.wait_state("web", "resolved")
    assert house.runs() == 1
    if what == "file":
        house.put(RUNBOOK + 'timeout = "31s"\n')
        code, told = house.reload()
        assert (code, told["changes"]) == (0, ["runbook.rb-revive changed"])
    else:
        code, told = house.reload(house.toml("--hard"))
        assert (code, told["changes"]) == (0, ["command.revive changed", "runbook.rb-revive changed"])
    assert house.listed()["version"] != version
    daemon.wait_known(house.service)
    house.service.kill()
    (row,) = daemon.wait_state("web", "escalated")
    assert row["escalation_tier"] == 3
    until(
        "a word about it",
        lambda: any("was changed and needs your approval" in it["subject"] for it in daemon.synapse()),
    )
    assert house.runs() == 1
    house.approve()  # of the new text
    daemon.wait_state("web", "resolved", 2)
    assert house.runs() == 2
    daemon.stop()


@pytest.mark.req("FR-003")
def test_a_bad_file_changes_nothing_and_a_removed_one_takes_its_runbook_along(house: House) -> None:
    daemon = house.daemon
    daemon.start()
    daemon.wait_known(house.service)
    house.approve()
    before = house.listed()
    house.put(RUNBOOK.replace("run-command", "run-comand") + 'efect = "change"\n')
    code, told = house.reload()
    assert code == 1
    assert f"{house.folder}/revive.toml:9: key step.1.efect: unknown key" in told["error"]
    assert house.listed() == before
    house.service.kill()
    daemon.wait_state("web", "resolved")  # by the one that was accepted
    house.put(RUNBOOK)
    assert house.reload() == (0, {"ok": True, "changes": []})
    (house.folder / "revive.toml").unlink()
    code, told = house.reload()
    assert (code, told["changes"]) == (0, ["runbook.rb-revive removed"])
    assert house.listed() == {}
    code, told = daemon.cli("heal", "execute", "rb-revive", "--target", "web", "--confirm", "--json")
    assert (code, told["code"]) == (4, "unknown_id")
    daemon.wait_known(house.service)
    house.service.kill()
    (row,) = daemon.wait_state("web", "escalated")
    assert row["runbook_id"] == "rb-restart-service"
    assert house.runs() == 1
    daemon.stop()


@pytest.mark.req("FR-003")
def test_a_bad_file_at_the_start_is_78_and_nothing_runs(house: House) -> None:
    house.put(RUNBOOK.replace("rb-revive", "rb-restart-service"))
    done = subprocess.run(
        [str(HEALCTL), "-c", str(house.daemon.config_file), "start"],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 78
    assert f"{house.folder}/revive.toml:1: key id: rb-restart-service comes with healctl" in done.stderr
    assert not house.daemon.runtime_dir.exists()
    code, told = house.daemon.cli("check", "--json")
    assert (code, told["code"]) == (78, "bad_configuration")
    assert house.daemon.cli("check", "--configured")[0] == 0
    house.put(RUNBOOK)
    code, told = house.daemon.cli("check", "--json")
    assert code == 0
    assert [book["id"] for book in told["runbooks"]] == ["rb-revive"]


@pytest.mark.req("FR-003", "R11")
def test_a_root_that_is_killed_while_it_reloads_leaves_one_text_or_the_other(house: House) -> None:
    daemon = house.daemon
    daemon.start()
    versions = {house.listed()["version"]}
    accepted = daemon.runtime_dir / "accepted.json"
    for number in range(3):
        house.put(RUNBOOK + f'timeout = "{31 + number}s"\n')
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGHUP)
        if number:  # in the middle of it, or as soon as what was accepted is there
            until("it is accepted", accepted.exists)
        for left in daemon.kill_root():
            gone(left)
        accepted.unlink(missing_ok=True)
        daemon.start()
        version = house.listed()["version"]
        assert version not in versions  # what stands in the files now, whole
        versions.add(version)
    daemon.wait_known(house.service)
    house.approve()
    house.service.kill()
    daemon.wait_state("web", "resolved")
    assert house.runs() == 1
    daemon.stop()


@pytest.mark.req("FR-003")
def test_who_dies_after_a_reload_lives_on_with_the_same_runbooks(house: House) -> None:
    daemon = house.daemon
    daemon.start()
    house.put(RUNBOOK + 'timeout = "44s"\n')
    assert house.reload()[0] == 0
    version = house.listed()["version"]
    house.put("what is on the disk now, nobody has accepted")
    for name in ("healer", "executor"):
        daemon.kill_worker(name)
    daemon.wait_ready()
    assert house.listed()["version"] == version
    daemon.wait_known(house.service)
    house.approve()
    house.service.kill()
    daemon.wait_state("web", "resolved")
    assert house.runs() == 1
    daemon.stop()
