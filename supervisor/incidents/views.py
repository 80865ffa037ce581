"""The JSON that people and scripts get: SITE.md's field names, more fields allowed. Pure; plain dicts by design,
since they leave the house as JSON right away."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from supervisor.incidents.model import (
    METRICS,
    SHIPPED,
    AnomalyType,
    Execution,
    ExecutionState,
    Incident,
    Mode,
    Runbook,
    RunbookState,
    TrailEntry,
)
from supervisor.incidents.orders import OperatorPause
from supervisor.incidents.policy import EVERY_TARGET
from supervisor.incidents.world import (
    World,
)

Json = dict[str, Any]


def stamp(wall_s: float | None) -> str | None:
    """RFC 3339 UTC with milliseconds, as everywhere in our output."""
    if wall_s is None:
        return None
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def trail_json(entry: TrailEntry) -> Json:
    """SITE.md's {timestamp, state, actor, note, step_id?, ...}; what does not apply is left out."""
    more = {
        "step_id": entry.step_id,
        "execution_id": entry.execution_id,
        "success": entry.success,
        "output": entry.output,
        "duration_ms": entry.duration_ms,
    }
    base: Json = {
        "timestamp": stamp(entry.at_wall_s),
        "state": entry.state.value,
        "actor": entry.actor,
        "note": entry.note,
    }
    return base | {key: value for key, value in more.items() if value is not None}


def incident_json(incident: Incident, trail: Iterable[TrailEntry]) -> Json:
    return {
        "id": incident.id,
        "anomaly_type": incident.anomaly.value,
        "target_id": incident.target_id,
        "severity": incident.severity.value,
        "state": incident.state.value,
        "runbook_id": incident.runbook_id,
        "detected_at": stamp(incident.detected_wall_s),
        "state_changed_at": stamp(incident.changed_wall_s),
        "last_seen_at": stamp(incident.last_seen_wall_s),
        "detections": incident.detections,
        "escalation_tier": int(incident.tier),
        "escalation_reason": incident.tier_reason.value if incident.tier_reason else None,
        "evidence": incident.evidence,
        "hint": incident.hint,
        "waiting_for": incident.waiting_for or None,
        "execution_id": incident.execution_id,
        "intermittent": incident.intermittent,
        "dry_runs": [msgspec.to_builtins(run) for run in incident.dry_runs],
        "acknowledged_at": stamp(incident.acknowledged_wall_s),
        "audit_trail": [trail_json(entry) for entry in trail],
    }


def status(world: World) -> Json:
    """FR-007 `status`: every open incident with its state and how the repair goes."""
    oldest_first = sorted(world.incidents.values(), key=lambda i: i.detected_steady_s)
    runbooks = list_runbooks(world)["runbooks"]
    auto = sum(1 for runbook in runbooks if runbook["mode"] == Mode.AUTO_EXECUTE.value)
    return {
        "halted": halts(world),
        "paused": pauses(world),
        "open_incidents": [incident_json(i, world.trails.get(i.id, ())) for i in oldest_first],
        "runbook_summary": {"total": len(runbooks), "auto_execute": auto, "dry_run": len(runbooks) - auto},
    }


def list_runbooks(world: World) -> Json:
    return {"runbooks": [_runbook_json(world, runbook) for runbook in world.runbooks.values()]}


def _runbook_json(world: World, runbook: Runbook) -> Json:
    mine = [state for (run, _), state in world.runbook_states.items() if run == runbook.id]
    everywhere = world.runbook_states.get((runbook.id, EVERY_TARGET))
    whitelisted = runbook.id in world.policy.auto_execute
    mode = Mode.AUTO_EXECUTE if whitelisted else everywhere.mode if everywhere else Mode.DRY_RUN
    successes, failures = sum(s.successes for s in mine), sum(s.failures for s in mine)
    return {
        "id": runbook.id,
        "label": runbook.label,
        "applies_to": [anomaly.value for anomaly in runbook.applies_to],
        "mode": mode.value,
        "confidence": 1.0 if whitelisted else everywhere.confidence if everywhere else runbook.confidence,
        "dry_run_count": sum(s.dry_run_count for s in mine),
        "auto_approve_whitelist": whitelisted,
        "last_executed_at": stamp(_latest(s.last_executed_wall_s for s in mine)),
        "last_succeeded_at": stamp(_latest(s.last_succeeded_wall_s for s in mine)),
        "approved_at": stamp(everywhere.approved_at_wall_s if everywhere else None),
        "version": runbook.version(),
        "author": runbook.author,
        "origin": "shipped" if runbook.author == SHIPPED else "own",
        "steps": [{"step_id": step.step_id, "effect": step.effect.value} for step in runbook.steps],
        "successes": successes,
        "failures": failures,
        "success_rate_lower_bound": wilson_lower(successes, failures),
        "targets": [_scope_json(s) for s in mine if s.target_id != EVERY_TARGET],
    }


def _scope_json(state: RunbookState) -> Json:
    return {
        "target_id": state.target_id,
        "mode": state.mode.value,
        "confidence": state.confidence,
        "approved_at": stamp(state.approved_at_wall_s),
        "demoted": state.demoted,
        "dry_run_count": state.dry_run_count,
        "successes": state.successes,
        "failures": state.failures,
    }


