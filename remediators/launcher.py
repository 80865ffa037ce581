"""Starting a program behind a gate, so that none ever runs unrecorded (DESIGN §2.3).

    executor ── fork ── L, the keeper ── fork ── P, the program

P makes itself a session, takes its standard descriptors and its directory, says `ready` and waits at its gate, a pipe.
The executor reads P's identity, has it recorded, and only then opens the gate: P execs. If the executor dies first, P
sees the end of the pipe and exits without a trace. L is P's parent, so that the exit status can be reported, until
the executor lets go or dies: then L exits and P belongs to init. A service is never our child.

L and P inherit no descriptor of ours, no signal handler, no blocked signal, no environment. Between fork and exec they
run plain os calls only: libzmq's threads do not exist there and whatever lock they held is held for ever. This module
must be called from the main thread, and it never decides what is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
from collections.abc import Mapping
from typing import NoReturn

import msgspec

from remediators.base import StepFailed
from remediators.waiting import readable
from supervisor import proc
from supervisor.incidents.model import ProcessRef

SERVICE_UMASK = 0o022
STATUS_BYTES_MAX = 4096
_STATUS_LENGTH = 4  # bytes of a wait status on the keeper's channel


class Command(msgspec.Struct, frozen=True):
    """What P becomes. `env` is the whole environment; a word without a slash is looked up in its PATH."""

    argv: tuple[str, ...]
    cwd: str
    env: Mapping[str, str]


class Held:
    """A program that waits at its gate, and after `release` one that runs."""

    def __init__(self, command: Command, keeper: int, channel: socket.socket, gate: int, status: int) -> None:
        self._command = command
        self._keeper = keeper
        self._keeper_pidfd = os.pidfd_open(keeper)
        self._channel = channel
        self._gate = gate
        self._status = status
        self._heard = b""
        self._exit: int | None = None
        self._process: ProcessRef | None = None
        self.released = False

    @property
    def process(self) -> ProcessRef:
        """P's identity; known from `ready` on, and the same after exec."""
        assert self._process is not None
        return self._process

    async def ready(self) -> None:
        """P waits at the gate. Raises StepFailed when it could not get there (no such directory, no more processes)."""
        while b"\n" not in self._heard:
            if not await self._hear():
                self._raise_failure()
        line, _, self._heard = self._heard.partition(b"\n")
        words = line.decode().split()
        if words[0] != "ready":
            self._heard = line
            self._raise_failure()
        status = proc.stat(int(words[1]))
        if status is None:
            raise StepFailed(f"{self._command.argv[0]}: its process ended before it was started")
        self._process = status.ref

    async def release(self) -> None:
        """Opens the gate and waits for the exec. Raises StepFailed with the reason when P could not become it."""
        if self._keeper_is_gone():  # P would lose its parent's report; nothing has run yet, so let nothing run
            raise StepFailed(f"{self._command.argv[0]}: its keeper was killed before it was started")
        self.released = True
        try:
            os.write(self._gate, b"g")
        except BrokenPipeError as error:
            raise StepFailed(f"{self._command.argv[0]}: its process was killed before it was started") from error
        while await self._hear():
            pass
        if self._heard:
            self._raise_failure()

    async def ended(self) -> int | None:
        """P's wait status (os.waitstatus_to_exitcode), once it has ended; None when its keeper was killed."""
        if self._exit is None:
            await readable(self._channel.fileno())
            raw = self._channel.recv(_STATUS_LENGTH)
            if len(raw) != _STATUS_LENGTH:
                return None
            self._exit = os.waitstatus_to_exitcode(int.from_bytes(raw, "little"))
        return self._exit

    def let_go(self) -> None:
        """No report is wanted any more. Not yet released: P exits without exec. Harmless when called twice."""
        if self._channel.fileno() == -1:
            return
        self._channel.close()
        os.close(self._gate)
        os.close(self._status)
        # The keeper sees its channel close and exits; it is a child of ours and must be reaped.
        loop = asyncio.get_running_loop()
        loop.add_reader(self._keeper_pidfd, self._reap, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._keeper_pidfd)
        os.close(self._keeper_pidfd)
        os.waitpid(self._keeper, 0)

    def _keeper_is_gone(self) -> bool:
        return bool(select.select([self._keeper_pidfd], [], [], 0)[0])

    async def _hear(self) -> bool:
        await readable(self._status)
        raw = os.read(self._status, STATUS_BYTES_MAX)
        self._heard += raw
        return bool(raw)

    def _raise_failure(self) -> NoReturn:
        program = self._command.argv[0]
        words = self._heard.decode(errors="replace").split()
        if len(words) != 3 or words[0] != "error":
            raise StepFailed(f"{program}: its process ended before it was started")
        number = int(words[2])
        reason = os.strerror(number)
        if words[1] == "cwd":
            raise StepFailed(f"cannot start {program}: its directory {self._command.cwd}: {reason}", "see restart_cwd")
        if words[1] == "fork":
            raise StepFailed(f"cannot start {program}: no new process: {reason}")
        raise StepFailed(f"cannot start {program}: {reason}", _exec_hint(reason, self._command))


