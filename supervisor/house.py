"""What the healer hands to its engine besides the events of the workers, and by which names the root counts deaths.

Functions of a configuration or an event; it must not know a socket. One reads a file: the operator's time zone.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec

from supervisor import __version__, clock, zones
from supervisor.config import ChannelSection, Config
from supervisor.incidents import drill, own, views
from supervisor.incidents import events as e
from supervisor.incidents.judge import size
from supervisor.incidents.model import AnomalyType, Channel
from supervisor.incidents.policy import Policy
from supervisor.incidents.quiet_hours import QuietHours
from supervisor.incidents.readings import DatabaseData, HealthReading, Integrity
from supervisor.incidents.world import World
from supervisor.messages import Listening, Reloaded, StoreStatus
from supervisor.plugins import Piece
from supervisor.targets import METRICS, channels, families
from supervisor.units import OFF, parse_hours

WAITING = "decisions"  # the limit on those that are not yet durable
# What is not taken in beyond that limit, since it is sent, read or asked again.
MAY_WAIT = (e.ReadingSeen, e.StepEnded, e.ExecutionClaimed, e.ExecutionNotRun, e.ProgramEnded, e.Delivered, e.Order,
            e.ReplySeen, e.TimersDue)  # fmt: skip
CORE = ("store", "healer", "executor", "notifier")  # of every tree (`supervisor.tree.spec`)
LEDGER = "healctl:ledger"
NO_DEAD_MAN = "no dead man's switch is configured any more"
LEDGER_FULL, LEDGER_WELL = 0.8, 0.75  # of `ledger_max`


def policy_of(config: Config) -> Policy:
    """`[policy]` and `[escalation]` as the engine's numbers."""
    section = config.policy
    return Policy(
        confidence_auto_execute=section.confidence_auto_execute,
        auto_execute=section.auto_execute,
        graduation_count=section.dry_run_graduation_count,
        dismiss_window_s=float(section.dismiss_window),
        page_hold_s=float(section.page_hold),
        verify_within_s=float(section.verify_within),
        settle_s=float(section.settle),
        clear_readings=section.clear_readings,
        clear_interval_s=float(section.clear_interval),
        breaker_per_target=section.breaker_per_target,
        breaker_total=section.breaker_total,
        breaker_window_s=float(section.breaker_window),
        page_healed_critical=config.escalation.page_healed_critical,
        zone=zones.table(config.escalation.timezone),
        host=config.escalation.host,
        quiet_hours=_quiet_hours(config),
        agents_trusted=config.mcp.trusted,
        pages=bool(config.notify.signal.transports),
        approvers=config.notify.signal.approvers,
        drill_at=config.drill.at,
        drill_every_s=float(config.drill.every),
        drill_timeout_s=float(config.drill.timeout),
        drill_zone=_zone(config) if config.drill.at else None,
        undelivered_after_s=float(config.escalation.undelivered_after),
        channels=tuple((Channel(name), _from_tier(config, name)) for name in channels(config)),
    )


def _from_tier(config: Config, name: str) -> int:
    return config.notify.channel.get(name, ChannelSection()).from_tier


def _zone(config: Config) -> tzinfo:
    """Whose days a drill's time of day is of: the operator's."""
    named = config.escalation.timezone
    return ZoneInfo(named) if named else clock.local_zone()


def _quiet_hours(config: Config) -> QuietHours | None:
    hours = parse_hours(config.escalation.quiet_hours)
    if hours is None:
        return None
    shifts = zones.table(config.escalation.timezone)
    return QuietHours(*hours, tuple((shift.from_wall_s, shift.offset_s) for shift in shifts))


def beginning(world: World, config: Config) -> list[e.Event]:
    """What the engine hears first. A worker that another configuration had will not say that it is well again."""
    children = {*CORE, *families(config), *channels(config), *([METRICS] if config.metrics.listen != OFF else [])}
    events: list[e.Event] = [e.Started(), e.NotifierIsBack()]
    for anomaly, name in world.by_key:
        kind, _, child = name.partition(":")
        if kind == "worker" and child not in children:
            events.append(e.OwnPart(name, anomaly, False, "it is no part of healctl as it is configured now"))
    if not config.escalation.dead_man_url and (AnomalyType.DEAD_MAN_FAILING, own.DEAD_MAN) in world.by_key:
        events.append(e.OwnPart(own.DEAD_MAN, AnomalyType.DEAD_MAN_FAILING, False, NO_DEAD_MAN))
    return events


def reload_json(news: Reloaded | None) -> dict[str, Any] | None:
    """What became of the newest order to reload, for `healctl status` and the feed."""
    if news is None:
        return None
    return {
        "at": views.stamp(news.at_wall_s),
        "ok": news.ok,
        "changes": list(news.changes),
        "error": news.error or None,
    }


def corrupt_ledger(readings: Iterable[HealthReading], state_dir: Path) -> str:
    """The target that stands for our ledger, if a reading of it says that it is damaged; else empty."""
    for reading in readings:
        data = reading.data
        if not isinstance(data, DatabaseData) or data.verdict is not Integrity.CORRUPT:
            continue
        if data.path == str(state_dir / "ledger.db"):
            return reading.target_id
    return ""


