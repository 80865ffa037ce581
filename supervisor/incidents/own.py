"""Our own house as the engine sees it: another configuration, and what is wrong with our own parts (DESIGN §1, R9).

Pure. Our own parts are targets like any other, told by the healer's process instead of a probe.
"""

from __future__ import annotations

from supervisor.incidents import detect, remedy
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import ExecutionState, Target
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import PutRunbook
from supervisor.incidents.world import Turn


def reconfigured(turn: Turn, targets: tuple[Target, ...], open_families: frozenset[str], policy: Policy) -> None:
    """DESIGN §7: what is no longer watched is forgotten, what has changed is known anew, the rest goes on."""
    world = turn.world
    before, world.targets = world.targets, {target.target_id: target for target in targets}
    world.open_families, world.policy = open_families, policy
    for target_id in [*world.known]:
        old, new = before.get(target_id), world.target(target_id)
        if new is None or old is None or (old.pid_file, old.match) != (new.pid_file, new.match):
            turn.drop_known(target_id)  # it was another program
    for target_id in [name for name in world.readings if world.target(name) is None]:
        del world.readings[target_id]
        world.asked.pop(target_id, None)
        world.classifier.forget(target_id)
    for target_id in [name for name in world.stages if world.target(name) is None]:
        turn.drop_stage(target_id)
    dismiss_gone(turn)
    for runbook in world.runbooks.values():  # the whitelist may be another
        turn.records.append(PutRunbook(runbook, runbook.version()))


def dismiss_gone(turn: Turn) -> None:
    """Incidents of targets that nobody watches any more: nothing could close them."""
    families = set()
    for incident in list(turn.world.incidents.values()):
        if incident.family == detect.OWN_FAMILY or turn.world.target(incident.target_id) is not None:
            continue
        turn.move(incident, Trigger.DISMISS, "engine", "its target is no longer configured")
        families.add(incident.family)
        execution = turn.world.executions.get(incident.execution_id or "")
        if execution is not None and execution.state is ExecutionState.INTENDED:
            remedy.unproved(turn, turn.put_execution(execution, state=ExecutionState.EXPIRED))
    for family in families:
        remedy.release(turn, family)
