"""What is a person's to decide about an incident, with the shortest command for each choice (NFR-003). Pure.

Every command stands at the end of a line of its own, after ": ", and is what the command line takes as it stands (a
test parses each). A name that could be read as anything else than itself is never put into one.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

import msgspec

from supervisor.incidents import halt_words, ladder, local_time, pauses
from supervisor.incidents.attempts import JUST_FOUND, breaker_of, held_back
from supervisor.incidents.judge import span
from supervisor.incidents.model import AnomalyType, Incident, Runbook, State, Tier, TierReason
from supervisor.incidents.phrases import do, name_of
from supervisor.incidents.plain_text import clean
from supervisor.incidents.readings import ProcessData
from supervisor.incidents.world import World

HINT_CHARS_MAX = 80
COMMAND_CHARS_MAX = 120
STATUS = "healctl heal status"
_TYPED = re.compile(r"[!-~]+")  # what stands on every keyboard


class Choice(msgspec.Struct, frozen=True):
    label: str
    command: str


class Decision(msgspec.Struct, frozen=True):
    """`lead`: what there is to decide, or that there is nothing; `choices`: what may be done about it."""

    lead: str
    choices: tuple[Choice, ...] = ()

    def text(self, replies: str = "") -> str:
        """`replies`: a line that says what can be answered from the phone; it then stands for the commands."""
        if replies:
            return f"{self.lead}\n{replies}"
        return "\n".join((self.lead, *(f"- {choice.label}: {choice.command}" for choice in self.choices)))


def decide(world: World, incident: Incident, now_wall_s: float) -> Decision:
    """Exactly what is the person's to decide."""
    return _restore(world, incident) or _reap(world, incident) or _by_state(world, incident, now_wall_s)


def add_to(status: dict[str, Any], world: World, now_wall_s: float) -> dict[str, Any]:
    """`views.status` for whoever asks it: of each incident that waits for a person `decide`, as in its page."""
    for row in status["open_incidents"]:
        incident = world.incidents[row["id"]]
        waits = incident.state is State.ESCALATED
        row["decide"] = decide(world, incident, now_wall_s).text() if waits else None
    return status


def command(*words: str) -> str:
    """`healctl` and these words, as a shell takes them; empty when one of them cannot be typed as it is."""
    text = shlex.join(("healctl", *words))
    return text if len(text) <= COMMAND_CHARS_MAX and all(map(_TYPED.fullmatch, words)) else ""


def _choices(*offered: tuple[str, str]) -> tuple[Choice, ...]:
    """Those of (label, command) whose command can be typed; where one cannot, the way to look."""
    able = tuple(Choice(label, text) for label, text in offered if text)
    return able if len(able) == len(offered) else (*able, Choice("see what there is", STATUS))


def _approve(runbook: Runbook, incident: Incident) -> str:
    return command("heal", "approve", runbook.id, "--target", incident.target_id)


def _let_it(world: World, runbook: Runbook, incident: Incident) -> tuple[str, list[tuple[str, str]]]:
    """The question whether it may, and how to say yes: only now, or from now on, which is another thing (R3 d)."""
    question = f"Decide: {do(runbook, world.target(incident.target_id))}?"
    if runbook.once:
        return question, [("yes", _approve(runbook, incident))]
    once = ("yes, this once", _execute(runbook.id, incident.target_id))
    return question, [once, ("yes, and always from now on", _approve(runbook, incident))]


def _look(runbook: Runbook, incident: Incident) -> tuple[str, str]:
    return "see first what that would do", command("heal", "dry_run", runbook.id, "--target", incident.target_id)


def _handle(world: World, incident: Incident) -> str:
    """By what a person names it: its target, where that has one open incident only, else its id."""
    mine = world.by_target.get(incident.target_id, set())
    return incident.target_id if len(mine) <= 1 and _TYPED.fullmatch(incident.target_id) else incident.id


def ack(world: World, incident: Incident) -> tuple[str, str]:
    return "I am on it, stop reminding me", command("ack", _handle(world, incident))


def _dismiss(world: World, incident: Incident) -> tuple[str, str]:
    """By its id: an old page must not silence what is new about the same target."""
    quiet = span(world.policy.dismiss_window_s)
    return f"leave it, quiet for {quiet}", command("heal", "dismiss", incident.id, "--reason", "known")


