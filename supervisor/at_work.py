"""What a long program of ours tells of how far it is, and how it is stopped: at a boundary of its own choosing.

SIGTERM asks it to stop. It heeds that at its next `boundary`, where nothing is half done, and never after
`no_return`; whoever asks reads in `Progress.final` that it is too late. It must never be killed for not answering.
"""

from __future__ import annotations

import os
import select
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import msgspec

from supervisor.clock import monotonic_s
from supervisor.errors import HealError

TELL_S = 0.5
AGAIN_S = 0.05  # between two interrupts: one between two statements is not heard


class Progress(msgspec.Struct, frozen=True):
    """`done` of `total` `unit`s of the `stage` that the program with this pid is at. `final`: it stops no more."""

    pid: int
    stage: str
    done: int
    total: int
    unit: str = ""
    final: bool = False


class Stopped(HealError):
    """It was asked to stop, and has: nothing is half done."""

    code = "stopped"


_progress = msgspec.json.Decoder(Progress)


def read(path: Path) -> Progress | None:
    """What the program that works there has told last; None when it has told nothing (it may also have died)."""
    try:
        return _progress.decode(path.read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        return None


class Teller:
    """Writes `Progress` to a file, twice a second at most; not being able to say so is no reason to stop."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._told_s = 0.0

    def tell(self, stage: str, done: int, total: int, unit: str = "") -> None:
        now_s = monotonic_s()
        if self._path is None or (now_s - self._told_s < TELL_S and done < total):
            return
        self._told_s = now_s
        part = self._path.with_name(f"{self._path.name}.part")
        with suppress(OSError):
            part.write_bytes(msgspec.json.encode(Progress(os.getpid(), stage, done, total, unit, _Asked.never)))
            part.replace(self._path)

    def over(self) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)


class _Asked:
    stop = False
    never = False


def heed() -> None:
    """From here on SIGTERM asks; first thing in a program's main thread."""
    signal.signal(signal.SIGTERM, _ask)


def _ask(number: int, frame: FrameType | None) -> None:
    del number, frame
    _Asked.stop = True


def asked() -> bool:
    """Is it to stop, and may it still?"""
    return _Asked.stop and not _Asked.never


def boundary() -> None:
    """Nothing is half done here. Raises Stopped."""
    if asked():
        raise Stopped("it was stopped before it had changed anything")


def no_return() -> None:
    """The last boundary. Raises Stopped."""
    boundary()
    _Asked.never = True


@contextmanager
def interruptible(connection: sqlite3.Connection) -> Iterator[None]:
    """For a statement that takes long: SQLite is interrupted as soon as the signal comes, before Python can hear of it
    (set_wakeup_fd). Raises Stopped, whatever SQLite says then."""
    read_fd, write_fd = os.pipe()
    for fd in (read_fd, write_fd):
        os.set_blocking(fd, False)
    over = threading.Event()

    def mind() -> None:
        select.select([read_fd], [], [])
        while not over.wait(AGAIN_S):
            connection.interrupt()

    thread = threading.Thread(target=mind, name="interrupter", daemon=True)
    before = signal.set_wakeup_fd(write_fd)
    thread.start()
    try:
        boundary()  # it may have come just before
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        os.write(write_fd, b"\0")  # whether or not anybody has asked: it ends
        thread.join()
        os.close(read_fd)
        os.close(write_fd)
        boundary()
