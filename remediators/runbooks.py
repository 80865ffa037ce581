"""The shipped runbooks: data, nothing else. Every one is checked by `registry.validate` in a test.

Both steps of `rb-restart-service` are declared idempotent, because each looks before it acts: stop-service does
nothing when nothing is alive, start-service refuses when something is.
"""

from __future__ import annotations

from supervisor.incidents.model import AnomalyType, Effect, Runbook, StepSpec

DATABASE_S = 3600.0  # a large database, on a slow disk
LOGS_S = 900.0  # 100 GB of logs at the speed of a slow disk; what is done by then stays done
PRUNE_S = 120.0

RUNBOOKS: tuple[Runbook, ...] = (
    Runbook(
        id="rb-restart-service",
        label="Restart a service",
        applies_to=(AnomalyType.PROCESS_DEAD,),
        steps=(
            StepSpec("stop", "stop-service", Effect.CHANGE, idempotent=True),
            StepSpec("start", "start-service", Effect.CHANGE, idempotent=True),
        ),
        resource="service:{service}",
        starts_service=True,
    ),
    Runbook(
        id="rb-rotate-logs",
        label="Archive old logs, and what has grown too large of the others",
        applies_to=(AnomalyType.DISK_PRESSURE, AnomalyType.DISK_CRITICAL, AnomalyType.LOG_BLOAT),
        steps=(StepSpec("rotate", "rotate-logs", Effect.CHANGE, idempotent=True, timeout_s=LOGS_S),),
        resource="files:{target}",
        confidence=1.0,
        summary=True,
    ),
    # Behind rb-rotate-logs, which runs by itself (R3): this one destroys, and waits for a person.
    Runbook(
        id="rb-emergency-cleanup",
        label="Archive logs, and remove old temporary and compiled files from the configured places",
        applies_to=(AnomalyType.DISK_CRITICAL,),
        steps=(
            StepSpec("rotate", "rotate-logs", Effect.CHANGE, True, LOGS_S, (("needed", False),)),
            StepSpec("pycache", "prune-files", Effect.DESTROY, True, PRUNE_S, (("what", "pycache"),)),
            StepSpec("tmp", "prune-files", Effect.DESTROY, True, PRUNE_S, (("what", "tmp"),)),
        ),
        resource="files:{target}",
        summary=True,
    ),
    Runbook(
        id="rb-db-emergency",
        label="Halt writes to a damaged database and copy it",
        applies_to=(AnomalyType.DB_CORRUPTION,),
        steps=(
            StepSpec("halt", "halt-writes", Effect.PROTECT, idempotent=True),
            StepSpec("backup", "backup-database", Effect.PROTECT, idempotent=True, timeout_s=DATABASE_S),
        ),
        resource="database:{target}",
        verifies=False,
    ),
    # Behind rb-db-emergency, which protects and runs by itself: this one cures, once a person has approved it.
    Runbook(
        id="rb-db-restore",
        label="Put a good copy, or what can be salvaged, in a damaged database's place",
        applies_to=(AnomalyType.DB_CORRUPTION,),
        steps=(StepSpec("restore", "restore-database", Effect.DESTROY, idempotent=True, timeout_s=DATABASE_S),),
        resource="database:{target}",
        summary=True,
    ),
    Runbook(
        id="rb-db-backup",
        label="Make a verified good copy of a database",
        applies_to=(),
        steps=(StepSpec("backup", "backup-database", Effect.PROTECT, idempotent=True, timeout_s=DATABASE_S),),
        resource="database:{target}",
        verifies=False,
    ),
    Runbook(
        id="rb-db-verify",
        label="Check the newest good copy of a database again",
        applies_to=(),
        steps=(StepSpec("verify", "verify-backup", Effect.OBSERVE, idempotent=True, timeout_s=DATABASE_S),),
        resource="database:{target}",
        verifies=False,
    ),
)
