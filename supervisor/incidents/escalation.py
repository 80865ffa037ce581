"""Who is told, when, and how loud (R1, R2): tiers, pages, holds, repeats, closing messages. Pure.

One page per incident; one short closing message if the page went out before the end. Signal and Synapse get rows of
their own, so neither waits for the other (AC-011).
"""

from __future__ import annotations

from supervisor.incidents import halts, pages, posting, wording
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.model import (
    AnomalyType,
    Channel,
    Incident,
    Severity,
    State,
    Tier,
    TierReason,
    TimerKind,
)
from supervisor.incidents.policy import PAUSED_IN_A_STORM, tier_of
from supervisor.incidents.readings import HealthReading
from supervisor.incidents.world import (
    Turn,
)

DRILL_BY_SIGNAL = "drill:signal"  # our own part of which a drill has shown that Signal alone does not deliver
GATHER_S = 45.0  # a grouped page leaves within 60 s of the first that it groups (DESIGN §5)


def escalate(
    turn: Turn,
    incident: Incident,
    reason: TierReason,
    note: str,
    *,
    trigger: Trigger = Trigger.ESCALATE,
    grouped: bool = False,
    reading: HealthReading | None = None,
    runbook_id: str | None = None,
) -> Incident:
    """To `escalated`, at R1's tier, with its messages. `grouped`: somebody else's page already covers it. `runbook_id`:
    what is proposed, where that is not what it has."""
    tier = tier_of(reason, incident.severity)
    if grouped and incident.page_id is not None:
        tier = Tier.PAGE  # that page speaks of it, and is repeated for it
    counted = _paged_unescalated(incident) and tier is Tier.PAGE
    incident = turn.move(
        incident,
        trigger,
        "engine",
        note,
        tier=tier,
        tier_reason=reason,
        escalated_wall_s=turn.now.wall_s,
        waiting_for="",
        reading=reading,
        runbook_id=runbook_id or incident.runbook_id,
    )
    turn.drop_timer(TimerKind.PLAN, incident.id)
    if not counted:
        fired(turn, incident.id, tier)
    if grouped:
        return incident
    if _may_be_one_of_many(incident):
        waited_s = 0.0
        if reason is TierReason.AT_ONCE:  # the first of them may have been looked at again for a while
            waited_s = turn.now.steady_s - min(i.detected_steady_s for i in _together(turn, incident))
        turn.set_timer(TimerKind.PAGE_HOLD, incident.id, max(0.0, GATHER_S - waited_s))
        return incident
    return tell(turn, incident, "page" if tier is Tier.PAGE else wording.KIND[tier])


def restate(
    turn: Turn,
    incident: Incident,
    reason: TierReason,
    note: str,
    *,
    grouped: bool = False,
    reading: HealthReading | None = None,
    runbook_id: str | None = None,
) -> Incident:
    """It is escalated already, and waits for something else from now on: that is said, once. A page that went out
    stands, so that its tier does not fall."""
    if incident.tier_reason is reason:
        return incident
    tier = tier_of(reason, incident.severity)
    if incident.page_id is not None:
        tier = Tier.PAGE
    incident = turn.update(
        incident, tier=tier, tier_reason=reason, waiting_for="", runbook_id=runbook_id or incident.runbook_id
    )
    incident = turn.note(incident, "engine", note, reading=reading)
    fired(turn, incident.id, tier)
    return incident if grouped else tell(turn, incident, wording.KIND[tier])


def _may_be_one_of_many(incident: Incident) -> bool:
    """Its family's targets are likely to fail together, one after another as they are looked at: that is one page."""
    page = incident.tier is Tier.PAGE and incident.severity is not Severity.CRITICAL
    return page and incident.page_id is None and incident.family in PAUSED_IN_A_STORM


def is_one_of_many(incident: Incident) -> bool:
    """A page for many of its family has covered it."""
    return incident.page_id is not None and incident.family in PAUSED_IN_A_STORM


def _paged_unescalated(incident: Incident) -> bool:
    """Its page left before it came to rest with a person (its hold ended, or others failed with it): that counted."""
    return incident.page_id is not None and incident.escalated_wall_s is None


def fired(turn: Turn, incident_id: str, tier: Tier) -> None:
    """FR-008: `heal_escalation_fired`, for tiers 1 and up only."""
    incident = turn.incident(incident_id)
    if incident is not None and incident.anomaly is AnomalyType.DRILL:
        return
    if tier >= Tier.INFORM:
        turn.metric("heal_escalation_fired", f"tier{tier:d}", "fired", incident_id)
        turn.world.last_escalation_wall_s = turn.now.wall_s


def tell(turn: Turn, incident: Incident, kind: str) -> Incident:
    """The messages of the incident's tier. A page that already went out is not repeated here (R2). Those of a drill are
    `drill`'s own."""
    if incident.tier is Tier.SILENT or incident.anomaly is AnomalyType.DRILL:
        return incident
    posting.about(turn, incident, Channel.SYNAPSE, kind)
    if incident.tier is not Tier.PAGE or incident.page_id is not None or not by_signal(incident):
        return incident
    return pages.opening(turn, incident, kind)


def by_signal(incident: Incident) -> bool:
    """That Signal does not deliver is not told by Signal: such messages would heap up there without an end."""
    not_by_it = {
        (AnomalyType.DELIVERY_FAILING, f"messages:{Channel.SIGNAL}"),
        (AnomalyType.DRILL_FAILED, DRILL_BY_SIGNAL),
    }
    return (incident.anomaly, incident.target_id) not in not_by_it


