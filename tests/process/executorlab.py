"""A core for the executor alone: both hubs, a store that grants and records, a healer that dispatches and collects.

Run as a program it is an executor process of its own, to be killed: `executorlab.py RUNTIME_DIR STATE_DIR INCARNATION`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from remediators import command, registry
from remediators.base import Context, Outcome, Step, StepFailed
from remediators.executor import ExecutorWorker
from remediators.fence import Fence, family
from remediators.runbooks import RUNBOOKS
from supervisor import bus, clock, crashpoint, proc
from supervisor.config import Config
from supervisor.incidents.model import (
    Authority,
    Effect,
    Execution,
    ExecutionState,
    Program,
    Recipe,
    Runbook,
    StepResult,
    StepSpec,
    Target,
)
from supervisor.incidents.readings import ProcessRef
from supervisor.incidents.remedy import resource_of
from supervisor.messages import (
    Ack,
    Body,
    Claim,
    ClaimAnswer,
    Dispatch,
    ExecutionRefused,
    Frame,
    Hello,
    ProgramExited,
    ProgramStarted,
    StepPlan,
    StepReport,
)
from supervisor.worker import Boot

TOY = str(Path(__file__).parent.parent / "doubles" / "toy_service.py")
PYTHON = (sys.executable, "-S", "-E")
DEADLINE_S = 60.0
RESTART = RUNBOOKS[0]


class RunToEnd(Step):
    """The target's recipe as a command: what a step that runs a program to its end is made of."""

    kind = "lab-command"
    effect = Effect.CHANGE

    def plan(self, ctx: Context) -> StepPlan:
        return StepPlan(self.spec.step_id, command.words(ctx.recipe.argv), True)

    async def run(self, ctx: Context) -> Outcome:
        code, output = await command.run_to_completion(ctx.programs, ctx.recipe)
        text = f"{command.words(ctx.recipe.argv)}: {command.exit_text(code)}\n{output}".rstrip()
        if code != 0:
            raise StepFailed(text)
        return Outcome(text)


registry.KINDS = {**registry.KINDS, RunToEnd.kind: RunToEnd}
COMMAND = Runbook(
    id="rb-test-command",
    label="Run the recipe",
    starts_service=True,
    applies_to=(),
    steps=(StepSpec("run", "lab-command", Effect.CHANGE, timeout_s=30.0),),
    resource="service:{target}",
)


class Started:
    """What a test has started by any way; all of it is ended at the test's end, whatever happens in it."""

    def __init__(self) -> None:
        self._refs: list[ProcessRef] = []
        self._children: list[subprocess.Popen[bytes]] = []

    def add(self, *refs: ProcessRef | None) -> None:
        self._refs.extend(ref for ref in refs if ref is not None)

    def program(self, *argv: str) -> ProcessRef:
        """Started by the test, so healctl has nothing to do with it."""
        child = subprocess.Popen(argv, start_new_session=True)
        self._children.append(child)
        status = proc.stat(child.pid)
        assert status is not None
        return status.ref

    async def toy(self, directory: Path, *options: str, name: str = "toy") -> ProcessRef:
        """A live toy, its pid file written."""
        of = toy(directory, *options, name=name)
        assert of.recipe is not None
        ref = self.program(*of.recipe.argv)
        assert int(await appears(Path(of.pid_file))) == ref.pid
        return ref

    def close(self) -> None:
        for child in self._children:
            status = proc.stat(child.pid)
            kill(*(family(status.ref) if status is not None else ()))
            child.kill()
            child.wait()
        kill(*self._refs)


@pytest.fixture
def started() -> Iterator[Started]:
    made = Started()
    yield made
    made.close()


def boot(
    runtime_dir: Path, state_dir: Path, incarnation: str, config: Config | None = None, **items: frozenset[str]
) -> Boot:
    """`items`: suspects, quarantined."""
    return Boot(
        name="executor",
        incarnation=incarnation,
        config=config or Config(),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        root_pid=os.getppid(),
        **items,
    )


