"""The one place where a probe starts a program: a target's own configured argv, or fixed words; never a shell, never
text from a reading (R11).

A program gets an empty stdin, a session of its own, `/` as its directory and none of our descriptors. It ends with the
call, whatever happens: at its own end, at the timeout, when the caller is cancelled or when it says too much, its whole
process group is killed while its leader is still ours, and then reaped. What leaves its process group (a daemon)
is left alone. If this worker is killed with SIGKILL, the kernel kills the program (PR_SET_PDEATHSIG, by setpriv(1)
where that is installed); not the program's own children, nor one that was started less than a millisecond before.

Starting is done in a thread: an exec on a dead mount hangs, and so would the event loop. The threads live as long as
the process, since a death signal comes with the end of the *thread* that started a program (prctl(2)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from functools import cache

import msgspec

from supervisor.incidents.readings import Unavailable

COMMANDS_MAX = 16  # at once; others wait their turn, within their timeout
STDOUT_BYTES_MAX = 1024 * 1024
STDERR_BYTES_MAX = 256 * 1024
READ_BYTES = 64 * 1024
END_WITHIN_S = 1.0  # after SIGKILL; what takes longer hangs in the kernel
WRAPPER = "setpriv"  # exits 126 or 127, and says so under its name, when it cannot become the program


class Kind(StrEnum):
    """Why there is no output."""

    MISSING = "missing"  # no such program, or no interpreter for it
    PERMISSION = "permission"
    TIMEOUT = "timeout"
    TOO_MUCH = "too_much"
    ERROR = "error"  # it cannot be started for another reason


_REASONS = {
    Kind.MISSING: Unavailable.MISSING,
    Kind.PERMISSION: Unavailable.PERMISSION,
    Kind.TIMEOUT: Unavailable.TIMEOUT,
    Kind.TOO_MUCH: Unavailable.BAD_DATA,
    Kind.ERROR: Unavailable.ERROR,
}


class CommandFailed(Exception):
    """The program gave no output that could be judged; the text says why and names it."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message

    @property
    def reason(self) -> Unavailable:
        """The same, as a reading says it (R9)."""
        return _REASONS[self.kind]


class Output(msgspec.Struct, frozen=True):
    """What a program that ended has said. `code`: its exit code, or minus the signal that killed it."""

    code: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str],
    timeout_s: float,
    *,
    env: Mapping[str, str] | None = None,
    stdout_bytes_max: int = STDOUT_BYTES_MAX,
) -> Output:
    """Runs it to its end within `timeout_s` (seconds, its turn included). `env` is added to our own environment.

    Raises CommandFailed. The exit code is not judged.
    """
    key = tuple(argv)
    if not key or not key[0]:
        raise CommandFailed(Kind.ERROR, "an empty command cannot be run")
    if key in _lingering:
        raise CommandFailed(Kind.TIMEOUT, f"{key[0]}: it was killed, but hangs in the kernel and has not ended yet")
    turns = _turns()
    life: _Life | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await turns.acquire()
            life = _Life(key, _environment(env), stdout_bytes_max, turns.release)
            return await asyncio.shield(life.task)
    except TimeoutError:
        raise CommandFailed(Kind.TIMEOUT, f"{key[0]}: it did not end within {timeout_s:g} s") from None
    except (OSError, RuntimeError) as error:  # no descriptor, no process or no thread left for us
        raise CommandFailed(Kind.ERROR, f"{key[0]}: it cannot be run: {error}") from error
    finally:
        if life is not None:
            await life.over()


_lingering: set[tuple[str, ...]] = set()  # given up, killed, and still not ended
_starters = ThreadPoolExecutor(COMMANDS_MAX, "command")
_turns_of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


def _turns() -> asyncio.Semaphore:
    """One for each event loop, to which a semaphore is bound; a worker has one loop."""
    return _turns_of.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(COMMANDS_MAX))


