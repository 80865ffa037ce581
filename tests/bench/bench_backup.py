"""How fast a good copy is made, and put back: the real programs on a real file, beside `sqlite3 .backup` and its
integrity check of the same file in the same run; and how fast a damaged one is salvaged beside `sqlite3 .recover`.

A restore first keeps the damaged file, then salvages it to see whether that holds more rows than the good copy. Its
floor is `.dump` of the file while it was good, loaded again (many a sqlite3 has no `.recover`), and a checked copy.

`python -m tests.bench.bench_backup` prints JSON.
"""

from __future__ import annotations

import json
import os
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


def seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some runs."""
    return min(seconds(work) for _ in range(RUNS))


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

    def loaded(command: str) -> None:
        other.unlink(missing_ok=True)
        run("sqlite3", other, stdin=run("sqlite3", live, command))

    backup_s, peer_s, checked_s = best(lambda: ours("backup", live, copies)), best(peer), best(checked)
    dump_s = best(lambda: loaded(".dump"))
    found: dict[str, object] = {
        "load": os.getloadavg()[0],
        "file_mib": round(size, 1),
        "backup_verified_mib_per_s": round(size / backup_s, 1),
        "floor_sqlite3_backup_mib_per_s": round(size / peer_s, 1),
        "floor_sqlite3_backup_and_check_mib_per_s": round(size / checked_s, 1),
        "floor_sqlite3_dump_and_load_mib_per_s": round(size / dump_s, 1),
        "ratio_backup_verified": round(backup_s / checked_s, 2),
    }
    run("sqlite3", live, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite_page(live)
    damaged = folder / "damaged.db"
    shutil.copyfile(live, damaged)

    def restored() -> None:
        shutil.copyfile(damaged, live)  # measured too, and little beside the rest
        found["said"] = str(ours("restore", live, copies)["said"])[-300:]

    good_s = best(restored)
    shutil.rmtree(copies)
    salvage_s = seconds(restored)
    found |= {
        "restore_of_good_copy_mib_per_s": round(size / good_s, 1),
        "restore_of_salvage_mib_per_s": round(size / salvage_s, 1),
        "ratio_restore_of_good_copy": round(good_s / (dump_s + checked_s), 2),
        "ratio_restore_of_salvage": round(salvage_s / (dump_s + checked_s), 2),
    }
    shutil.copyfile(damaged, live)
    try:
        found["sqlite3_recover_mib_per_s"] = round(size / best(lambda: loaded(".recover")), 1)
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
