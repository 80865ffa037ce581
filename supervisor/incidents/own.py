"""Our own house as the engine sees it: another configuration, and what is wrong with our own parts (DESIGN §1, R9).

Pure. Our own parts are targets like any other, told by the healer's process instead of a probe.
"""

from __future__ import annotations

from supervisor.incidents import detect, graduation, halts, keeping, ladder, outcome, quiet, remedy
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.lifecycle import Trigger
from supervisor.incidents.matching import Meaning
from supervisor.incidents.model import (
    OURS,
    AnomalyType,
    Channel,
    ExecutionState,
    OutboxRow,
    OutboxState,
    Runbook,
    Severity,
    Status,
    Target,
    Tier,
    TimerKind,
    Verdict,
)
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import PutRunbook
from supervisor.incidents.world import OPEN_INCIDENTS_MAX, TRAIL_MAX, Turn

WORKER_STEADY_S = 600.0  # so long without another failure: it is not failing any more
DELIVERY_WITHIN_S = 300.0  # a page without a receipt for so long, or
ATTEMPTS_MAX = 5  # after so many attempts, is not being delivered
LIMITS_S = 60.0  # how often a limit that was reached is looked at again
TOLD_WITHIN_S = 30.0  # a new healer has heard of every quarantined item by then
LIMITS = "healctl:limits"
MESSAGES = "messages:"
PAGES, SYNAPSE = f"{MESSAGES}{Channel.SIGNAL}", f"{MESSAGES}{Channel.SYNAPSE}"
DEAD_MAN = "healctl:dead-man"
ITEMS = "items"
ITEM_OF_TARGET = ("reading", "outside")  # items that are one target's
OPEN_INCIDENTS, TRAIL = "open incidents", "audit trail"


def reconfigured(
    turn: Turn,
    targets: tuple[Target, ...],
    open_families: frozenset[str],
    policy: Policy,
    runbooks: tuple[Runbook, ...],
    meanings: tuple[Meaning, ...],
) -> None:
    """DESIGN §7: what is no longer watched is forgotten, what has changed is known anew, the rest goes on."""
    world = turn.world
    files = {runbook.id: runbook for runbook in runbooks}
    world.drafts = {draft_id: draft for draft_id, draft in world.drafts.items() if draft_id not in files}
    world.runbooks = files | world.drafts
    world.meanings = meanings
    before, world.targets = world.targets, {target.target_id: target for target in targets}
    world.open_families, world.policy = open_families, policy
    for target_id in [*world.known]:
        old, new = before.get(target_id), world.target(target_id)
        if new is None or old is None or old.sought != new.sought:
            turn.drop_known(target_id)  # it was another program
    for target_id in [name for name in world.readings if world.target(name) is None]:
        del world.readings[target_id]
        world.asked.pop(target_id, None)
        world.classifier.forget(target_id)
    world.well = {key: at for key, at in world.well.items() if world.target(key[1]) is not None}
    for target_id in [name for name in world.stages if world.target(name) is None]:
        turn.drop_stage(target_id)
    dismiss_gone(turn)
    halts.refit(turn)
    keeping.arrange(turn)
    for anomaly, name in list(world.by_key):
        kind, _, target_id = name.partition(":")
        if anomaly is AnomalyType.ITEM_QUARANTINED and kind in ITEM_OF_TARGET and world.target(target_id) is None:
            world.set_aside.discard(name)
            part(turn, name, anomaly, "its target is no longer configured", firing=False)
    if not policy.pages:
        part(turn, PAGES, AnomalyType.DELIVERY_FAILING, "nobody is configured to be paged any more", firing=False)
    for runbook in world.runbooks.values():  # the whitelist may be another
        turn.records.append(PutRunbook(runbook, runbook.version()))
    graduation.refit(turn)
    quiet.look_again(turn)
    withdraw(turn)
    for incident in list(world.incidents.values()):  # a recipe or a runbook may be new, as after a restart
        if incident.family != detect.OWN_FAMILY and ladder.goes_on(world, incident):
            turn.want_run(incident)


def withdraw(turn: Turn) -> None:
    """What waits for a channel of a plugin that is no more waits for nothing, and that it did not work is over."""
    known = turn.world.policy.every_channel
    for row in [row for row in turn.world.outbox.values() if row.channel not in known]:
        turn.put_row(row, state=OutboxState.QUARANTINED, last_error="withdrawn: no plugin brings this channel any more")
    for anomaly, name in list(turn.world.by_key):
        kind, _, channel = name.partition(":")
        if f"{kind}:" == MESSAGES and channel not in known:
            part(turn, name, anomaly, "no plugin brings this channel any more", firing=False)


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
            outcome.never_ran(turn, execution)
    for family in families:
        remedy.release(turn, family)


