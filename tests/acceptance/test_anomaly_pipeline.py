"""A pipeline that stands still, on the real daemon with short limits, beside tasks that move, speak, or have ended."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.clock import local_naive_iso
from tests.lab.daemon import Site, until
from tests.lab.probes import database, write

FAST = '[policy]\nclear_interval = "100ms"\n'


def pipeline_toml(folder: Path, interval: str, stuck_after: str) -> str:
    return (
        f'[pipeline.main]\nstate_file = "{folder / "state.json"}"\nstage_done = ["/bin/true"]\n'
        f'interval = "{interval}"\nstuck_after = "{stuck_after}"\n'
    )


def task(number: int, stage: str = "build", **keys: Any) -> dict[str, Any]:
    return {"task_id": f"task-{number:03}", "title": "A title", "status": "in_progress", "current_stage": stage, **keys}


def state(folder: Path, *tasks: dict[str, Any]) -> None:
    write(folder / "state.json", msgspec.json.encode({"active_tasks": tasks}))


def say(brain: Path, text: str, ident: str) -> None:
    columns = "(id, thread_id, from_agent, body, created_at)"
    database(brain, f"INSERT INTO messages {columns} VALUES ('{ident}', 't', 'oracle', '{text}', '{now()}')")


def now() -> str:
    return local_naive_iso(time.time())


@pytest.mark.req("AC-002", "FR-001", "FR-002", "FR-004", "R7", "R8")
def test_a_task_that_stands_still_is_told_by_its_own_alarm_and_closes_when_it_moves(here: Site) -> None:
    # Nothing is polled within this test: the alarm at the limit and the file's changes do it all.
    old = {"updated_at": "2026-02-18T09:30:00Z"}
    state(here.folder, task(1), task(2, status="blocked", **old), task(3, "done", **old))
    daemon = here.daemon(FAST + pipeline_toml(here.folder, "1h", "3s"))
    daemon.start()
    (row,) = daemon.wait_state("pipeline:task-001", "escalated")
    assert (row["anomaly_type"], row["severity"]) == ("pipeline_stuck", "high")
    assert "stage build" in str(row)
    state(here.folder, task(1, "test"), task(2, status="blocked", **old))
    daemon.wait_state("pipeline:task-001", "self_resolved")
    daemon.wait_state("pipeline:task-001", "escalated")  # now it stands in the next stage
    state(here.folder, task(2, status="blocked", **old))
    daemon.wait_state("pipeline:task-001", "self_resolved", 2)
    assert {row["target_id"] for row in daemon.incidents()} == {"pipeline:task-001"}


@pytest.mark.req("FR-002", "R7")
def test_others_messages_end_it_and_our_own_do_not(here: Site) -> None:
    state(here.folder, task(1, updated_at="2026-02-18T09:30:00Z"), task(2, updated_at=now()))
    daemon = here.daemon(FAST + pipeline_toml(here.folder, "1s", "10m"))
    daemon.start()
    (row,) = daemon.wait_state("pipeline:task-001", "escalated")
    brain = daemon.state_dir / "brain.db"

    def ours() -> bool:
        with closing(sqlite3.connect(f"file:{brain}?mode=ro", uri=True, timeout=5)) as connection:
            found = connection.execute("SELECT subject || body FROM messages").fetchall()
        return any("task-001" in text for (text,) in found)

    until("our own message about it in brain.db", ours)
    seen = row["last_seen_at"]
    later = until("a detection after it", lambda: [r for r in daemon.incidents() if r["last_seen_at"] > seen])
    assert later[0]["state"] == "escalated"
    say(brain, "task-002 goes on", "syn_000000000002")
    say(brain, "task-001 waits for a review", "syn_000000000001")
    daemon.wait_state("pipeline:task-001", "self_resolved")
    assert {row["target_id"] for row in daemon.incidents()} == {"pipeline:task-001"}