def ledger_parts(world: World, status: StoreStatus | None, config: Config) -> list[e.OwnPart]:
    """What is new about the ledger itself, and about the way from it to Synapse."""
    if status is None:
        return []
    found = (_size(world, status, config), _damage(world, status), _synapse(world, status))
    return [part for part in found if part is not None]


def _synapse(world: World, status: StoreStatus) -> e.OwnPart | None:
    """Its tables in brain.db take nothing: they do not fit (which column stands in the evidence), or somebody keeps
    them locked. A halt is an incident already."""
    it = next((projection for projection in status.projections if projection.name == "synapse"), None)
    if it is None:
        return None
    open_now = (AnomalyType.DELIVERY_FAILING, own.SYNAPSE) in world.by_key
    halted = any(halt.path == it.path for halt in world.halts.values())
    if not open_now and not halted and it.last_error and it.behind_for_s >= own.DELIVERY_WITHIN_S:
        evidence = f"{it.last_error}; nothing has reached Synapse for {it.behind_for_s:.0f} s"
        return e.OwnPart(own.SYNAPSE, AnomalyType.DELIVERY_FAILING, True, evidence)
    if open_now and not it.behind:
        return e.OwnPart(own.SYNAPSE, AnomalyType.DELIVERY_FAILING, False, "Synapse has everything")
    return None


def _damage(world: World, status: StoreStatus) -> e.OwnPart | None:
    """A damaged ledger is told of until what was kept of it is taken away: by then a person has seen to it."""
    open_now = (AnomalyType.LEDGER_DAMAGED, LEDGER) in world.by_key
    if status.damaged and not open_now:
        told = f"; {status.damage}" if status.damage else ""
        evidence = f"it was set aside{told}; it is kept as {status.damaged[-1]}"
        return e.OwnPart(LEDGER, AnomalyType.LEDGER_DAMAGED, True, evidence)
    if open_now and not status.damaged:
        return e.OwnPart(LEDGER, AnomalyType.LEDGER_DAMAGED, False, "what was kept of the damaged ledger is gone")
    return None


def _size(world: World, status: StoreStatus, config: Config) -> e.OwnPart | None:
    """What the ledger's size means (DESIGN §2.6); None: nothing new. Clear only well below the mark."""
    open_now = (AnomalyType.LEDGER_NEAR_LIMIT, LEDGER) in world.by_key
    used = status.ledger_bytes / int(config.store.ledger_max)
    if not open_now and (used > LEDGER_FULL or not status.reserve_ok):
        evidence = f"{status.ledger_path} has {size(status.ledger_bytes)}, {used:.0%} of ledger_max"
        if not status.reserve_ok:
            evidence += "; its reserve for a full disk is not there"
        return e.OwnPart(LEDGER, AnomalyType.LEDGER_NEAR_LIMIT, True, evidence)
    if open_now and used <= LEDGER_WELL and status.reserve_ok:
        return e.OwnPart(LEDGER, AnomalyType.LEDGER_NEAR_LIMIT, False, f"{used:.0%} of ledger_max are used")
    return None


def tree_view(
    world: World,
    children: list[dict[str, Any]],
    status: StoreStatus | None,
    trouble: str,
    wall_s: float,
    reloaded: Reloaded | None,
    listening: Listening | None,
    pieces: Iterable[Piece] = (),
) -> dict[str, Any]:
    """What `healctl status` shows."""
    return {
        "version": __version__,
        "children": children,
        "store": msgspec.to_builtins(status) if status is not None else None,
        "ledger_trouble": trouble or None,
        "outbox": views.outbox(world, wall_s),
        "open_incidents": len(world.incidents),
        "breakers": views.breakers(world),
        "pauses": views.pauses(world),
        "halted": views.halts(world),
        "targets": len(world.targets),
        "drill": drill.last(world),
        "last_reload": reload_json(reloaded),
        "metrics": {"address": listening.address, "error": listening.error or None} if listening else None,
        "plugins": msgspec.to_builtins(list(pieces)),
    }


def item_of(event: e.Event) -> str:
    """What the root counts deaths by: the one thing that the event is about."""
    match event:
        case e.ReadingSeen(reading):
            # What others hand in must not set our own readings of the target aside.
            return f"{'outside' if reading.external else 'reading'}:{reading.target_id}"
        case e.Hinted(target_id):
            return f"outside:{target_id}"
        case e.Order(token):
            return f"order:{token}"
        case e.ReplySeen(reply):
            return f"reply:{reply.key}"
        case e.StepEnded(execution_id, index):
            return f"report:{execution_id}.{index}"
        case e.ExecutionClaimed(execution_id) | e.ExecutionNotRun(execution_id) | e.ProgramEnded(execution_id):
            return f"report:{execution_id}.{type(event).__name__}"
        case e.Delivered(row_id):
            return f"receipt:{row_id}"
        case _:
            return f"event:{type(event).__name__}"
