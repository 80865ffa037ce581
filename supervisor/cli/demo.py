"""`healctl demo`: a toy service is killed before your eyes and the real daemon heals it, in a sandbox.

Everything is real but the service (a few lines of Python) and Signal (a local stand-in that keeps the text instead of
sending it). It must touch nothing outside its temporary directory, and leave no process and no file behind: not on
success, not on failure, not on Ctrl-C.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import click

from supervisor import clock, proc
from supervisor.cli import output
from supervisor.cli.client import Control, NoAnswer
from supervisor.cli.feed import Feed, Item, Narrator
from supervisor.errors import HealError, NotRunning
from supervisor.incidents.readings import ProcessRef
from supervisor.notifier.rehearsal import Rehearsal

TARGET = "toy"
READY_S = 20.0
HEALED_S = 60.0
STOPPED_S = 15.0
LOOK_S = 0.02
PAUSE_S = 1.5  # for the eyes of somebody who reads along
WORKERS = {"store", "healer", "executor", "notifier", "process"}
OVER = {"resolved", "self_resolved", "escalated", "dismissed"}

TOY = """\
import os, pathlib, signal, sys
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()}\\n")
print("toy service: at your service", flush=True)
signal.sigwait({signal.SIGTERM, signal.SIGINT})
"""
CONFIG = """\
[healctl]
state_dir = "{at}/state"
runtime_dir = "{at}/run"

# The sandbox is shown, not the machine around it.
[disk]
mounts = []
[memory]
pressure = "2MB"
critical = "1MB"
[logs]

[process.toy]
pid_file = "{at}/toy.pid"
match = '{match}'
auto_restart = true
restart = {{ argv = ["{python}", "{at}/toy.py", "{at}/toy.pid"] }}

[notify.signal]
transports = ["{signal}"]
account = "+15550100"
recipient = "+15550101"
"""


@click.command(epilog="\b\nExample:\n  healctl demo")
def demo() -> int:
    """Watch a toy service be killed and healed: about 20 seconds, no root, no account, nothing left behind.

    Exit 0 only if the incident was resolved and the service lives again.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    at = Path(tempfile.mkdtemp(prefix="healctl-demo-"))
    sandbox = Sandbox(at)
    try:
        with Rehearsal() as rehearsal:
            Show(sandbox, rehearsal).run()
    except HealError:
        sandbox.show_log()
        raise
    finally:
        sandbox.clear()
    output.say("Cleaned up: the toy, the daemon and the directory are gone.")
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """TERM and HUP end the demo as Ctrl-C does: through its cleaning up."""
    del number, frame
    raise KeyboardInterrupt


