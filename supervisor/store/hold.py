"""Holds the write lock of one halted database, so that no other program writes it either (R10, DESIGN §1).

A child of the root of its own: it survives the store and the healer, and opens nothing but that one connection, for
closing any other descriptor of the file would drop its locks. Readers go on. It never writes, and never closes its
connection: a last close would copy the write-ahead log back into the damaged file.

Where the header is destroyed SQLite gives nobody a lock, but a program that had the database open in WAL mode goes on
writing: it does not read the header again. The bytes that SQLite locks are then locked by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import sqlite3
from pathlib import Path

from supervisor import targets
from supervisor.clock import monotonic_s
from supervisor.errors import ConfigError
from supervisor.store import sqlite
from supervisor.store.sqlite import Fault
from supervisor.worker import Boot, Worker

log = logging.getLogger(__name__)

BUSY_S = 0.005  # another program writes: its transaction ends soon, and beside a hard writer the gaps are short
NEVER_S = 30.0  # no lock can be had, for now
LOOK_S = 1.0  # is it still this file that the path names?

_kept: list[sqlite3.Connection] = []


class Lock:
    """The write lock of `path`. `take` blocks for as long as the file system does, and belongs to one thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._held = False
        self._by_hand: dict[str, int] = {}  # descriptors, never closed: any close would drop every lock of the file

    def take(self) -> bool:
        """Takes it, unless it is held: True when it is, False while another program has it.

        Raises sqlite3.Error, OSError when nobody could take it now.
        """
        found = os.stat(self._path)
        if self._connection is not None and (found.st_dev, found.st_ino) != self._file:
            # Another file is in its place; the old one stays locked.
            self._connection, self._held, self._by_hand = None, False, {}
        if self._held:
            return True
        if self._connection is None:
            self._connection = sqlite.open_lock(self._path)
            _kept.append(self._connection)
            self._file = (found.st_dev, found.st_ino)
        self._held = self._take_by_hand() if self._by_hand else self._take_by_sqlite(self._connection)
        return self._held

    @property
    def by_hand(self) -> bool:
        return bool(self._by_hand)

    def _take_by_sqlite(self, connection: sqlite3.Connection) -> bool:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if sqlite.fault_of(error) is Fault.BUSY:
                return False
            if sqlite.fault_of(error) is Fault.DAMAGED:
                return self._take_by_hand()
            raise
        return True

    def _take_by_hand(self) -> bool:
        """From here on the connection is not used again: SQLite's unlocking would take these locks with it."""
        log_index = sqlite.beside(self._path, "-shm")
        for path, start, length in ((log_index, sqlite.WAL_WRITER, 2), (str(self._path), sqlite.RESERVED, 1)):
            try:
                fd = self._by_hand.get(path) or os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                continue  # no log in use: there is nobody to keep out of it
            self._by_hand[path] = fd
            try:
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except BlockingIOError:
                return False
        return True


class HoldWorker(Worker):
    """`hold:NAME`, for as long as the halt of NAME stands."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        super().__init__(boot, uplink)
        self._said = ""

    async def start(self) -> None:
        name = self.boot.name.partition(":")[2]
        path = targets.written(self.boot.config).get(name)
        if path is None:
            raise ConfigError(f"{name} is no database that healctl writes")
        self._lock = Lock(Path(path))
        self._path = path
        self._began_s = monotonic_s()
        self._holding = asyncio.get_running_loop().create_task(self._hold())

    async def stop(self) -> None:
        """The lock goes with the process."""
        self._holding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._holding

    async def _hold(self) -> None:
        while True:
            try:
                held = await asyncio.to_thread(self._lock.take)
            except (sqlite3.Error, OSError) as error:
                words = sqlite.describe(error) if isinstance(error, sqlite3.Error) else str(error)
                self._say(logging.ERROR, f"nobody can take the write lock of {self._path}: {words}")
                await asyncio.sleep(NEVER_S)
                continue
            if held:
                how = ", locked by hand since its header is destroyed" if self._lock.by_hand else ""
                self._say(logging.INFO, f"holds the write lock of {self._path}{how}: nobody writes it")
            await asyncio.sleep(LOOK_S if held else BUSY_S)
            self.done += 1

    def _say(self, level: int, words: str) -> None:
        if words != self._said:
            self._said = words
            log.log(level, "%s (after %.3f s)", words, monotonic_s() - self._began_s)
