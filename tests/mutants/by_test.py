"""Mutants of what neither the simulator nor the exhaustive model have a notion of; each is found out by a test."""

from __future__ import annotations

from tests.mutants.kinds import ByTest, mutant

_STORM = "tests/unit/test_engine_storm.py"
_RULES = "tests/process/test_executor_rules.py"

BY_TEST = (
    # --- what people have approved, and how they say so ---
    mutant(
        "an approval holds for another version of its runbook",
        ByTest(
            "tests/unit/test_engine_runbooks.py::test_another_text_is_not_approved_and_another_author_is_no_other_text"
        ),
        ("incidents.policy:permission", "if state.version != runbook.version():", "if False:"),
        ("incidents.graduation:refit", "state.version == runbook.version()", "True"),
    ),
    mutant(
        "an agent's request outlives the version that it was for",
        ByTest(
            "tests/unit/test_engine_agents.py::test_a_code_expires_and_does_not_outlive_another_version_of_its_runbook"
        ),
        ("incidents.agents:take", " or runbook.version() != request.version", ""),
    ),
    mutant(
        "an agent's request never expires",
        ByTest(
            "tests/unit/test_engine_agents.py::test_a_code_expires_and_does_not_outlive_another_version_of_its_runbook"
        ),
        ("incidents.engine:_timer", "agents.over(turn, timer.subject)", "pass"),
    ),
    mutant(
        "a code is good twice",
        ByTest("tests/unit/test_engine_agents.py::test_a_code_is_good_once"),
        ("incidents.commands:_confirm", "agents.over(turn, request.id)", "pass"),
    ),
    mutant(
        "codes may be guessed for ever",
        ByTest("tests/unit/test_engine_agents.py::test_codes_cannot_be_guessed_for_long"),
        ("incidents.codes:find", "world.wrong_codes.append(now.steady_s)", "pass"),
    ),
    mutant(
        "a person's execute needs no confirmation",
        ByTest("tests/unit/test_engine_recovery.py::test_execute_needs_confirm_known_ids_and_a_free_resource"),
        ("incidents.commands:_execute", "if not args.confirm:", "if False:"),
    ),
    mutant(
        "an approval for one incident counts for the next",
        ByTest("tests/unit/test_engine_ladder.py::test_an_approval_for_one_incident_does_not_count_for_the_next"),
        ("incidents.ladder:decided", "if state is not None and runbook.once and not", "if False and not"),
    ),
    mutant(
        "what destroys passes over a milder rung",
        ByTest(
            "tests/unit/test_engine_ladder.py::test_what_destroys_overtakes_no_milder_rung_unless_a_person_says_so_now"
        ),
        ("incidents.ladder:choose", " and not destroys(runbook)", ""),
    ),
    mutant(
        "a rung that failed is tried again by itself",
        ByTest(
            "tests/unit/test_engine_ladder.py::test_a_rung_that_failed_runs_again_for_this_incident_only_on_a_new_approval"
        ),
        ("incidents.ladder:rest", "if runbook.id not in incident.spent", "if True"),
    ),
    mutant(
        "one incident counts twice towards graduation",
        ByTest("tests/unit/test_engine_learning.py::test_a_crash_counts_no_incident_twice_and_loses_none"),
        ("incidents.graduation:_count", "streak.incident_id == incident.id or ", ""),
    ),
    # --- limits ---
    mutant(
        "nine at once",
        ByTest(f"{_STORM}::test_at_most_eight_run_at_once"),
        (
            "incidents.remedy:consider",
            "running >= world.policy.executions_max",
            "running > world.policy.executions_max",
        ),
    ),
    mutant(
        "a breaker of a whole runbook lets two tries through",
        ByTest(f"{_STORM}::test_a_half_open_breaker_of_a_whole_runbook_lets_a_single_try_through"),
        (
            "incidents.remedy:_breaker_forbids",
            "if trying is not None and trying.trial in world.executions:",
            "if False:",
        ),
    ),
    mutant(
        "a breaker whose one try failed goes on trying",
        ByTest(
            "tests/unit/test_engine_incident.py::test_what_dies_2_s_after_each_restart_runs_3_times_then_the_breaker_opens_and_half_opens"
        ),
        ("incidents.remedy:after_failure", "half_open=False,", "half_open=True,"),
    ),
    mutant(
        "what killed two executors is tried a third time",
        ByTest(
            "tests/unit/test_engine_recovery.py::test_a_repair_that_kills_its_executor_twice_is_not_tried_a_third_time"
        ),
        (
            "incidents.verify:_after_interruption",
            "_deaths(turn, execution) < DEATHS_MAX",
            "_deaths(turn, execution) <= DEATHS_MAX",
        ),
    ),
    # --- pages ---
    mutant(
        "a canary that fails pauses nobody",
        ByTest(f"{_STORM}::test_a_canary_that_does_not_hold_pauses_the_family_with_one_grouped_page"),
        ("incidents.storm:failed", "if storm is None or execution.id not in storm.canaries:", "if True:"),
    ),
    mutant(
        "a page for many names one that had its page",
        ByTest(f"{_STORM}::test_a_canary_that_has_had_its_page_is_not_named_in_the_grouped_one"),
        ("incidents.storm:pause", "for i in hit if i.page_id is None]", "for i in hit]"),
    ),
    mutant(
        "quiet hours keep a page until the morning",
        ByTest("tests/unit/test_quiet_hours.py::test_a_page_never_waits"),
        ("incidents.quiet:waits", "row.tier < Tier.PAGE", "row.tier <= Tier.PAGE"),
    ),
    # --- fences ---
    mutant(
        "what an interrupted execution has started is not awaited",
        ByTest("tests/unit/test_engine_recovery.py::test_interrupted_before_it_took_effect_is_decided_anew"),
        (
            "incidents.verify:on_execution_found",
            "turn.effects.append(SettleExecution(merged))",
            "turn.world.settled.add(merged.id)",
        ),
    ),
    mutant(
        "an order that has expired is executed",
        ByTest(f"{_RULES}::test_what_is_too_late_or_groundless_is_refused_unclaimed"),
        ("remediators.run:check", "if late_s >= 0:", "if False:"),
    ),
    mutant(
        "what was claimed by another is run",
        ByTest(f"{_RULES}::test_a_claim_that_is_not_granted_runs_nothing"),
        ("remediators.run:Run._claim", "if not answer.granted:", "if False:"),
    ),
    mutant(
        "a process is known by its number alone",
        ByTest("tests/process/test_executor_crash.py::test_a_recycled_number_is_not_settled"),
        ("supervisor.proc:same", "found is not None and found.start_ticks == ref.start_ticks", "found is not None"),
    ),
    mutant(
        "a healer that another has followed may write",
        ByTest("tests/unit/test_store_ledger.py::test_a_gap_and_an_old_epoch_are_refused"),
        ("supervisor.store.ledger:Ledger._take_decision", "    if request.epoch != self.epoch:", "    if False:"),
    ),
    mutant(
        "two executors may claim one execution",
        ByTest("tests/unit/test_store_ledger.py::TestClaims::test_one_executor_gets_it_and_may_ask_again"),
        ("supervisor.store.claims:take", " AND state = 'intended'", ""),
    ),
    mutant(
        "an order that has expired may be claimed",
        ByTest(
            "tests/unit/test_store_ledger.py::TestClaims::test_what_expired_is_of_another_boot_or_unknown_is_not_granted"
        ),
        ("supervisor.store.claims:take", "AND expires_mono_s > ?", "AND expires_mono_s <> ?"),
    ),
    mutant(
        "a check that began before the halt ends it",
        ByTest("tests/unit/test_engine_halts.py::test_only_a_check_that_began_after_the_halt_ends_it"),
        ("incidents.halts:on_reading", "and checked_steady_s >= halt.since_steady_s ", ""),
    ),
)
