"""Sees whether a database is halted (R10): `python -m supervisor.store.witness PATH NAME SECONDS`.

A program of its own, so that a file system that hangs can be given up. It tries to write-lock the database as any other
program would, and asks the kernel who keeps it from that. It prints one line of JSON and exits 0 when no program can
write: `state` is `held` by hold:NAME, or `impossible`; else it exits 1 after SECONDS, and says who can.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import struct
import sys
import threading
from pathlib import Path

import msgspec

from supervisor import proc
from supervisor.clock import monotonic_s
from supervisor.store import openers, sqlite
from supervisor.store.sqlite import Fault

LOOK_S = 0.01
_opened: dict[str, int] = {}  # never closed: a close would drop the locks of our own connection
_FLOCK = struct.Struct("hhqqi0q")  # struct flock of Linux: type, whence, start, length, pid


class Seen(msgspec.Struct, frozen=True):
    """`state`: held | impossible | open. `pid` has the lock, 0 when none has."""

    ok: bool
    state: str
    pid: int
    said: str


def holder(path: Path) -> int:
    """The process that has the write lock, 0 when none has."""
    for file, byte in ((sqlite.beside(path, "-shm"), sqlite.WAL_WRITER), (str(path), sqlite.RESERVED)):
        fd = _opened.get(file)
        if fd is None:
            try:
                fd = _opened[file] = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0))
        kind, _, _, _, pid = _FLOCK.unpack(answer)
        if kind != fcntl.F_UNLCK:
            return int(pid)
    return 0


def look(path: Path, name: str, connection: sqlite3.Connection) -> Seen:
    """One look. Raises sqlite3.Error, OSError when nothing can be told."""
    damage = ""
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")
        return Seen(False, "open", 0, "any program can write it")
    except sqlite3.Error as error:
        fault = sqlite.fault_of(error)
        if fault is Fault.DAMAGED:
            damage = sqlite.describe(error)
        elif fault is not Fault.BUSY:
            raise
    pid = holder(path)
    ours = pid > 0 and " ".join(proc.command_line(pid)).strip() == f"healctl: hold:{name}"
    if damage:
        if ours:
            said = f"writing is impossible, no program can open it; who had it open is locked out (process {pid})"
            return Seen(True, "impossible", pid, said)
        return Seen(False, "impossible", pid, f"who had it open may still write; nobody else can open it ({damage})")
    if ours:
        return Seen(True, "held", pid, f"its write lock is held (process {pid}); readers go on")
    who = openers.words((openers.of_pid(pid),)) if pid else "another program"
    return Seen(False, "open", pid, f"{who} has the write lock and does not let go of it")


def watch(path: Path, name: str, within_s: float) -> Seen:
    """Looks until nobody can write, or the time is over."""
    until_s, pause = monotonic_s() + within_s, threading.Event()
    connection = sqlite.open_lock(path)
    while True:
        try:
            seen = look(path, name, connection)
        except (sqlite3.Error, OSError) as error:
            words = sqlite.describe(error) if isinstance(error, sqlite3.Error) else str(error)
            seen = Seen(False, "open", 0, f"nobody can tell whether it can be written: {words}")
        if seen.ok or monotonic_s() > until_s:
            return seen
        pause.wait(LOOK_S)


def main(argv: list[str]) -> None:
    """Ends the process without a close of the connection, which could write."""
    try:
        seen = watch(Path(argv[0]), argv[1], float(argv[2]))
    except sqlite3.Error as error:
        seen = Seen(False, "impossible", 0, f"it cannot be opened by anybody: {sqlite.describe(error)}")
    sys.stdout.write(msgspec.json.encode(seen).decode() + "\n")
    sys.stdout.flush()
    os._exit(0 if seen.ok else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
