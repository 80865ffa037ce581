"""AC-007 and AC-008 on the real daemon: a service that dies, its owner, and what healctl learns from the two."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import Any

import pytest

from tests.lab.daemon import Daemon, Site, until

RB = "rb-restart-service"
# It dies several times within the hour, so that R6 asks for three clear readings: close together, here.
POLICY = '[policy]\nclear_interval = "200ms"\n'


def runbook(daemon: Daemon) -> dict[str, Any]:
    code, listed = daemon.cli("heal", "list-runbooks", "--json")
    assert code == 0
    return next(r for r in listed["runbooks"] if r["id"] == RB)


def synapse(daemon: Daemon) -> list[str]:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True)) as db:
        return [body for (body,) in db.execute("SELECT body FROM messages ORDER BY created_at")]


@pytest.mark.req("AC-007", "R3", "R7")
def test_ac_007_approval_by_the_command_line_turns_the_mode_to_auto_execute(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False))
    daemon.start()
    assert runbook(daemon)["mode"] == "dry_run"
    old = toy.kill()
    daemon.wait_state("toy", "escalated")
    code, answer = daemon.cli("heal", "approve", RB, "--json")
    assert (code, answer["mode"]) == (0, "auto_execute")
    assert answer["approved_at"]
    assert len(answer["running_for"]) == 1
    assert runbook(daemon)["mode"] == "auto_execute"
    toy.wait_new(old)
    daemon.wait_state("toy", "resolved")
    daemon.kill_worker("healer")
    until("the healer is back", lambda: daemon.ask("list_runbooks")["runbooks"][0]["mode"] == "auto_execute")


@pytest.mark.req("AC-008", "R4", "FR-003")
def test_ac_008_three_deaths_repaired_by_hand_twice_and_by_healctl_the_third_time(here: Site) -> None:
    toy = here.service("toy")
    toy.start()
    daemon = here.daemon(toy.toml(auto_restart=False) + POLICY)
    daemon.start()
    for count in (1, 2):
        daemon.wait_known(toy)
        toy.kill()
        row = daemon.wait_state("toy", "escalated")[-1]
        assert any("dry run of rb-restart-service would clear it" in e["note"] for e in row["audit_trail"])
        assert runbook(daemon)["targets"][0]["dry_run_count"] == count
        assert toy.starts() == count, "a dry run starts nothing"
        toy.start()
        daemon.wait_state("toy", "self_resolved", count)
        if count == 1:
            daemon.kill_worker("healer")  # what was counted is durable
    daemon.wait_known(toy)
    old = toy.kill()
    toy.wait_new(old)
    (row,) = daemon.wait_state("toy", "resolved")
    assert any("rb-restart-service has graduated for toy" in entry["note"] for entry in row["audit_trail"])
    (mine,) = runbook(daemon)["targets"]
    assert (mine["target_id"], mine["mode"], mine["dry_run_count"]) == ("toy", "auto_execute", 3)
    assert mine["confidence"] >= 0.8
    assert toy.starts() == 4
    revoke = f"healctl heal approve {RB} --target toy --revoke"
    until("Synapse says how to revoke it", lambda: any(revoke in body for body in synapse(daemon)))

    code, past = daemon.cli("heal", "dry_run", RB, "--history", "--since", "1h", "--json")
    assert code == 0, past
    assert (past["incidents"], past["would_act"], past["would_resolve"]) == (3, 3, 3)
    assert (past["ran_and_verified"], past["predicted_by_dry_run"], past["acted_on_healthy"]) == (1, 2, 0)
    assert daemon.cli("heal", "dry_run", RB, "--history", "--target", "nobody", "--json")[1]["incidents"] == 0
    assert daemon.cli("heal", "dry_run", "rb-nope", "--history", "--json")[0] == 4
    assert daemon.cli("heal", "dry_run", RB, "--history", "--since", "yesterday", "--json")[0] == 2

    code, answer = daemon.cli("heal", "approve", RB, "--target", "toy", "--revoke", "--json")
    assert (code, answer["mode"]) == (0, "dry_run")
    daemon.wait_known(toy)
    toy.kill()
    daemon.wait_state("toy", "escalated")
    assert toy.starts() == 4
