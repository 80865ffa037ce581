"""The metrics worker: listens where `[metrics] listen` says, and shows what the healer tells (FR-008, R14).

A worker of its own, so that no stranger's connections take the engine's time: however often it is scraped, the healer
is asked at most once in PAGE_S. It must not count anything itself, since it may be killed at any moment.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket

from supervisor import bus
from supervisor.messages import FetchMetrics, Frame, Listening, MetricsFound, Nack
from supervisor.scrape import text
from supervisor.scrape.server import NoPage, Server
from supervisor.units import parse_listen
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

PAGE_S = 1.0  # so long one page is good for everybody
HEALER_S = 4.0  # Prometheus waits 10 s by default
AGAIN_S = 5.0  # the address is somebody else's: it may become free


class MetricsWorker(Worker):
    """`Link` to the healer under the name that the tree gave it."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._server = Server(self._page)
        self._asked: asyncio.Task[bytes] | None = None  # the newest question, and what came of it
        self._asked_at_s = 0.0

    async def start(self) -> None:
        """READY does not wait for the address: healctl works without it."""
        self._loop = asyncio.get_running_loop()
        self._context = bus.new_context()
        address = bus.endpoint(self.boot.runtime_dir, "healer")
        self._link = bus.Link(self._context, address, self.boot.name, self._on_frames, self.boot.incarnation)
        self._opening = self._loop.create_task(self._open())
        self._opening.add_done_callback(self._opened)

    async def stop(self) -> None:
        self._opening.cancel()
        self._server.close()
        self._link.close()
        self._context.term()

    async def _open(self) -> None:
        listen = self.boot.config.metrics.listen
        where = parse_listen(listen)
        assert where is not None, listen  # the configuration was checked
        told = ""
        while True:
            error = ""
            try:
                await self._server.open(*where)
            except OSError as refused:
                error = os.strerror(refused.errno) if refused.errno else str(refused)
            self._link.post(Listening(listen, error))
            if not error:
                log.info("metrics: http://%s/metrics", listen)
                return
            if error != told:
                told = error
                log.error("metrics: cannot listen on %s: %s; it is tried again every %g s", listen, error, AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    def _opened(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def _on_frames(self, batch: list[tuple[str, Frame]]) -> None:
        for _, frame in batch:
            self._link.post(Nack("unexpected", f"the metrics take no {type(frame.body).__name__}"), re=frame.id)

    async def _page(self) -> bytes:
        """The page; whoever asks meanwhile gets the same. Raises NoPage."""
        if self._asked is None or self._loop.time() - self._asked_at_s >= PAGE_S:
            self._asked_at_s = self._loop.time()
            self._asked = self._loop.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> bytes:
        try:
            async with asyncio.timeout(HEALER_S):
                found = await self._link.ask(FetchMetrics())
        except TimeoutError:
            raise NoPage(f"the healer did not answer within {HEALER_S:g} s") from None
        if not isinstance(found, MetricsFound):
            raise NoPage(f"the healer cannot tell: {found}")
        self.done += 1
        return text.page(found.families)
