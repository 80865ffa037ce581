"""Starting a program behind a gate, so that none ever runs unrecorded (DESIGN §2.3).

    executor ── fork ── K, a keeper ── fork ── P, the program to be      (K: `remediators.keeper`)

P makes itself a session and waits on its line, a socket, for its orders: what to become. It takes its standard
descriptors and its directory, says `ready`, and waits again. The executor reads P's identity, has it recorded, and only
then says `go`: P execs, which closes the line. If the executor dies first, P sees the line's end and exits without a
trace.

P inherits no descriptor of ours, no ignored or blocked signal, no environment. Between fork and exec it runs plain os
calls only. This module never decides what is started.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
from typing import NoReturn

import msgspec

from remediators.base import StepFailed
from remediators.waiting import readable
from supervisor import proc
from supervisor.incidents.readings import ProcessRef

SERVICE_UMASK = 0o022
ORDER_BYTES_MAX = 128 * 1024  # argv and environment; fits into a socket's default send buffer
WAIT_STATUS_BYTES = 4  # on the keeper's channel
_REPORT_BYTES_MAX = 256  # what P says on its line


class Command(msgspec.Struct, frozen=True):
    """What P becomes. `env` is the whole environment; a word without a slash is looked up in its PATH."""

    argv: tuple[str, ...]
    cwd: str
    env: dict[str, str]


_orders = msgspec.msgpack.Decoder(Command)


class Held:
    """A program to be: waiting for its orders, then at its gate, then (after `release`) running."""

    def __init__(self, line: socket.socket, report: socket.socket) -> None:
        self._line = line
        self._report = report
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
        return not select.select([self._report, self._line], [], [], 0)[0]

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
            await readable(self._report.fileno())
            raw = self._report.recv(WAIT_STATUS_BYTES)
            if len(raw) != WAIT_STATUS_BYTES:
                return None
            self._exit = os.waitstatus_to_exitcode(int.from_bytes(raw, "little"))
        return self._exit

    def let_go(self) -> None:
        """No report is wanted any more. Not yet released: P exits without exec. Harmless when called twice."""
        self._report.close()
        self._line.close()

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


def become(line: socket.socket, ignored: list[int]) -> NoReturn:
    """P: its own session and nothing of ours; then its orders; then the gate; then exec."""
    stage = "setup"
    try:
        os.setsid()
        close_all_but(0, 1, 2, line.fileno())  # the three lead nowhere since the keeper's beginning
        os.umask(SERVICE_UMASK)
        for number in ignored:  # an ignored signal stays ignored over an exec, a handled one does not stay handled
            signal.signal(number, signal.SIG_DFL)
        raw, fds, _, _ = socket.recv_fds(line, ORDER_BYTES_MAX, 1)
        if not raw:
            os._exit(0)
        os.dup2(fds[0], 1)
        os.dup2(fds[0], 2)
        os.close(fds[0])
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


def close_all_but(*keep: int) -> None:
    low = 0
    for fd in sorted(keep):
        if low < fd:  # CPython's closerange(0, 0) closes everything (its last is -1, as an unsigned number)
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))
