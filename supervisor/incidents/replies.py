"""A reply over Signal: who sent it, what it is about, whether it still counts; then the same command as at the command
line, under the name "signal:NUMBER" (R7, R15, FR-005, ADR 0007). Pure.

Nothing is done unless an approver's message says one thing about one page, by quoting it or by its code, in time. Every
message is decided about once: what came of it is durable with it, so that the same message again does nothing. An
approver is always told what was done, or why nothing was; anybody else is told nothing, and leaves a line in the audit.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from supervisor import redact
from supervisor.errors import HealError, Refused, UsageError
from supervisor.incidents import agents, codes, commands, offers, plain_text, posting, reply_words
from supervisor.incidents.effects import Answer
from supervisor.incidents.model import Channel, Incident, State, Tier
from supervisor.incidents.naming import runbook_of
from supervisor.incidents.orders import Offer, SignalReply, TakenReply
from supervisor.incidents.reply_text import CHANGES, KNOWN, Said, Verb, parse
from supervisor.incidents.views import Json, execution_answer
from supervisor.incidents.world import Turn

PREFIX = "reply:"  # of the tokens under which replies give orders; no request of the control socket has it
ACTOR = "signal:"  # and of whom they are, in trail and audit; nobody else may call himself so
OLD_S = 86_400.0  # a message sent longer ago is not acted on
REMEMBERED_S = 2 * OLD_S  # and one that is older than this is not even answered: it may have been answered before
AHEAD_S = 3_600.0  # a phone's clock may be wrong by so much
BEFORE_S = 120.0  # and so much before its page a reply may seem to be sent
REPLIES_MAX = 2_000  # remembered
RATE_MAX, RATE_WINDOW_S = 20, 600.0  # of one approver
STRANGERS_MAX, STRANGERS_WINDOW_S = 10, 3_600.0  # lines in the audit
NO_REASON = "dismissed by a reply"


def seen(turn: Turn, said: SignalReply) -> None:
    """One message. The same one again changes nothing."""
    world, now_s = turn.world, turn.now.wall_s
    if said.person not in world.policy.approvers or not said.person:
        _stranger(turn, said)
        return
    if said.key in world.replies or said.timestamp_ms / 1000 < now_s - REMEMBERED_S or _is_private(said):
        return
    for old in [it for it in world.replies.values() if _forgotten(it, now_s)]:
        turn.drop_reply(old.key)
    if len(world.replies) >= REPLIES_MAX:
        world.limits["replies"] = f"{REPLIES_MAX} replies are remembered; no more is taken until some are two days old"
        return
    to = "" if said.in_group or said.own else said.person
    taken = TakenReply(said.key, said.person, now_s, to=to)
    recent = sum(it.person == said.person and it.at_wall_s > now_s - RATE_WINDOW_S for it in world.replies.values())
    turn.put_reply(taken)
    if recent > RATE_MAX:
        return  # it was told when the limit was reached
    try:
        if recent == RATE_MAX:
            raise Refused(f"{RATE_MAX} replies in {RATE_WINDOW_S / 60:.0f} minutes: none is taken for a while")
        _decide(turn, said, taken)
    except HealError as error:
        _refuse(turn, said, error)


def _is_private(said: SignalReply) -> bool:
    """A note to self that is no order: not ours to keep, or to answer."""
    if not said.own or said.quote_ms:
        return False
    try:
        parse(said.text)
    except UsageError:
        return True
    return False


def _forgotten(reply: TakenReply, now_s: float) -> bool:
    """Were it to come again, its own time would have it refused without a word."""
    sent_s = int(reply.key.rpartition(":")[2]) / 1000
    return not reply.waits and max(reply.at_wall_s, sent_s) < now_s - REMEMBERED_S - AHEAD_S


def started(turn: Turn) -> None:
    """After a restart: who ordered something that was not over yet is still to be told."""
    for reply in [it for it in turn.world.replies.values() if it.waits]:
        token = PREFIX + reply.key
        execution_id = turn.id_of("exe", token)
        if execution_id in turn.world.executions:
            turn.await_execution(execution_id, token)
        elif (ended := turn.world.ended.get(execution_id)) is not None:
            turn.effects.append(Answer(token, body=execution_answer(ended)))
        elif reply.verb == Verb.UNDO:  # the ledger was not asked yet, or its answer was lost
            args = {"execution_id": reply.execution_id}
            commands.handle(turn, token, "undo", msgspec.json.encode(args), _actor(reply.person))
        else:
            lost = Refused("what came of it is not known", "`healctl heal status`")
            turn.effects.append(Answer(token, error=lost))


def finish(turn: Turn) -> None:
    """The answers to orders that replies gave go out over Signal, in the decision that has them."""
    answers = [it for it in turn.effects if isinstance(it, Answer) and it.token.startswith(PREFIX)]
    if not answers:
        return
    turn.effects = [it for it in turn.effects if it not in answers]
    for answer in answers:
        reply = turn.world.replies.get(answer.token.removeprefix(PREFIX).partition("#")[0])
        if reply is None or not reply.waits:
            continue
        turn.put_reply(msgspec.structs.replace(reply, waits=False))
        if answer.error is not None:
            _unspend(turn, reply)
            error = answer.error if isinstance(answer.error, HealError) else HealError(str(answer.error))
            _tell(turn, reply, reply_words.failed(error, reply))
        else:
            _result(turn, reply, answer.body or {})


def _result(turn: Turn, reply: TakenReply, body: Json) -> None:
    """What came of it. What did not help is a new question, with a new code: the old one is spent."""
    text = reply_words.outcome(turn.world, reply, body)
    again = [it for it in map(turn.incident, reply.incident_ids) if it is not None]
    if "steps_executed" in body and not body["success"] and len(again) == 1:
        offer = offers.make(turn, again, Channel.SIGNAL)
        if offer is not None:
            choices = offers.choices(turn, offer)
            text = f"{plain_text.lines(text, reply_words.CHARS_MAX - len(choices) - 1)}\n{choices}"
            _tell(turn, msgspec.structs.replace(reply, offer_id=offer.id), text)
            return
    _tell(turn, reply, text)


def _decide(turn: Turn, said: SignalReply, taken: TakenReply) -> None:
    """Raises HealError for what is not done."""
    now_s, sent_s = turn.now.wall_s, said.timestamp_ms / 1000
    words = parse(said.text)
    if sent_s < now_s - OLD_S:
        raise Refused(f"that was sent {(now_s - sent_s) / 3600:.0f} hours ago", "send it again if you still mean it")
    if sent_s > now_s + AHEAD_S:
        raise Refused("the clock of your phone is ahead of mine by more than an hour")
    offer = _about(turn, said, words)
    if sent_s < offer.asked_wall_s - BEFORE_S:
        raise Refused("that was sent before the message that it is about")
    verb = words.verb or (Verb.CONFIRM if offer.of_agent else None)
    if verb is None:
        raise UsageError("that is a code and no word", f"{KNOWN}, with the code")
    taken = msgspec.structs.replace(taken, verb=verb, offer_id=offer.id, incident_ids=offer.incident_ids)
    if offer.of_agent:
        _about_agent(turn, said, taken, offer, verb)
    else:
        _about_page(turn, said, taken, offer, words, verb)


# -- which message --


def _about(turn: Turn, said: SignalReply, words: Said) -> Offer:
    """The one thing that is meant. Raises Refused, UnknownId, UsageError."""
    by_code = codes.find(turn, words.code) if words.code else None
    by_quote = _quoted(turn, said.quote_ms) if said.quote_ms else None
    if by_code is not None and by_quote is not None and by_code.id != by_quote.id:
        raise UsageError("the code is another message's than the one you quote", "quote it, or give its code")
    offer = by_code or by_quote or _only_page(turn, words.verb)
    if turn.now.wall_s > offer.until_wall_s:
        raise Refused("that message is older than a day and takes no replies any more", "`healctl heal status`")
    return offer


def _quoted(turn: Turn, quote_ms: int) -> Offer:
    for offer in turn.world.requests.values():
        if quote_ms in offer.sent_ms:
            return offer
    raise Refused(
        "the message that you quote takes no reply", "only one of mine does, for a day; or it was answered already"
    )


def _only_page(turn: Turn, verb: Verb | None) -> Offer:
    """Without quote and code: the only page that nobody has acknowledged, and for what changes nothing."""
    if verb not in (Verb.OK, Verb.WHY):
        name = verb or "that"
        raise Refused(f"{name} needs to know which message you mean", "quote it, or add its code")
    unread = [it for it in turn.world.incidents.values() if it.page_id is not None and it.acknowledged_wall_s is None]
    pages = {it.page_id for it in unread}
    if len(pages) != 1:
        count = f"{len(pages)} pages are" if pages else "no page is"
        raise Refused(f"{count} open and not acknowledged", "quote the one you mean, or add its code")
    now_s = turn.now.wall_s
    return Offer("", "", offers.REPLY, "", "", "", "", "", 0.0, now_s, tuple(incident.id for incident in unread))


# -- what it orders --


def _about_agent(turn: Turn, said: SignalReply, taken: TakenReply, offer: Offer, verb: Verb) -> None:
    if verb is Verb.WHY:
        what = f"{plain_text.clean(offer.by, 60)} asks to {agents.words(offer)}"
        _answer(turn, said, taken, f"{what}. Reply confirm, or do nothing to refuse.")
    elif verb is Verb.CONFIRM:
        _order(turn, said, taken, offer, "confirm", {"code": offer.code})
    else:
        raise UsageError(f"{verb} does not fit: an agent asks to {agents.words(offer)}", "confirm, or nothing")


def _about_page(turn: Turn, said: SignalReply, taken: TakenReply, offer: Offer, words: Said, verb: Verb) -> None:
    found = [it for it in map(turn.incident, offer.incident_ids) if it is not None]
    if verb is Verb.CONFIRM:
        raise UsageError("confirm is for what an agent asks", KNOWN)
    if verb in CHANGES:
        if len(offer.incident_ids) != 1:
            many = f"that message speaks of {len(offer.incident_ids)} incidents: {verb} needs one"
            raise Refused(many, "`healctl heal status` lists them")
        if verb in offer.spent:
            raise Refused(f"{verb} was ordered by a reply to that message already")
    match verb:
        case Verb.WHY:
            known = [_incident(turn, one) for one in offer.incident_ids]
            texts = [reply_words.why(turn.world, incident) for incident in known[:1] if incident is not None]
            more = f"\n(and {len(known) - 1} more, alike)" if len(known) > 1 else ""
            _answer(turn, said, taken, "".join(texts)[: reply_words.CHARS_MAX - 40] + more if texts else "It is over.")
        case Verb.OK:
            if not found:
                raise Refused("what that message speaks of is over", "nothing is left to acknowledge")
            for n, incident in enumerate(found):
                _order(turn, said, taken, offer, "ack", {"incident_id": incident.id}, n)
        case Verb.UNDO:
            execution_id = _to_undo(turn, offer)
            taken = msgspec.structs.replace(taken, execution_id=execution_id)
            _order(turn, said, taken, offer, "undo", {"execution_id": execution_id})
        case Verb.DISMISS:
            incident = _open(found)
            args = {"incident_id": incident.id, "reason": words.reason or NO_REASON, "for_s": words.for_s}
            _order(turn, said, taken, offer, "dismiss", args)
        case Verb.APPROVE:
            _must_be_proposed(turn, offer, _open(found))
            args = {"runbook_id": offer.runbook_id, "target_id": offer.target_id}
            _order(turn, said, taken, offer, "approve", args)
        case _:
            incident = _open(found)
            _must_be_proposed(turn, offer, incident)
            if incident.state is not State.ESCALATED:
                raise Refused("it does not wait for you now", "why tells how it stands")
            args = {"runbook_id": offer.runbook_id, "target_id": offer.target_id, "confirm": True}
            _order(turn, said, taken, offer, "execute", args)


def _open(found: list[Incident]) -> Incident:
    if not found:
        raise Refused("what that message speaks of is over")
    return found[0]


def _must_be_proposed(turn: Turn, offer: Offer, incident: Incident) -> None:
    """What the page proposed is what would be done now, unchanged."""
    if not offer.runbook_id:
        raise Refused("that message proposed nothing that could run", "why tells how it stands")
    if runbook_of(turn, offer.runbook_id).version() != offer.version:
        changed = f"{offer.runbook_id} was changed since that message was sent"
        raise Refused(changed, "look at it first: `healctl heal list_runbooks`")
    now = offers.proposed(turn.world, incident)
    if now is None or now.id != offer.runbook_id:
        instead = f"{now.id} is" if now is not None else "nothing is"
        raise Refused(f"{instead} proposed now, no longer {offer.runbook_id}", "why tells how it stands")


def _to_undo(turn: Turn, offer: Offer) -> str:
    (incident_id,) = offer.incident_ids
    last = offers.undoable(turn.world, incident_id)
    incident = _incident(turn, incident_id)
    newest = (incident.execution_id if incident is not None else "") or offer.execution_id
    found = last.id if last is not None else newest
    if not found:
        raise Refused("nothing was run that could be undone")
    return found


def _incident(turn: Turn, incident_id: str) -> Incident | None:
    """Open, or closed lately."""
    closed = (it for those in turn.world.closed.values() for it in those if it.id == incident_id)
    return turn.incident(incident_id) or next(closed, None)


def _order(
    turn: Turn, said: SignalReply, taken: TakenReply, offer: Offer, action: str, args: Mapping[str, object], n: int = 0
) -> None:
    """The same as from the command line. `finish` tells what is answered, now or once it is over."""
    token = PREFIX + said.key + (f"#{n}" if n else "")
    if n == 0:
        turn.put_reply(msgspec.structs.replace(taken, waits=True))
    before = len(turn.effects)
    commands.handle(turn, token, action, msgspec.json.encode(args), _actor(said.person))
    answers = [it for it in turn.effects[before:] if isinstance(it, Answer) and it.token == token]
    if refused := next((it.error for it in answers if it.error is not None), None):
        _note_refusal(turn, said, str(refused).partition("\n")[0])
        return
    kept = turn.world.requests.get(offer.id)
    waiting = turn.world.executions.get(turn.id_of("exe", token))
    if kept is not None and taken.verb in CHANGES:
        newest = waiting.id if waiting is not None else kept.execution_id
        spent = (*kept.spent, taken.verb)
        turn.put_request(msgspec.structs.replace(kept, spent=spent, execution_id=newest))
    if not answers:
        runbook_id = waiting.runbook.id if waiting is not None else offer.runbook_id
        _tell(turn, taken, reply_words.begun(taken, runbook_id, offer.target_id))


def _unspend(turn: Turn, reply: TakenReply) -> None:
    """What was not done may be ordered again."""
    offer = turn.world.requests.get(reply.offer_id)
    if offer is not None and reply.verb in offer.spent:
        spent = tuple(verb for verb in offer.spent if verb != reply.verb)
        turn.put_request(msgspec.structs.replace(offer, spent=spent))


# -- what is told --


def _answer(turn: Turn, said: SignalReply, taken: TakenReply, text: str) -> None:
    """To a question: nothing was changed."""
    _audit(turn, said, "")
    turn.put_reply(taken)
    _tell(turn, taken, text)


def _refuse(turn: Turn, said: SignalReply, error: HealError) -> None:
    _note_refusal(turn, said, error.message)
    _tell(turn, turn.world.replies[said.key], reply_words.refusal(error))


def _note_refusal(turn: Turn, said: SignalReply, why: str) -> None:
    """In the audit, and in the trail of what was meant, as far as that is open."""
    _audit(turn, said, why)
    text = said.text.upper()
    for offer in turn.world.requests.values():
        if said.quote_ms in offer.sent_ms or (offer.code and offer.code in text):
            for incident in map(turn.incident, offer.incident_ids):
                if incident is not None:
                    turn.note(incident, _actor(said.person), f"a reply was not carried out: {codes.masked(why)}")


def _tell(turn: Turn, reply: TakenReply, text: str) -> None:
    """`text`: without anything that looks like a code, but for what `_result` offers."""
    posting.notice(
        turn,
        Channel.SIGNAL,
        Tier.ASK,
        "reply",
        "",
        text,
        reply.incident_ids,
        offer_id=reply.offer_id,
        to=reply.to,
    )


def _audit(turn: Turn, said: SignalReply, refused: str) -> None:
    args = {"text": codes.masked(redact.text(said.text)), "refused": codes.masked(refused)}
    turn.audit(PREFIX + said.key, _actor(said.person), "reply", msgspec.json.encode(args).decode())


def _stranger(turn: Turn, said: SignalReply) -> None:
    """No answer, and nothing of what it says: a line in the audit, so many an hour."""
    world, now_s = turn.world, turn.now.steady_s
    world.strangers = [at for at in world.strangers if at > now_s - STRANGERS_WINDOW_S]
    if len(world.strangers) < STRANGERS_MAX:
        world.strangers.append(now_s)
        turn.metric("heal_reply_refused", "stranger", "refused")
        args = {"refused": "not an approver"}
        turn.audit(PREFIX + said.key, _actor(said.sender), "reply", msgspec.json.encode(args).decode())


def _actor(person: str) -> str:
    return f"{ACTOR}{person}"
