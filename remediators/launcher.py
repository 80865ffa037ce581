"""Starting a program behind a gate, so that none ever runs unrecorded (DESIGN §2.3).

    executor ── fork ── L, the keeper ── fork ── P, the program to be

P makes itself a session and waits on its line, a socket, for its orders: what to become. It takes its standard
descriptors and its directory, says `ready`, and waits again. The executor reads P's identity, has it recorded, and only
then says `go`: P execs, which closes the line. If the executor dies first, P sees the line's end and exits without a
trace. L is P's parent, so that the exit status can be reported, until the executor lets go or dies: then L exits and P
belongs to init. A service is never our child.

The forks take milliseconds and need no orders: the executor keeps one such pair ready (`remediators.command.Spare`).

L and P inherit no descriptor of ours, no ignored or blocked signal, no environment. Between fork and exec they run
plain os calls only: libzmq's threads do not exist there and whatever lock they held is held for ever. This module
must be called from the main thread, and it never decides what is started.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

import msgspec

from remediators.base import StepFailed
from remediators.waiting import readable
from supervisor import proc
from supervisor.incidents.model import ProcessRef

SERVICE_UMASK = 0o022
ORDER_BYTES_MAX = 128 * 1024  # argv and environment; fits into a socket's default send buffer
_WAIT_STATUS_BYTES = 4  # on the keeper's channel
_REPORT_BYTES_MAX = 256  # what P says on its line
_FD_BYTES = 4  # a C int


class Command(msgspec.Struct, frozen=True):
    """What P becomes. `env` is the whole environment; a word without a slash is looked up in its PATH."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]


_orders = msgspec.msgpack.Decoder(Command)


class Held:
    """A program to be: waiting for its orders, then at its gate, then (after `release`) running."""

    def __init__(self, keeper: int, channel: socket.socket, line: socket.socket) -> None:
        self._keeper = keeper
        self._keeper_pidfd = os.pidfd_open(keeper)
        self._channel = channel
        self._line = line
        self._name = ""
        self._path = ""
        self._cwd = ""
        self._exit: int | None = None
        self._process: ProcessRef | None = None
        self.released = False

    @property
    def process(self) -> ProcessRef:
        """P's identity; known from `order` on, and the same after exec."""
        assert self._process is not None
        return self._process

    def waits(self) -> bool:
        """Are P and its keeper still there?"""
        return not select.select([self._keeper_pidfd, self._channel.fileno(), self._line.fileno()], [], [], 0)[0]

    async def order(self, command: Command, output_fd: int) -> None:
        """Tells P what it is to become; it then waits at the gate. `output_fd` becomes its stdout and stderr.

        Raises StepFailed when it could not get there (no such directory, no more processes), OSError.
        """
        self._name, self._cwd, self._path = command.argv[0], command.cwd, command.env.get("PATH", os.defpath)
        raw = msgspec.msgpack.encode(command)
        if len(raw) > ORDER_BYTES_MAX:
            raise StepFailed(f"{self._name}: its arguments and environment are {len(raw)} bytes, too many to start it")
        try:
            socket.send_fds(self._line, [raw], [output_fd])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise await self._failure() from error
        words = (await self._hear()).split()
        if words[:1] != [b"ready"]:
            raise self._failed(words)
        status = proc.stat(int(words[1]))
        if status is None:
            raise self._failed([])
        self._process = status.ref

    async def release(self) -> None:
        """Opens the gate and waits for the exec. Raises StepFailed with the reason when P could not become it."""
        if not self.waits():  # nobody would report its end; nothing has run yet
            raise StepFailed(f"{self._name}: its process or its keeper was killed before it was started")
        self.released = True
        try:
            self._line.send(b"go")
        except BrokenPipeError as error:
            raise self._failed([]) from error
        words = (await self._hear()).split()
        if words:
            raise self._failed(words)

    async def ended(self) -> int | None:
        """P's exit code (os.waitstatus_to_exitcode), once it has ended; None when its keeper was killed."""
        if self._exit is None:
            await readable(self._channel.fileno())
            raw = self._channel.recv(_WAIT_STATUS_BYTES)
            if len(raw) != _WAIT_STATUS_BYTES:
                return None
            self._exit = os.waitstatus_to_exitcode(int.from_bytes(raw, "little"))
        return self._exit

    def let_go(self) -> None:
        """No report is wanted any more. Not yet released: P exits without exec. Harmless when called twice."""
        if self._channel.fileno() == -1:
            return
        self._channel.close()
        self._line.close()
        # The keeper sees its channel close and exits; it is a child of ours and must be reaped.
        loop = asyncio.get_running_loop()
        loop.add_reader(self._keeper_pidfd, self._reap, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._keeper_pidfd)
        os.close(self._keeper_pidfd)
        os.waitpid(self._keeper, 0)

    async def _hear(self) -> bytes:
        """One message of P, empty when its end of the line is closed: it has become the program, or has ended."""
        await readable(self._line.fileno())
        try:
            return self._line.recv(_REPORT_BYTES_MAX)
        except ConnectionResetError:  # closed before it had read all that we sent
            return b""

    async def _failure(self) -> StepFailed:
        return self._failed((await self._hear()).split())

    def _failed(self, words: list[bytes]) -> StepFailed:
        if len(words) != 3:
            return StepFailed(f"{self._name}: its process ended before it was started")
        stage, reason = words[1], os.strerror(int(words[2]))
        if stage == b"fork":
            return StepFailed(f"cannot start {self._name}: no new process: {reason}")
        if stage == b"cwd":
            return StepFailed(f"cannot start {self._name}: its directory {self._cwd}: {reason}", "see restart_cwd")
        where = "" if "/" in self._name else f"; PATH is {self._path}"
        return StepFailed(
            f"cannot start {self._name}: {reason}",
            f"restart.argv must begin with a program, or a script whose interpreter exists{where}",
        )


