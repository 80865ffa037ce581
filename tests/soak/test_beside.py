"""A second program writes brain.db as hard as it can beside us: nobody meets a lock, nothing breaks, nobody waits."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor.incidents import records as rec
from supervisor.messages import Ack, Commit
from tests.process import storelab as lab
from tests.process.test_store_process import peer
from tests.process.test_store_process import runtime_dir as runtime_dir

DECISION_EVERY_S = 0.02  # a busy day: 50 decisions a second


def writer(path: Path, seconds: float) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.lab.hard_writer", str(path), str(seconds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=lab.ROOT)


def result(program: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    out, _ = program.communicate(timeout=seconds + 30)
    assert program.returncode == 0
    found: dict[str, Any] = json.loads(out)
    return found


async def beside(store: lab.Store, path: Path, seconds: float) -> tuple[dict[str, Any], int]:
    """What the other program met while we made decisions; how many those were."""
    async with peer(store) as healer:
        epoch = (await healer.open()).epoch
        program = writer(path, seconds)
        work = asyncio.create_task(asyncio.to_thread(result, program, seconds))
        n = 0
        while not work.done():
            n += 1
            records = (*lab.decision(epoch, n).records, rec.PutOutbox(lab.message(n)))
            assert await healer.ask(Commit(epoch, n, records)) == Ack()
            await asyncio.sleep(DECISION_EVERY_S)
        await healer.until(lambda: len({report.row_id for report in healer.reports}) == n)
        return work.result(), n


@pytest.mark.req("FR-001", "R14")
@pytest.mark.parametrize("seconds", [8.0, pytest.param(600.0, marks=pytest.mark.soak)])
def test_a_second_program_that_writes_hard_is_neither_harmed_nor_a_nuisance(
    tmp_path: Path, runtime_dir: Path, seconds: float
) -> None:
    path = tmp_path / "site.db"
    lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
    alone = result(writer(path, min(seconds / 2, 30)), seconds)
    store = lab.Store(tmp_path, runtime_dir, f'[store]\nbrain_db = "{path}"\n')
    store.start()
    try:
        found, made = asyncio.run(beside(store, path, seconds))
        assert store.stop() == "exit 0"
    finally:
        store.close()
    assert found["errors"] == []
    assert "database is locked" not in store.log()
    assert "locked by another" not in store.log()
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("SELECT count(*) FROM theirs").fetchone() == (alone["rows"] + found["rows"],)
        assert db.execute("SELECT count(*) FROM incidents").fetchone() == (made,)
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (made,)
    print(json.dumps({"alone": alone, "beside": found, "decisions": made}))
    if seconds > 60:  # a short run on a shared machine says nothing about time; the mark is 2x
        assert found["ms_p99"] <= max(4 * alone["ms_p99"], alone["ms_p99"] + 10), (alone, found)
