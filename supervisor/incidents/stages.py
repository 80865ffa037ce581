"""Since when each pipeline's task stands in its stage, and the alarm for when that is too long (AC-002). Pure.

No file of the site says when a stage was entered (SITE.md); the ledger does, so that a restart forgets nothing.
"""

from __future__ import annotations

from supervisor.incidents.model import StageEntry, TimerKind
from supervisor.incidents.readings import HealthReading, PipelineData
from supervisor.incidents.world import Turn

ALARM_MARGIN_S = 0.05  # the alarm comes just after the limit, not just before it
STAGES_MAX = 10_000


def entered(turn: Turn, data: PipelineData, reading: HealthReading) -> StageEntry | None:
    """Takes note of the stage in which the task stands; None when it moves no more, or is one too many to remember."""
    world, now, target_id = turn.world, turn.now, reading.target_id
    before = world.stages.get(target_id)
    if not data.moving:
        if before is not None and not reading.external:
            turn.drop_stage(target_id)
        return None
    if reading.external:
        return before if before is not None and before.stage == data.stage else None
    entry = before
    if before is None or before.stage != data.stage:
        if before is None and len(world.stages) >= STAGES_MAX:
            return None
        # What the file says of its last change, the stage was entered by then at the latest; a time to come is none.
        age_s = 0.0
        if before is None and data.updated_wall_s is not None:
            age_s = max(0.0, now.wall_s - data.updated_wall_s)
        entry = StageEntry(target_id, data.stage, now.steady_s - age_s, now.wall_s - age_s)
        turn.put_stage(entry)
    assert entry is not None
    _alarm(turn, data, entry)
    return entry


def _alarm(turn: Turn, data: PipelineData, entry: StageEntry) -> None:
    """A threshold in time has its own timer (R8): the poll's interval is not added to it."""
    spoken_s = entry.entered_steady_s
    if data.message_wall_s is not None:
        spoken_s = max(spoken_s, turn.now.steady_s - (turn.now.wall_s - data.message_wall_s))
    in_s = spoken_s + data.stuck_after_s + ALARM_MARGIN_S - turn.now.steady_s
    if in_s > 0:
        timer = turn.world.timers.get((TimerKind.STUCK, entry.target_id))
        due_s = turn.now.steady_s + in_s
        if timer is None or abs(timer.due_steady_s - due_s) > 1.0:  # not one record a reading
            turn.set_timer(TimerKind.STUCK, entry.target_id, in_s)
