"""What a reply is answered with over Signal: short, plain, without codes (NFR-003, R15). Pure."""

from __future__ import annotations

from supervisor.errors import HealError
from supervisor.incidents import codes, offers, phrases, plain_text
from supervisor.incidents.model import Incident, State, Tier, TierReason
from supervisor.incidents.orders import TakenReply
from supervisor.incidents.reply_text import Verb
from supervisor.incidents.views import Json
from supervisor.incidents.world import World

CHARS_MAX = 600
HINT_CHARS_MAX = 200
NAMED_MAX = 5  # incidents; so that how many more there are is not cut off
_WHY = {
    TierReason.NEEDS_APPROVAL: "the repair that fits was never approved for it",
    TierReason.CRITICAL: "it is critical, and such a thing is always told",
    TierReason.NO_RUNBOOK: "no runbook is for this",
    TierReason.REMEDIATION_FAILED: "the repair failed",
    TierReason.VERIFICATION_FAILED: "the repair ran, but it is still not well",
    TierReason.INTERRUPTED: "the repair was interrupted, and its result is unknown",
    TierReason.BREAKER_OPEN: "it was repaired too often, so that automatic repair has stopped",
    TierReason.CANARY_FAILED: "many failed at once, and the first repairs did not hold",
    TierReason.AT_ONCE: "many failed at once, so that the cause is likely the network, or healctl",
    TierReason.TELLS_ONLY: "what ran only tells or protects, it repairs nothing",
    TierReason.CANNOT_EXECUTE: "the repair that fits cannot run for it",
    TierReason.CANCELLED: "a person has cancelled the repair",
    TierReason.PAUSED: "a person has paused healctl for it",
}
_STANDS = {
    State.RESOLVED: "It is over: resolved.",
    State.SELF_RESOLVED: "It is over: it recovered by itself.",
    State.DISMISSED: "It was dismissed.",
    State.REMEDIATING: "It is being repaired now.",
    State.VERIFYING: "It was repaired and is being checked now.",
}


def refusal(error: HealError) -> str:
    hint = f" ({plain_text.clean(error.hint, HINT_CHARS_MAX)})" if error.hint else ""
    return _short(f"Nothing was done: {plain_text.clean(error.message, CHARS_MAX)}{hint}.")


def failed(error: HealError, reply: TakenReply) -> str:
    """Of an order that was taken, and came to nothing later."""
    return refusal(error).replace("Nothing was done", f"{reply.verb} was not done", 1)


def begun(reply: TakenReply, runbook_id: str, target_id: str) -> str:
    if reply.verb == Verb.UNDO:  # the ledger is asked first whether it can be
        return f"Ordered: undo of {reply.execution_id}. Its result follows."
    return _short(f"Started: {plain_text.clean(f'{runbook_id} for {target_id}')}. Its result follows.")


def outcome(world: World, reply: TakenReply, body: Json) -> str:
    """What came of an order, from the very answer that a command line would get."""
    match reply.verb:
        case Verb.OK:
            known = [it for it in map(world.incidents.get, reply.incident_ids) if it is not None]
            more = f" and {len(known) - NAMED_MAX} more" if len(known) > NAMED_MAX else ""
            spoken = ", ".join(map(phrases.what, known[:NAMED_MAX]))
            return _short(f"Acknowledged: {spoken}{more}. You are not reminded of it.")
        case Verb.DISMISS:
            return _short(f"Dismissed: {body['incident_id']}. It stays quiet until {body['dismiss_until']}.")
        case _ if "steps_executed" in body:
            return _short(_execution(body))
        case _ if "running_for" in body:
            return _short(_approved(world, body))
        case _:
            return "Done."


def _execution(body: Json) -> str:
    what = plain_text.clean(f"{body['runbook_id']} for {body['target_id']} ({body['execution_id']})")
    if body["success"] and body["verification_passed"]:
        return f"Done: {what}. It works again, verified."
    if body["success"]:
        return f"Done: {what}."
    last = body["steps_executed"][-1] if body["steps_executed"] else None
    if last is not None and last["status"] != "success":
        return f"Failed: {what}: {plain_text.clean(codes.masked(last['output']))}."
    if body["verification_passed"] is False:
        return f"Failed: {what}. Its steps worked, but it is still not well."
    return f"Failed: {what}: {body['state']}."


def _approved(world: World, body: Json) -> str:
    where = f" for {body['target_id']}" if body["target_id"] else ""
    if body["mode"] == "dry_run":
        return f"The approval of {body['runbook_id']}{where} is taken back."
    runs = "It runs once a fresh look confirms that it is needed." if body["running_for"] else "It does not run now."
    runbook = world.runbooks.get(body["runbook_id"])
    only_now = runbook is not None and runbook.once  # the next time it asks again
    how_long = "for this time only" if only_now else "from now on by itself"
    return f"Approved: {body['runbook_id']}{where}, {how_long}. {runs}"


def why(world: World, incident: Incident) -> str:
    """What was read, what was tried, and why a person is asked."""
    parts = [
        f"{phrases.what(incident)}.",
        f"Read: {plain_text.clean(incident.evidence, 150)}." if incident.evidence else "",
    ]
    done = [
        plain_text.clean(entry.note, 90) for entry in world.trails.get(incident.id, ()) if entry.actor != "notifier"
    ]
    parts.append(f"Last: {'; '.join(done[-2:])}." if done else "")
    reason = _WHY.get(incident.tier_reason) if incident.tier_reason is not None else None
    if incident.state in _STANDS:
        parts.append(_STANDS[incident.state])
    elif reason is not None and incident.tier is not Tier.SILENT:
        parts.append(f"You are asked, since {reason}.")
    runbook = offers.proposed(world, incident)
    if runbook is not None:
        steps = ", ".join(step.step_id for step in runbook.steps)
        parts.append(f"Proposed: {runbook.label} ({runbook.id}: {plain_text.clean(steps, 80)}).")
    return _short(" ".join(part for part in parts if part))


def _short(text: str) -> str:
    return plain_text.lines(codes.masked(text), CHARS_MAX - 1)
