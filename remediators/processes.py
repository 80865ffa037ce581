"""The process table with what each process holds: for evidence, and for the choice of a victim (`remediators.victim`).

It only reads. A process that ends meanwhile is left out; its number is never taken for another's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from supervisor import proc
from supervisor.incidents.readings import ProcessRef

OOM_NEVER = -1000  # proc_pid_oom_score_adj(5): its owner has told the kernel never to kill it


class Process(msgspec.Struct, frozen=True):
    """One live process. `uid`: its effective user; root for one that hides from its own user."""

    stat: proc.Stat
    words: tuple[str, ...]
    uid: int
    never_oom: bool = False

    @property
    def pid(self) -> int:
        return self.stat.pid

    @property
    def ref(self) -> ProcessRef:
        return self.stat.ref


def table() -> dict[int, Process]:
    """Every live process that can be seen, by pid."""
    return {one.pid: one for one in _each(proc.pids())}


def _each(pids: Iterable[int]) -> Iterator[Process]:
    for pid in pids:
        try:
            stat = proc.stat(pid)
            if stat is None or not stat.live:
                continue
            words, uid = proc.command_line(pid), os.stat(f"/proc/{pid}").st_uid
            with open(f"/proc/{pid}/oom_score_adj") as file:
                never = int(file.read()) <= OOM_NEVER
        except (FileNotFoundError, ProcessLookupError):
            continue
        except PermissionError:  # hidepid: what cannot be seen cannot be signalled either
            continue
        yield Process(stat, words, uid, never)


def descendants(of: Mapping[int, Process], roots: Iterable[int]) -> set[int]:
    """The processes that descend from `roots`, and the members of the sessions they lead; `roots` too."""
    found = set(roots)
    while True:
        more = {p.pid for p in of.values() if p.pid not in found and found & {p.stat.parent_pid, p.stat.session}}
        if not more:
            return found
        found |= more


def ancestors(of: Mapping[int, Process], pids: Iterable[int]) -> set[int]:
    """The processes from which `pids` descend, without these."""
    found: set[int] = set()
    for pid in pids:
        at = of.get(pid)
        while at is not None and at.stat.parent_pid not in found:
            found.add(at.stat.parent_pid)
            at = of.get(at.stat.parent_pid)
    return found - {0}


class Memory(msgspec.Struct, frozen=True):
    """What a process holds: its share (PSS, or RSS where that is hidden), and what its end would give back of it."""

    share_bytes: int
    freed_bytes: int


def memory_of(process: Process) -> Memory:
    """By /proc/PID/smaps_rollup; file pages are not counted as freed, for they count as available already."""
    try:
        with open(f"/proc/{process.pid}/smaps_rollup") as file:
            sizes = {
                name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", file.read(), re.MULTILINE)
            }
    except OSError:  # it has ended, or hides
        sizes = {}
    share = sizes.get("Pss", process.stat.rss_bytes)
    return Memory(share, sizes.get("Pss_Anon", share) + sizes.get("Pss_Shmem", 0))
