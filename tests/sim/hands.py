"""The executor's hands in the simulated world: the machine's processes, and the steps that touch them.

Where a step is about processes, it is the real one (stop-service, start-service, restart-gateway, probe-again, with the
real fences' rules and the real settling after a crash) on a simulated process table; the others look before they act
like theirs. Every change is told to `World.acting` at the moment at which it happens.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from remediators import command, drill, executor, gateway, planning, registry, run, service, settle
from remediators.base import Context, Outcome, Step, StepFailed, Stops
from remediators.fence import Ending
from supervisor import clock, crashpoint, http, proc
from supervisor.incidents.model import Authority, Execution, Recipe, StepResult, StepSpec
from supervisor.incidents.readings import ProcessRef, SignalData
from supervisor.messages import StepPlan
from tests.sim.drills import SimStaged
from tests.sim.loop import MachineTime, replaced
from tests.sim.world import BOOT, BRAIN, DISK, MEMORY, MIB, Process, World

ACTING: contextvars.ContextVar[tuple[Execution, int] | None] = contextvars.ContextVar("acting", default=None)
EXITS_S = 0.05  # after SIGTERM
REAL = frozenset({"stop-service", "start-service", "restart-gateway", "probe-again", "manual", "clear-drill"})


class Hands:
    """Everything that the patched modules of `remediators` find instead of the machine."""

    def __init__(self, world: World, watch: Any) -> None:
        self.world = world
        self.watch = watch  # `invariants.Watch`
        self.evidence_s = 0.01  # how long the snapshot takes; a slow disk makes it longer
        self.stubborn_s = EXITS_S

    # -- processes, as `supervisor.proc`, `supervisor.identify` and `remediators.fence` show them --

    def same(self, ref: ProcessRef) -> Any:
        found = self.world.find(ref)
        return None if found is None else SimpleNamespace(live=True, name=found.name, parent_pid=1, pid=ref.pid)

    def command_line(self, pid: int) -> tuple[str, ...]:
        found = self.world.processes.get(pid)
        if found is None:
            return ()
        return ("healctl: start",) if found.gated else ("/sim/start", found.name)

    def live_processes(self, pid_file: str, match: str, exclude: frozenset[int] = frozenset()) -> list[ProcessRef]:
        name = match or pid_file.rpartition("/")[2].removesuffix(".pid")
        found = self.world.services.get(name)
        return [process.ref for process in found.live] if found is not None else []

    async def end(self, refs: Iterable[ProcessRef], grace_s: float) -> Ending:
        """`fence.end`: every signal goes through a fence, so that only exactly these processes are hit."""
        found = [process for ref in refs if (process := self.world.find(ref)) is not None]
        for process in found:
            self.world.acting("end", process.name, True)
        await asyncio.sleep(min(grace_s, self.stubborn_s))
        for process in found:
            self.world.ends(process, -15)
        return Ending(ended=tuple(process.ref for process in found))

    async def end_session(self, leader: ProcessRef) -> Ending:
        return await self.end([leader], 1.0)

    # -- the rest of what a run finds --

    async def snapshot(self, ctx: Context) -> str:
        took_s = self.evidence_s
        await asyncio.sleep(min(took_s, 2.0))
        if took_s > 2.0:
            raise StepFailed("the evidence could not be written within 2 s")
        crashpoint.reach("evidence.after")
        return f"/sim/state/evidence/{ctx.execution.id}.json"

    async def check_signal(self, execution: Execution, config: object) -> None:
        reading = execution.reading
        if reading is None or not isinstance(reading.data, SignalData):
            return
        if self.world.signal_age_s() < reading.data.age_s and execution.authority != "person":
            raise run.Refusal("stale_grounds", "the live signal has been written since it was found stale")

    async def run_to_completion(self, programs: Any, recipe: Recipe, check: Any = None) -> tuple[int | None, str]:
        """A manager's or a gateway's own command, which ends by itself."""
        held = await programs.hold(recipe, -1)
        if check is not None:
            await check()
        await programs.release(held)
        return await held.ended(), ""

    async def http_request(self, url: str, timeout_s: float = 0.0) -> None:
        state = self.world.gateways[url.rpartition("/")[2]]
        await asyncio.sleep(0.002 if state != "hang" else timeout_s)
        if state == "down":
            raise http.ConnectFailed("refused")
        if state == "hang":
            raise http.HttpError("no answer")

    def take(self) -> Held:
        return Held(self.world)

    def step_of(self, spec: StepSpec) -> Step:
        kind = registry.KINDS[spec.kind] if spec.kind in REAL else SIMULATED[spec.kind]
        step = kind(spec)
        step.hands = self  # type: ignore[attr-defined]
        return step if spec.kind == "manual" else Watched(step, self.watch)  # type: ignore[return-value]


class Watched:
    """A step whose runs are told to the invariants."""

    def __init__(self, step: Step, watch: Any) -> None:
        self._step, self._watch = step, watch
        self.spec, self.plan = step.spec, step.plan
        self.needs_evidence, self.leaves_running = step.needs_evidence, step.leaves_running
        self.stops, self.progress = step.stops, step.progress

    async def run(self, ctx: Context) -> Outcome:
        return await self._watched(ctx, self._step.run(ctx), undo=False)

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        return await self._watched(ctx, self._step.undo(ctx, result), undo=True)

    async def _watched(self, ctx: Context, work: Any, *, undo: bool) -> Outcome:
        index = next(n for n, spec in enumerate(ctx.execution.runbook.steps) if spec.step_id == self.spec.step_id)
        self._watch.step_begins(ctx.execution, index, undo=undo)
        ACTING.set((ctx.execution, index))  # of this run's own task
        try:
            return await work  # type: ignore[no-any-return]
        finally:
            self._watch.step_ends(ctx.execution)


class Held:
    """A program to be, as `remediators.launcher.Held`: at its gate, then running."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._process: Process | None = None
        self._argv: tuple[str, ...] = ()
        self.released = False

    @property
    def process(self) -> ProcessRef:
        assert self._process is not None
        return self._process.ref

    def waits(self) -> bool:
        return True

    async def order(self, recipe: Recipe, output_fd: int) -> None:
        self._argv = recipe.argv
        self._process = self._world.spawn(recipe.argv[-1], gated=True)

    async def release(self) -> None:
        assert self._process is not None
        self.released = True
        runs(self._world, self._argv, self._process)

    async def ended(self) -> int | None:
        assert self._process is not None
        return await asyncio.shield(self._process.ended)

    def let_go(self) -> None:
        if self._process is not None and not self.released:
            self._world.ends(self._process, 0)


