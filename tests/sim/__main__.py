"""`python -m tests.sim`: many seeds, one seed, or one list of events.

python -m tests.sim --seeds 2000            what `make sim` runs
python -m tests.sim --minutes 60            `make soak`
python -m tests.sim --seed 123              one, with what it came to
python -m tests.sim --seed 123 --events F   a shrunk list
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.sim.coverage import UNREACHABLE, expected, missing
from tests.sim.run import Outcome, run_plan, run_seed
from tests.sim.schedule import FAULTS, generate
from tests.sim.shrink import Shrinker, decode, encode, words

CHUNK = 10
FAILURES_MAX = 3


def _chunk(seeds: tuple[int, int, int]) -> list[Outcome]:
    first, last, real_every = seeds
    outcomes = [run_seed(seed, real_every=real_every) for seed in range(first, last)]
    gc.collect()
    return outcomes


def _chunks(first: int, count: int, until: float, real_every: int) -> Iterator[tuple[int, int, int]]:
    at = first
    while at < first + count and time.monotonic() < until:
        yield at, min(at + CHUNK, first + count), real_every
        at += CHUNK


class Campaign:
    """Adds up what the seeds came to; shrinks and tells the first failures."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.seeds = self.incidents = self.races = self.faults = 0
        self.hours = self.incident_hours = 0.0
        self.broken: list[Outcome] = []

    def add(self, outcome: Outcome) -> None:
        self.seeds += 1
        self.counts.update(outcome.counts)
        self.incidents += outcome.incidents
        self.races += outcome.races
        self.faults += outcome.faults
        self.hours += outcome.hours
        self.incident_hours += outcome.incident_hours
        if outcome.broken:
            self.broken.append(outcome)

    def figures(self, took_s: float, processes: int) -> dict[str, object]:
        return {
            "seeds": self.seeds,
            "processes": processes,
            "seconds": round(took_s, 1),
            "incidents": self.incidents,
            "faults": self.faults,
            "virtual_hours": round(self.hours, 1),
            "incident_hours": round(self.incident_hours, 1),
            "races": self.races,
            "seeds_per_s": round(self.seeds / took_s, 1),
            "incidents_per_s": round(self.incidents / took_s, 1),
            "incident_hours_per_s": round(self.incident_hours / took_s, 2),
        }


def tell_failure(outcome: Outcome, *, real_every: int, folder: Path) -> None:
    """The seed, the shortest list of events, and how to run it again."""
    plan = generate(outcome.seed, real_every=real_every)
    shrinker = Shrinker(plan, outcome.broken)
    short = shrinker.shrunk()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"sim-{outcome.seed}.json"
    file.write_bytes(encode(short))
    found = run_plan(short)
    print(f"\nseed {outcome.seed} ({plan.size}): {outcome.text}")
    print(f"  shrunk from {len(plan.events)} events to {len(short.events)} in {shrinker.tries} runs: {found.text}")
    print(words(short))
    print(f"  again: python -m tests.sim --seed {outcome.seed} --events {file}", flush=True)


def campaign(first: int, count: int, minutes: float, processes: int, *, real_every: int, coverage: bool) -> int:
    """Exit code: 1 when an invariant did not hold, or (`coverage`) something was never visited."""
    began = time.monotonic()
    until = began + minutes * 60 if minutes else float("inf")
    total = Campaign()
    told: set[str] = set()
    seeds = _chunks(first, count, until, real_every)
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        for outcomes in pool.imap_unordered(_chunk, seeds):
            for outcome in outcomes:
                total.add(outcome)
                if outcome.broken and outcome.broken not in told and len(told) < FAILURES_MAX:
                    told.add(outcome.broken)
                    tell_failure(outcome, real_every=real_every, folder=Path("build/sim"))
    figures = total.figures(time.monotonic() - began, processes)
    lost = missing(total.counts, FAULTS) if coverage else []
    _print_coverage(total.counts)
    print(json.dumps(figures))
    by_name = Counter(outcome.broken for outcome in total.broken)
    for name, times in by_name.most_common():
        seeds_of = [outcome.seed for outcome in total.broken if outcome.broken == name][:10]
        print(f"BROKEN {name}: {times} seeds, e.g. {seeds_of}")
    if lost:
        print(f"never visited: {', '.join(lost)}")
    return 1 if total.broken or lost else 0


def _print_coverage(counts: Counter[str]) -> None:
    kinds: dict[str, list[str]] = {}
    for name in [*expected(FAULTS), *sorted(counts)]:
        kind, _, rest = name.partition(" ")
        line = f"{rest} {counts[name]}"
        if line not in kinds.setdefault(kind, []):
            kinds[kind].append(line)
    for kind, lines in kinds.items():
        print(f"{kind}: {', '.join(lines)}")
    for name, why in UNREACHABLE.items():
        print(f"unreachable: {name}: {why}")


def one(seed: int, events: Path | None, real_every: int) -> int:
    """One run, in full."""
    plan = decode(events.read_bytes()) if events is not None else generate(seed, real_every=real_every)
    print(f"seed {plan.seed}, site {plan.size!r}, {'the real' if plan.real else 'a model'} ledger")
    print(words(plan))
    outcome = run_plan(plan)
    print(json.dumps({key: it for key, it in msgspec.to_builtins(outcome).items() if key != "counts"}, indent=1))
    return 1 if outcome.broken else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description="Simulate seeds.", epilog=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seed", type=int, help="run this one only")
    parser.add_argument("--events", type=Path, help="with --seed: a list of events that was written before")
    parser.add_argument("--seeds", type=int, default=0, help="how many")
    parser.add_argument("--minutes", type=float, default=0.0, help="how long")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--real-every", type=int, default=50, help="on the real ledger: every so manieth seed")
    parser.add_argument("--no-coverage", action="store_true", help="do not fail on what was never visited")
    asked = parser.parse_args()
    if asked.seed is not None:
        return one(asked.seed, asked.events, asked.real_every)
    count = asked.seeds or (10**9 if asked.minutes else 2_000)
    return campaign(
        asked.first,
        count,
        asked.minutes,
        asked.processes,
        real_every=asked.real_every,
        coverage=not asked.no_coverage,
    )


if __name__ == "__main__":
    sys.exit(main())
