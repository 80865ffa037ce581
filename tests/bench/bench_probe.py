"""How fast is a death seen? 500 watched processes, killed one at a time and all at once, from kill(2) to the reading
in the healer's hands; and what an idle worker costs. The floor, a bare pidfd, is measured in the same run.

`python -m tests.bench.bench_probe` prints JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from probes.runner import ProbeWorker
from supervisor import proc
from supervisor.bus import Hub, endpoint, new_context
from supervisor.config import Config, ProcessSection
from supervisor.incidents.readings import ProcessData
from supervisor.messages import Ack, Frame, Readings, Stop, encode
from supervisor.worker import Boot

WATCHED = 500
ONE_BY_ONE = 200
IDLE_S = 30.0
WITHIN_S = 30.0


def quantiles(times_s: list[float]) -> dict[str, float]:
    ordered = sorted(times_s)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 3)

    return {"n": len(ordered), "p50_ms": at(0.5), "p95_ms": at(0.95), "p99_ms": at(0.99), "max_ms": at(1.0)}


class Services:
    """Real processes with their pid files, and a match when `matched`."""

    def __init__(self, directory: Path, count: int, matched: bool) -> None:
        self.children = {f"svc{n}": subprocess.Popen(["sleep", f"{100000 + n}"]) for n in range(count)}
        self.sections = {}
        for name, child in self.children.items():
            path = directory / f"{name}.pid"
            path.write_text(f"{child.pid}\n")
            match = f"^sleep {' '.join(map(str, child.args[1:]))}$" if matched else ""  # type: ignore[index]
            self.sections[name] = ProcessSection(pid_file=str(path), match=match)

    def end(self) -> None:
        for child in self.children.values():
            child.kill()
            child.wait()


class Healer:
    """Takes readings and notes when each target was first seen alive, then dead."""

    def __init__(self, runtime_dir: Path) -> None:
        self.context = new_context()
        self.hub = Hub(self.context, endpoint(runtime_dir, "healer"), "healer", self._on_frames)
        self.alive_s: dict[str, float] = {}
        self.dead_s: dict[str, float] = {}
        self.closed = False
        self._news = asyncio.Event()

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        if self.closed:
            return
        now_s = time.monotonic()
        for source, frame in batch:
            if isinstance(frame.body, Readings):
                self.hub.answer(source, frame, Ack())
                for reading in frame.body.readings:
                    assert isinstance(reading.data, ProcessData), reading.error
                    seen = self.alive_s if reading.data.alive else self.dead_s
                    seen.setdefault(reading.target_id, now_s)
        self._news.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not true():
                self._news.clear()
                await self._news.wait()

    def close(self) -> None:
        self.closed = True
        self.hub.close()
        self.context.destroy(linger=0)


def fork_worker(directory: Path, sections: dict[str, ProcessSection]) -> tuple[int, socket.socket]:
    """The worker in a process of its own, as in the tree."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    boot = Boot("process", "bench.1", Config(process=sections), directory, directory, os.getpid())
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            asyncio.run(ProbeWorker(boot, theirs).main())
        finally:
            os._exit(0)
    theirs.close()
    ours.setblocking(False)
    return pid, ours


def drain(root: socket.socket) -> None:
    """The root reads whatever its children say."""
    while True:
        try:
            if not root.recv(65536):
                return
        except BlockingIOError:
            return


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / proc.CLK_TCK


Measure = Callable[[Services, Healer, int], Awaitable[dict[str, object]]]


def with_worker(count: int, matched: bool, measure: Measure) -> dict[str, object]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    services = Services(directory, count, matched)
    pid, root = fork_worker(directory, services.sections)
    try:
        return asyncio.run(attend(directory, services, pid, root, measure))
    finally:
        root.setblocking(True)
        root.send(encode(Stop()))
        while root.recv(65536):  # until the worker has ended
            pass
        os.waitpid(pid, 0)
        root.close()
        services.end()
        shutil.rmtree(directory)


async def attend(
    directory: Path, services: Services, pid: int, root: socket.socket, measure: Measure
) -> dict[str, object]:
    asyncio.get_running_loop().add_reader(root, drain, root)
    healer = Healer(directory)
    try:
        begun_s = time.monotonic()
        await healer.until(lambda: len(healer.alive_s) == len(services.children))
        result = {"first_readings_of_all_ms": round((time.monotonic() - begun_s) * 1000, 1)}
        return result | await measure(services, healer, pid)
    finally:
        healer.close()


async def deaths(services: Services, healer: Healer, pid: int) -> dict[str, object]:
    del pid
    names = list(services.children)
    single = []
    for name in names[:ONE_BY_ONE]:
        killed_s = time.monotonic()
        services.children[name].send_signal(signal.SIGKILL)
        await healer.until(lambda name=name: name in healer.dead_s)  # type: ignore[misc]
        single.append(healer.dead_s[name] - killed_s)
    rest = names[ONE_BY_ONE:]
    began_s = time.monotonic()
    for name in rest:
        services.children[name].send_signal(signal.SIGKILL)
    killing_s = time.monotonic() - began_s
    await healer.until(lambda: all(name in healer.dead_s for name in rest))
    return {
        "one_at_a_time": quantiles(single),
        "all_at_once": quantiles([healer.dead_s[name] - began_s for name in rest])
        | {"killing_took_ms": round(killing_s * 1000, 1)},
    }


async def idle(services: Services, healer: Healer, pid: int) -> dict[str, object]:
    del services, healer
    before_s = cpu_s(pid)
    await asyncio.sleep(IDLE_S)
    return {"cpu_s_per_min": round((cpu_s(pid) - before_s) * 60 / IDLE_S, 3)}


def floor() -> dict[str, float]:
    """kill(2) to a readable pidfd, with nothing in between."""
    times = []
    for _ in range(ONE_BY_ONE):
        child = subprocess.Popen(["sleep", "1000"])
        fd = os.pidfd_open(child.pid)
        began_s = time.monotonic()
        child.send_signal(signal.SIGKILL)
        select.select([fd], [], [])
        times.append(time.monotonic() - began_s)
        os.close(fd)
        child.wait()
    return quantiles(times)


def run() -> dict[str, object]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    return {
        "floor_pidfd": floor(),
        "watched_500_pid_file": with_worker(WATCHED, False, deaths),
        "watched_500_pid_file_and_match": with_worker(WATCHED, True, deaths),
        "idle_50": with_worker(50, False, idle),
        "idle_500": with_worker(WATCHED, True, idle),
    }


if __name__ == "__main__":
    print(json.dumps(run(), indent=2))
