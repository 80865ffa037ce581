"""The process table, read in one pass for every target that needs it (FR-001: "process table check").

It only reads. A pass begins after the question: whoever asks while one is under way gets the next, so a reading never
rests on what was seen before it began. Command lines are not cached from pass to pass: one process can `exec` another
program under the same number and start time, and a stale line would call a living service dead. An idle poll does not
come here at all, it looks at the one process it knows (`probes.process`).
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from supervisor import identify, proc

LINE_BYTES_MAX = 64 * 1024
PIDS_A_TURN = 512  # then the loop gets its turn: a death elsewhere must not wait for a long pass
ANCESTORS_MAX = 64


class Candidate(msgspec.Struct, frozen=True):
    """A process that may be somebody's service; `line` is its arguments joined by one space."""

    pid: int
    line: str


class Pass(msgspec.Struct, frozen=True):
    """What one pass saw: everybody's command line, but not healctl's own. `whole`: no process was hidden from us."""

    candidates: tuple[Candidate, ...]
    whole: bool


class Table:
    """One for all targets of a worker.

    healctl's own processes are known by their names, not by descent: a service that a runbook has just started is for
    a short while a grandchild of the executor, and must be seen.
    """

    def __init__(self) -> None:
        self._queued: asyncio.Task[Pass] | None = None
        self._lock = asyncio.Lock()

    async def look(self) -> Pass:
        """A pass that begins after this call, shared by all who call before it begins."""
        if self._queued is None:
            self._queued = asyncio.get_running_loop().create_task(self._pass())
        return await asyncio.shield(self._queued)

    async def find(self, match: str) -> tuple[list[proc.Stat], bool]:
        """The live processes that `match`, without healctl's own; and whether all processes could be seen."""
        seen = await self.look()
        found = []
        for candidate in seen.candidates:
            if identify.matches(match, (candidate.line,)):
                status = proc.stat(candidate.pid)
                if status is not None and status.live:
                    found.append(status)
        return found, seen.whole

    async def _pass(self) -> Pass:
        async with self._lock:
            self._queued = None  # whoever comes from here on may be later than what we are about to see
            candidates = []
            pids = proc.pids()
            for count, pid in enumerate(pids):
                if count and count % PIDS_A_TURN == 0:
                    await asyncio.sleep(0)
                words = _words(pid)
                if words and pid != os.getpid() and not identify.is_healctl(words):
                    candidates.append(Candidate(pid, " ".join(words)))
            return Pass(tuple(candidates), whole=1 in pids)


def _words(pid: int) -> tuple[str, ...]:
    """The arguments of `pid`, at most 64 KiB of them. `proc.command_line` for a whole table at a fifth of its cost:
    a death is not reported before the table has been searched."""
    try:
        fd = os.open(f"/proc/{pid}/cmdline", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
    try:
        raw = os.read(fd, LINE_BYTES_MAX)
    except ProcessLookupError:
        return ()
    finally:
        os.close(fd)
    return tuple(raw.rstrip(b"\0").decode(errors="replace").split("\0")) if raw else ()


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
