"""`rb-kick-pipeline` on the real daemon: told with the stage, blocked once approved, and only while it stands there."""

from __future__ import annotations

import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.acceptance.test_anomaly_pipeline import state, task
from tests.lab.daemon import Daemon, Site, gone, until

pytestmark = pytest.mark.req("FR-003", "R11")
FAST = '[policy]\nclear_interval = "100ms"\nsettle = "100ms"\n'
TASK = ("--target", "pipeline:task-001-fix-it")
# What `pipeline-stage-done` does, as far as we can see: its words are noted, and the task's stage is blocked.
DONE = """
import json, os, sys
folder, fail = sys.argv[1], sys.argv[2]
with open(folder + "/calls", "a") as calls:
    calls.write(json.dumps(sys.argv[3:]) + "\\n")
if fail:
    sys.exit(fail)
file = folder + "/state.json"
found = json.load(open(file))
for task in found["active_tasks"]:
    if task["task_id"] == sys.argv[4]:
        task["stages_blocked"] = [sys.argv[3]]
json.dump(found, open(file + ".new", "w"))
os.rename(file + ".new", file)
"""


def calls(folder: Path) -> list[list[str]]:
    file = folder / "calls"
    return [msgspec.json.decode(line) for line in file.read_text().splitlines()] if file.exists() else []


def stuck(here: Site, fail: str = "", stuck_after: str = "2s", **environment: str) -> Daemon:
    program = here.folder / "stage_done.py"
    program.write_text(DONE)
    argv = ", ".join(f'"{word}"' for word in (sys.executable, str(program), str(here.folder), fail))
    state(here.folder, one("build"), task(2, status="blocked"))
    daemon = here.daemon(
        f'{FAST}[pipeline.main]\nstate_file = "{here.folder / "state.json"}"\nstage_done = [{argv}]\n'
        f'interval = "1s"\nstuck_after = "{stuck_after}"\n'
    )
    daemon.start(**environment)
    return daemon


def one(stage: str) -> dict[str, object]:
    return {**task(1, stage), "task_id": "task-001-fix-it"}


def messages(daemon: Daemon) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(f"file:{daemon.state_dir / 'brain.db'}?mode=ro", uri=True, timeout=5)) as connection:
        return connection.execute("SELECT priority, body FROM messages WHERE body LIKE '%task-001%'").fetchall()


@pytest.mark.req("AC-002", "FR-005")
def test_a_stuck_task_is_told_with_its_stage_in_time_and_blocked_once_approved(here: Site) -> None:
    began = time.time()
    daemon = stuck(here)
    told = until("its message on Synapse", lambda: messages(daemon))
    assert time.time() - began < 2 + 120, "within 2 min of the threshold"
    assert told[0][0] == "action"
    assert "The task task-001-fix-it is stuck" in told[0][1]
    assert "it has stood in stage build for" in told[0][1]
    assert "rb-kick-pipeline" in told[0][1]
    (row,) = daemon.wait_state("pipeline:task-001-fix-it", "escalated")
    assert row["escalation_tier"] == 2

    code, plan = daemon.cli("heal", "dry_run", "rb-kick-pipeline", *TASK)
    assert code == 0
    assert "build task-001-fix-it blocked" in plan["steps"][0]["description"]
    assert calls(here.folder) == []

    assert daemon.cli("heal", "approve", "rb-kick-pipeline", *TASK)[0] == 0
    (row,) = daemon.wait_state("pipeline:task-001-fix-it", "resolved")
    (call,) = calls(here.folder)
    assert call[:3] == ["build", "task-001-fix-it", "blocked"]
    assert call[3].startswith("healctl: in this stage for more than 0.0333333 min")
    assert len(call) == 4
    until("the summary", lambda: [body for priority, body in messages(daemon) if priority == "info"])
    daemon.stop()


def test_a_command_that_fails_is_said_and_not_called_again(here: Site) -> None:
    daemon = stuck(here, "no such stage; rm -rf /")
    daemon.wait_state("pipeline:task-001-fix-it", "escalated")
    daemon.ask("approve", runbook_id="rb-kick-pipeline", target_id=TASK[1])

    def failed() -> bool:
        (row,) = daemon.incidents(TASK[1])
        return row["state"] == "escalated" and "exit 1\\nno such stage" in str(row["audit_trail"])

    until("its failure", failed)
    (row,) = daemon.incidents(TASK[1])
    assert row["escalation_tier"] == 3
    assert len(calls(here.folder)) == 1
    daemon.stop()


@pytest.mark.parametrize("point", ["claim.after", "program.recorded", "program.ended", "result.before"])
def test_the_executor_killed_half_way_calls_it_at_most_once_for_a_stage(here: Site, point: str) -> None:
    token = here.folder / "token"
    daemon = stuck(here, HEALCTL_TEST_CRASH=f"executor:{point}:{token}")
    daemon.wait_state("pipeline:task-001-fix-it", "escalated")
    old = daemon.worker("executor")
    token.touch()
    daemon.ask("approve", runbook_id="rb-kick-pipeline", target_id=TASK[1])
    gone(old)
    daemon.wait_state("pipeline:task-001-fix-it", "resolved")
    assert len(calls(here.folder)) == 1
    daemon.stop()


@pytest.mark.req("FR-007")
@pytest.mark.parametrize("moved", ["test", "done", ""])
def test_one_that_has_moved_is_left_alone_even_by_a_persons_order(here: Site, moved: str) -> None:
    daemon = stuck(here, stuck_after="1h")
    until("it is read", lambda: daemon.ask("probe", target_id=TASK[1])["data"]["stage"] == "build")
    state(here.folder, *([one(moved)] if moved else []), task(2, status="blocked"))
    code, answer = daemon.cli("heal", "execute", "rb-kick-pipeline", *TASK, "--confirm")
    if moved == "test":  # the probe may have seen it there by now: then the order is for this stage
        assert [call[0] for call in calls(here.folder)] in ([], ["test"])
    else:
        assert code == 1, answer
        assert calls(here.folder) == []
        assert "nothing was run" in answer["steps_executed"][0]["output"]
    daemon.stop()
