"""What readings of resources mean: disk, memory, databases, log files (FR-002). Pure.

Each function is the rule of one struct of data; `classify.RULES` names them. The limits are strict: exactly at the
limit is still well (SITE.md: exactly 256 MB counted as critical in the site's first version).
"""

from __future__ import annotations

from supervisor.incidents.judge import Judge, size, span
from supervisor.incidents.model import AnomalyType, Severity, Status, Verdict
from supervisor.incidents.readings import MEM_AVAILABLE, DatabaseData, DiskData, Integrity, LogsData, MemoryData

DISK_CLEAR_BELOW = 0.02  # an open disk incident clears this far below its limit, or at half of a smaller one
MEMORY_CLEAR_ABOVE = 1.1  # times the limit
LOGS_WELL_WITHIN = 0.9  # of the limit
FILES_NAMED_MAX = 3


def disk(judge: Judge, data: DiskData) -> tuple[Verdict, ...]:
    """FR-002 `disk_pressure` and `disk_critical`, of bytes or of inodes, whichever is worse.

    What is critical is one incident, not two: pressure is not opened beside it while it lasts, and one that is open
    stays so.
    """
    share = max(data.used_share, data.inodes_used_share or 0.0)
    critical = judge.level(
        AnomalyType.DISK_CRITICAL,
        beyond=share > data.critical,
        well_within=not data.mounted or share < disk_clears_below(data.critical),
    )
    pressure = judge.level(
        AnomalyType.DISK_PRESSURE,
        beyond=share > data.pressure,
        well_within=not data.mounted or share < disk_clears_below(data.pressure),
    )
    if critical is not Status.CLEAR and not judge.is_open(AnomalyType.DISK_PRESSURE):
        pressure = Status.PENDING
    evidence = _disk_evidence(data)
    hint = "make room: rotate logs, remove what is not needed"
    return (
        judge.verdict(AnomalyType.DISK_CRITICAL, critical, Severity.CRITICAL, evidence, hint),
        judge.verdict(AnomalyType.DISK_PRESSURE, pressure, Severity.HIGH, evidence, hint),
    )


def disk_clears_below(limit: float) -> float:
    """Below this share an open disk incident of that limit is over."""
    return max(limit - DISK_CLEAR_BELOW, limit / 2)


def _disk_evidence(data: DiskData) -> str:
    if not data.mounted:
        return f"{data.mount} is {data.detail or 'not mounted any more'}"
    text = f"{data.used_share:.1%} full, {size(data.available_bytes)} left"
    if data.inodes_used_share is not None and data.inodes_used_share > data.used_share:
        text += f"; {data.inodes_used_share:.1%} of its inodes (files it can hold) are taken"
    if data.full_in_s is not None:
        text += f"; at the present growth it is full in {span(data.full_in_s)}"
    return f"{text} ({data.detail})" if data.detail else text


def memory(judge: Judge, data: MemoryData) -> tuple[Verdict, ...]:
    """FR-002 `memory_pressure` and `memory_critical`; as with disks, one incident for what is critical."""
    available = data.available_bytes
    critical = judge.level(
        AnomalyType.MEMORY_CRITICAL,
        beyond=available < data.critical_bytes,
        well_within=available >= data.critical_bytes * MEMORY_CLEAR_ABOVE,
    )
    pressure = judge.level(
        AnomalyType.MEMORY_PRESSURE,
        beyond=available < data.pressure_bytes,
        well_within=available >= data.pressure_bytes * MEMORY_CLEAR_ABOVE,
    )
    if critical is not Status.CLEAR and not judge.is_open(AnomalyType.MEMORY_PRESSURE):
        pressure = Status.PENDING
    evidence = f"{size(available)} of {size(data.total_bytes)} are available"
    if data.limited_by != MEM_AVAILABLE:
        evidence += f", by the limit in {data.limited_by}"
    if data.stalled_share:
        evidence += f"; everything had to wait for memory {data.stalled_share:.0%} of the last 10 s"
    if data.detail:
        evidence += f" ({data.detail})"
    hint = "find out what takes it (healctl ends no protected process)"
    return (
        judge.verdict(AnomalyType.MEMORY_CRITICAL, critical, Severity.CRITICAL, evidence, hint),
        judge.verdict(AnomalyType.MEMORY_PRESSURE, pressure, Severity.MEDIUM, evidence, hint),
    )


def database(judge: Judge, data: DatabaseData) -> tuple[Verdict, ...]:
    """FR-002 `db_corruption`: a finished check found errors. No finished check says nothing (R9)."""
    status = {Integrity.UNKNOWN: Status.UNKNOWN, Integrity.OK: Status.CLEAR, Integrity.CORRUPT: Status.FIRING}
    evidence = data.detail
    if data.verdict is Integrity.CORRUPT:
        what = "its header is destroyed" if data.header_destroyed else f"{data.check} found errors"
        evidence = "; ".join((what, *data.errors[:2]))
    hint = "stop writing to it, keep a copy, restore a good backup"
    return (judge.verdict(AnomalyType.DB_CORRUPTION, status[data.verdict], Severity.CRITICAL, evidence, hint),)


def logs(judge: Judge, data: LogsData) -> tuple[Verdict, ...]:
    """FR-002 `log_bloat`: a log file larger than the limit."""
    largest = data.largest[0].bytes if data.largest else 0
    status = judge.level(
        AnomalyType.LOG_BLOAT,
        beyond=largest > data.max_bytes,
        well_within=largest <= data.max_bytes * LOGS_WELL_WITHIN,
    )
    if status is Status.CLEAR and not data.complete:
        status = Status.UNKNOWN  # R9: what was not looked at may be larger
    over = [file for file in data.largest if file.bytes > data.max_bytes]
    named = ", ".join(f"{file.path} has {size(file.bytes)}" for file in over[:FILES_NAMED_MAX])
    more = f" and {len(over) - FILES_NAMED_MAX} more" if len(over) > FILES_NAMED_MAX else ""
    evidence = f"{named}{more}; at most {size(data.max_bytes)} are allowed" if over else f"{data.files} log files"
    return (judge.verdict(AnomalyType.LOG_BLOAT, status, Severity.MEDIUM, evidence, "rotate it"),)
