"""Forks one store like the root does and tells on stdout how it goes: `ready PID`, then `exit N` or `signal N`.

`stop` on stdin becomes the root's order to stop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

import multiprocess

from supervisor.config import parse
from supervisor.messages import Ready, Stop, decode_up, encode
from supervisor.store.process import StoreWorker
from supervisor.worker import Boot, run


def main(state_dir: str, runtime_dir: str, config: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    boot = Boot(
        name="store",
        incarnation=f"store-{os.urandom(4).hex()}",
        config=parse(config, "test"),
        state_dir=Path(state_dir),
        runtime_dir=Path(runtime_dir),
        root_pid=os.getpid(),
    )
    child = multiprocess.get_context("fork").Process(target=run, args=(StoreWorker, boot, theirs, 2))
    child.start()
    theirs.close()
    with contextlib.suppress(ConnectionResetError):  # it died with an unread order
        while packet := ours.recv(65536):
            if isinstance(decode_up(packet), Ready):
                print("ready", child.pid, flush=True)
                threading.Thread(target=pass_on, args=(ours,), daemon=True).start()
    child.join()
    code = child.exitcode
    print(f"exit {code}" if code >= 0 else f"signal {-code}", flush=True)
    os._exit(0)


def pass_on(ours: socket.socket) -> None:
    """An order to stop, or our own end when the test is gone."""
    for _ in sys.stdin:
        ours.send(encode(Stop()))
    os._exit(1)  # the kernel's death signal ends the store with us


if __name__ == "__main__":
    main(*sys.argv[1:])
