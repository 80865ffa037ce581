"""File changes as the kernel tells them (R8, inotify(7)): one descriptor in the event loop for all files of a worker.

Directories are watched, not files: most writers put a new file in the old one's place. It never reads a file, and
polls remain the backstop: for network mounts, whose other side tells nothing, and for a kernel that is out of watches.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
from collections.abc import Callable, Iterable

log = logging.getLogger(__name__)

# linux/inotify.h
_MODIFY, _ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_ONLYDIR, _IGNORED = 0x0100_0000, 0x8000
_CHANGES = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_HEADER = struct.Struct("iIII")  # wd, mask, cookie, length of the name
_BUFFER_BYTES = 64 * 1024
SETTLE_S = 0.02  # a writer's several calls are one change
PAUSE_S = 0.25  # between two looks at what the kernel has: a busy directory must not keep us busy

_libc = ctypes.CDLL(None, use_errno=True)


class FileWatch:
    """Calls `on_change(path)` in the loop, soon after a held path changed, appeared or went; also once too often."""

    def __init__(self, on_change: Callable[[str], None]) -> None:
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._at: dict[str, tuple[tuple[int, str], ...]] = {}  # path -> (watch, file name) in each directory
        self._complained = False
        self._timer: asyncio.TimerHandle | None = None
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            log.warning("files are polled only: %s", os.strerror(ctypes.get_errno()))
        else:
            self._loop.add_reader(self._fd, self._heard)

    def hold(self, path: str) -> None:
        """Watches the directory of `path`, and of the file behind it if it is a link; again when held already, since
        another directory may stand there now. Blocks as long as the file system does: call it in a thread. A
        directory that cannot be watched is left to the polls."""
        fd = self._fd
        if fd < 0 or "\0" in path:
            return
        places = {os.path.split(path), os.path.split(os.path.realpath(path))}
        at = []
        for directory, name in places:
            watch = _libc.inotify_add_watch(fd, os.fsencode(directory or "."), _CHANGES | _ONLYDIR)
            if watch >= 0:
                at.append((watch, name))
            elif not self._complained and ctypes.get_errno() not in (2, 13, 20):  # missing, forbidden, no directory
                self._complained = True
                log.warning("%s is polled only: %s", path, os.strerror(ctypes.get_errno()))
        before, self._at[path] = self._at.get(path, ()), tuple(at)
        for watch in {watch for watch, _ in before} - self._watches():
            _libc.inotify_rm_watch(fd, watch)  # another directory stands there now

    def keep(self, paths: Iterable[str]) -> None:
        """Lets go of all others."""
        wanted = set(paths)
        before = self._watches()
        for path in self._at.keys() - wanted:
            del self._at[path]
        for watch in before - self._watches():
            _libc.inotify_rm_watch(self._fd, watch)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _watches(self) -> set[int]:
        return {watch for at in list(self._at.values()) for watch, _ in at}

    def _heard(self) -> None:
        self._loop.remove_reader(self._fd)
        self._timer = self._loop.call_later(SETTLE_S, self._tell)

    def _tell(self) -> None:
        self._timer = self._loop.call_later(PAUSE_S, self._listen)
        changed = self._changed()
        for path in changed:
            self._on_change(path)

    def _listen(self) -> None:
        self._timer = None
        self._loop.add_reader(self._fd, self._heard)

    def _changed(self) -> list[str]:
        """Which of the held paths the kernel's events speak of."""
        seen: set[tuple[int, str]] = set()
        try:
            buffer = os.read(self._fd, _BUFFER_BYTES)
        except BlockingIOError:
            return []
        at = 0
        while at < len(buffer):
            watch, mask, _, length = _HEADER.unpack_from(buffer, at)
            at += _HEADER.size
            name = os.fsdecode(buffer[at : at + length].rstrip(b"\0"))
            at += length
            if not mask & _IGNORED:
                seen.add((watch, name))
        known = self._watches()
        # An overflow of the queue (watch -1), or a watch just begun in a thread: it may concern any of them.
        everything = any(watch not in known for watch, _ in seen)
        return [path for path, places in list(self._at.items()) if everything or not seen.isdisjoint(places)]
