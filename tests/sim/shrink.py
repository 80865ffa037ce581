"""From a failing run to the shortest list of events that still fails in the same way (delta debugging).

Zeller's ddmin over the schedule; then every number of seconds to a plainer one. A candidate counts when the same
invariant does not hold.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from tests.sim.run import Outcome, run_plan
from tests.sim.schedule import Event, Plan

TRIES_MAX = 400


class Shrinker:
    """`run` gives the outcome of a candidate."""

    def __init__(self, plan: Plan, broken: str, run: Callable[[Plan], Outcome] = run_plan) -> None:
        self._plan, self._broken, self._run = plan, broken, run
        self.tries = 0

    def _fails(self, events: list[Event]) -> bool:
        if self.tries >= TRIES_MAX:
            return False
        self.tries += 1
        return self._run(msgspec.structs.replace(self._plan, events=tuple(events))).broken == self._broken

    def shrunk(self) -> Plan:
        """At most `TRIES_MAX` runs later."""
        events = self._fewer(list(self._plan.events))
        events = self._plainer(events)
        return msgspec.structs.replace(self._plan, events=tuple(events))

    def _fewer(self, events: list[Event]) -> list[Event]:
        parts = 2
        while len(events) >= 2:
            size = max(1, len(events) // parts)
            pieces = [events[at : at + size] for at in range(0, len(events), size)]
            for piece in pieces:
                rest = [event for event in events if event not in piece]
                if self._fails(rest):
                    events, parts = rest, max(2, parts - 1)
                    break
            else:
                if size == 1:
                    return events
                parts = min(len(events), parts * 2)
        if events and self._fails([]):
            return []
        return events

    def _plainer(self, events: list[Event]) -> list[Event]:
        for n, event in enumerate(events):
            plain = msgspec.structs.replace(event, at_s=round(event.at_s, 1))
            candidate = [*events[:n], plain, *events[n + 1 :]]
            if plain != event and self._fails(candidate):
                events = candidate
        return events


def words(plan: Plan) -> str:
    """The list as people read it."""
    lines = [f"    {event.at_s:10.3f} s  {event.kind}{event.args}" for event in plan.events]
    return "\n".join(lines)


def encode(plan: Plan) -> bytes:
    return msgspec.json.format(msgspec.json.encode(plan), indent=1) + b"\n"


def decode(raw: bytes) -> Plan:
    """Raises msgspec.ValidationError, msgspec.DecodeError."""
    return msgspec.json.decode(raw, type=Plan)
