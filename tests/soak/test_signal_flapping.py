"""200 pages while the daemon flaps, answers errors, hangs, half-closes and is killed, and the notifier is killed: every
one arrives, and a second copy only where an answer was lost after the first was accepted (DESIGN §8).

A short run for CI and a long one for `make soak`. The seed is printed when it fails.
"""

from __future__ import annotations

import asyncio
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import clock, http
from supervisor.messages import DeliveryReport
from tests.doubles.notifier_lab import Healer, NotifierProcess, config, row
from tests.doubles.signal_double import Fault, Kind
from tests.soak.test_crashes import seed_of

ROWS_A_TURN = 5
PACE_S = 0.05
QUIET_AFTER, QUIET_S = 40, 4.0  # turns, and how long all is well after so many: a second copy waits for that
FAULTS = (
    Fault(),
    Fault(Kind.ERROR, code=-3),
    Fault(Kind.ERROR, code=-32602),
    Fault(Kind.STATUS, code=503),
    Fault(Kind.HANG),
    Fault(Kind.HALF_CLOSE),
    Fault(Kind.GARBAGE, text="<html>"),
    Fault(Kind.DROP, times=2),
    Fault(Kind.RESULTS, types=("NETWORK_FAILURE",)),
)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Daemon:
    """The double as a process, always at the same addresses; `kills`: when it died, in seconds since the epoch."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "log"
        self._socket_file = folder / "s.sock"
        http_port, tcp_port = free_port(), free_port()
        self._url = f"http://127.0.0.1:{http_port}"
        self.transports = (self._url, f"unix:{self._socket_file}", f"tcp://127.0.0.1:{tcp_port}")
        words = ("--port", str(http_port), "--tcp", str(tcp_port), "--socket", self._socket_file, "--log", self.log)
        self._argv = [sys.executable, "-m", "tests.doubles.signal_double", *words]
        self.kills: list[float] = []
        self.start()

    def start(self) -> None:
        self._socket_file.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._argv, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)
        self.kills.append(clock.wall_s())
        assert self._process.stdout is not None
        self._process.stdout.close()

    async def fails(self, fault: Fault) -> None:
        body = msgspec.json.encode(fault)
        answer = await http.request(self._url, method="POST", path="/double/fault", body=body, timeout_s=20)
        assert answer.status == 200

    def lines(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []  # it has taken nothing yet
        return [msgspec.json.decode(line) for line in self.log.read_bytes().splitlines() if line.endswith(b"}")]


class Flapping:
    """Everything that goes wrong, turn by turn."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self._folder = folder
        self._dice = dice
        self.daemon = Daemon(folder)
        self.healer = Healer(folder)
        self.handed: list[str] = []
        self.kills: list[float] = []  # of the notifier
        self.start()

    def start(self) -> None:
        settings = config(*self.daemon.transports)
        self._notifier = NotifierProcess(self._folder, settings, f"n{len(self.kills)}", pace_s=PACE_S)
        self._notifier.wait_ready()

    def receipts(self) -> dict[str, DeliveryReport]:
        return {one.row_id: one for one in self.healer.reports if one.receipt}

    async def turn(self) -> None:
        new = [f"r{len(self.handed) + n:05d}" for n in range(ROWS_A_TURN)]
        self.handed += new
        for name in new:
            self.healer.deliver(row(name))
        happens = self._dice.random()
        if happens < 0.15:
            await asyncio.to_thread(self.daemon.kill)
            await asyncio.sleep(self._dice.random() * 0.3)
            await asyncio.to_thread(self.daemon.start)
        elif happens < 0.3:
            await asyncio.to_thread(self._notifier.kill)
            self.kills.append(clock.wall_s())
            await asyncio.to_thread(self.start)
            done = self.receipts()
            for name in self.handed:  # as the healer does at a hello
                if name not in done:
                    self.healer.deliver(row(name))
        else:
            await self.daemon.fails(self._dice.choice(FAULTS))
        await asyncio.sleep(self._dice.random() * 0.3)

    async def settle(self) -> None:
        await self.daemon.fails(Fault())
        try:
            await self.healer.until(lambda: len(self.receipts()) == len(self.handed), 60)
        except TimeoutError:
            left = [self.healer.of(name)[-1:] for name in self.handed if name not in self.receipts()]
            raise AssertionError(f"{len(left)} are not delivered: {left}") from None

    def close(self) -> None:
        self._notifier.kill()
        self.daemon.kill()
        self.healer.close()


def judge(flapping: Flapping) -> int:
    """How many second copies there were; each must have its reason."""
    taken: dict[str, list[dict[str, Any]]] = {}
    dropped = set()
    for line in flapping.daemon.lines():
        if "dropped" in line:
            dropped.add(line["dropped"])
        else:
            taken.setdefault(line["text"].split()[1], []).append(line)
    assert sorted(taken) == flapping.handed
    for name, report in flapping.receipts().items():
        match = re.fullmatch(r"signal:(\d+) by (\S+)", report.receipt)
        assert match is not None
        assert int(match[1]) in {one["timestamp"] for one in taken[name]}, f"{name}: a receipt for nothing"
        assert match[2] in flapping.daemon.transports
    kills = flapping.kills + flapping.daemon.kills
    for name, copies in taken.items():
        for first, second in pairwise(copies):
            died = any(first["at_wall_s"] <= at <= second["at_wall_s"] for at in kills)
            assert first["timestamp"] in dropped or died, f"{name} came twice, and no answer was lost: {copies}"
        assert len(copies) <= 2, f"{name} has more than one extra copy: {copies}"
    return sum(len(copies) - 1 for copies in taken.values())


@pytest.fixture
def folder() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))  # a short path: it holds UNIX sockets
    yield directory
    shutil.rmtree(directory)


@pytest.mark.req("FR-005", "AC-011", "R2")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("turns", [20, pytest.param(400, marks=pytest.mark.soak)])
def test_every_page_arrives_whatever_the_daemon_and_the_notifier_go_through(folder: Path, turns: int) -> None:
    seed = seed_of()

    async def test() -> None:
        flapping = Flapping(folder, random.Random(seed))
        try:
            for n in range(1, turns + 1):
                await flapping.turn()
                if n % QUIET_AFTER == 0:
                    await flapping.daemon.fails(Fault())
                    await asyncio.sleep(QUIET_S)
            await flapping.settle()
        finally:
            flapping.close()
        copies = judge(flapping)
        print(f"{len(flapping.handed)} pages, {copies} second copies, each for a lost answer")

    try:
        asyncio.run(test())
    except BaseException:
        print(f"HEALCTL_TEST_SEED={seed}")
        raise
