"""A probe worker between a healer and a root made of the real sockets, for tests: what it sends, answers and tells."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from probes import runner
from probes.base import Probe, Source, begin
from probes.runner import ProbeWorker
from supervisor import clock
from supervisor.bus import Hub, endpoint, new_context
from supervisor.config import Config, ProcessSection
from supervisor.incidents.readings import HealthReading, ProcessData, SourceReading
from supervisor.messages import (
    Ack,
    Body,
    Finished,
    Frame,
    Hello,
    Readings,
    Stop,
    Working,
    decode_up,
    encode,
)
from supervisor.worker import Boot

WITHIN_S = 30.0  # half the interval at which a probe polls unless told otherwise: an event in time is no poll


class Healer:
    """The healer's end of the bus: takes and acknowledges readings, and lets a test wait for one."""

    def __init__(self, runtime_dir: Path) -> None:
        self.readings: list[HealthReading] = []
        self.arrived_s: list[float] = []
        self.frames: list[Frame] = []
        self.context = new_context()
        self.runtime_dir = runtime_dir
        self._news = asyncio.Event()
        self.hub: Hub | None = None
        self.open()

    def open(self) -> None:
        self.hub = Hub(self.context, endpoint(self.runtime_dir, "healer"), "healer", self._on_frames)

    def close(self) -> None:
        if self.hub is not None:
            self.hub.close()
            self.hub = None

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        assert self.hub is not None
        now_s = clock.monotonic_s()
        for source, frame in batch:
            if isinstance(frame.body, Readings):
                self.frames.append(frame)
                self.readings += frame.body.readings
                self.arrived_s += [now_s] * len(frame.body.readings)
                self.hub.answer(source, frame, Ack())
            else:
                assert isinstance(frame.body, Hello)
        self._news.set()

    async def until(self, wanted: Callable[[HealthReading], bool], since: int = 0) -> HealthReading:
        """The first reading from number `since` on that is `wanted`."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                for reading in self.readings[since:]:
                    if wanted(reading):
                        return reading
                self._news.clear()
                await self._news.wait()

    async def request(self, body: Body) -> Body:
        assert self.hub is not None
        async with asyncio.timeout(WITHIN_S):
            return await self.hub.request("process", body)


class Lab:
    """A running worker, its healer, and the root's end of its socket pair."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root, self._uplink = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.root.setblocking(False)

    async def run(
        self,
        sections: dict[str, ProcessSection],
        script: Callable[[Healer, ProbeWorker], Awaitable[None]],
        *,
        suspects: frozenset[str] = frozenset(),
        quarantined: frozenset[str] = frozenset(),
    ) -> None:
        boot = Boot(
            name="process",
            incarnation="test.1",
            config=Config(process=sections),
            state_dir=self.directory,
            runtime_dir=self.directory,
            root_pid=0,
            suspects=suspects,
            quarantined=quarantined,
        )
        healer = Healer(self.directory)
        worker = ProbeWorker(boot, self._uplink)
        living = asyncio.get_running_loop().create_task(worker.main())
        try:
            await script(healer, worker)
        finally:
            self.root.send(encode(Stop()))
            async with asyncio.timeout(WITHIN_S):
                await living
            asyncio.get_running_loop().remove_reader(self._uplink.fileno())
            healer.close()
            healer.context.destroy(linger=0)

    def told(self) -> list[str]:
        """What the root was told of items, in order."""
        words: list[str] = []
        while True:
            try:
                message = decode_up(self.root.recv(65536))
            except BlockingIOError:
                return words
            if isinstance(message, Working):
                words.append(f"+{message.item}")
            elif isinstance(message, Finished):
                words.append(f"-{message.item}")

    def close(self) -> None:
        self.root.close()
        self._uplink.close()


@pytest.fixture
def lab() -> Iterator[Lab]:
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    made = Lab(directory)
    yield made
    made.close()
    shutil.rmtree(directory)


Look = Callable[[], Awaitable[None]]


async def at_once() -> None:
    return


class Scripted(Probe):
    """A probe whose reads do what a test says; for what a real one must never do, and for targets that come and go.

    `gone` are targets that were there before: they can still be read. `given` says what a reading from outside means.
    """

    family = "process"

    def __init__(self, reads: Mapping[str, Look]) -> None:
        self.reads = dict(reads)
        self.gone: dict[str, Look] = {}
        self.interval_ms = 60_000
        self.given: Callable[[SourceReading], tuple[HealthReading, ...]] = super().outside

    def sources(self) -> tuple[Source, ...]:
        return tuple(self._source(name) for name in self.reads)

    def source(self, target_id: str) -> Source | None:
        return self._source(target_id) if target_id in self.reads or target_id in self.gone else None

    def _source(self, name: str) -> Source:
        return Source(name, self.interval_ms, self.interval_ms)

    async def read(self, target_id: str, deadline_s: float) -> HealthReading:
        began = begin(self._source(target_id), self.family)
        here = target_id in self.reads
        await (self.reads if here else self.gone)[target_id]()
        return began.tells(ProcessData(alive=target_id in self.reads))

    def outside(self, given: SourceReading) -> tuple[HealthReading, ...]:
        return self.given(given)

    def reconfigure(self, config: Config) -> None:
        pass


def scripted(monkeypatch: pytest.MonkeyPatch, reads: Mapping[str, Look]) -> Scripted:
    probe = Scripted(reads)
    monkeypatch.setattr(runner, "probe_of", lambda family, config: probe)
    return probe
