"""What others say of our targets: readings and insights from outside (NFR-004, FR-002, R7, R16). Pure.

Theirs may open an incident, which a fresh probe of our own then confirms or ends before anything runs. They never
refresh, verify or close one, are never grounds for an action, and leave no trace in what we know ourselves. Whoever was
just found wrong opens nothing more for a while: our own probe is asked instead.
"""

from __future__ import annotations

from supervisor.incidents import detect, stages
from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import Status
from supervisor.incidents.readings import HealthReading, PipelineData
from supervisor.incidents.world import RECHECK_S, Turn

AGAIN_S = 300.0  # after our own probe contradicted them, theirs open nothing about this target for so long
HINT_S = 1.0  # our probe of a target is asked at most this often for others' sake
HINTED_MAX = 10_000  # targets remembered for that


def on_reading(turn: Turn, reading: HealthReading) -> None:
    """A reading (`external`) that somebody else took. One older than our newest own says nothing any more."""
    world = turn.world
    newest = world.readings.get(reading.target_id)
    if newest is not None and newest.taken_mono_s > reading.taken_mono_s:
        return
    stage = stages.entered(turn, reading.data, reading) if isinstance(reading.data, PipelineData) else None
    # A classifier of its own, for the one reading: what others say neither adds to our counts nor resets them.
    for verdict in Classifier().observe(Judge(reading, turn.now, stage=stage)):
        if verdict.status is not Status.FIRING or (verdict.anomaly, verdict.target_id) in world.by_key:
            continue
        refuted_s = world.refuted.get(reading.target_id)
        if refuted_s is not None and turn.now.steady_s - refuted_s < AGAIN_S:
            on_hint(turn, reading.target_id, reading.family)
        else:
            detect.open_incident(turn, verdict, reading, outside=True)


def on_hint(turn: Turn, target_id: str, family: str) -> None:
    """Somebody says that something is wrong with it: our own probe is asked, and decides (R16).

    Never while an answer may still be on its way, since asking anew gives up the question before.
    """
    world, now_s = turn.world, turn.now.mono_s
    last_s = world.hinted.get(target_id)
    if last_s is not None and now_s - last_s < (RECHECK_S if target_id in world.asked else HINT_S):
        return
    if len(world.hinted) >= HINTED_MAX:
        world.hinted.clear()
    world.hinted[target_id] = now_s
    turn.ask_probe(target_id, family)
