"""A whole daemon beside the services it watches: how fast it heals, what it costs when nothing happens.

kill -9 of a foreign service -> detected / alive again / verified and audited; 20 at once; start to all READY; memory
and CPU of the idle tree; `heal status`. Floors of the same run: a pidfd's wake, a bare start of the same service, a
bare Python; Monit at its fastest cycle when it is installed. `python -m tests.bench.bench_site` prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import zmq

from supervisor import proc
from supervisor.incidents.readings import ProcessRef
from supervisor.messages import Event, decode_frame
from supervisor.sockets import endpoint, new_context, open_socket
from tests.bench.cost import cpu_s, pss_kib
from tests.lab.daemon import HEALCTL, Daemon, Site, site, until

KILLS = 30
AT_ONCE = 20
WATCHED = 500
DEATHS = 100
IDLE_S = 30.0
STATUS_RUNS = 15
QUICK = '[policy]\nsettle = "0s"\nbreaker_total = 1000\n'


class Announcing:
    """A service that says through a FIFO that it runs; its arguments name it, no pid file is needed."""

    def __init__(self, folder: Path, number: int) -> None:
        self.name = f"svc{number:03d}"
        self.fifo = folder / "alive"
        self.line = f"echo {self.name} >{self.fifo}; exec sleep 86400.{number:03d}"
        self.argv = ["/bin/dash", "-c", self.line]
        self.match = rf"sleep 86400\\.{number:03d}"

    def toml(self) -> str:
        argv = json.dumps(self.argv)
        return f'[process.{self.name}]\nmatch = "{self.match}"\nauto_restart = true\nrestart = {{ argv = {argv} }}\n'

    def start(self) -> None:
        subprocess.run(["setsid", "-f", *self.argv], check=True, stdin=subprocess.DEVNULL)

    def ref(self) -> ProcessRef:
        wanted = f"86400.{self.name[3:]}"
        for pid in proc.pids():
            line = proc.command_line(pid)
            status = proc.stat(pid)
            if line and line[-1].endswith(wanted) and line[0] == "sleep" and status is not None and status.live:
                return status.ref
        raise AssertionError(f"{self.name} does not live")


class Ears:
    """Reads the FIFO: the moment at which a service says that it lives."""

    def __init__(self, folder: Path) -> None:
        path = folder / "alive"
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self._rest = b""

    def wait(self, count: int) -> list[float]:
        """The times of the next `count` announcements."""
        times: list[float] = []
        while len(times) < count:
            ready, _, _ = select.select([self._fd], [], [], 30)
            assert ready, "nobody announced itself"
            self._rest += os.read(self._fd, 65536)
            *lines, self._rest = self._rest.split(b"\n")
            times += [time.time()] * len(lines)
        return times

    def close(self) -> None:
        os.close(self._fd)


@contextlib.contextmanager
def feed(daemon: Daemon) -> Iterator[zmq.Socket[bytes]]:
    context = new_context()
    socket = open_socket(context, zmq.SUB)
    socket.setsockopt(zmq.SUBSCRIBE, b"")
    socket.connect(endpoint(daemon.runtime_dir, "events"))
    try:
        yield socket
    finally:
        context.destroy(linger=0)


def resolved(socket: zmq.Socket[bytes], count: int) -> list[float]:
    """The times at which `count` incidents were durably resolved (published after the commit)."""
    times: list[float] = []
    while len(times) < count:
        assert socket.poll(60_000), "not resolved"
        body = decode_frame(socket.recv()).body
        if isinstance(body, Event) and body.kind == "incident" and json.loads(body.data)["state"] == "resolved":
            times.append(time.time())
    return times


def detected(daemon: Daemon) -> dict[str, float]:
    """When each target's newest incident was detected: wall seconds, from the ledger (not rounded for people)."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        rows = [json.loads(body) for (body,) in db.execute("SELECT body FROM incidents")]
    return {row["target_id"]: row["detected_wall_s"] for row in rows}


