"""The only place that starts programs. argv from a recipe, never a shell, never text from a reading (R11).

A program gets its own session, a clean environment (`clean_environment`), /dev/null as stdin, and none of our
descriptors. It is recorded before it runs its first instruction (`remediators.launcher`). Under systemd it moves into
a scope of its own, or stopping healctl would stop what healctl has started.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from remediators import fence
from remediators.base import StepFailed
from remediators.launcher import Command, Held
from supervisor import crashpoint, identify, redact
from supervisor.incidents.model import Program, Recipe
from supervisor.incidents.readings import ProcessRef

OUTPUT_END_BYTES = 32 * 1024  # kept of each end of an output: 64 KiB together
OUTPUT_READ_BYTES = 64 * 1024
OUTPUT_READS_MAX = 64  # after the program's end: a grandchild may hold the pipe and write for ever

Record = Callable[[Program], Awaitable[None]]


class LeftRunning(msgspec.Struct, frozen=True):
    """A program that a step leaves running; its early end is evidence. `last_words` reads what it has written."""

    held: Held
    last_words: Callable[[], str]


class Programs:
    """The programs of one step. `record` returns once a program is durable in the ledger, or raises StepFailed.

    `take`: gives a program to be, see `remediators.keeper.Nursery`.
    """

    def __init__(self, step_id: str, record: Record, take: Callable[[], Held]) -> None:
        self._step_id = step_id
        self._record = record
        self._take = take
        self._held: list[Held] = []
        self.left_running: list[LeftRunning] = []

    async def hold(self, recipe: Recipe, output_fd: int) -> Held:
        """Starts the recipe up to its gate and records it. Raises StepFailed, OSError."""
        crashpoint.reach("program.before")
        held = self._take()
        self._held.append(held)
        await held.order(command_of(recipe), output_fd)
        await self._record(Program(self._step_id, held.process, recipe.argv))
        crashpoint.reach("program.recorded")
        return held

    async def release(self, held: Held) -> None:
        """Opens the gate. Raises StepFailed when the exec failed."""
        await held.release()
        crashpoint.reach("program.released")

    def running(self) -> list[ProcessRef]:
        """What was released and not left running."""
        return [held.process for held in self._held if held.released]

    def leave_running(self, held: Held, last_words: Callable[[], str]) -> None:
        """The step is done with it, but it stays: `end_all` and `let_go` pass it by."""
        self._held.remove(held)
        self.left_running.append(LeftRunning(held, last_words))

    async def end_all(self) -> str:
        """Ends what the step has started and has not left running; what was done in words, empty for nothing."""
        total = fence.Ending()
        for held in self._held:
            if held.released:
                total += await fence.end_session(held.process)
        self.let_go()
        return "" if total == fence.Ending() else total.text()

    def let_go(self) -> None:
        """Wants no more reports. What has not been released never runs; what runs goes on (see `end_all`)."""
        for held in self._held:
            held.let_go()
        self._held.clear()


class Output:
    """Both ends of what a program wrote, with the number of bytes left out between them."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._left_out = 0

    def add(self, chunk: bytes) -> None:
        room = OUTPUT_END_BYTES - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        excess = max(0, len(self._tail) - OUTPUT_END_BYTES)
        self._left_out += excess
        self._tail = self._tail[excess:]

    def text(self) -> str:
        gap = f"\n... {self._left_out} bytes left out ...\n".encode() if self._left_out else b""
        return (self._head + gap + self._tail).decode(errors="replace")


