"""Real SQLite files, whole and damaged in real ways (PARTS: an overwritten page, a changed key, a bad header ...)."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PAGE = 4096


def make(path: Path, rows: int = 2000, *, wal: bool = False) -> Path:
    """A table of `rows` rows of some 200 bytes, with an index whose keys stand nowhere else in the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA page_size={PAGE}")
        db.execute(f"PRAGMA journal_mode={'wal' if wal else 'delete'}")
        db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, body TEXT)")
        db.execute("CREATE INDEX t_name ON t (upper(name))")
        db.execute("BEGIN")
        db.executemany("INSERT INTO t (name, body) VALUES (?, ?)", ((f"key-{n:06}", "x" * 180) for n in range(rows)))
        db.execute("COMMIT")
    return path


def overwrite_page(path: Path) -> None:
    """A page in the middle: what a stray write or a bad disk does."""
    middle = path.stat().st_size // PAGE // 2
    with path.open("r+b") as file:
        file.seek(middle * PAGE)
        file.write(b"\xff" * PAGE)


def change_index_key(path: Path) -> None:
    """One key of the index; the row it stands for keeps its value."""
    content = path.read_bytes()
    at = content.index(b"KEY-000123")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"KEX")


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def destroy_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\xa5" * 100)


def listing(folder: Path) -> list[tuple[str, int]]:
    """Every file below the folder with its size: what a probe must leave as it was. (-shm is SQLite's own memory.)"""
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_size if path.is_file() else -1) for path in folder.rglob("*")
    )


@contextlib.contextmanager
def program(code: str, *words: object) -> Iterator[subprocess.Popen[bytes]]:
    """Another program that has `db` open (argv[1]); it runs `code`, says so, and then waits to be killed (-9)."""
    whole = (
        "import os, sqlite3, sys, time\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)\n"
        f"{code}\n"
        "print('ready', flush=True)\n"
        "time.sleep(600)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", whole, *map(str, words)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        child.kill()
        child.wait(60)
        assert child.stdout is not None
        child.stdout.close()


def run(code: str, *words: object) -> None:
    """Another program, from its beginning to its end."""
    subprocess.run([sys.executable, "-c", f"import os, sqlite3, sys\n{code}", *map(str, words)], check=True, timeout=60)
