"""How long a damaged brain.db goes on being written: the whole daemon, and another program that is refused in the end.

From the beginning of the check that fails to (a) the halt being told, which is after it is durable and the store has
stopped writing; (b) the lock being held, which is when the other program is refused and stays so. `idle`: the other
program only tries the lock; `hard_writer`: it commits a row whenever it can. The floor of the same run is the same work
done bare, one thing after another: that check, one synced commit, a fork to the child's first message, one lock.

`python -m tests.bench.bench_halt [ROUNDS]` prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from supervisor.messages import Event, decode_frame
from tests.bench.bench_probe import quantiles
from tests.bench.bench_site import feed
from tests.bench.bench_tree import answer, fork_ms
from tests.lab.daemon import Daemon, site, until
from tests.lab.databases import overwrite_page
from tests.lab.halted import LOAD_ROWS, tried
from tests.lab.hard_writer import PAUSE_S

ROUNDS = 12
FLOOR_RUNS = 30
LOOK_S = 0.001
LASTING_S = 0.5  # refused for so long: it is no other program's turn, but a halt
MODES = ("idle", "hard_writer")
Figures = dict[str, float]


# --- the other program -----------------------------------------------------------------------------------------------


def other_program(path: str, mode: str) -> None:
    """Prints `ready`, then when it was refused for good (CLOCK_MONOTONIC). Ends without a close, which could write."""
    db = sqlite3.connect(path, isolation_level=None, timeout=0)
    statement, pause_s = (
        ("BEGIN IMMEDIATE", LOOK_S) if mode == "idle" else ("INSERT INTO site (body) VALUES (1)", PAUSE_S)
    )
    print("ready", flush=True)
    refused_s = 0.0
    while not refused_s or time.monotonic() - refused_s < LASTING_S:
        try:
            db.execute(statement)
            if db.in_transaction:
                db.execute("ROLLBACK")
            refused_s = 0.0
        except sqlite3.OperationalError:
            refused_s = refused_s or time.monotonic()
        time.sleep(pause_s)
    print(refused_s, flush=True)
    os._exit(0)


def fill(path: Path) -> None:
    """A table of another program, in the file itself and not in its log: there it will be damaged."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=10)) as db:
        db.execute("CREATE TABLE site (n INTEGER PRIMARY KEY, body TEXT)")
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO site (body) VALUES (?)", (("x" * 900,) for _ in range(LOAD_ROWS)))
        db.execute("COMMIT")
        until("the log to be merged", lambda: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


# --- one halt --------------------------------------------------------------------------------------------------------


def one_halt(mode: str) -> tuple[float, float, float]:
    """Seconds from the beginning of the failing check to the halt told, and held; and of that check done bare."""
    with site() as here:
        path = here.folder / "state" / "brain.db"
        daemon = here.daemon(f'[database.brain-db]\npath = "{path}"\ninterval = "1s"\n')
        daemon.start()
        until("brain.db", lambda: path.exists() and tried(path, "SELECT count(*) FROM incidents") == "ok")
        fill(path)
        words = [sys.executable, "-m", "tests.bench.bench_halt", "other", str(path), mode]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other, feed(daemon) as events:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            overwrite_page(path)
            while True:
                assert events.poll(60_000), "not halted"
                body = decode_frame(events.recv()).body
                if isinstance(body, Event) and body.kind == "incident":
                    told_s = time.monotonic()
                    break
            refused_s = float(other.stdout.readline())
        check_s = bare_check(path)
        since_s = grounds(daemon)
        daemon.stop()
    return told_s - since_s, refused_s - since_s, check_s


def bare_check(path: Path) -> float:
    began_s = time.perf_counter()
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        try:
            found = db.execute("PRAGMA integrity_check(10)").fetchone()
        except sqlite3.DatabaseError as error:
            found = (str(error),)
    assert found != ("ok",)
    return time.perf_counter() - began_s


def grounds(daemon: Daemon) -> float:
    """When the check began on which the halt rests (CLOCK_MONOTONIC)."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        ((halt,),) = db.execute("SELECT body FROM halts").fetchall()
        ((run,),) = db.execute(
            "SELECT body FROM executions WHERE body ->> 'incident_id' = ?", (json.loads(halt)["incident_id"],)
        ).fetchall()
    return float(json.loads(run)["grounds_mono_s"])


# --- the floor -------------------------------------------------------------------------------------------------------


def floors(folder: Path) -> Figures:
    """Medians of what a halt cannot do without, each done bare, on the same disk."""
    path = folder / "floor.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE t (x)")
        commit_ms = median_ms(lambda: db.execute("INSERT INTO t VALUES (1)"))

    def lock() -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as own:
            own.execute("BEGIN IMMEDIATE")

    return {
        "commit_ms": commit_ms,
        "fork_to_message_ms": round(statistics.median(fork_ms(answer) for _ in range(FLOOR_RUNS)), 3),
        "lock_ms": median_ms(lock),
    }


def median_ms(work: Callable[[], object]) -> float:
    took_s = []
    for _ in range(FLOOR_RUNS):
        began_s = time.perf_counter()
        work()
        took_s.append(time.perf_counter() - began_s)
    return round(1e3 * statistics.median(took_s), 3)


def beside(times_s: list[float], floor_ms: float) -> Figures:
    found = quantiles(times_s)
    return found | {"floor_ms": round(floor_ms, 3), "ratio_p50": round(found["p50_ms"] / floor_ms, 2)}


def measure(rounds: int) -> dict[str, object]:
    with site() as here:
        floor = floors(here.folder)
    found: dict[str, object] = {"load_before": os.getloadavg()[0], "floor": floor}
    for mode in MODES:
        told_s, held_s, check_s = zip(*(one_halt(mode) for _ in range(rounds)), strict=True)
        check_ms = 1e3 * statistics.median(check_s)
        told_floor_ms = check_ms + floor["commit_ms"]
        held_floor_ms = told_floor_ms + floor["fork_to_message_ms"] + floor["lock_ms"]
        found[mode] = {
            "floor_check_ms": round(check_ms, 3),
            "check_to_told": beside(list(told_s), told_floor_ms),
            "check_to_held": beside(list(held_s), held_floor_ms),
        }
    return found | {"load_after": os.getloadavg()[0]}


if __name__ == "__main__":
    if sys.argv[1:2] == ["other"]:
        other_program(*sys.argv[2:])
    else:
        print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS), indent=2))
