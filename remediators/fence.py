"""Fences: the only way a step ends a process (DESIGN §2.4).

A `Fence` holds a pidfd of exactly one process, named by (boot, pid, start time); every signal goes through it, so a
recycled pid is never hit. Nothing here looks for a process by name, and nothing signals by number.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from types import TracebackType

import msgspec

from remediators.waiting import readable
from supervisor import proc
from supervisor.incidents.readings import ProcessRef

KILL_WAIT_S = 2.0  # a killed process is gone at once, but for one in uninterruptible sleep
SESSION_GRACE_S = 1.0  # between TERM and KILL when a timeout ends a program
SESSION_ROUNDS_MAX = 5  # members may fork while they are being ended


class Fence:
    """A hold on one process. Close it, or use it as a context manager."""

    def __init__(self, ref: ProcessRef, pidfd: int) -> None:
        self.ref = ref
        self._pidfd = pidfd

    @classmethod
    def take(cls, ref: ProcessRef) -> Fence | None:
        """None when exactly this process no longer exists."""
        pidfd = proc.open_pidfd(ref)
        return None if pidfd is None else cls(ref, pidfd)

    def signal(self, number: int) -> bool:
        """False when it is gone. Raises PermissionError."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return False
        return True

    async def gone(self, within_s: float) -> bool:
        """Has it ended (a zombie counts, R12) within this time?"""
        try:
            async with asyncio.timeout(within_s):
                await readable(self._pidfd)
        except TimeoutError:
            status = proc.same(self.ref)
            return status is None or not status.live
        return True

    def close(self) -> None:
        os.close(self._pidfd)

    def __enter__(self) -> Fence:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()


class Ending(msgspec.Struct, frozen=True):
    """What became of some processes: `ended` by TERM, `killed`, or `left` alive in spite of both."""

    ended: tuple[ProcessRef, ...] = ()
    killed: tuple[ProcessRef, ...] = ()
    left: tuple[ProcessRef, ...] = ()

    def __add__(self, other: Ending) -> Ending:
        return Ending(self.ended + other.ended, self.killed + other.killed, other.left)

    def text(self) -> str:
        """In words, e.g. `ended 12; killed 13, 14 (they ignored SIGTERM)`."""
        parts = []
        if self.ended:
            parts.append(f"ended {_pids(self.ended)}")
        if self.killed:
            parts.append(f"killed {_pids(self.killed)} (still there after SIGTERM)")
        if self.left:
            parts.append(f"could not end {_pids(self.left)}")
        return "; ".join(parts) or "nothing was left to end"


def _pids(refs: Iterable[ProcessRef]) -> str:
    return ", ".join(str(ref.pid) for ref in refs)


async def end(refs: Iterable[ProcessRef], grace_s: float) -> Ending:
    """TERM (and CONT: a stopped process takes no TERM), wait, KILL what is left. Raises PermissionError."""
    with contextlib.ExitStack() as stack:
        fences = [stack.enter_context(fence) for ref in refs if (fence := Fence.take(ref)) is not None]
        for fence in fences:
            fence.signal(signal.SIGTERM)
            fence.signal(signal.SIGCONT)
        gone = await asyncio.gather(*(fence.gone(grace_s) for fence in fences))
        stubborn = [fence for fence, is_gone in zip(fences, gone, strict=True) if not is_gone]
        for fence in stubborn:
            fence.signal(signal.SIGKILL)
        dead = await asyncio.gather(*(fence.gone(KILL_WAIT_S) for fence in stubborn))
        return Ending(
            ended=tuple(fence.ref for fence, is_gone in zip(fences, gone, strict=True) if is_gone),
            killed=tuple(fence.ref for fence, is_dead in zip(stubborn, dead, strict=True) if is_dead),
            left=tuple(fence.ref for fence, is_dead in zip(stubborn, dead, strict=True) if not is_dead),
        )


async def end_session(leader: ProcessRef) -> Ending:
    """Ends a program that we started in a session of its own, with everything in that session or descended from it."""
    total = Ending()
    for _ in range(SESSION_ROUNDS_MAX):
        members = [leader, *family(leader)]
        live = [ref for ref in members if (status := proc.same(ref)) is not None and status.live]
        if not live:
            break
        total += await end(live, SESSION_GRACE_S)
    return total


def family(ref: ProcessRef) -> list[ProcessRef]:
    """The live descendants of `ref`, and the live members of its session if it leads one; without itself.

    When `ref` has ended, its session's number stays taken as long as a member lives. A leader of that number with
    another start time is a stranger, and then nothing is family.
    """
    leader = proc.stat(ref.pid)
    if leader is not None and leader.start_ticks != ref.start_ticks:
        return []
    table = {status.pid: status for pid in proc.pids() if (status := proc.stat(pid)) is not None}
    found: set[int] = {pid for pid, status in table.items() if status.session == ref.pid}
    frontier = found | {ref.pid}
    while frontier:
        frontier = {pid for pid, status in table.items() if status.parent_pid in frontier and pid not in found}
        found |= frontier
    found -= {ref.pid, os.getpid()}
    return [table[pid].ref for pid in sorted(found) if table[pid].live]
