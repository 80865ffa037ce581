"""Keepers: the parents of the programs that the executor starts, so that a service is never our child.

A keeper forks a program to be whenever it is told to, and reports its end. It goes on until the executor has no more
programs for it (it is retired, or the executor has died) and wants no more of its reports: then it exits, and what it
has started belongs to init. One keeper serves a burst of starts; when the executor is idle again it takes a new one,
and keeps one program to be ready: the forks are the slow part of a start.

A keeper inherits no descriptor of ours and runs plain os calls only: libzmq's threads do not exist in it, and whatever
lock they held is held for ever. It must be forked from the main thread, and it starts nothing by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import signal
import socket
from typing import NoReturn

import setproctitle

from remediators.base import StepFailed
from remediators.launcher import WAIT_STATUS_BYTES, Held, become, close_all_but

SERVES_MAX = 64  # programs of one keeper; each may be watched for its step's timeout


class Keeper:
    """The executor's end of one keeper process. Raises OSError when it cannot be forked."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(self._control.close)
            if theirs.fileno() < 3:
                raise StepFailed("this process has lost its standard descriptors; nothing can be started from it")
            self._pid = _fork(theirs)
            self._pidfd = os.pidfd_open(self._pid)
            undo.pop_all()
        self.serves = 0

    def usable(self) -> bool:
        """Is it there, and not yet at its limit?"""
        return self.serves < SERVES_MAX and not select.select([self._pidfd], [], [], 0)[0]

    def program(self) -> Held:
        """A program to be. The caller lets go of it. Raises OSError when the keeper is gone."""
        self.serves += 1
        line, their_line = _pair()
        report, their_report = _pair()
        with their_line, their_report:
            try:
                socket.send_fds(self._control, [b"p"], [their_line.fileno(), their_report.fileno()])
            except OSError:
                line.close()
                report.close()
                raise
        return Held(line, report)

    def retire(self) -> None:
        """It gets no more programs, exits when those it has are let go of, and is then reaped."""
        self._control.close()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._pidfd, self._reap, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        os.waitpid(self._pid, 0)


class Nursery:
    """The present keeper, and the one program to be that is kept ready while nothing else is at work."""

    def __init__(self) -> None:
        self._keeper: Keeper | None = None
        self._spare: Held | None = None

    def take(self) -> Held:
        """The spare, or a new one; the caller lets go of it. Raises OSError, StepFailed."""
        held, self._spare = self._spare, None
        if held is not None and held.waits():
            return held
        if held is not None:
            held.let_go()
        if self._keeper is None or not self._keeper.usable():
            self._renew()
        assert self._keeper is not None
        return self._keeper.program()

    def refill(self) -> None:
        """Makes a spare, of a new keeper if the present one has programs running: they are to become init's."""
        if self._spare is None and self._keeper is not None:
            self._renew()
        self._spare = self.take()

    def let_go(self) -> None:
        if self._spare is not None:
            self._spare.let_go()
            self._spare = None
        if self._keeper is not None:
            self._keeper.retire()
            self._keeper = None

    def _renew(self) -> None:
        if self._keeper is not None:
            self._keeper.retire()
            self._keeper = None
        self._keeper = Keeper()


def _pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _fork(control: socket.socket) -> int:
    ignored = [int(number) for number in signal.valid_signals() if signal.getsignal(number) == signal.SIG_IGN]
    # Blocked over the fork: a TERM for the executor must not run its handlers in a half-made child, and the wake-up
    # descriptor of its event loop is shared until the child has let go of it.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _live(control, ignored)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return pid


def _live(control: socket.socket, ignored: list[int]) -> NoReturn:
    """The keeper's whole life. Every signal but KILL stays blocked in it."""
    try:
        gc.disable()  # no finaliser of the executor's objects may run here
        signal.set_wakeup_fd(-1)
        close_all_but(control.fileno())
        null = os.open(os.devnull, os.O_RDWR)
        for fd in range(3):  # taken, so that no socket gets their numbers, and inherited by every program
            os.dup2(null, fd)
            os.set_inheritable(fd, True)  # one of them may be `null` itself, which dup2 leaves as it is
        setproctitle.setproctitle("healctl: keeper")  # its programs bear it too, until they become what they are to be
        _serve(control, ignored)
        os._exit(0)
    finally:
        os._exit(71)


class _Brood:
    """The programs of a keeper: by pidfd their pid and the socket on which their end is wanted (-1: no more)."""

    def __init__(self, poller: select.poll) -> None:
        self._poller = poller
        self._programs: dict[int, tuple[int, int]] = {}
        self.wanted: dict[int, int] = {}  # the other way round

    def add(self, pid: int, report: int) -> None:
        pidfd = os.pidfd_open(pid)
        self._programs[pidfd] = (pid, report)
        self.wanted[report] = pidfd
        self._poller.register(pidfd, select.POLLIN)
        self._poller.register(report, select.POLLIN)

    def stirs(self, fd: int) -> None:
        """A program has ended, or the other end of its report is closed: nobody listens."""
        if fd in self._programs:
            pid, report = self._programs.pop(fd)
            self._close(fd)
            status = os.waitpid(pid, 0)[1]
            if report != -1:
                _say(report, status.to_bytes(WAIT_STATUS_BYTES, "little"))
                del self.wanted[report]
                self._close(report)
        elif fd in self.wanted:
            pidfd = self.wanted.pop(fd)
            self._programs[pidfd] = (self._programs[pidfd][0], -1)
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._poller.unregister(fd)
        os.close(fd)


def _serve(control: socket.socket, ignored: list[int]) -> None:
    """Returns when no more programs can come and no report is wanted."""
    poller = select.poll()
    poller.register(
        control, select.POLLIN
    )  # first, so its events come first: no number is closed and reused in a round
    brood = _Brood(poller)
    more = True
    while more or brood.wanted:
        for fd, _ in poller.poll():
            if fd != control.fileno():
                brood.stirs(fd)
                continue
            raw, fds, _, _ = socket.recv_fds(control, 1, 2)
            if not raw:
                more = False
                poller.unregister(fd)
            elif pid := _bear(fds[0], fds[1], ignored):
                brood.add(pid, fds[1])


def _bear(line_fd: int, report: int, ignored: list[int]) -> int:
    """Forks a program to be; 0 when there is no process left for it, which is then said on its line."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, line_fd)
    line.set_inheritable(False)  # its end is what tells that the exec took place
    try:
        pid = os.fork()
    except OSError as error:
        _say(line_fd, f"error fork {error.errno}".encode())
        os.close(report)
        pid = 0
    else:
        if pid == 0:
            become(line, ignored)
    line.close()
    return pid


def _say(fd: int, text: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody listens any more
        os.write(fd, text)
