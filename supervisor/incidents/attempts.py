"""What was tried about an incident, and what came of it, in words for people (NFR-003). Pure."""

from __future__ import annotations

import msgspec

from supervisor.incidents import breaker as breakers
from supervisor.incidents import halt_words, ladder, local_time, pauses
from supervisor.incidents.judge import span
from supervisor.incidents.model import (
    ActedBy,
    Breaker,
    Execution,
    ExecutionState,
    Incident,
    Runbook,
    State,
    Target,
    Tier,
    TierReason,
)
from supervisor.incidents.phrases import MANY, NAME_CHARS_MAX, did, do, well_again
from supervisor.incidents.plain_text import QUOTE_CHARS_MAX, capital, clean, cut, ended, sentence, units
from supervisor.incidents.policy import changes
from supervisor.incidents.world import World

OWN_FAMILY = "tree"
JUST_FOUND = (State.DETECTED, State.DIAGNOSING)
HALT_CHARS_MAX = 230
TOLD_CHARS_MAX = 300
DETAIL_CHARS_MIN = 12


class Part(msgspec.Struct, frozen=True):
    """A line of a message: `lead` is said in any case; of `detail`, others' words, only what there is room for."""

    lead: str
    detail: str = ""
    detail_max: int = QUOTE_CHARS_MAX

    @property
    def wanted(self) -> int:
        """How many units its detail would take, with the space before it."""
        return units(self.text(self.detail_max)) - units(self.text(0))

    def text(self, detail_max: int) -> str:
        """`detail_max`: how many units the detail may have; less than a word of it is not worth saying."""
        limit = min(detail_max, self.detail_max)
        goes_on = self.lead.endswith(":")
        say = ended if goes_on else sentence
        said = say(self.detail, limit) if limit >= DETAIL_CHARS_MIN else ""
        if not said:
            return self.lead.removesuffix(":") + "." if goes_on else self.lead
        return f"{self.lead} {said}".strip()


def execution_of(world: World, incident: Incident) -> Execution | None:
    """Its newest execution, as long as it is remembered."""
    wanted = incident.execution_id or ""
    return world.executions.get(wanted) or world.ended.get(wanted)


def tried(world: World, incident: Incident, now_wall_s: float) -> Part:
    """What was tried and what came of it."""
    execution = execution_of(world, incident)
    if not incident.open:
        return _ended(incident, execution)
    if execution is None or incident.tier_reason in (TierReason.NO_RUNBOOK, TierReason.CANNOT_EXECUTE):
        return Part(_nothing(world, incident, now_wall_s))
    if told := halt_words.tried(execution):
        return Part("", told, HALT_CHARS_MAX)
    return _outcome(world, incident, execution)


def _ended(incident: Incident, execution: Execution | None) -> Part:
    well = well_again(incident)
    if incident.state is State.DISMISSED:
        return Part("It was dismissed.")
    if incident.acted_by is ActedBy.PERSON and (execution is None or not execution.verified):
        return Part(f"It was repaired by hand: {well}.")
    if incident.state is State.SELF_RESOLVED or execution is None:
        return Part(f"{capital(well)}." if incident.family == OWN_FAMILY else f"Nothing was done, and {well}.")
    done = did(execution.runbook, execution.target)
    if not execution.verified:
        return Part(f"healctl {done}. Now {well}.")
    proved = f"{well}, as a check has shown" if execution.to_be_proved else well
    if said := _said(execution):
        return Part(f"{capital(proved)}. healctl {done}:", said, TOLD_CHARS_MAX)
    return Part(f"healctl {done}; {proved}.")


def _said(execution: Execution | None) -> str:
    """What its steps have reported, where that is worth a summary: which process was ended, how much was freed."""
    if execution is None or not execution.runbook.summary:
        return ""
    return "; ".join(dict.fromkeys(result.output for result in execution.results if result.output))


def _outcome(world: World, incident: Incident, execution: Execution) -> Part:
    """Of an incident that is open still."""
    to_do, done = do(execution.runbook, execution.target), did(execution.runbook, execution.target)
    last = execution.results[-1] if execution.results else None
    times = _times(world, incident, execution)
    if execution.exit_text:
        return Part(f"healctl tried to {to_do}{times}. It ended again:", execution.exit_text)
    if incident.state is State.REMEDIATING:
        return Part(f"healctl is trying to {to_do}, and has not finished yet.")
    if incident.state is State.VERIFYING and execution.verified is None:
        return Part(f"healctl {done}. Whether that helped is not known yet.")
    if last is not None and last.cancelled_by:
        return Part(f"healctl began to {to_do}, and was stopped:", last.output)
    if last is not None and not last.success:
        return Part(f"healctl tried to {to_do}{times}. It failed:", last.output)
    if last is not None and execution.state is ExecutionState.SUCCEEDED and not execution.runbook.verifies:
        return Part(f"healctl {done}:", last.output, TOLD_CHARS_MAX)
    if execution.verified is False:
        helped = "last" if times else "help"
        return Part(f"healctl {done}{times}, but that did not {helped}:", _said(execution), TOLD_CHARS_MAX)
    if execution.state is ExecutionState.EXPIRED:
        return Part(f"healctl wanted to {to_do}, and could not begin.")
    return Part(f"healctl began to {to_do} and was interrupted. Whether it took effect is not known.")


