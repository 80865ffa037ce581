"""The engine's memory from the ledger's snapshot: after any crash everything goes on where it was (DESIGN §3). Pure."""

from __future__ import annotations

from collections.abc import Iterable

from supervisor.incidents import breaker, ladder, pages, pauses
from supervisor.incidents.model import (
    AnomalyType,
    ExecutionState,
    Runbook,
    State,
    Target,
    TrailEntry,
    is_over,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import Snapshot
from supervisor.incidents.world import (
    World,
)


def rebuild(
    snapshot: Snapshot,
    boot_id: str,
    policy: Policy,
    runbooks: Iterable[Runbook],
    targets: Iterable[Target],
    open_families: frozenset[str],
    trails: dict[str, list[TrailEntry]],
) -> World:
    """The world as the ledger knows it. `trails`: the entries of every open incident."""
    world = World(
        boot_id=boot_id,
        ledger_id=snapshot.ledger_id,
        epoch=snapshot.epoch,
        policy=policy,
        runbooks={runbook.id: runbook for runbook in runbooks},
        targets={target.target_id: target for target in targets},
        open_families=open_families,
        trails=trails,
        last_remediation_wall_s=snapshot.last_remediation_wall_s,
        last_escalation_wall_s=snapshot.last_escalation_wall_s,
        last_signal_wall_s=snapshot.last_signal_wall_s,
        last_synapse_wall_s=snapshot.last_synapse_wall_s,
    )
    for incident in snapshot.open_incidents:
        world.incidents[incident.id] = incident
        world.by_key[incident.anomaly, incident.target_id] = incident.id
        if incident.anomaly is AnomalyType.BACKUP_OVERDUE:
            world.copies_overdue.add(incident.target_id)
        world.by_target.setdefault(incident.target_id, set()).add(incident.id)
    for incident in snapshot.recent_closed:
        world.closed.setdefault((incident.anomaly, incident.target_id), []).append(incident)
    world.stages = {stage.target_id: stage for stage in snapshot.stages}
    world.halts = {halt.database: halt for halt in snapshot.halts}
    for one in snapshot.known:
        target = world.target(one.target_id)
        if target is not None and target.sought == one.sought:  # else it was changed meanwhile, and that was another's
            world.known[one.target_id] = one.process
    every = {e.id: e for e in (*snapshot.recent_executions, *snapshot.executions)}
    for execution in every.values():
        if not is_over(execution):
            world.executions[execution.id] = execution
        else:
            world.ended[execution.id] = execution
    for execution in sorted(every.values(), key=lambda e: e.created_steady_s):
        if execution.state is not ExecutionState.EXPIRED:
            breaker.began(world, execution)
    world.outbox = {row.id: row for row in snapshot.outbox}
    world.quiet = {row.incident_id or row.id: row.id for row in snapshot.outbox if row.held}
    world.runbook_states = {(state.runbook_id, state.target_id): state for state in snapshot.runbook_states}
    for timer in snapshot.timers:
        world.arm(timer)
    world.breakers = {(b.runbook_id, b.resource): b for b in snapshot.breakers}
    world.pauses = {pause.family: pause for pause in snapshot.pauses}
    world.drafts = {draft.id: draft for draft in snapshot.drafts if draft.id not in world.runbooks}
    world.runbooks |= world.drafts
    world.requests = {request.id: request for request in snapshot.requests}
    world.replies = {reply.key: reply for reply in snapshot.replies}
    world.tallies = {(it.name, it.stage, it.result): it for it in snapshot.tallies}
    world.operator_pauses = {pause.key: pause for pause in snapshot.operator_pauses}
    pages.remember(world, snapshot.gathered)
    _go_on(world)
    return world


def _go_on(world: World) -> None:
    """What lets an incident go on (an approval, the rung before) is durable before its next rung runs: a crash in
    between must not lose the run. A fresh probe comes first, and R3 decides."""
    for incident in world.incidents.values():
        held = incident.state is State.ESCALATED and pauses.held(world, incident)
        if held or ladder.goes_on(world, incident):
            world.rerun.add(incident.id)
