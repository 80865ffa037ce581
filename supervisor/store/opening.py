"""A ledger's beginning: its first row, and what to say of one that cannot be opened."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Any

from supervisor.clock import Anchor, SteadyClock
from supervisor.errors import LedgerUnusable, StoreError
from supervisor.store import sqlite


def begin(connection: sqlite3.Connection, *, epoch: int, rev: int, anchor: Anchor | None) -> tuple[Any, ...]:
    """The head of a new ledger."""
    now = SteadyClock(anchor).anchor()
    row = (os.urandom(8).hex(), epoch, 0, rev, now.boot_id, now.mono_s, now.steady_s)
    connection.execute("INSERT INTO head VALUES (1, ?, ?, ?, ?, ?, ?, ?)", row)
    return row


_LASTING = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)


def at_start(path: Path, error: sqlite3.Error | OSError) -> StoreError | LedgerUnusable:
    """What to say of a ledger that cannot be opened, and whether a new start could change it."""
    if isinstance(error, OSError):
        text, lasts = error.strerror or str(error), error.errno in _LASTING
    else:
        text = sqlite.describe(error)
        lasts = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM)
    if lasts:
        return LedgerUnusable(f"the ledger {path} cannot be used: {text}", "healctl must be able to write it")
    return StoreError(f"the ledger {path} cannot be opened now: {text}", "look at its disk")
