"""The shipped runbooks, and in which order all are tried: data, nothing else. Every one is checked by
`registry.validate` in a test.

A step is declared idempotent where it looks before it acts: stop-service does nothing when nothing is alive,
start-service refuses when something is, kill-zombie looks whether there still is one, clear-phantom writes only what
is still a phantom, kick-pipeline calls its command only while the task stands where it stood. A gateway's restart is
not: a second one would end what the first has just started.
"""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.incidents import drill_run
from supervisor.incidents.model import AnomalyType, Effect, Runbook, StepSpec

DATABASE_S = 3600.0  # a large database, on a slow disk
LOGS_S = 900.0  # 100 GB of logs at the speed of a slow disk; what is done by then stays done
PRUNE_S = 120.0
RETRIES_S = 600.0  # the longest that [fleet] retries may take, which the configuration keeps

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
        id="rb-kill-zombie",
        label="Have a zombie reaped",
        applies_to=(AnomalyType.PROCESS_ZOMBIE,),
        steps=(StepSpec("nudge", "kill-zombie", Effect.CHANGE, idempotent=True),),
        resource="service:{service}",
    ),
    # The process behind a live signal: under the same lock, and the same breaker, as rb-restart-service (DESIGN §2.7).
    Runbook(
        id="rb-restart-augur",
        label="Restart the program behind a stale live signal",
        applies_to=(AnomalyType.SIGNAL_STALE,),
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
        id="rb-gc-trigger",
        label="Write down who holds the memory",
        applies_to=(AnomalyType.MEMORY_PRESSURE,),
        steps=(StepSpec("record", "record-memory", Effect.OBSERVE, idempotent=True),),
        resource="memory:{target}",
        summary=True,
        verifies=False,
    ),
    # Not idempotent: what was interrupted may have ended one already, and nothing ever ends a second one blindly.
    Runbook(
        id="rb-force-gc",
        label="End the process that holds most memory",
        applies_to=(AnomalyType.MEMORY_CRITICAL,),
        steps=(StepSpec("end", "end-largest-process", Effect.DESTROY),),
        resource="memory:{target}",
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
        once=True,
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
    Runbook(
        id="rb-clear-phantom",
        label="Close a phantom position in the trades database",
        applies_to=(AnomalyType.PHANTOM_POSITION,),
        steps=(StepSpec("close", "clear-phantom", Effect.CHANGE, idempotent=True),),
        resource="trades:{target}",
        summary=True,
    ),
    Runbook(
        id="rb-kick-pipeline",
        label="Mark a stuck task's stage as blocked",
        applies_to=(AnomalyType.PIPELINE_STUCK,),
        steps=(StepSpec("block", "kick-pipeline", Effect.CHANGE, idempotent=True, timeout_s=60.0),),
        resource="{target}",
        summary=True,
    ),
    Runbook(
        id="rb-probe-then-alert",
        label="Look a few more times, then tell",
        applies_to=(AnomalyType.FLEET_UNREACHABLE,),
        steps=(StepSpec("look", "probe-again", Effect.OBSERVE, idempotent=True, timeout_s=RETRIES_S),),
        resource="{target}",
        summary=True,
        verifies=False,
    ),
    Runbook(
        id="rb-gateway-restart",
        label="Restart the gateway",
        applies_to=(AnomalyType.GATEWAY_UNRESPONSIVE,),
        steps=(StepSpec("restart", "restart-gateway", Effect.CHANGE, timeout_s=60.0),),
        resource="service:{service}",
        starts_service=True,
    ),
    # For `healctl drill` alone: its only target is nobody's.
    Runbook(
        id="rb-drill",
        label="Take away the made-up trouble of a drill",
        applies_to=(AnomalyType.DRILL,),
        steps=(StepSpec("clear", "clear-drill", Effect.PROTECT, idempotent=True),),
        resource="drill",
        targets=(drill_run.TARGET,),
    ),
)


def ladder(own: Iterable[Runbook]) -> tuple[Runbook, ...]:
    """All runbooks in the order in which they are tried: an operator's own stands where its `before` puts it."""
    every = tuple(own)
    placed = [one for shipped in RUNBOOKS for one in (*(b for b in every if b.before == shipped.id), shipped)]
    return (*placed, *(book for book in every if not book.before))