def kill_now(ref: ProcessRef) -> float:
    at = time.time()
    assert proc.send_signal(ref, signal.SIGKILL)
    return at


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(value * 1000 for value in values)
    return {
        "median_ms": round(statistics.median(ordered), 2),
        "p95_ms": round(ordered[int(len(ordered) * 0.95) - 1], 2),
        "max_ms": round(ordered[-1], 2),
    }


def heal_one_by_one(daemon: Daemon, ears: Ears, services: list[Announcing]) -> dict[str, Any]:
    seen, alive, verified = [], [], []
    with feed(daemon) as socket:
        time.sleep(0.2)  # a subscription takes a moment to reach the publisher
        for service in services:
            killed = kill_now(service.ref())
            alive.append(ears.wait(1)[0] - killed)
            verified.append(resolved(socket, 1)[0] - killed)
            seen.append(detected(daemon)[service.name] - killed)
    return {"detected": summary(seen), "alive": summary(alive), "verified_and_audited": summary(verified)}


def heal_at_once(daemon: Daemon, ears: Ears, services: list[Announcing]) -> dict[str, float]:
    refs = [service.ref() for service in services]
    with feed(daemon) as socket:
        time.sleep(0.2)
        killed = time.time()
        for ref in refs:
            kill_now(ref)
        last = max(resolved(socket, len(services)))
        ears.wait(len(services))
    return {"all_verified_ms": round((last - killed) * 1000, 1)}


def floors(site_: Site, ears: Ears) -> dict[str, Any]:
    """A pidfd's wake after a kill, and a bare start of the same service to its announcement."""
    wakes, starts = [], []
    for number in range(900, 920):
        service = Announcing(site_.folder, number)
        began = time.time()
        child = subprocess.Popen(service.argv, stdin=subprocess.DEVNULL)
        starts.append(ears.wait(1)[0] - began)
        fd = os.pidfd_open(child.pid)
        killed = time.time()
        child.kill()
        select.select([fd], [], [])
        wakes.append(time.time() - killed)
        os.close(fd)
        child.wait()
    return {"pidfd_wake": summary(wakes), "bare_start_to_announcement": summary(starts)}


