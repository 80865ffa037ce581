"""The ledger's upkeep, in the store's spare time: is it sound, and what of it is over and may be archived?

The check reads in a thread of its own, through a connection of its own, and ends itself when it takes too long. The
archiving is done where every write of the ledger is done, some milliseconds at a time.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from supervisor.clock import monotonic_s
from supervisor.messages import LedgerTrouble
from supervisor.store import sqlite
from supervisor.store.ledger import Ledger
from supervisor.store.sqlite import Fault

log = logging.getLogger(__name__)

CHECK_WITHIN_S = 120.0
FIRST_S = 30.0  # after the start: whoever waits for us goes first
EVERY_S = 3600.0
CHECK_EVERY = 24  # of these hours
PAUSE_S = 0.05
DAY_S = 86_400.0
FULL, WELL = 0.8, 0.7  # of `ledger_max`: from here on less is kept, until this is reached


class Check(StrEnum):
    """How closely SQLite looks at a database."""

    QUICK = "quick_check"  # every page and row
    FULL = "integrity_check"  # the indexes against their tables, too: ten times the work


class Care:
    """`projected` tells how far every projection has the ledger; `damaged` is called when the check finds damage."""

    def __init__(
        self,
        ledger: Ledger,
        projected: Callable[[], int],
        damaged: Callable[[str], None],
        limits: Callable[[], tuple[float, int]],
    ) -> None:
        self._ledger = ledger
        self._projected = projected
        self._damaged = damaged
        self._limits = limits  # `keep` in seconds, `ledger_max` in bytes: another configuration may come
        self._trouble = ""
        self._over = threading.Event()

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self.check()
                await asyncio.sleep(FIRST_S)
                for _ in range(CHECK_EVERY):
                    await self.archive()
                    await asyncio.sleep(EVERY_S)
        finally:
            self._over.set()  # a check under way ends: a stop waits for its thread

    async def check(self, how: Check = Check.QUICK) -> None:
        """Is the ledger sound? At the start, since a crash may have been the disk's; then daily; when it is doubted."""
        ledger_id = self._ledger.ledger_id
        found = await asyncio.to_thread(whats_wrong, self._ledger.path, how, CHECK_WITHIN_S, self._over.is_set)
        if found and self._ledger.ledger_id == ledger_id:
            self._damaged(found)

    async def archive(self) -> int:
        """Moves what is older than `keep`, and more where the ledger is nearly full; how many rows went."""
        keep_s, bytes_max = self._limits()
        moved = 0
        while True:
            moved += await self._archive_all(keep_s)
            if self._ledger.used_bytes() <= (WELL if moved else FULL) * bytes_max or keep_s <= DAY_S:
                return moved
            keep_s = max(DAY_S, keep_s / 2)
            log.warning("the ledger is nearly full: what is older than %.0f days is archived now", keep_s / DAY_S)

    async def _archive_all(self, keep_s: float) -> int:
        moved = 0
        while True:
            found = self._ledger.archive(keep_s, self._projected())
            if isinstance(found, LedgerTrouble):
                if found.message != self._trouble:
                    log.error("what is over cannot be archived: %s", found.message)
                self._trouble = found.message
                return moved
            self._trouble = ""
            if not found:
                return moved
            moved += found
            await asyncio.sleep(PAUSE_S)


def whats_wrong(path: Path, how: Check, within_s: float, over: Callable[[], bool] = bool) -> str:
    """What is wrong with this database, in SQLite's words; empty when nothing is, or when it cannot be told in time."""
    deadline_s = monotonic_s() + within_s
    try:
        with closing(sqlite.open_reader(path)) as reader:
            reader.set_progress_handler(lambda: over() or monotonic_s() > deadline_s, 10_000)
            (first,) = reader.execute(f"PRAGMA {how}(1)").fetchone()
            return "" if first == "ok" else str(first)
    except sqlite3.Error as error:
        return sqlite.describe(error) if sqlite.fault_of(error) is Fault.DAMAGED else ""
