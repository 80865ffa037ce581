"""A root process with toy workers, and what it tells: for the process tests of the tree."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import proc

Said = dict[str, Any]
TOYS = "tests.process.toys:"
WITHIN_S = 60.0


class Lab:
    """`workers`: (name, toy class, group) in start order. `said` holds every datagram so far, in order."""

    def __init__(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="hc"))
        self.runtime_dir = self.dir / "r"
        self.state_dir = self.dir / "s"
        self.runtime_dir.mkdir(mode=0o700)
        self.state_dir.mkdir()
        self.stderr = self.dir / "stderr"
        self.said: list[Said] = []
        self.root: subprocess.Popen[bytes] | None = None
        self._roots: list[subprocess.Popen[bytes]] = []
        self._others: list[int] = []
        self._waiting: list[Said] = []  # not yet matched
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        self._sock.bind(str(self.runtime_dir / "test.sock"))

    def do(self, name: str, kind: str, times: int = 1) -> None:
        (self.state_dir / f"{name}.{kind}").write_text("x" * times)

    def start(
        self,
        workers: list[tuple[str, str, str]],
        *,
        listener: str = "",
        env: dict[str, str] | None = None,
        detach: bool = False,
        **tree: float,
    ) -> subprocess.Popen[bytes]:
        what = {
            "workers": [(name, kind if ":" in kind else TOYS + kind, group) for name, kind, group in workers],
            "listener": listener,
            "tree": tree,
            "detach": detach,
        }
        with open(self.stderr, "ab") as err:
            self.root = subprocess.Popen(
                [sys.executable, "-m", "tests.process.treehost", self.state_dir, self.runtime_dir, json.dumps(what)],
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                env={**os.environ, **(env or {})},
            )
        self._roots.append(self.root)
        return self.root

    def wait_for(self, match: Callable[[Said], bool], within_s: float = WITHIN_S) -> Said:
        """The first datagram for which `match` holds and that was not matched before, whenever it came."""
        until_s = time.monotonic() + within_s
        looked = 0
        while True:
            for n in range(looked, len(self._waiting)):
                if match(self._waiting[n]):
                    return self._waiting.pop(n)
            looked = len(self._waiting)
            left_s = max(0.0, until_s - time.monotonic())
            over = self.root is not None and self.root.poll() is not None
            if not select.select([self._sock], [], [], 0.2 if over else left_s)[0]:
                why = "root is over" if over else f"not seen within {within_s} s"
                raise AssertionError(f"{why}; said: {self.said[-8:]}\nlog:\n{self.log()}")
            self.said.append(json.loads(self._sock.recv(256 * 1024)))
            self._waiting.append(self.said[-1])

    def forget(self) -> None:
        """What came until now is not matched any more."""
        self._waiting.clear()

    def what(self, what: str, child: str | None = None) -> Said:
        return self.wait_for(lambda said: said["what"] == what and child in (None, said["child"]))

    def event(self, kind: str, child: str) -> Said:
        """The next tree event of that kind, as the listener got it; earlier ones of the child are passed over."""
        while True:
            found = self.wait_for(lambda said: said["what"] == "event" and said["event"]["child"] == child)
            event: Said = found["event"]
            if event["kind"] == kind:
                return event

    def stop(self) -> int:
        assert self.root is not None
        self.root.send_signal(signal.SIGTERM)
        return self.root.wait(WITHIN_S)

    def log(self) -> str:
        return self.stderr.read_text() if self.stderr.exists() else ""

    def logged(self, text: str, within_s: float = WITHIN_S) -> None:
        until_s = time.monotonic() + within_s
        while text not in self.log():  # a file cannot be waited on; look again after a moment
            assert time.monotonic() < until_s, f"{text!r} not in the log:\n{self.log()}"
            select.select([], [], [], 0.01)

    def end_later(self, pid: int) -> None:
        self._others.append(pid)

    def close(self) -> None:
        for root in self._roots:
            if root.poll() is None:
                root.kill()
                root.wait()
        for pid in self._others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._sock.close()
        shutil.rmtree(self.dir)


def gone(pid: int, within_s: float) -> bool:
    """True as soon as no live process has this number (a zombie that waits for its parent is not alive)."""
    until_s = time.monotonic() + within_s
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], max(0.0, until_s - time.monotonic()))[0])
    finally:
        os.close(fd)


def thread_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def children_of(pid: int) -> list[int]:
    found = (proc.stat(each) for each in proc.pids())
    return [each.pid for each in found if each is not None and each.parent_pid == pid and each.live]
