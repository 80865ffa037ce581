"""R15, FR-005: a reply over Signal does what its person could do at the command line, once, or says why not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remediators.runbooks import RUNBOOKS
from supervisor.incidents import events as e
from supervisor.incidents import replies
from supervisor.incidents.effects import FetchExecutionState
from supervisor.incidents.model import Mode, OutboxRow, State, StepResult
from supervisor.incidents.orders import SignalReply
from supervisor.incidents.policy import Policy
from supervisor.incidents.records import AddAudit, AddTrail, PutOutbox, Record
from supervisor.messages import Event
from supervisor.newsdesk import NewsDesk
from tests.lab.engine import START, Lab, service

ANNA = "+15550101"
BRAIN = "+15550199"
RB = "rb-restart-service"
H = 3600.0


class Phone(Lab):
    """A service that is down and waits for an approval; whatever goes out over Signal is delivered at once."""

    def __init__(self, *names: str, fails: bool = True, **policy: Any) -> None:
        self.sent: list[tuple[OutboxRow, int]] = []
        self.clock_ms = int(START * 1000)
        rules = Policy(**({"pages": True, "approvers": (ANNA,)} | policy))
        super().__init__(targets=tuple(service(name) for name in names or ("web",)), policy=rules)
        self.engine.world.secret = "a secret"
        for name in names or ("web",):
            if fails:  # its one repair fails: tier 3, and what may be tried again is asked
                self.step_fails = "start"
            self.kill(name)
            self.step_fails = ""
        self.deliver()

    def deliver(self) -> None:
        for row in list(self.engine.world.outbox.values()):
            if row.channel == "signal":
                self.clock_ms += 1
                self.sent.append((row, self.clock_ms))
                self.feed(e.Delivered(row.id, 1, f"signal:{self.clock_ms} by http://127.0.0.1:1", ""))

    def pages(self) -> list[OutboxRow]:
        return [row for row, _ in self.sent if row.kind in ("page", "repeat", "grouped")]

    @property
    def code(self) -> str:
        """Of the newest page."""
        return self.pages()[-1].body.rpartition("code ")[2].strip(".")

    def at(self, row: OutboxRow) -> int:
        return next(sent for one, sent in self.sent if one.id == row.id)

    def say(self, text: str, quote: int = 0, *, sender: str = ANNA, sent_s: float | None = None, **more: Any) -> str:
        """A new message; what is answered to it over Signal at once."""
        self.now_s += 1
        self.clock_ms = max(self.clock_ms + 1, int(self.now_s * 1000))
        at_ms = self.clock_ms if sent_s is None else int(sent_s * 1000)
        person = sender if sender in self.policy.approvers else ""
        return self.hear(SignalReply(sender, person, at_ms, text, quote, **more))

    def hear(self, said: SignalReply) -> str:
        before = len(self.sent)
        self.last = said
        self.feed(e.ReplySeen(said))
        self.deliver()
        return "\n".join(row.body for row, _ in self.sent[before:] if row.kind == "reply")

    def quote(self, text: str, **more: Any) -> str:
        return self.say(text, self.at(self.pages()[-1]), **more)

    def crash(self) -> None:
        super().crash()
        self.engine.world.secret = "another secret"

    def audit(self) -> list[tuple[str, str]]:
        return [(r.entry.actor, r.entry.action) for r in self.records if isinstance(r, AddAudit)]


def acts(records: list[Record]) -> set[str]:
    """The kinds of records that change more than what was said and heard."""
    spoken = {"PutReply", "DropReply", "AddAudit", "PutOutbox", "AddMetric", "PutTally", "AddTrail", "PutIncident"}
    return {type(record).__name__ for record in records} - spoken


@pytest.mark.req("FR-005", "NFR-003", "R15")
def test_a_page_says_how_to_answer_it_and_its_code_is_nowhere_else() -> None:
    lab = Phone()
    (page,) = lab.pages()
    last = page.body.splitlines()[-1]
    assert last == f"Reply (quote this) ok, run, approve, dismiss 4h, why - or with code {lab.code}."
    assert len(page.body) < 600
    assert all(lab.code not in row.body for row in lab.messages("synapse"))
    for view in ("status", "list_runbooks", "stats", "requests"):
        answer = lab.order(view)
        assert answer is not None
        assert lab.code not in msgspec.json.encode(answer.body).decode()
    assert lab.code not in lab.say("why", lab.at(page))


@pytest.mark.req("FR-005")
def test_without_approvers_no_page_offers_anything() -> None:
    lab = Phone(approvers=())
    assert "Reply" not in lab.pages()[0].body
    assert lab.engine.world.requests == {}
    assert lab.say("ok") == ""


@pytest.mark.req("R15")
def test_without_a_secret_a_page_has_no_code_and_can_be_quoted() -> None:
    lab = Phone()
    lab.engine.world.secret = ""
    lab.advance(2 * H)
    lab.deliver()
    assert lab.pages()[-1].body.endswith("why.")
    assert "Acknowledged" in lab.quote("ok")


@pytest.mark.req("R15", "R2")
@pytest.mark.parametrize("how", ["quote", "code"])
def test_run_executes_what_was_proposed_once_and_tells_its_result(how: str) -> None:
    lab = Phone()
    ran = len(lab.dispatched)
    answer = lab.quote("Run 👍") if how == "quote" else lab.say(f"run {lab.code.lower()}")
    assert "Started: rb-restart-service for web" in answer
    lab.advance(40)
    lab.deliver()
    assert len(lab.dispatched) == ran + 1
    assert lab.only("web").state is State.RESOLVED
    assert [row.body for row, _ in lab.sent if "It works again, verified" in row.body and row.kind == "reply"]
    assert (f"signal:{ANNA}", "execute") in lab.audit()
    assert lab.engine.world.runbook_states[RB, "web"].mode is Mode.DRY_RUN, "it was run, not approved"


@pytest.mark.req("R15", "AC-007", "R7")
def test_approve_approves_for_this_target_and_runs_it() -> None:
    lab = Phone()
    ran = len(lab.dispatched)
    answer = lab.quote("approve.")
    assert "Approved: rb-restart-service for web" in answer
    state = lab.engine.world.runbook_states[RB, "web"]
    assert state.mode is Mode.AUTO_EXECUTE
    assert (RB, "*") not in lab.engine.world.runbook_states
    assert len(lab.dispatched) == ran + 1
    assert (f"signal:{ANNA}", "approve") in lab.audit()


@pytest.mark.req("R2")
def test_ok_acknowledges_and_the_page_is_not_repeated() -> None:
    lab = Phone()
    assert "Acknowledged: web is down" in lab.say("ok")
    assert lab.only("web").acknowledged_wall_s is not None
    lab.advance(5 * H)
    assert not [row for row in lab.messages("signal") if row.kind == "repeat"]
    assert "no page is open and not acknowledged" in lab.say("ok")
    assert lab.quote("ok"), "with a quote it may be said again"


@pytest.mark.req("FR-007")
def test_dismiss_keeps_the_reason_and_the_duration() -> None:
    lab = Phone()
    assert "Dismissed" in lab.quote("dismiss 4h the host moves")
    incident = lab.only("web")
    assert incident.state is State.DISMISSED
    assert incident.dismiss_until_wall_s == pytest.approx(lab.now_s + 4 * H)
    assert any("the host moves" in entry.note for r in lab.records if (entry := getattr(r, "entry", None)) is not None
               if hasattr(entry, "note"))  # fmt: skip
    other = Phone()
    other.quote("dismiss")
    assert other.only("web").dismiss_until_wall_s == pytest.approx(other.now_s + 24 * H)
    third = Phone()
    assert "Nothing was done" in third.quote("dismiss 1s").replace("Dismiss was not done", "Nothing was done")
    assert third.only("web").open


@pytest.mark.req("NFR-003")
def test_why_explains_in_less_than_600_characters_and_changes_nothing() -> None:
    lab = Phone()
    before = len(lab.records)
    answer = lab.say("why")
    assert "You are asked, since the repair failed" in answer
    assert "Proposed" in answer
    assert len(answer) < 600
    assert acts(lab.records[before:]) <= {"PutRequest"}, "the answer can be quoted, too"
    assert "run" in lab.pages()[0].body
    assert "Started" in lab.quote("run"), "it spent nothing"


@pytest.mark.req("R15")
def test_undo_takes_back_the_incidents_last_execution_and_is_told_when_it_is_over() -> None:
    lab = Phone()
    lab.hold_dispatch = True
    lab.quote("run")
    execution = lab.dispatched[-1]
    lab.feed(e.ExecutionClaimed(execution.id, "exec-1"))
    steps = execution.runbook.steps
    for index, step in enumerate(steps):
        lab.alive["web"] = 4242
        done = StepResult(step.step_id, True, "done", 1.0, undo="{}")
        lab.feed(e.StepEnded(execution.id, index, done, index == len(steps) - 1))
    lab.advance(40)
    lab.deliver()
    assert lab.only("web").state is State.RESOLVED
    closing = next(row for row, _ in lab.sent if row.kind == "closing")
    assert closing.body.splitlines()[-1].startswith("Reply (quote this) undo, why")
    assert lab.say("undo", lab.at(closing)).startswith("Ordered: undo of exe_")
    asked = [it for it in lab.effects if isinstance(it, FetchExecutionState)][-1]
    said = lab.last
    lab.crash()  # the question to the ledger is lost: it is asked again
    original = lab.engine.world.ended[asked.execution_id]
    lab.feed(e.ExecutionSeen(original))
    undo = lab.dispatched[-1]
    assert undo.undoes == execution.id
    assert lab.hear(said) == ""
    lab.feed(e.ExecutionSeen(original))
    assert lab.dispatched[-1] is undo, "once"
    lab.run(undo)
    lab.advance(1)
    lab.deliver()
    assert [row.body for row, _ in lab.sent if row.body.startswith("Done: undo:rb-restart-service for web")]
    assert (f"signal:{ANNA}", "undo") in lab.audit()
    assert "by a reply to that message already" in lab.say("undo", lab.at(closing))


@pytest.mark.req("R15")
def test_the_code_of_an_agents_request_confirms_it() -> None:
    for reply in ("{code}", "confirm {code}", "Confirm: {code}!"):
        lab = Phone()
        asked = msgspec.json.encode({"runbook_id": RB, "target_id": "web"})
        lab.feed(e.Order("a1", "approve", asked, "agent:openclaw", "drawn"))
        lab.deliver()
        (offer,) = [it for it in lab.engine.world.requests.values() if it.of_agent]
        row = lab.sent[-1][0]
        assert f"or reply {offer.code}" in row.body
        assert "does not fit" in lab.say(f"run {offer.code}").replace("\n", " ")
        assert "Approved" in lab.say(reply.format(code=offer.code))
        assert lab.engine.world.runbook_states[RB, "web"].mode is Mode.AUTO_EXECUTE
        assert "Nothing was done" in lab.say(reply.format(code=offer.code)), "a code is good once"
        answer = lab.order("confirm", code=lab.code)
        assert answer is not None
        assert answer.error is not None, "a page's code is no agent's, and nobody confirms it at the command line"


@pytest.mark.req("R15")
def test_a_code_is_in_no_event_of_the_feed() -> None:
    lab = Phone()
    said: list[Event] = []

    class Wire:
        def publish(self, body: Event) -> None:
            said.append(body)

    NewsDesk(Wire()).records(lab.records, lab.now_s)  # type: ignore[arg-type]
    messages = [event.data.decode() for event in said if event.kind == "message"]
    assert any("Reply (quote this)" in message for message in messages)
    assert any(isinstance(r, PutOutbox) and lab.code in r.row.body for r in lab.records)
    assert lab.code not in "".join(event.data.decode() for event in said)


# -- what is refused --

REFUSED = {
    "run": "needs to know which message",
    "approve": "needs to know which message",
    "undo": "needs to know which message",
    "dismiss 4h": "needs to know which message",
    "run undo": "which of them",
    "please run": "do not understand",
    "run {wrong}": "no request waits for that code",
    "run {code} {wrong}": "two codes",
    "{code}": "a code and no word",
    "confirm {code}": "confirm is for what an agent asks",
    "undo {code}": "nothing that could be undone",
}


@pytest.mark.req("R15")
@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_clear_is_not_done_and_it_says_why(text: str) -> None:
    lab = Phone()
    before = len(lab.records)
    wrong = "X9YZ23" if lab.code != "X9YZ23" else "X9YZ24"
    answer = lab.say(text.format(code=lab.code, wrong=wrong))
    assert REFUSED[text] in answer or text.startswith("undo")
    assert acts(lab.records[before:]) <= {"PutRequest"}
    assert lab.only("web").state is State.ESCALATED
    assert lab.code not in msgspec.json.encode([r for r in lab.records[before:] if isinstance(r, AddAudit)]).decode()


@pytest.mark.req("R15")
def test_a_strangers_message_is_not_answered_and_leaves_a_line_a_few_times_an_hour() -> None:
    lab = Phone()
    before = len(lab.records)
    for n in range(30):
        assert lab.say(f"run {lab.code}", sender=f"+1555020{n}") == ""
        assert lab.say("ok", lab.at(lab.pages()[0]), sender="+15550100") == ""
    assert acts(lab.records[before:]) == set()
    lines = [r.entry for r in lab.records[before:] if isinstance(r, AddAudit)]
    assert len(lines) == replies.STRANGERS_MAX
    assert lab.metrics().count("heal_reply_refused") == replies.STRANGERS_MAX
    assert all(lab.code not in line.args for line in lines)
    assert lab.only("web").acknowledged_wall_s is None
    lab.hear(msgspec.structs.replace(lab.last, person=BRAIN, text="ok"))
    assert lab.only("web").acknowledged_wall_s is None, "who claims to be somebody is judged here, too"


@pytest.mark.req("R15")
def test_a_message_that_comes_again_does_nothing_whatever_crashed_meanwhile() -> None:
    lab = Phone()
    lab.hold_dispatch = True
    lab.quote("run")
    said = lab.last
    count = len(lab.dispatched)
    for _ in range(2):
        assert lab.hear(said) == ""
        lab.crash()
    lab.run(lab.dispatched[-1])
    lab.advance(1.5 * 86_400)
    lab.deliver()
    assert lab.hear(said) == ""
    assert len(lab.dispatched) == count


@pytest.mark.req("R15")
def test_after_a_crash_the_result_of_what_was_ordered_is_still_told() -> None:
    lab = Phone()
    lab.hold_dispatch = True
    lab.quote("run")
    execution = lab.dispatched[-1]
    lab.crash()
    lab.run(execution)
    lab.advance(40)
    lab.deliver()
    told = [row.body for row, _ in lab.sent if row.kind == "reply"]
    assert len([text for text in told if "verified" in text]) == 1


@pytest.mark.req("R15")
def test_each_choice_is_good_once_for_a_page_and_again_when_it_was_refused() -> None:
    lab = Phone()
    lab.order("pause", target_id="web")
    assert "paused" in lab.quote("run")
    notes = [r.entry.note for r in lab.records if isinstance(r, AddTrail) and r.entry.actor == f"signal:{ANNA}"]
    assert notes[-1].startswith("a reply was not carried out: target web is paused")
    assert (f"signal:{ANNA}", "reply") in lab.audit()
    lab.order("resume", target_id="web")
    lab.heals["web"] = False
    lab.step_fails = "start"
    first = lab.code
    assert "Started" in lab.quote("run")
    assert "was ordered by a reply to that message already" in lab.say(f"run {first}")
    failed = lab.sent[-2][0]
    assert failed.body.startswith("Failed: rb-restart-service for web")
    assert len(failed.body) < 600
    again = failed.body.rpartition("code ")[2].strip(".")
    assert again not in (first, "")
    ran = len(lab.dispatched)
    assert "Started" in lab.say(f"run {again}"), "what did not help is a new question"
    assert len(lab.dispatched) == ran + 1
    ran = len(lab.dispatched)
    lab.advance(2 * H)
    lab.deliver()
    assert lab.pages()[-1].kind == "repeat"
    lab.quote("run")
    assert len(lab.dispatched) == ran + 1, "a new page is a new question"


@pytest.mark.req("R15", "R3")
def test_a_runbook_that_changed_since_the_page_is_neither_run_nor_approved() -> None:
    lab = Phone()
    ran = len(lab.dispatched)
    changed = tuple(msgspec.structs.replace(r, label="another") if r.id == RB else r for r in RUNBOOKS)
    lab.feed(e.Reconfigured(lab.targets, frozenset(), lab.policy, changed))
    for verb in ("run", "approve"):
        assert "was changed since that message was sent" in lab.quote(verb)
    assert len(lab.dispatched) == ran
    assert (RB, "web") not in lab.engine.world.runbook_states or (
        lab.engine.world.runbook_states[RB, "web"].mode is Mode.DRY_RUN
    )


@pytest.mark.req("R15")
def test_what_the_page_proposed_and_is_not_proposed_now_is_neither_run_nor_approved() -> None:
    lab = Phone()
    ran = len(lab.dispatched)
    incidents = lab.engine.world.incidents
    incidents[lab.only("web").id] = msgspec.structs.replace(lab.only("web"), runbook_id="rb-kill-zombie")
    for word in ("run", "approve"):
        answer = lab.quote(word)
        assert "proposed now, no longer rb-restart-service" in answer
    assert len(lab.dispatched) == ran


@pytest.mark.req("R15")
def test_what_is_at_work_is_not_run_beside_it() -> None:
    lab = Phone()
    assert "Approved" in lab.quote("approve")
    ran = len(lab.dispatched)
    assert lab.only("web").state is State.VERIFYING
    assert "nothing is proposed now, no longer rb-restart-service" in lab.quote("run")
    assert len(lab.dispatched) == ran


@pytest.mark.req("R15")
def test_old_early_and_future_messages_are_refused() -> None:
    lab = Phone()
    page_s = lab.now_s
    lab.advance(H)
    assert "before the message" in lab.quote("run", sent_s=page_s - 1000)
    assert "ahead" in lab.quote("run", sent_s=lab.now_s + 10 * H)
    lab.advance(23.5 * H)
    lab.deliver()
    old_code = lab.code
    first = lab.at(lab.pages()[0])
    assert "takes no reply" in lab.say("run", first)
    assert "hours ago" in lab.say(f"run {old_code}", sent_s=lab.now_s - 24.5 * H)
    assert lab.say("run", first, sent_s=lab.now_s - 49 * H) == "", "it may have been answered before"


@pytest.mark.req("R15")
def test_a_quote_and_a_code_that_disagree_and_a_quote_of_anything_else_mean_nothing() -> None:
    lab = Phone("web", "db")
    first, second = lab.pages()
    code = second.body.rpartition("code ")[2].strip(".")
    assert "another message" in lab.say(f"run {code}", lab.at(first))
    for quote in (-1, 12345):
        assert "takes no reply" in lab.say("ok", quote)
    assert "2 pages are open" in lab.say("ok")
    assert [i.acknowledged_wall_s for i in lab.incidents()] == [None, None]
    assert "Acknowledged: db" in lab.say(f"ok {code}")
    assert "Acknowledged: web" in lab.say("ok"), "only one is left"


@pytest.mark.req("R15")
def test_wrong_codes_and_replies_are_limited() -> None:
    lab = Phone()
    for n in range(10):
        assert "no request waits" in lab.say(f"run A{n}{n}BCD".replace("0", "2").replace("1", "3"))
    assert "wrong codes in" in lab.say(f"run {lab.code}")
    said = [lab.say("ok?!") for _ in range(30)]
    assert len([text for text in said if "none is taken for a while" in text]) == 1
    assert said[-1] == ""
    lab.advance(replies.RATE_WINDOW_S + 1)
    lab.deliver()
    assert "Started" in lab.say(f"run {lab.code}")


@pytest.mark.req("R15")
def test_a_note_to_self_that_is_none_of_ours_is_not_answered() -> None:
    lab = Phone()
    before = len(lab.records)
    assert lab.say("buy milk", own=True) == ""
    assert lab.records[before:] == [], "nor kept"
    assert "Acknowledged" in lab.say("ok", own=True)
    assert lab.sent[-1][0].to == "", "to the recipient that is configured"
    assert lab.say("why", lab.at(lab.pages()[0])).startswith("Web is down")
    assert lab.sent[-1][0].to == ANNA


@pytest.mark.req("R15")
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.booleans())
def test_garbage_never_acts(text: str, quoted: bool) -> None:
    lab = LAB
    before, ran = len(lab.records), len(lab.dispatched)
    lab.advance(700)
    lab.deliver()
    if not any(verb in text.casefold() for verb in ("ok", "run", "approve", "undo", "dismiss", "why", "confirm")):
        lab.say(text, lab.at(lab.pages()[-1]) if quoted else 0)
        assert lab.only("web").state is State.ESCALATED
        assert len(lab.dispatched) == ran
        assert not [r for r in lab.records[before:] if isinstance(r, AddAudit) and r.entry.action != "reply"]


LAB = Phone()
