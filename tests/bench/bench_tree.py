"""How fast is a killed worker replaced? kill -9 to the replacement's READY, 12 toy workers that import all that the
real ones import; beside it the floor of the same run (a bare fork to its first message). And what an idle tree costs.

`python -m tests.bench.bench_tree` prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import zmq

from supervisor import clock
from supervisor.config import Config, Duration, ProcessSection, TreeSection
from supervisor.sockets import endpoint, new_context, open_socket
from supervisor.tree import spec
from supervisor.tree.root import Root
from supervisor.tree.spawn import Child, ChildMain
from tests.bench.cost import cpu_s, pss_kib
from tests.process.toys import Listener, Toy, tell
from tests.process.treelab import Lab, children_of

KILLS = 50
WORKERS = 12
IDLE_S = 20.0
ME = "tests.bench.bench_tree"


class Busy(Toy):
    """Opens what every real worker opens: a ZeroMQ context and a socket."""

    async def start(self) -> None:
        self._context = new_context()
        self._socket = self.open()
        self.say("start")

    def open(self) -> zmq.Socket[bytes]:
        link = open_socket(self._context, zmq.DEALER, identity=self.boot.name)
        link.connect(endpoint(self.boot.runtime_dir, "hub"))
        return link

    async def stop(self) -> None:
        self._socket.close(0)
        self._context.term()


class Hub(Busy, Listener):
    """The one that the others connect to, and the one that hears of every tree event."""

    def open(self) -> zmq.Socket[bytes]:
        hub = open_socket(self._context, zmq.ROUTER)
        hub.bind(endpoint(self.boot.runtime_dir, "hub"))
        return hub


def run() -> dict[str, object]:
    """Starts a root in a process of its own, kills its workers one by one, and returns the figures."""
    lab = Lab()
    try:
        began_s = time.time()
        root = subprocess.Popen(
            [sys.executable, "-m", ME, "host", lab.state_dir, lab.runtime_dir], stderr=lab.stderr.open("wb")
        )
        lab.root = root
        try:
            floor = lab.what("floor")["times_ms"]
            worker_floor = lab.what("worker_floor")["times_ms"]
            ready = lab.what("all_ready")
            kills = _kill_each(lab)
            idle = _idle(root.pid)
        finally:
            root.send_signal(signal.SIGTERM)
            root.wait(30)
    finally:
        lab.close()
    start_ms = (ready["at_wall_s"] - began_s) * 1000 - sum(floor) - sum(worker_floor)
    return {
        "workers": WORKERS,
        "kill_to_ready_ms": _figures(kills["ready"]),
        "of_it_kill_to_seen_ms": _figures(kills["seen"]),
        "of_it_seen_to_forked_ms": _figures(kills["forked"]),
        "of_it_forked_to_ready_ms": _figures(kills["own"]),
        "floor_fork_to_message_ms": _figures(floor),
        "floor_fork_to_zmq_socket_ms": _figures(worker_floor),
        "start_to_all_ready_ms": round(start_ms, 1),
        "root_to_all_ready_ms": round((ready["at_wall_s"] - ready["began_wall_s"]) * 1000, 1),
        **idle,
    }


def _kill_each(lab: Lab) -> dict[str, list[float]]:
    pids = {}
    for n in range(WORKERS):
        pids[f"w{n}"] = lab.what("start", f"w{n}")["pid"]
    times: dict[str, list[float]] = {"ready": [], "seen": [], "forked": [], "own": []}
    for n in range(KILLS):
        name = f"w{n % WORKERS}"
        lab.forget()
        at_s = time.time()
        os.kill(pids[name], signal.SIGKILL)
        died, started, ready = (lab.event(kind, name) for kind in ("exited", "started", "ready"))
        times["ready"].append((ready["at_wall_s"] - at_s) * 1000)
        times["seen"].append((died["at_wall_s"] - at_s) * 1000)
        times["forked"].append((started["at_wall_s"] - died["at_wall_s"]) * 1000)
        times["own"].append((ready["at_wall_s"] - started["at_wall_s"]) * 1000)
        pids[name] = ready["pid"]
    return times


def _idle(root_pid: int) -> dict[str, float]:
    pids = [root_pid, *children_of(root_pid)]
    before = {pid: cpu_s(pid) for pid in pids}
    time.sleep(IDLE_S)
    used = {pid: cpu_s(pid) - before[pid] for pid in pids}
    return {
        "idle_cpu_s_per_min": round(sum(used.values()) * 60 / IDLE_S, 3),
        "idle_cpu_s_per_min_root": round(used[root_pid] * 60 / IDLE_S, 3),
        "pss_mib": round(sum(pss_kib(pid) for pid in pids) / 1024, 1),
        "pss_mib_root": round(pss_kib(root_pid) / 1024, 1),
    }


def _figures(times_ms: list[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    return {
        "n": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[int(0.95 * len(ordered))], 2),
        "max": round(ordered[-1], 2),
    }


# --- in the root's own process ---


def host(state_dir: Path, runtime_dir: Path) -> int:
    real = spec.healctl_tree(Config(process={"x": ProcessSection(pid_file="/nonexistent")}))
    spec.preload(real)  # import what the real workers import
    gc.collect()
    gc.freeze()
    tell(runtime_dir, what="floor", child="root", times_ms=[fork_ms(answer) for _ in range(KILLS)])
    tell(runtime_dir, what="worker_floor", child="root", times_ms=[fork_ms(_answer_with_zmq) for _ in range(KILLS)])
    began_wall_s = clock.wall_s()
    section = TreeSection(  # every kill is to be measured as a first one: no delay
        probes_intensity=1000, probes_period=Duration(1e6), backoff_base=Duration(0), backoff_max=Duration(0)
    )
    workers = [("ear", f"{ME}:Hub", "core")]
    workers += [(f"w{n}", f"{ME}:Busy", "probes") for n in range(WORKERS)]

    def ready() -> None:
        tell(runtime_dir, what="all_ready", child="root", at_wall_s=clock.wall_s(), began_wall_s=began_wall_s)

    tree = spec.tree_of(section, workers, listener="ear")
    return Root(tree, Config(tree=section), state_dir, runtime_dir, on_ready=ready).run()


def fork_ms(main: ChildMain) -> float:
    """Milliseconds from the fork to the child's first message."""
    began_s = time.perf_counter()
    child = Child("floor", "", main, lambda *_: None, 0.0)
    child.uplink.setblocking(True)
    child.uplink.recv(16)
    took_ms = (time.perf_counter() - began_s) * 1000
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    child.reap(0.0)
    return took_ms


def answer(uplink: socket.socket, output: int) -> NoReturn:
    del output
    uplink.send(b"x")
    os._exit(0)


def _answer_with_zmq(uplink: socket.socket, output: int) -> NoReturn:
    """What no worker can do without: a loop, a context, a socket."""

    async def open_and_answer() -> None:
        open_socket(new_context(), zmq.DEALER)
        uplink.send(b"x")
        os._exit(0)

    del output
    asyncio.run(open_and_answer())
    os._exit(1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["host"]:
        sys.exit(host(Path(sys.argv[2]), Path(sys.argv[3])))
    print(json.dumps(run(), indent=2))
