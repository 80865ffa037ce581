"""Keeps everybody from writing a database while this process copies it and prepares what will take its place (R10).

The write lock is in a child that opens nothing else: POSIX locks go with the first close of any descriptor of the file,
and who copies it closes some. Without it, what other programs write in these minutes, and believe to be written, would
be in neither the copy nor the new database.
"""

from __future__ import annotations

import os
import select
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import setproctitle

from supervisor import at_work
from supervisor.store import sqlite
from supervisor.store.copies import Patience
from supervisor.store.hold import BUSY_S, Lock
from supervisor.worker import close_inherited

LOOK_S = 0.25
HELD = b"held"

State = tuple[int, int, int] | None
Marks = tuple[State, State]


class Sentry:
    """The write lock of `path` until `let_go`; whether anybody has written it since `mark`.

    Where nobody can have the lock (a file system that is read only, say), nobody can write either, and it goes on.
    Raises StoreError when another program keeps the lock; Stopped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._marked: Marks = (None, None)
        heard, said = os.pipe()
        end, self._open = os.pipe()  # its end is the child's
        self._pid = os.fork()
        if self._pid == 0:
            _stand(path, said, end)
        os.close(said)
        os.close(end)
        patience = Patience(path)
        try:
            while not select.select([heard], [], [], LOOK_S)[0]:
                at_work.boundary()
                patience.step(sqlite3.SQLITE_BUSY)
            os.read(heard, len(HELD))
        except BaseException:
            self.let_go()
            raise
        finally:
            os.close(heard)

    def leave(self) -> None:
        """Lets go of it, as soon as the child has ended; for who is at the lock by then."""
        if self._open >= 0:
            os.close(self._open)
            self._open = -1

    def let_go(self) -> None:
        """Lets go of it, and returns when that is so."""
        self.leave()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0

    def mark(self) -> None:
        """From here on `moved` tells."""
        self._marked = self._look()

    def moved(self) -> bool:
        """Has anybody written it since? Not before somebody is kept from it again can this be relied on."""
        return self._look() != self._marked

    def _look(self) -> Marks:
        return _state(str(self._path)), _state(f"{self._path}-wal")


@contextmanager
def posted(path: Path) -> Iterator[Sentry]:
    """A sentry for as long as the block lasts, at most."""
    sentry = Sentry(path)
    try:
        yield sentry
    finally:
        sentry.let_go()


def _state(path: str) -> State:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _stand(path: Path, said: int, end: int) -> NoReturn:
    """The child: it takes the lock, says so, and ends when its parent says so or has ended itself.

    Its connection is never closed, which could copy a log back: it dies with it.
    """
    try:
        close_inherited({said, end})
        setproctitle.setproctitle("healctl: restore")
        lock = Lock(path)
        while not lock.take():
            if select.select([end], [], [], BUSY_S)[0]:
                os._exit(0)
        os.write(said, HELD)
        os.read(end, 1)
    except (sqlite3.Error, OSError) as error:
        words = sqlite.describe(error) if isinstance(error, sqlite3.Error) else str(error)
        os.write(2, f"nobody can take the write lock of {path}: {words}\n".encode())
    finally:
        os._exit(1)
