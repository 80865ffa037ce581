"""Programs called `openclaw` and `signal-cli` that write down how they were started and say what the test wants."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from supervisor.notifier.rehearsal import result

SCRIPT = """#!{python} -S
import json, os, subprocess, sys, pathlib
folder = pathlib.Path(__file__).parent
child = subprocess.Popen(["sleep", "1000"]) if (folder / "gate").exists() else None
run = {{"argv": sys.argv[1:], "env": dict(os.environ), "pids": [os.getpid(), *([child.pid] if child else [])]}}
with (folder / "runs").open("a") as runs:
    runs.write(json.dumps(run) + "\\n")
if child:
    with (folder / "gate").open("rb", buffering=0) as gate:
        gate.read(1)
    child.kill()
    child.wait()
sys.stderr.write((folder / "stderr").read_text())
sys.stdout.write((folder / "stdout").read_text())
sys.stdout.flush()
os._exit(int((folder / "code").read_text()))
"""
OPENCLAW_SENT = {"action": "send", "channel": "signal", "dryRun": False, "payload": {"result": {"messageId": "1700"}}}
SIGNAL_CLI_SENT = {"timestamp": 1701, "results": [result("+15550101", "SUCCESS")]}


class Sender:
    """`path` is what `notify.signal.transports` takes."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / f"program-{name}"
        self.folder.mkdir()
        program = self.folder / name
        program.write_text(SCRIPT.format(python=sys.executable))
        program.chmod(0o700)
        self.path = str(program)
        self._gate = -1
        self.says(OPENCLAW_SENT if name == "openclaw" else SIGNAL_CLI_SENT)

    def says(self, stdout: object, code: int = 0, stderr: str = "") -> None:
        (self.folder / "stdout").write_bytes(msgspec.json.encode(stdout))
        (self.folder / "stderr").write_text(stderr)
        (self.folder / "code").write_text(str(code))

    def hold(self) -> None:
        """From now on each run starts a child and waits for a call of `go`."""
        os.mkfifo(self.folder / "gate")
        self._gate = os.open(self.folder / "gate", os.O_RDWR)  # held open, so that nobody waits for the other end

    def go(self) -> None:
        os.write(self._gate, b"x")

    def close(self) -> None:
        if self._gate != -1:
            os.close(self._gate)

    def runs(self) -> list[dict[str, Any]]:
        file = self.folder / "runs"
        return [msgspec.json.decode(line) for line in file.read_text().splitlines()] if file.exists() else []
