"""The child side of the tree: what every worker does besides its work.

After the fork: close what is not ours, die with the parent, take the name, answer TERM and the root's Stop with an
orderly end (in the middle of `start` too), ignore INT and HUP (the root orders every stop), beat from the work loop,
tell the root what is in hand. An exception that nobody caught ends the worker with exit 1: its state is rebuilt from
the ledger, never patched up.

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
from types import FrameType
from typing import NoReturn, TextIO

import msgspec
import setproctitle

from supervisor import clock, crashpoint
from supervisor.config import Config, accepted
from supervisor.errors import ConfigError
from supervisor.messages import (
    Alarm,
    Beat,
    Down,
    Finished,
    Ready,
    Reload,
    Reloaded,
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
_inherited: list[TextIO | None] = []


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
        self._early: list[Down] | None = []  # what the root said during `start`; None: it is over

    @abstractmethod
    async def start(self) -> None:
        """Open what the work needs. Returning means READY: dependants may count on this worker."""

    @abstractmethod
    async def stop(self) -> None:
        """Finish what is in hand and close. The root kills what takes longer than `[tree] shutdown`."""

    def oldest_work_s(self) -> float:
        """Age in seconds of the oldest unfinished piece of work, 0 when idle."""
        return 0.0

    def on_beat(self) -> None:  # noqa: B027  # who wants it
        """Called in the work loop right after each beat was sent."""

    def on_tree_event(self, event: TreeEvent) -> None:
        """Root tells the healer, and only the healer, what happens to the tree; called after `start` only.

        A new healer is first told how every child is now, and which items are quarantined: the same may come twice.
        """
        del event

    def on_reload(self, config: Config) -> None:
        """Another configuration is in force, and is `boot.config` already; what it does not change goes on."""
        del config

    def on_reloaded(self, news: Reloaded) -> None:
        """Root tells the healer, and only the healer, what became of an order to reload; a new one the newest."""
        del news

    def working(self, item: str) -> None:
        """Before touching an item that could kill this process: twice in work at a death, and it is quarantined."""
        self._tell(Working(item))

    def finished(self, item: str) -> None:
        self._tell(Finished(item))

    def alarm(self, text: str) -> None:
        """Have the root page `text`: for what cannot be told any other way."""
        log.error("%s", text)
        self._tell(Alarm(text))

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
            elif self._early is not None:
                self._early.append(message)
            else:
                self._from_root(message)

    def _from_root(self, message: Down) -> None:
        match message:
            case Reload(path):
                self._reload(Path(path))
            case Reloaded():
                self.on_reloaded(message)
            case TreeEvent():
                self.on_tree_event(message)
            case Stop():  # never kept for later
                self._stopping.set()

    def _reload(self, path: Path) -> None:
        try:
            config = accepted(path)
        except ConfigError as error:
            # The root has accepted this very file: it is gone, and the next life is given the configuration.
            self.fail(RuntimeError(f"the accepted configuration cannot be read again: {error.message}"))
            return
        self.boot = msgspec.structs.replace(self.boot, config=config)
        logging.getLogger().setLevel(config.healctl.log_level.upper())
        self.on_reload(config)

    async def _beat(self) -> None:
        while True:
            self._tell(Beat(self.done, self.oldest_work_s()))
            # Not from within this task, whose failure nobody would see.
            asyncio.get_running_loop().call_soon(self.on_beat)
            # On a common grid: the root wakes once for the beats of all its children.
            interval_s = float(self.boot.config.tree.beat)
            await asyncio.sleep(interval_s - clock.monotonic_s() % interval_s)

    async def main(self) -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_loop_error)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._uplink.setblocking(False)
        loop.add_reader(self._uplink.fileno(), self._read_root)
        if not await self._started():
            return
        self._tell(Ready())
        gc.freeze()
        beating = loop.create_task(self._beat())
        early, self._early = self._early or [], None
        for message in early:
            self._from_root(message)
        await self._stopping.wait()
        if self._failure is not None:
            raise self._failure
        beating.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await beating
        await self.stop()

    async def _started(self) -> bool:
        """Runs `start`; False when the order to stop came first, which it is not to outlast."""
        starting = asyncio.ensure_future(self.start())
        stopping = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
        if self._failure is not None:
            raise self._failure
        if starting.cancelled():
            return False
        starting.result()
        return True

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


def setup_logging(level: str) -> None:
    """One line a record on stderr; the root captures, tags and limits it."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(levelname)s %(name)s: %(message)s",
        force=True,
    )


def settle_in(name: str, root_pid: int, keep: int, output: int, level: str) -> None:
    """What every child of the root does first. `keep` is its socket to the root, `output` the captured pipe.

    The root forks with its signals blocked: until here none of its handlers may run in a child.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        # Not SIG_IGN: a program that a worker starts would inherit that over its exec.
        signal.signal(number, _ignore)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    die_with_parent(root_pid)
    _own_streams(output)
    close_inherited({keep})
    os.setpgid(0, 0)
    faulthandler.enable(sys.stderr)  # SIGABRT, the first rung of the hang ladder, prints every thread's stack
    setproctitle.setproctitle(f"healctl: {name}")
    setup_logging(level)


def _ignore(number: int, frame: FrameType | None) -> None:
    del number, frame


def _own_streams(output: int) -> None:
    """Standard input is empty; standard output and error are the pipe, written line by line."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # Open for good. The inherited objects are kept: collected, they would close numbers that are used again.
    _inherited.extend((sys.stdin, sys.stdout, sys.stderr))
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115


def run(factory: Factory, boot: Boot, uplink: socket.socket, output: int) -> NoReturn:
    """The whole life of a child, called in it right after the fork. Exit: 0 stopped, 1 failed, 78 never restart."""
    code = 1
    try:
        settle_in(boot.name, boot.root_pid, uplink.fileno(), output, boot.config.healctl.log_level)
        crashpoint.i_am(boot.name)
        asyncio.run(_live(factory, boot, uplink))
        code = 0
    except ConfigError as error:
        log.error("%s", error)
        code = 78
    except BaseException:
        log.exception("%s failed", boot.name)
    finally:  # never back into the root's stack, whatever was raised
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


async def _live(factory: Factory, boot: Boot, uplink: socket.socket) -> None:
    await factory(boot, uplink).main()
