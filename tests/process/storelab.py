"""Records, real databases and a real store process for the tests of `supervisor.store`."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from supervisor import clock, proc
from supervisor.incidents import model as m
from supervisor.incidents import readings as rd
from supervisor.incidents import records as rec
from supervisor.messages import Ack, Commit, EpochOpened, OpenEpoch
from supervisor.store.brain_db import BrainDb
from supervisor.store.ledger import Ledger
from supervisor.store.projection import Follower, Target
from supervisor.store.synapse import Synapse

DEADLINE_S = 60.0
SITE_THREADS = (
    "CREATE TABLE threads (id TEXT PRIMARY KEY, subject TEXT, created_by TEXT NOT NULL, created_at TEXT NOT NULL,"
    " last_message_at TEXT, message_count INTEGER DEFAULT 0, status TEXT DEFAULT 'active', tags TEXT)"
)
SITE_MESSAGES = (
    "CREATE TABLE messages (id TEXT PRIMARY KEY, thread_id TEXT NOT NULL REFERENCES threads(id), parent_id TEXT,"
    " from_agent TEXT NOT NULL, to_agent TEXT, priority TEXT DEFAULT 'info', subject TEXT, body TEXT NOT NULL,"
    " created_at TEXT NOT NULL, updated_at TEXT, metadata TEXT, expires_at TEXT, task_status TEXT, result TEXT,"
    " context TEXT)"
)
ROOT = Path(__file__).parents[2]
RUNBOOK = m.Runbook(
    id="rb-restart-service",
    label="Restart a service",
    applies_to=(m.AnomalyType.PROCESS_DEAD,),
    steps=(m.StepSpec("start", "start_service", m.Effect.CHANGE, timeout_s=12.5),),
    resource="service:{target}",
    starts_service=True,
)


def incident(number: int, *, target: str = "", state: m.State = m.State.DETECTED, **more: Any) -> m.Incident:
    return m.Incident(
        id=f"inc-{number:06d}",
        anomaly=m.AnomalyType.PROCESS_DEAD,
        target_id=target or f"svc-{number}",
        family="process",
        severity=m.Severity.CRITICAL,
        state=state,
        detected_steady_s=1_700_000_000.25 + number,
        detected_wall_s=1_700_000_000.5 + number,
        changed_wall_s=1_700_000_001.0 + number,
        last_seen_wall_s=1_700_000_002.0 + number,
        evidence='the pid file names process 4711, which does not exist; "quoted", ünïcode, \x00 and \u2028',
        hint="look at its log",
        **more,
    )


def trail(number: int, n: int, note: str = "process_dead was seen") -> m.TrailEntry:
    return m.TrailEntry(f"inc-{number:06d}", n, 1_700_000_000.0 + n, m.State.DETECTED, "healctl", note)


def metric(number: int, name: str = "heal_anomaly_detected") -> m.Metric:
    return m.Metric(f"met-{number:06d}", name, "process_dead", "detected", 1_700_000_000.0, f"inc-{number:06d}")


def timer(number: int) -> m.Timer:
    return m.Timer(m.TimerKind.RECHECK, f"inc-{number:06d}", 1_700_000_030.5)


def message(number: int, *, channel: m.Channel = m.Channel.SYNAPSE, **more: Any) -> m.OutboxRow:
    return m.OutboxRow(
        id=f"out-{number:06d}",
        incident_id=f"inc-{number // 2:06d}",
        covers=(f"inc-{number // 2:06d}",),
        channel=channel,
        tier=m.Tier.PAGE,
        kind="page",
        priority="urgent",
        subject=f"svc-{number} is down",
        body=f"message {number}",
        created_wall_s=1_700_000_000.0 + number,
        **more,
    )


def execution(number: int, *, expires_in_s: float = 60.0, **more: Any) -> m.Execution:
    fields: dict[str, Any] = {
        "id": f"exe-{number:06d}",
        "incident_id": f"inc-{number:06d}",
        "runbook": RUNBOOK,
        "version": RUNBOOK.version(),
        "target": m.Target(f"svc-{number}", "process", auto_restart=True, recipe=m.Recipe(("/bin/true",))),
        "resource": f"service:svc-{number}",
        "authority": m.Authority.NOT_RUNNING,
        "state": m.ExecutionState.INTENDED,
        "created_steady_s": clock.SteadyClock().now().steady_s,
        "created_wall_s": clock.wall_s(),
        "boot_id": proc.this_boot(),
        "expires_mono_s": clock.monotonic_s() + expires_in_s,
        "grounds_mono_s": clock.monotonic_s(),
    }
    return m.Execution(**(fields | more))


def program(pid: int) -> m.Program:
    return m.Program("start", rd.ProcessRef(proc.this_boot(), pid, pid * 10), ("/bin/true", "--now"))


def decision(epoch: int, n: int, number: int | None = None) -> Commit:
    """One detection: an incident, its first trail entry, a metric and a timer."""
    number = n if number is None else number
    return Commit(
        epoch,
        n,
        (
            rec.PutIncident(incident(number)),
            rec.AddTrail(trail(number, 1)),
            rec.AddMetric(metric(number)),
            rec.SetTimer(timer(number)),
        ),
    )


def wait_for(what: str, condition: Callable[[], Any], within_s: float = DEADLINE_S) -> Any:
    """Looks until `condition` is true: for states of other processes that send no event."""
    deadline = time.monotonic() + within_s
    pause = threading.Event()
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        pause.wait(0.005)


def rows(path: Path, query: str, *parameters: object) -> list[Any]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(query, parameters).fetchall()


class Book:
    """A ledger to write to: each `add` is one decision."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        opened = ledger.open_epoch(OpenEpoch(os.urandom(4).hex(), 1.0, 1.0))
        assert isinstance(opened, EpochOpened)
        self._epoch = opened.snapshot.epoch
        self._n = 0

    def add(self, *records: rec.Record) -> None:
        self._n += 1
        assert self.ledger.write([Commit(self._epoch, self._n, records)]) == [Ack()]

    @property
    def at(self) -> tuple[str, int]:
        return self.ledger.ledger_id, self.ledger.rev


