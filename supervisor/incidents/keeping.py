"""R10: a good copy of each database that we write, every day, so that there is something to restore. Pure.

A copy on schedule is an execution like any other, under R3 (a), without an incident: it is durable before it starts,
holds the database's lock, and one that fails is tried again within the hour. That none was made for two days is an
anomaly of our own; its alarm is durable too, so that a healctl that was away for a week says so at its start.
"""

from __future__ import annotations

from supervisor.incidents import remedy
from supervisor.incidents.model import AnomalyType, Authority, Execution, ExecutionState, TimerKind
from supervisor.incidents.policy import resource_of
from supervisor.incidents.world import Turn

RUNBOOK, CHECK = "rb-db-backup", "rb-db-verify"
COPIES = "copies:"  # our own part, for the anomaly: `copies:NAME`
FIRST_S = 300.0  # after the first start: not in its way, and not only tomorrow
CHECK_S = 120.0  # after each start: is the newest copy still what it was?
EVERY_S = 86_400.0
AGAIN_S = 3_600.0  # after one that failed, or while the database is halted
SOON_S = 60.0  # while something else is at work on it
OVERDUE_S = 2 * EVERY_S


def arrange(turn: Turn) -> None:
    """At the start, and under another configuration: an alarm for every database that we write, none for others."""
    world = turn.world
    if RUNBOOK not in world.runbooks:
        return
    written = {target.target_id for target in world.targets.values() if target.written}
    for kind, first_s in ((TimerKind.BACKUP, FIRST_S), (TimerKind.BACKUP_OVERDUE, OVERDUE_S)):
        for name in [subject for found, subject in world.timers if found is kind and subject not in written]:
            turn.drop_timer(kind, name)
        for name in sorted(written):
            said = kind is TimerKind.BACKUP_OVERDUE and (AnomalyType.BACKUP_OVERDUE, COPIES + name) in world.by_key
            if (kind, name) not in world.timers and not said:
                turn.set_timer(kind, name, first_s)


def started(turn: Turn) -> None:
    """While healctl was away a copy may have rotted: the newest is checked soon, and made anew when it has. At the very
    first start there is none yet (`arrange`, which comes after this, has set no alarm)."""
    for target in turn.world.targets.values():
        if (
            target.written
            and CHECK in turn.world.runbooks
            and (TimerKind.BACKUP, target.target_id) in turn.world.timers
        ):
            turn.set_timer(TimerKind.CHECK_COPY, target.target_id, CHECK_S)


def due(turn: Turn, name: str) -> None:
    """Time for a copy."""
    if _begin(turn, RUNBOOK, TimerKind.BACKUP, name):
        turn.set_timer(TimerKind.BACKUP, name, EVERY_S)


def check_due(turn: Turn, name: str) -> None:
    """Time to look at the newest copy."""
    _begin(turn, CHECK, TimerKind.CHECK_COPY, name)


def _begin(turn: Turn, runbook_id: str, kind: TimerKind, name: str) -> bool:
    """False: not now; its timer says when to ask again, if at all."""
    world = turn.world
    runbook, target = world.runbooks.get(runbook_id), world.targets.get(name)
    if runbook is None or target is None or not target.written:
        return False
    busy = world.holder_of(resource_of(runbook, target)) is not None
    if name in world.halts or busy or len(world.executions) >= world.policy.executions_max:
        turn.set_timer(kind, name, SOON_S if busy else AGAIN_S)
        return False
    remedy.begin(turn, runbook, target, Authority.HARMLESS, turn.now.mono_s, None, "")
    return True


def ended(turn: Turn, execution: Execution) -> None:
    """A copy was made or checked, or not; whoever asked for it."""
    name = execution.target.target_id
    if execution.runbook.id == CHECK and execution.state is not ExecutionState.SUCCEEDED:
        if name not in turn.world.halts and execution.target.written and not execution.cancelled:
            turn.set_timer(TimerKind.BACKUP, name, SOON_S)  # there is none, or it is not what it was
        return
    if execution.runbook.id != RUNBOOK or (TimerKind.BACKUP, name) not in turn.world.timers:
        return
    if execution.state is ExecutionState.SUCCEEDED:
        turn.set_timer(TimerKind.BACKUP, name, EVERY_S)
        turn.set_timer(TimerKind.BACKUP_OVERDUE, name, OVERDUE_S)
    else:
        turn.set_timer(TimerKind.BACKUP, name, AGAIN_S)
