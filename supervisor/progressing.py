"""How far work is that takes long: what executor and probes have told last, for whoever asks and for the feed.

It lives in memory alone: after a restart the next word comes within a second. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.clock import monotonic_s
from supervisor.incidents.cancelling import CHECK
from supervisor.incidents.model import ExecutionState
from supervisor.incidents.world import World
from supervisor.messages import AtWork
from supervisor.wire import HISTORY

KNOWN_MAX = 1_000
REPORT = "report"
SILENT_S = 30.0  # of a check; then its probe is gone, or hangs
Json = dict[str, Any]


class _Heard(msgspec.Struct):
    """`first_*`: where the present stage began, for its rate."""

    told: AtWork
    first_s: float
    first_done: int
    last_s: float


class Progressing:
    """`publish` takes each word as it comes."""

    def __init__(self, world: World, publish: Callable[[Json], None]) -> None:
        self._world = world
        self._publish = publish
        self._heard: dict[str, _Heard] = {}  # execution, or target of a check

    def hear(self, told: AtWork) -> None:
        key = told.execution_id or told.target_id
        now_s = monotonic_s()
        if told.over:
            if (known := self._heard.pop(key, None)) is not None:
                self._publish(self._json(known) | {"over": True})
            return
        known = self._heard.get(key)
        if known is None or known.told.stage != told.stage or told.done < known.told.done:
            if known is None and len(self._heard) >= KNOWN_MAX:
                return
            known = self._heard[key] = _Heard(told, now_s, told.done, now_s)
        known.told, known.last_s = told, now_s
        self._publish(self._json(known))

    def at_work(self) -> list[Json]:
        """All that is known to be at work now."""
        now_s = monotonic_s()
        self._heard = {key: it for key, it in self._heard.items() if self._lives(it, now_s)}
        return [self._json(it) for it in self._heard.values()]

    def _lives(self, known: _Heard, now_s: float) -> bool:
        """A step says nothing while it does not move, which may take long; a check speaks all the time."""
        if not known.told.execution_id:
            return now_s - known.last_s < SILENT_S
        execution = self._world.executions.get(known.told.execution_id)
        return execution is not None and execution.state is ExecutionState.CLAIMED

    def _json(self, known: _Heard) -> Json:
        told = known.told
        execution = self._world.executions.get(told.execution_id)
        spent_s, done = known.last_s - known.first_s, told.done - known.first_done
        rate = done / spent_s if spent_s > 0 and done else None
        return {
            "target_id": told.target_id,
            "execution_id": told.execution_id or None,
            "incident_id": execution.incident_id if execution is not None else None,
            "what": execution.runbook.id if execution is not None else REPORT if told.target_id == HISTORY else CHECK,
            "stage": told.stage,
            "done": told.done,
            "total": told.total,
            "unit": told.unit,
            "rate_per_s": round(rate, 1) if rate is not None else None,
            "left_s": round((told.total - told.done) / rate, 1) if rate else None,
            "can_be_cancelled": not told.final,
            "over": False,
        }