def resolved(turn: Turn, incident: Incident, reason: TierReason) -> None:
    """An incident has just ended well after a runbook ran: R1's tier 0, 1 or 3, R2's outcome page."""
    if incident.page_id is not None:
        closing(turn, incident)
        return
    tier = tier_of(reason, incident.severity)
    within_hold = turn.now.wall_s - incident.detected_wall_s <= turn.world.policy.page_hold_s
    if tier is Tier.PAGE and within_hold and not turn.world.policy.page_healed_critical:
        tier = tier_of(reason, Severity.HIGH)
    incident = turn.update(incident, tier=tier, tier_reason=reason)
    fired(turn, incident.id, tier)
    tell(turn, incident, "outcome")


def closing(turn: Turn, incident: Incident) -> None:
    """R2: one short message when what a page spoke of is over; for a grouped page, when the last of it is."""
    posting.about(turn, incident, Channel.SYNAPSE, "closing")
    if by_signal(incident) and incident.page_id not in turn.world.paging.covers:
        pages.closing(turn, incident)


def hold_page(turn: Turn, incident: Incident) -> Incident:
    """R2: a critical incident's page waits for the outcome, for so long. That of a full disk has no hold; nor has that
    of a damaged database, but it waits until its writing has stopped, or is known to be impossible (R10)."""
    if incident.severity is Severity.CRITICAL:
        if incident.anomaly is AnomalyType.DISK_CRITICAL:
            return page_hold_due(turn, incident, "paged at once: it does not wait for an outcome")
        hold_s = turn.world.policy.page_hold_s
        if incident.anomaly is AnomalyType.DB_CORRUPTION:
            hold_s = min(hold_s, halts.PAGE_WITHIN_S)
        turn.set_timer(TimerKind.PAGE_HOLD, incident.id, hold_s)
    return incident


def page_hold_due(turn: Turn, incident: Incident, why: str = "paged: no outcome within the hold") -> Incident:
    """R2: neither verified nor failed within the hold: the page goes out now, with what is known."""
    if _may_be_one_of_many(incident) and incident.state is State.ESCALATED:
        _gathered(turn, incident)
    elif incident.page_id is None and incident.severity is Severity.CRITICAL:
        incident = turn.update(incident, tier=Tier.PAGE, tier_reason=TierReason.CRITICAL)
        fired(turn, incident.id, Tier.PAGE)
        return tell(turn, turn.note(incident, "engine", why), "page")
    return incident


def _together(turn: Turn, incident: Incident) -> list[Incident]:
    """Those of its family that began to fail about when it did, whatever has been done about them since; not those of
    which a page has spoken."""
    since = incident.detected_steady_s - GATHER_S
    family = [i for i in turn.world.incidents.values() if i.family == incident.family and not i.outside]
    return [i for i in family if i.page_id is None and i.detected_steady_s >= since]


def _gathered(turn: Turn, incident: Incident) -> None:
    """Few are told each by itself, many by one page."""
    if incident.tier_reason is TierReason.AT_ONCE:
        waiting = _together(turn, incident)
    else:
        family = [i for i in turn.world.incidents.values() if i.family == incident.family]
        waiting = [i for i in family if _may_be_one_of_many(i) and i.state is State.ESCALATED]
    if len(waiting) >= turn.world.policy.canary_from:
        grouped_page(turn, waiting, "the likely cause is the network, or healctl itself")
    else:
        tell(turn, incident, "page")


def repeat_due(turn: Turn, incident: Incident) -> None:
    """R2: the page again while nobody acknowledged it: after 1 h, 4 h, then daily. One for many, without those of them
    that somebody did acknowledge."""
    if incident.acknowledged_wall_s is not None or incident.state not in _REPEATED:
        return
    ids = turn.world.paging.covers.get(incident.page_id or "", {})
    others = [turn.world.incidents[incident_id] for incident_id in ids if incident_id != incident.id]
    others = [other for other in others if other.acknowledged_wall_s is None]
    if others and pages.free(turn.world):
        covered = [incident, *others]
        subject = wording.group_subject(turn.world, covered)
        body = wording.group(turn.world, covered, turn.now.wall_s, "they are still not well")
        pages.counted(turn, posting.for_many(turn, covered, incident.tier, "repeat", subject, body))
    else:
        pages.repeat(turn, incident)
    incident = turn.incident(incident.id) or incident
    repeats = incident.repeats + 1
    steps = turn.world.policy.repeats_s
    turn.set_timer(TimerKind.REPEAT, incident.id, steps[min(repeats, len(steps) - 1)])
    turn.update(incident, repeats=repeats)


_REPEATED = frozenset({State.DIAGNOSING, State.REMEDIATING, State.VERIFYING, State.ESCALATED})


def grouped_page(turn: Turn, incidents: list[Incident], cause: str) -> None:
    """One page for many (DESIGN §2.8): it names every target when they are 20 or fewer; repeated as one, too."""
    subject = wording.group_subject(turn.world, incidents)
    paused = "nothing of that kind is repaired by itself for now" if incidents[0].family in turn.world.pauses else ""
    body = wording.group(turn.world, incidents, turn.now.wall_s, cause, paused)
    covers = tuple(incident.id for incident in incidents)
    posting.post(turn, Channel.SYNAPSE, Tier.PAGE, "grouped", subject, body, covers)
    for incident in incidents:
        if incident.page_id is None:
            if incident.escalated_wall_s is None:
                fired(turn, incident.id, Tier.PAGE)
            turn.update(incident, tier=Tier.PAGE, tier_reason=incident.tier_reason or TierReason.CANARY_FAILED)
    pages.together(turn, [turn.world.incidents[incident_id] for incident_id in covers], subject, body)
