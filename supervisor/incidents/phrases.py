"""What is wrong, what was, how it is when it is well, and what repairs do, in words for people. Pure: tables.

A name in these words is the target's as people say it: the mount of `disk:/`, the host of `fleet:NAME`.
"""

from __future__ import annotations

from supervisor.incidents.model import SHIPPED, AnomalyType, Incident, Runbook, State, Target
from supervisor.incidents.plain_text import capital, clean

NAME_CHARS_MAX = 60

WHAT = {
    AnomalyType.PROCESS_DEAD: "{name} is down",
    AnomalyType.PROCESS_ZOMBIE: "{name} left a zombie process that nothing cleans up",
    AnomalyType.SIGNAL_STALE: "the live signal {name} is out of date",
    AnomalyType.PHANTOM_POSITION: "{name} has an open trade that no live signal accounts for",
    AnomalyType.PIPELINE_STUCK: "the task {name} is stuck",
    AnomalyType.FLEET_UNREACHABLE: "the host {name} cannot be reached",
    AnomalyType.DISK_PRESSURE: "the disk {name} is getting full",
    AnomalyType.DISK_CRITICAL: "the disk {name} is nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory is getting short",
    AnomalyType.MEMORY_CRITICAL: "memory is nearly gone",
    AnomalyType.DB_CORRUPTION: "the database {name} is damaged",
    AnomalyType.LOG_BLOAT: "a log file of {name} has grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {name} does not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {name} keeps failing and was stopped",
    AnomalyType.WORKER_FAILING: "healctl's own part {name} has failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl no longer handles {name}, which broke one of its parts twice",
    AnomalyType.PROBE_UNAVAILABLE: "healctl cannot check {name}",
    AnomalyType.DELIVERY_FAILING: "healctl cannot deliver its messages over {name}",
    AnomalyType.LEDGER_DAMAGED: "healctl's own records were damaged, and new ones begun",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's own records run out of room",
    AnomalyType.LIMIT_REACHED: "healctl has reached a limit of its own",
    AnomalyType.BACKUP_OVERDUE: "there is no recent good copy of the database {name}",
    AnomalyType.DEAD_MAN_FAILING: "healctl's pings to its dead man's switch do not arrive",
    AnomalyType.DRILL: "DRILL, nothing is wrong",
    AnomalyType.DRILL_FAILED: "a drill has failed, so that a real page might not reach you",
}
WAS = {
    AnomalyType.PROCESS_DEAD: "{name} was down",
    AnomalyType.PROCESS_ZOMBIE: "{name} had left a zombie process",
    AnomalyType.SIGNAL_STALE: "the live signal {name} was out of date",
    AnomalyType.PHANTOM_POSITION: "{name} had an open trade that no live signal accounted for",
    AnomalyType.PIPELINE_STUCK: "the task {name} was stuck",
    AnomalyType.FLEET_UNREACHABLE: "the host {name} could not be reached",
    AnomalyType.DISK_PRESSURE: "the disk {name} was getting full",
    AnomalyType.DISK_CRITICAL: "the disk {name} was nearly full",
    AnomalyType.MEMORY_PRESSURE: "memory was getting short",
    AnomalyType.MEMORY_CRITICAL: "memory was nearly gone",
    AnomalyType.DB_CORRUPTION: "the database {name} was damaged",
    AnomalyType.LOG_BLOAT: "a log file of {name} had grown too large",
    AnomalyType.GATEWAY_UNRESPONSIVE: "the gateway {name} did not answer",
    AnomalyType.WORKER_QUARANTINED: "healctl's own part {name} kept failing and was stopped",
    AnomalyType.WORKER_FAILING: "healctl's own part {name} had failed several times",
    AnomalyType.ITEM_QUARANTINED: "healctl had stopped handling {name}",
    AnomalyType.PROBE_UNAVAILABLE: "healctl could not check {name}",
    AnomalyType.DELIVERY_FAILING: "healctl could not deliver its messages over {name}",
    AnomalyType.LEDGER_DAMAGED: "healctl's own records had been damaged",
    AnomalyType.LEDGER_NEAR_LIMIT: "healctl's own records were running out of room",
    AnomalyType.LIMIT_REACHED: "healctl had reached a limit of its own",
    AnomalyType.BACKUP_OVERDUE: "there was no recent good copy of the database {name}",
    AnomalyType.DEAD_MAN_FAILING: "healctl's pings to its dead man's switch did not arrive",
    AnomalyType.DRILL: "DRILL, nothing was wrong",
    AnomalyType.DRILL_FAILED: "a drill had failed",
}
WELL = {
    AnomalyType.PROCESS_DEAD: "it is up again",
    AnomalyType.PROCESS_ZOMBIE: "the zombie process is gone",
    AnomalyType.SIGNAL_STALE: "it is up to date again",
    AnomalyType.PHANTOM_POSITION: "trades and signal agree again",
    AnomalyType.PIPELINE_STUCK: "it is not stuck any more",
    AnomalyType.FLEET_UNREACHABLE: "it can be reached again",
    AnomalyType.DISK_PRESSURE: "there is room again",
    AnomalyType.DISK_CRITICAL: "there is room again",
    AnomalyType.MEMORY_PRESSURE: "there is enough again",
    AnomalyType.MEMORY_CRITICAL: "there is enough again",
    AnomalyType.DB_CORRUPTION: "it is sound again",
    AnomalyType.LOG_BLOAT: "the logs are small enough again",
    AnomalyType.GATEWAY_UNRESPONSIVE: "it answers again",
    AnomalyType.WORKER_QUARANTINED: "it works again",
    AnomalyType.WORKER_FAILING: "it works again",
    AnomalyType.ITEM_QUARANTINED: "it is handled again",
    AnomalyType.PROBE_UNAVAILABLE: "it can be checked again",
    AnomalyType.DELIVERY_FAILING: "they arrive again",
    AnomalyType.LEDGER_DAMAGED: "what was kept of them has been taken away",
    AnomalyType.LEDGER_NEAR_LIMIT: "there is room again",
    AnomalyType.LIMIT_REACHED: "it is well within it again",
    AnomalyType.BACKUP_OVERDUE: "a good copy was made, or none is needed any more",
    AnomalyType.DEAD_MAN_FAILING: "they arrive again, or none are wanted any more",
    AnomalyType.DRILL: "it is over",
    AnomalyType.DRILL_FAILED: "a drill reached everybody again",
}
STATE = {
    State.DETECTED: "just detected",
    State.DIAGNOSING: "being looked at",
    State.REMEDIATING: "being repaired",
    State.VERIFYING: "repaired, being checked",
    State.REMEDIATION_FAILED: "repair failed",
    State.ESCALATED: "waiting for you",
    State.RESOLVED: "over",
    State.SELF_RESOLVED: "recovered by itself",
    State.DISMISSED: "dismissed",
}
# What a shipped repair does, and what it has done. {service} is what is restarted.
DO = {
    "rb-restart-service": "restart {service}",
    "rb-kill-zombie": "have the dead process cleaned up",
    "rb-restart-augur": "restart {service}",
    "rb-rotate-logs": "archive old and oversized logs",
    "rb-emergency-cleanup": "archive logs and delete old temporary and compiled files",
    "rb-gc-trigger": "write down what holds the memory",
    "rb-force-gc": "end the process that holds the most memory",
    "rb-db-emergency": "stop all writing to it and copy it",
    "rb-db-restore": "put a good copy, or what can be saved, in its place",
    "rb-db-backup": "make a good copy of it",
    "rb-db-verify": "check its newest copy",
    "rb-clear-phantom": "mark that trade as closed in the trades database",
    "rb-kick-pipeline": "mark its stage as blocked",
    "rb-probe-then-alert": "look again a few times",
    "rb-gateway-restart": "restart the gateway",
    "rb-drill": "write a file of its own",
}
DID = {
    "rb-restart-service": "restarted {service}",
    "rb-kill-zombie": "asked for the dead process to be cleaned up",
    "rb-restart-augur": "restarted {service}",
    "rb-rotate-logs": "archived old and oversized logs",
    "rb-emergency-cleanup": "archived logs and deleted old temporary and compiled files",
    "rb-gc-trigger": "wrote down what holds the memory",
    "rb-force-gc": "ended the process that held the most memory",
    "rb-db-emergency": "stopped all writing to it and copied it",
    "rb-db-restore": "put a good copy, or what could be saved, in its place",
    "rb-db-backup": "made a good copy of it",
    "rb-db-verify": "checked its newest copy",
    "rb-clear-phantom": "marked that trade as closed in the trades database",
    "rb-kick-pipeline": "marked its stage as blocked",
    "rb-probe-then-alert": "looked again a few times",
    "rb-gateway-restart": "restarted the gateway",
    "rb-drill": "wrote a file of its own",
}
# Many targets of a family, as people say it.
MANY = {
    "process": "services",
    "fleet": "hosts",
    "gateway": "gateways",
    "pipeline": "tasks",
    "host": "disks or memory",
    "trading": "trading checks",
    "database": "databases",
    "logs": "log folders",
}
_PREFIXES = {
    "disk:": "",
    "fleet:": "",
    "pipeline:": "",
    "worker:": "",
    "messages:": "",
    "copies:": "",
    "reading:": "readings of ",
    "outside:": "others' readings of ",
}


