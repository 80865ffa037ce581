"""How many hosts can one worker watch? Real sshds, each target with a connection of its own that is kept, beside a loop
of OpenSSH's client (`ssh -o BatchMode=yes HOST true`) over the same hosts in the same run.

The sshds share the machine's cores with the worker, so that the first figures (connecting) are theirs as much as ours;
CPU is counted for the worker alone. `python -m tests.bench.bench_fleet` prints JSON. Needs root.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from probes.fleet import FleetProbe
from probes.fleet_hosts import Host
from probes.runner import ProbeWorker
from probes.ssh import Connections
from probes.ssh_trust import Login
from supervisor.bus import Hub, endpoint, new_context
from supervisor.config import Config, Duration, FleetHost, FleetSection
from supervisor.incidents.readings import FleetData, HealthReading
from supervisor.messages import Ack, Frame, Readings, Stop, encode
from supervisor.worker import Boot
from tests.bench.bench_probe import cpu_s, drain, quantiles
from tests.bench.cost import pss_kib
from tests.lab.sshd import PORT, Lab, missing

SSHDS = 8
HOSTS = 320
PERIOD_S = 300.0
INTERVAL_S = 1.0  # of the run with the whole worker; every target is read once a second
MEASURED_S = 20.0
ROUNDS = 20
CLIENT_RUNS = 40
WITHIN_S = 120.0


def section(lab: Lab, interval_s: float) -> FleetSection:
    hosts = {f"h{n}": FleetHost(address=lab.hosts[n % SSHDS].address, port=PORT) for n in range(HOSTS)}
    return FleetSection(
        interval=Duration(interval_s), user="root", identity_file=str(lab.login), known_hosts=str(lab.known_hosts),
        hosts=hosts,
    )  # fmt: skip


async def connecting(lab: Lab) -> dict[str, object]:
    """One login after another, none kept."""
    times, cpu_before_s = [], time.process_time()
    connections = Connections(Login("root", str(lab.login), str(lab.known_hosts)), lambda _: None)
    for n in range(40):
        reached = await connections.reach("x", Host(lab.hosts[n % SSHDS].address, PORT), 5.0)
        times.append(reached.latency_ms / 1000)
        connections.drop("x")
    return quantiles(times) | {"our_cpu_ms": round((time.process_time() - cpu_before_s) / len(times) * 1000, 2)}


async def probing(lab: Lab) -> dict[str, object]:
    """The probe alone: the first reading of each host, then rounds over kept connections, 64 at once."""
    probe = FleetProbe(Config(fleet=section(lab, 300.0)))
    names = [source.source_id for source in probe.sources()]
    at_once = asyncio.Semaphore(64)

    async def read(name: str) -> HealthReading:
        async with at_once:
            return await probe.read(name, 5.0)

    async def whole_round() -> tuple[list[HealthReading], float, float]:
        began_s, cpu_began_s = time.monotonic(), time.process_time()
        readings = await asyncio.gather(*map(read, names))
        return readings, time.monotonic() - began_s, time.process_time() - cpu_began_s

    await probe.read(names[0], 5.0)  # what the first connection loads is not the connections'
    before_kib = pss_kib(os.getpid())
    first, first_s, first_cpu_s = await whole_round()
    after_kib = pss_kib(os.getpid())
    reached = sum(reading.available for reading in first)
    times, took_s, cpu_took_s = [], 0.0, 0.0
    for _ in range(ROUNDS):
        readings, round_s, round_cpu_s = await whole_round()
        took_s, cpu_took_s = took_s + round_s, cpu_took_s + round_cpu_s
        for reading in readings:
            assert isinstance(reading.data, FleetData), reading.error
            assert reading.data.kept
            times.append(reading.data.latency_ms / 1000)
    probe.close()
    await asyncio.sleep(0)
    count = len(names) * ROUNDS
    return {
        "hosts": len(names),
        "first_round": {
            "reached": reached,
            "s": round(first_s, 2),
            "hosts_in_5_min": round(len(names) / first_s * PERIOD_S),
            "our_cpu_ms_per_host": round(first_cpu_s / len(names) * 1000, 2),
        },
        "kept": quantiles(times)
        | {
            "readings_per_s": round(count / took_s),
            "hosts_in_5_min": round(count / took_s * PERIOD_S),
            "our_cpu_ms_per_reading": round(cpu_took_s / count * 1000, 3),
            "cpu_s_per_5_min_at_10000_hosts": round(cpu_took_s / count * 10_000, 1),
        },
        "kib_per_kept_connection": round((after_kib - before_kib) / (len(names) - 1), 1),
    }


class Healer:
    """Takes readings and counts them."""

    def __init__(self, runtime_dir: Path) -> None:
        self.context = new_context()
        self.hub = Hub(self.context, endpoint(runtime_dir, "healer"), "healer", self._on_frames)
        self.kept: dict[str, int] = {}
        self.other: list[str] = []
        self._news = asyncio.Event()

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            if isinstance(frame.body, Readings):
                self.hub.answer(source, frame, Ack())
                for reading in frame.body.readings:
                    if isinstance(reading.data, FleetData):
                        self.kept[reading.target_id] = self.kept.get(reading.target_id, 0) + reading.data.kept
                    else:
                        self.other.append(reading.error)
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not true():
                self._news.clear()
                await self._news.wait()

    def close(self) -> None:
        self.hub.close()
        self.context.destroy(linger=0)


async def attend(directory: Path, pid: int, root: socket.socket) -> dict[str, object]:
    asyncio.get_running_loop().add_reader(root, drain, root)
    healer = Healer(directory)
    try:
        await healer.until(lambda: len(healer.kept) == HOSTS and all(healer.kept.values()))
        before, cpu_before_s, began_s = sum(healer.kept.values()), cpu_s(pid), time.monotonic()
        await asyncio.sleep(MEASURED_S)
        took_s, cpu_took_s = time.monotonic() - began_s, cpu_s(pid) - cpu_before_s
        count = sum(healer.kept.values()) - before
        return {
            "interval_s": INTERVAL_S,
            "readings_per_s": round(count / took_s, 1),
            "hosts_in_5_min": round(count / took_s * PERIOD_S),
            "cpu_ms_per_reading": round(cpu_took_s / count * 1000, 3),
            "cpu_share": round(cpu_took_s / took_s, 3),
            "not_reached": healer.other[:3],
        }
    finally:
        healer.close()


def whole_worker(lab: Lab) -> dict[str, object]:
    """The worker in a process of its own, as in the tree: schedule, readings, bus, and its healer."""
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    boot = Boot("fleet", "bench.1", Config(fleet=section(lab, INTERVAL_S)), directory, directory, os.getpid())
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            asyncio.run(ProbeWorker(boot, theirs).main())
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    try:
        return asyncio.run(attend(directory, pid, ours))
    finally:
        ours.setblocking(True)
        ours.send(encode(Stop()))
        while ours.recv(65536):  # until the worker has ended
            pass
        os.waitpid(pid, 0)
        ours.close()
        shutil.rmtree(directory)


def openssh(lab: Lab) -> dict[str, object]:
    """The site's own way: a client for each check."""
    times, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
    for n in range(CLIENT_RUNS):
        words = [
            "ssh", "-F", "none", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={lab.known_hosts}", "-i",
            str(lab.login), "-o", "IdentitiesOnly=yes", "-p", str(PORT), f"root@{lab.hosts[n % SSHDS].address}", "true",
        ]  # fmt: skip
        began_s = time.monotonic()
        subprocess.run(words, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        times.append(time.monotonic() - began_s)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return quantiles(times) | {
        "hosts_in_5_min": round(PERIOD_S / (sum(times) / len(times))),
        "client_cpu_ms_per_host": round(used_s / len(times) * 1000, 2),
    }


def run() -> dict[str, object]:
    if reason := missing():
        return {"skipped": reason}
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    lab = Lab(folder)
    try:
        for n in range(SSHDS):
            lab.sshd(f"127.0.78.{n + 1}")
        return {
            "openssh_client_loop": openssh(lab),
            "connect_and_login_one_by_one": asyncio.run(connecting(lab)),
            "probe": asyncio.run(probing(lab)),
            "worker_over_kept_connections": whole_worker(lab),
        }
    finally:
        lab.close()
        shutil.rmtree(folder)


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