class Core:
    """The other side. What came in is in `came`, in order; `programs` are those recorded as started."""

    def __init__(self, directory: Path) -> None:
        self.runtime_dir = directory
        self.state_dir = directory / "state"
        self.state_dir.mkdir(exist_ok=True)
        self.came: list[Body] = []
        self.programs: list[Program] = []
        self.claims: dict[str, str] = {}
        self.acknowledge_programs = True
        self.acknowledge_reports = True
        self.refuse_claims = False
        self.store_answers = True
        self.executors: list[Executor] = []
        self.present: set[str] = set()  # the incarnations that have said hello
        self._over: set[str] = set()
        self._changed = asyncio.Event()
        self._context = bus.new_context()
        self.healer = bus.Hub(self._context, bus.endpoint(directory, "healer"), "healer", self._from_executor)
        self.store = bus.Hub(self._context, bus.endpoint(directory, "store"), "store", self._at_store)

    def _from_executor(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            if isinstance(frame.body, Hello):
                self.present.add(frame.body.incarnation)
            else:
                self.came.append(frame.body)
                if isinstance(frame.body, ExecutionRefused) or (isinstance(frame.body, StepReport) and frame.body.last):
                    self._over.add(frame.body.execution_id)
                if self.acknowledge_reports or not isinstance(frame.body, StepReport):
                    self.healer.answer(source, frame, Ack())
        self._changed.set()

    def _at_store(self, batch: list[tuple[str, Frame]]) -> None:
        for source, frame in batch:
            body = frame.body
            if isinstance(body, Claim) and self.store_answers:
                owner = self.claims.setdefault(body.execution_id, body.incarnation)
                granted = owner == body.incarnation and not self.refuse_claims
                self.store.answer(source, frame, ClaimAnswer(granted, "" if granted else f"claimed by {owner}"))
            elif isinstance(body, ProgramStarted):
                self.programs.append(body.program)
                if self.acknowledge_programs:
                    self.store.answer(source, frame, Ack())
        self._changed.set()

    async def until(self, holds: Callable[[], bool], deadline_s: float = DEADLINE_S) -> None:
        async with asyncio.timeout(deadline_s):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    def results(self) -> list[StepResult]:
        """Each step's, without what was sent twice."""
        unique: dict[tuple[str, int], StepResult] = {}
        for body in self.came:
            if isinstance(body, StepReport):
                unique.setdefault((body.execution_id, body.index), body.result)
        return list(unique.values())

    def ended(self, execution_id: str) -> bool:
        return execution_id in self._over

    def refusals(self) -> list[str]:
        return [body.code for body in self.came if isinstance(body, ExecutionRefused)]

    def exits(self) -> list[ProgramExited]:
        return [body for body in self.came if isinstance(body, ProgramExited)]

    async def dispatch(self, execution: Execution) -> None:
        async with asyncio.timeout(DEADLINE_S):
            assert isinstance(await self.healer.request("executor", Dispatch(execution)), Ack)

    async def crash(self, execution: Execution, executor: Executor) -> None:
        """Dispatches, and waits for the executor's death by its crash point; its ack may die with it."""
        sent = self.healer.request("executor", Dispatch(execution))
        assert await executor.gone() == -signal.SIGKILL
        sent.cancel()

    async def finish(self, execution: Execution) -> None:
        """Dispatches and waits for the end."""
        await self.dispatch(execution)
        await self.until(lambda: self.ended(execution.id))

    async def execute(self, execution: Execution) -> list[StepResult]:
        """`finish`, and then the results of all executions so far."""
        await self.finish(execution)
        return self.results()

    async def ask(self, body: Body) -> Body:
        async with asyncio.timeout(DEADLINE_S):
            return await self.healer.request("executor", body)

    def close(self) -> None:
        for executor in self.executors:
            executor.close()
        self.healer.close()
        self.store.close()
        self._context.term()


@contextlib.asynccontextmanager
async def core() -> AsyncIterator[Core]:
    """In a directory short enough for UNIX sockets."""
    directory = Path(tempfile.mkdtemp(prefix="hc"))
    made = Core(directory)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def lab(config: Config | None = None, **items: frozenset[str]) -> AsyncIterator[Core]:
    """A core with an executor in this very process."""
    async with core() as made:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        worker = ExecutorWorker(boot(made.runtime_dir, made.state_dir, "inc-1", config, **items), theirs)
        hear(ours)
        await worker.start()
        try:
            yield made
        finally:
            await worker.stop()
            asyncio.get_running_loop().remove_reader(ours)
            ours.close()
            theirs.close()


class Executor:
    """An executor process of its own."""

    def __init__(self, at: Core, incarnation: str, crash: str = "") -> None:
        env = dict(os.environ)
        if crash:
            token = at.runtime_dir / "token"
            token.touch()
            env["HEALCTL_TEST_CRASH"] = f"executor:{crash}:{token}"
        argv = [sys.executable, __file__, str(at.runtime_dir), str(at.state_dir), incarnation]
        self.process = subprocess.Popen(argv, env=env)
        at.executors.append(self)

    async def gone(self) -> int:
        """Its exit status, once it has ended."""
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.to_thread(self.process.wait)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


async def executor(at: Core, incarnation: str, crash: str = "") -> Executor:
    """One that is there: grounds are good for five seconds, and a busy machine takes longer to start a program."""
    made = Executor(at, incarnation, crash)
    await at.until(lambda: incarnation in at.present)
    return made


def target(name: str, argv: tuple[str, ...], **keys: object) -> Target:
    recipe_keys = {key: keys.pop(key) for key in ("cwd", "env", "output") if key in keys}
    recipe = Recipe(argv=argv, **recipe_keys)  # type: ignore[arg-type]
    return Target(name, "process", auto_restart=True, recipe=recipe, **keys)  # type: ignore[arg-type]


def toy(directory: Path, *options: str, name: str = "toy", **keys: object) -> Target:
    """A target whose recipe starts the toy with a pid file in `directory`."""
    pid_file = str(directory / f"{name}.pid")
    return target(name, (*PYTHON, TOY, "--pid-file", pid_file, *options), pid_file=pid_file, **keys)


def execution(of: Target, *, runbook: Runbook = RESTART, **changes: object) -> Execution:
    now_s = clock.monotonic_s()
    made = Execution(
        id=f"x-{os.urandom(6).hex()}",
        incident_id=None,
        runbook=runbook,
        version=runbook.version(),
        target=of,
        resource=resource_of(runbook, of),
        authority=Authority.NOT_RUNNING,
        state=ExecutionState.INTENDED,
        created_steady_s=0.0,
        created_wall_s=0.0,
        boot_id=proc.this_boot(),
        expires_mono_s=now_s + 60,
        grounds_mono_s=now_s,
    )
    return msgspec.structs.replace(made, **changes)


async def appears(path: Path) -> str:
    """The content of a file that a program writes by a rename; its writer's timing is not ours to know."""
    async with asyncio.timeout(DEADLINE_S):
        while not path.exists():
            await asyncio.sleep(0.002)
    return path.read_text()


async def ended(ref: ProcessRef, within_s: float = DEADLINE_S) -> bool:
    held = Fence.take(ref)
    if held is None:
        return True
    with held:
        return await held.gone(within_s)


def alive(ref: ProcessRef) -> bool:
    status = proc.same(ref)
    return status is not None and status.live


def kill(*refs: ProcessRef | None) -> None:
    for ref in refs:
        if ref is not None:
            proc.send_signal(ref, signal.SIGKILL)


def hear(root: socket.socket) -> None:
    """The root always reads what its children say; a worker would wait for it for ever."""
    asyncio.get_running_loop().add_reader(root, root.recv, 65536)


async def _serve(root: socket.socket, uplink: socket.socket) -> None:
    hear(root)
    made = boot(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    await ExecutorWorker(made, uplink).main()


if __name__ == "__main__":
    crashpoint.i_am("executor")
    root, own = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asyncio.run(_serve(root, own))
    root.close()
