"""A test that runs in a pid namespace of its own, where nothing but what it starts can be seen or signalled.

`inside(request)` runs the very test once more in such a namespace and returns False; there it returns True, and the
test goes on. Process 1 of the namespace is this module, which reaps like an init.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

WITHIN_S = 300.0
_INSIDE = "HEALCTL_TEST_PIDNS"
RESERVED = 300  # include/linux/threads.h: numbers below are given away once only


def inside(request: pytest.FixtureRequest, *, numbers: int = 0) -> bool:
    """`numbers`: there are only so many, which are given away again and again; skips where that cannot be had."""
    if os.environ.get(_INSIDE):
        if numbers:
            _lower(numbers)
        return True
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root, and unshare(1)")
    argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, __file__]
    argv += [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "pytest_timeout"]
    done = subprocess.run(
        [*argv, request.node.nodeid],
        env={**os.environ, _INSIDE: "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # twice as quick to begin
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
        check=False,
    )
    said = f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
    if done.returncode == 0 and " skipped" in done.stdout and " passed" not in done.stdout:
        pytest.skip(f"inside: {done.stdout[-300:]}")
    assert done.returncode == 0, said
    return False


def _lower(numbers: int) -> None:
    """Only where it is the namespace's own (Linux 6.14): else it would be the whole machine's."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 14):
        pytest.skip("pid_max is the machine's before Linux 6.14")
    Path("/proc/sys/kernel/pid_max").write_text(str(RESERVED + numbers))
    Path("/proc/sys/kernel/ns_last_pid").write_text(str(RESERVED))


def _be_init(argv: list[str]) -> int:
    child = subprocess.Popen(argv)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    while True:
        pid, status = os.wait()
        if pid == child.pid:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(_be_init(sys.argv[1:]))
