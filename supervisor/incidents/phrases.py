"""What is wrong, what was, and how it stands, in words for people: one table for each. Pure."""

from __future__ import annotations

from supervisor.incidents.model import AnomalyType, Incident, State
from supervisor.incidents.plain_text import clean

WHAT = {
    AnomalyType.PROCESS_DEAD: "{target} is down",
    AnomalyType.PROCESS_ZOMBIE: "{target} left a zombie process",
    AnomalyType.SIGNAL_STALE: "the live signal {target} is stale",
    AnomalyType.PHANTOM_POSITION: "{target} has an open trade that no live signal accounts for",
    AnomalyType.PIPELINE_STUCK: "{target} is stuck",
    AnomalyType.FLEET_UNREACHABLE: "{target} cannot be reached",
    AnomalyType.DISK_PRESSURE: "{target} is getting full",
    AnomalyType.DISK_CRITICAL: "{target} is nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory is getting short ({target})",
    AnomalyType.MEMORY_CRITICAL: "memory is nearly gone ({target})",
    AnomalyType.DB_CORRUPTION: "the database {target} is damaged",
    AnomalyType.LOG_BLOAT: "{target} holds a log file that has grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {target} does not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {target} keeps failing",
    AnomalyType.WORKER_FAILING: "healctl's own part {target} has failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl set {target} aside: handling it killed a worker twice",
    AnomalyType.PROBE_UNAVAILABLE: "healctl cannot check {target}",
    AnomalyType.DELIVERY_FAILING: "healctl cannot deliver its messages ({target})",
    AnomalyType.LEDGER_DAMAGED: "healctl's own ledger was damaged and begun anew ({target})",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's ledger runs out of room ({target})",
    AnomalyType.LIMIT_REACHED: "healctl has reached a limit of its own ({target})",
    AnomalyType.BACKUP_OVERDUE: "there is no recent good copy of a database ({target})",
}
WAS = {
    AnomalyType.PROCESS_DEAD: "{target} went down",
    AnomalyType.PROCESS_ZOMBIE: "{target} had left a zombie process",
    AnomalyType.SIGNAL_STALE: "the live signal {target} was stale",
    AnomalyType.PHANTOM_POSITION: "{target} had an open trade that no live signal accounted for",
    AnomalyType.PIPELINE_STUCK: "{target} was stuck",
    AnomalyType.FLEET_UNREACHABLE: "{target} could not be reached",
    AnomalyType.DISK_PRESSURE: "{target} was getting full",
    AnomalyType.DISK_CRITICAL: "{target} was nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory was getting short ({target})",
    AnomalyType.MEMORY_CRITICAL: "memory was nearly gone ({target})",
    AnomalyType.DB_CORRUPTION: "the database {target} was damaged",
    AnomalyType.LOG_BLOAT: "{target} held a log file that had grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {target} did not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {target} kept failing",
    AnomalyType.WORKER_FAILING: "healctl's own part {target} had failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl had set {target} aside",
    AnomalyType.PROBE_UNAVAILABLE: "healctl could not check {target}",
    AnomalyType.DELIVERY_FAILING: "healctl could not deliver its messages ({target})",
    AnomalyType.LEDGER_DAMAGED: "healctl's damaged ledger was taken away ({target})",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's ledger was running out of room ({target})",
    AnomalyType.LIMIT_REACHED: "healctl had reached a limit of its own ({target})",
    AnomalyType.BACKUP_OVERDUE: "there was no recent good copy of a database ({target})",
}
STATE = {
    State.DETECTED: "just detected",
    State.DIAGNOSING: "being looked at",
    State.REMEDIATING: "being repaired",
    State.VERIFYING: "repaired, being checked",
    State.REMEDIATION_FAILED: "repair failed",
    State.ESCALATED: "waiting for you",
    State.RESOLVED: "resolved",
    State.SELF_RESOLVED: "recovered by itself",
    State.DISMISSED: "dismissed",
}


def what(incident: Incident) -> str:
    """What is, or was, wrong: one clause."""
    words = WHAT if incident.open else WAS
    return words[incident.anomaly].format(target=clean(incident.target_id, 60))
