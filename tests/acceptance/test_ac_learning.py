"""AC-006 on the real daemon: by `record_fix`, and by a shell's hook alone; what comes of it is in brain.db."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import here as here
from tests.lab.daemon import HEALCTL, Daemon, Site, until


def drafts(daemon: Daemon) -> list[dict[str, Any]]:
    path = daemon.state_dir / "brain.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM runbooks WHERE id LIKE 'rb-fix-%'").fetchall()
    return [dict(row) for row in rows]


@pytest.mark.req("AC-006", "AC-007", "FR-006", "FR-007")
def test_ac_006_a_fix_that_is_recorded_is_a_draft_in_dry_run_that_runs_once_approved(here: Site) -> None:
    daemon, toy, row = here.down()
    toy.start()
    daemon.wait_state("toy", "self_resolved")
    command = shlex.join(toy.argv)
    code, answer = daemon.cli(
        "heal", "record_fix", row["id"], "--description", "it had died", "--command", command, "--json"
    )
    assert code == 0, answer
    assert (answer["success"], answer["incident_resolved"]) == (True, True)
    assert (answer["draft_runbook_mode"], answer["synapse_message_sent"]) == ("dry_run", True)
    assert [step["kind"] for step in answer["steps"]] == ["stop-service", "start-service"]
    draft = answer["draft_runbook_id"]
    (found,) = until("the draft in brain.db", lambda: drafts(daemon))
    assert (found["id"], found["mode"], found["confidence"]) == (draft, "dry_run", 0.5)
    code, plan = daemon.cli("heal", "dry_run", draft, "--target", "toy", "--json")
    assert code == 0
    assert len(plan["steps"]) == 2
    code, approved = daemon.cli("heal", "approve", draft, "--target", "toy", "--json")
    assert (code, approved["mode"]) == (0, "auto_execute")
    daemon.wait_known(toy)
    toy.kill()
    daemon.wait_state("toy", "resolved")
    rows = daemon.incidents("toy")
    assert rows[-1]["runbook_id"] == draft, "the draft has healed it"


@pytest.mark.req("AC-006", "FR-006")
def test_ac_006_by_the_hook_of_a_shell_alone(here: Site, tmp_path: Path) -> None:
    daemon, toy, _ = here.down()
    hook = subprocess.run(
        [str(HEALCTL), "-c", str(daemon.config_file), "capture", "hook", "bash"], capture_output=True, check=True
    ).stdout.decode()
    assert (daemon.runtime_dir / "capturing").exists()
    leader, follower = pty.openpty()
    rc = tmp_path / "rc"
    rc.write_text(hook)
    bash = shutil.which("bash")
    assert bash is not None
    environment = {**os.environ, "HISTFILE": str(tmp_path / "history"), "PS1": "$ ", "PROMPT_COMMAND": ""}
    shell = subprocess.Popen(
        [bash, "--noprofile", "--rcfile", str(rc), "-i"],
        stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        os.write(leader, f"df /\nfalse\nnohup {shlex.join(toy.argv)} >/dev/null 2>&1 &\n".encode())
        (found,) = until("the draft in brain.db", lambda: drafts(daemon))
        assert found["mode"] == "dry_run"
    finally:
        os.write(leader, b"exit\n")
        with contextlib.suppress(OSError):  # EIO: it has gone, and so has its terminal
            while os.read(leader, 4096):
                pass
        shell.wait(60)
        os.close(leader)
    assert found["label"].startswith("What a person did about process_dead of toy")