def runs(world: World, argv: tuple[str, ...], process: Process) -> None:
    """The program of this argv begins to run."""
    process.gated = False
    name = argv[-1]
    if argv[:1] == ("/sim/start",):
        world.acting("start", name, False)
        if problem := world.starts(process):
            world.acting(f"DOUBLE: {problem}", name, False)
    elif argv[0] == "systemctl" and "restart" in argv:
        _manager_restarts(world, name, process)
    elif argv[0] == "/sim/gw":
        _gateway_restarts(world, name, process)
    else:  # reset-failed
        world.later(0.01, world.ends, process, 0)


def _manager_restarts(world: World, name: str, process: Process) -> None:
    found = world.services[name]
    process.name = "systemctl"
    if found.live:
        world.acting("end", name, True)
    else:
        world.acting("start", name, False)
    for old in list(found.live):
        world.ends(old, -15)

    def over() -> None:
        failed = found.next_start == "fails"
        if not failed and not found.live:
            world.starts(world.spawn(name))
        world.ends(process, 1 if failed else 0)

    world.later(0.2, over)


def _gateway_restarts(world: World, name: str, process: Process) -> None:
    process.name = "gw-restart"
    world.acting("restart", name, world.gateways[name] != "down")
    how = world.gateway_next[name]
    world.set_gateway(name, "down" if how == "fails" else world.gateways[name])

    def over() -> None:
        if process.live:
            if how == "ok":
                world.set_gateway(name, "up")
            world.ends(process, 1 if how == "fails" else 0)

    world.later(3.0, over)


