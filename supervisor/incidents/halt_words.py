"""What people read about a damaged database: what was halted, and whether it can be restored (R10). Pure."""

from __future__ import annotations

from supervisor.incidents import halts
from supervisor.incidents.model import AnomalyType, Execution, Incident
from supervisor.incidents.world import World

RESTORE_RUNBOOK = "rb-db-restore"


def tried(execution: Execution) -> str:
    """The emergency's own words, step by step; empty for any other runbook."""
    if not halts.has(execution.runbook, halts.HALT):
        return ""
    if not execution.results:
        return (
            "healctl writes it no more and keeps its records in a file of its own; it is not yet known whether other "
            "programs are kept from writing it"
        )
    return "; ".join(result.output if result.success else f"failed: {result.output}" for result in execution.results)


def restorable(world: World, incident: Incident) -> bool:
    """Is it about a database that is halted, and that a restore would end?"""
    halted = incident.anomaly is AnomalyType.DB_CORRUPTION and incident.target_id in world.halts
    return incident.open and halted and RESTORE_RUNBOOK in world.runbooks
