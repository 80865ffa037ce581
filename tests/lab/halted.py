"""A brain.db that other programs use too, and what they may do with it while it is halted (R10)."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.lab.daemon import Daemon, until

LOAD_ROWS = 2000

# Another program that writes as hard as it can, and waits for nobody. It says when it has begun, and what stopped it.
_WRITER = f"""
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=0)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS site (n INTEGER PRIMARY KEY, body TEXT)")
db.execute("BEGIN IMMEDIATE")
db.executemany("INSERT INTO site (body) VALUES (?)", (("x" * 900,) for _ in range({LOAD_ROWS})))
db.execute("COMMIT")
db.execute("CREATE TABLE IF NOT EXISTS more (n INTEGER PRIMARY KEY)")
db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
db.execute("PRAGMA wal_autocheckpoint=0")
print("writing", flush=True)
refused_s = 0.0
while True:
    try:
        db.execute("INSERT INTO more DEFAULT VALUES")
        refused_s = 0.0
        time.sleep(0.002)
    except sqlite3.OperationalError as error:
        refused_s = refused_s or time.monotonic()
        if time.monotonic() - refused_s > 0.5:
            print(error, flush=True)
            break
sys.stdin.read()
"""


@contextlib.contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Writes from its first line of output to its second, which says by what it was refused for half a second."""
    program = subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "writing\n"
        yield program
    finally:
        program.kill()
        program.communicate(timeout=60)


def tried(path: Path, statement: str = "BEGIN IMMEDIATE") -> str:
    """What SQLite answers to another program, which does not wait: `ok`, or the name of the error."""
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(f'file:{sys.argv[1]}?mode=rw', uri=True, isolation_level=None, timeout=0)\n"
        "try:\n"
        "    db.execute(sys.argv[2]).fetchall()\n"
        "    print('ok')\n"
        "except sqlite3.Error as error:\n"
        "    print(error.sqlite_errorname)\n"
        "import os; sys.stdout.flush(); os._exit(0)\n"  # a close could be the last one, which writes
    )
    done = subprocess.run([sys.executable, "-c", code, str(path), statement], capture_output=True, check=True)
    return done.stdout.decode().strip()


def wait_halted(path: Path) -> None:
    """Until no other program can write `path`."""
    until("another program is refused", lambda: tried(path) in ("SQLITE_BUSY", "SQLITE_NOTADB"))


def in_ledger(daemon: Daemon, target_id: str, state: str) -> list[dict[str, Any]]:
    """The target's incidents in this state, as the ledger has them."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state_dir / 'ledger.db'}?mode=ro", uri=True)) as db:
        rows = db.execute("SELECT body FROM incidents WHERE target_id = ? AND state = ?", (target_id, state)).fetchall()
    return [msgspec.json.decode(body) for (body,) in rows]


def bytes_of(path: Path) -> tuple[bytes, bytes]:
    """The database and its log. Not -shm: readers note there where they read."""
    wal = path.with_name(f"{path.name}-wal")
    return path.read_bytes(), wal.read_bytes() if wal.exists() else b""
