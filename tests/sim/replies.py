"""ADR 0007, judged from outside: what a reply by phone may do, when, and how often; and that it is told.

Nothing here asks the engine. What a message means is known from what arrived on the phone: the code that it names, or
the message that it quotes.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.incidents import records as r
from supervisor.incidents.model import Incident, OutboxRow, State
from supervisor.incidents.orders import AuditEntry, TakenReply
from supervisor.messages import Commit
from tests.sim.ledgers import LEDGER_NAME

if TYPE_CHECKING:
    from tests.sim.invariants import Watch
    from tests.sim.phone import Message, Page

OLD_S, AHEAD_S, BEFORE_S, FORGOTTEN_S = 86_400.0, 3_600.0, 120.0, 2 * 86_400.0
ACTOR = "signal:"
# What each word orders; "" is a code alone.
ORDERS = {"ok": "ack", "run": "execute", "": "confirm"} | {it: it for it in ("approve", "undo", "dismiss", "confirm")}
# Why nothing is done: a piece of what the person is told, by the name that coverage has for it.
REFUSALS = {
    "old": "hours ago",
    "ahead": "the clock of your phone is ahead",
    "early": "that was sent before the message",
    "no word": "that is a code and no word",
    "crossed": "the code is another message's",
    "two": "two of my messages were sent",
    "unquotable": "the message that you quote takes no reply",
    "which": "needs to know which message",
    "none open": "no page is open and not acknowledged",
    "many open": "pages are open and not acknowledged",
    "page too old": "that message is older than a day",
    "an agent's": "does not fit: an agent asks",
    "a page's": "confirm is for what an agent asks",
    "over": "what that message speaks of is over",
    "many": "that message speaks of",
    "spent": "was ordered by a reply to that message already",
    "nothing proposed": "that message proposed nothing",
    "another proposed": "proposed now, no longer",
    "not waiting": "it does not wait for you now",
    "nothing to undo": "nothing was run that could be undone",
    "unknown code": "no request waits for that code",
    "not understood": "I do not understand",
    "a question": "that may be a question",
    "two words": "which of them?",
    "too many": "20 replies in",
}
RARE = frozenset({"another proposed", "not waiting"})  # not asked of every campaign: once in some thousand seeds
NOT_ITS_OWN = frozenset({r.AddAudit, r.AddMetric, r.PutTally})  # all that a stranger's message leaves
REPLIES = (
    *(f"reply {name}" for name in {**ORDERS, "why": ""} if name),
    *(f"refusal {name}" for name in REFUSALS if name not in RARE),
)


def id_of(prefix: str, key: str) -> str:
    """Of what the reply of this key leads to, in the simulated ledger."""
    text = f"{LEDGER_NAME.hex()}:reply:{key}"
    return f"{prefix}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


class Replies:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._said: dict[str, Message] = {}  # by its key
        self._by_order: dict[str, Message] = {}  # by the id of its line in the audit
        self._pages: defaultdict[str, list[Page]] = defaultdict(list)  # offer -> its messages on the phone
        self._coded: dict[str, str] = {}  # code -> offer
        self._offers: dict[str, set[str]] = {}  # offer -> of what its first message spoke, as far as it was open
        self._ordered: dict[str, AuditEntry] = {}
        self._used: dict[tuple[str, str], Message] = {}  # offer, action -> by which message
        self._was: dict[str, State] = {}  # incident -> its state before the one it has
        self.taken: dict[str, TakenReply] = {}

    def _fail(self, name: str, text: str) -> None:
        self._watch.fail(name, text)

    # -- the phone --

    def arrived(self, page: Page) -> None:
        self._pages[page.row.offer_id].append(page)
        if page.code:
            self._coded[page.code] = page.row.offer_id

    def said(self, message: Message) -> None:
        self._said[message.key] = message
        for n in range(20):  # an "ok" to a page for many acknowledges each
            self._by_order[id_of("ord", f"{message.key}#{n}" if n else message.key)] = message

    def _meant(self, message: Message) -> set[str]:
        """The offers that it can mean: none, one, or those of two messages of one moment."""
        quoted = {
            offer_id for offer_id, pages in self._pages.items() if any(p.at_ms == message.quote_ms for p in pages)
        }
        if not message.code:
            return quoted
        coded = {self._coded[message.code]} if message.code in self._coded else set()
        return coded & quoted if message.quote_ms else coded

    # -- what becomes durable --

    def moved(self, old: Incident | None, new: Incident) -> None:
        if old is not None:
            self._was[new.id] = old.state

    def new_row(self, row: OutboxRow) -> None:
        open_now = {one for one in row.covers if one in self._watch.incidents and self._watch.incidents[one].open}
        self._offers.setdefault(row.offer_id, open_now or set(row.covers))

    def durable(self, commit: Commit, orders: list[AuditEntry]) -> None:
        """`orders`: its lines of the audit."""
        mine = [order for order in orders if order.actor.startswith(ACTOR)]
        for order in mine:
            self._order(order, commit)
        for record in commit.records:
            if isinstance(record, r.PutReply):
                self._takes(record.reply, commit, mine)

    def _takes(self, it: TakenReply, commit: Commit, orders: list[AuditEntry]) -> None:
        message, before = self._said.get(it.key), self.taken.get(it.key)
        self.taken[it.key] = it
        if message is None or message.person != it.person or not it.person:
            self._fail("only what an approver said is taken", f"{it.key} of {it.person!r}")
        elif before is None and it.verb != "dropped" and not orders and not commit.seed:
            self._fail("what was replied is in the audit", it.key)
        words = [one.row for one in commit.records if isinstance(one, r.PutOutbox) and one.row.kind == "reply"]
        if not it.waits and (before is None or before.waits) and it.verb != "dropped" and not words and not commit.seed:
            self._fail("whoever replied is told", it.key)

    def _order(self, order: AuditEntry, commit: Commit) -> None:
        message = self._by_order.get(order.id)
        if message is None:
            self._fail("what a reply does was said", f"{order.action} by {order.actor}: {order.args}")
        elif not message.person:
            self._stranger(message, order, commit)
        elif order.actor != f"{ACTOR}{message.person}":
            self._fail("what was replied has its actor", f"{order.actor} for {message.key}")
        elif order.action == "reply":
            self._nothing_done(message, msgspec.json.decode(order.args)["refused"])
        elif not commit.seed or order.id not in self._ordered:
            self._done(message, order, commit)

    def _stranger(self, message: Message, order: AuditEntry, commit: Commit) -> None:
        others = sorted({type(record).__name__ for record in commit.records if type(record) not in NOT_ITS_OWN})
        if order.action != "reply" or "text" in order.args or others:
            self._fail("a stranger changes nothing", f"{message.key}: {order.action} {order.args} {others}")
        self._watch.coverage.see("reply", "of a stranger")

    def _nothing_done(self, message: Message, why: str) -> None:
        see = self._watch.coverage.see
        if not why:
            see("reply", message.word)
            return
        see("refusal", next((name for name, piece in REFUSALS.items() if piece in why), f"else: {why[:60]}"))

    def _done(self, message: Message, order: AuditEntry, commit: Commit) -> None:
        """It was carried out: once, in time, for what it meant."""
        if order.id in self._ordered and order.action != "undo":  # of which the ledger is asked again after a crash
            self._fail("a reply acts once", f"{message.key}: {order.action} {order.args}")
        self._ordered[order.id] = order
        if ORDERS.get(message.word) != order.action:
            self._fail("a reply does what it says", f"{message.word!r} did {order.action}")
        self._watch.coverage.see("reply", message.word or "confirm")
        self._in_time(message, order)
        args = msgspec.json.decode(order.args)
        if order.action == "ack":
            self._acknowledges(message, order, commit, args["incident_id"])
            return
        meant = self._meant(message)
        if len(meant) != 1:
            self._fail("a reply means one page", f"{message.key}: {order.action}, which may mean {sorted(meant)}")
            return
        (offer_id,) = meant
        self._once(message, order, offer_id)
        self._about(message, order, commit, offer_id, args)

    def _in_time(self, message: Message, order: AuditEntry) -> None:
        late_s = order.at_wall_s - message.at_ms / 1000
        if not -AHEAD_S - 1.0 <= late_s <= OLD_S + 1.0:
            self._fail("a reply is good for a day", f"{message.key} {late_s:.0f} s after it was sent")
        for offer_id in self._meant(message):
            asked_s = min(page.row.created_wall_s for page in self._pages[offer_id])
            if order.at_wall_s - asked_s > OLD_S + 1.0:
                self._fail("a page takes replies for a day", f"{offer_id}: {order.action}")
            if message.at_ms / 1000 < asked_s - BEFORE_S - 1.0:
                self._fail("a reply comes after its page", f"{message.key}: {order.action}")

    def _once(self, message: Message, order: AuditEntry, offer_id: str) -> None:
        """Each word that changes something, once for each page."""
        first = self._used.setdefault((offer_id, order.action), message)
        if first is message:
            return
        before = self._watch.executions.get(id_of("exe", first.key))
        if order.action == "undo" and (before is None or not before.verified):  # it could not be done
            self._used[offer_id, order.action] = message
        else:
            self._fail("a code is good for one use", f"{order.action} by {first.key}, and by {message.key}")

    def _acknowledges(self, message: Message, order: AuditEntry, commit: Commit, incident_id: str) -> None:
        covers = {one for offer_id in self._meant(message) for one in self._offers[offer_id]}
        bare = not message.code and not message.quote_ms
        incident = self._watch.incidents[incident_id]
        if bare and not self._watch.phone[incident.page_id or ""]:
            self._fail("what nobody has read is not acknowledged", f"{incident_id} by {message.key}")
        if not bare and incident_id not in covers:
            self._fail("a reply acts on what it means", f"{message.key} acknowledges {incident_id}, not of {covers}")
        self._told(order, commit, incident_id, "acknowledged")

    def _about(self, message: Message, order: AuditEntry, commit: Commit, offer_id: str, args: dict[str, Any]) -> None:
        watch, covers = self._watch, self._offers[offer_id]
        if order.action == "confirm":
            if covers:
                self._fail("a reply acts on what it means", f"{message.key} confirms a page, {offer_id}")
            return
        incident_id = next(iter(covers), "")
        incident = watch.incidents.get(incident_id)
        if len(covers) != 1 or incident is None:
            self._fail("a reply acts on what it means", f"{message.key}: {order.action} for {sorted(covers)}")
            return
        run = watch.executions.get(args.get("execution_id", ""))
        about = (args.get("incident_id", incident_id), args.get("target_id", incident.target_id))
        if about != (incident_id, incident.target_id) or (run is not None and run.incident_id != incident_id):
            self._fail("a reply acts on what it means", f"{message.key}: {order.args} for {incident_id}")
        if order.action == "dismiss":
            self._told(order, commit, incident_id, "dismissed")
        elif order.action == "execute":
            self._begins(message, order, commit, incident)

    def _begins(self, message: Message, order: AuditEntry, commit: Commit, incident: Incident) -> None:
        """What is over, or is being repaired, is not run for."""
        begun = self._watch.executions.get(id_of("exe", message.key))
        waited = self._was.get(incident.id) is State.ESCALATED and incident.open
        if begun is None or begun.incident_id != incident.id or not waited:
            text = f"{message.key}: {order.args} for {incident.id}, which was {self._was.get(incident.id)}"
            self._fail("a reply runs for what waits for it", text)
        self._told(order, commit, incident.id, "executed")

    def _told(self, order: AuditEntry, commit: Commit, incident_id: str, what: str) -> None:
        """In the trail, with its actor."""
        entries = [one.entry for one in commit.records if isinstance(one, r.AddTrail)]
        if any(it.incident_id == incident_id and order.actor in (it.actor, *it.note.split()) for it in entries):
            return
        touched = any(isinstance(one, r.PutIncident) and one.incident.id == incident_id for one in commit.records)
        if what != "acknowledged" or touched:  # what is acknowledged already has its line
            self._fail("what was replied is in the trail", f"{what} by {order.actor}: {incident_id}")

    # -- what is taken for done, and the end --

    def acknowledged(self, key: str) -> None:
        """The notifier hears that the healer has it: then it is written down, or nothing that is kept."""
        message = self._said[key]
        loop = self._watch.loop
        forgotten = loop.time() + self._watch.world.latest_wall_offset_s - message.at_ms / 1000 > FORGOTTEN_S
        if message.person and key not in self.taken and not forgotten:
            self._fail("a report is taken when it is written", f"the reply {key}")

    def unfinished(self) -> list[str]:
        return [f"the reply {it.key} waits: {it.verb}" for it in self.taken.values() if it.waits]
