"""A real PM2 with a home of its own; its daemon and all its services end with it."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from supervisor import proc
from tests import parts
from tests.lab.daemon import gone


class Pm2:
    """`environment` is what a program needs to find it."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self._folder = folder
        self.environment = {"PM2_HOME": str(self.home), "PATH": f"{parts.pm2()}:{os.environ['PATH']}"}

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run(
            ["pm2", *words],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    def start(self, name: str, argv: list[str], *options: str) -> None:
        script = self._folder / f"{name}.sh"
        script.write_text(f"#!/bin/sh\nexec {shlex.join(argv)}\n")
        script.chmod(0o755)
        code, output = self.run("start", str(script), "--name", name, "--interpreter", "none", *options)
        assert code == 0, output


@contextlib.contextmanager
def pm2() -> Iterator[Pm2]:
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    made = Pm2(folder)
    try:
        yield made
    finally:
        daemon = made.home / "pm2.pid"
        status = proc.stat(int(daemon.read_text())) if daemon.exists() else None
        if status is not None and status.live:
            made.run("kill")
            proc.send_signal(status.ref, signal.SIGKILL)
            gone(status.ref)
        shutil.rmtree(folder, ignore_errors=True)
