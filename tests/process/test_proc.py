"""The process table's word on who is alive, on real processes (R12)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from supervisor import proc
from tests.lab.daemon import until

# Its main thread leaves, another one goes on: /proc says Z of a process that is alive.
_HEADLESS = """
import ctypes, threading, sys
threading.Thread(target=sys.stdin.read).start()
print("up", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.req("R12", "FR-002")
def test_a_process_whose_main_thread_has_left_is_alive_and_no_zombie() -> None:
    program = subprocess.Popen([sys.executable, "-c", _HEADLESS], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == b"up\n"

        def state() -> proc.Stat | None:
            found = proc.stat(program.pid)
            return found if found is not None and found.state == "Z" else None

        found: proc.Stat = until("the main thread to leave", state)
        assert found.live
        assert not found.is_zombie
        program.kill()
        ended: proc.Stat = until("its end", lambda: (it := proc.stat(program.pid)) and it.threads == 1 and it)
        assert ended.is_zombie
        assert not ended.live
    finally:
        program.kill()
        program.communicate()
