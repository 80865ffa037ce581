"""How many Signal messages a storm may cost (DESIGN §2.8, §5): the first five pages of two minutes go out by
themselves, what follows is gathered and told together. Pure.

* **A storm** begins with the sixth message within WINDOW_S. From then on pages, outcomes, closing messages and repeats
  are gathered; all that waits leaves as one message, which `covers` every incident it speaks of. It is over OVER_S
  after its last message.
* **What a first or second grouped message tells has waited less than 60 s** (DESIGN §5). While the storm goes on, the
  next ones take ever longer (WAITS_S): 10,000 anomalies of one second cost at most ten messages in ten minutes, of
  which five are single, three are grouped, and two are urgent.
* **What is no part of the storm does not wait for it.** An incident that was detected LULL_S after the newest one that
  was paged is alone: it is paged by itself. What is detected from then on waits WAITS_S[0] at most. The time of the
  detection counts, not that of the page: what the storm left behind fails and heals for a long time after.
* **A damaged database and a full disk have no hold** (R2): URGENT_MAX of them a storm wait for nothing.

An incident's `page_id` names its message from the moment that it is gathered; the message is made out when it leaves,
of what is so by then: what has healed meanwhile is told as healed, and has no closing message. All of it is in the
ledger (timers, `page_id`, `told_in`), so that a crash neither loses a page nor sends one twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from supervisor.incidents import gathered, posting
from supervisor.incidents.model import AnomalyType, Channel, Incident, OutboxRow, Tier, TimerKind
from supervisor.incidents.world import Turn, World

SINGLES_MAX = 5
WINDOW_S = 120.0
WAITS_S = (45.0, 55.0, 180.0, 360.0, 720.0)  # of the first that a grouped message tells; the last one for ever
LULL_S = 45.0
OVER_S = 600.0
URGENT_MAX = 2
NO_HOLD = frozenset({AnomalyType.DISK_CRITICAL, AnomalyType.DB_CORRUPTION})
LULL = "lull"


def opening(turn: Turn, incident: Incident, kind: str) -> Incident:
    """The page (or outcome) of an incident of which none has spoken: now, or together with others."""
    urgent = _urgent(turn.world.paging.storm, incident, len(turn.world.paging.urgent))
    if free(turn.world) or _alone(turn, incident) or urgent:
        row = posting.about(turn, incident, Channel.SIGNAL, kind)
        _left(turn, row.id)
        if urgent:
            turn.world.paging.urgent.add(row.id)
            turn.set_timer(TimerKind.URGENT, row.id, OVER_S)
        if incident.open:
            turn.set_timer(TimerKind.REPEAT, incident.id, turn.world.policy.repeats_s[0])
        return _spoken_of(turn, incident, row.id)
    return _spoken_of(turn, _noted(turn, incident), _gather(turn, incident))


def together(turn: Turn, incidents: Sequence[Incident], subject: str, body: str) -> None:
    """One page for many of a family; in a storm they are told with the others. `incidents` are open."""
    if free(turn.world):
        row_id = posting.for_many(turn, incidents, Tier.PAGE, "grouped", subject, body).id
        _left(turn, row_id)
        turn.set_timer(TimerKind.REPEAT, incidents[0].id, turn.world.policy.repeats_s[0])
    else:
        row_id = ""
    for incident in incidents:
        if incident.page_id is None:
            current = incident if row_id else _noted(turn, incident)
            _spoken_of(turn, current, row_id or _gather(turn, current))


def closing(turn: Turn, incident: Incident) -> None:
    """R2's closing message of one that is over; none where the message that opens it has not left yet."""
    if incident.page_id is not None and incident.page_id == turn.world.paging.gather:
        return
    _news(turn, incident, "closing")


def repeat(turn: Turn, incident: Incident) -> None:
    """R2's page again, for one incident."""
    _news(turn, incident, "repeat")


def free(world: World) -> bool:
    """There is no storm, nor does the next message begin one."""
    return not world.paging.storm and len(world.paging.sent) < SINGLES_MAX


def counted(turn: Turn, row: OutboxRow) -> None:
    """A message that was made out elsewhere (`free` was asked before)."""
    _left(turn, row.id)


def timer_due(turn: Turn, kind: TimerKind, subject: str) -> None:
    paging = turn.world.paging
    match kind:
        case TimerKind.PAGED:
            paging.sent.discard(subject)
        case TimerKind.URGENT:
            paging.urgent.discard(subject)
        case TimerKind.LULL:
            paging.lull_steady_s = math.inf
        case TimerKind.STORM:
            paging.storm, paging.groups, paging.lull_steady_s = False, 0, math.inf
            turn.drop_timer(TimerKind.LULL, LULL)
        case _:
            _release(turn, subject)