def started(turn: Turn) -> None:
    """The engine has just been rebuilt. Which items are set aside, the root tells again, if it is still the same."""
    dismiss_gone(turn)
    withdraw(turn)
    if any(anomaly is AnomalyType.ITEM_QUARANTINED for anomaly, _ in turn.world.by_key):
        turn.set_timer(TimerKind.OWN, ITEMS, TOLD_WITHIN_S)


def part(turn: Turn, name: str, anomaly: AnomalyType, evidence: str, *, firing: bool) -> None:
    """What the healer's process says of one of our own parts; an outbox row that is set aside is written as such."""
    kind, _, row_id = name.partition(":")
    row = turn.world.outbox.get(row_id) if kind == "outbox" else None
    if anomaly is AnomalyType.ITEM_QUARANTINED and firing:
        turn.world.set_aside.add(name)
    if anomaly is AnomalyType.WORKER_FAILING and firing:
        turn.set_timer(TimerKind.OWN, name, WORKER_STEADY_S)
    verdict = Verdict(
        # One incident for a channel: its own messages may be set aside there, too, and must not open another.
        target_id=f"messages:{row.channel}" if row is not None else name,
        family=detect.OWN_FAMILY,
        anomaly=anomaly,
        status=Status.FIRING if firing else Status.CLEAR,
        severity=Severity.HIGH,
        evidence=evidence,
        hint=_HINTS.get(anomaly, "see the log of healctl for its last words"),
    )
    if row is not None and firing:
        turn.put_row(row, state=OutboxState.QUARANTINED, last_error=evidence)
    detect.on_verdict(turn, verdict, None, fresh=True)


_HINTS = {
    AnomalyType.DELIVERY_FAILING: "look at what takes them",
    AnomalyType.LEDGER_NEAR_LIMIT: "make room on its disk, or raise ledger_max in [store]",
    AnomalyType.LEDGER_DAMAGED: "look for what broke it, the disk or another program; then move that file away",
    AnomalyType.BACKUP_OVERDUE: "find out why none was made",
    AnomalyType.DEAD_MAN_FAILING: "look at dead_man_url in [escalation], and at this machine's way out",
    AnomalyType.DRILL_FAILED: "run healctl drill, which shows every stage; a good one ends this",
    AnomalyType.LIMIT_REACHED: "close what is over; watch less",
}


def look(turn: Turn) -> None:
    """After every event: did it reach a limit, is there a page whose receipt is to be waited for?"""
    world = turn.world
    if world.limits and (AnomalyType.LIMIT_REACHED, LIMITS) not in world.by_key:
        part(turn, LIMITS, AnomalyType.LIMIT_REACHED, "; ".join(world.limits.values()), firing=True)
        turn.set_timer(TimerKind.OWN, LIMITS, LIMITS_S)
    for name in sorted(world.copies_overdue):
        alarm = (TimerKind.BACKUP_OVERDUE, name.removeprefix(keeping.COPIES))
        if alarm in world.timers or not any(t.written and t.target_id == alarm[1] for t in world.targets.values()):
            enough = "a good copy was made, or none is needed any more"
            part(turn, name, AnomalyType.BACKUP_OVERDUE, enough, firing=False)
    if not turn.effects or (TimerKind.OWN, PAGES) in world.timers or not world.policy.pages:
        return
    if any(isinstance(effect, DeliverRow) and is_page(effect.row) for effect in turn.effects):
        turn.set_timer(TimerKind.OWN, PAGES, DELIVERY_WITHIN_S)


def backup_overdue(turn: Turn, name: str) -> None:
    """R10: there would be nothing recent to restore. Asked again when a copy was made; said once until then."""
    evidence = f"no good copy of {name} was made for {keeping.OVERDUE_S / keeping.EVERY_S:g} days"
    part(turn, keeping.COPIES + name, AnomalyType.BACKUP_OVERDUE, evidence, firing=True)


def limit(turn: Turn, name: str, evidence: str) -> None:
    """A limit outside of the engine."""
    if evidence:
        turn.world.limits[name] = evidence
    else:
        turn.world.limits.pop(name, None)


def timer_due(turn: Turn, subject: str) -> None:
    if subject == LIMITS:
        _limits_due(turn)
    elif subject == PAGES:
        _pages_due(turn)
    elif subject == SYNAPSE:
        _synapse_due(turn)
    elif subject == ITEMS:
        _items_due(turn)
    else:
        steady = f"no failure for {WORKER_STEADY_S / 60:g} minutes"
        part(turn, subject, AnomalyType.WORKER_FAILING, steady, firing=False)


