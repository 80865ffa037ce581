"""The shipped runbooks: data, nothing else. Every one is checked by `registry.validate` in a test.

Both steps of `rb-restart-service` are declared idempotent, because each looks before it acts: stop-service does
nothing when nothing is alive, start-service refuses when something is.
"""

from __future__ import annotations

from supervisor.incidents.model import AnomalyType, Effect, Runbook, StepSpec

RUNBOOKS: tuple[Runbook, ...] = (
    Runbook(
        id="rb-restart-service",
        label="Restart a service",
        applies_to=(AnomalyType.PROCESS_DEAD,),
        steps=(
            StepSpec("stop", "stop-service", Effect.CHANGE, idempotent=True),
            StepSpec("start", "start-service", Effect.CHANGE, idempotent=True),
        ),
        resource="service:{target}",
        starts_service=True,
    ),
)