def _let_be(world: World, incident: Incident) -> list[tuple[str, str]]:
    """What can be done about every incident that waits: only a page is repeated, and only that is acknowledged."""
    paged = incident.tier is Tier.PAGE and incident.acknowledged_wall_s is None
    return [*([ack(world, incident)] if paged else []), _dismiss(world, incident)]


def _execute(runbook_id: str, target_id: str) -> str:
    return command("heal", "execute", runbook_id, "--target", target_id, "--confirm")


def _restore(world: World, incident: Incident) -> Decision | None:
    """How a database that is halted is restored; None when that is not what this incident is about."""
    if not halt_words.restorable(world, incident):
        return None
    runbook = world.runbooks[halt_words.RESTORE_RUNBOOK]
    question, answers = _let_it(world, runbook, incident)
    return Decision(question, _choices(*answers, _look(runbook, incident), ack(world, incident)))


def _reap(world: World, incident: Incident) -> Decision | None:
    """R12: what its parent did not reap when it was asked to goes with the parent: which one, and how to restart it."""
    tried = incident.tier_reason in (TierReason.VERIFICATION_FAILED, TierReason.BREAKER_OPEN)
    reading = world.readings.get(incident.target_id)
    data = reading.data if reading is not None else None
    if incident.state is not State.ESCALATED or incident.anomaly is not AnomalyType.PROCESS_ZOMBIE or not tried:
        return None
    if not isinstance(data, ProcessData) or not data.zombies:
        return None
    zombie = max(data.zombies, key=lambda zombie: zombie.seen_for_s)
    parent = f"{clean(zombie.parent_name, 40)} (process {zombie.parent_pid})"
    service = _service_of(world, zombie.parent_pid)
    lead = f"Only its parent {parent} can clean it up, and did not. Decide"
    if not service:
        return Decision(f"{lead}: restart the parent by hand, or:", _choices(*_let_be(world, incident)))
    restart = (f"restart {clean(service, 40)}", _execute("rb-restart-service", service))
    return Decision(f"{lead}:", _choices(restart, *_let_be(world, incident)))


def _service_of(world: World, pid: int) -> str:
    """The service with a recipe whose live process this is, by its newest reading; empty for none."""
    for target in world.targets.values():
        reading = world.readings.get(target.target_id)
        data = reading.data if reading is not None else None
        live = isinstance(data, ProcessData) and data.process is not None and data.process.pid == pid
        if live and target.recipe is not None:
            return target.target_id
    return ""


def _by_state(world: World, incident: Incident, now_wall_s: float) -> Decision:
    more = ladder.following(world, incident)
    if not incident.open:
        return Decision("Nothing to decide.")
    if incident.state in JUST_FOUND and (found := _just_found(world, incident, now_wall_s)) is not None:
        return found
    if incident.state is not State.ESCALATED:
        if more is not None and not more.runs:
            then = (do(more.runbook, world.target(incident.target_id)), _approve(more.runbook, incident))
            return Decision("Nothing to decide yet. If it stays so:", _choices(then))
        again = ""
        if incident.tier is Tier.PAGE:
            again = f" If it is not over in {span(world.policy.repeats_s[0])}, you hear of it again."
        return Decision(f"Nothing to decide yet.{again}", _choices(("see how it goes", STATUS)))
    if incident.tier_reason in ladder.CLIMBS and more is not None:
        if more.runs:
            next_is = do(more.runbook, world.target(incident.target_id))
            return Decision(f"Nothing to decide yet: healctl will try to {next_is} next, by itself.")
        question, answers = _let_it(world, more.runbook, incident)
        offered = [*answers, _look(more.runbook, incident), *_let_be(world, incident)[:1]]
        return Decision(question, _choices(*offered))
    return _waiting(world, incident, now_wall_s)