class Sandbox:
    """The directory, and every process that lives because of it."""

    def __init__(self, at: Path) -> None:
        self.at = at
        self.toy_file = at / "toy.py"
        self.pid_file = at / "toy.pid"
        self._children: list[subprocess.Popen[bytes]] = []

    def prepare(self, signal_url: str) -> None:
        self.toy_file.write_text(TOY)
        text = CONFIG.format(at=self.at, match=re.escape(str(self.toy_file)), python=sys.executable, signal=signal_url)
        (self.at / "demo.toml").write_text(text)

    def start_toy(self) -> ProcessRef:
        self._spawn([sys.executable, str(self.toy_file), str(self.pid_file)], "toy.log")
        return self.wait_for_toy()

    def start_daemon(self) -> None:
        code = "from supervisor.cli.main import main; main()"
        # -P: a package called `supervisor` in the current directory is not ours.
        self._spawn([sys.executable, "-P", "-c", code, "start", "-c", str(self.at / "demo.toml")], "daemon.log")

    def _spawn(self, argv: list[str], log: str) -> None:
        """In a session of its own: Ctrl-C is for the demo, which then ends the others in order."""
        with (self.at / log).open("ab") as out:
            self._children.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
            )

    def reap(self) -> list[int]:
        """Exit codes of our own children that have ended; a dead toy that nobody reaps would stay a zombie."""
        return [code for child in self._children if (code := child.poll()) is not None]

    def wait_for_toy(self, than: ProcessRef | None = None) -> ProcessRef:
        """The live toy that the pid file names, another one than `than`. Raises HealError."""
        until = clock.monotonic_s() + READY_S
        while clock.monotonic_s() < until:
            text = self.pid_file.read_text().strip() if self.pid_file.exists() else ""
            found = proc.stat(int(text)) if text else None
            if found is not None and found.live and found.ref != than:
                return found.ref
            time.sleep(LOOK_S)
        raise HealError("the toy service does not live", f"its output is in {self.at}/toy.log")

    def show_log(self) -> None:
        log = self.at / "daemon.log"
        if log.exists():
            output.note("the daemon's last words:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-30:]))

    def clear(self) -> None:
        """Ends the daemon, then every toy, wherever it was started from, then the directory."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # what is begun here is finished
        for child in reversed(self._children):
            child.terminate()
            try:
                child.wait(STOPPED_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        for pid in proc.pids():
            found = proc.stat(pid) if str(self.at) in " ".join(proc.command_line(pid)) else None
            if found is not None and pid != os.getpid():
                proc.send_signal(found.ref, signal.SIGKILL)
        shutil.rmtree(self.at)


class Show:
    """The acts, in order; each raises HealError when it does not go as it should."""

    def __init__(self, sandbox: Sandbox, rehearsal: Rehearsal) -> None:
        self._sandbox = sandbox
        self._rehearsal = rehearsal
        self._runtime_dir = sandbox.at / "run"
        self._trail: list[Item] = []

    def run(self) -> None:
        output.say(f"Everything happens in {self._sandbox.at}; nothing outside is touched.\n")
        self._sandbox.prepare(self._rehearsal.url)
        old = self._sandbox.start_toy()
        self._act(1, f"A toy service runs, pid {old.pid}. healctl did not start it.")
        began = clock.monotonic_s()
        self._sandbox.start_daemon()
        self._wait_ready()
        took_ms = (clock.monotonic_s() - began) * 1000
        self._act(2, f"healctl runs: {len(WORKERS)} workers ready after {took_ms:.0f} ms. All is well.")
        with Feed(self._runtime_dir) as feed:
            feed.snapshot()
            self._act(3, f"Now the service is killed: kill -9 {old.pid}")
            self._kill(old, feed)
        new = self._sandbox.wait_for_toy(old)
        self._act(4, f"The service lives again, pid {new.pid}. What Signal would have told you:")
        self._show_page()
        self._act(5, "The audit trail, as it stands in the ledger and in brain.db:")
        for item in self._trail:
            at = clock.rfc3339(item.at_wall_s)[11:23]
            output.say(f"    {at}  {item.data['actor']:<10} {output.state(item.data['state'])}: {_trail_text(item)}")
        output.say()

    def _act(self, number: int, text: str) -> None:
        if sys.stdout.isatty() and number > 1:
            time.sleep(PAUSE_S)
        output.say(output.coloured(f"{number}. {text}", "bold"))

    def _wait_ready(self) -> None:
        import msgspec

        until = clock.monotonic_s() + READY_S
        while clock.monotonic_s() < until:
            if codes := self._sandbox.reap():
                raise HealError(f"the daemon ended with exit code {codes[0]}")
            try:
                with Control(self._runtime_dir) as control:
                    rows = msgspec.json.decode(control.ask("tree", deadline_s=1.0))["children"]
            except (NotRunning, NoAnswer):
                rows = []  # not yet
            if {row["name"] for row in rows if row["state"] == "ready"} >= WORKERS:
                return
            time.sleep(LOOK_S)
        raise HealError(f"the daemon was not ready within {READY_S:g} s")

    def _kill(self, old: ProcessRef, feed: Feed) -> None:
        """Kills the toy and tells what follows until the incident is over. Raises HealError unless it was resolved."""
        narrator = Narrator()
        killed_wall_s, until = clock.wall_s(), clock.monotonic_s() + HEALED_S
        proc.send_signal(old, signal.SIGKILL)
        while clock.monotonic_s() < until:
            self._sandbox.reap()
            item = feed.next(100)
            if item is None or item.kind == "tree":
                continue
            if line := narrator.tell(item):
                output.say(f"    +{(item.at_wall_s - killed_wall_s) * 1000:6.0f} ms  {line}")
            if item.kind != "trail":
                continue
            self._trail.append(item)
            state = item.data["state"]
            if state == "resolved":
                return
            if state in OVER:
                raise HealError(f"the incident ended as {state}, not as resolved")
        raise HealError(f"the incident was not resolved within {HEALED_S:g} s")

    def _show_page(self) -> None:
        try:
            sent = self._rehearsal.wait_for(1, READY_S)
        except TimeoutError as error:
            raise HealError(f"no Signal message: {error}") from error
        for message in sent:
            output.say(f"    to {', '.join(message.recipients)}:")
            for line in message.text.splitlines():
                output.say(f"    | {output.plain(line) if line else ''}")


def _trail_text(item: Item) -> str:
    text = output.plain(item.data["note"])
    said = str(item.data.get("output") or "").strip()
    return f"{text} ({output.plain(said)})" if said and said not in text else text
