"""A real daemon in a directory of its own, with real services, for acceptance tests: started, asked, killed, watched.

Waiting is on events (a pidfd, a pipe, an answer of the daemon), each with a deadline. Everything that was started is
ended by its identity, the services that the daemon started included.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from supervisor import proc
from supervisor.cli.client import Control
from supervisor.config import parse
from supervisor.errors import HealError
from supervisor.incidents.readings import ProcessRef
from supervisor.targets import METRICS, families
from supervisor.units import OFF

ROOT = Path(__file__).parents[2]
TOY = ROOT / "tests/doubles/toy_service.py"
HEALCTL = Path(sys.executable).parent / "healctl"
WAIT_S = 60.0  # only ends what hangs: five times what a start takes while all cores are busy
LOOK_S = 0.01


def until(what: str, look: Callable[[], Any], within_s: float = WAIT_S) -> Any:
    """The first true value of `look`; for what has no event to wait on (a row in a database, an answer)."""
    end = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s} s: {what}")
        time.sleep(LOOK_S)


def gone(ref: ProcessRef, within_s: float = WAIT_S) -> None:
    """Waits until exactly this process has ended (a zombie has)."""
    fd = proc.open_pidfd(ref)
    if fd is None:
        return
    try:
        ready, _, _ = select.select([fd], [], [], within_s)
        assert ready, f"process {ref.pid} still lives after {within_s} s"
    finally:
        os.close(fd)


class Service:
    """One toy service: its pid file, its starts (a line each), its recipe."""

    def __init__(self, folder: Path, name: str, *extra: str) -> None:
        self.name = name
        self.pid_file = folder / f"{name}.pid"
        self.starts_file = folder / f"{name}.starts"
        self.argv = [
            sys.executable, str(TOY), "--pid-file", str(self.pid_file), "--starts", str(self.starts_file), *extra,
        ]  # fmt: skip

    def start(self) -> ProcessRef:
        """As its owner would: in a session of its own, nobody's child for long."""
        before = self.ref()
        script = 'setsid "$@" >/dev/null 2>&1 </dev/null &'
        subprocess.run(["bash", "-c", script, "-", *self.argv], check=True)
        return self.wait_new(before)

    def ref(self) -> ProcessRef | None:
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        status = proc.stat(pid)
        return status.ref if status is not None and status.live else None

    def wait_new(self, old: ProcessRef | None, within_s: float = WAIT_S) -> ProcessRef:
        def look() -> ProcessRef | None:
            ref = self.ref()
            return ref if ref is not None and ref != old else None

        found: ProcessRef = until(f"a new {self.name}", look, within_s)
        return found

    def kill(self) -> ProcessRef:
        ref = self.ref()
        assert ref is not None, f"{self.name} does not live"
        assert proc.send_signal(ref, signal.SIGKILL)
        gone(ref)
        return ref

    def starts(self) -> int:
        return len(self.starts_file.read_text().splitlines()) if self.starts_file.exists() else 0

    def end(self) -> None:
        last = self.ref()
        if last is not None and str(TOY) in proc.command_line(last.pid):
            proc.send_signal(last, signal.SIGKILL)
        for line in self.starts_file.read_text().splitlines() if self.starts_file.exists() else ():
            status = proc.stat(int(line))
            if status is not None and str(TOY) in proc.command_line(status.pid):
                proc.send_signal(status.ref, signal.SIGKILL)

    def toml(self, *, auto_restart: bool = True, more: str = "") -> str:
        argv = ", ".join(f'"{word}"' for word in self.argv)
        return (
            f'[process.{self.name}]\npid_file = "{self.pid_file}"\nauto_restart = {str(auto_restart).lower()}\n'
            f"restart = {{ argv = [{argv}] }}\n{more}\n"
        )


