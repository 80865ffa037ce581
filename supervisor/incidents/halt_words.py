"""What people read about a damaged database: what was halted, where the copies are, how it is restored (R10). Pure."""

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
            "healctl writes it no more, its records go on in its own ledger; it is not yet known whether other "
            "programs are kept from writing it"
        )
    return "; ".join(result.output if result.success else f"failed: {result.output}" for result in execution.results)


def decide(world: World, incident: Incident) -> str:
    """How a database that is halted is restored; empty when that is not what this incident is about."""
    halted = incident.anomaly is AnomalyType.DB_CORRUPTION and incident.target_id in world.halts
    if not (incident.open and halted and RESTORE_RUNBOOK in world.runbooks):
        return ""
    return (
        f"Decide: `healctl heal approve {RESTORE_RUNBOOK} --target {incident.target_id}` restores it; "
        "`dry_run` instead of `approve` says from what."
    )
