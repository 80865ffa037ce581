"""A probe in an event loop, with a listener that notes what it tells its runner; files that it reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from probes.base import Probe

WITHIN_S = 30.0


class Told:
    """`Events` as the runner has them: every wish, and how often the sources changed."""

    def __init__(self) -> None:
        self.wishes: list[tuple[str, float]] = []
        self.changes = 0
        self._news = asyncio.Event()

    def read_soon(self, target_id: str, in_s: float) -> None:
        self.wishes.append((target_id, in_s))
        self._news.set()

    def tell(self, work: object) -> None:
        pass

    def sources_changed(self) -> None:
        self.changes += 1
        self._news.set()

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not wanted():
                self._news.clear()
                await self._news.wait()

    async def soon(self, target_id: str, since: int = 0) -> None:
        """Until it wished this target to be read at once, in the wishes from number `since` on."""
        await self.until(lambda: any(name == target_id and in_s < 1 for name, in_s in self.wishes[since:]))


async def watching(probe: Probe) -> Told:
    told = Told()
    probe.watch(told)
    return told


def write(path: Path, text: str | bytes) -> Path:
    """As a careful writer does it: beside, then renamed."""
    beside = path.with_name(path.name + ".new")
    beside.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(beside, path)
    return path


def database(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return path
