"""What a mutant is, and how it is found out: by the simulator, by the exhaustive model, or by a test with a name.

It counts as found out only by what it is said to be found out by, and only when its edits have run.
"""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tests.model.exhaustive import Broken, explore
from tests.model.sites import SITES
from tests.mutants.edit import Edit, edited
from tests.sim.run import run_plan
from tests.sim.schedule import Event, Plan, generate

ROOT = Path(__file__).resolve().parents[2]
SEEDS_MAX = 60
STATES, DEPTH = 400, 9
TEST_S = 300.0
MUTANT, RAN = "HEALCTL_TEST_MUTANT", "HEALCTL_TEST_MUTANT_RAN"  # for tests/mutants/plugin.py: its name; a file


class BySim(msgspec.Struct, frozen=True):
    """`breaks`: an invariant. `plan`: what happens; None: what the first seeds make happen."""

    breaks: str
    plan: Plan | None = None


class ByModel(msgspec.Struct, frozen=True):
    """`says`: a pattern of what the rule says that does not hold."""

    site: str
    says: str


class ByTest(msgspec.Struct, frozen=True):
    """Where neither simulator nor model have the notion: a test that passes without the mutant, by its node id."""

    test: str


class Mutant(msgspec.Struct, frozen=True):
    name: str
    killer: BySim | ByModel | ByTest
    edits: tuple[Edit, ...]


class Found(msgspec.Struct, frozen=True):
    """A line of the table. `by`: what found it out, empty when nothing did."""

    name: str
    edits: tuple[str, ...]
    by: str
    after: str
    seconds: float
    survived: str = ""


def mutant(name: str, killer: BySim | ByModel | ByTest, *edits: tuple[str, str, str]) -> Mutant:
    """`edits`: module and function, without "supervisor." where it is below `incidents`; old text; new text."""
    whole = (Edit(f"supervisor.{at}" if at.startswith("incidents.") else at, old, new) for at, old, new in edits)
    return Mutant(name, killer, tuple(whole))


def on(
    size: str, *events: tuple[float, str, object, *tuple[object, ...]] | tuple[float, str], real: bool = False
) -> Plan:
    """These events on this site, each as (seconds, kind, arguments ...)."""
    return Plan(1, size, real, tuple(Event(at_s, kind, tuple(args)) for at_s, kind, *args in events))  # type: ignore[misc]


def judged(it: Mutant) -> Found:
    """Runs it until it is found out. Says what became of it when it is not."""
    began_s = time.monotonic()
    match it.killer:
        case BySim(breaks, plan):
            by, after, survived = _by_sim(it, breaks, plan)
        case ByModel(site, says):
            by, after, survived = _by_model(it, site, says)
        case ByTest(test):
            by, after, survived = _by_test(it, test)
    seconds = round(time.monotonic() - began_s, 2)
    return Found(it.name, tuple(map(str, it.edits)), by, after, seconds, survived)


def _by_sim(it: Mutant, breaks: str, plan: Plan | None) -> tuple[str, str, str]:
    seeds = (generate(seed, real_every=SEEDS_MAX) for seed in range(1, SEEDS_MAX))
    plans: Iterable[Plan] = (plan,) if plan is not None else seeds
    broken: Counter[str] = Counter()
    ran = False
    for count, one in enumerate(plans, 1):
        with _thrown_away(), edited(it.edits) as reached:
            outcome = run_plan(one)
        broken[outcome.broken] += 1
        ran = ran or reached.everywhere
        if outcome.broken == breaks and reached.everywhere:
            return f"sim: {breaks}", f"{len(one.events)} events" if plan is not None else f"{count} seeds", ""
    what = f"should break {breaks!r}, and broke {dict(broken)}"
    return "", "", what if ran else f"an edit never ran; {what}"


@contextmanager
def _thrown_away() -> Iterator[None]:
    """A run that was broken off leaves coroutines; where the code that they are in the midst of is an edited one, they
    may fail when they are thrown away, which says no more about it. Here, not in the midst of whatever comes next."""
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = lambda unraisable: None
        gc.collect()
        sys.unraisablehook = hook


def _by_model(it: Mutant, site: str, says: str) -> tuple[str, str, str]:
    with edited(it.edits) as reached:
        try:
            found = explore(SITES[site], depth=DEPTH, states=STATES)
        except Broken as broken:
            if re.search(says, str(broken)) and reached.everywhere:
                return f"model: {says}", f"site {site!r}", ""
            return "", "", f"should break {says!r}, and broke {str(broken)[:500]!r}; ran: {reached.times}"
    return "", "", f"{found.states} states hold; ran: {reached.times}"


def _by_test(it: Mutant, test: str) -> tuple[str, str, str]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ran"
        args = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "tests.mutants.plugin",
            test,
        ]
        env = {**os.environ, MUTANT: it.name, RAN: str(file)}
        done = subprocess.run(args, cwd=ROOT, env=env, capture_output=True, text=True, timeout=TEST_S, check=False)
        ran = set(file.read_text().split()) if file.exists() else set()
    everywhere = len(ran) == len(it.edits)
    if done.returncode == 1 and re.search(r"^1 failed", done.stdout, re.MULTILINE) and everywhere:
        return f"test: {test.rpartition('/')[2]}", "1 test", ""
    return "", "", f"pytest exited with {done.returncode}; edits that ran: {sorted(ran)}; {done.stdout[-2000:]}"
