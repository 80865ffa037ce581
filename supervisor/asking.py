"""What the healer asks the other workers and waits for: a fresh reading, a dry run, what became of an execution. The
answers become events.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.bus import Hub, Link
from supervisor.errors import UnknownId
from supervisor.incidents import events as e
from supervisor.incidents.effects import AskProbe, PlanExecution
from supervisor.incidents.model import Execution
from supervisor.incidents.readings import HealthReading
from supervisor.messages import (
    Body,
    ExecutionFound,
    FetchExecution,
    FetchIncident,
    IncidentFound,
    LedgerTrouble,
    Nack,
    PlanAnswer,
    PlanRequest,
    ProbeNow,
    Readings,
    Settle,
    Settled,
)
from supervisor.targets import worker_of

log = logging.getLogger(__name__)

PLAN_WITHIN_S = 8.0


class Asking:
    """`readings` and `decide` take what comes back."""

    def __init__(
        self,
        hub: Hub,
        store: Link,
        readings: Callable[[tuple[HealthReading, ...]], None],
        decide: Callable[[e.Event], None],
    ) -> None:
        self._hub = hub
        self._store = store
        self._readings = readings
        self._decide = decide
        self._probing: dict[str, asyncio.Future[Body]] = {}

    def probe(self, probe: AskProbe) -> None:
        """Only the newest question per target waits: an older answer would not be fresh enough anyway (R7)."""
        old = self._probing.pop(probe.target_id, None)
        if old is not None:
            old.cancel()
        future = self._hub.request(worker_of(probe.family), ProbeNow(probe.target_id))
        self._probing[probe.target_id] = future
        future.add_done_callback(lambda done: self._on_probed(probe, done))

    def _on_probed(self, probe: AskProbe, done: asyncio.Future[Body]) -> None:
        if done.cancelled():
            return
        self._probing.pop(probe.target_id, None)
        body = done.result()
        if isinstance(body, Readings):
            self._readings(body.readings)
        else:
            log.warning("no reading of %s: %s", probe.target_id, body)

    def plan(self, effect: PlanExecution) -> None:
        """FR-003's dry run."""
        future = self._hub.request("executor", PlanRequest(effect.execution))
        asyncio.get_running_loop().call_later(PLAN_WITHIN_S, future.cancel)

        def answered(done: asyncio.Future[Body]) -> None:
            steps: tuple[dict[str, Any], ...] = ()
            error = f"the executor did not answer within {PLAN_WITHIN_S:.0f} s"
            body = None if done.cancelled() else done.result()
            if isinstance(body, PlanAnswer):
                steps, error = tuple(msgspec.to_builtins(step) for step in body.steps), body.error
            self._decide(e.Planned(effect.token, effect.execution, steps, error))

        future.add_done_callback(answered)

    def find(self, incident_id: str) -> None:
        """Whether there ever was such an incident."""

        def answered(done: asyncio.Future[Body]) -> None:
            body = None if done.cancelled() else done.result()
            if isinstance(body, IncidentFound):
                self._decide(e.IncidentFound(incident_id, True))
            elif isinstance(body, Nack) and body.code == UnknownId.code:
                self._decide(e.IncidentFound(incident_id, False))
            elif body is not None:
                trouble = body.message if isinstance(body, Nack | LedgerTrouble) else str(body)
                self._decide(e.IncidentFound(incident_id, False, trouble))

        self._store.ask(FetchIncident(incident_id)).add_done_callback(answered)

    def settle(self, execution: Execution) -> None:
        """The interrupted execution's programs are ended or awaited (DESIGN §2.3)."""

        def answered(done: asyncio.Future[Body]) -> None:
            body = None if done.cancelled() else done.result()
            if isinstance(body, Settled):
                self._decide(e.ExecutionSettled(body.execution_id, body.ok, body.running, body.ended))
            elif body is not None:
                log.error("the executor did not settle an interrupted execution: %s", body)

        self._hub.request("executor", Settle(execution)).add_done_callback(answered)

    def fetch(self, execution_id: str) -> None:
        """An execution as the ledger has it."""

        def answered(done: asyncio.Future[Body]) -> None:
            body = None if done.cancelled() else done.result()
            if isinstance(body, ExecutionFound):
                self._decide(e.ExecutionSeen(body.execution, body.undone_by))
            elif body is not None:
                log.warning("the store does not know execution %s: %s", execution_id, body)
                self._decide(e.ExecutionUnknown(execution_id, body.message if isinstance(body, LedgerTrouble) else ""))

        self._store.ask(FetchExecution(execution_id)).add_done_callback(answered)
