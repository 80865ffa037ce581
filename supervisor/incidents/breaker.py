"""How often an automatic repair may run (DESIGN §2.8). Pure; loud: opening one is tier 3, it half-opens by itself."""

from __future__ import annotations

from supervisor.incidents.model import Breaker
from supervisor.incidents.policy import Policy
from supervisor.incidents.world import HISTORY_MAX, World

WHOLE_RUNBOOK = "*"


def began(world: World, steady_s: float, runbook_id: str, resource: str) -> None:
    """Remember that an execution began."""
    world.history.append((steady_s, runbook_id, resource))
    if len(world.history) > HISTORY_MAX:
        world.history.popleft()


def count(world: World, now_steady_s: float, runbook_id: str, resource: str) -> int:
    """Executions of this runbook on this resource (`*`: on any) that began within the window."""
    since = now_steady_s - world.policy.breaker_window_s
    return sum(
        1
        for began_s, run, res in world.history
        if began_s > since and run == runbook_id and resource in (res, WHOLE_RUNBOOK)
    )


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
    """The breaker that forbids an automatic run now; a half-open one lets a single try through."""
    for scope in (resource, WHOLE_RUNBOOK):
        breaker = world.breakers.get((runbook_id, scope))
        if breaker is not None and not breaker.half_open:
            return breaker
    return None


def half_open(world: World, runbook_id: str, resource: str) -> Breaker | None:
    """The half-open breaker that this run would be the one try of."""
    for scope in (resource, WHOLE_RUNBOOK):
        breaker = world.breakers.get((runbook_id, scope))
        if breaker is not None and breaker.half_open:
            return breaker
    return None
