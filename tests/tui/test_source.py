"""Where the dashboard's news come from, when this process itself is short of something."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.req("FR-007")

NO_FILES_LEFT = """
import os, resource, sys
from pathlib import Path
from tests.lab.daemon import until
from supervisor.errors import HealError
from tui.source import Daemon
(Path(sys.argv[1]) / "control.sock").write_text("")
source = Daemon(Path(sys.argv[1]))
_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) - 1, most))
source.start()
until("it says so", lambda: "it cannot be heard" in source.trouble())
try:
    source.ask("tree", {}, 1.0)
except HealError as error:
    print(error.message)
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
until("it has gone on", lambda: source.trouble() == "not running; waiting for it")
print("went on")
os._exit(0 if not sys.stdout.flush() else 1)
"""


def test_without_a_file_left_it_says_so_and_goes_on_when_there_is_one(tmp_path: object) -> None:
    done = subprocess.run(
        [sys.executable, "-c", NO_FILES_LEFT, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("it cannot be asked: ")
    assert second == "went on"
