"""Graduation and replay over 10,000 incidents, and how long a decision takes to become a first step. JSON on stdout.

Graduation goes through the whole engine, dry run and all; its floor is the same incidents where nothing may be learnt
(no runbook fits). Replay goes through a real ledger; its floor is the same pages read and not looked at. From decision
to first step lie two durable commits, the decision's and the claim's: they are the floor, measured on the same disk.

What is pure is measured in CPU seconds, the rest by the clock.

`python -m tests.bench.bench_learning`
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from remediators.runbooks import RUNBOOKS
from supervisor.incidents.model import Mode, Target
from supervisor.incidents.records import Record
from supervisor.incidents.replay import Past, Replay
from supervisor.messages import Commit, EpochOpened, FetchHistory, HistoryFound, OpenEpoch
from supervisor.store import history
from supervisor.store.ledger import Ledger
from tests.bench.bench_store import commit_floor
from tests.lab.daemon import Daemon, Site, site
from tests.lab.engine import Lab, service

INCIDENTS = 10_000
EACH = 2  # incidents of one target: one more, and it would be healed
DEATHS = 30
RUNBOOK = RUNBOOKS[0]

_past = msgspec.json.Decoder(Past).decode


def asked_for(*, recipe: bool, each: int = EACH) -> tuple[Lab, float]:
    """Services that die `each` times and are started by hand; the engine, and the CPU seconds that it took."""
    targets = tuple(service(f"s{n}", auto_restart=False, recipe=recipe) for n in range(INCIDENTS // each))
    lab = Lab(targets=targets)
    began_s = time.process_time()
    for target in targets:
        for _ in range(each):
            lab.kill(target.target_id)
            lab._pid += 1
            lab.alive[target.target_id] = lab._pid
            lab.poll(target.target_id)
        lab.now_s += 60.0
    return lab, time.process_time() - began_s


def graduation() -> dict[str, object]:
    lab, took_s = asked_for(recipe=True)
    assert len(lab.incidents()) == INCIDENTS
    states = lab.engine.world.runbook_states.values()
    assert {state.dry_run_count for state in states} == {EACH}
    assert len(states) == INCIDENTS // EACH
    for state in list(states):
        lab.kill(state.target_id)  # the third
    assert {state.mode for state in lab.engine.world.runbook_states.values()} == {Mode.AUTO_EXECUTE}
    floor, floor_s = asked_for(recipe=False)
    assert len(floor.incidents()) == INCIDENTS
    return {
        "incidents_per_cpu_s": round(INCIDENTS / took_s),
        "cpu_us_each": round(took_s / INCIDENTS * 1e6),
        "floor_nothing_to_learn_cpu_us_each": round(floor_s / INCIDENTS * 1e6),
    }


def pages(ledger: Ledger, each: Callable[[bytes], object]) -> tuple[int, float, float]:
    """(incidents, CPU seconds, the longest page in seconds: so long at most a writer waits)."""
    asked = FetchHistory(tuple(a.value for a in RUNBOOK.applies_to), "", 0.0)
    count, longest_s = 0, 0.0
    began_s = time.process_time()
    while True:
        page_s = time.perf_counter()
        found = ledger.past(partial(history.page, asked=asked))
        longest_s = max(longest_s, time.perf_counter() - page_s)
        assert isinstance(found, HistoryFound)
        for row in found.rows:
            each(row)
        count += len(found.rows)
        if not found.more:
            return count, time.process_time() - began_s, longest_s
        asked = msgspec.structs.replace(asked, source=found.source, after=found.after)


def replay(records: list[Record], targets: dict[str, Target]) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="hc") as folder, closing(Ledger(Path(folder) / "ledger.db")) as ledger:
        opened = ledger.open_epoch(OpenEpoch("bench", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        for n, first in enumerate(range(0, len(records), 1_000), 1):
            ledger.write([Commit(opened.snapshot.epoch, n, tuple(records[first : first + 1_000]))])
        sums = Replay(RUNBOOK, RUNBOOKS)

        def judge(row: bytes) -> None:
            past = _past(row)
            sums.take(past, targets.get(past.incident.target_id))

        count, took_s, _ = pages(ledger, judge)
        _, floor_s, longest_s = pages(ledger, len)
        body = sums.body(0.0, None)
        assert (count, body["would_act"], body["acted_on_healthy"]) == (INCIDENTS, INCIDENTS, 0)
        assert body["predicted_by_dry_run"] == INCIDENTS
        return {
            "cpu_s": round(took_s, 2),
            "incidents_per_cpu_s": round(count / took_s),
            "floor_pages_read_cpu_s": round(floor_s, 2),
            "longest_page_ms": round(longest_s * 1e3, 1),
            "ledger_mb": round(ledger.size_bytes() / 1e6, 1),
        }


def to_first_step(here: Site) -> dict[str, object]:
    """A service that is killed again and again. A step began by the time its report was taken, less what it took: the
    report's way back is in the figure."""
    toy = here.service("toy")
    toy.start()
    policy = '[policy]\nclear_interval = "50ms"\nsettle = "0s"\nbreaker_per_target = 1000\nbreaker_total = 1000\n'
    daemon = here.daemon(toy.toml() + policy)
    daemon.start()
    for n in range(DEATHS):
        daemon.wait_known(toy)
        toy.kill()
        daemon.wait_state("toy", "resolved", n + 1)
    times = [waited_s * 1e3 for waited_s in _waits(daemon)]
    assert len(times) == DEATHS
    floor_ms = 2e3 / commit_floor(here.folder)
    cut = statistics.quantiles(times, n=20)
    return {
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(cut[-1], 2),
        "floor_two_commits_ms": round(floor_ms, 2),
    }


def _waits(daemon: Daemon) -> list[float]:
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        trail = [json.loads(body) for (body,) in db.execute("SELECT body FROM trail ORDER BY incident_id, n")]
    found, decided_s = [], 0.0
    for entry in trail:
        if entry["state"] == "remediating" and entry["step_id"] is None and entry["note"].startswith("running"):
            decided_s = entry["at_wall_s"]
        elif entry["step_id"] == RUNBOOK.steps[0].step_id:
            found.append(entry["at_wall_s"] - entry["duration_ms"] / 1e3 - decided_s)
    return found


if __name__ == "__main__":
    figures: dict[str, object] = {"graduation": graduation()}
    recorded, _ = asked_for(recipe=True)
    figures["replay"] = replay(recorded.records, {target.target_id: target for target in recorded.targets})
    with site() as made_here:
        figures["decision_to_first_step"] = to_first_step(made_here)
    print(json.dumps(figures, indent=2))