class Daemon:
    """`healctl start` with a configuration; `ask` speaks to it as the command line does."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.runtime_dir = folder / "run"
        self.config_file = folder / "healctl.toml"
        self.config_file.write_text(self.text(config))
        self.more_workers: set[str] = set()  # of plugins, which the file alone does not tell
        self.process: subprocess.Popen[bytes] | None = None
        self.program = [str(HEALCTL)]
        self.log = folder / "daemon.log"

    def text(self, config: str) -> str:
        """`config` in this folder. The machine on which the test runs is not what is tested: its own disks, memory and
        logs are left out, unless `config` has tables for them."""
        quiet = {
            "disk": "mounts = []",
            "memory": 'pressure = "2MB"\ncritical = "1MB"',
            "logs": "",
        }
        tables = "".join(
            f"[{name}]\n{keys}\n"
            for name, keys in quiet.items()
            if f"[{name}]" not in config and f"[{name}." not in config
        )
        places = f'state_dir = "{self.state_dir}"\nruntime_dir = "{self.runtime_dir}"\n'
        return f'[healctl]\nlog_format = "text"\n{places}{tables}{config}'

    def start(self, **environment: str) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "-c", str(self.config_file), "start"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                start_new_session=True,
            )
        self.wait_ready()

    def wait_ready(self) -> None:
        until("every worker READY\n" + self.tail(), self._ready)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the daemon ended: {self.process.returncode}\n{self.tail()}"
        with contextlib.suppress(HealError):
            children = self.ask("tree", deadline_s=5.0)["children"]
            config = parse(self.config_file.read_text(), str(self.config_file))
            expected = {"store", "healer", "executor", "notifier", *families(config), *self.more_workers}
            expected |= {METRICS} if config.metrics.listen != OFF else set()
            return {
                child["name"]
                for child in children
                if child["state"] == "ready" and not child["name"].startswith("hold:")  # while something is halted
            } == expected
        return False

    def ask(self, action: str, deadline_s: float = 10.0, **args: Any) -> dict[str, Any]:
        with Control(self.runtime_dir) as control:
            answer: dict[str, Any] = msgspec.json.decode(control.ask(action, args, deadline_s))
            return answer

    def cli(self, *words: str) -> tuple[int, Any]:
        """Runs the command line with JSON output; (exit code, what it printed on stdout, decoded)."""
        done = subprocess.run(
            [*self.program, "-c", str(self.config_file), *words], capture_output=True, timeout=60, check=False
        )
        return done.returncode, msgspec.json.decode(done.stdout) if done.stdout else None

    def worker(self, name: str) -> ProcessRef:
        """The living process of this worker, from the process table."""
        return until(f"worker {name}", lambda: self.workers().get(name))

    def workers(self) -> dict[str, ProcessRef]:
        assert self.process is not None
        found = {}
        for pid in proc.pids():
            status = proc.stat(pid)
            if status is not None and status.parent_pid == self.process.pid and status.live:
                title = " ".join(proc.command_line(pid))
                if title.startswith("healctl: "):
                    found[title.removeprefix("healctl: ").strip()] = status.ref
        return found

    def kill_worker(self, name: str) -> None:
        ref = self.worker(name)
        assert proc.send_signal(ref, signal.SIGKILL)
        gone(ref)

    def kill_root(self) -> list[ProcessRef]:
        """kill -9; returns the workers it left behind."""
        assert self.process is not None
        left = list(self.workers().values())
        self.process.kill()
        self.process.wait(WAIT_S)
        return left

    def stop(self) -> None:
        """An orderly stop, which must succeed."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(WAIT_S)
        assert code == 0, f"exit {code}\n{self.tail()}"

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:] if self.log.exists() else ""

    # -- what is written --

    def open_incidents(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask("status")["open_incidents"]
        return found

    def incidents(self, target_id: str = "", database: str = "brain.db") -> list[dict[str, Any]]:
        """The rows of brain.db's `incidents`, oldest first; a reader that never waits for a writer."""
        path = self.state_dir / database
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            db.row_factory = sqlite3.Row
            rows = db.execute("SELECT * FROM incidents ORDER BY detected_at, rowid").fetchall()
        return [
            {**dict(row), "audit_trail": msgspec.json.decode(row["audit_trail"])}
            for row in rows
            if target_id in ("", row["target_id"])
        ]

    def synapse(self) -> list[dict[str, Any]]:
        """The messages that brain.db holds, oldest first."""
        path = self.state_dir / "brain.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as db:
            db.row_factory = sqlite3.Row
            return [dict(row) for row in db.execute("SELECT * FROM messages ORDER BY rowid")]

    def wait_known(self, *services: Service) -> None:
        """Until the ledger knows the present process of each: from then on its death is told by the kernel."""
        refs = [service.ref() for service in services]
        assert None not in refs
        until("every process is known", lambda: {ref.pid for ref in refs if ref is not None} <= self._known())

    def _known(self) -> set[int]:
        with contextlib.closing(sqlite3.connect(f"file:{self.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
            return {msgspec.json.decode(body)["process"]["pid"] for (body,) in db.execute("SELECT body FROM known")}

    def wait_state(self, target_id: str, state: str, count: int = 1, within_s: float = WAIT_S) -> list[dict[str, Any]]:
        """Until `count` incidents of the target stand in this state in brain.db."""

        def look() -> list[dict[str, Any]]:
            with contextlib.suppress(sqlite3.OperationalError):
                rows = [row for row in self.incidents(target_id) if row["state"] == state]
                return rows if len(rows) >= count else []
            return []

        try:
            found: list[dict[str, Any]] = until(f"{count} x {target_id} {state}", look, within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.incidents(target_id)}\n{self.tail()}") from None
        return found


class Site:
    """A folder, services, a daemon; everything is ended and removed at the end."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hc"))
        self.services: list[Service] = []
        self.daemons: list[Daemon] = []

    def service(self, name: str, *extra: str) -> Service:
        service = Service(self.folder, name, *extra)
        self.services.append(service)
        return service

    def daemon(self, config: str) -> Daemon:
        daemon = Daemon(self.folder, config)
        self.daemons.append(daemon)
        return daemon

    def down(self) -> tuple[Daemon, Service, dict[str, Any]]:
        """A daemon, a service that it may not restart by itself and that has died, and its incident, which waits."""
        toy = self.service("toy")
        toy.start()
        daemon = self.daemon(toy.toml(auto_restart=False))
        daemon.start()
        daemon.wait_known(toy)
        toy.kill()
        (row,) = daemon.wait_state("toy", "escalated")
        return daemon, toy, row

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.end()
        for service in self.services:
            service.end()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def site() -> Iterator[Site]:
    made = Site()
    try:
        yield made
    finally:
        made.close()


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another program holds the database's write lock for as long as the block lasts."""
    program = subprocess.Popen(
        [sys.executable, "-c", _LOCKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline().strip() == b"locked"
        yield
    finally:
        program.kill()
        program.wait(60)
        for pipe in (program.stdin, program.stdout):
            if pipe is not None:
                pipe.close()


_LOCKER = """
import sqlite3, sys, signal
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
signal.pause()
"""
