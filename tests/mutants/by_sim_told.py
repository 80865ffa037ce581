"""Mutants of what is written down and what is told; the simulator finds them out."""

from __future__ import annotations

from tests.mutants.kinds import BySim, mutant, on

_DEATH = on("services", (10.0, "kill", "auto-a", True))
_GATEWAY = ((10.0, "gateway", "gw", "down"), (11.0, "look", "gw"), (13.0, "look", "gw"))
_CORRUPT = on("mixed", (10.0, "corrupt", True), (20.0, "hint", "brain-db"))

TOLD = (
    # --- what is written, and what leaves ---
    mutant(
        "it is sent before it is written",
        BySim("nothing leaves before it is written", _DEATH),
        (
            "supervisor.healer:HealerWorker._decide",
            "self._committer.commit(decision, ack)",
            "self._carry_out(decision.effects)\n            self._committer.commit(decision, ack)",
        ),
    ),
    mutant(
        "what a full disk refused is taken for written",
        BySim(
            "nothing leaves before it is written",
            on("services", (9.0, "full_disk", 20.0), (10.0, "kill", "auto-a", True)),
        ),
        (
            "supervisor.committer:Committer._answered",
            "if isinstance(body, Ack):",
            "if isinstance(body, Ack | LedgerTrouble):",
        ),
    ),
    mutant(
        "a report is taken before it is written",
        BySim(
            "a report is taken when it is written",
            on("services", (9.0, "slow_disk", 1.0, 20.0), (10.0, "kill", "auto-a", True)),
        ),
        (
            "supervisor.healer:HealerWorker._decide",
            "self._committer.commit(decision, ack)",
            "if ack is not None:\n                ack()\n            self._committer.commit(decision, None)",
        ),
    ),
    mutant(
        "steps are not told",
        BySim("every step is in the trail", _DEATH),
        (
            "incidents.verify:on_step",
            '{word}", result, execution_id=execution_id)',
            '{word}")',
        ),
    ),
    mutant(
        "a step's report that comes twice counts twice",
        BySim(
            "each step is told once",
            on("services", (9.0, "message", "step_report", "double", 1, 0.002), (10.0, "kill", "auto-a", True)),
        ),
        ("incidents.verify:on_step", "execution is None or index != len(execution.results)", "execution is None"),
    ),
    mutant(
        "the trail writes over itself",
        BySim("the trail is whole", _DEATH),
        ("incidents.world:Turn._note", "trail_length=n + 1", "trail_length=n"),
    ),
    mutant(
        "a restart forgets which incidents are open",
        BySim("the engine's memory is whole", on("services", (10.0, "kill", "bare", True), (20.0, "die", "healer", 0))),
        ("incidents.recover:rebuild", "world.by_key[incident.anomaly, incident.target_id] = incident.id", "pass"),
    ),
    mutant(
        "a restart forgets a pause",
        BySim(
            "a pause holds",
            on(
                "services",
                (10.0, "pause", "target", "auto-a", None),
                (12.0, "die", "healer", 0),
                (20.0, "kill", "auto-a", True),
            ),
        ),
        (
            "incidents.recover:rebuild",
            "pause.key: pause for pause in snapshot.operator_pauses",
            "pause.key: pause for pause in ()",
        ),
    ),
    mutant(
        "nothing is halted",
        BySim("a damaged database is halted at once", _CORRUPT),
        ("incidents.halts:order", "if not halts_it or", "if True or"),
    ),
    mutant(
        "the store writes a halted database",
        BySim("nobody writes a halted database", _CORRUPT),
        ("supervisor.store.process:StoreWorker._mind_halts", "follower.hold(", "(lambda halt: None)("),
    ),
    # --- messages ---
    mutant(
        "an incident is paged twice",
        BySim("one page per incident"),
        ("incidents.escalation:tell", " or incident.page_id is not None or", " or"),
    ),
    mutant(
        "a full disk is paged by nobody",
        BySim("a full disk is paged at once", on("services", (10.0, "disk", 0.99, False))),
        (
            "incidents.escalation:page_hold_due",
            'return tell(turn, turn.note(incident, "engine", why), "page")',
            'return turn.note(incident, "engine", why)',
        ),
    ),
    mutant(
        "a full disk waits for an outcome",
        BySim("a full disk is paged at once", on("services", (10.0, "disk", 0.99, True))),
        ("incidents.escalation:hold_page", "if incident.anomaly is AnomalyType.DISK_CRITICAL:", "if False:"),
    ),
    mutant(
        "a page waits longer than its hold",
        BySim("a page comes in time", on("mixed", *_GATEWAY)),
        (
            "incidents.escalation:hold_page",
            "hold_s = turn.world.policy.page_hold_s",
            "hold_s = turn.world.policy.page_hold_s + 5.0",
        ),
    ),
    mutant(
        "no closing message",
        BySim(
            "what was paged is said to be over",
            on("services", (10.0, "kill", "bare", True), (100.0, "revive", "bare"), (101.0, "look", "bare")),
        ),
        ("incidents.escalation:closing", "if by_signal(incident) and", "if not by_signal(incident) and"),
    ),
    mutant(
        "a page is repeated too early",
        BySim(
            "a page is repeated after an hour at the earliest",
            on("services", (10.0, "kill", "bare", True), (4_000.0, "look", "bare")),
        ),
        ("incidents.pages:opening", "turn.world.policy.repeats_s[0]", "turn.world.policy.repeats_s[0] / 2"),
    ),
    mutant(
        "what is acknowledged is repeated",
        BySim(
            "only what nobody acknowledged is repeated",
            on(
                "services",
                (10.0, "kill", "bare", True),
                (100.0, "ack", "bare", 0, "matthew"),
                (4_000.0, "look", "bare"),
            ),
        ),
        ("incidents.commands:_ack", "turn.drop_timer(TimerKind.REPEAT, incident.id)", "pass"),
        ("incidents.escalation:repeat_due", "incident.acknowledged_wall_s is not None or ", ""),
    ),
    mutant(
        "tier 0 sends",
        BySim(
            "a silent repair says nothing",
            on("services", (5.0, "approve", "auto-a", 7, "matthew"), (10.0, "zombie", "auto-a")),
        ),
        ("incidents.policy:tier_of", "return Tier.SILENT", "return Tier.INFORM"),
    ),
    mutant(
        "what was dismissed is told again",
        BySim(
            "what was dismissed stays quiet",
            on(
                "services",
                (10.0, "kill", "bare", True),
                (20.0, "dismiss", "bare", 0, "matthew"),
                (30.0, "revive", "bare"),
                (40.0, "look", "bare"),
                (60.0, "kill", "bare", True),
            ),
        ),
        (
            "incidents.detect:open_incident",
            "if any(i.dismiss_until_steady_s is not None and",
            "if False and any(i.dismiss_until_steady_s is not None and",
        ),
    ),
    mutant(
        "what failed to be sent is marked delivered",
        BySim(
            "nothing is marked sent without a receipt",
            on("services", (9.0, "phone_off", 100.0), (10.0, "kill", "bare", True)),
        ),
        ("incidents.engine:_delivered", "if not event.receipt:", "if False:"),
    ),
    mutant(
        "a notifier that is back is handed nothing",
        BySim(
            "nothing is stuck for ever",
            on("services", (9.0, "phone_off", 100.0), (10.0, "kill", "bare", True), (80.0, "die", "notifier", 0)),
        ),
        (
            "incidents.engine:_handle",
            "turn.effects.extend(DeliverRow(row) for row in turn.world.outbox.values() if not row.held)",
            "pass",
        ),
    ),
    mutant(
        "what has its receipt is sent again",
        BySim(
            "a message is sent once",
            on("services", (9.0, "message", "deliver", "double", 1, 3.0), (10.0, "kill", "bare", True)),
        ),
        ("supervisor.notifier.process:NotifierWorker._take", "if row.id in self._receipts:", "if False:"),
    ),
    mutant(
        "what is being sent is sent beside it",
        BySim(
            "a message is sent once",
            on("services", (9.0, "message", "deliver", "double", 1, 0.05), (10.0, "kill", "bare", True)),
        ),
        ("supervisor.notifier.process:NotifierWorker._take", "if row.id in self._works:", "if False:"),
    ),
)
