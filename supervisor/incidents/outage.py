"""A channel over which nothing arrives: said over the other one, and over itself as soon as it works again. Pure.

Nothing of a channel has a receipt for `undelivered_after` (10 min) although something waited: then it is out, by an
incident that is told over the channels that are not out themselves. The first receipt afterwards ends it, and one
message goes along with what waited: from when to when nothing arrived, and how many messages that were.

What must survive every crash is kept in two durable timers of each channel: `quiet:`, when to look whether something
has waited for too long, and `out:`, a mark that it is out. The mark is no alarm; its time, less `FAR_S`, is since when,
so that a clock that is set meanwhile does not move it.
"""

from __future__ import annotations

from supervisor.incidents import own, views
from supervisor.incidents.effects import DeliverRow
from supervisor.incidents.model import OURS, AnomalyType, Channel, OutboxRow, Tier, TimerKind
from supervisor.incidents.plain_text import clean
from supervisor.incidents.posting import notice
from supervisor.incidents.world import Turn, World

QUIET, OUT = "quiet:", "out:"
FAR_S = 100 * 366 * 86400.0
GRACE_S = 60.0  # after our own start: what waited while we were not there is tried first
KIND = "outage"
# A page among pages, so that it does not wait behind them; on Synapse nobody has to do anything about it.
TIERS = {Channel.SIGNAL: Tier.PAGE}  # any other: INFORM


def look(turn: Turn) -> None:
    """After every event: a message that is handed on is waited for."""
    handed = [effect.row.channel for effect in turn.effects if isinstance(effect, DeliverRow)]
    if not handed:  # after most events
        return
    for channel in turn.world.policy.every_channel:
        if channel in handed and _watched(turn.world, channel) and not _known(turn.world, channel):
            turn.set_timer(TimerKind.OWN, QUIET + channel, turn.world.policy.undelivered_after_s)


def due(turn: Turn, subject: str) -> bool:
    """A timer of ours has run: whether it was one."""
    kind, _, name = subject.partition(":")
    if f"{kind}:" not in (QUIET, OUT):
        return False
    if f"{kind}:" == QUIET and _watched(turn.world, Channel(name)):
        _quiet_due(turn, Channel(name))
    return True


def delivered(turn: Turn, row: OutboxRow) -> None:
    """A receipt, already in the world."""
    channel = row.channel
    mark = turn.world.timers.get((TimerKind.OWN, OUT + channel))
    if channel is Channel.SYNAPSE:
        turn.world.last_synapse_wall_s = turn.now.wall_s
    elif channel not in OURS:
        turn.world.last_receipts[channel] = turn.now.wall_s
    if mark is None:
        return
    turn.drop_timer(TimerKind.OWN, OUT + channel)
    since_wall_s = turn.now.wall_s - (turn.now.steady_s - (mark.due_steady_s - FAR_S))
    waited = [row, *_waiting(turn.world, channel)]
    _works(turn, channel, "a message was delivered")
    notice(
        turn,
        channel,
        TIERS.get(channel, Tier.INFORM),
        KIND,
        *_words(channel, since_wall_s, turn.now.wall_s, len(waited)),
    )


def reconfigured(turn: Turn) -> None:
    """Nobody is to be paged any more: that is no outage, and its end is none either."""
    for _, subject in [key for key in turn.world.timers if key[0] is TimerKind.OWN]:
        kind, _, name = subject.partition(":")
        if f"{kind}:" in (QUIET, OUT) and not _watched(turn.world, channel := Channel(name)):
            turn.drop_timer(TimerKind.OWN, QUIET + channel)
            turn.drop_timer(TimerKind.OWN, OUT + channel)


def _quiet_due(turn: Turn, channel: Channel) -> None:
    world, now = turn.world, turn.now
    waiting = _waiting(world, channel)
    if not waiting:
        return
    since_wall_s = min(row.created_wall_s for row in waiting)
    if (last := _last_receipt(world, channel)) is not None:
        since_wall_s = max(since_wall_s, last)
    waits_s = max(0.0, now.wall_s - since_wall_s)
    after_s = world.policy.undelivered_after_s
    left_s = max(after_s - waits_s, world.started_steady_s + min(after_s, GRACE_S) - now.steady_s)
    if left_s > 0:
        turn.set_timer(TimerKind.OWN, QUIET + channel, left_s)
        return
    turn.set_timer(TimerKind.OWN, OUT + channel, FAR_S - waits_s)
    error = next((row.last_error for row in reversed(waiting) if row.last_error), "no attempt has ended yet")
    evidence = f"nothing has arrived over {channel} for {waits_s / 60:.0f} min, {len(waiting)} messages wait: {error}"
    halted = channel is Channel.SYNAPSE and world.halts and not any(row.last_error for row in waiting)
    if not halted:  # that of brain.db is an incident already, whose page has said so
        own.part(turn, own.MESSAGES + channel, AnomalyType.DELIVERY_FAILING, evidence, firing=True)


def _works(turn: Turn, channel: Channel, why: str) -> None:
    own.part(turn, own.MESSAGES + channel, AnomalyType.DELIVERY_FAILING, why, firing=False)


def _watched(world: World, channel: Channel) -> bool:
    """Nobody configured is no failure (it stands in `status`)."""
    return channel in world.policy.every_channel and (channel is not Channel.SIGNAL or world.policy.pages)


def _known(world: World, channel: Channel) -> bool:
    return any((TimerKind.OWN, kind + channel) in world.timers for kind in (QUIET, OUT))


def _waiting(world: World, channel: Channel) -> list[OutboxRow]:
    """What nobody has a receipt for yet; not what waits for the end of the quiet hours, which nobody delivers."""
    return [row for row in world.outbox.values() if row.channel is channel and not row.held]


def _last_receipt(world: World, channel: Channel) -> float | None:
    ours = {Channel.SIGNAL: world.last_signal_wall_s, Channel.SYNAPSE: world.last_synapse_wall_s}
    return ours[channel] if channel in ours else world.last_receipts.get(channel)


def _words(channel: Channel, since_wall_s: float, until_wall_s: float, count: int) -> tuple[str, str]:
    """Subject and body."""
    name = channel.capitalize()
    minutes = max(0.0, until_wall_s - since_wall_s) / 60
    messages = "1 message waited and arrives" if count == 1 else f"{count} messages waited and arrive"
    return (
        f"{name} works again",
        f"{name} works again. From {views.stamp(since_wall_s)} to {views.stamp(until_wall_s)} ({minutes:.0f} min)"
        f" healctl could deliver nothing over it; {clean(messages)} now.\nNothing to decide.",
    )
