"""The one place where the notifier starts a program: openclaw or signal-cli, an argument list, never a shell (R11).

A message's text is one argument and nothing reads it but the program. A program gets an empty stdin, a session of its
own, `/` as its directory, none of our descriptors, and of our environment only what it needs to find itself. It ends
with the call: at its own end, at the deadline, when it says too much or when the caller is cancelled, its whole process
group is killed while its leader is still ours. If we are killed, the kernel kills it (setpriv(1), where installed).

It is started in a thread, since an exec on a dead mount hangs; the thread lives as long as the process, because a death
signal comes with the end of the *thread* that started a program (prctl(2)).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache

import msgspec

OUTPUT_BYTES_MAX = 256 * 1024  # of each of stdout and stderr
READ_BYTES = 64 * 1024
# Where a program finds its account, its settings and its interpreter; no secrets of ours.
ENVIRONMENT = (
    "HOME", "USER", "LOGNAME", "PATH", "LANG", "LC_ALL", "TMPDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME",
    "XDG_RUNTIME_DIR", "JAVA_HOME", "JAVA_OPTS", "SIGNAL_CLI_OPTS", "OPENCLAW_HOME", "OPENCLAW_STATE_DIR",
    "OPENCLAW_CONFIG_PATH",
)  # fmt: skip

_starters = ThreadPoolExecutor(4, "program")


class ProgramFailed(Exception):
    """It could not be started, or was ended before its own end; the text says why and names it."""


class NotStarted(ProgramFailed):
    """It never ran: nothing can have been sent."""


class Output(msgspec.Struct, frozen=True):
    """What it said. `code`: its exit code, or minus the signal that killed it."""

    code: int
    stdout: bytes
    stderr: bytes


async def run(argv: tuple[str, ...], timeout_s: float) -> Output:
    """Runs it to its end. Raises ProgramFailed; the exit code is not judged."""
    starting = _starters.submit(_start, argv, environment(os.environ))
    try:
        async with asyncio.timeout(timeout_s):
            try:
                child = await asyncio.wrap_future(starting)
            except asyncio.CancelledError:
                starting.add_done_callback(_end_late)
                raise
            return await _Hearing(argv[0], child).output()
    except TimeoutError:
        raise ProgramFailed(f"{argv[0]}: it did not end within {timeout_s:g} s and was killed") from None


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Of `ours`, without our own bin in PATH: a program's `python3` is the machine's, not healctl's."""
    own_bin = os.path.dirname(sys.executable) if sys.prefix != sys.base_prefix else None
    path = [entry for entry in ours.get("PATH", os.defpath).split(":") if entry and entry != own_bin]
    return {name: ours[name] for name in ENVIRONMENT if name in ours} | {"PATH": ":".join(path) or os.defpath}


class _Hearing:
    """Both pipes of a program, read as they fill, until it has ended."""

    def __init__(self, name: str, child: subprocess.Popen[bytes]) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._name = name
        self._child = child
        self._heard = {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
        self._too_much = False

    async def output(self) -> Output:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        try:
            pidfd = os.pidfd_open(self._child.pid)
        except OSError as error:  # no descriptor left: what nobody can watch must not run on
            _kill(self._child)
            await _reaped(self._child)
            raise ProgramFailed(f"{self._name}: it cannot be watched and was killed: {error}") from error
        loop.add_reader(pidfd, ended.set)
        try:
            for fd in self._heard:
                os.set_blocking(fd, False)
                loop.add_reader(fd, self._take, fd)
            await ended.wait()
        finally:
            _kill(self._child)  # what it left in its group, too
            for fd in (pidfd, *self._heard):
                loop.remove_reader(fd)
            os.close(pidfd)
            stdout, stderr = (self._rest(fd) for fd in self._heard)
            await _reaped(self._child)
        if self._too_much:
            raise ProgramFailed(f"{self._name}: it said more than {OUTPUT_BYTES_MAX} bytes and was killed")
        return Output(self._child.returncode, stdout, stderr)

    def _take(self, fd: int) -> bool:
        """Takes what is there; False when there is nothing more to take now."""
        try:
            chunk = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return False
        self._heard[fd] += chunk
        if len(self._heard[fd]) > OUTPUT_BYTES_MAX:
            self._too_much = True
            _kill(self._child)
        if not chunk or self._too_much:
            asyncio.get_running_loop().remove_reader(fd)
            return False
        return True

    def _rest(self, fd: int) -> bytes:
        while self._take(fd):
            pass
        return bytes(self._heard[fd])


def _kill(child: subprocess.Popen[bytes]) -> None:
    """The whole group. Its leader has not been reaped, so that its number is still ours."""
    if child.returncode is None:
        with contextlib.suppress(PermissionError):  # it has become another user's; its pipes end, at least
            os.killpg(child.pid, signal.SIGKILL)


async def _reaped(child: subprocess.Popen[bytes]) -> None:
    """In a thread, and to its end even if we are cancelled: what hangs in the kernel must not hang the loop."""
    await asyncio.shield(asyncio.wrap_future(_starters.submit(_reap, child)))


def _reap(child: subprocess.Popen[bytes]) -> None:
    with child:  # closes its pipes and waits
        pass


def _end_late(starting: Future[subprocess.Popen[bytes]]) -> None:
    """It came up after nobody wanted it any more."""
    if not starting.cancelled() and starting.exception() is None:
        _kill(starting.result())
        _reap(starting.result())


# --- in a thread: all that looks at file systems ---------------------------------------------------------------------


def _start(argv: tuple[str, ...], env: dict[str, str]) -> subprocess.Popen[bytes]:
    """Raises NotStarted. Returns after the exec."""
    found = shutil.which(argv[0], path=env["PATH"])
    if found is None:
        where = "" if "/" in argv[0] else f" in PATH ({env['PATH']})"
        raise NotStarted(f"{argv[0]}: there is no such program{where}")
    try:
        return subprocess.Popen(
            [*_wrapper(), found, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=env,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # ValueError: a NUL byte within a word
        raise NotStarted(f"{found}: it cannot be started: {error}") from error


@cache
def _wrapper() -> tuple[str, ...]:
    """The words before a program that make it die with us; none where util-linux's setpriv is not installed."""
    found = shutil.which("setpriv", path="/usr/local/bin:/usr/bin:/bin")
    if found is None or os.path.basename(os.path.realpath(found)) != "setpriv":  # busybox's does not know the option
        return ()
    return (found, "--pdeathsig", "KILL", "--")