def wilson_lower(successes: int, failures: int) -> float:
    """R5: lower bound of the 95 % Wilson score interval of the success rate; information only."""
    n = successes + failures
    if n == 0:
        return 0.0
    z = 1.96
    z2 = z * z
    p = successes / n
    spread = z * math.sqrt((p * (1 - p) + z2 / (4 * n)) / n)
    return round(max(0.0, (p + z2 / (2 * n) - spread) / (1 + z2 / n)), 3)


def _latest(times: Iterable[float | None]) -> float | None:
    return max((t for t in times if t is not None), default=None)


def execution_answer(execution: Execution) -> Json:
    """FR-007 `execute`: what was run, whether it held, and whether a person is needed."""
    done = execution.state is ExecutionState.SUCCEEDED
    passed = execution.verified if execution.runbook.verifies else None
    return {
        "success": done and passed is not False,
        "mode": "undo" if execution.undoes else "execute",
        "execution_id": execution.id,
        "runbook_id": execution.runbook.id,
        "target_id": execution.target.target_id,
        "state": execution.state.value,
        "steps_executed": [
            {
                "step_id": result.step_id,
                "status": "success" if result.success else "failed",
                "output": result.output,
                "artifacts": list(result.artifacts),
                "duration_ms": result.duration_ms,
                "cancelled_by": result.cancelled_by or None,
            }
            for result in execution.results
        ],
        "verification_passed": passed,
        "escalation_needed": not done or passed is False,
    }


def stats(world: World) -> Json:
    """FR-008's `self_healing_status`."""
    modes = {mode.value: 0 for mode in Mode}
    for runbook in list_runbooks(world)["runbooks"]:
        modes[runbook["mode"]] += 1
    return {
        "self_healing_status": {
            "open_incident_count": sum(1 for i in world.incidents.values() if i.anomaly is not AnomalyType.DRILL),
            "runbooks_by_mode": modes,
            "last_remediation_at": stamp(world.last_remediation_wall_s),
            "last_escalation_at": stamp(world.last_escalation_wall_s),
            "last_signal_sent_at": stamp(world.last_signal_wall_s),
            "metrics": _totals(world),
        }
    }


def _totals(world: World) -> Json:
    """How often each of FR-008's events was, since the ledger began."""
    totals = dict.fromkeys(METRICS, 0)
    for tally in world.tallies.values():
        if tally.name in totals:
            totals[tally.name] += tally.count
    return totals


def breakers(world: World) -> list[Json]:
    return [
        {
            "runbook_id": b.runbook_id,
            "resource": b.resource,
            "opened_at": stamp(b.opened_wall_s),
            "state": "half_open" if b.half_open else "open",
            "reason": b.reason,
        }
        for b in world.breakers.values()
    ]


def halts(world: World) -> list[Json]:
    """The databases that nobody writes (R10)."""
    return [
        {
            "database": h.database,
            "path": h.path,
            "since": stamp(h.since_wall_s),
            "phase": h.phase.value,
            "incident_id": h.incident_id,
            "why": h.why,
        }
        for h in world.halts.values()
    ]


def pauses(world: World) -> list[Json]:
    """The engine's own, after canaries that failed, then what people have told it to leave alone."""
    own: list[Json] = [
        {"scope": "family", "name": p.family, "since": stamp(p.since_wall_s), "by": "engine", "until": None,
         "reason": p.reason}
        for p in world.pauses.values()
    ]  # fmt: skip
    return own + [operator_pause(p) for p in world.operator_pauses.values()]


def operator_pause(pause: OperatorPause) -> Json:
    return {
        "scope": pause.scope.value,
        "name": pause.name,
        "since": stamp(pause.since_wall_s),
        "by": pause.by,
        "until": stamp(pause.until_wall_s),
        "reason": pause.reason,
    }


def outbox(world: World, now_wall_s: float) -> Json:
    """What could not be delivered yet stays visible (DESIGN §5)."""
    rows = sorted((row for row in world.outbox.values() if not row.held), key=lambda row: row.created_wall_s)
    held = [world.outbox[row_id] for row_id in world.quiet.values() if row_id in world.outbox]
    hours = world.policy.quiet_hours
    until_s = hours.until_wall_s(now_wall_s) if hours is not None else None
    return {
        "pending": len(rows),
        "oldest_s": round(now_wall_s - rows[0].created_wall_s, 3) if rows else 0.0,
        "last_error": next((row.last_error for row in reversed(rows) if row.last_error), ""),
        "rows": [
            {"id": r.id, "channel": r.channel.value, "tier": int(r.tier), "kind": r.kind, "subject": r.subject,
             "attempts": r.attempts, "last_error": r.last_error}
            for r in rows[:20]
        ],
        "held": {
            "count": len(held),
            "until": stamp(until_s) if held and until_s is not None else None,
            "rows": [{"id": r.id, "tier": int(r.tier), "kind": r.kind, "subject": r.subject} for r in held[:20]],
        },
        "gathered": len(world.paging.covers.get(world.paging.gather, ())),
    }  # fmt: skip