def _exec_hint(reason: str, command: Command) -> str:
    where = "" if "/" in command.argv[0] else f"; PATH is {command.env.get('PATH', os.defpath)}"
    return f"the first word of restart.argv must be a program, or a script with an interpreter that exists{where}"


async def hold(command: Command, output_fd: int) -> Held:
    """Forks the keeper and the program, which then waits at its gate. `output_fd` becomes its stdout and stderr.

    Raises StepFailed, OSError. When it raises or is cancelled, the program exits without ever having run.
    """
    held = _fork(command, output_fd)
    try:
        await held.ready()
    except BaseException:
        held.let_go()
        raise
    return held


def _fork(command: Command, output_fd: int) -> Held:
    with contextlib.ExitStack() as undo:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)
        undo.callback(theirs.close)
        gate_read, gate_write = os.pipe()
        undo.callback(os.close, gate_write)
        undo.callback(os.close, gate_read)
        status_read, status_write = os.pipe()
        undo.callback(os.close, status_read)
        undo.callback(os.close, status_write)
        if min(gate_read, status_write, theirs.fileno(), output_fd) < 3:
            raise StepFailed("this process has lost its standard descriptors; nothing can be started from it")
        # Blocked over the fork: a TERM for the executor must not run its handlers in a half-made child, and the
        # wake-up descriptor of its event loop is shared until the child has let go of it.
        blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
        try:
            keeper = os.fork()
            if keeper == 0:
                _keep(command, theirs.fileno(), gate_read, status_write, output_fd)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        held = Held(command, keeper, ours, gate_write, status_read)
        undo.pop_all()
    theirs.close()
    os.close(gate_read)
    os.close(status_write)
    return held


def _keep(command: Command, channel: int, gate: int, status: int, output_fd: int) -> NoReturn:
    """L: forks P, reports its end, exits when the executor lets go. Every signal but KILL stays blocked."""
    try:
        gc.disable()  # no finaliser of the executor's objects may run here
        signal.set_wakeup_fd(-1)
        _default_signals()
        try:
            program = os.fork()
        except OSError as error:
            os.write(status, f"error fork {error.errno}\n".encode())
            os._exit(71)
        if program == 0:
            _become(command, gate, status, output_fd)
        _close_all_but(channel)
        pidfd = os.pidfd_open(program)
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        if any(fd == pidfd for fd, _ in poller.poll()):
            os.write(channel, os.waitpid(program, 0)[1].to_bytes(_STATUS_LENGTH, "little"))
        os._exit(0)
    finally:
        os._exit(71)


def _become(command: Command, gate: int, status: int, output_fd: int) -> NoReturn:
    """P: its own session, standard descriptors, directory; then the gate; then exec."""
    stage = "setup"
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        _close_all_but(0, 1, 2, gate, status)
        os.umask(SERVICE_UMASK)
        stage = "cwd"
        os.chdir(command.cwd)
        stage = "exec"
        os.write(status, f"ready {os.getpid()}\n".encode())
        if os.read(gate, 1):
            os.close(gate)
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvpe(command.argv[0], command.argv, command.env)
        os._exit(0)
    except OSError as error:
        os.write(status, f"error {stage} {error.errno}\n".encode())
    finally:
        os._exit(127)


def _default_signals() -> None:
    for number in signal.valid_signals():
        if number not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(number, signal.SIG_DFL)


def _close_all_but(*keep: int) -> None:
    low = 0
    for fd in sorted(keep):
        if low < fd:  # CPython's closerange(0, 0) closes everything (its last is -1, as an unsigned number)
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
