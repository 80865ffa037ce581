"""Who may be in work now: so many rows per channel, the gravest first, suspects alone.

One channel's slots are never taken by another's rows (AC-011: what Synapse does cannot delay Signal). A row that was
in work when a notifier died runs alone, so that a second death convicts it and nobody else; after each such turn
the ordinary rows that wait are let in before the next suspect, so that a crowd of suspects delays a new page by two
turns at most.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from supervisor.incidents.model import Channel, Tier


class Gate:
    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._running: defaultdict[Channel, int] = defaultdict(int)
        self._waiting: defaultdict[Channel, list[tuple[int, int, asyncio.Future[None]]]] = defaultdict(list)
        self._suspects: deque[tuple[Channel, asyncio.Future[None]]] = deque()
        self._alone = False  # a suspect is in work
        self._suspect_next = True
        self._count = 0

    @asynccontextmanager
    async def turn(self, channel: Channel, tier: Tier, suspect: bool) -> AsyncIterator[None]:
        """Holds one slot of `channel` while the block runs; `suspect`: all of them, of every channel."""
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        if suspect:
            self._suspects.append((channel, admitted))
        else:
            heapq.heappush(self._waiting[channel], (-tier, self._count, admitted))
        self._admit()
        try:
            await admitted
            yield
        finally:
            if admitted.done() and not admitted.cancelled():
                self._running[channel] -= 1
                if suspect:
                    self._alone = False
            else:
                admitted.cancel()
            self._admit()

    def _admit(self) -> None:
        if self._alone:
            return
        while self._suspects and self._suspects[0][1].cancelled():
            self._suspects.popleft()
        if not (self._suspects and self._suspect_next):
            for channel in tuple(self._waiting):
                self._admit_ordinary(channel)
            self._suspect_next = True
        if self._suspects and not any(self._running.values()):
            channel, admitted = self._suspects.popleft()
            self._running[channel] += 1
            self._alone = True
            self._suspect_next = False
            admitted.set_result(None)

    def _admit_ordinary(self, channel: Channel) -> None:
        waiting = self._waiting[channel]
        while waiting and self._running[channel] < self._slots:
            _, _, admitted = heapq.heappop(waiting)
            if not admitted.cancelled():
                self._running[channel] += 1
                admitted.set_result(None)
