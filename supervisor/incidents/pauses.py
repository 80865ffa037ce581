"""What a person has told healctl to leave alone for a while (R15): one target, a family, or everything. Pure.

A pause holds back whatever changes the system, by itself or by a person's `execute`; what only looks or protects goes
on. It never silences anything: an incident that would have been repaired is told of at its tier, with who paused it.
"""

from __future__ import annotations

import msgspec

from supervisor.errors import Refused, UnknownId, UsageError
from supervisor.incidents import views
from supervisor.incidents.model import Incident, State, Target, TimerKind
from supervisor.incidents.orders import OperatorPause, Scope
from supervisor.incidents.world import OPEN_FAMILIES, Turn, World

FOR_S_MAX = 366 * 86_400.0
REASON_CHARS_MAX = 500


class PauseArgs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of `pause` and `resume`: exactly one of the first three. `for_s`: None means until it is lifted."""

    target_id: str | None = None
    family: str | None = None
    all: bool = False
    for_s: float | None = None
    reason: str = ""


def standing(world: World, target: Target) -> OperatorPause | None:
    """The pause that this target is under, the narrowest; None when there is none."""
    return next((found for key in _keys(world, target) if (found := world.operator_pauses.get(key)) is not None), None)


def _keys(world: World, target: Target) -> list[str]:
    """The pauses that hold for it: its own, and those of the service behind it, which its repair would touch."""
    service = world.targets.get(target.service_id, target)
    families = [target.family, service.family]
    names = [f"{Scope.TARGET}:{name}" for name in (target.target_id, target.service_id)]
    return [*names, *(f"{Scope.FAMILY}:{family}" for family in families), f"{Scope.ALL}:"]


def words(pause: OperatorPause) -> str:
    """Who paused what, until when, and why."""
    what = {Scope.ALL: "everything"}.get(pause.scope, f"{pause.scope} {pause.name}")
    until = f" until {views.stamp(pause.until_wall_s)}" if pause.until_wall_s is not None else ""
    return f"{what} is paused by {pause.by}{until}" + (f": {pause.reason}" if pause.reason else "")


def lift_command(pause: OperatorPause) -> str:
    option = "--all" if pause.scope is Scope.ALL else f"--{pause.scope} {pause.name}"
    return f"healctl resume {option}"


def refuse(world: World, target: Target) -> None:
    """R15: pauses hold for the changes that a person orders, too. Raises Refused."""
    if (found := standing(world, target)) is not None:
        raise Refused(f"{words(found)}; nothing was run", f"`{lift_command(found)}` first")


def pause(turn: Turn, token: str, args: PauseArgs, actor: str) -> views.Json:
    """Begins a pause, or gives the one that stands another end and reason. What already runs goes on."""
    del token
    scope, name = _scope(turn.world, args)
    if args.for_s is not None and not 0 < args.for_s <= FOR_S_MAX:
        raise UsageError(f"a pause of {args.for_s:g} s", "more than 0, at most a year, e.g. --for 2h")
    until_s = args.for_s
    new = OperatorPause(
        scope,
        name,
        turn.now.wall_s,
        actor,
        args.reason.strip()[:REASON_CHARS_MAX],
        None if until_s is None else turn.now.steady_s + until_s,
        None if until_s is None else turn.now.wall_s + until_s,
    )
    turn.put_operator_pause(new)
    if until_s is None:
        turn.drop_timer(TimerKind.PAUSE_OVER, new.key)
    else:
        turn.set_timer(TimerKind.PAUSE_OVER, new.key, until_s)
    for incident in _under(turn.world, new):
        turn.note(incident, actor, words(new))
    busy = [e.id for e in turn.world.executions.values() if standing(turn.world, e.target) is new]
    return {"success": True, "paused": views.operator_pause(new), "still_running": busy}


def resume(turn: Turn, token: str, args: PauseArgs, actor: str) -> views.Json:
    """Ends a pause; what it held back is looked at afresh. Raises UnknownId when there is none of that scope."""
    del token
    scope, name = _scope(turn.world, args, gone_too=True)
    found = turn.world.operator_pauses.get(f"{scope}:{name}")
    if found is None:
        stand = ", ".join(turn.world.operator_pauses) or "nothing is paused"
        raise UnknownId(f"{name or 'everything'} is not paused", f"paused now: {stand}")
    return {"success": True, "resumed": views.operator_pause(found), "running_for": _end(turn, found, actor, "resumed")}


def over(turn: Turn, key: str) -> None:
    """Its time has run out."""
    found = turn.world.operator_pauses.get(key)
    if found is not None:
        _end(turn, found, "engine", "the pause is over")


def held(world: World, incident: Incident) -> bool:
    """It was held back by a pause that stands no more: after a crash it must be looked at again."""
    target = world.target(incident.target_id)
    return incident.held_by_pause and target is not None and standing(world, target) is None


def _end(turn: Turn, pause: OperatorPause, actor: str, note: str) -> list[str]:
    turn.drop_operator_pause(pause.key)
    turn.drop_timer(TimerKind.PAUSE_OVER, pause.key)
    free = []
    for incident in _under(turn.world, pause):
        incident = turn.note(incident, actor, f"{note}: {pause.key.rstrip(':')}")
        if incident.state is State.ESCALATED and held(turn.world, incident):
            turn.want_run(incident)
            free.append(incident.id)
    return free


def _under(world: World, pause: OperatorPause) -> list[Incident]:
    def concerns(incident: Incident) -> bool:
        target = world.target(incident.target_id) or Target(incident.target_id, incident.family)
        return pause.key in _keys(world, target)

    return [incident for incident in list(world.incidents.values()) if concerns(incident)]


def _scope(world: World, args: PauseArgs, *, gone_too: bool = False) -> tuple[Scope, str]:
    """Raises UsageError, UnknownId. `gone_too`: a pause can be lifted although its target is not watched any more."""
    if [args.target_id is not None, args.family is not None, args.all].count(True) != 1:
        raise UsageError("what is meant: one target, one family, or all?", "give one of --target, --family, --all")
    if args.all:
        return Scope.ALL, ""
    if args.target_id is not None:
        if world.target(args.target_id) is None and not gone_too:
            raise UnknownId(f"no target {args.target_id!r}", f"known: {', '.join(sorted(world.targets)[:20])}")
        return Scope.TARGET, args.target_id
    families = {target.family for target in world.targets.values()} | world.open_families | {*OPEN_FAMILIES.values()}
    if args.family not in families and not gone_too:
        raise UnknownId(f"no family {args.family!r}", f"known: {', '.join(sorted(families))}")
    return Scope.FAMILY, args.family or ""