def breaker_of(world: World, incident: Incident) -> Breaker | None:
    """The breaker that keeps its last repair from being tried again."""
    execution = execution_of(world, incident)
    runbook_id = execution.runbook.id if execution is not None else incident.runbook_id or ""
    if execution is not None:
        return breakers.standing(world, runbook_id, execution.resource)
    return next((it for it in world.breakers.values() if it.runbook_id == runbook_id and not it.half_open), None)


def _times(world: World, incident: Incident, execution: Execution) -> str:
    """How often, where that is why no more is tried by itself."""
    breaker = breaker_of(world, incident) if incident.tier_reason is TierReason.BREAKER_OPEN else None
    if breaker is None:
        return ""
    return _count(world, breaker)


def _count(world: World, breaker: Breaker) -> str:
    count = breakers.count(world, breaker.opened_steady_s, breaker.runbook_id, breaker.resource)
    where = ", for all targets together," if breaker.resource == breakers.WHOLE_RUNBOOK else ""
    return f" {count} times{where} within {span(world.policy.breaker_window_s)}" if count > 1 else ""


def _nothing(world: World, incident: Incident, now_wall_s: float) -> str:
    """Why nothing was run."""
    match incident.tier_reason:
        case TierReason.NO_RUNBOOK | TierReason.TELLS_ONLY if incident.family == OWN_FAMILY:
            return "healctl cannot repair this by itself; it goes on with everything else."
        case TierReason.NO_RUNBOOK:
            return "Nothing was tried: healctl knows no repair for this."
        case TierReason.CANNOT_EXECUTE:
            return "Nothing was tried: healctl has not been told how to restart it."
        case TierReason.NEEDS_APPROVAL:
            return "Nothing was tried: the repair needs your approval."
        case TierReason.AT_ONCE:
            return "Nothing was tried: so many fail at once that the cause is likely the network, or healctl itself."
        case TierReason.CANARY_FAILED if incident.family in world.pauses:
            why = clean(world.pauses[incident.family].reason)
            return f"Nothing was tried: repairs of {MANY.get(incident.family, 'its kind')} are on hold ({why})."
        case TierReason.PAUSED:
            return f"Nothing was tried: {_paused(world, incident, now_wall_s)}."
        case TierReason.BREAKER_OPEN:
            return _stopped(world, incident)
        case _:
            return _not_yet(world, incident, now_wall_s)


def _not_yet(world: World, incident: Incident, now_wall_s: float) -> str:
    """It has been found just now: what will be tried, or why nothing will."""
    if incident.tier is Tier.INFORM and incident.state is State.DIAGNOSING:
        return "Nothing was tried: healctl cannot tell whether it is still so, and goes on looking."
    target, rung = world.target(incident.target_id), ladder.first(world, incident)
    if target is None or rung is None or incident.state not in JUST_FOUND:
        return "Nothing was tried yet."
    if not rung.runs:
        return "Nothing was tried: the repair needs your approval."
    if held_back(world, target, rung.runbook):
        return f"Nothing was tried: {_paused(world, incident, now_wall_s)}."
    return f"Nothing was tried yet; healctl will now try to {do(rung.runbook, target)}."


def held_back(world: World, target: Target, runbook: Runbook) -> bool:
    """A person's pause keeps it from being run."""
    return changes(runbook) and pauses.standing(world, target) is not None


def _stopped(world: World, incident: Incident) -> str:
    """Its breaker was open before it began: earlier ones of the kind did not last."""
    breaker, runbook = breaker_of(world, incident), world.runbooks.get(incident.runbook_id or "")
    if breaker is None or runbook is None:
        return "Not tried again: such repairs did not last lately."
    done = did(runbook, world.target(incident.target_id))
    return f"Not tried again: healctl {done}{_count(world, breaker)}, and it did not last."


def _paused(world: World, incident: Incident, now_wall_s: float) -> str:
    """By whom, until when, and why."""
    target = world.target(incident.target_id)
    found = pauses.standing(world, target) if target is not None else None
    if found is None:
        return "repairs were paused"
    what = {"all": "all repairs", "family": f"repairs of all {MANY.get(found.name, 'such targets')}"}
    until_s = found.until_wall_s
    until = f" until {local_time.at(world.policy.zone, until_s, now_wall_s)}" if until_s is not None else ""
    why = f" ({clean(found.reason)})" if found.reason else ""
    paused = what.get(found.scope.value, "its repair")
    return f"{cut(clean(found.by), NAME_CHARS_MAX)} has paused {paused}{until}{why}"
