"""Where the root's lines go: standard error in the foreground, a rotated file when detached.

The root must never wait for a reader: what a slow terminal or pipe does not take is kept up to a limit, then counted
and reported. A full disk or a reader that is gone costs lines, never the tree.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from supervisor import clock
from supervisor.tree import lines
from supervisor.units import LogFormat

STDERR = 2
PENDING_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = select.PIPE_BUF  # a pipe that polls writable takes this much without blocking (pipe(7))
LOG_BYTES_MAX = 10 * 1024 * 1024


class Output:
    """Lines to a descriptor, or (`path`) to a file of at most `bytes_max` and one older one beside it."""

    def __init__(self, fd: int, path: Path | None = None, bytes_max: int = LOG_BYTES_MAX) -> None:
        self.fd = fd
        self._fitting = lines.fitting(fd, os.environ)
        self.form = LogFormat.AUTO
        self._path = path
        self._bytes_max = bytes_max
        self._size = os.fstat(fd).st_size if path is not None else 0
        self._pending = bytearray()
        self._lost = 0
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    @classmethod
    def to_file(cls, path: Path, bytes_max: int = LOG_BYTES_MAX) -> Output:
        return cls(_open_log(path), path, bytes_max)

    @property
    def for_people(self) -> bool:
        return self._chosen() is LogFormat.TEXT

    @property
    def blocked(self) -> bool:
        """More waits than the descriptor takes now: call `flush` when it is writable."""
        return bool(self._pending)

    def write(self, level: str, name: str, text: str) -> None:
        raw = self._line(level, name, text)
        if len(self._pending) + len(raw) > PENDING_BYTES_MAX:
            self._lost += 1
            return
        if self._lost:
            self._pending += self._line("warning", "root", f"{self._lost} lines lost: the output was not taken")
            self._lost = 0
        self._pending += raw
        self.flush()

    def _chosen(self) -> LogFormat:
        return self._fitting if self.form is LogFormat.AUTO else self.form

    def _line(self, level: str, name: str, text: str) -> bytes:
        return lines.line(self._chosen(), level, name, text, clock.wall_s()).encode(errors="backslashreplace")

    def flush(self) -> None:
        while self._pending and self._poll.poll(0):
            try:
                written = os.write(self.fd, self._pending[:CHUNK_BYTES])
            except (
                OSError
            ):  # the reader is gone, or the disk is full: counted, and said as soon as somebody can hear it
                self._lost += max(1, self._pending.count(b"\n"))
                self._pending.clear()
                return
            del self._pending[:written]
            self._size += written
        if self._path is not None and self._size >= self._bytes_max:
            self._rotate(self._path)

    def _rotate(self, path: Path) -> None:
        try:
            os.replace(path, path.with_name(path.name + ".1"))
            fresh = _open_log(path)
        except OSError as error:
            self._size = 0  # try again after another round
            self._pending += self._line("warning", "root", f"cannot rotate {path}: {error}")
            return
        os.dup2(fresh, self.fd, inheritable=False)
        os.close(fresh)
        self._size = 0


def _open_log(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