# --- steps that are simulated: each looks before it acts, like the real one ------------------------------------------


class _Simulated(Step):
    kind = "simulated"
    effect = registry.KINDS["manual"].effect
    hands: Hands
    takes_s = 0.3

    def plan(self, ctx: Context) -> StepPlan:
        return StepPlan(self.spec.step_id, f"would {self.spec.kind} {ctx.target.target_id}", self.predicts(ctx))

    def predicts(self, ctx: Context) -> bool:
        return True

    async def run(self, ctx: Context) -> Outcome:
        await asyncio.sleep(self.takes_s / 2)
        outcome = self.do(ctx, self.hands.world)
        await asyncio.sleep(self.takes_s / 2)
        return outcome

    def do(self, ctx: Context, world: World) -> Outcome:
        raise NotImplementedError

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        self.hands.world.acting("undo", ctx.target.target_id, False)
        await asyncio.sleep(self.takes_s)
        return Outcome("it is as before")


class _Rotate(_Simulated):
    stops = Stops.ENDED

    def predicts(self, ctx: Context) -> bool:
        return self.hands.world.disk_frees

    def do(self, ctx: Context, world: World) -> Outcome:
        target_id = ctx.target.target_id
        if target_id == DISK:
            if not world.disk_frees:
                raise StepFailed("nothing to archive")
            world.acting("rotate", target_id, False)
            world.set_disk(0.6)
        else:
            if not world.logs_rotate:
                raise StepFailed("nothing to archive")
            world.acting("rotate", target_id, False)
            world.set_log(target_id, 1)
        return Outcome("archived", undo='{"archived": true}')


class _Prune(_Simulated):
    stops = Stops.ENDED

    def do(self, ctx: Context, world: World) -> Outcome:
        world.acting("prune", ctx.target.target_id, False)
        world.set_disk(min(world.disk_share, 0.5))
        return Outcome("removed")


class _Zombie(_Simulated):
    def do(self, ctx: Context, world: World) -> Outcome:
        name = ctx.target.target_id
        if world.services[name].zombie_s is None:
            return Outcome("there is no zombie", changed=False)
        world.acting("nudge", name, False)
        if world.services[name].next_start != "fails":
            world.reap(name)
        return Outcome("its parent was asked")


class _Record(_Simulated):
    def do(self, ctx: Context, world: World) -> Outcome:
        return Outcome("written down", changed=False)


class _EndLargest(_Simulated):
    needs_evidence = True

    def do(self, ctx: Context, world: World) -> Outcome:
        if world.memory_bytes >= 256 * MIB * 1.1:
            return Outcome("enough is available: nothing was ended", changed=False)
        world.acting("end-largest", MEMORY, False)
        world.set_memory(1_000)
        return Outcome("ended the largest")


class _Halt(_Simulated):
    def do(self, ctx: Context, world: World) -> Outcome:
        world.acting("halt", ctx.target.target_id, False)
        return Outcome("halted")


class _Backup(_Simulated):
    stops = Stops.ENDED
    takes_s = 2.0

    def do(self, ctx: Context, world: World) -> Outcome:
        if ctx.target.target_id == BRAIN and world.corrupt:
            raise StepFailed("it is damaged: no good copy can be made")
        return Outcome("copied")


class _Restore(_Simulated):
    takes_s = 2.0

    def do(self, ctx: Context, world: World) -> Outcome:
        if not world.corrupt and ctx.execution.authority is not Authority.PERSON:
            return Outcome("it is whole by now", changed=False)
        world.acting("restore", ctx.target.target_id, False)
        world.set_corrupt(False)
        return Outcome("restored", undo='{"kept": "old"}')


