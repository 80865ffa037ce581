"""Readings per second through the real healer: a worker's socket, the hub, the classifier, no incident, the receipt.

The floor is the same frames over a bare PUSH and PULL pair between two processes, in the same run.
`python -m tests.bench.bench_engine` prints JSON.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import zmq

from supervisor import clock
from supervisor.incidents.readings import Endpoint, HealthReading, PidFile, ProcessData, ProcessRef
from supervisor.messages import VERSION, Frame, Hello, Readings, decode_frame, encode
from supervisor.proc import this_boot
from supervisor.sockets import endpoint, new_context, open_socket
from tests.lab.daemon import Site, site

TARGETS = 200
READINGS = 60_000
BATCH = 200  # readings of one message, as `probes.outbound` sends them
WINDOW = 50  # messages that wait for their receipts
ROUNDS = 3
TARGET_PER_S = 20_000


def frames(count: int, batch: int) -> list[bytes]:
    """Healthy readings of TARGETS services, each later than the one before of its target."""
    boot, made = this_boot(), []
    began_s, wall_s = clock.monotonic_s(), clock.wall_s()
    for first in range(0, count, batch):
        readings = []
        for n in range(first, first + batch):
            name = f"svc{n % TARGETS}"
            data = ProcessData(True, ProcessRef(boot, os.getpid(), n % TARGETS), PidFile.OK, Endpoint.OK)
            at_s = began_s + n * 1e-9
            readings.append(HealthReading(name, "process", at_s, wall_s, 0.3, 60_000, True, data))
        made.append(encode(Frame(VERSION, f"bench.{os.urandom(4).hex()}.{first}", "", Readings(tuple(readings)))))
    return made


def through_healer(runtime_dir: Path, raw: list[bytes]) -> float:
    """Seconds until the healer has acknowledged every frame."""
    context = new_context()
    try:
        link = open_socket(context, zmq.DEALER, identity="bench")
        link.connect(endpoint(runtime_dir, "healer"))
        link.send(encode(Frame(VERSION, "bench.hello", "", Hello("bench", "bench.1"))))
        sent = done = 0
        began_s = time.perf_counter()
        while done < len(raw):
            while sent < len(raw) and sent - done < WINDOW:
                link.send(raw[sent])
                sent += 1
            assert link.poll(20_000), "the healer does not answer"
            while True:
                try:
                    answer = decode_frame(link.recv(zmq.NOBLOCK))
                except zmq.Again:
                    break
                done += answer.re != ""
        return time.perf_counter() - began_s
    finally:
        context.destroy(linger=0)


def floor(directory: str, raw: list[bytes]) -> float:
    """Seconds for the same frames from a process that pushes to one that pulls and decodes nothing."""
    address = f"ipc://{directory}/floor.sock"
    pid = os.fork()
    if pid == 0:
        context = new_context()
        push = open_socket(context, zmq.PUSH)
        push.connect(address)
        for each in raw:
            push.send(each)
        context.destroy(linger=10_000)
        os._exit(0)
    context = new_context()
    pull = open_socket(context, zmq.PULL)
    pull.bind(address)
    pull.recv()
    began_s = time.perf_counter()
    for _ in raw[1:]:
        pull.recv()
    took_s = time.perf_counter() - began_s
    os.waitpid(pid, 0)
    context.destroy(linger=0)
    return took_s


def measure(here: Site) -> dict[str, object]:
    tables = "".join(f'[process.svc{n}]\npid_file = "{here.folder}/none"\ninterval = "7d"\n' for n in range(TARGETS))
    daemon = here.daemon(tables.replace("none", "own.pid"))
    (here.folder / "own.pid").write_text(f"{os.getpid()}\n")  # alive: no incident
    daemon.start()
    found: dict[str, object] = {}
    for batch in (BATCH, 1):
        count = READINGS if batch > 1 else READINGS // 4
        times = []
        for _ in range(ROUNDS):
            times.append(through_healer(daemon.runtime_dir, frames(count, batch)))
        per_s = count / statistics.median(times)
        raw = frames(count, batch)
        with tempfile.TemporaryDirectory(prefix="hc") as directory:
            bare = count / statistics.median(floor(directory, raw) for _ in range(ROUNDS))
        found[f"batches_of_{batch}"] = {"readings_per_s": round(per_s), "floor_push_pull_per_s": round(bare)}
    found["target_readings_per_s"] = TARGET_PER_S
    found["incidents"] = len(daemon.incidents())
    return found


if __name__ == "__main__":
    with site() as made_here:
        print(json.dumps(measure(made_here), indent=2))
