"""`healctl tui` on a real terminal, a pty: keys in, and what a person sees, by the few sequences that it draws with."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator

WAIT_S = 60.0
_TOKEN = re.compile(
    r"\x1b\[([?<>=]?)([0-9;:]*)([ $]?[@-~])|\x1b[P\]_^].*?(?:\x1b\\|\x07)|\x1b[()][A-Z0]|\x1b.|[^\x1b]", re.DOTALL
)


class Terminal:
    """`raw` is all that was ever written to it, `modes` the private modes (mouse, alternate screen) that are on."""

    def __init__(self, argv: list[str], *, columns: int = 80, rows: int = 24, **environment: str) -> None:
        self.columns, self.rows = columns, rows
        self.raw = b""
        self.modes: set[str] = set()
        self.status: int | None = None
        self._pending = ""
        self._cells: dict[tuple[int, int], str] = {}
        self._at = (0, 0)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execve(argv[0], argv, {**os.environ, "TERM": "xterm-256color", **environment})

    # -- a person's side --

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self._cells.clear()
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def lines(self) -> list[str]:
        return ["".join(self._cells.get((y, x), " ") for x in range(self.columns)).rstrip() for y in range(self.rows)]

    def text(self) -> str:
        return "\n".join(self.lines())

    def until(self, what: str | Callable[[], object], within_s: float = WAIT_S) -> None:
        """Reads on until these words stand on the screen, or this is true."""
        end_s = time.monotonic() + within_s
        while not (what in self.text() if isinstance(what, str) else what()):
            if time.monotonic() > end_s:
                raise AssertionError(f"not within {within_s} s: {what}\n{self.text()}")
            self.read(0.05)

    def read(self, timeout_s: float) -> bool:
        """What has come; False when nothing did."""
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return False
        try:
            found = os.read(self.fd, 1 << 16)
        except OSError:
            return False  # its last process has gone
        self.raw += found
        self._draw(found.decode(errors="replace"))
        return bool(found)

    def ended(self, within_s: float = WAIT_S) -> int:
        """Waits for its end, reading on; its exit code, or minus the signal."""
        end_s = time.monotonic() + within_s
        while self.status is None:
            if time.monotonic() > end_s:
                raise AssertionError(f"it has not ended within {within_s} s\n{self.text()}")
            self.read(0.02)
            self.gone()
        while self.read(0.0):
            pass
        return self.status

    def gone(self) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def close(self) -> None:
        if not self.gone():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        with contextlib.suppress(OSError):
            os.close(self.fd)

    # -- the terminal's side --

    def _draw(self, text: str) -> None:
        text = self._pending + text
        cut = text.rfind("\x1b", max(0, len(text) - 64))
        self._pending = text[cut:] if cut >= 0 else ""
        for token in _TOKEN.finditer(text[: len(text) - len(self._pending)]):
            self._obey(token)
        # What ends in a whole sequence need not wait for more.
        if self._pending and (token := _TOKEN.fullmatch(self._pending)) and token[3]:
            self._obey(token)
            self._pending = ""

    def _obey(self, token: re.Match[str]) -> None:
        y, x = self._at
        whole, private, figures, final = token[0], token[1], token[2], token[3]
        if final is None:
            if whole == "\n":
                self._at = (y + 1, 0)
            elif whole == "\r":
                self._at = (y, 0)
            elif whole[0] != "\x1b":
                self._cells[y, x] = whole
                self._at = (y, x + 1)
            return
        numbers = [int(it) if it.isdigit() else 0 for it in figures.split(";")]
        if final in "Hf" and not private:
            self._at = (max(1, numbers[0]) - 1, max(1, numbers[1] if len(numbers) > 1 else 1) - 1)
        elif final == "J":
            self._cells.clear()
        elif private == "?" and final in "hl":
            (self.modes.update if final == "h" else self.modes.difference_update)(figures.split(";"))


@contextlib.contextmanager
def terminal(argv: list[str], *, columns: int = 80, rows: int = 24, **environment: str) -> Iterator[Terminal]:
    made = Terminal(argv, columns=columns, rows=rows, **environment)
    try:
        yield made
    finally:
        made.close()
