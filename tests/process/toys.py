"""Toy workers for the tests of the tree. Each says what it does by datagrams to `test.sock` in the runtime directory.

What a toy does wrong is told by a file in the state directory, `NAME.KIND`; it is done as often as the file has bytes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from supervisor.errors import ConfigError
from supervisor.messages import Round, TreeEvent
from supervisor.worker import Worker


def tell(runtime_dir: Path, **what: object) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(json.dumps(what).encode(), str(runtime_dir / "test.sock"))


class Toy(Worker):
    def say(self, what: str, **more: object) -> None:
        tell(self.boot.runtime_dir, what=what, child=self.boot.name, pid=os.getpid(), **more)

    def takes(self, kind: str) -> bool:
        """True while a byte is left in `NAME.KIND`; uses one up."""
        path = self.boot.state_dir / f"{self.boot.name}.{kind}"
        if not path.exists() or not (left := path.read_bytes()):
            return False
        path.write_bytes(left[1:])
        return True

    async def start(self) -> None:
        if self.takes("exit78"):
            raise ConfigError("a toy was told that its configuration is bad")
        if self.takes("crash"):
            raise RuntimeError("a toy was told to crash")
        if self.takes("never_ready"):
            await asyncio.Event().wait()
        self.say(
            "start", suspects=sorted(self.boot.suspects), quarantined=sorted(self.boot.quarantined), fds=open_files()
        )

    async def stop(self) -> None:
        self.say("stop")


class Listener(Toy):
    """Passes every tree event on."""

    def on_tree_event(self, event: TreeEvent) -> None:
        self.say("event", event=json.loads(msgspec.json.encode(event)))


class Rounding(Toy):
    """An engine that comes round at each beat; its `failing` lives end soon after they began."""

    async def start(self) -> None:
        await super().start()
        if self.takes("failing"):
            asyncio.get_running_loop().call_later(0.3, self.fail, RuntimeError("a toy was told to fail"))

    def on_beat(self) -> None:
        self._tell(Round())


class Poisoned(Toy):
    """Takes the items of `NAME.items` in turn; `poison` kills it."""

    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().call_soon(self.work)

    def work(self) -> None:
        for item in (self.boot.state_dir / f"{self.boot.name}.items").read_text().split():
            if item in self.boot.quarantined:
                continue
            self.working(item)
            if item == "poison":
                os.kill(os.getpid(), signal.SIGKILL)
            self.finished(item)
        self.say("worked")


class Alarmed(Toy):
    """Can tell nobody but the root; says it twice."""

    async def start(self) -> None:
        await super().start()
        self.alarm("the toy's ledger is full")
        self.alarm("the toy's ledger is full")


class Flood(Toy):
    """Prints far more than a pipe holds, then says so."""

    async def start(self) -> None:
        await super().start()
        for n in range(20_000):
            print(f"line {n:05d} {'x' * 80}")
        print("y" * 1_000_000)
        print("the last line")
        self.say("flooded")


class Grandparent(Toy):
    """Leaves a grandchild of another session that holds every descriptor open."""

    async def start(self) -> None:
        await super().start()
        program = [sys.executable, "-c", "import time; time.sleep(600)"]
        child = subprocess.Popen(program, close_fds=False, start_new_session=True, pass_fds=[self._uplink.fileno()])
        child.returncode = 0  # not ours to wait for
        self.say("grandchild", grandchild=child.pid)


class Stubborn(Toy):
    """Does not hear the order to stop: its loop is stuck."""

    async def start(self) -> None:
        await super().start()
        asyncio.get_running_loop().call_later(0.05, self.get_stuck)

    def get_stuck(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        self.say("stuck")
        while True:
            time.sleep(3600)


class NoProgress(Toy):
    """Beats, but its oldest work only grows older."""

    async def start(self) -> None:
        await super().start()
        self.working("stuck-item")
        self._since_s = time.monotonic()

    def oldest_work_s(self) -> float:
        return time.monotonic() - self._since_s


def open_files() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            found[fd] = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:
            continue  # the descriptor of this very listing
    return found
