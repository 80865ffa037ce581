"""The steps about memory: write down who holds it, and end the largest process that may be ended (FR-003).

The second is the harshest step there is. It ends one process, never a second; only while memory is short at that very
moment; only with the evidence written before; through a fence, and only if it still is what was chosen.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec

from remediators import command, evidence, fence, processes, victim
from remediators.base import Context, Outcome, Step, StepFailed
from remediators.processes import Process
from supervisor import cgroups, proc, redact
from supervisor.aside import aside
from supervisor.incidents.judge import size
from supervisor.incidents.model import Effect
from supervisor.incidents.readings import MemoryData
from supervisor.incidents.resources import MEMORY_CLEAR_ABOVE
from supervisor.messages import StepPlan

END_GRACE_S = 5.0  # between TERM and KILL, at most half of the step's timeout
WORTH_SHARE = 0.05  # of the shortage: who holds less is not worth its end
COMMAND_CHARS_MAX = 160
NAMED_MAX = 5


class Shortage(msgspec.Struct, frozen=True):
    """What can be had now, what would be enough, and whose end would help (None: anybody's)."""

    available_bytes: int
    wanted_bytes: float
    inside: frozenset[int] | None = None
    limited_by: str = evidence.AVAILABLE

    @property
    def missing_bytes(self) -> float:
        return self.wanted_bytes - self.available_bytes


class RecordMemory(Step):
    """Notify only: what memory looks like, as a file and in words."""

    kind = "record-memory"
    effect = Effect.OBSERVE

    def plan(self, ctx: Context) -> StepPlan:
        return StepPlan(self.spec.step_id, f"write down who holds the memory; {_state()}", False)

    async def run(self, ctx: Context) -> Outcome:
        path = await evidence.snapshot(ctx)
        return Outcome(await asyncio.wrap_future(aside(_state, "memory")), (str(path),))


class EndLargest(Step):
    """Ends the process that holds most and is not protected: TERM, a grace, KILL."""

    kind = "end-largest-process"
    effect = Effect.DESTROY
    needs_evidence = True

    def plan(self, ctx: Context) -> StepPlan:
        short = shortage(ctx)
        if short.missing_bytes <= 0:
            return StepPlan(self.spec.step_id, f"{_had(short)}: nothing to end", True)
        chosen = _choose(ctx, short)
        if chosen.victim is None:
            return StepPlan(self.spec.step_id, f"this would fail: {_nobody(short, chosen)}", False)
        one = chosen.victim
        enough = one.memory.freed_bytes >= short.missing_bytes
        text = f"end {_named(one.process)}, which holds {size(one.memory.share_bytes)}: SIGTERM, after "
        text += f"{self._grace_s():g} s SIGKILL; {_had(short)}, and its end gives back {size(one.memory.freed_bytes)}"
        text += "" if enough else f", not the {size(short.missing_bytes)} that are missing"
        return StepPlan(self.spec.step_id, f"{text}{_over(chosen)}", enough, frees_bytes=one.memory.freed_bytes)

    async def run(self, ctx: Context) -> Outcome:
        """Who holds what is asked aside: it waits for each process's own lock, long where memory thrashes."""
        short = await asyncio.wrap_future(aside(lambda: shortage(ctx), "shortage"))
        if short.missing_bytes <= 0:
            return Outcome(f"{_had(short)}: nothing was ended", changed=False)
        chosen = await asyncio.wrap_future(aside(lambda: _choose(ctx, short), "victim"))
        if chosen.victim is None:
            raise StepFailed(_nobody(short, chosen))
        one = chosen.victim
        held = fence.Fence.take(one.process.ref)
        if held is None:
            raise StepFailed(f"{_named(one.process)} has just ended by itself; nothing else was ended")
        with held:
            if (
                await asyncio.wrap_future(aside(lambda: proc.command_line(one.process.pid), "words"))
                != one.process.words
            ):
                raise StepFailed(f"process {one.process.pid} has just become another program; nothing was ended")
            try:
                ending = await fence.end([one.process.ref], self._grace_s())
            except PermissionError as error:
                raise StepFailed(f"{_named(one.process)} may not be ended by us; nothing was ended") from error
        text = f"{_named(one.process)}, which held {size(one.memory.share_bytes)}: {ending.text()}{_over(chosen)}"
        if ending.left:
            raise StepFailed(text)
        return Outcome(text)

    def _grace_s(self) -> float:
        return min(END_GRACE_S, self.spec.timeout_s / 2)


def shortage(ctx: Context) -> Shortage:
    """By what the probe went by (our control group's limit, or the machine's MemAvailable), read anew, up to where the
    anomaly would clear. Raises StepFailed when it cannot be told."""
    data = ctx.execution.reading.data if ctx.execution.reading is not None else None
    wanted = ctx.config.memory.critical * MEMORY_CLEAR_ABOVE
    try:
        if isinstance(data, MemoryData) and data.limited_by.startswith("/"):
            room = cgroups.room(data.limited_by)
            if room is None:
                raise ValueError(f"{data.limited_by} sets no limit any more")
            return Shortage(room.available_bytes, wanted, _members(Path(data.limited_by).parent), data.limited_by)
        return Shortage(evidence.meminfo()[evidence.AVAILABLE], wanted)
    except (OSError, ValueError) as error:
        raise StepFailed(f"cannot tell how much memory is missing: {error}; nothing was ended") from error


def _members(group: Path) -> frozenset[int]:
    """The processes of a control group and of those below it."""
    return frozenset(int(line) for file in group.rglob("cgroup.procs") for line in file.read_text().split())


def _choose(ctx: Context, short: Shortage) -> victim.Choice:
    table = processes.table()
    protected = victim.protections(table, ctx.config, ctx.exclude, os.geteuid())
    return victim.choose(table, protected, short.inside, short.missing_bytes * WORTH_SHARE)


def _state() -> str:
    sizes = evidence.meminfo()
    swap = f", {size(sizes['SwapFree'])} of {size(sizes['SwapTotal'])} swap" if sizes.get("SwapTotal") else ""
    largest = evidence.largest(processes.table())[:NAMED_MAX]
    named = ", ".join(f"{one.process.stat.name} ({one.process.pid}) {size(one.memory.share_bytes)}" for one in largest)
    return f"{size(sizes[evidence.AVAILABLE])} of {size(sizes['MemTotal'])} memory{swap} are free; largest: {named}"


def _had(short: Shortage) -> str:
    return f"{size(short.available_bytes)} are available by {short.limited_by}, {size(short.wanted_bytes)} are enough"


def _nobody(short: Shortage, chosen: victim.Choice) -> str:
    least = size(short.missing_bytes * WORTH_SHARE)
    return f"nothing worth killing: no process that may be ended holds {least}{_over(chosen)}; nothing was ended"


def _over(chosen: victim.Choice) -> str:
    over = [f"{p.stat.name} ({p.pid}, {size(p.stat.rss_bytes)}): {why}" for p, why in chosen.passed_over]
    return f"; passed over: {', '.join(over)}" if over else ""


def _named(process: Process) -> str:
    words = command.words(redact.words(process.words))[:COMMAND_CHARS_MAX]
    return f"process {process.pid} ({words or process.stat.name})"
