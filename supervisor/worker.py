"""The child side of the tree: what every worker does besides its work.

After the fork: close what is not ours, die with the parent, take the name, answer TERM and the root's Stop with an
orderly end, ignore INT (the root orders every stop), beat from the work loop, tell the root what is in hand. An
exception that nobody caught ends the worker with exit 1: its state is rebuilt from the ledger, never patched up.

A worker must not: fork with threads that hold locks, write to the root's socket from another thread, or outlive the
root.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec
import setproctitle

from supervisor import crashpoint
from supervisor.config import Config
from supervisor.messages import (
    Beat,
    Down,
    Finished,
    Ready,
    Stop,
    TreeEvent,
    Up,
    Working,
    decode_down,
    encode,
)

log = logging.getLogger(__name__)

PACKET_BYTES_MAX = 64 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)


class Boot(msgspec.Struct, frozen=True):
    """What the root hands to a child by the fork itself.

    `incarnation` names this process for ever. `suspects`: items in work when an earlier process of this child died
    once: touch them alone. `quarantined`: those that were there twice: never touch them.
    """

    name: str
    incarnation: str
    config: Config
    state_dir: Path
    runtime_dir: Path
    root_pid: int
    suspects: frozenset[str] = frozenset()
    quarantined: frozenset[str] = frozenset()


class Worker(ABC):
    """One process's work. Subclasses open everything in `start`, let go of it in `stop`."""

    def __init__(self, boot: Boot, uplink: socket.socket) -> None:
        self.boot = boot
        self.done = 0  # finished pieces of work, for the root's hang detection
        self._uplink = uplink
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None

    @abstractmethod
    async def start(self) -> None:
        """Open what the work needs. Returning means READY: dependants may count on this worker."""

    @abstractmethod
    async def stop(self) -> None:
        """Finish what is in hand and close. The root kills what takes longer than `[tree] shutdown`."""

    def oldest_work_s(self) -> float:
        """Age in seconds of the oldest unfinished piece of work, 0 when idle."""
        return 0.0

    def on_tree_event(self, event: TreeEvent) -> None:
        """Root tells the healer, and only the healer, what happens to the tree."""
        del event

    def working(self, item: str) -> None:
        """Before touching an item that could kill this process: twice in work at a death, and it is quarantined."""
        self._tell(Working(item))

    def finished(self, item: str) -> None:
        self._tell(Finished(item))

    def fail(self, error: BaseException) -> None:
        """End this worker with exit 1, after logging; for errors that surface outside of `start`."""
        if self._failure is None:
            self._failure = error
            self._stopping.set()

    def _tell(self, message: Up) -> None:
        try:
            self._uplink.send(encode(message))
        except BlockingIOError:
            # The root reads whenever it runs; a full buffer means that it has not run for a while. A beat can be
            # lost without harm; a `Working` cannot, and waits.
            if not isinstance(message, Beat):
                self._uplink.setblocking(True)
                try:
                    self._uplink.send(encode(message))
                finally:
                    self._uplink.setblocking(False)

    def _read_root(self) -> None:
        while True:
            try:
                packet = self._uplink.recv(PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            if not packet:  # the root is gone; the kernel's death signal is on its way, this is the belt
                os._exit(1)
            message: Down = decode_down(packet)
            if isinstance(message, Stop):
                self._stopping.set()
            else:
                self.on_tree_event(message)

    async def _beat(self) -> None:
        interval_s = float(self.boot.config.tree.beat)
        while True:
            self._tell(Beat(self.done, self.oldest_work_s()))
            await asyncio.sleep(interval_s)

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._uplink.setblocking(False)
        loop.add_reader(self._uplink.fileno(), self._read_root)
        await self.start()
        self._tell(Ready())
        gc.freeze()
        beating = loop.create_task(self._beat())
        await self._stopping.wait()
        if self._failure is not None:
            raise self._failure
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        await self.stop()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.fail(error)
        else:
            log.error("event loop: %s", context.get("message"))


Factory = Callable[[Boot, socket.socket], Worker]


def die_with_parent(root_pid: int) -> None:
    """SIGKILL when the parent dies (prctl(2) PR_SET_PDEATHSIG); the parent may already have died before that call."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != root_pid:
        os._exit(1)


def close_inherited(keep: set[int]) -> None:
    """Close every descriptor from 3 on but `keep`: another child's pipe held open here would hide its death."""
    low = 3
    for fd in sorted(keep):
        if fd >= low:
            os.closerange(low, fd)
            low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def setup_logging(name: str, level: str) -> None:
    """One line a record on stderr; the root captures, tags and limits it."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(levelname)s %(name)s: %(message)s",
        force=True,
    )


def run(factory: Factory, boot: Boot, uplink: socket.socket) -> NoReturn:
    """The whole life of a child, called in it right after the fork. Exit: 0 stopped, 1 failed, 78 never restart."""
    from supervisor.errors import ConfigError

    die_with_parent(boot.root_pid)
    close_inherited({uplink.fileno()})
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    faulthandler.enable()  # SIGABRT, the first rung of the hang ladder, prints every thread's stack
    setproctitle.setproctitle(f"healctl: {boot.name}")
    setup_logging(boot.name, boot.config.healctl.log_level)
    crashpoint.i_am(boot.name)
    code = 0
    try:
        asyncio.run(_live(factory, boot, uplink))
    except ConfigError as error:
        log.error("%s", error)
        code = 78
    except Exception:
        log.exception("%s failed", boot.name)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


async def _live(factory: Factory, boot: Boot, uplink: socket.socket) -> None:
    await factory(boot, uplink).main()
