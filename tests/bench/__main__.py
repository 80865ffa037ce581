"""`make bench`: every benchmark in turn, as one JSON object on stdout."""

from __future__ import annotations

import json
import subprocess
import sys

NAMES = (
    "bench_site",
    "bench_tree",
    "bench_store",
    "bench_backup",
    "bench_rotate",
    "bench_halt",
    "bench_probe",
    "bench_executor",
    "bench_fleet",
    "bench_integrity",
    "bench_engine",
    "bench_metrics",
    "bench_learning",
    "bench_page",
    "bench_drill",
    "bench_report",
    "bench_tui",
    "bench_sim",
)

results = {}
for name in NAMES:
    print(f"{name} ...", file=sys.stderr)  # progress: they take minutes in all
    done = subprocess.run([sys.executable, "-m", f"tests.bench.{name}"], capture_output=True, text=True, check=False)
    results[name] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-2000:]}
print(json.dumps(results, indent=2))