def _limits_due(turn: Turn) -> None:
    world = turn.world
    if len(world.incidents) < 0.9 * OPEN_INCIDENTS_MAX:
        world.limits.pop(OPEN_INCIDENTS, None)
    if all(incident.trail_length < TRAIL_MAX for incident in world.incidents.values()):
        world.limits.pop(TRAIL, None)
    if world.limits:
        turn.set_timer(TimerKind.OWN, LIMITS, LIMITS_S)
        part(turn, LIMITS, AnomalyType.LIMIT_REACHED, "; ".join(world.limits.values()), firing=True)
    else:
        part(turn, LIMITS, AnomalyType.LIMIT_REACHED, "it is well below every limit again", firing=False)


# --- pages that are not delivered -----------------------------------------------------------------------------------


def is_page(row: OutboxRow) -> bool:
    return row.channel is Channel.SIGNAL and row.tier is Tier.PAGE


def not_delivered(turn: Turn, row: OutboxRow) -> None:
    """One more attempt failed."""
    if is_page(row) and row.attempts >= ATTEMPTS_MAX:
        _fails(turn)
    elif row.channel is Channel.SYNAPSE and (TimerKind.OWN, SYNAPSE) not in turn.world.timers:
        turn.set_timer(TimerKind.OWN, SYNAPSE, DELIVERY_WITHIN_S)


def delivered(turn: Turn, channel: Channel) -> None:
    """A receipt: the channel works. What still waits is looked at again in time."""
    if channel is Channel.SYNAPSE:
        part(turn, SYNAPSE, AnomalyType.DELIVERY_FAILING, "a message was delivered", firing=False)
        turn.drop_timer(TimerKind.OWN, SYNAPSE)
        return
    if channel not in OURS:  # a plugin's: `outage` looks after it
        return
    part(turn, PAGES, AnomalyType.DELIVERY_FAILING, "a message was delivered", firing=False)
    turn.drop_timer(TimerKind.OWN, PAGES)
    if turn.world.policy.pages and any(is_page(row) for row in turn.world.outbox.values()):
        turn.set_timer(TimerKind.OWN, PAGES, DELIVERY_WITHIN_S)


def _pages_due(turn: Turn) -> None:
    waiting = [row.created_wall_s for row in turn.world.outbox.values() if is_page(row)]
    if not waiting or not turn.world.policy.pages:
        return
    left_s = min(waiting) + DELIVERY_WITHIN_S - turn.now.wall_s
    if left_s > 0:
        turn.set_timer(TimerKind.OWN, PAGES, left_s)
    else:
        _fails(turn)


def _synapse_due(turn: Turn) -> None:
    """Over REST no message has got a receipt since the first attempt that failed. (Of brain.db the store tells.)"""
    rows = [row for row in turn.world.outbox.values() if row.channel is Channel.SYNAPSE and row.last_error]
    if rows:
        waits_s = turn.now.wall_s - min(row.created_wall_s for row in rows)
        evidence = f"{len(rows)} Synapse messages wait, the oldest for {waits_s:.0f} s: {rows[-1].last_error}"
        part(turn, SYNAPSE, AnomalyType.DELIVERY_FAILING, evidence, firing=True)


def _fails(turn: Turn) -> None:
    """Nobody configured is no failure (it stands in `status`)."""
    rows = [row for row in turn.world.outbox.values() if is_page(row)]
    if not turn.world.policy.pages or not rows:
        return
    error = next((row.last_error for row in reversed(rows) if row.last_error), "no attempt has ended yet")
    waits_s = turn.now.wall_s - min(row.created_wall_s for row in rows)
    evidence = f"{len(rows)} pages wait for a receipt, the oldest for {waits_s:.0f} s: {error}"
    part(turn, PAGES, AnomalyType.DELIVERY_FAILING, evidence, firing=True)


# --- items that were set aside --------------------------------------------------------------------------------------


def _items_due(turn: Turn) -> None:
    """An item that the root does not name any more was forgotten with an earlier root: it is tried again. A message is
    set aside in the ledger, and stays so until a person dismisses the incident."""
    for anomaly, name in list(turn.world.by_key):
        if anomaly is not AnomalyType.ITEM_QUARANTINED or name in turn.world.set_aside or name.startswith("messages:"):
            continue
        part(turn, name, anomaly, "healctl was restarted since, so that it is tried again", firing=False)
