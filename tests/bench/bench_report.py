"""`healctl report` over 100,000 closed incidents: time, the longest page (so long at most a writer waits), peak memory.

The floor is what SQLite needs to walk the same rows (count and length of every body), in the same run.
`python -m tests.bench.bench_report` prints JSON.
"""

from __future__ import annotations

import json
import resource
import sqlite3
import tempfile
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from supervisor import clock
from supervisor.incidents import model as m
from supervisor.incidents.report import By, Report
from supervisor.messages import FetchReport, Frame, ReportFound, decode_frame, encode
from supervisor.store import reporting
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab

INCIDENTS = 100_000


def fill(path: Path) -> None:
    """Closed incidents and their executions, written as the ledger's tables have them."""
    begins_s = clock.wall_s() - 25 * 86_400
    body = msgspec.json.encode
    results = (m.StepResult("start", True, "started", 1.0),)
    with closing(sqlite3.connect(path)) as db:
        for n in range(INCIDENTS):
            at = begins_s + n * 20
            incident = msgspec.structs.replace(
                lab.incident(n, target=f"svc-{n % 200}", state=m.State.RESOLVED), runbook_id="rb-restart-service",
                acted_by=m.ActedBy.RUNBOOK, detected_wall_s=at, resolved_wall_s=at + n % 60, well_wall_s=at - 1.0,
            )  # fmt: skip
            execution = lab.execution(n, state=m.ExecutionState.SUCCEEDED, verified=True, claimed_by="x")
            execution = msgspec.structs.replace(execution, incident_id=incident.id, results=results, created_wall_s=at)
            db.execute(
                "INSERT INTO incidents VALUES (?, ?, ?, ?, 0, ?, NULL, NULL, ?, ?)",
                (incident.id, incident.anomaly.value, incident.target_id, "resolved", at, n, body(incident).decode()),
            )
            db.execute(
                "INSERT INTO executions (id, state, is_over, created_steady_s, created_wall_s, boot_id, expires_mono_s,"
                " claimed_by, body) VALUES (?, 'succeeded', 1, ?, ?, '', 0, 'x', ?)",
                (execution.id, at, at, body(execution).decode()),
            )
        db.commit()


def walk(ledger: Ledger) -> tuple[dict[str, object], float, float]:
    """(the report, seconds, the longest page), each answer through the wire's encoding as between store and healer."""
    now_s = clock.wall_s()
    report, asked = Report(now_s - 30 * 86_400, now_s), FetchReport(now_s - 30 * 86_400)
    longest_s, began_s = 0.0, time.perf_counter()
    while True:
        page_s = time.perf_counter()
        found = ledger.past(partial(reporting.page, asked=asked))
        longest_s = max(longest_s, time.perf_counter() - page_s)
        assert isinstance(found, ReportFound)
        frame = decode_frame(encode(Frame(1, "a", "b", found)))
        assert isinstance(frame.body, ReportFound)
        told = frame.body
        report.take(told.incidents, told.actions, told.pages, told.marks)
        if not told.more:
            return report.body(By.TARGET), time.perf_counter() - began_s, longest_s
        asked = FetchReport(asked.since_wall_s, told.source, told.table, told.after)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="hc") as folder, closing(Ledger(Path(folder) / "ledger.db")) as ledger:
        fill(ledger.path)
        floor_s = time.perf_counter()
        for table in ("incidents", "executions"):
            lab.rows(ledger.path, f"SELECT count(*), sum(length(body)) FROM {table}")
        floor_s = time.perf_counter() - floor_s
        before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        body, took_s, longest_s = walk(ledger)
        assert body["actions"] == INCIDENTS
        after_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "incidents": INCIDENTS,
                "seconds": round(took_s, 2),
                "longest_page_ms": round(longest_s * 1000, 1),
                "floor_sql_walk_seconds": round(floor_s, 2),
                "peak_memory_more_mib": round((after_kib - before_kib) / 1024, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
