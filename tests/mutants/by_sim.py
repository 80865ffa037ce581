"""Mutants of what is decided and done; the simulator finds them out (tests/sim/invariants.py, invariants_more.py).

Each with events that lead to it, where those are known: most need a certain moment.
"""

from __future__ import annotations

from tests.mutants.kinds import BySim, mutant, on

_AUTOS = tuple(f"auto-{letter}" for letter in "abcdef")
_GATEWAYS = tuple(f"gw{n}" for n in range(5))
_DEATH = on("services", (10.0, "kill", "auto-a", True))
_FLAPS = tuple((10.0 + 120.0 * n, "kill", "auto-a", True) for n in range(5))
_ALL_AT_ONCE = on("services", *((10.0, "kill", name, True) for name in _AUTOS))
_FIVE_AT_ONCE = on("services", *((10.0, "kill", name, True) for name in _AUTOS[:5]))
_RESTARTED = tuple((70.0 + 120.0 * n, "die", "healer", 0) for n in range(4))
_GATEWAY = ((10.0, "gateway", "gw", "down"), (11.0, "look", "gw"), (13.0, "look", "gw"))
_LOOKS = tuple((20.0 + 3.0 * n, "look", "gw") for n in range(6))
_GATEWAYS_AT_ONCE = on(
    "fleet",
    *((10.0, "gateway", name, "down") for name in _GATEWAYS),
    *((at_s, "look", name) for at_s in (11.0, 13.0) for name in _GATEWAYS),
)
_DIES_AND_IS_BACK = tuple(
    event
    for n in range(3)
    for event in (
        (100.0 * n + 10.0, "kill", "asks", True),
        (100.0 * n + 50.0, "revive", "asks"),
        (100.0 * n + 55.0, "look", "asks"),
    )
)
_SLOW_PLANS = tuple((100.0 * n + 9.0, "slow_plan", 20.0) for n in range(3))
_STALE = ((12.0, "freeze", True), (320.0, "look", "augur-signals"))
_CANCELLED = (
    (9.0, "slow_evidence", 1.5),
    (10.0, "kill", "auto-a", True),
    (11.0, "cancel", "auto-a", 0, "matthew"),
)
_APPROVED = (5.0, "approve", "augur-signals", 0, "matthew")