def monit(site_: Site, ears: Ears, services: list[Announcing]) -> dict[str, Any] | str:
    """The same services under Monit at its fastest cycle of 1 s."""
    program = shutil.which("monit")
    if program is None:
        return "not installed"
    folder = site_.folder / "monit"
    folder.mkdir()
    log, control = folder / "log", folder / "monitrc"
    checks = ""
    for service in services:
        script = folder / service.name
        script.write_text(f"#!/bin/dash\nsetsid -f /bin/dash -c '{service.line}'\n")
        script.chmod(0o700)
        pattern = service.match.replace("\\\\", "\\")
        checks += f'check process {service.name} matching "{pattern}"\n  start program = "{script}"\n'
    control.write_text(
        f"set daemon 1\nset log {log}\nset pidfile {folder}/pid\nset idfile {folder}/id\nset statefile {folder}/state\n"
        + checks
    )
    control.chmod(0o600)
    for service in services:
        service.start()
    ears.wait(len(services))
    daemon = subprocess.Popen([program, "-I", "-c", str(control)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(5)
        alive, verified = [], []
        for service in services[:10]:
            mark = log.stat().st_size
            killed = kill_now(service.ref())
            alive.append(ears.wait(1)[0] - killed)
            word = f"'{service.name}' process is running"
            until("monit verifies", lambda w=word, m=mark: w in log.read_text()[m:], 20)
            verified.append(time.time() - killed)
    finally:
        daemon.terminate()
        daemon.wait(10)
        for service in services:
            kill_now(service.ref())
    return {"alive": summary(alive), "verified": summary(verified)}


def cost(daemon: Daemon) -> dict[str, float]:
    """PSS and CPU of the whole tree while nothing happens."""
    assert daemon.process is not None
    pids = [daemon.process.pid, *(ref.pid for ref in daemon.workers().values())]
    before = sum(cpu_s(pid) for pid in pids)
    time.sleep(IDLE_S)
    used = sum(cpu_s(pid) for pid in pids) - before
    return {
        "processes": len(pids),
        "pss_mib": round(sum(pss_kib(pid) for pid in pids) / 1024, 1),
        "cpu_s_per_min": round(used * 60 / IDLE_S, 3),
    }


def start_time(daemon: Daemon) -> float:
    """Milliseconds from exec to the root's word that all are READY."""
    began = time.time()
    daemon.log.unlink(missing_ok=True)
    with daemon.log.open("wb") as log:
        daemon.process = subprocess.Popen(
            [str(HEALCTL), "-c", str(daemon.config_file), "start"], stdout=log, stderr=log
        )
    until("ready", lambda: "workers ready" in daemon.tail())
    return round((time.time() - began) * 1000, 1)


def status_time(daemon: Daemon) -> dict[str, Any]:
    def wall(argv: list[str]) -> float:
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True)
        return time.perf_counter() - began

    ours = [str(HEALCTL), "-c", str(daemon.config_file), "heal", "status", "--json"]
    python = [sys.executable, "-c", "pass"]
    client = [sys.executable, "-c", "import zmq, msgspec"]
    return {
        "heal_status": summary([wall(ours) for _ in range(STATUS_RUNS)]),
        "floor_python": summary([wall(python) for _ in range(STATUS_RUNS)]),
        "floor_python_zmq_msgspec": summary([wall(client) for _ in range(STATUS_RUNS)]),
    }


def run() -> dict[str, Any]:
    """Everything, in one run."""
    result: dict[str, Any] = {f"watched_500_by_{by}": watched_500(by=by) for by in ("pid_file", "match")}
    with site() as here:
        ears = Ears(here.folder)
        result["floors"] = floors(here, ears)
        services = [Announcing(here.folder, number) for number in range(KILLS + AT_ONCE)]
        for service in services:
            service.start()
        ears.wait(len(services))
        try:
            daemon = here.daemon(QUICK + "".join(service.toml() for service in services))
            daemon.start()
            result["one_by_one"] = heal_one_by_one(daemon, ears, services[:KILLS])
            result["twenty_at_once"] = heal_at_once(daemon, ears, services[KILLS:])
            result["status_50_targets"] = status_time(daemon)
            result["idle_50_targets"] = cost(daemon)
            daemon.stop()
            one = here.daemon(QUICK + services[0].toml())
            result["start_to_ready_ms"] = sorted(_start_once(one) for _ in range(5))
            one.start()
            result["idle_1_target"] = cost(one)
            one.stop()
        finally:
            for service in services:
                kill_now(service.ref())
        result["monit_1s_cycle"] = monit(here, ears, services[:10])
        ears.close()
    return result


def watched_500(*, by: str) -> dict[str, float]:
    """500 watched services, killed one at a time: from kill(2) to the classified incident, as the ledger dates it.

    `by`: "pid_file" or "match". Nothing is restarted.
    """
    with site() as here:
        children = [subprocess.Popen(["sleep", f"{200_000 + number}"]) for number in range(WATCHED)]
        try:
            tables = ""
            for number, child in enumerate(children):
                path = here.folder / f"w{number}.pid"
                path.write_text(f"{child.pid}\n")
                key = f'pid_file = "{path}"' if by == "pid_file" else f'match = "^sleep {200_000 + number}$"'
                tables += f"[process.w{number}]\n{key}\n"
            daemon = here.daemon(tables)
            daemon.start()
            until("all are known", lambda: _known_count(daemon) == WATCHED)
            took = []
            for number, child in enumerate(children[:DEATHS]):
                killed = time.time()
                child.kill()
                until("its incident", lambda name=f"w{number}": name in detected(daemon))  # type: ignore[misc]
                took.append((detected(daemon)[f"w{number}"] - killed) * 1000)
            daemon.stop()
        finally:
            for child in children:
                child.kill()
                child.wait()
    took.sort()
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    return {name: round(took[min(len(took) - 1, int(share * len(took)))], 2) for name, share in shares.items()}


def _known_count(daemon: Daemon) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM known").fetchone()[0])


def _start_once(daemon: Daemon) -> float:
    took = start_time(daemon)
    daemon.stop()
    return took


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
