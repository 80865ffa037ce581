"""Another program that writes a database as hard as it can, as the site's own programs do (SITE.md): one row a
transaction, WAL, busy_timeout 5000, its own checkpoints. `python -m tests.lab.hard_writer PATH SECONDS`.

Prints JSON: rows written, errors met, median and p99 of one transaction in milliseconds.
"""

from __future__ import annotations

import json
import sqlite3
import statistics
import sys
import time
from contextlib import closing

PAUSE_S = 0.0005  # it does something else, too


def main(path: str, seconds: float) -> None:
    times: list[float] = []
    errors: list[str] = []
    with closing(sqlite3.connect(path, isolation_level=None, timeout=5)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA busy_timeout=5000")
        db.execute("CREATE TABLE IF NOT EXISTS theirs (id INTEGER PRIMARY KEY, text TEXT)")
        end_s = time.perf_counter() + seconds
        while (began_s := time.perf_counter()) < end_s:
            try:
                db.execute("INSERT INTO theirs (text) VALUES (?)", ("x" * 200,))
            except sqlite3.Error as error:
                errors.append(str(error))
            times.append(time.perf_counter() - began_s)
            time.sleep(PAUSE_S)
    times.sort()
    print(
        json.dumps(
            {
                "rows": len(times) - len(errors),
                "errors": errors[:10],
                "ms_median": 1e3 * statistics.median(times),
                "ms_p99": 1e3 * times[len(times) * 99 // 100],
                "ms_max": 1e3 * times[-1],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
