"""`python -m supervisor.cli.demo_guard DIRECTORY`: ends and removes a demo's sandbox once the demo is over.

It waits for the end of its standard input, which comes however the demo ends, kill -9 included. It ends the daemon of
that directory, then what was started from there, then the directory; nothing whose command line does not name it.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor import clock, proc
from supervisor.incidents.readings import ProcessRef
from supervisor.tree.lock import holder

STOPPED_S = 15.0
REMOVED_S = 10.0
LOOK_S = 0.02
RUNTIME = "run"


def sweep(at: Path) -> None:
    """Raises OSError when the directory cannot be removed."""
    stop_daemon(at)
    until_s = clock.monotonic_s() + STOPPED_S
    while (left := list(ours(at))) and clock.monotonic_s() < until_s:
        for ref in left:
            proc.send_signal(ref, signal.SIGKILL)
        time.sleep(LOOK_S)
    until_s = clock.monotonic_s() + REMOVED_S
    while at.exists():
        try:
            shutil.rmtree(at)
        except OSError:  # a worker that lost its root writes its last file
            if clock.monotonic_s() > until_s:
                raise
            time.sleep(LOOK_S)


def stop_daemon(at: Path) -> None:
    """In order, while it can be; a service that it has started lives on."""
    root = holder(at / RUNTIME)
    if root is None or not proc.send_signal(root, signal.SIGTERM):
        return
    until_s = clock.monotonic_s() + STOPPED_S
    while holder(at / RUNTIME) == root:
        if clock.monotonic_s() > until_s:
            proc.send_signal(root, signal.SIGKILL)
        time.sleep(LOOK_S)


def ours(at: Path) -> Iterator[ProcessRef]:
    """Pythons that were started with a file of the sandbox: never a pager or an editor that somebody opened on one."""
    python = os.path.realpath(sys.executable)
    for pid in proc.pids():
        if pid == os.getpid() or not any(word.startswith(f"{at}/") for word in proc.command_line(pid)):
            continue
        found = proc.stat(pid)
        try:
            is_python = os.readlink(f"/proc/{pid}/exe") == python
        except OSError:  # it has ended, or is another user's
            continue
        if found is not None and found.live and is_python:
            yield found.ref


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # what is begun here is finished
    at = Path(sys.argv[1])
    sys.stdin.buffer.read()
    sweep(at)
    return 0


if __name__ == "__main__":
    sys.exit(main())