def remember(world: World, gathered_and_closed: Iterable[Incident]) -> None:
    """After a crash: from the timers and incidents that the ledger has."""
    paging = world.paging
    for kind, subject in world.timers:
        match kind:
            case TimerKind.PAGED:
                paging.sent.add(subject)
            case TimerKind.URGENT:
                paging.urgent.add(subject)
            case TimerKind.GATHER:
                paging.gather = subject
            case TimerKind.STORM:
                paging.storm, paging.groups = True, int(subject)
            case TimerKind.LULL:
                paging.lull_steady_s = world.timers[kind, subject].due_steady_s - OVER_S
    known = {incident.id for incidents in world.closed.values() for incident in incidents}
    for incident in gathered_and_closed:
        if incident.id not in known:
            world.closed.setdefault((incident.anomaly, incident.target_id), []).append(incident)
    for incident in _everything(world):
        if incident.page_id is not None:
            paging.newest_steady_s = max(paging.newest_steady_s, incident.detected_steady_s)
            if incident.open:
                paging.covers.setdefault(incident.page_id, {})[incident.id] = None


def is_gathered(world: World, incident: Incident) -> bool:
    """The message that has yet to leave will tell of it."""
    return bool(world.paging.gather) and world.paging.gather in (incident.page_id, incident.told_in)


def _alone(turn: Turn, incident: Incident) -> bool:
    """Nothing was detected with it or shortly before it of which anybody was paged."""
    paging = turn.world.paging
    if incident.detected_steady_s < paging.newest_steady_s + LULL_S:
        return False
    if paging.storm:
        paging.lull_steady_s = incident.detected_steady_s
        turn.set_timer(TimerKind.LULL, LULL, paging.lull_steady_s + OVER_S - turn.now.steady_s)
    return True


def _urgent(storm: bool, incident: Incident, so_far: int) -> bool:
    return storm and incident.anomaly in NO_HOLD and so_far < URGENT_MAX


def _spoken_of(turn: Turn, incident: Incident, row_id: str) -> Incident:
    turn.drop_timer(TimerKind.PAGE_HOLD, incident.id)
    paging = turn.world.paging
    paging.newest_steady_s = max(paging.newest_steady_s, incident.detected_steady_s)
    return turn.update(incident, page_id=row_id)


def _noted(turn: Turn, incident: Incident) -> Incident:
    why = f"more than {SINGLES_MAX} messages within {WINDOW_S / 60:g} min: it is told together with others"
    return turn.note(incident, "engine", why)


def _news(turn: Turn, incident: Incident, kind: str) -> None:
    if free(turn.world):
        _left(turn, posting.about(turn, incident, Channel.SIGNAL, kind).id)
    else:
        turn.update(incident, told_in=_gather(turn, incident))


def _left(turn: Turn, row_id: str) -> None:
    turn.world.paging.sent.add(row_id)
    turn.set_timer(TimerKind.PAGED, row_id, WINDOW_S)


def _gather(turn: Turn, incident: Incident) -> str:
    """The row that will tell of it. It leaves sooner for what is no part of the storm."""
    paging = turn.world.paging
    news = incident.detected_steady_s >= paging.lull_steady_s
    wait_s = WAITS_S[0] if news else WAITS_S[min(paging.groups, len(WAITS_S) - 1)]
    if not paging.gather:
        paging.gather = turn.new_id("out")
        turn.set_timer(TimerKind.GATHER, paging.gather, wait_s)
        _goes_on(turn, paging.groups, wait_s + OVER_S)
    elif news:
        due_s = turn.world.timers[TimerKind.GATHER, paging.gather].due_steady_s
        if due_s > turn.now.steady_s + wait_s:
            turn.set_timer(TimerKind.GATHER, paging.gather, wait_s)
    return paging.gather


def _goes_on(turn: Turn, groups: int, over_s: float) -> None:
    paging = turn.world.paging
    turn.drop_timer(TimerKind.STORM, str(paging.groups))
    paging.storm, paging.groups = True, groups
    turn.set_timer(TimerKind.STORM, str(groups), over_s)


def _release(turn: Turn, row_id: str) -> None:
    """What was gathered leaves, as it is by now."""
    world = turn.world
    told = [incident for incident in _everything(world) if row_id in (incident.page_id, incident.told_in)]
    world.paging.gather = ""
    if not told:
        return  # the ledger was begun anew without them
    opened = [incident for incident in told if incident.page_id == row_id]
    over = [incident for incident in told if incident.page_id != row_id and not incident.open]
    still = [incident for incident in told if incident.page_id != row_id and incident.open]
    repeated = {incident.id: None for incident in still}
    for incident in still:  # a grouped page is repeated by one for all that it covers
        repeated |= world.paging.covers.get(incident.page_id or "", {})
    if len(told) == 1 and len(repeated) <= 1:
        (incident,) = told
        kind = "repeat" if still else "closing" if over else "page" if incident.open else "outcome"
        posting.about(turn, incident, Channel.SIGNAL, kind, row_id)
    else:
        again = [world.incidents[incident_id] for incident_id in repeated]
        subject, body = gathered.words(world, opened, over, again)
        every = list({incident.id: incident for incident in (*told, *again)}.values())
        posting.for_many(turn, every, Tier.PAGE, "grouped", subject, body, row_id)
    _left(turn, row_id)
    _goes_on(turn, world.paging.groups + 1, OVER_S)
    first = next((incident for incident in opened if incident.open and incident.acknowledged_wall_s is None), None)
    if first is not None:
        turn.set_timer(TimerKind.REPEAT, first.id, world.policy.repeats_s[0])


def _everything(world: World) -> Iterable[Incident]:
    yield from world.incidents.values()
    for incidents in world.closed.values():
        yield from incidents
