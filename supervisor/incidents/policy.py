"""What may run by itself (R3), and how loud an outcome is (R1). Pure functions that return reasons, not bools."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import tzinfo

import msgspec

from supervisor.incidents.local_time import Zone
from supervisor.incidents.model import (
    AGENT,
    AnomalyType,
    Authority,
    Channel,
    Effect,
    Mode,
    Runbook,
    RunbookState,
    Severity,
    Target,
    Tier,
    TierReason,
)
from supervisor.incidents.quiet_hours import QuietHours

EVERY_TARGET = "*"
CONFIDENCE_PRIOR = 0.5  # R5
CONFIDENCE_APPROVED = 0.8  # R5


class Policy(msgspec.Struct, frozen=True):
    """The numbers of `[policy]` and `[escalation]` (seconds, counts), as the engine uses them."""

    confidence_auto_execute: float = 0.8
    auto_execute: tuple[str, ...] = ("rb-rotate-logs", "rb-gc-trigger")
    dismiss_window_s: float = 86400.0
    page_hold_s: float = 60.0
    verify_within_s: float = 30.0
    settle_s: float = 1.0
    clear_readings: int = 3
    clear_interval_s: float = 30.0
    breaker_per_target: int = 3
    breaker_total: int = 20
    breaker_window_s: float = 3600.0
    page_healed_critical: bool = True
    zone: Zone = ()  # the operator's, for the times in messages; none: UTC
    host: str = ""  # this machine's name in messages, where one was given
    quiet_hours: QuietHours | None = None  # what need not wake anybody waits for their end
    agents_trusted: bool = False  # R15: an agent's orders are a person's
    pages: bool = False  # somebody is configured to be paged
    undelivered_after_s: float = 600.0  # nothing arrives over a channel for so long: it is out
    channels: tuple[tuple[Channel, int], ...] = ()  # the plugins', each from which tier on it is told
    approvers: tuple[str, ...] = ()  # whose Signal replies are carried out
    intent_expires_s: float = 60.0  # DESIGN §2.3
    graduation_count: int = 3  # R4
    executions_max: int = 8  # DESIGN §2.7
    canary_from: int = 5  # DESIGN §2.8: this many targets of a family at once
    canary_count: int = 3
    canary_window_s: float = 10.0  # what "at once" means
    reopen_window_s: float = 3600.0  # R6
    reopens_intermittent: int = 2  # R6
    drill_at: str = ""  # "HH:MM", once a day in `drill_zone` (None: UTC)
    drill_every_s: float = 0.0
    drill_timeout_s: float = 60.0
    drill_zone: tzinfo | None = None
    repeats_s: tuple[float, ...] = (3600.0, 4 * 3600.0, 86400.0)  # R2, the last one for ever

    @property
    def every_channel(self) -> tuple[Channel, ...]:
        """Ours, and the plugins'."""
        return (*Channel, *(channel for channel, _ in self.channels))


# R6: what is of the fleet, the gateway, or memory may come and go by itself.
INTERMITTENT = frozenset(
    {
        AnomalyType.FLEET_UNREACHABLE,
        AnomalyType.GATEWAY_UNRESPONSIVE,
        AnomalyType.MEMORY_PRESSURE,
        AnomalyType.MEMORY_CRITICAL,
    }
)
# DESIGN §2.8: when many of these fail at once, the likely cause is the network or us.
PAUSED_IN_A_STORM = frozenset({"fleet", "gateway"})


class Permission(msgspec.Struct, frozen=True):
    """R3's answer. `authority` is None when the runbook may not run by itself; `why` says so in words."""

    authority: Authority | None
    why: str


def ladder(runbooks: Iterable[Runbook], anomaly: AnomalyType, target_id: str) -> tuple[Runbook, ...]:
    """The runbooks for this anomaly of this target (FR-003), in the registry's order: tried one after another."""
    return tuple(runbook for runbook in runbooks if runbook.suits(anomaly, target_id))


def pick(runbooks: Iterable[Runbook], anomaly: AnomalyType, target_id: str) -> Runbook | None:
    """The first of them."""
    return next(iter(ladder(runbooks, anomaly, target_id)), None)


def resource_of(runbook: Runbook, target: Target) -> str:
    """What it locks, and what its breaker counts by."""
    return runbook.resource.replace("{target}", target.target_id).replace("{service}", target.service_id)


def changes(runbook: Runbook) -> bool:
    """It alters the system: what a storm or a pause holds back."""
    return any(step.effect in (Effect.CHANGE, Effect.DESTROY) for step in runbook.steps)


def destroys(runbook: Runbook) -> bool:
    return any(step.effect is Effect.DESTROY for step in runbook.steps)


def may_graduate(runbook: Runbook) -> bool:
    """R4: what a person has written, and what destroys nothing. One that is approved for an incident never does, nor
    one with a plugin's step, whose dry run is the plugin's own word."""
    by_person = runbook.author != "" and AGENT not in runbook.author
    return by_person and not destroys(runbook) and not runbook.once and not runbook.foreign


def undecided(runbook: Runbook, target_id: str) -> RunbookState:
    """What holds before anybody has decided anything about a runbook (FR-003: new ones start in dry_run; R5)."""
    return RunbookState(runbook.id, target_id, Mode.DRY_RUN, CONFIDENCE_PRIOR, runbook.version())


def state_for(states: Mapping[tuple[str, str], RunbookState], runbook: Runbook, target_id: str) -> RunbookState | None:
    """The decision in force: the target's own approval or demotion, else the one for every target."""
    own = states.get((runbook.id, target_id))
    if own is not None and (own.mode is Mode.AUTO_EXECUTE or own.demoted):
        return own
    return states.get((runbook.id, EVERY_TARGET))


def permission(
    runbook: Runbook, target: Target | None, state: RunbookState | None, policy: Policy, *, not_running: bool
) -> Permission:
    """R3: may this runbook run by itself for this target, now? (a) is for shipped ones: what an operator's own does is
    known from its text alone, and a new one starts in dry_run (FR-003). `not_running`: nothing of the target is alive.
    """
    if runbook.only_protects():
        return Permission(Authority.HARMLESS, "it only observes or protects")
    if state is not None and state.taken_back:
        return Permission(None, "a person has undone its last run for this target")
    if runbook.id in policy.auto_execute and not runbook.foreign:
        return Permission(Authority.WHITELIST, "it is on the whitelist")
    if runbook.starts_service and target is not None and target.auto_restart and target.recipe is not None:
        if not_running:
            return Permission(Authority.NOT_RUNNING, "auto_restart is set and nothing of it is running")
        refusal = "auto_restart never ends a live process"
    else:
        refusal = "it is not approved for this target"
    if state is not None and state.mode is Mode.AUTO_EXECUTE:
        if state.version != runbook.version():
            return Permission(None, "it was changed after its approval")
        if state.confidence < policy.confidence_auto_execute:
            return Permission(None, f"its confidence {state.confidence:.2f} is below {policy.confidence_auto_execute}")
        return Permission(Authority.APPROVED, "it is approved")
    return Permission(None, refusal)


def tier_of(reason: TierReason, severity: Severity) -> Tier:
    """R1's table. Severity critical is tier 3 whatever the reason."""
    if severity is Severity.CRITICAL:
        return Tier.PAGE
    match reason:
        case TierReason.VERIFIED_SILENTLY:
            return Tier.SILENT
        case TierReason.SUMMARY_ASKED | TierReason.TELLS_ONLY:
            return Tier.INFORM
        case TierReason.NEEDS_APPROVAL | TierReason.PAUSED:
            return Tier.ASK
        case _:
            return Tier.PAGE
