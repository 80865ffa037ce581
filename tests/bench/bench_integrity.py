"""How fast is a database checked, and who feels it? The whole path through the probe, beside the sqlite3 program's own
checks of the same file in the same run; and what a writer's commits take while checks run all the time.

`python -m tests.bench.bench_integrity` prints JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from probes.base import Events
from probes.database import DatabaseProbe
from supervisor.config import Config, DatabaseSection, HealctlSection
from supervisor.incidents.readings import DatabaseData, HealthReading, Integrity
from tests.bench.bench_probe import quantiles

MIB = 1024**2
ROWS = 250_000  # some 200 MiB
RUNS = 3
WRITE_S = 8.0
OFTEN_S, AT_TIMES_S = 0.002, 0.25  # between two commits

WRITER = """
import json, sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)
db.execute("PRAGMA synchronous=NORMAL")
took, end = [], time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.monotonic()
    db.execute("INSERT INTO w (body) VALUES (zeroblob(200))")
    took.append(time.monotonic() - began)
    time.sleep(float(sys.argv[3]))
print(json.dumps(took))
"""


class Wishes(Events):
    def __init__(self) -> None:
        self.soon = asyncio.Event()

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.soon.set()

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        pass


def make(path: Path, journal: str, rows: int) -> Path:
    """Rows of some 700 bytes, with an index in another order than the rows'."""
    numbers = random.Random(1)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={journal}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, key TEXT, body BLOB)")
        db.execute("CREATE TABLE w (id INTEGER PRIMARY KEY, body BLOB)")
        db.execute("BEGIN")
        db.executemany(
            "INSERT INTO t (key, body) VALUES (?, ?)",
            ((f"{numbers.random():.17f}", numbers.randbytes(660)) for _ in range(rows)),
        )
        db.execute("CREATE INDEX t_key ON t (key)")
        db.execute("COMMIT")
    return path


class Checker:
    """The probe, as its worker uses it."""

    def __init__(self, path: Path) -> None:
        section = DatabaseSection(path=str(path))
        healctl = HealctlSection(state_dir=str(path.parent / "state"))
        self.probe = DatabaseProbe(Config(healctl=healctl, database={"db": section}))
        self.wishes = Wishes()
        self.probe.watch(self.wishes)

    async def told(self) -> HealthReading:
        """The reading after the check that this one begins has ended."""
        self.wishes.soon.clear()
        asked_s = time.monotonic()
        reading = await self.probe.read("db", 5.0)
        while reading.available and (reading.checked_mono_s or 0.0) < asked_s:
            await self.wishes.soon.wait()
            self.wishes.soon.clear()
            reading = await self.probe.read("db", 5.0)
        return reading


async def throughput(path: Path) -> dict[str, object]:
    size_mib = path.stat().st_size / MIB
    path.read_bytes()  # warm: the disk is not what is measured
    ours, program, both = [], [], []
    checker = Checker(path)
    for _ in range(RUNS):
        began_s = time.monotonic()
        reading = await checker.told()
        ours.append(time.monotonic() - began_s)
        assert isinstance(reading.data, DatabaseData)
        assert reading.data.verdict is Integrity.OK
        full_s = await asyncio.to_thread(sqlite3_program, path, "integrity_check")
        program.append(full_s)
        both.append(full_s + await asyncio.to_thread(sqlite3_program, path, "quick_check"))
    checker.probe.close()

    def rate(times_s: list[float]) -> float:
        return round(size_mib / statistics.median(times_s), 1)

    return {
        "size_mib": round(size_mib, 1),
        "probe_quick_and_full_mib_s": rate(ours),
        "sqlite3_integrity_check_mib_s": rate(program),
        "sqlite3_quick_and_full_mib_s": rate(both),
        "times_the_same_work": round(statistics.median(ours) / statistics.median(both), 3),
    }


def sqlite3_program(path: Path, check: str) -> float:
    began_s = time.monotonic()
    done = subprocess.run(["sqlite3", "-readonly", str(path), f"PRAGMA {check}"], capture_output=True, check=True)
    assert done.stdout == b"ok\n"
    return time.monotonic() - began_s


async def written(path: Path, pause_s: float, *, checked: bool) -> dict[str, object]:
    """The commits of another program, alone or while one check follows another."""
    words = [sys.executable, "-c", WRITER, str(path), str(WRITE_S), str(pause_s)]
    writer = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    ended = asyncio.create_task(writer.communicate())
    outcomes: dict[str, int] = {}
    checker = Checker(path)
    while checked and not ended.done():
        told = asyncio.create_task(checker.told())
        await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not told.done():
            told.cancel()
            break
        reading = told.result()
        said = reading.data.verdict if isinstance(reading.data, DatabaseData) else reading.reason
        outcomes[str(said)] = outcomes.get(str(said), 0) + 1
    checker.probe.close()
    output, _ = await ended
    result: dict[str, object] = dict(quantiles(json.loads(output)))
    if checked:
        result["checks_meanwhile"] = outcomes
    return result


async def felt(folder: Path, journal: str, pause_s: float) -> dict[str, object]:
    path = make(folder / f"{journal}-{pause_s}.db", journal, ROWS // 5)
    return {
        "size_mib": round(path.stat().st_size / MIB, 1),
        "pause_between_commits_s": pause_s,
        "alone": await written(path, pause_s, checked=False),
        "beside_checks": await written(path, pause_s, checked=True),
    }


async def measured(folder: Path) -> dict[str, object]:
    return {
        "throughput": await throughput(make(folder / "big.db", "wal", ROWS)),
        "writer_wal": await felt(folder, "wal", OFTEN_S),
        "writer_rollback_journal": await felt(folder, "delete", AT_TIMES_S),
        "writer_rollback_journal_all_the_time": await felt(folder, "delete", OFTEN_S),
    }


def main() -> None:
    if shutil.which("sqlite3") is None:
        sys.exit("needs the sqlite3 program")
    folder = Path(tempfile.mkdtemp(prefix="hc"))
    try:
        print(json.dumps(asyncio.run(measured(folder)), indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
