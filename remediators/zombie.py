"""The step about a target's zombies: SIGKILL, as the requirement has it, then a nudge for the parent on record (R12).

A zombie is dead: a signal does nothing to it, and only its parent can reap it. So the nudge (SIGCHLD, ignored by who
does not wait for children) is what may help, and the probe tells whether it did. It must never signal anything that is
not, at that moment, a zombie of this target by its start time, or the process that is its parent.
"""

from __future__ import annotations

import re
import signal

import msgspec

from remediators.base import Context, Outcome, Step, StepFailed
from remediators.fence import Fence
from supervisor import identify, proc
from supervisor.incidents.model import Effect
from supervisor.incidents.readings import ProcessData, ProcessRef
from supervisor.messages import StepPlan


class Found(msgspec.Struct, frozen=True):
    """A zombie and its parent, as the process table has them now."""

    zombie: proc.Stat
    parent: proc.Stat

    @property
    def parent_text(self) -> str:
        return f"{self.parent.name} ({self.parent.pid})"


class KillZombie(Step):
    """Signals every zombie of the target that is one now, and its parent."""

    kind = "kill-zombie"
    effect = Effect.CHANGE

    def plan(self, ctx: Context) -> StepPlan:
        found = zombies(ctx)
        if not found:
            return StepPlan(self.spec.step_id, f"{ctx.target.target_id} has no zombie now: nothing to do", True)
        words, deaf = [], False
        for one in found:
            hears = _hears(one.parent)
            deaf = deaf or not hears
            why = "" if hears else ", which does not listen for it: only its own end, or restart, will reap it"
            words.append(
                f"send SIGKILL to zombie {one.zombie.pid} (it does nothing to a dead process), "
                f"then SIGCHLD to its parent {one.parent_text}{why}"
            )
        return StepPlan(self.spec.step_id, "; ".join(words), not deaf)

    async def run(self, ctx: Context) -> Outcome:
        found = zombies(ctx)
        if not found:
            return Outcome(f"{ctx.target.target_id} has no zombie any more: nothing was signalled", changed=False)
        done: list[str] = []
        for one in found:
            try:
                done.append(_signal(one))
            except PermissionError as error:
                text = f"zombie {one.zombie.pid} of {one.parent_text} could not be signalled: it is another user's"
                raise StepFailed("; ".join([*done, text])) from error
        return Outcome("; ".join(done))


def zombies(ctx: Context) -> list[Found]:
    """The target's processes that are zombies now: of those that the reading, its pid file and our memory name."""
    data = ctx.execution.reading.data if ctx.execution.reading is not None else None
    named: list[ProcessRef | None] = (
        [zombie.process for zombie in data.zombies] if isinstance(data, ProcessData) else []
    )
    named.append(ctx.execution.known)
    if ctx.target.pid_file:
        named.append(identify.read_pid_file(ctx.target.pid_file, ctx.target.match).process)
    found = []
    for ref in dict.fromkeys(ref for ref in named if ref is not None and ref.pid not in ctx.exclude):
        status = _zombie(ref)
        parent = proc.stat(status.parent_pid) if status is not None else None
        if status is not None and parent is not None:
            found.append(Found(status, parent))
    return found


def _zombie(ref: ProcessRef) -> proc.Stat | None:
    status = proc.same(ref)
    return status if status is not None and status.is_zombie else None


def _signal(one: Found) -> str:
    """What was done, in words. Raises PermissionError."""
    zombie = one.zombie.ref
    with_parent = f"its parent is {one.parent_text}"
    held = Fence.take(zombie)
    if held is None:
        return f"zombie {zombie.pid} was reaped meanwhile; {with_parent}"
    with held:
        if _zombie(zombie) is None or not held.signal(signal.SIGKILL):
            return f"zombie {zombie.pid} was reaped meanwhile; {with_parent}"
    sent = f"sent SIGKILL to zombie {zombie.pid}; {with_parent}"
    nudged = Fence.take(one.parent.ref)
    if nudged is None:
        return f"{sent}, which has ended meanwhile"
    with nudged:
        now = _zombie(zombie)
        if now is None or now.parent_pid != one.parent.pid:  # it was reaped, or has another parent now
            return f"{sent}, which has reaped it, or is its parent no more"
        try:
            nudged.signal(signal.SIGCHLD)
        except PermissionError as error:
            raise StepFailed(f"{sent}, which could not be sent SIGCHLD: it is another user's process") from error
    return f"{sent}, which was sent SIGCHLD"


def _hears(parent: proc.Stat) -> bool:
    """Does it do anything on SIGCHLD: catch it, or keep it blocked for a signalfd or a sigwait (proc_pid_status(5))?"""
    if parent.state == "T":
        return False
    try:
        with open(f"/proc/{parent.pid}/status") as file:
            masks = dict(re.findall(r"^Sig(Blk|Cgt):\s*([0-9a-f]+)$", file.read(), re.MULTILINE))
    except (FileNotFoundError, ProcessLookupError):
        return True  # it has just ended, and its successor reaps
    bit = 1 << (signal.SIGCHLD - 1)
    return any(int(mask, 16) & bit for mask in masks.values())
