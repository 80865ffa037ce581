"""Forking a child and holding on to it: its pidfd, its socket pair, its captured output.

A fork copies one thread only, so nothing may be forked while another thread exists, nor beside a ZeroMQ context
(which does not survive one): `assert_forkable` looks each time.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec
import multiprocess

from supervisor.messages import Down, Up, decode_up, encode
from supervisor.tree.capture import Capture, Sink
from supervisor.worker import PACKET_BYTES_MAX

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # those the root handles
QUEUE_MAX = 1000  # messages to one child that it has not taken yet
LAST_WORDS_CHARS = 4000

ChildMain = Callable[[socket.socket, int], NoReturn]

_fork = multiprocess.get_context("fork")


def assert_forkable() -> None:
    """Raises RuntimeError: a programming error that would show as a child hanging at random."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        raise RuntimeError(f"the root has {threads} threads: a fork would copy locks that nobody ever releases")
    zmq = sys.modules.get("zmq")
    # After gc.freeze these are only the objects made since, so that the look costs microseconds.
    if zmq is not None and any(isinstance(found, zmq.Context) for found in gc.get_objects()):
        raise RuntimeError("the root holds a ZeroMQ context, which does not survive a fork")


class Child:
    """One process that was forked. Its death is seen on `pidfd`; `reap` then ends this object."""

    def __init__(self, name: str, incarnation: str, main: ChildMain, sink: Sink, now_s: float) -> None:
        assert_forkable()
        self.name = name
        self.incarnation = incarnation
        self.malformed = 0
        self.dropped = 0
        self.uplink_ended = False
        self._queue: deque[bytes] = deque()
        self.uplink, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(reading, False)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = _fork.Process(target=main, args=(theirs, writing), name=f"healctl: {name}", daemon=True)
            self._process.start()
        except OSError:
            self.uplink.close()
            os.close(reading)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
            os.close(writing)
        self.pid: int = self._process.pid
        self.pidfd = os.pidfd_open(self.pid)  # our own child, not waited for: the number is still its
        self.capture = Capture(name, reading, sink, now_s)
        with contextlib.suppress(PermissionError, ProcessLookupError):  # the child does it too; whoever is first
            os.setpgid(self.pid, self.pid)

    # -- talking --

    def tell(self, message: Down) -> None:
        """Queued until `flush`; beyond `QUEUE_MAX` the oldest is dropped and counted."""
        if len(self._queue) >= QUEUE_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(encode(message))

    def flush(self) -> bool:
        """True when nothing waits any more."""
        while self._queue:
            try:
                self.uplink.send(self._queue[0])
            except BlockingIOError:
                return False
            except (BrokenPipeError, ConnectionResetError):  # it is dying; the pidfd says the rest
                self._queue.clear()
                return True
            self._queue.popleft()
        return True

    def heard(self) -> Iterator[Up]:
        """Every message that is there now. What is malformed is counted in `malformed`."""
        while True:
            try:
                packet = self.uplink.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except ConnectionResetError:
                packet = b""
            if not packet:
                self.uplink_ended = True
                return
            try:
                message = decode_up(packet)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self.malformed += 1
                continue
            yield message

    # -- ending --

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill_group(self) -> None:
        """The process is ours and not reaped, so its number, and that of its group, cannot be anybody else's."""
        try:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.killpg(self.pid, signal.SIGKILL)
        except (ChildProcessError, ProcessLookupError):
            self.signal(signal.SIGKILL)

    def reap(self, now_s: float) -> tuple[int, str]:
        """Exit code (negative: signal) and last words of a dead child; closes everything."""
        self.kill_group()  # whatever it left behind in its own group has lost its master
        self.capture.finish(now_s)
        self._process.join(0)
        code = self._process.exitcode
        self.close()
        return (code if code is not None else -signal.SIGKILL), self.capture.last_words[-LAST_WORDS_CHARS:]

    def close(self) -> None:
        self.uplink.close()
        os.close(self.pidfd)
        if self._process.exitcode is not None:
            self._process.close()
