"""Each mutant is found out, by what it is said to be found out by; and what finds them out lets the real thing be.

Those that a test finds out take a pytest of their own each: with all others they are `make soak`'s.
"""

from __future__ import annotations

import inspect

import pytest

from supervisor.incidents import breaker
from tests.mutants.by_model import BY_MODEL
from tests.mutants.edit import Edit, edited
from tests.mutants.kinds import BySim, judged, mutant, on
from tests.mutants.table import BY_SIM, MUTANTS
from tests.sim.run import run_plan

LEAST = 32


@pytest.mark.req("NFR-001", "NFR-002", "R1", "R2", "R3", "R4", "R6", "R7", "R8", "R10", "R15")
@pytest.mark.parametrize("name", [it.name for it in (*BY_SIM, *BY_MODEL)])
def test_what_is_wrong_is_found_out(name: str) -> None:
    found = judged(MUTANTS[name])
    assert found.by, found.survived


def test_every_plan_that_finds_a_mutant_out_is_kept_by_the_engine_as_it_is() -> None:
    plans = {it.killer.plan for it in BY_SIM if isinstance(it.killer, BySim) and it.killer.plan is not None}
    broken = [outcome.text for outcome in map(run_plan, plans) if outcome.broken]
    assert broken == []


def test_they_are_many_and_each_is_another_one() -> None:
    assert len(MUTANTS) >= LEAST
    assert len({it.edits for it in MUTANTS.values()}) == len(MUTANTS)
    assert all(it.edits for it in MUTANTS.values())


def test_an_edit_that_fits_nothing_is_refused_and_one_that_never_runs_finds_nothing_out() -> None:
    for edit in (
        Edit("supervisor.incidents.breaker:exhausted", "no such text", "x"),
        Edit("supervisor.incidents.breaker:exhausted", "policy", "world"),  # more than once
        Edit("supervisor.incidents.breaker:STARTS", "start-service", "x"),
    ):
        with pytest.raises(ValueError, match=r"exhausted|STARTS"), edited([edit]):
            pass
    breaks = BySim("breakers hold", on("services", (10.0, "kill", "auto-a", True)))
    never = mutant("never", breaks, ("incidents.drill:timer_due", "return", "return None"))
    assert judged(never).survived.startswith("an edit never ran")


def test_what_was_edited_is_as_it_was_afterwards() -> None:
    real = breaker.exhausted.__code__
    with edited(MUTANTS["a breaker opens one run later"].edits) as ran:
        assert breaker.exhausted.__code__ is not real
    assert breaker.exhausted.__code__ is real
    assert not ran.everywhere
    assert not [name for name, _ in inspect.getmembers(breaker) if "edit" in name]
