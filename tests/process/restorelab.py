"""A database of another program and its folder of copies, and the store's programs that work on them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import msgspec

from supervisor import backups
from supervisor.store.backup import Report
from tests.lab.databases import PAGE
from tests.process.storelab import rows

ROOT = Path(__file__).parents[2]
NAME = "notes"
KILLED = -signal.SIGKILL


class Site:
    """A database of incidents and messages, and its folder of copies."""

    def __init__(self, folder: Path, count: int = 1000, *, wal: bool = True) -> None:
        self.live = folder / "notes.db"
        self.copies = backups.folder(folder / "state", NAME)
        self.copies.parent.mkdir(parents=True)
        self._token = folder / "token"
        with closing(sqlite3.connect(self.live, isolation_level=None)) as db:
            db.execute(f"PRAGMA page_size={PAGE}")
            db.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
            db.execute("CREATE TABLE incidents (id TEXT PRIMARY KEY, body TEXT)")
            db.execute("CREATE TABLE messages (id TEXT PRIMARY KEY, body TEXT)")
        self.add(0, count)

    def add(self, first: int, count: int) -> None:
        with closing(sqlite3.connect(self.live, isolation_level=None, timeout=10)) as db:
            db.execute("BEGIN")
            for table in ("incidents", "messages"):
                put = f"INSERT INTO {table} VALUES (?, ?)"
                db.executemany(put, ((f"{table}-{n:06}", "x" * 180) for n in range(first, first + count)))
            db.execute("COMMIT")

    def run(self, module: str, *words: object, crash: str = "") -> tuple[int, Report | None]:
        argv = [sys.executable, "-m", f"supervisor.store.{module}", "--source", self.live, "--folder", self.copies]
        env = dict(os.environ)
        if crash:
            self._token.touch()
            env["HEALCTL_TEST_CRASH"] = f"{module}:{crash}:{self._token}"
        done = subprocess.run(
            [*map(str, argv), "--name", NAME, *map(str, words)],
            capture_output=True,
            check=False,
            env=env,
            cwd=ROOT,
            timeout=60,
        )
        return done.returncode, msgspec.json.decode(done.stdout, type=Report) if done.stdout else None

    def ok(self, module: str, *words: object) -> Report:
        code, report = self.run(module, *words)
        assert report is not None
        assert (code, report.ok) == (0, True), report
        return report

    def refused(self, module: str, *words: object) -> str:
        code, report = self.run(module, *words)
        assert report is not None
        assert (code, report.ok) == (1, False), report
        return report.said

    def count(self, table: str = "incidents") -> int:
        return int(rows(self.live, f"SELECT count(*) FROM {table}")[0][0])

    def whole(self) -> bool:
        return rows(self.live, "PRAGMA integrity_check") == [("ok",)]

    def overwrite(self, *pages: int) -> None:
        """Pages of the main file; the log is merged first."""
        rows(self.live, "PRAGMA wal_checkpoint(TRUNCATE)")
        with self.live.open("r+b") as file:
            for page in pages:
                file.seek((page - 1) * PAGE)
                file.write(b"\xff" * PAGE)
