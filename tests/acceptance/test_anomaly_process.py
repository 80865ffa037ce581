"""Processes that died, hang or cannot die, on the real daemon: and a healthy twin beside them that stays silent."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import proc
from tests.lab.daemon import Site, gone, until

SOON = 'interval = "1s"'


@pytest.mark.req("R3", "NFR-001", "FR-001")
@pytest.mark.parametrize("end", ["stop", "kill -9"])
def test_a_live_service_whose_pid_file_got_lost_while_healctl_was_down_is_alive_and_not_doubled(
    here: Site, end: str
) -> None:
    lost, stale, twin = (here.service(name) for name in ("lost", "stale", "twin"))
    olds = [service.start() for service in (lost, stale, twin)]
    daemon = here.daemon("".join(service.toml(more=SOON) for service in (lost, stale, twin)))
    daemon.start()
    daemon.wait_known(lost, stale, twin)
    if end == "stop":
        daemon.stop()
    else:
        for worker in daemon.kill_root():
            gone(worker)
    lost.pid_file.unlink()
    dead = subprocess.Popen(["true"])
    dead.wait()
    stale.pid_file.write_text(f"{dead.pid}\n")
    daemon.start()
    # The twin's death and its repair come after the others' first readings, and are proof that readings are judged.
    new = twin.wait_new(twin.kill())
    daemon.wait_state("twin", "resolved")
    for name in ("lost", "stale"):
        assert daemon.incidents(name) == []
    assert [service.starts() for service in (lost, stale, twin)] == [1, 1, 2]
    assert [(status := proc.same(old)) is not None and status.live for old in olds] == [True, True, False]
    assert twin.ref() == new
    for service, old in ((lost, olds[0]), (stale, olds[1])):  # and now it dies: the kernel tells, and it is healed once
        assert proc.send_signal(old, signal.SIGKILL)
        service.wait_new(None)
        daemon.wait_state(service.name, "resolved")
        assert service.starts() == 2


@pytest.mark.req("R3", "FR-007", "R15")
def test_execute_does_not_end_what_a_pid_file_alone_calls_the_service(here: Site) -> None:
    mine, other = here.service("mine"), here.service("other")
    mine.start()
    kept = other.start()
    daemon = here.daemon(mine.toml(auto_restart=False) + other.toml(auto_restart=False))
    daemon.start()
    daemon.wait_known(mine, other)
    mine.pid_file.write_text(f"{kept.pid}\n")
    words = ("heal", "execute", "rb-restart-service", "--target", "mine", "--confirm", "--json")
    code, answer = daemon.cli(*words)
    assert code == 1
    assert str(kept.pid) in json.dumps(answer)
    assert "never seen to be mine" in json.dumps(answer)
    code, plan = daemon.cli("heal", "dry_run", "rb-restart-service", "--target", "mine", "--json")
    assert f"{kept.pid} (" in plan["steps"][0]["description"], "the process that it would be, and its command line"
    assert "toy_service.py" in plan["steps"][0]["description"]
    assert proc.same(kept) is not None
    daemon.kill_worker("process")  # the new one reads the pid file, and believes it: then both are known as one
    until("both known as one", lambda: "is known as other too" in json.dumps(daemon.cli(*words)[1]))
    assert proc.same(kept) is not None
    assert (mine.starts(), other.starts()) == (1, 1)


@pytest.mark.req("FR-002", "R3", "R7")
def test_a_stopped_service_is_told_of_never_touched_and_closed_when_it_goes_on(here: Site) -> None:
    toy, twin = here.service("toy"), here.service("twin")
    ref = toy.start()
    twin.start()
    daemon = here.daemon(toy.toml(more=SOON) + twin.toml(more=SOON))
    daemon.start()
    daemon.wait_known(toy, twin)
    assert proc.send_signal(ref, signal.SIGSTOP)
    (row,) = daemon.wait_state("toy", "escalated")
    assert (row["anomaly_type"], row["severity"], row["escalation_tier"]) == ("process_dead", "critical", 3)
    assert "stopped and does nothing" in str(row["audit_trail"])
    assert proc.send_signal(ref, signal.SIGCONT)
    daemon.wait_state("toy", "self_resolved")
    assert toy.ref() == ref
    assert toy.starts() == 1
    assert daemon.incidents("twin") == []


# Of its two children it reaps the second when it is told to, the first never.
HOLDER = """
import subprocess, sys
children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
for child, path in zip(children, sys.argv[1:]):
    with open(path, "w") as file:
        file.write(f"{child.pid}\\n")
print("ready", flush=True)
sys.stdin.readline()
children[1].wait()
sys.stdin.readline()
"""


@pytest.mark.req("R12", "FR-002")
def test_a_true_zombie_is_one_and_a_killed_process_that_is_reaped_late_is_dead_only(here: Site, tmp_path: Path) -> None:
    twin = here.service("twin")
    twin.start()
    files = {name: tmp_path / f"{name}.pid" for name in ("undead", "late")}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *map(str, files.values())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"ready\n"
        tables = "".join(f'[process.{name}]\npid_file = "{path}"\n{SOON}\n' for name, path in files.items())
        daemon = here.daemon(tables + twin.toml(more=SOON))
        daemon.start()
        daemon.wait_known(twin)
        for path in files.values():
            status = proc.stat(int(path.read_text()))
            assert status is not None
            assert proc.send_signal(status.ref, signal.SIGKILL)
        (late,) = daemon.wait_state("late", "escalated")
        holder.stdin.write(b"reap\n")
        holder.stdin.flush()
        assert late["anomaly_type"] == "process_dead"
        rows = daemon.wait_state("undead", "escalated", count=2)
        assert {row["anomaly_type"]: row["severity"] for row in rows} == {
            "process_dead": "critical",
            "process_zombie": "high",
        }
        (zombie,) = (row for row in rows if row["anomaly_type"] == "process_zombie")
        assert f"({holder.pid})" in str(zombie["audit_trail"]), "its parent is named"
        assert [row["anomaly_type"] for row in daemon.incidents("late")] == ["process_dead"]
        assert daemon.incidents("twin") == []
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    daemon.wait_state("undead", "self_resolved")  # its parent gone, init reaps it
