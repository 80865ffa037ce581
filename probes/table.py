"""The process table, read in one pass for every target that needs it (FR-001: "process table check").

It only reads. A pass begins after the question: whoever asks while one is under way gets the next, so a reading never
rests on what was seen before it began. Every pass reads every command line again: one process can `exec` another
program under the same number and start time, and a line remembered by those would call a living service dead. Only the
judgement on a line is remembered, by its very bytes, so that a pass costs the same however many targets there are. An
idle poll does not come here at all, it looks at the one process it knows (`probes.process`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

import msgspec

from supervisor import clock, identify, proc

LINE_BYTES_MAX = 64 * 1024
PIDS_A_TURN = 512  # then the loop gets its turn: a death elsewhere must not wait for a long pass
MATCHES_A_TURN = 1_000  # likewise, of regular expressions that a line not seen before is compared with
ANCESTORS_MAX = 64


class Pass(msgspec.Struct, frozen=True):
    """What one pass saw: per regular expression the processes whose command line it matches, healctl's own left out.

    `whole`: no process was hidden from us.
    """

    matching: dict[str, list[int]]
    whole: bool


class Table:
    """One for all targets of a worker; `matches` are their regular expressions.

    healctl's own processes are known by their names, not by descent: a service that a runbook has just started is for
    a short while a grandchild of the executor, and must be seen.
    """

    def __init__(self, matches: Iterable[str]) -> None:
        self._matches = tuple(dict.fromkeys(match for match in matches if match))
        self._judged: dict[bytes, tuple[str, ...]] = {}  # a command line as it stands there -> what matches it
        self._queued: asyncio.Task[Pass] | None = None
        self._lock = asyncio.Lock()
        self._rested_s = 0.0  # monotonic

    async def look(self) -> Pass:
        """A pass that begins after this call, shared by all who call before it begins."""
        if self._queued is None:
            self._queued = asyncio.get_running_loop().create_task(self._pass())
        return await asyncio.shield(self._queued)

    async def find(self, match: str) -> tuple[list[proc.Stat], bool]:
        """The live processes that `match`, without healctl's own; and whether all processes could be seen."""
        seen = await self.look()
        found = []
        for pid in seen.matching.get(match, ()):
            status = proc.stat(pid)
            if status is not None and status.live:
                found.append(status)
        return found, seen.whole

    async def _pass(self) -> Pass:
        async with self._lock:
            await asyncio.sleep(self._rested_s - clock.monotonic_s())
            self._queued = None  # whoever comes from here on may be later than what we are about to see
            began_s = clock.monotonic_s()
            matching: dict[str, list[int]] = {}
            judged: dict[bytes, tuple[str, ...]] = {}
            pids = proc.pids()
            for count, pid in enumerate(pids):
                if count and count % PIDS_A_TURN == 0:
                    await asyncio.sleep(0)
                raw = _raw_line(pid)
                if not raw or pid == os.getpid():
                    continue
                matches = self._judged.get(raw)
                judged[raw] = matches = await self._judge(raw) if matches is None else matches
                for match in matches:
                    matching.setdefault(match, []).append(pid)
            self._judged = judged
            ended_s = clock.monotonic_s()
            self._rested_s = ended_s + (ended_s - began_s)  # in a storm at most half of the time, and shared by more
            return Pass(matching, whole=1 in pids)

    async def _judge(self, raw: bytes) -> tuple[str, ...]:
        words = tuple(raw.rstrip(b"\0").decode(errors="replace").split("\0"))
        if identify.is_healctl(words):
            return ()
        line = (" ".join(words),)
        found: list[str] = []
        for first in range(0, len(self._matches), MATCHES_A_TURN):
            if first:
                await asyncio.sleep(0)
            some = self._matches[first : first + MATCHES_A_TURN]
            found += (match for match in some if identify.matches(match, line))
        return tuple(found)


def _raw_line(pid: int) -> bytes:
    """The arguments of `pid` as /proc has them, at most 64 KiB; empty when it has none or is gone.

    `proc.command_line` at a fifth of its cost: a death is not told before the whole table has been searched.
    """
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
    try:
        return os.read(fd, LINE_BYTES_MAX)
    except ProcessLookupError:
        return b""
    finally:
        os.close(fd)


def eldest(found: list[proc.Stat]) -> tuple[proc.Stat, int]:
    """Of processes that match, the parent that started first, and how many stand beside each other as parents.

    A service that forks workers matches many times, but the process to watch is the one they descend from.
    """
    by_pid = {status.pid: status for status in found}
    parents = [status for status in found if not _descends(status, by_pid)]
    # Numbers may be reused while we look, so that two seem to descend from each other; then all of them are equal.
    parents = parents or found
    return min(parents, key=lambda status: (status.start_ticks, status.pid)), len(parents)


def _descends(status: proc.Stat, others: dict[int, proc.Stat]) -> bool:
    """Is an ancestor of `status` among `others`?"""
    at = status.parent_pid
    for _ in range(ANCESTORS_MAX):
        if at in others and at != status.pid:
            return True
        if at <= 1:
            return False
        parent = proc.stat(at)
        if parent is None:
            return False
        at = parent.parent_pid
    return False
