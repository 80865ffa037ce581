"""What the whole house costs while nothing happens: 50 targets of all eight families, each at the user's own interval.

`python -m tests.bench.bench_idle` prints JSON: PSS and CPU of the tree, and of each worker. Beside it, in the same
run, the cost of the polls themselves: each family's targets read once by a probe alone (`healctl check --live`'s way),
scaled by its interval, so that what is left is healctl's own.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from pathlib import Path
from typing import Any

from probes.base import DEADLINE_S
from probes.runner import probe_of
from supervisor.config import Config, parse
from supervisor.targets import families
from tests.bench.bench_site import Announcing, Ears, kill_now, site
from tests.bench.cost import cpu_s, pss_kib
from tests.doubles.openclaw_double import HttpPort, Program
from tests.lab import sshd
from tests.lab.daemon import Daemon, until

SETTLE_S = 20.0  # the first readings, the first integrity checks
IDLE_S = 60.0
SERVICES, SIGNALS, GATEWAYS, TASKS, HOSTS, DATABASES, LOGS = 14, 4, 3, 6, 10, 5, 2


def configuration(folder: Path, services: list[Announcing], ports: list[HttpPort], hosts: sshd.Lab | None) -> str:
    """50 targets: services, signals and positions, gateways, tasks, hosts, disk and memory, databases, logs."""
    parts = ["".join(service.toml() for service in services)]
    now = time.strftime("%Y-%m-%dT%H:%M:%S")
    for n in range(SIGNALS):
        signal, trades = folder / f"signal{n}.json", folder / f"trades{n}.db"
        signal.write_text(json.dumps({"signal": "BUY", "symbol": "BTC", "updated_at": now}))
        with sqlite3.connect(trades) as db:
            db.execute("CREATE TABLE trades (id, symbol, side, status, opened_at)")
            db.execute("INSERT INTO trades VALUES (1, 'BTC', 'long', 'open', ?)", (now,))
        parts.append(f'[trading.t{n}]\nsignal_file = "{signal}"\ntrades_db = "{trades}"\nmax_age = "1h"\n')
    for n, port in enumerate(ports):
        argv = json.dumps(Program(folder / f"openclaw{n}").argv)
        parts.append(f'[gateway.g{n}]\nstatus = {argv}\nhealth_url = "http://127.0.0.1:{port.port}/healthz"\n')
    tasks = [{"task_id": f"task-{n:03d}", "current_stage": "build", "status": "active"} for n in range(TASKS)]
    (folder / "state.json").write_text(json.dumps({"active_tasks": tasks}))
    parts.append(f'[pipeline.p]\nstate_file = "{folder}/state.json"\nstage_done = ["/bin/true"]\n')
    if hosts is not None:
        tables = "".join(
            f'[fleet.hosts.h{n}]\naddress = "{host.address}"\nport = {sshd.PORT}\n'
            for n, host in enumerate(hosts.hosts)
        )
        keys = f'identity_file = "{hosts.login}"\nknown_hosts = "{hosts.known_hosts}"\nuser = "root"'
        parts.append(f"[fleet]\n{keys}\n{tables}")
    for n in range(DATABASES - 3):  # three are our own
        with sqlite3.connect(folder / f"notes{n}.db") as db:
            db.execute("CREATE TABLE notes (body BLOB)")
            db.executemany("INSERT INTO notes VALUES (randomblob(1000 + ?))", [(k % 7,) for k in range(5000)])
        parts.append(f'[database.d{n}]\npath = "{folder}/notes{n}.db"\n')
    parts.append('[disk]\nmounts = ["/"]\ndiscover = false\npressure = 0.998\ncritical = 0.999\n')
    parts.append('[memory]\npressure = "2MB"\ncritical = "1MB"\n')
    parts += [f'[logs.l{n}]\npaths = ["{folder}/*.log"]\n' for n in range(LOGS - 1)]
    return "".join(parts)


def idle(daemon: Daemon) -> dict[str, Any]:
    assert daemon.process is not None
    pids = {"root": daemon.process.pid, **{name: ref.pid for name, ref in daemon.workers().items()}}
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)
    used = {name: (cpu_s(pid) - before[name]) * 60 / IDLE_S for name, pid in pids.items()}
    pss_mib = {name: round(pss_kib(pid) / 1024, 1) for name, pid in pids.items()}
    return {
        "processes": len(pids),
        "pss_mib": round(sum(pss_mib.values()), 1),
        "pss_mib_by_worker": pss_mib,
        "cpu_s_per_min": round(sum(used.values()), 3),
        "cpu_s_per_min_by_worker": {name: round(s, 4) for name, s in used.items()},
    }


async def polls(config: Config) -> dict[str, float]:
    """CPU seconds a minute that the readings alone cost, family by family: the second of two passes counts."""
    costs = {}
    for family in families(config):
        probe = probe_of(family, config)
        try:
            for _ in range(2):
                sources = probe.sources()
                began_s, spent_s = time.process_time(), 0.0
                for source in sources:
                    await probe.read(source.source_id, DEADLINE_S)
                spent_s = time.process_time() - began_s
            a_minute = sum(60_000 / source.poll_interval_ms for source in sources) / max(1, len(sources))
            costs[family] = round(spent_s * a_minute, 4)
        finally:
            probe.close()
    return costs


def run() -> dict[str, Any]:
    with site() as here:
        ears = Ears(here.folder)
        services = [Announcing(here.folder, number) for number in range(SERVICES)]
        for service in services:
            service.start()
        ears.wait(len(services))
        ports = [HttpPort() for _ in range(GATEWAYS)]
        hosts = None
        if not sshd.missing():
            (here.folder / "ssh").mkdir()
            hosts = sshd.Lab(here.folder / "ssh")
            for n in range(HOSTS):
                hosts.sshd(f"127.0.77.{n + 1}")
        try:
            daemon = here.daemon(configuration(here.folder, services, ports, hosts))
            daemon.start()
            until("the first readings", lambda: not daemon.ask("status")["open_incidents"])
            time.sleep(SETTLE_S)
            result = {"targets": daemon.ask("tree")["targets"], "idle": idle(daemon)}
            result["open_incidents"] = len(daemon.ask("status")["open_incidents"])
            daemon.stop()
            config = parse(daemon.config_file.read_text(), str(daemon.config_file))
            result["of_it_polls_s_per_min"] = asyncio.run(polls(config))
            return result
        finally:
            for service in services:
                kill_now(service.ref())
            for port in ports:
                port.shut()
            if hosts is not None:
                hosts.close()
            ears.close()


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