def _just_found(world: World, incident: Incident, now_wall_s: float) -> Decision | None:
    """What can be said already about one that nothing will be run for by itself; None where something will be."""
    rung, target = ladder.first(world, incident), world.target(incident.target_id)
    if rung is None or target is None:
        return _waiting(world, incident, now_wall_s)
    if not rung.runs:
        question, answers = _let_it(world, rung.runbook, incident)
        return Decision(question, _choices(*answers, *_let_be(world, incident)[:1]))
    if held_back(world, target, rung.runbook):
        return Decision("Decide:", _choices(*_lift(world, incident), *_let_be(world, incident)))
    return None


def _waiting(world: World, incident: Incident, now_wall_s: float) -> Decision:
    """It waits for a person, and no other repair follows."""
    runbook = world.runbooks.get(incident.runbook_id or "")
    let_be = _let_be(world, incident)
    hint = clean(incident.hint, HINT_CHARS_MAX)
    by_hand = hint or "repair it by hand"
    match incident.tier_reason:
        case TierReason.NEEDS_APPROVAL if runbook is not None:
            question, answers = _let_it(world, runbook, incident)
            return Decision(question, _choices(*answers, *let_be[:1]))
        case TierReason.TELLS_ONLY if incident.tier is Tier.INFORM:
            return Decision(f"Nothing to decide now. What you can do: {hint}.")
        case TierReason.PAUSED:
            return Decision("Decide:", _choices(*_lift(world, incident), *let_be))
        case TierReason.BREAKER_OPEN if runbook is not None:
            again = (f"{do(runbook, world.target(incident.target_id))} now", _execute(runbook.id, incident.target_id))
            lead = (
                f"healctl tries once more {_next_try(world, incident, now_wall_s)}. Decide: find out why it fails, or:"
            )
            return Decision(lead, _choices(again, *let_be))
        case TierReason.NO_RUNBOOK | TierReason.CANNOT_EXECUTE:
            return Decision(f"Decide: {by_hand}, or:", _choices(*_seen_by(incident), *let_be))
        case _ if runbook is not None:
            again = (do(runbook, world.target(incident.target_id)), _execute(runbook.id, incident.target_id))
            return Decision("Decide: repair it by hand, or try again:", _choices(again, *let_be))
        case _:
            return Decision(f"Decide: {by_hand}, or:", _choices(*let_be))


_SEEN_BY = {
    AnomalyType.BACKUP_OVERDUE: ("make one now, or see why none can be made", ("db", "backup", "{name}")),
    AnomalyType.DELIVERY_FAILING: ("see what waits", ("status",)),
    AnomalyType.LIMIT_REACHED: ("see what is open", ("heal", "status")),
}


def _seen_by(incident: Incident) -> list[tuple[str, str]]:
    """What shows more about our own house's trouble."""
    label, words = _SEEN_BY.get(incident.anomaly, ("", ()))
    name = incident.target_id.partition(":")[2]
    return [(label, command(*(word.format(name=name) for word in words)))] if words else []


def _next_try(world: World, incident: Incident, now_wall_s: float) -> str:
    breaker = breaker_of(world, incident)
    if breaker is None:
        return "within the hour"
    due_s = now_wall_s + max(0.0, breaker.half_open_steady_s - breaker.opened_steady_s)
    if breaker.opened_wall_s:
        due_s = breaker.opened_wall_s + breaker.half_open_steady_s - breaker.opened_steady_s
    return f"at {local_time.at(world.policy.zone, due_s, now_wall_s)}"


def _lift(world: World, incident: Incident) -> list[tuple[str, str]]:
    """How the pause ends that keeps it from being repaired."""
    target = world.target(incident.target_id)
    found = pauses.standing(world, target) if target is not None else None
    return [("end the pause and repair it", pauses.lift_command(found))] if found is not None else []


def of_many(world: World, incidents: list[Incident]) -> Decision:
    """About those of one page (DESIGN §2.8): `incidents[0]` carries its reminders."""
    first = incidents[0]
    runbook = world.runbooks.get(first.runbook_id or "")
    offered = [ack(world, first)] if first.acknowledged_wall_s is None else []
    if runbook is not None and any(step.effect.value in ("change", "destroy") for step in runbook.steps):
        label = f"repair one, e.g. {name_of(first.target_id, 40)}"
        offered.insert(0, (label, _execute(runbook.id, first.target_id)))
    return Decision("Decide: look for what they have in common, or:", _choices(*offered))
