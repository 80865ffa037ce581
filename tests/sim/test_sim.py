"""The simulator itself: it is deterministic, both ledgers agree, what is wrong is found, and a failure gets short.

The many seeds are `make sim`'s; these are few, and one for each way of being wrong.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from supervisor.messages import Commit
from tests.mutants.edit import edited
from tests.mutants.table import MUTANTS
from tests.sim import __main__ as cli
from tests.sim.coverage import UNREACHABLE, expected, missing
from tests.sim.invariants import Watch
from tests.sim.run import run_plan, run_seed
from tests.sim.schedule import FAULTS, Event, Plan, generate
from tests.sim.shrink import Shrinker, decode, encode


@pytest.mark.req("NFR-001", "NFR-002", "R2", "R3", "R6", "R7", "R15")
@pytest.mark.parametrize("first", [1, 1_050])
def test_no_invariant_breaks_in_a_few_seeds(first: int) -> None:
    outcomes = [run_seed(seed) for seed in range(first, first + 15)]
    assert [(outcome.seed, outcome.text) for outcome in outcomes if outcome.broken] == []
    assert sum(outcome.incidents for outcome in outcomes) > 30
    assert sum(outcome.faults for outcome in outcomes) > 30


# 300: the ledger is near its limit. 603, 1126: the store dies while its disk is full.
@pytest.mark.parametrize("seed", [4, 250, 300, 603, 1126])
def test_the_same_seed_is_the_same_history_and_so_it_is_on_the_real_ledger(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is written from the real ledger's promises: whatever it holds wrongly would lead elsewhere. Every
    decision is compared in full, with its time: what differs a little in these seeds differs a lot in others."""
    plan, durable = generate(seed), Watch.durable
    told: list[tuple[float, bytes]] = []

    def noted(watch: Watch, commit: Commit) -> None:
        # The real one has a file of its own, whose path stands in what is said of it.
        told.append((watch.loop.time(), re.sub(rb'[^"]*/ledger\.db', b"ledger.db", msgspec.json.encode(commit))))
        durable(watch, commit)

    def history(real: bool) -> tuple[list[tuple[float, bytes]], str, dict[str, int]]:
        told.clear()
        outcome = run_plan(msgspec.structs.replace(plan, real=real))
        return told.copy(), outcome.digest, outcome.counts

    monkeypatch.setattr(Watch, "durable", noted)
    model = history(real=False)
    assert model == history(real=False)
    assert model == history(real=True)


def test_a_failure_is_shrunk_to_the_events_that_it_needs_and_can_be_run_again(tmp_path: Path) -> None:
    needed = (Event(20.0, "kill", ("auto-a", True)),)
    beside = tuple(Event(5.0 + n, "look", ("auto-b",)) for n in range(12))
    events = tuple(sorted((*needed, *beside), key=lambda event: event.at_s))
    plan = Plan(1, "services", False, events)
    edits = MUTANTS["no fresh probe before a step"].edits
    broken = run_plan(plan, edited(edits)).broken
    assert broken == "no step without a fresh failing reading"
    short = Shrinker(plan, broken, lambda candidate: run_plan(candidate, edited(edits))).shrunk()
    assert short.events == needed
    file = tmp_path / "events.json"
    file.write_bytes(encode(short))
    assert decode(file.read_bytes()) == short
    assert run_plan(short, edited(edits)).broken == broken
    assert run_plan(short).broken == ""


def test_one_seed_is_told_in_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "events.json"
    file.write_bytes(encode(Plan(5, "mixed", False, (Event(3.0, "phantom", (True,)),))))
    assert cli.one(5, file, 50) == 0
    told = capsys.readouterr().out
    assert "phantom(True,)" in told
    assert '"broken": ""' in told


def test_what_was_never_visited_is_named() -> None:
    everything = Counter(expected(FAULTS))
    assert missing(everything, FAULTS) == []
    del everything["reason breaker_open"], everything["fault lose commit"]
    assert missing(everything, FAULTS) == ["reason breaker_open", "fault lose commit"]
    assert set(missing(Counter(), FAULTS)) == set(expected(FAULTS)) - UNREACHABLE.keys()
    assert UNREACHABLE.keys() <= set(expected(FAULTS)), "an exception for what does not exist"


# What seeds have found in healctl, as short as it got; each is right since.
FOUND = {
    "a wall clock set back kept a database halted for a day": Plan(
        42, "mixed", False, (Event(40.8, "corrupt", (True,)), Event(445.8, "wall", (-86_400.0,)))
    ),
    "what the store told a healer that was just starting was lost, and it tells only what has changed": Plan(
        241,
        "services",
        False,
        (
            Event(348.0, "large_ledger", (70.0,)),
            Event(421.9, "hang", ("store",)),
            Event(425.5, "message", ("epoch", "lose", 4, 0.002)),
            Event(425.6, "die", ("healer", 0)),
        ),
    ),
    "a machine that stood still while the evidence was written acted on what it had read 71 s before": Plan(
        3000119,
        "mixed",
        False,
        (Event(107.1, "slow_evidence", (1.5,)), Event(107.1, "disk", (0.88, True)), Event(108.1, "stall", (70.0,))),
    ),
    "a gateway that had come back while its restart waited for the ledger was restarted": Plan(
        2008199,
        "mixed",
        False,
        (
            Event(10.0, "gateway", ("gw", "down")),
            Event(11.0, "look", ("gw",)),
            Event(13.0, "look", ("gw",)),
            Event(13.025, "slow_disk", (1.0, 5.0)),
            Event(13.5, "gateway", ("gw", "up")),
        ),
    ),
    "an executor died of a doubled order that had expired while it was away": Plan(
        180, "mixed", False, (Event(150.4, "loop", ("executor", 11, 4)),)
    ),
}


@pytest.mark.req("NFR-001", "R2", "R10")
@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_mended(name: str) -> None:
    assert run_plan(FOUND[name]).text == ""
