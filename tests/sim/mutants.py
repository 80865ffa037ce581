"""Engines and hands that are wrong in one way each, to show that the invariants find them out.

Each names the invariants that may find it out, and what is replaced while a run lasts.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import msgspec

from remediators import gateway, run, service
from supervisor import healer
from supervisor.incidents import breaker, detect, escalation, halts, ladder, pauses, storm, verify
from supervisor.incidents.model import Authority, Channel, Incident, OutboxRow
from supervisor.incidents.policy import Permission
from supervisor.incidents.world import Turn
from tests.sim.loop import replaced
from tests.sim.schedule import Event


def _everything_may_run() -> AbstractContextManager[Any]:
    real = ladder.permission

    def permission(*args: Any, **named: Any) -> Permission:
        found = real(*args, **named)
        return found if found.authority is not None else Permission(Authority.APPROVED, "wrong")

    return replaced((ladder, "permission", permission))


def _blind_to_life() -> AbstractContextManager[Any]:
    """R3 (c) for what lives, too, and no fence before its end."""

    async def not_refused(ctx: Any) -> None:
        pass

    real = ladder.permission

    def permission(*args: Any, **named: Any) -> Permission:
        return real(*args, **{**named, "not_running": True})

    return replaced(
        (ladder, "permission", permission),
        (service, "_refuse_to_end", lambda ctx, live: None),
        (gateway, "_refuse_alive", not_refused),
    )


def _every_reading_is_fresh() -> AbstractContextManager[Any]:
    real = detect.on_verdict

    def on_verdict(turn: Turn, verdict: Any, reading: Any, *, fresh: bool) -> None:
        real(turn, verdict, reading, fresh=fresh)
        if not fresh:
            real(turn, verdict, reading, fresh=True)

    return replaced((detect, "on_verdict", on_verdict))


def _pages_twice() -> AbstractContextManager[Any]:
    real = escalation.tell

    def tell(turn: Turn, incident: Incident, kind: str) -> Incident:
        return real(turn, msgspec.structs.replace(incident, page_id=None), kind)

    return replaced((escalation, "tell", tell))


def _counts_every_clear() -> AbstractContextManager[Any]:
    def count_clear(turn: Turn, incident: Incident, reading: Any) -> Incident:
        return turn.update(incident, clear_readings=incident.clear_readings + 3)

    return replaced((verify, "count_clear", count_clear))


def _tells_no_steps() -> AbstractContextManager[Any]:
    real = Turn.note

    def note(self: Turn, incident: Incident, actor: str, note_: str, result: Any = None, **more: Any) -> Incident:
        return incident if result is not None else real(self, incident, actor, note_, result, **more)

    return replaced((Turn, "note", note))


def _does_before_it_is_written() -> AbstractContextManager[Any]:
    real = healer.HealerWorker._decide

    def decide(self: Any, event: Any, ack: Any = None) -> None:
        commit = self._committer.commit

        def at_once(decision: Any, done: Any) -> None:
            self._carry_out(decision.effects)
            commit(decision, done)

        self._committer.commit = at_once
        try:
            real(self, event, ack)
        finally:
            self._committer.commit = commit

    return replaced((healer.HealerWorker, "_decide", decide))


def _nobody_is_paged() -> AbstractContextManager[Any]:
    real = Turn.put_row

    def put_row(self: Turn, row: OutboxRow, **changes: Any) -> OutboxRow:
        return row if row.channel is Channel.SIGNAL and row.kind == "page" else real(self, row, **changes)

    return replaced((Turn, "put_row", put_row))


def _taken(owner: Any, name: str, instead: Any) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: replaced((owner, name, instead))


class Mutant(msgspec.Struct, frozen=True):
    """`breaks`: what it may be found out by. `events`: on the site "services", where the seeds need long to find it."""

    breaks: frozenset[str]
    hook: Callable[[], AbstractContextManager[Any]]
    events: tuple[Event, ...] = ()


def _mutant(hook: Callable[[], AbstractContextManager[Any]], *breaks: str, events: tuple[Event, ...] = ()) -> Mutant:
    return Mutant(frozenset(breaks), hook, events)


_FLAPS = tuple(Event(10.0 + 120.0 * n, "kill", ("auto-a", True)) for n in range(5))
_PAUSED = (Event(10.0, "pause", ("target", "auto-a", None)), Event(12.0, "kill", ("auto-a", True)))
_DISMISSED = (
    Event(10.0, "kill", ("bare", True)),
    Event(20.0, "dismiss", ("bare", 0, "matthew")),
    Event(30.0, "revive", ("bare",)),
    Event(40.0, "look", ("bare",)),
    Event(60.0, "kill", ("bare", True)),
)


MUTANTS: dict[str, Mutant] = {
    "no breaker opens": _mutant(_taken(breaker, "exhausted", lambda *args: None), "breakers hold", events=_FLAPS),
    "no canaries": _mutant(_taken(storm, "holds", lambda *args: False), "storms are bounded"),
    "pauses are ignored": _mutant(_taken(pauses, "standing", lambda *args: None), "a pause holds", events=_PAUSED),
    "everything may run": _mutant(_everything_may_run, "nothing runs that R3 forbids"),
    "blind to life": _mutant(_blind_to_life, "no false action"),
    "every reading is fresh": _mutant(_every_reading_is_fresh, "no step without a fresh failing reading"),
    "old grounds": _mutant(
        _taken(run, "check_grounds", lambda execution: None),
        "no step without a fresh failing reading",
        "no false action",
    ),
    "pages twice": _mutant(_pages_twice, "one page per incident"),
    "counts every clear reading": _mutant(_counts_every_clear, "three clear readings for what comes and goes"),
    "steps are not told": _mutant(_tells_no_steps, "every step is in the trail"),
    "does before it is written": _mutant(_does_before_it_is_written, "nothing leaves before it is written"),
    "nobody is paged": _mutant(_nobody_is_paged, "a page is never lost", "nothing leaves before it is written"),
    "dismissed, and told again": _mutant(
        _taken(detect, "_earlier", lambda *args: []), "what was dismissed stays quiet"
    ),
    "nothing is halted": _mutant(_taken(halts, "order", lambda *args: None), "a damaged database is halted at once"),
    "a second start": _mutant(_taken(service, "_alive", lambda ctx: []), "no duplicate executions"),
}
