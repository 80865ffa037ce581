"""Everything the engine has in memory as records, for a ledger that had to be begun anew (DESIGN §2.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from supervisor.incidents import records as r
from supervisor.incidents.model import is_over
from supervisor.incidents.world import World

PART_BYTES = 4 * 1024 * 1024  # of records in one message, which may have 16 MiB

_encode = msgspec.json.Encoder().encode


def parts(world: World, waiting: Iterable[r.Record]) -> list[tuple[r.Record, ...]]:
    """`waiting`: the records of decisions that the old ledger did not acknowledge; the world stands after them.

    The first part names every execution that is not over. A record that the world or a later record overtakes is
    written once, in its last state.
    """
    alive = list(_world(world))
    known = {_key(record) for record in alive}
    history: dict[tuple[str, ...], r.Record] = {}
    for record in waiting:
        if (key := _key(record)) and key not in known:
            history[key] = record
    first: list[r.Record] = []
    rest: list[r.Record] = []
    for record in alive:
        running = isinstance(record, r.PutExecution) and not is_over(record.execution)
        (first if running else rest).append(record)
    # Closed incidents before open ones: of one anomaly of one target only one may be open.
    return [tuple(first), *_cut([*history.values(), *rest])]


def _cut(records: list[r.Record]) -> list[tuple[r.Record, ...]]:
    out: list[tuple[r.Record, ...]] = []
    part: list[r.Record] = []
    size = 0
    for record in records:
        part.append(record)
        size += len(_encode(record))
        if size > PART_BYTES:
            out.append(tuple(part))
            part, size = [], 0
    return [*out, tuple(part)] if part else out


def _world(world: World) -> Iterable[r.Record]:
    for execution in (*world.executions.values(), *world.ended.values()):
        yield r.PutExecution(execution)
    for incidents in world.closed.values():
        yield from (r.PutIncident(incident) for incident in incidents)
    yield from (r.PutIncident(incident) for incident in world.incidents.values())
    yield from (r.PutOutbox(row) for row in world.outbox.values())
    yield from (r.PutRunbook(runbook, runbook.version()) for runbook in world.runbooks.values())
    yield from (r.PutRunbookState(state) for state in world.runbook_states.values())
    yield from (r.SetTimer(timer) for timer in world.timers.values())
    yield from (r.PutBreaker(breaker) for breaker in world.breakers.values())
    yield from (r.PutPause(pause) for pause in world.pauses.values())
    yield from (r.PutOperatorPause(pause) for pause in world.operator_pauses.values())
    yield from (r.PutRequest(request) for request in world.requests.values())
    yield from (r.PutReply(reply) for reply in world.replies.values())
    yield from (r.PutStage(stage) for stage in world.stages.values())
    for target_id, process in world.known.items():
        target = world.target(target_id)  # without how it was sought it would not be known again
        yield r.PutKnown(target_id, process, target.sought if target is not None else ("", ""))
    yield from (r.PutHalt(halt) for halt in world.halts.values())
    yield from (r.PutTally(tally) for tally in world.tallies.values())
    for trail in world.trails.values():
        yield from (r.AddTrail(entry) for entry in trail)


def _key(record: r.Record) -> tuple[str, ...]:
    """What a later record of the same kind replaces; empty for what is nothing once the world has it no more."""
    match record:
        case r.PutIncident(it):
            return ("incident", it.id)
        case r.AddTrail(it):
            return ("trail", it.incident_id, str(it.n))
        case r.PutExecution(it):
            return ("execution", it.id)
        case r.PutOutbox(it):
            return ("outbox", it.id)
        case r.AddMetric(it):
            return ("metric", it.id)
        case r.AddAudit(it):
            return ("audit", it.id)
        case _:
            return ()
