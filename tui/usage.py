"""What each part of the tree takes of this machine: read from the kernel, not asked of the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil


class Usage:
    """`now`: pid -> (resident bytes, CPU percent since the look before)."""

    def __init__(self) -> None:
        self.now: dict[int, tuple[int, float]] = {}
        self._processes: dict[int, psutil.Process] = {}

    def look(self, pids: Iterable[int]) -> None:
        import psutil  # not before somebody looks: the first screen does without

        found: dict[int, tuple[int, float]] = {}
        kept: dict[int, psutil.Process] = {}
        for pid in pids:
            try:
                process = self._processes.get(pid) or psutil.Process(pid)
                found[pid] = (process.memory_info().rss, process.cpu_percent(None))
                kept[pid] = process
            except (psutil.Error, ValueError):
                continue  # it is gone, or another user's: its cells stay empty
        self.now, self._processes = found, kept
