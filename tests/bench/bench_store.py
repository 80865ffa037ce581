"""How fast the store makes decisions durable, beside the floor of the same disk in the same run. JSON on stdout.

`python -m tests.bench.bench_store [DIRECTORY]` writes below DIRECTORY (default: the temp directory) and cleans up.
A decision is one incident, one trail entry, one metric and one timer. Its floor is the same rows, ready made, put bare
into the same tables with the same sync: nothing is decoded, checked, encoded or answered there.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from supervisor import bus
from supervisor.messages import Ack, EpochOpened, OpenEpoch
from supervisor.store import sqlite
from supervisor.store.brain_db import BrainDb
from supervisor.store.ledger import Ledger
from supervisor.store.projection import BATCH_REVS
from supervisor.store.schema import migrate
from tests.process import storelab as lab

SECONDS = 1.5  # of each measurement by time
STORM = 30_000
WINDOW = 1_000  # decisions on their way at once
TARGET_PER_S = 10_000  # DESIGN §9
BATCH = 500  # decisions in one transaction


def fsync_floor(where: Path) -> float:
    """Appends of one database page, each synced, a second."""
    page = os.urandom(4096)
    descriptor = os.open(where / "floor", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return rate(lambda: (os.write(descriptor, page), os.fdatasync(descriptor)))
    finally:
        os.close(descriptor)


def commit_floor(where: Path) -> float:
    """Bare SQLite commits of one small row, WAL and FULL, a second."""
    with closing(sqlite3.connect(where / "floor.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (x)")
        return rate(lambda: connection.execute("INSERT INTO t VALUES (1)"))


def batch_floor(where: Path) -> float:
    """Bare small rows a second, 100 in a commit, WAL and FULL (DESIGN §9)."""
    with closing(sqlite3.connect(where / "batch.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("CREATE TABLE t (x)")

        def put() -> None:
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO t VALUES (?)", [(1,)] * 100)
            connection.execute("COMMIT")

        return 100 * rate(put)


def rows_floor(source: Path, target: sqlite3.Connection, tables: tuple[str, ...], batch: int) -> float:
    """The rows of `tables` in `source`, put into `target` as they are: so many of the first table's a second."""
    with closing(sqlite3.connect(source)) as made:
        rows = {name: made.execute(f"SELECT * FROM {name} LIMIT {STORM}").fetchall() for name in tables}
    puts = {name: f"INSERT INTO {name} VALUES ({', '.join('?' * len(rows[name][0]))})" for name in tables}
    count = len(rows[tables[0]])
    began_s = time.perf_counter()
    for start in range(0, count, batch):
        target.execute("BEGIN IMMEDIATE")
        for name in tables:
            target.executemany(puts[name], rows[name][start : start + batch])
        target.execute("COMMIT")
    return count / (time.perf_counter() - began_s)


def decision_floor(where: Path) -> float:
    with closing(sqlite.open_ledger(where / "bare.db")) as bare:
        migrate(bare)
        return rows_floor(where / "alone.db", bare, ("incidents", "trail", "metrics", "timers"), BATCH)


