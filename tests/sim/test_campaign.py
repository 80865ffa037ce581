"""Many seeds at once: what they add up to, when a campaign ends, and that a stop keeps what it came to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

from tests.sim.__main__ import CHUNK, FALSE, Campaign, Limits
from tests.sim.run import Outcome

WITHIN_S = 60.0


def _started(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sim", "--processes", "1", "--no-coverage", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_it_ends_after_so_many_incidents_and_keeps_a_report(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with _started("--incidents", "5", "--json", str(file)) as run:
        out, _ = run.communicate(timeout=WITHIN_S)
    report = json.loads(file.read_text())
    assert run.returncode == 0
    assert report["incidents"] >= 5
    assert report["seeds"] in (CHUNK, 2 * CHUNK, 3 * CHUNK), "those that were in work are added up, no more"
    assert (report["false_actions"], report["broken"], report["failures"]) == (0, 0, [])
    assert report["visited"]["anomaly process_dead"] > 0
    assert json.loads(out.splitlines()[-1])["incidents"] == report["incidents"]


def test_a_signal_to_stop_ends_it_with_everything_so_far(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with _started("--minutes", "60", "--json", str(file)) as run:
        assert run.stderr is not None
        before = json.loads(run.stderr.readline())
        run.send_signal(signal.SIGTERM)
        out, _ = run.communicate(timeout=WITHIN_S)
    assert run.returncode == 0
    figures = json.loads(out.splitlines()[-1])
    assert figures["seeds"] >= before["seeds"] > 0
    assert json.loads(file.read_text())["seeds"] == figures["seeds"]


def test_no_more_chunks_are_given_out_than_there_is_room_for() -> None:
    """The pool takes whatever it is offered, so that an end would come hours after it was due."""
    total, room = Campaign(1), threading.Semaphore(2)
    limits = Limits(1, 25, minutes=0.0, incidents=3)
    chunks = limits.chunks(total, room, 50)
    assert [next(chunks), next(chunks)] == [(1, 11, 50), (11, 21, 50)]
    assert not room.acquire(blocking=False)
    room.release()
    assert next(chunks) == (21, 26, 50)
    again = Limits(1, 25, minutes=0.0, incidents=3).chunks(total, threading.Semaphore(9), 50)
    total.add(Outcome(seed=1, incidents=3))
    assert list(again) == []


def test_a_failure_is_in_the_report_with_the_command_that_runs_it_again() -> None:
    total = Campaign(1)
    total.add(Outcome(seed=7, broken=FALSE, text="no false action: x", counts={"tier 3": 2}))
    total.add(Outcome(seed=8, counts={"tier 3": 1}))
    report = total.report(real_every=40)
    assert (report["false_actions"], report["broken"], report["visited"]) == (1, 1, {"tier 3": 3})
    (failure,) = report["failures"]  # type: ignore[misc]
    assert failure["again"] == "python -m tests.sim --seed 7 --real-every 40"  # type: ignore[has-type]