class _Life:
    """One program from its start until it is reaped; `released` is called then. Its task is never cancelled by us."""

    def __init__(
        self, argv: tuple[str, ...], env: dict[str, str], stdout_bytes_max: int, released: Callable[[], None]
    ) -> None:
        self._argv = argv
        self._child: subprocess.Popen[bytes] | None = None
        self._given_up = False
        self._too_much = ""
        self._stdout, self._stderr = bytearray(), bytearray()
        self._stdout_bytes_max = stdout_bytes_max
        self._loop = asyncio.get_running_loop()
        self.task = self._loop.create_task(self._live(env))
        self.task.add_done_callback(lambda _: released())

    async def over(self) -> None:
        """Nobody waits for it any more. Returns when it is gone, or cannot be ended for now."""
        if self.task.done():
            return
        self._given_up = True
        self._kill()
        self.task.add_done_callback(self._forget)
        try:
            await asyncio.wait({self.task}, timeout=END_WITHIN_S)
        finally:  # also when we are cancelled once more
            if not self.task.done():
                _lingering.add(self._argv)

    def _forget(self, task: asyncio.Task[Output]) -> None:
        _lingering.discard(self._argv)
        if not task.cancelled():
            task.exception()  # it was told to nobody: nobody waits

    def _kill(self) -> None:
        """The whole group. Its leader has not been reaped, so that its number is still ours."""
        if self._child is not None and self._child.returncode is None:
            with contextlib.suppress(PermissionError):  # it has become another user's; its pipes end, at least
                os.killpg(self._child.pid, signal.SIGKILL)

    async def _live(self, env: dict[str, str]) -> Output:
        child = await self._loop.run_in_executor(_starters, _start, self._argv, env)
        self._child = child
        assert child.stdout is not None
        assert child.stderr is not None
        out_fd, err_fd = child.stdout.fileno(), child.stderr.fileno()
        try:
            with child.stdout, child.stderr:
                if self._given_up:
                    self._kill()
                self._hear(out_fd, self._stdout, self._stdout_bytes_max)
                self._hear(err_fd, self._stderr, STDERR_BYTES_MAX)
                try:
                    await self._ended(child)
                    self._kill()  # what it has left in its group
                    for fd, heard, limit in (
                        (out_fd, self._stdout, self._stdout_bytes_max),
                        (err_fd, self._stderr, STDERR_BYTES_MAX),
                    ):
                        while self._drain(fd, heard, limit):
                            pass
                finally:
                    self._loop.remove_reader(out_fd)
                    self._loop.remove_reader(err_fd)
        finally:
            self._kill()
            code = child.poll()
        return self._output(code)

    def _output(self, code: int | None) -> Output:
        assert code is not None
        if self._too_much:
            raise CommandFailed(Kind.TOO_MUCH, f"{self._argv[0]}: {self._too_much}")
        if code in (126, 127) and self._stderr.startswith(WRAPPER.encode() + b":"):
            kind = Kind.MISSING if code == 127 else Kind.PERMISSION
            raise CommandFailed(kind, f"{self._argv[0]}: {_first_line(self._stderr)}")
        return Output(code, bytes(self._stdout), bytes(self._stderr))

    async def _ended(self, child: subprocess.Popen[bytes]) -> None:
        """Its own end, not that of its pipes, which a program that it left behind may hold open."""
        pidfd = os.pidfd_open(child.pid)
        ended = asyncio.Event()
        self._loop.add_reader(pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)

    def _hear(self, fd: int, heard: bytearray, limit: int) -> None:
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._drain, fd, heard, limit)

    def _drain(self, fd: int, heard: bytearray, limit: int) -> bool:
        """Takes what is there; False when there is nothing more to take now."""
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        heard += chunk
        if len(heard) > limit:
            self._too_much = f"it said more than {limit} bytes"
            self._kill()
        if not chunk or self._too_much:
            self._loop.remove_reader(fd)
            return False
        return True


# --- in a thread: all that looks at file systems ---------------------------------------------------------------------


def _start(argv: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Raises CommandFailed. Returns after the exec."""
    program = _find(argv[0], env.get("PATH", os.defpath))
    try:
        return subprocess.Popen(
            [*_wrapper(), program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=env,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(Kind.MISSING, f"{program}: its interpreter does not exist") from error
    except PermissionError as error:
        raise CommandFailed(Kind.PERMISSION, f"{program}: {error.strerror}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL byte within a word
        raise CommandFailed(Kind.ERROR, f"{program}: it cannot be started: {error}") from error


def _find(program: str, path: str) -> str:
    """The program's file, looked up in `path` unless it has a slash. Raises CommandFailed with the reason."""
    denied = ""
    for folder in [""] if "/" in program else path.split(":"):
        file = os.path.join(folder, program) if folder or "/" in program else ""
        try:
            if file and stat.S_ISREG(os.stat(file).st_mode) and os.access(file, os.X_OK):
                return file
            denied = denied or (file and f"{file} is not a program that we may run")
        except PermissionError:
            denied = denied or f"{file} may not be looked at"
        except (OSError, ValueError):  # not here; ValueError: a NUL byte
            continue
    if denied:
        raise CommandFailed(Kind.PERMISSION, denied)
    raise CommandFailed(Kind.MISSING, f"{program} does not exist" + ("" if "/" in program else f" in {path}"))


@cache
def _wrapper() -> tuple[str, ...]:
    """The words before a program that make it die with us; none where util-linux's setpriv is not installed."""
    found = shutil.which(WRAPPER, path="/usr/local/bin:/usr/bin:/bin")
    if found is None or os.path.basename(os.path.realpath(found)) != WRAPPER:  # busybox's does not know the option
        return ()
    return (found, "--pdeathsig", "KILL", "--")


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Ours, without our own bin in PATH: a program's `python3` is the machine's, not healctl's."""
    env = dict(os.environ)
    own_bin = os.path.dirname(sys.executable) if sys.prefix != sys.base_prefix else None
    path = [entry for entry in env.get("PATH", os.defpath).split(":") if entry and entry != own_bin]
    return {**env, "PATH": ":".join(path) or os.defpath, **(more or {})}


def _first_line(text: bytearray) -> str:
    return text.split(b"\n", 1)[0].decode(errors="replace")