def replay_floor(where: Path) -> float:
    path = where / "bare_brain.db"
    with closing(sqlite.open_target(path, create=True)) as bare:
        lab.brain(path).prepare(bare)
        return rows_floor(where / "replayed.db", bare, ("incidents",), BATCH_REVS // 2)  # two changes to an incident


def rate(work: object) -> float:
    assert callable(work)
    count, began_s = 0, time.perf_counter()
    while (took_s := time.perf_counter() - began_s) < SECONDS:
        work()
        count += 1
    return count / took_s


def ledger_alone(where: Path) -> dict[str, float]:
    """The ledger in this process: one decision a transaction, then 500."""
    with closing(Ledger(where / "alone.db")) as ledger:
        opened = ledger.open_epoch(OpenEpoch("bench", 0.0, 0.0))
        assert isinstance(opened, EpochOpened)
        epoch, n = opened.snapshot.epoch, 0

        times: list[float] = []

        def single() -> None:
            nonlocal n
            n += 1
            began_s = time.perf_counter()
            assert ledger.write([lab.decision(epoch, n)]) == [Ack()]
            times.append(time.perf_counter() - began_s)

        single_per_s = rate(single)
        batches = [[lab.decision(epoch, n + i + j + 1) for j in range(BATCH)] for i in range(0, STORM, BATCH)]
        began_s = time.perf_counter()
        for batch in batches:
            assert ledger.write(batch)[-1] == Ack()
        return {
            "single_per_s": single_per_s,
            "single_ms_median": 1e3 * statistics.median(times),
            "batches_of_500_per_s": STORM / (time.perf_counter() - began_s),
        }


async def real_process(store: lab.Store) -> dict[str, float]:
    """A storm over the bus into the real process with its three projections, then single decisions and their lag."""
    context = bus.new_context()
    link = bus.Link(context, bus.endpoint(store.runtime_dir, "store"), "healer", lambda _: None, "bench")
    opened = await link.ask(OpenEpoch("bench", 0.0, 0.0))
    assert isinstance(opened, EpochOpened)
    epoch = opened.snapshot.epoch
    decisions = [lab.decision(epoch, n) for n in range(1, STORM + 1)]
    room = asyncio.Semaphore(WINDOW)
    answers, acked_at = [], []
    path = store.state_dir / "brain.db"

    def on_answer(_: object) -> None:
        acked_at.append(time.perf_counter())
        room.release()

    began_s = time.perf_counter()
    watch = asyncio.create_task(asyncio.to_thread(growth, path, STORM))
    for it in decisions:
        await room.acquire()
        answers.append(link.ask(it))
        answers[-1].add_done_callback(on_answer)
    assert set(await asyncio.gather(*answers)) == {Ack()}
    storm_s = time.perf_counter() - began_s
    storm_lags = lags_of(acked_at, await watch)
    with closing(sqlite3.connect(path, timeout=10)) as reader:

        def projected(incident_id: str) -> bool:
            return bool(reader.execute("SELECT 1 FROM incidents WHERE id = ?", (incident_id,)).fetchall())

        while reader.execute("SELECT count(*) FROM incidents").fetchone()[0] < STORM:
            await asyncio.sleep(0.01)
        drained_s = time.perf_counter() - began_s
        acks, lags = [], []
        for n in range(STORM + 1, STORM + 301):
            began_s = time.perf_counter()
            assert await link.ask(lab.decision(epoch, n)) == Ack()
            acked_s = time.perf_counter()
            while not projected(f"inc-{n:06d}"):
                pass
            acks.append(acked_s - began_s)
            lags.append(time.perf_counter() - acked_s)
    link.close()
    context.term()
    return {
        "storm_per_s": STORM / storm_s,
        "storm_until_projected_per_s": STORM / drained_s,
        "ack_ms_median": 1e3 * statistics.median(acks),
        "projection_lag_ms_median": 1e3 * statistics.median(lags),
        "projection_lag_ms_p99": 1e3 * sorted(lags)[len(lags) * 99 // 100],
        "projection_lag_storm_ms_median": 1e3 * statistics.median(storm_lags),
        "projection_lag_storm_ms_p99": 1e3 * sorted(storm_lags)[len(storm_lags) * 99 // 100],
    }


def growth(path: Path, until: int) -> list[tuple[float, int]]:
    """When brain.db had how many incidents."""
    found = [(time.perf_counter(), 0)]
    while not path.exists():
        time.sleep(0.005)
    with closing(sqlite3.connect(path, timeout=10)) as reader:
        while found[-1][1] < until:
            time.sleep(0.01)
            try:
                ((count,),) = reader.execute("SELECT count(*) FROM incidents").fetchall()
            except sqlite3.OperationalError:  # its tables are not made yet
                continue
            found.append((time.perf_counter(), count))
    return found


def lags_of(acked_at: list[float], seen: list[tuple[float, int]]) -> list[float]:
    """For the n-th acknowledged decision: from then until brain.db had n incidents (they are projected in order)."""
    lags, index = [], 0
    for n, acked_s in enumerate(sorted(acked_at), 1):
        while seen[index][1] < n:
            index += 1
        lags.append(max(0.0, seen[index][0] - acked_s))
    return lags


def replay(where: Path) -> dict[str, float]:
    """What a restored, or a new, brain.db is given again from its beginning."""
    with closing(Ledger(where / "alone.db")) as ledger:
        ((rows,),) = lab.rows(ledger.path, "SELECT count(*) FROM incidents")
        began_s = time.perf_counter()
        with lab.following(lab.brain(where / "replayed.db"), ledger.path) as following:
            following.reaches(ledger.ledger_id, ledger.rev)
        took_s = time.perf_counter() - began_s
    return {"incidents": rows, "incidents_per_s": rows / took_s}


def restart_ms(store: lab.Store) -> float:
    """Opening the ledger again after a kill: what a restarted store needs before it is READY."""
    store.kill()
    began_s = time.perf_counter()
    with closing(Ledger(store.state_dir / "ledger.db")) as ledger:
        took_ms = 1e3 * (time.perf_counter() - began_s)
        assert ledger.rev > 0
    return took_ms


def main(parent: str | None) -> None:
    where = Path(tempfile.mkdtemp(prefix="hc", dir=parent))
    try:
        store = lab.Store(where, where)
        store.start()
        try:
            floor = {
                "fsync_per_s": fsync_floor(where),
                "commit_per_s": commit_floor(where),
                "rows_by_100_per_s": batch_floor(where),
            }
            ledger, process, again = ledger_alone(where), asyncio.run(real_process(store)), replay(where)
            floor |= {"decisions_by_500_per_s": decision_floor(where), "replay_per_s": replay_floor(where)}
            result: dict[str, object] = {
                "load": os.getloadavg()[0],
                "floor": floor,
                "ledger": ledger,
                "process": process,
                "replay": again,
                "ratio": {
                    "single": floor["commit_per_s"] / ledger["single_per_s"],
                    "batches_of_500": floor["decisions_by_500_per_s"] / ledger["batches_of_500_per_s"],
                    "storm": floor["decisions_by_500_per_s"] / process["storm_per_s"],
                    "replay": floor["replay_per_s"] / again["incidents_per_s"],
                },
                "reopen_after_kill_ms": restart_ms(store),
                "target_storm_per_s": TARGET_PER_S,
                "sqlite": sqlite3.sqlite_version,
                "decisions_in_storm": STORM,
                "projection": BrainDb.name,
            }
        finally:
            store.close()
        print(json.dumps(result, indent=2))
    finally:
        shutil.rmtree(where)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
