"""Mutants of what is answered by phone; the simulator finds them out (tests/sim/replies.py)."""

from __future__ import annotations

from typing import Any

from tests.mutants.kinds import BySim, mutant, on

_FAILS = ((9.0, "next_start", "blind", "fails"), (10.0, "kill", "blind", True))  # a person is asked about it, at once


def _reply(
    after_s: float, text: str, by: str = "quote", who: str = "anna", *, ago_s: float = 0.0, again_s: float = 0.0
) -> Any:
    """To the page to come, so much later."""
    return (10.0, "reply", 0, after_s, text, by, who, ago_s, again_s)


REPLIED = (
    mutant(
        "a choice of a page is good twice",
        BySim("a code is good for one use", on("services", *_FAILS, _reply(5.0, "run"), _reply(60.0, "run", "code"))),
        ("incidents.replies:_about_page", "if verb in offer.spent:", "if False:"),
    ),
    mutant(
        "a stranger's reply is obeyed",
        BySim("a stranger changes nothing", on("services", *_FAILS, _reply(5.0, "run", who="caller"))),
        ("incidents.replies:seen", "said.person not in world.policy.approvers or not said.person", "False"),
    ),
    mutant(
        "a stranger is answered",
        BySim("a stranger changes nothing", on("services", *_FAILS, _reply(5.0, "run", who="pretender"))),
        (
            "incidents.replies:_stranger",
            "world.strangers.append(now_s)",
            "world.strangers.append(now_s)\n"
            '        posting.notice(turn, Channel.SIGNAL, Tier.ASK, "reply", "", "Who is that?")',
        ),
    ),
    mutant(
        "a reply that comes again orders again",
        BySim(
            "a reply acts once", on("services", *_FAILS, _reply(5.0, "ok", again_s=3.0), (17.0, "die", "notifier", 0))
        ),
        ("incidents.replies:seen", "said.key in world.replies or ", ""),
    ),
    mutant(
        "a healer that starts anew has forgotten who has replied",
        BySim(
            "a reply acts once",
            on(
                "services",
                *_FAILS,
                _reply(5.0, "ok", again_s=7.0),
                (17.0, "die", "notifier", 0),
                (17.0, "die", "healer", 0),
            ),
        ),
        ("incidents.recover:rebuild", "{reply.key: reply for reply in snapshot.replies}", "{}"),
    ),
    mutant(
        "a reply of last week is obeyed",
        BySim(
            "a reply is good for a day",
            on("services", *_FAILS, (12.0, "suspend", 90_000.0), _reply(5.0, "ok", ago_s=88_000.0)),
        ),
        ("incidents.replies:_decide", "if sent_s < now_s - OLD_S:", "if False:"),
        ("incidents.replies:_about", "if turn.now.wall_s > offer.until_wall_s:", "if False:"),
    ),
    mutant(
        "a page takes replies for ever",
        BySim(
            "a page takes replies for a day",
            on("services", *_FAILS, (20.0, "suspend", 90_000.0), _reply(30.0, "ok")),
        ),
        ("incidents.replies:_about", "if turn.now.wall_s > offer.until_wall_s:", "if False:"),
    ),
    mutant(
        "what was said before its page means it",
        BySim("a reply comes after its page", on("services", *_FAILS, _reply(5.0, "ok", ago_s=3_000.0))),
        ("incidents.replies:_decide", "if sent_s < offer.asked_wall_s - BEFORE_S:", "if False:"),
    ),
    mutant(
        "a code and a quote of two messages mean the code's",
        BySim(
            "a reply means one page",
            on("services", *_FAILS, (12.0, "kill", "bare", True), _reply(60.0, "dismiss", "crossed")),
        ),
        ("incidents.replies:_about", "by_code.id != by_quote.id", "False"),
    ),
    mutant(
        "a reply is not in the trail",
        BySim("what was replied is in the trail", on("services", *_FAILS, _reply(5.0, "ok"))),
        (
            "incidents.commands:_ack",
            'turn.note(incident, actor, "acknowledged")',
            'turn.note(incident, "engine", "seen")',
        ),
    ),
    mutant(
        "what was replied is not told",
        BySim("whoever replied is told", on("services", *_FAILS, _reply(5.0, "why"))),
        ("incidents.replies:_answer", "_tell(turn, taken, text)", "pass"),
    ),
    mutant(
        "what is being repaired is run for again",
        BySim("a reply runs for what waits for it", on("services", *_FAILS, _reply(5.0, "run"))),
        (
            "incidents.commands:_incident_for",
            "if incident is not None and incident.state in",
            "if False and incident.state in",
        ),
    ),
    mutant(
        "a reply is taken before it is written",
        BySim(
            "a report is taken when it is written",
            on("services", (9.0, "slow_disk", 1.0, 20.0), *_FAILS, _reply(5.0, "ok")),
        ),
        (
            "supervisor.healer:HealerWorker._from_worker",
            "self._decide(e.ReplySeen(reply), ack)",
            "ack()\n                    self._decide(e.ReplySeen(reply))",
        ),
    ),
)
