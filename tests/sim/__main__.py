"""`python -m tests.sim`: many seeds, one seed, or one list of events.

python -m tests.sim --seeds 2000            what `make sim` runs
python -m tests.sim --minutes 60            `make soak`
python -m tests.sim --incidents 1000000 --json F   until so many, with the report in a file
python -m tests.sim --seed 123              one, with what it came to
python -m tests.sim --seed 123 --events F   a shrunk list

Every 30 s the figures so far go to stderr. SIGINT or SIGTERM stops a campaign: what is in work comes to its end, and
everything so far is told as at its end.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from supervisor.worker import die_with_parent
from tests.sim.coverage import UNREACHABLE, expected, missing
from tests.sim.run import Outcome, run_plan, run_seed
from tests.sim.schedule import FAULTS, generate
from tests.sim.shrink import Shrinker, decode, encode, words

CHUNK = 10
FAILURES_MAX = 3  # are shrunk
FAILURES_TOLD_MAX = 20
PROGRESS_S = 30.0
FALSE = "no false action"


def _begins(parent_pid: int) -> None:
    """A worker of the pool: the parent alone is told to stop, and lets what is in work come to its end. What was
    imported is looked at by no collection, and the only ones are `_chunk`'s."""
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.disable(logging.CRITICAL)
    gc.disable()
    gc.freeze()


def _chunk(seeds: tuple[int, int, int]) -> list[Outcome]:
    first, last, real_every = seeds
    outcomes = [run_seed(seed, real_every=real_every) for seed in range(first, last)]
    gc.collect()
    return outcomes


class Campaign:
    """Adds up what the seeds came to; shrinks and tells the first failures."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.began_s = time.monotonic()
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

    def figures(self) -> dict[str, object]:
        took_s = time.monotonic() - self.began_s
        return {
            "seeds": self.seeds,
            "processes": self.processes,
            "seconds": round(took_s, 1),
            "incidents": self.incidents,
            "faults": self.faults,
            "virtual_hours": round(self.hours, 1),
            "incident_hours": round(self.incident_hours, 1),
            "false_actions": sum(outcome.broken == FALSE for outcome in self.broken),
            "races": self.races,
            "broken": len(self.broken),
            "seeds_per_s": round(self.seeds / took_s, 1),
            "incidents_per_s": round(self.incidents / took_s, 1),
            "incident_hours_per_s": round(self.incident_hours / took_s, 2),
        }

    def report(self, real_every: int) -> dict[str, object]:
        """The figures, what was visited, and the first seeds that broke an invariant, each with how to run it again."""
        return {
            **self.figures(),
            "failures": [
                {"seed": it.seed, "invariant": it.broken, "text": it.text, "again": again(it.seed, real_every)}
                for it in self.broken[:FAILURES_TOLD_MAX]
            ],
            "visited": dict(sorted(self.counts.items())),
        }


def again(seed: int, real_every: int) -> str:
    """The command that runs it once more."""
    return f"python -m tests.sim --seed {seed} --real-every {real_every}"


class Limits:
    """When a campaign is over. A signal to stop counts, too: what is in work comes to its end and is added up."""

    def __init__(self, first: int, count: int, minutes: float, incidents: int) -> None:
        self._seeds = range(first, first + count)
        self._until_s = time.monotonic() + minutes * 60 if minutes else float("inf")
        self._incidents = incidents or float("inf")
        self.stopped = False

    def stop(self, number: int, frame: object) -> None:
        """Once; a second signal ends this process as it would any other."""
        self.stopped = True
        signal.signal(number, signal.SIG_DFL)

    def chunks(self, total: Campaign, room: threading.Semaphore, real_every: int) -> Iterator[tuple[int, int, int]]:
        """As many at a time as there is `room` for, since the pool takes whatever it is offered at once."""
        for at in self._seeds[::CHUNK]:
            room.acquire()
            if self.stopped or time.monotonic() >= self._until_s or total.incidents >= self._incidents:
                return
            yield at, min(at + CHUNK, self._seeds.stop), real_every


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


def campaign(
    limits: Limits, processes: int, *, real_every: int = 50, coverage: bool = False, file: Path | None = None
) -> int:
    """Exit code: 1 when an invariant did not hold, or (`coverage`) something was never visited. `file`: where the
    report is kept, as JSON, as of the newest line of progress and at the end."""
    total = Campaign(processes)
    told: set[str] = set()
    before = [(number, signal.signal(number, limits.stop)) for number in (signal.SIGINT, signal.SIGTERM)]
    room = threading.Semaphore(2 * processes)
    pool = multiprocessing.get_context("fork").Pool(processes, _begins, (os.getpid(),))
    told_s = float("-inf")
    try:
        for outcomes in pool.imap_unordered(_chunk, limits.chunks(total, room, real_every)):
            for outcome in outcomes:
                total.add(outcome)
                if outcome.broken and outcome.broken not in told and len(told) < FAILURES_MAX:
                    told.add(outcome.broken)
                    tell_failure(outcome, real_every=real_every, folder=Path("build/sim"))
            if time.monotonic() - told_s >= PROGRESS_S:
                told_s = time.monotonic()
                print(json.dumps(total.figures()), file=sys.stderr, flush=True)
                _keep(total, file, real_every)
            room.release()
    finally:
        limits.stopped = True
        room.release(2)
        pool.close()  # not `terminate`, to whose signal its workers are deaf
        pool.join()
        for number, handler in before:
            signal.signal(number, handler)
    return _tell(total, coverage=coverage, file=file, real_every=real_every)


def _keep(total: Campaign, file: Path | None, real_every: int) -> None:
    """At no time is there half a report."""
    if file is not None:
        new = file.with_name(f"{file.name}.new")
        new.write_text(json.dumps(total.report(real_every), indent=1) + "\n")
        new.replace(file)


def _tell(total: Campaign, *, coverage: bool, file: Path | None, real_every: int) -> int:
    _keep(total, file, real_every)
    lost = missing(total.counts, FAULTS) if coverage else []
    _print_coverage(total.counts)
    print(json.dumps(total.figures()))
    by_name = Counter(outcome.broken for outcome in total.broken)
    for name, times in by_name.most_common():
        seeds_of = [outcome.seed for outcome in total.broken if outcome.broken == name][:10]
        print(f"BROKEN {name}: {times} seeds, e.g. {seeds_of}")
        print(f"  again: {again(seeds_of[0], real_every)}")
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
    parser.add_argument("--incidents", type=int, default=0, help="until there have been so many")
    parser.add_argument("--json", type=Path, help="keep the report in this file, too: now and then, and at the end")
    parser.add_argument("--first", type=int, default=1, help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--real-every", type=int, default=50, help="on the real ledger: every so manieth seed")
    parser.add_argument("--no-coverage", action="store_true", help="do not fail on what was never visited")
    asked = parser.parse_args()
    if asked.seed is not None:
        return one(asked.seed, asked.events, asked.real_every)
    count = asked.seeds or (10**9 if asked.minutes or asked.incidents else 2_000)
    limits = Limits(asked.first, count, asked.minutes, asked.incidents)
    coverage = not asked.no_coverage
    return campaign(limits, asked.processes, real_every=asked.real_every, coverage=coverage, file=asked.json)


if __name__ == "__main__":
    sys.exit(main())
