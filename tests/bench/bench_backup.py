"""How fast a good copy is made, and put back: the real programs on a real file, beside `sqlite3 .backup` and its
integrity check of the same file in the same run; and how fast a damaged one is salvaged beside `sqlite3 .recover`.

`python -m tests.bench.bench_backup` prints JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.bench_integrity import make
from tests.lab.databases import overwrite_page

MIB = 1024**2
ROWS = 120_000  # some 100 MiB
RUNS = 3


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    took = []
    for _ in range(RUNS):
        began_s = time.perf_counter()
        work()
        took.append(time.perf_counter() - began_s)
    return min(took)


def run(*argv: object, stdin: bytes = b"") -> bytes:
    return subprocess.run([*map(str, argv)], input=stdin, check=True, capture_output=True).stdout


def ours(module: str, live: Path, copies: Path) -> dict[str, object]:
    words = ("--source", live, "--folder", copies, "--name", "bench")
    report: dict[str, object] = json.loads(run(sys.executable, "-m", f"supervisor.store.{module}", *words))
    assert report["ok"], report
    return report


def measure(folder: Path) -> dict[str, object]:
    live, copies, other = make(folder / "live.db", "wal", ROWS), folder / "copies", folder / "other.db"
    size = live.stat().st_size / MIB

    def peer() -> None:
        other.unlink(missing_ok=True)
        run("sqlite3", live, f".backup {other}")

    def checked() -> None:
        peer()
        assert run("sqlite3", other, "PRAGMA integrity_check") == b"ok\n"

    def recovered() -> None:
        other.unlink(missing_ok=True)
        run("sqlite3", other, stdin=run("sqlite3", live, ".recover"))

    found: dict[str, object] = {
        "file_mib": round(size, 1),
        "backup_verified_mib_per_s": round(size / best(lambda: ours("backup", live, copies)), 1),
        "sqlite3_backup_mib_per_s": round(size / best(peer), 1),
        "sqlite3_backup_and_check_mib_per_s": round(size / best(checked), 1),
    }
    run("sqlite3", live, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite_page(live)
    damaged = folder / "damaged.db"
    shutil.copyfile(live, damaged)
    found["restore_of_good_copy_mib_per_s"] = round(size / best(lambda: ours("restore", live, copies)), 1)
    shutil.rmtree(copies)
    shutil.copyfile(damaged, live)
    began_s = time.perf_counter()
    report = ours("restore", live, copies)
    found["restore_of_salvage_mib_per_s"] = round(size / (time.perf_counter() - began_s), 1)
    found["salvage_said"] = str(report["said"])[-300:]
    shutil.copyfile(damaged, live)
    began_s = time.perf_counter()
    try:
        recovered()
        found["sqlite3_recover_mib_per_s"] = round(size / (time.perf_counter() - began_s), 1)
    except subprocess.CalledProcessError as error:
        found["sqlite3_recover_mib_per_s"] = f"not in this sqlite3: {error.stderr.decode()[:80]}"
    return found


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="hc_bench_backup_"))
    try:
        print(json.dumps(measure(folder), indent=2))
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