def prepare() -> Held:
    """Forks a keeper and a program to be, which waits for its orders. Raises OSError, StepFailed."""
    with contextlib.ExitStack() as undo:
        channel, their_channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(channel.close)
        line, their_line = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(line.close)
        with their_channel, their_line:
            if min(their_channel.fileno(), their_line.fileno()) < 3:
                raise StepFailed("this process has lost its standard descriptors; nothing can be started from it")
            ignored = [number for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
            # Blocked over the fork: a TERM for the executor must not run its handlers in a half-made child, and the
            # wake-up descriptor of its event loop is shared until the child has let go of it.
            blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
            try:
                keeper = os.fork()
                if keeper == 0:
                    _keep(their_channel.fileno(), their_line, ignored)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        held = Held(keeper, channel, line)
        undo.pop_all()
    return held


def _keep(channel: int, line: socket.socket, ignored: list[signal.Signals]) -> NoReturn:
    """L: forks P, reports its end, exits when the executor lets go. Every signal but KILL stays blocked."""
    try:
        gc.disable()  # no finaliser of the executor's objects may run here
        signal.set_wakeup_fd(-1)
        try:
            program = os.fork()
        except OSError as error:
            line.send(f"error fork {error.errno}".encode())
            os._exit(71)
        if program == 0:
            _become(line, ignored)
        _close_all_but(channel)
        pidfd = os.pidfd_open(program)
        poller = select.poll()
        poller.register(channel, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        if any(fd == pidfd for fd, _ in poller.poll()):
            os.write(channel, os.waitpid(program, 0)[1].to_bytes(_WAIT_STATUS_BYTES, "little"))
        os._exit(0)
    finally:
        os._exit(71)


def _become(line: socket.socket, ignored: list[signal.Signals]) -> NoReturn:
    """P: its own session and nothing of ours; then its orders; then the gate; then exec."""
    stage = "setup"
    try:
        os.setsid()
        _close_all_but(line.fileno())
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):
            os.dup2(null, fd)
            os.set_inheritable(fd, True)  # one of them is `null` itself, which dup2 leaves as it is
        os.umask(SERVICE_UMASK)
        for number in ignored:  # an ignored signal stays ignored over an exec, a handled one does not stay handled
            signal.signal(number, signal.SIG_DFL)
        raw, ancillary, _, _ = line.recvmsg(ORDER_BYTES_MAX, socket.CMSG_SPACE(_FD_BYTES))
        if not raw:
            os._exit(0)
        output = int.from_bytes(ancillary[0][2][:_FD_BYTES], sys.byteorder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        command = _orders.decode(raw)
        stage = "cwd"
        os.chdir(command.cwd)
        stage = "exec"
        line.send(f"ready {os.getpid()}".encode())
        if line.recv(_REPORT_BYTES_MAX):
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            os.execvpe(command.argv[0], command.argv, command.env)
        os._exit(0)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte within a word
        code = error.errno if isinstance(error, OSError) and error.errno else errno.EINVAL
        line.send(f"error {stage} {code}".encode())
    finally:
        os._exit(127)


def _close_all_but(*keep: int) -> None:
    low = 0
    for fd in sorted(keep):
        if low < fd:  # CPython's closerange(0, 0) closes everything (its last is -1, as an unsigned number)
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