DECIDED = (
    # --- the fresh probe, and others' readings ---
    mutant(
        "no fresh probe before a step",
        BySim("no step without a fresh failing reading", _DEATH),
        ("incidents.detect:_halt_at_once", "and runbook is not None and halts.has(runbook, halts.HALT):", ":"),
        ("incidents.detect:_halt_at_once", "reading, fresh=False)", "reading, fresh=True)"),
    ),
    mutant(
        "old grounds",
        BySim(
            "no step without a fresh failing reading",
            on("services", (5.0, "message", "dispatch", "delay", 50, 9.0), (10.0, "kill", "auto-a", True)),
        ),
        ("remediators.run:check_grounds", "if age_s > age_s_max:", "if False:"),
    ),
    mutant(
        "grounds grow old while a machine stands still",
        BySim(
            "no step without a fresh failing reading",
            on("mixed", (10.0, "slow_evidence", 1.5), (10.0, "disk", 0.88, True), (11.0, "stall", 70.0)),
        ),
        ("remediators.run:Run._run", "check_grounds(self.execution, GROUNDS_S_MAX + EVIDENCE_S)", "pass"),
    ),
    mutant(
        "a fed reading is grounds",
        BySim(
            "no step without a fresh failing reading",
            on(
                "services",
                (5.0, "slow_probe", 3.0, 20.0),
                (10.0, "outside", "auto-a", True),
                (10.5, "outside", "auto-a", True),
            ),
        ),
        (
            "incidents.engine:_handle",
            "(outside.on_reading if reading.external else detect.on_reading)",
            "detect.on_reading",
        ),
    ),
    mutant(
        "a fed reading verifies",
        BySim(
            "a repair is proved by its probe",
            on(
                "services",
                (5.0, "slow_evidence", 1.0),
                (10.0, "kill", "auto-a", True),
                (10.5, "blind", "auto-a", 60.0),
                *((at_s, "outside", "auto-a", False) for at_s in (12.0, 14.0, 16.0)),
            ),
        ),
        (
            "incidents.engine:_handle",
            "if reading.external else",
            "if reading.external and all(x.target.target_id != reading.target_id"
            " for x in turn.world.executions.values()) else",
        ),
    ),
    mutant(
        "a fed reading closes",
        BySim(
            "closed by a clear reading only",
            on(
                "services",
                (10.0, "kill", "bare", True),
                (20.0, "blind", "bare", 60.0),
                (25.0, "revive", "bare"),
                (30.0, "outside", "bare", False),
            ),
        ),
        (
            "incidents.outside:on_reading",
            "if verdict.status is not Status.FIRING or",
            "if verdict.status is Status.CLEAR:\n"
            "            detect.on_verdict(turn, verdict, reading, fresh=False)\n"
            "        if verdict.status is not Status.FIRING or",
        ),
    ),
    mutant(
        "a reading that was overtaken counts",
        BySim(
            "closed by a clear reading only",
            on(
                "services",
                (9.8, "message", "readings", "delay", 1, 40.0),
                (9.9, "look", "bare"),
                (10.0, "kill", "bare", True),
            ),
        ),
        ("incidents.detect:on_reading", "newest.taken_mono_s > reading.taken_mono_s", "False"),
    ),
    # --- what may run ---
    mutant(
        "everything may run",
        BySim("nothing runs that R3 forbids", on("services", (10.0, "kill", "asks", True))),
        (
            "incidents.policy:permission",
            "return Permission(None, refusal)",
            "return Permission(Authority.APPROVED, refusal)",
        ),
    ),
    mutant(
        "a target's demotion is overruled by an approval for all",
        BySim(
            "nothing runs that R3 forbids",
            on(
                "services",
                (5.0, "approve_all", "asks", 0, "matthew"),
                (6.0, "revoke", "asks", 0, "matthew"),
                (10.0, "kill", "asks", True),
            ),
        ),
        (
            "incidents.policy:state_for",
            "(own.mode is Mode.AUTO_EXECUTE or own.demoted)",
            "own.mode is Mode.AUTO_EXECUTE",
        ),
    ),
    mutant(
        "auto_restart ends what lives",
        BySim(
            "no false action", on("mixed", (10.0, "gateway", "gw", "hang"), (11.0, "look", "gw"), (13.0, "look", "gw"))
        ),
        ("incidents.policy:permission", "if not_running:", "if True:"),
        ("remediators.gateway:_refuse_alive", "section is None or not section.health_url", "True"),
    ),
    mutant(
        "what came back while its restart was written down is restarted",
        BySim(
            "no false action",
            on(
                "mixed",
                *_GATEWAY,
                (13.025, "slow_disk", 1.0, 5.0),
                (13.5, "gateway", "gw", "up"),
            ),
        ),
        ("remediators.gateway:RestartGateway.run", "ctx.recipe, check)", "ctx.recipe)"),
    ),
    mutant(
        "a cancelled canary makes room for one too many",
        BySim(
            "storms are bounded",
            on(
                "services",
                (9.0, "slow_evidence", 1.5),
                (10.0, "kill", "auto-e", True),
                (10.03, "kill", "auto-d", True),
                (10.05, "cancel", "auto-e", 0, "matthew"),
                (10.3, "kill", "auto-c", True),
                (10.46, "kill", "auto-a", True),
                (10.5, "kill", "auto-b", True),
                (10.6, "kill", "auto-f", True),
            ),
        ),
        ("incidents.storm:withdrawn", "not in (*storm.canaries, execution.id)][:1]", "not in (execution.id,)][:0]"),
    ),
    # --- what a person has cancelled (R15) ---
    mutant(
        "the next rung follows what was cancelled",
        BySim(
            "nothing follows by itself what was cancelled",
            on(
                "mixed",
                (5.0, "approve", "disk:/data", 1, "matthew"),
                (10.0, "disk", 0.96, True),
                (10.1, "cancel", "disk:/data", 0, "matthew"),
            ),
        ),
        ("incidents.outcome:give_up", "reason = TierReason.CANCELLED if cancelled else reason", "pass"),
        ("incidents.outcome:give_up", "if not cancelled:  # a person", "if True:  # a person"),
    ),
    mutant(
        "what was cancelled has failed",
        BySim(
            "a failure has failed",
            on("mixed", (10.0, "disk", 0.88, True), (10.1, "cancel", "disk:/data", 0, "matthew")),
        ),
        ("incidents.outcome:give_up", "(by_itself or not cancelled)", "True"),
    ),
    mutant(
        "what was cancelled begins its next step",
        BySim("what was cancelled begins no step", on("services", *_CANCELLED)),
        (
            "remediators.run:Run._step",
            "if self.cancelled_by:\n                raise",
            "if False:\n                raise",
        ),
    ),
    mutant(
        "a cancel is told and not written down",
        BySim("what is said to be cancelled is written down", on("services", *_CANCELLED)),
        ("incidents.cancelling:order", "if not execution.cancelled_by:", "if False:"),
        ("incidents.cancelling:told", "cancelled_by=execution.cancelled_by or event.actor", 'cancelled_by=""'),
    ),
    mutant(
        "a dead executor takes a cancel with it",
        BySim(
            "nothing follows by itself what was cancelled",
            on("services", *_CANCELLED, (11.05, "die", "executor", 0)),
        ),
        ("incidents.verify:redecide", "if execution.cancelled_by:", "if False:"),
    ),
    mutant(
        "what was dismissed is repaired all the same",
        BySim(
            "nothing begins for what is over",
            on(
                "services",
                (9.0, "message", "dispatch", "delay", 50, 3.0),
                (10.0, "kill", "auto-a", True),
                (11.0, "dismiss", "auto-a", 0, "matthew"),
            ),
        ),
        ("incidents.commands:_dismiss", "outcome.never_ran(turn, execution)", "pass"),
    ),
    mutant(
        "what was undone runs again",
        BySim(
            "what was undone waits for a person",
            on(
                "mixed",
                (10.0, "log", "app", 300, True),
                (30.0, "undo", "app", 0, "matthew"),
                (60.0, "log", "app", 300, True),
            ),
        ),
        ("incidents.policy:permission", "if state is not None and state.taken_back:", "if False:"),
    ),
    mutant(
        "an agent executes",
        BySim("only a person executes", on("services", (10.0, "execute", "auto-a", 0, "agent:cortex"))),
        ("incidents.agents:limited", "return actor.startswith(AGENT) and", "return False and"),
    ),
    mutant(
        "a dry run executes",
        BySim("only a person executes", on("services", (10.0, "dry_run", "auto-a", 0, "matthew"))),
        (
            "incidents.commands:_dry_run",
            "turn.effects.append(PlanExecution(dryruns.sketch(turn, runbook, target, None), token))",
            'remedy.begin(turn, runbook, target, Authority.PERSON, None, None, "as planned")',
        ),
    ),
    mutant(
        "pauses are ignored",
        BySim(
            "a pause holds", on("services", (10.0, "pause", "target", "auto-a", None), (12.0, "kill", "auto-a", True))
        ),
        ("incidents.remedy:_paused", "if found is None:", "if True:"),
    ),
    mutant(
        "the pause of a service does not hold for the signal that it writes",
        BySim("a pause holds", on("mixed", _APPROVED, (10.0, "pause", "target", "augur", None), *_STALE)),
        ("incidents.pauses:_keys", "(target.target_id, target.service_id)", "(target.target_id,)"),
    ),
    mutant(
        "a person's execute ignores a pause",
        BySim(
            "a pause holds",
            on("services", (10.0, "pause", "target", "auto-a", None), (12.0, "execute", "auto-a", 0, "matthew")),
        ),
        ("incidents.commands:_execute", "pauses.refuse(world, target)", "pass"),
    ),
    mutant(
        "a manager is given no time",
        BySim("a manager is given its time", on("services", (10.0, "kill", "unit", True))),
        ("incidents.services:_unless_managed", "data.dead_for_s < data.act_after_s", "False"),
    ),
    # --- limits ---
    mutant(
        "no breaker opens",
        BySim("breakers hold", on("services", *_FLAPS)),
        ("incidents.breaker:exhausted", "for scope, limit in limits:", "for scope, limit in ():"),
    ),
    mutant(
        "a breaker opens one run later",
        BySim("breakers hold", on("services", *_FLAPS)),
        ("incidents.breaker:exhausted", ">= limit", "> limit"),
    ),
    mutant(
        "a restart forgets what breakers count",
        BySim("breakers hold", on("services", *sorted((*_FLAPS, *_RESTARTED)))),
        ("incidents.recover:rebuild", "breaker.began(world, execution)", "pass"),
    ),
    mutant(
        "no canaries",
        BySim("storms are bounded", _ALL_AT_ONCE),
        ("incidents.storm:holds", "if storm is None:", "if True:"),
    ),
    mutant(
        "one canary more",
        BySim("storms are bounded", _ALL_AT_ONCE),
        (
            "incidents.storm:holds",
            "len(storm.canaries) < world.policy.canary_count",
            "len(storm.canaries) <= world.policy.canary_count",
        ),
    ),
    mutant(
        "a canary is proved by having begun",
        BySim("storms are bounded", _ALL_AT_ONCE),
        (
            "incidents.storm:began",
            "storm.canaries.append(execution.id)",
            "storm.canaries.append(execution.id)\n        storm.verified.add(execution.id)",
        ),
    ),
    mutant(
        "five at once are no storm",
        BySim("storms are bounded", _FIVE_AT_ONCE),
        ("incidents.storm:_storm", "at_once < world.policy.canary_from", "at_once <= world.policy.canary_from"),
    ),
    mutant(
        "gateways that fail together are restarted one by one",
        BySim("storms are bounded", _GATEWAYS_AT_ONCE),
        ("incidents.storm:holds", "if incident.family in PAUSED_IN_A_STORM:", "if False:"),
    ),
    mutant(
        "two repairs of one service at once",
        BySim("one execution per resource", on("mixed", _APPROVED, *_STALE)),
        ("incidents.remedy:consider", "if holder is not None:", "if False:"),
    ),
    # --- graduation ---
    mutant(
        "a dry run that fails counts towards graduation",
        BySim("three dry runs graduate", on("services", *sorted((*_SLOW_PLANS, *_DIES_AND_IS_BACK)))),
        ("incidents.graduation:_count", "streak.count + 1 if run.predicts_clear else 0", "streak.count + 1"),
    ),
    mutant(
        "two dry runs graduate",
        BySim("three dry runs graduate", on("services", *_DIES_AND_IS_BACK)),
        (
            "incidents.graduation:_count",
            "turn.world.policy.graduation_count or",
            "turn.world.policy.graduation_count - 1 or",
        ),
    ),
    mutant(
        "a dry run is counted as a success",
        BySim("a success was verified", on("services", *_DIES_AND_IS_BACK)),
        (
            "incidents.graduation:_count",
            "state = _with(state,",
            "state = msgspec.structs.replace(state, successes=state.successes + 1)\n    state = _with(state,",
        ),
    ),
    mutant(
        "what does not hold stays approved",
        BySim(
            "what does not hold is demoted",
            on(
                "services",
                (5.0, "approve", "asks", 0, "matthew"),
                (9.0, "next_start", "asks", "fails"),
                (10.0, "kill", "asks", True),
            ),
        ),
        ("incidents.graduation:failed", "if not approved or in_force is None:", "if True:"),
    ),
    # --- verification ---
    mutant(
        "what was done is taken for well",
        BySim("a repair is proved by its probe", _DEATH),
        (
            "incidents.verify:_steps_done",
            "    if execution.to_be_proved:",
            "    outcome.verified(turn, execution, incident)\n    return\n    if execution.to_be_proved:",
        ),
    ),
    mutant(
        "what looked before the last step proves it",
        BySim(
            "what was started has settled",
            on(
                "services",
                (5.0, "approve", "asks", 0, "matthew"),
                (9.0, "slow_evidence", 1.9),
                (10.0, "kill", "asks", True),
                (10.2, "slow_probe", 4.9, 60.0),
                (10.3, "revive", "asks"),
                (10.31, "next_start", "asks", "dies"),
                (10.32, "message", "readings", "delay", 400, 4.0),
                (10.35, "look", "asks"),
                (11.6, "look", "asks"),
            ),
        ),
        ("incidents.verify:_began_after_steps", "return _basis_steady_s", "return True or _basis_steady_s"),
    ),
    mutant(
        "what was started need not settle",
        BySim(
            "what was started has settled",
            on("services", (9.0, "next_start", "auto-a", "dies"), (10.0, "kill", "auto-a", True)),
        ),
        ("incidents.verify:_verify", "if now.steady_s < execution.settled_steady_s:", "if False:"),
    ),
    mutant(
        "a repair that does not help is waited for for ever",
        BySim(
            "a repair is judged in time",
            on(
                "services",
                (5.0, "approve", "asks", 0, "matthew"),
                (8.0, "next_start", "asks", "mute"),
                (10.0, "mute", "asks"),
                (100.0, "revive", "asks"),
            ),
        ),
        ("incidents.verify:_not_clear", "if now.steady_s >= deadline or ended_itself:", "if ended_itself:"),
    ),
    mutant(
        "every clear reading counts",
        BySim("three clear readings for what comes and goes", on("mixed", *_GATEWAY, *_LOOKS)),
        ("incidents.verify:count_clear", "now - last < turn.world.policy.clear_interval_s * 0.95", "False"),
    ),
    mutant(
        "one clear reading less",
        BySim("three clear readings for what comes and goes", on("mixed", *_GATEWAY)),
        (
            "incidents.verify:clear_needed",
            "turn.world.policy.clear_readings if",
            "turn.world.policy.clear_readings - 1 if",
        ),
    ),
    # --- clocks ---
    mutant(
        "the deadline of a proof is on the wall clock",
        BySim("nothing is stuck for ever", on("services", (5.0, "wall", 86_400.0), (10.0, "kill", "auto-a", True))),
        (
            "incidents.verify:_steps_done",
            "now.steady_s + world.policy.verify_within_s",
            "now.wall_s + world.policy.verify_within_s",
        ),
    ),
    mutant(
        "timers are on the wall clock",
        BySim(
            "a page is never lost",
            on(
                "services",
                (5.0, "wall", 86_400.0),
                (10.0, "kill", "auto-a", True),
                (10.005, "blind", "auto-a", 300.0),
                (200.0, "look", "bare"),
            ),
        ),
        ("incidents.putting:Putting.set_timer", "self.now.steady_s + after_s", "self.now.wall_s + after_s"),
    ),
    # --- the executor ---
    mutant(
        "the fence before an end is gone",
        BySim(
            "no false action",
            on("services", (5.0, "slow_evidence", 1.5), (10.0, "kill", "auto-a", True), (10.5, "revive", "auto-a")),
        ),
        ("remediators.service:_refuse_to_end", "if ctx.execution.authority not in _MAY_END:", "if False:"),
    ),
    mutant(
        "the fence before a second start is gone",
        BySim(
            "no duplicate executions",
            on(
                "services",
                (9.0, "message", "program", "delay", 9, 1.0),
                (10.0, "kill", "auto-a", True),
                (10.5, "revive", "auto-a"),
            ),
        ),
        ("remediators.service:_refuse_second", "    if live:", "    if False:"),
    ),
    mutant(
        "what is dispatched twice runs twice",
        BySim(
            "no duplicate executions",
            on("services", (9.0, "message", "dispatch", "double", 1, 0.002), (10.0, "kill", "auto-a", True)),
        ),
        (
            "remediators.executor:ExecutorWorker._dispatch",
            "if execution.id not in self._seen and execution.id not in self._in_hand:",
            "if True:",
        ),
    ),
    mutant(
        "what was interrupted is run again blindly",
        BySim(
            "an interrupted execution is never blindly repeated",
            on(
                "services",
                (5.0, "approve", "system-memory", 1, "matthew"),
                (10.0, "memory", 200),
                (10.12, "die", "executor", 0),
            ),
        ),
        ("incidents.verify:_after_interruption", "all(step.idempotent for step in execution.runbook.steps) and ", ""),
    ),
)