def brain(path: Path, *, own: bool = True) -> BrainDb:
    return BrainDb(path, own=own, whitelist=frozenset({"rb-rotate-logs"}))


def synapse(path: Path, *, own: bool = True) -> Synapse:
    return Synapse(path, own=own, sender="helios", to="all")


def site_database(path: Path, *statements: str) -> None:
    """A database of another program, in WAL mode."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@contextmanager
def small_disk(where: Path, size: str) -> Iterator[Path]:
    """A real file system of `size`; skips the test where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "healctl-test", str(where)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {made.stderr.decode()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


class Following:
    """A follower whose progress can be waited for."""

    def __init__(self, target: Target, ledger_path: Path) -> None:
        self._changed = threading.Condition()
        self.follower = Follower(target, ledger_path, self._on_change)
        self.follower.start()

    def _on_change(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def until(self, what: str, condition: Callable[[Follower], Any]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self.follower), DEADLINE_S), (
                f"{what}: {self.follower.error!r}"
            )

    def reaches(self, ledger_id: str, rev: int) -> None:
        self.follower.wake(ledger_id, rev)
        self.until(f"revision {rev}", lambda f: f.done_rev(ledger_id) >= rev and not f.error)

    def fails(self, words: str) -> None:
        self.until(f"an error with {words!r}", lambda f: words in f.error)

    def end(self) -> None:
        self.follower.stop()
        self.follower.join(DEADLINE_S)
        assert not self.follower.is_alive()


@contextmanager
def following(target: Target, ledger_path: Path) -> Iterator[Following]:
    it = Following(target, ledger_path)
    try:
        yield it
    finally:
        it.end()


@contextmanager
def holding_the_lock(path: Path) -> Iterator[None]:
    """Another program holds the write lock of `path`."""
    code = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
        "c.execute('ROLLBACK')\n"
        "c.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.stdin.close()
        assert holder.wait(DEADLINE_S) == 0


class Store:
    """A real store process under a stand-in for the root (`storehost.py`). `config` is TOML."""

    def __init__(self, state_dir: Path, runtime_dir: Path, config: str = "") -> None:
        self.state_dir = state_dir
        self.runtime_dir = runtime_dir
        self._config = config
        self._log = (state_dir / "store.log").open("ab")
        self.pid = 0

    def start(self, crash: str = "") -> None:
        env = {**os.environ, "HEALCTL_TEST_CRASH": crash} if crash else dict(os.environ)
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.process.storehost", self.state_dir, self.runtime_dir, self._config],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=ROOT,
            env=env,
            text=True,
        )
        assert self._host.stdout is not None
        word, _, pid = self._host.stdout.readline().partition(" ")
        assert word == "ready", self.log()
        self.pid = int(pid)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        self.ended()

    def ended(self) -> str:
        """Waits for the end of the store; how it ended: `exit 0`, `signal 9`."""
        assert self._host.stdout is not None
        line = self._host.stdout.readline().strip()
        self._host.communicate(timeout=DEADLINE_S)
        return line

    def stop(self) -> str:
        """Orders an orderly stop, as the root does."""
        assert self._host.stdin is not None
        self._host.stdin.write("stop\n")
        self._host.stdin.flush()
        return self.ended()

    def log(self) -> str:
        return (self.state_dir / "store.log").read_text()

    def close(self) -> None:
        if self.pid and self._host.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self._host.communicate(timeout=DEADLINE_S)
        self._log.close()