async def run_to_completion(
    programs: Programs, recipe: Recipe, check: Callable[[], Awaitable[None]] | None = None
) -> tuple[int | None, str]:
    """Runs the recipe to its end: (exit code as in `exit_text`, output). The caller's timeout cancels it.

    `check` is awaited when all is recorded, which may take seconds, and nothing has run yet; what it raises keeps it
    from running.

    The end is the program's own, not its output's: a child that it left behind may hold the pipe open for ever.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    output = Output()
    loop = asyncio.get_running_loop()

    def drain() -> bool:
        try:
            chunk = os.read(read_fd, OUTPUT_READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            loop.remove_reader(read_fd)
        output.add(chunk)
        return bool(chunk)

    try:
        try:
            held = await programs.hold(recipe, write_fd)
        finally:
            os.close(write_fd)
        if check is not None:
            await check()
        await programs.release(held)
        loop.add_reader(read_fd, drain)
        code = await held.ended()
        crashpoint.reach("program.ended")
        for _ in range(OUTPUT_READS_MAX):
            if not drain():
                break
        return code, output.text()
    finally:
        loop.remove_reader(read_fd)
        os.close(read_fd)


def run_aside(recipe: Recipe, within_s: float) -> tuple[int | None, str]:
    """Blocking, for a dry run, in its thread: (exit code as in `exit_text`, output). Nothing records it, since it
    changes nothing; it ends with the question, and its session with it. Raises OSError, TimeoutError."""
    child = subprocess.Popen(
        recipe.argv,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        cwd="/", env=clean_environment(recipe), start_new_session=True,
    )  # fmt: skip
    try:
        out, _ = child.communicate(timeout=max(within_s, 0.1))
        return child.returncode, out.decode(errors="replace")
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"its dry run did not end within {within_s:.2g} s") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def exit_text(code: int | None) -> str:
    """`exit 3`, `killed by SIGSEGV`, or that nobody knows."""
    if code is None:
        return "ended, its exit status is unknown"
    if code >= 0:
        return f"exit {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def words(argv: tuple[str, ...]) -> str:
    """argv as one would type it, without secrets; for people only, it is never run from this text."""
    return shlex.join(redact.words(argv))


def clean_environment(recipe: Recipe) -> dict[str, str]:
    """PATH, HOME, LANG, USER, LOGNAME and the recipe's own; nothing of ours, not even our own bin in PATH."""
    try:
        user = pwd.getpwuid(os.geteuid())
        name, home = user.pw_name, user.pw_dir
    except KeyError:  # a container's user without an entry
        name, home = str(os.geteuid()), "/"
    own_bin = os.path.dirname(sys.executable) if sys.prefix != sys.base_prefix else None
    path = [entry for entry in os.environ.get("PATH", os.defpath).split(":") if entry and entry != own_bin]
    env = {
        "PATH": ":".join(path) or os.defpath,
        "HOME": os.environ.get("HOME", home),
        "LANG": os.environ.get("LANG", "C.UTF-8"),
        "USER": name,
        "LOGNAME": name,
    }
    return env | identify.manager_environment(recipe.manager, dict(recipe.env))


def command_of(recipe: Recipe) -> Command:
    """What really is executed. Raises StepFailed when the scope's wrapper would hide that the program is missing."""
    env = clean_environment(recipe)
    argv = recipe.argv
    wrapper = shutil.which("systemd-run", path=env["PATH"]) if "INVOCATION_ID" in os.environ else None
    if wrapper is not None:
        problem = missing_program(recipe)
        if problem:
            raise StepFailed(problem)
        user = [] if os.geteuid() == 0 else ["--user"]
        if user and "XDG_RUNTIME_DIR" in os.environ:  # how systemd-run finds the user's manager
            env.setdefault("XDG_RUNTIME_DIR", os.environ["XDG_RUNTIME_DIR"])
        argv = (wrapper, "--scope", "--quiet", "--collect", *user, "--", *recipe.argv)
    return Command(argv, recipe.cwd or "/", env)


def missing_program(recipe: Recipe) -> str:
    """Why the recipe could not be started now, in words; empty when nothing is seen to be missing. Reads only."""
    directory = Path(recipe.cwd or "/")
    if not directory.is_dir():
        return f"its directory {directory} does not exist"
    program, path = recipe.argv[0], clean_environment(recipe)["PATH"]
    found = shutil.which(str(directory / program)) if "/" in program else shutil.which(program, path=path)
    return "" if found else f"{program} is not an executable program" + ("" if "/" in program else f" in {path}")
