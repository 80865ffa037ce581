"""`healctl demo`, whole: what it shows, what it returns, and that it leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import proc

DEMO = [sys.executable, "-P", "-c", "from supervisor.cli.main import main; main()", "demo"]


@pytest.fixture
def box() -> Iterator[Path]:
    """The directory in which the demo makes its own."""
    at = Path(tempfile.mkdtemp(prefix="hc"))
    yield at
    assert list(at.iterdir()) == [], "the demo left files behind"
    left = [pid for pid in proc.pids() if str(at) in " ".join(proc.command_line(pid))]
    assert left == [], "the demo left processes behind"
    shutil.rmtree(at)


def start(box: Path, **environment: str) -> subprocess.Popen[str]:
    env = {**os.environ, "TMPDIR": str(box), **environment}
    return subprocess.Popen(DEMO, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.req("AC-001", "NFR-003", "FR-004")
def test_the_demo_heals_shows_every_transition_the_page_and_the_trail(box: Path) -> None:
    out, err = start(box).communicate(timeout=60)
    assert err == ""
    numbers = re.findall(r"pid (\d+)", out)
    assert len(set(numbers)) == 2, "the service lives again as another process"
    shown = re.findall(r"^    \+ *(\d+) ms  toy process_dead  (\w+)", out, re.MULTILINE)
    states = list(dict.fromkeys(state for _, state in shown))
    assert states == ["detected", "diagnosing", "remediating", "verifying", "resolved"]
    assert int(shown[-1][0]) < 3000  # AC-001 at default settings, as the user sees it
    page = re.findall(r"^    \| (.*)$", out, re.MULTILINE)
    assert "toy was down" in page[0]  # what broke,
    assert any("healctl restarted toy" in line for line in page)  # what was tried,
    assert any("ecide" in line for line in page)  # and what there is to decide (NFR-003)
    trail = out.partition("The audit trail")[2]
    assert all(state in trail for state in states)
    assert out.endswith("Cleaned up: the toy, the daemon and the directory are gone.\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_an_interrupted_demo_cleans_up_too(box: Path, number: int) -> None:
    demo = start(box)
    assert demo.stdout is not None
    for line in demo.stdout:
        if line.startswith("2."):  # the toy and the daemon run
            break
    demo.send_signal(number)
    demo.communicate(timeout=60)
    assert demo.returncode == 130


def test_a_demo_that_fails_says_why_exits_1_and_cleans_up(box: Path) -> None:
    deep = box / ("x" * 90)  # no UNIX socket fits in there
    deep.mkdir()
    demo = start(deep)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "limit of a UNIX socket" in err
    assert "Cleaned up" not in out
    deep.rmdir()
