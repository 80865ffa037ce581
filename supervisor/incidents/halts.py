"""R10: which databases nobody may write, from the decision that halts one to the check that finds it well. Pure.

A halt is part of the same decision as the intent of the emergency, so both are durable at once: the store obeys before
it acknowledges, the root holds the lock from then on. It ends only by a check that began after it and found the
database well; that a person dismissed the incident, or that a restore failed, does not end it.
"""

from __future__ import annotations

import msgspec

from supervisor.incidents.model import (
    AnomalyType,
    Execution,
    ExecutionState,
    Halt,
    HaltPhase,
    Incident,
    Runbook,
    Status,
    Target,
    Verdict,
)
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import Turn

HALT, RESTORE = "halt-writes", "restore-database"  # kinds of steps
PAGE_WITHIN_S = 10.0  # after the detection: the page waits no longer for the lock (R2: it has no other hold)


def has(runbook: Runbook, kind: str) -> bool:
    return any(step.kind == kind for step in runbook.steps)


def began(turn: Turn, execution: Execution, incident: Incident | None) -> None:
    """An intent is being written: what it halts is halted with it."""
    target = execution.target
    order(turn, execution.runbook, target, incident)
    halt = turn.world.halts.get(target.target_id)
    if halt is not None and has(execution.runbook, RESTORE):
        turn.put_halt(msgspec.structs.replace(halt, phase=HaltPhase.RESTORING))


def order(turn: Turn, runbook: Runbook, target: Target, incident: Incident | None) -> None:
    """This runbook may run: what it halts is halted now, even if its steps have to wait for a lock or a place."""
    halts_it = has(runbook, HALT) or has(runbook, RESTORE)
    if not halts_it or not target.written or target.target_id in turn.world.halts:
        return
    why = incident.evidence if incident is not None else f"{runbook.id} was ordered"
    incident_id = incident.id if incident is not None else None
    now = turn.now
    turn.put_halt(Halt(target.target_id, target.path, now.wall_s, HaltPhase.HELD, incident_id, why, now.steady_s))
    turn.metric("heal_db_halted", target.target_id, "halted", incident_id)


def look(turn: Turn) -> None:
    """After every event: a restore that is over, however it ended, leaves the database held until it is proved well."""
    for halt in list(turn.world.halts.values()):
        if halt.phase is HaltPhase.RESTORING and not any(
            execution.target.target_id == halt.database and has(execution.runbook, RESTORE)
            for execution in turn.world.executions.values()
        ):
            turn.put_halt(msgspec.structs.replace(halt, phase=HaltPhase.HELD))


def verified(turn: Turn, execution: Execution) -> None:
    """A restore has held: the check that came after it found the database well."""
    if has(execution.runbook, RESTORE):
        _lift(turn, execution.target.target_id)


def on_reading(turn: Turn, reading: HealthReading, verdicts: tuple[Verdict, ...]) -> None:
    """A check that began after the halt found the database well: somebody has repaired it."""
    halt = turn.world.halts.get(reading.target_id)
    if halt is None or halt.phase is not HaltPhase.HELD:
        return
    checked_steady_s = turn.now.steady_s - (turn.now.mono_s - reading.basis_mono_s)
    well = any(v.anomaly is AnomalyType.DB_CORRUPTION and v.status is Status.CLEAR for v in verdicts)
    if well and checked_steady_s >= halt.since_steady_s and not _at_work(turn, halt.database):
        _lift(turn, halt.database)


def _at_work(turn: Turn, database: str) -> bool:
    """A step may still be waiting for the lock, or copying."""
    return any(
        execution.target.target_id == database
        and execution.state is not ExecutionState.SUCCEEDED
        and has(execution.runbook, HALT)
        for execution in turn.world.executions.values()
    )


def refit(turn: Turn) -> None:
    """Another configuration: a halt is of a file, and goes over to its new name; what we write no more is free."""
    names = {target.path: name for name, target in turn.world.targets.items() if target.written}
    for halt in list(turn.world.halts.values()):
        name = names.get(halt.path)
        if name == halt.database:
            continue
        turn.drop_halt(halt.database)
        if name is not None:
            turn.put_halt(msgspec.structs.replace(halt, database=name))


def _lift(turn: Turn, database: str) -> None:
    halt = turn.world.halts.get(database)
    if halt is not None:
        turn.drop_halt(database)
        turn.metric("heal_db_halted", database, "lifted", halt.incident_id)
