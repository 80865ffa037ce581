"""A child's stdout and stderr: always drained, split into lines, limited in rate, the last ones kept.

What exceeds the limit is dropped from the log, counted and reported; the child never waits for us, and its last words
are there all the same.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable

LINES_PER_S = 100.0
LINES_BURST = 500.0
LINE_BYTES_MAX = 4096
READ_BYTES = 64 * 1024
LAST_LINES = 12
LAST_LINE_CHARS = 300
REPORT_AFTER_S = 1.0
FINAL_BYTES_MAX = 4 * 1024 * 1024
LEVELS = {"DEBUG": "debug", "INFO": "info", "WARNING": "warning", "ERROR": "error", "CRITICAL": "error"}

Sink = Callable[[str, str, str], None]  # level, name, text


class Capture:
    """`fd` is the pipe's reading end, non-blocking; it belongs to this object."""

    def __init__(self, name: str, fd: int, sink: Sink, now_s: float) -> None:
        self.name = name
        self.fd = fd
        self._sink = sink
        self.ended = False
        self._rest = b""
        self._skipping = False
        self._tokens = LINES_BURST
        self._filled_s = now_s
        self._dropped = 0
        self.report_due_s: float | None = None
        self._last: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def last_words(self) -> str:
        return "\n".join(self._last)

    def read(self, now_s: float) -> bool:
        """One read's worth. False when there is nothing to read now; `ended` when there never will be."""
        try:
            chunk = os.read(self.fd, READ_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            self.ended = True
            return False
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if not self._skipping:
                self._line(line, now_s)
            self._skipping = False
        if len(self._rest) > LINE_BYTES_MAX:  # a line without end: its beginning is enough
            if not self._skipping:
                self._line(self._rest, now_s)
            self._rest, self._skipping = b"", True
        return True

    def finish(self, now_s: float) -> None:
        """The child is dead: what it had written still counts. A grandchild that writes on is not waited for."""
        total = 0
        while total < FINAL_BYTES_MAX and self.read(now_s):
            total += READ_BYTES
        if self._rest:
            self._line(self._rest, now_s)
            self._rest = b""
        self.report(now_s)
        os.close(self.fd)
        self.fd = -1

    def report(self, now_s: float) -> None:
        """Says how many lines the limit has cost since the last report."""
        self.report_due_s = None
        if self._dropped:
            self._sink("warning", self.name, f"{self._dropped} lines dropped: more than {LINES_PER_S:g} a second")
            self._dropped = 0

    def _line(self, raw: bytes, now_s: float) -> None:
        text = raw[:LINE_BYTES_MAX].decode(errors="backslashreplace").rstrip("\r")
        self._last.append(text[:LAST_LINE_CHARS])
        self._tokens = min(LINES_BURST, self._tokens + (now_s - self._filled_s) * LINES_PER_S)
        self._filled_s = now_s
        if self._tokens < 1:
            self._dropped += 1
            if self.report_due_s is None:
                self.report_due_s = now_s + REPORT_AFTER_S
            return
        self._tokens -= 1
        word, _, rest = text.partition(" ")
        level = LEVELS.get(word)
        if level is None:
            self._sink("out", self.name, text)
        else:
            self._sink(level, self.name, rest)
