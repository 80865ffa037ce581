"""Work that may hang in the kernel (a file on a dead NFS mount), done in a thread of its own beside the event loop.

The thread is a daemon: one that hangs for ever keeps nobody from ending. Nothing here bounds their number; whoever
calls `aside` must begin nothing new of a kind before the last of it has ended.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Found = TypeVar("Found")
CHUNK_BYTES = 1024 * 1024
Signature = tuple[int, int, int, int]  # what differs when a file was changed or replaced


def aside(work: Callable[[], Found], name: str) -> Future[Found]:
    """Begins `work` in a thread; its result or exception is the future's, an OSError where there are no more threads
    to be had: raised here it could leave its caller waiting for work that was never begun."""
    future: Future[Found] = Future()
    future.set_running_or_notify_cancel()  # from here on nobody can cancel it under the hands of the thread

    def run() -> None:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - not swallowed: it is raised where the future is asked
            future.set_exception(error)
        else:
            future.set_result(found)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        future.set_exception(OSError(errno.EAGAIN, f"{error}"))
    return future


def signature(path: str) -> Signature:
    """Raises OSError."""
    return _signature(os.stat(path))


def read_file(path: str, bytes_max: int) -> tuple[Signature, bytes]:
    """A whole regular file, and its signature when it was read. Raises OSError, ValueError for what is no regular file
    or too large; never waits for a writer (a FIFO in its place)."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:  # not by open(fd): it leaves the descriptor of a directory open
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError(f"{path} is no regular file")
        if found.st_size > bytes_max:
            raise ValueError(f"{path} has {found.st_size} bytes, at most {bytes_max} are read")
        parts, left = [], bytes_max + 1
        while left > 0 and (part := os.read(fd, min(left, CHUNK_BYTES))):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(fd)
    if left <= 0:
        raise ValueError(f"{path} grows beyond {bytes_max} bytes")
    return _signature(found), b"".join(parts)


def _signature(found: os.stat_result) -> Signature:
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
