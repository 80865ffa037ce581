"""How often an automatic repair may run (DESIGN §2.8). Pure; loud: opening one is tier 3, it half-opens by itself."""

from __future__ import annotations

from supervisor.incidents import drill_run
from supervisor.incidents.model import Breaker, Execution
from supervisor.incidents.policy import Policy
from supervisor.incidents.world import (
    HISTORY_MAX,
    World,
)

WHOLE_RUNBOOK = "*"
STARTS = frozenset({"start-service", "restart-gateway"})  # kinds of steps


def began(world: World, execution: Execution) -> None:
    """Remember that an execution began. A drill says nothing about a repair, and no breaker may stop the next one."""
    if execution.runbook.id == drill_run.RUNBOOK:
        return
    world.history.append((execution.created_steady_s, execution.runbook.id, execution.resource, execution.id))
    if len(world.history) > HISTORY_MAX:
        world.history.popleft()


def never_ran(world: World, execution_id: str) -> None:
    """Only what has run counts."""
    kept = [entry for entry in world.history if entry[3] != execution_id]
    world.history.clear()
    world.history.extend(kept)


def count(world: World, now_steady_s: float, runbook_id: str, resource: str) -> int:
    """Executions of this runbook on this resource (`*`: on any) that began within the window.

    Restarts of one service count together, whichever runbook made them (DESIGN §2.7).
    """
    since = now_steady_s - world.policy.breaker_window_s
    alike = {runbook_id} if resource == WHOLE_RUNBOOK else _alike(world, runbook_id)
    return sum(
        1
        for began_s, run, res, _ in world.history
        if began_s > since and run in alike and resource in (res, WHOLE_RUNBOOK)
    )


def _alike(world: World, runbook_id: str) -> set[str]:
    every = world.runbooks.values()
    restarts = {runbook.id for runbook in every if any(step.kind in STARTS for step in runbook.steps)}
    return restarts if runbook_id in restarts else {runbook_id}


def exhausted(world: World, now_steady_s: float, runbook_id: str, resource: str) -> Breaker | None:
    """The breaker that is due to open now, None while there is room."""
    policy: Policy = world.policy
    limits = ((resource, policy.breaker_per_target), (WHOLE_RUNBOOK, policy.breaker_total))
    for scope, limit in limits:
        if count(world, now_steady_s, runbook_id, scope) >= limit:
            where = f"on {resource.partition(':')[2] or resource}" if scope == resource else "in all"
            return Breaker(
                runbook_id=runbook_id,
                resource=scope,
                opened_steady_s=now_steady_s,
                opened_wall_s=0.0,
                half_open_steady_s=now_steady_s + policy.breaker_window_s,
                reason=f"{limit} runs {where} within {policy.breaker_window_s / 60:.0f} min did not last",
            )
    return None


def standing(world: World, runbook_id: str, resource: str) -> Breaker | None:
    """The breaker that forbids an automatic run now."""
    return next((breaker for breaker in _of(world, runbook_id, resource) if not breaker.half_open), None)


def forbids(world: World, now_steady_s: float, runbook_id: str, resource: str) -> bool:
    """Would an automatic run be stopped now, by a breaker that stands or by one that is due to open?"""
    if standing(world, runbook_id, resource) is not None:
        return True
    return half_open(world, runbook_id, resource) is None and (
        exhausted(world, now_steady_s, runbook_id, resource) is not None
    )


def half_open(world: World, runbook_id: str, resource: str) -> Breaker | None:
    """The half-open breaker that lets one try through."""
    return next((breaker for breaker in _of(world, runbook_id, resource) if breaker.half_open), None)


def of_trial(world: World, execution_id: str) -> Breaker | None:
    """The half-open breaker whose one try this execution is."""
    return next((breaker for breaker in world.breakers.values() if breaker.trial == execution_id), None)


def _of(world: World, runbook_id: str, resource: str) -> list[Breaker]:
    found = (world.breakers.get((runbook_id, scope)) for scope in (resource, WHOLE_RUNBOOK))
    return [breaker for breaker in found if breaker is not None]
