"""A person cancels what is at work, on the real daemon: cleanly, told in the trail and the audit, or refused with the
reason."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import proc
from supervisor.errors import HealError
from supervisor.incidents.readings import ProcessRef
from tests.lab import mounts
from tests.lab.daemon import HEALCTL, Daemon, Site, locked, until
from tests.lab.databases import make
from tests.lab.logs import MIB, leftovers

ROTATE = "rb-rotate-logs"


@contextlib.contextmanager
def ordered(daemon: Daemon, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command line at work."""
    argv = [str(HEALCTL), "-c", str(daemon.config_file), *words]
    command = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield command
    finally:
        command.kill()
        command.communicate(timeout=60)


def at_work(daemon: Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = daemon.ask("status")["at_work"]
    return found


def large_logs(here: Site) -> tuple[Daemon, Path]:
    """Nothing rotates them by itself."""
    logs = here.folder / "logs"
    logs.mkdir()
    for number in range(4):
        (logs / f"app{number}.log").write_bytes(os.urandom(30 * MIB))
    config = f'[logs.app]\npaths = ["{logs}/*.log"]\nmax_size = "1MiB"\ninterval = "1h"\n[policy]\nauto_execute = []\n'
    daemon = here.daemon(config)
    daemon.start()
    return daemon, logs


@contextlib.contextmanager
def held(daemon: Daemon) -> Iterator[ProcessRef]:
    """The rotation that is about to begin is stopped in its midst (SIGSTOP), and goes on after the block."""

    def rotating() -> ProcessRef | None:
        if not list(daemon.state_dir.glob("*.progress")):  # it has begun to archive
            return None
        for pid in proc.pids():
            words = proc.command_line(pid)
            if "remediators.rotating" in words and str(daemon.folder) in words[-1]:
                found = proc.stat(pid)
                return found.ref if found is not None else None
        return None

    program = until("the rotation", rotating)
    assert proc.send_signal(program, signal.SIGSTOP)
    try:
        yield program
    finally:
        proc.send_signal(program, signal.SIGCONT)


def asked_to_end(program: ProcessRef) -> bool:
    """A SIGTERM waits for it (proc_pid_status(5), ShdPnd)."""
    status = Path(f"/proc/{program.pid}/status").read_text()
    (pending,) = (line.split()[1] for line in status.splitlines() if line.startswith("ShdPnd:"))
    return bool(int(pending, 16) >> signal.SIGTERM - 1 & 1)


@pytest.mark.req("FR-003", "FR-004", "FR-007", "R15")
def test_a_rotation_at_work_is_shown_and_cancelled_cleanly(here: Site) -> None:
    daemon, logs = large_logs(here)
    (row,) = daemon.wait_state("app", "escalated")
    assert daemon.cli("heal", "approve", ROTATE, "--target", "app")[0] == 0
    with held(daemon):
        (told,) = until("progress", lambda: at_work(daemon))
        assert (told["target_id"], told["what"], told["stage"], told["unit"]) == ("app", ROTATE, "archive", "bytes")
        assert told["incident_id"] == row["id"]
        assert 0 < told["done"] < told["total"] == 120 * MIB
        assert any("At work: rb-rotate-logs on app: archive" in line for line in shown(daemon, "heal", "status"))
        code, answer = daemon.cli("heal", "cancel", "app")
        assert (code, answer["what"], answer["incident_id"]) == (0, ROTATE, row["id"])
    until("its end", lambda: not at_work(daemon))
    (row,) = daemon.wait_state("app", "escalated")
    notes = [entry["note"] for entry in row["audit_trail"]]
    assert f"{ROTATE} is to be cancelled" in notes
    assert "step rotate cancelled" in notes
    (step,) = (entry for entry in row["audit_trail"] if entry["note"] == "step rotate cancelled")
    assert step["output"].startswith("cancelled by operator: ")
    assert "of 4 logs archived" in step["output"]
    assert row["escalation_tier"] == 3, "a person's, as after a step that failed"
    orders = daemon.cli("audit", "-o", "json")[1]["orders"]
    assert [(it["actor"], it["args"]) for it in orders if it["action"] == "cancel"] == [("operator", {"id": "app"})]
    assert at_work(daemon) == []
    assert leftovers(logs) == []
    assert list(daemon.state_dir.glob("*.progress")) == []
    (book,) = (it for it in daemon.ask("list_runbooks")["runbooks"] if it["id"] == ROTATE)
    assert book["failures"] == 0, "the runbook has not failed"
    code, answer = daemon.cli("heal", "cancel", "app")
    assert (code, answer["code"]) == (1, "refused")
    assert "nothing is at work on app" in answer["error"]
    assert daemon.cli("heal", "cancel", "nothing-of-that-name")[0] == 4
    daemon.stop()


def more_than_fits(daemon: Daemon, disk: Path) -> str:
    """Takes all room, the reserve that the ledger gives back too, and has it written; what its trouble is."""
    if free := shutil.disk_usage(disk).free:
        mounts.fill(disk, free, f"fill{free}.{len(list(disk.glob('fill*')))}")
    with contextlib.suppress(HealError):  # no answer: it cannot be written down
        daemon.ask("pause", 1.0, target_id="app", reason="x" * 500)
    trouble: str = daemon.ask("tree")["ledger_trouble"]
    return trouble


@pytest.mark.req("R15", "NFR-002")
def test_a_ledger_without_room_keeps_nobody_from_stopping_what_is_at_work(here: Site) -> None:
    (here.folder / "state").mkdir()
    with mounts.tmpfs(here.folder / "state", "size=24m,mode=700") as disk:
        daemon, _ = large_logs(here)
        daemon.wait_state("app", "escalated")
        assert daemon.cli("heal", "approve", ROTATE, "--target", "app")[0] == 0
        with held(daemon) as program:
            until("the ledger's trouble", lambda: more_than_fits(daemon, disk))
            with ordered(daemon, "heal", "cancel", "app") as command:
                until("it is asked to end", lambda: asked_to_end(program))
                for filler in disk.glob("fill*"):
                    filler.unlink()
                command.communicate(timeout=60)
                assert command.returncode == 0, "it is answered when it is written down"
        (row,) = daemon.wait_state("app", "escalated")
        assert "step rotate cancelled" in [entry["note"] for entry in row["audit_trail"]]
        daemon.stop()


@pytest.mark.req("R15", "FR-003", "NFR-002")
def test_healer_and_executor_that_are_killed_before_either_has_said_a_word_do_not_forget_it(here: Site) -> None:
    """The executor hangs, so that it never hears of the order; then both are killed."""
    daemon, _ = large_logs(here)
    (row,) = daemon.wait_state("app", "escalated")
    assert daemon.cli("heal", "approve", ROTATE, "--target", "app")[0] == 0
    with held(daemon) as program, ordered(daemon, "heal", "cancel", "app") as command:
        healer, executor = daemon.worker("healer"), daemon.worker("executor")
        assert proc.send_signal(executor, signal.SIGSTOP)
        until("the order is durable", lambda: written_down(daemon))
        for part in (healer, executor, program):  # it has not done its work, and could be run again
            assert proc.send_signal(part, signal.SIGKILL)
        command.communicate(timeout=60)  # asked again of the next healer, and answered
    stopped = until(
        "a person's word", lambda: [it for it in daemon.open_incidents() if it["escalation_reason"] == "cancelled"]
    )
    assert [it["id"] for it in stopped] == [row["id"]]
    notes = [entry["note"] for entry in stopped[0]["audit_trail"]]
    assert len([note for note in notes if note.startswith(f"running {ROTATE}")]) == 1, notes
    daemon.stop()


def written_down(daemon: Daemon) -> bool:
    """In the ledger: somebody's cancelling of what is at work."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir}/ledger.db?mode=ro", uri=True)) as ledger:
        bodies = ledger.execute("SELECT body FROM executions WHERE is_over = 0").fetchall()
    return any(msgspec.json.decode(body)["cancelled_by"] == "operator" for (body,) in bodies)


def shown(daemon: Daemon, *words: str) -> list[str]:
    argv = [str(HEALCTL), "-c", str(daemon.config_file), *words, "-o", "table"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()


@pytest.mark.req("R10", "R15")
def test_a_restore_that_waits_for_the_lock_is_cancelled_and_the_database_stays_halted(here: Site) -> None:
    path, signal_file = make(here.folder / "trades.db", wal=True), here.folder / "signal.json"
    daemon = here.daemon(f'[trading.bot]\nsignal_file = "{signal_file}"\ntrades_db = "{path}"\n')
    daemon.start()
    assert daemon.cli("db", "backup", "bot-trades")[0] == 0
    with locked(path), ordered(daemon, "db", "restore", "bot-trades", "--confirm") as command:
        (told,) = until("progress", lambda: at_work(daemon))
        assert (told["stage"], told["can_be_cancelled"]) == ("wait for the write lock", True)
        assert daemon.cli("heal", "cancel", told["execution_id"])[0] == 0
        out, _ = command.communicate(timeout=60)
    (step,) = msgspec.json.decode(out)["steps_executed"]
    assert (command.returncode, step["status"], step["cancelled_by"]) == (1, "failed", "operator")
    assert "stopped before it had changed anything" in step["output"]
    assert [halt["phase"] for halt in daemon.ask("tree")["halted"]] == ["held"], "as after any restore that is not done"
    assert daemon.cli("db", "restore", "bot-trades", "--confirm")[0] == 0, "and it can be ordered again"
    daemon.stop()


@pytest.mark.req("R15", "FR-007")
def test_who_waits_sees_how_far_it_is_and_may_go_away(here: Site) -> None:
    """On a terminal: a line on stderr; Ctrl-C ends the waiting, says that the work goes on and how to end it."""
    daemon, _ = large_logs(here)
    ours, theirs = os.openpty()
    argv = [str(HEALCTL), "-c", str(daemon.config_file), "heal", "execute", ROTATE, "--target", "app", "--confirm"]
    command = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    seen = b""
    with held(daemon):
        while b"archive" not in seen:
            seen += os.read(ours, 1024)
        assert b"\rrb-rotate-logs on app: archive" in seen.replace(b"\x1b[K", b"")
        command.send_signal(signal.SIGINT)
        out, _ = command.communicate(timeout=60)
        with contextlib.suppress(OSError):  # EIO: everybody has closed it
            while more := os.read(ours, 4096):
                seen += more
        os.close(ours)
        assert (command.returncode, out) == (130, b"")
        assert b"healctl heal cancel app" in seen
        assert [it["what"] for it in at_work(daemon)] == [ROTATE], "the work goes on"
        assert daemon.cli("heal", "cancel", at_work(daemon)[0]["execution_id"])[0] == 0
    until("its end", lambda: not at_work(daemon))
    daemon.stop()


@pytest.mark.req("R15")
def test_an_agent_may_not_cancel(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    code, answer = daemon.cli("heal", "--agent", "claw", "cancel", "brain-db")
    assert (code, answer["code"]) == (1, "refused")
    assert "a person's to order" in answer["error"]
    code, answer = daemon.cli("heal", "cancel", "brain-db")
    assert code == 1
    assert "no integrity check of brain-db is running" in answer["error"]
    argv = [str(HEALCTL), "-c", str(daemon.config_file), "db", "backup"]
    done = subprocess.run(argv, capture_output=True, timeout=60, check=True)
    assert done.stderr == b"", "without a terminal nothing is shown meanwhile"
    daemon.stop()
