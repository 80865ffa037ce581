"""Readings on their way to the healer: each is sent until it is acknowledged, and the newest of a target wins.

At most one message per target waits for its answer, so the queue is bounded by the number of targets however long the
healer is away, and readings of one target never overtake each other. What was handed in from outside waits apart: it
must not take the place of what we saw ourselves. It keeps nothing on disk: a new healer asks for
everything (`Resync`).
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from supervisor.bus import Link
from supervisor.incidents.readings import HealthReading
from supervisor.messages import Body, Nack, Readings

log = logging.getLogger(__name__)

BATCH_MAX = 200

_Key = tuple[str, bool]  # target, from outside?


class Outbound:
    """Sends what `put` is given; readings put in one turn of the loop share their messages."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._newest: dict[_Key, HealthReading] = {}
        self._underway: set[_Key] = set()
        self._flushing = False

    def put(self, reading: HealthReading) -> None:
        self._newest[reading.target_id, reading.external] = reading
        self._flush_soon()

    @property
    def waiting(self) -> int:
        """Targets with a reading that is not acknowledged yet; one from outside counts apart."""
        return len(self._underway | self._newest.keys())

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        ready = [name for name in self._newest if name not in self._underway]
        for start in range(0, len(ready), BATCH_MAX):
            names = ready[start : start + BATCH_MAX]
            self._underway.update(names)
            answer = self._link.ask(Readings(tuple(self._newest.pop(name) for name in names)))
            answer.add_done_callback(partial(self._answered, names))

    def _answered(self, names: list[_Key], answer: asyncio.Future[Body]) -> None:
        if answer.cancelled():  # the link was closed
            return
        self._underway.difference_update(names)
        body = answer.result()
        if isinstance(body, Nack):
            log.warning("the healer refused readings of %s: %s", ", ".join(name for name, _ in names[:5]), body.message)
        if self._newest:
            self._flush_soon()