def name_of(target_id: str, limit: int = NAME_CHARS_MAX) -> str:
    """The target as people say it."""
    name = clean(target_id, limit)
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix) and name != prefix), "")
    rest = name.removeprefix(prefix).strip()
    return _PREFIXES.get(prefix, "") + (rest.capitalize() if prefix == "messages:" else rest)


_TITLES = {"disk:": "the disk ", "fleet:": "the host ", "pipeline:": "the task "}


def title_of(target_id: str) -> str:
    """The target in a sentence of its own: "the disk /", "web"."""
    prefix = next((prefix for prefix in _TITLES if target_id.startswith(prefix)), "")
    return _TITLES.get(prefix, "") + name_of(target_id)


def what(incident: Incident) -> str:
    """What is, or was, wrong: one clause."""
    return _words(incident).format(name=name_of(incident.target_id))


def _words(incident: Incident) -> str:
    """A plugin's anomaly is called by its name."""
    table = WHAT if incident.open else WAS
    _, _, found = incident.anomaly.partition(".")
    return table.get(incident.anomaly) or f"{{name}} {'has' if incident.open else 'had'} {found.replace('_', ' ')}"


def well_again(incident: Incident) -> str:
    return WELL.get(incident.anomaly, "that is over")


def opening(incident: Incident) -> str:
    """The same at the beginning of a sentence: a name has no capital there."""
    words = _words(incident)
    return what(incident) if words.startswith("{name}") else capital(what(incident))


def do(runbook: Runbook, target: Target | None) -> str:
    """What it does, after "to": "restart web". An operator's own is called by its label."""
    return _of(DO, "run", runbook, target)


def did(runbook: Runbook, target: Target | None) -> str:
    """What it has done, without who did it: "restarted web"."""
    return _of(DID, "ran", runbook, target)


def _of(words: dict[str, str], verb: str, runbook: Runbook, target: Target | None) -> str:
    if runbook.author == SHIPPED and runbook.id in words:
        service = clean(target.service_id, NAME_CHARS_MAX) if target is not None else "it"
        return words[runbook.id].format(service=service)
    return f'{verb} "{clean(runbook.label, NAME_CHARS_MAX)}" ({clean(runbook.id, NAME_CHARS_MAX)})'