class _Phantom(_Simulated):
    def predicts(self, ctx: Context) -> bool:
        return bool(self.hands.world.phantoms)

    def do(self, ctx: Context, world: World) -> Outcome:
        if not world.phantoms:
            return Outcome("no trade is a phantom any more", changed=False)
        world.acting("close", ctx.target.target_id, False)
        world.set_phantom(False)
        return Outcome("closed", undo='{"rows": [17]}')


class _Kick(_Simulated):
    def do(self, ctx: Context, world: World) -> Outcome:
        target_id = ctx.target.target_id
        _, moving, _ = world.tasks[target_id]
        if not moving or not world.illnesses(target_id):
            return Outcome("it stands no more where it stood", changed=False)
        world.acting("block", target_id, False)
        world.move_task(target_id, moving=False)
        return Outcome("blocked")


SIMULATED: dict[str, type[_Simulated]] = {
    "rotate-logs": _Rotate,
    "prune-files": _Prune,
    "kill-zombie": _Zombie,
    "record-memory": _Record,
    "end-largest-process": _EndLargest,
    "halt-writes": _Halt,
    "backup-database": _Backup,
    "verify-backup": _Record,
    "restore-database": _Restore,
    "clear-phantom": _Phantom,
    "kick-pipeline": _Kick,
}
for _kind, _class in SIMULATED.items():
    _class.Params = registry.KINDS[_kind].Params


class _Fence:
    """`fence.Fence` on the simulated process table."""

    def __init__(self, hands: Hands, ref: ProcessRef) -> None:
        self._hands, self._ref = hands, ref

    async def gone(self, within_s: float) -> bool:
        process = self._hands.world.find(self._ref)
        if process is None:
            return True
        await asyncio.wait([asyncio.shield(process.ended)], timeout=within_s)
        return not process.live

    def __enter__(self) -> _Fence:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@contextmanager
def at_work(hands: Hands) -> Iterator[None]:
    """`remediators` and the clock work in the simulated world as long as the block runs."""
    loop = hands.world.loop
    steps = SimpleNamespace(step_of=hands.step_of, KINDS=registry.KINDS)
    table = SimpleNamespace(same=hands.same, command_line=hands.command_line, stat=lambda pid: None)
    find = SimpleNamespace(
        live_processes=hands.live_processes, is_healctl=lambda words: words[:1] == ("healctl: start",)
    )
    fences = SimpleNamespace(end=hands.end, end_session=hands.end_session, family=lambda ref: [], Ending=Ending)
    take = SimpleNamespace(
        take=lambda ref: _Fence(hands, ref) if hands.world.find(ref) is not None else None,
    )
    commands = SimpleNamespace(
        run_to_completion=hands.run_to_completion,
        missing_program=lambda recipe: "",
        words=" ".join,
        exit_text=command.exit_text,
        clean_environment=lambda recipe: {},
    )
    with replaced(
        (clock, "time", MachineTime(loop)),
        (clock, "boot_id", lambda: BOOT),
        (proc, "_boot_id", BOOT),
        (run, "registry", steps),
        (run, "snapshot", hands.snapshot),
        (run, "check_signal", hands.check_signal),
        (planning, "registry", steps),
        (settle, "registry", steps),
        (settle, "proc", table),
        (settle, "identify", find),
        (settle, "fence", fences),
        (settle, "Fence", take),
        (service, "proc", table),
        (service, "identify", find),
        (service, "fence", fences),
        (service, "command", commands),
        (service, "runs_under", lambda recipe, ref: True),
        (service, "_open_output", _no_output),
        (gateway, "command", commands),
        (gateway, "http", SimpleNamespace(request=hands.http_request, ConnectFailed=http.ConnectFailed,
                                          HttpError=http.HttpError)),
        (command, "command_of", lambda recipe: recipe),
        (drill, "Staged", lambda runtime_dir: SimStaged(hands.world)),
        (command, "fence", fences),
        (executor, "settle", settle.settle),
    ):  # fmt: skip
        yield


def _no_output(path: object, *, ours: bool) -> int:
    import os

    return os.open(os.devnull, os.O_WRONLY)
