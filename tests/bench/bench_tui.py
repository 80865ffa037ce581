"""The dashboard on a real terminal (a pty of 100x30): first paint, key to screen, memory, and answers in a stream.

Floors, in the same run: textual's own least app for the first paint and, with one line that a key changes, for the
keys; the same board with a screenful of incidents; `python -c pass` for the start of `--help`.
`python -m tests.bench.bench_tui` prints JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.cost import pss_kib

ROUNDS = 7
KEYS = 200
DOWN, END, HOME, PAGE = b"\x1b[B", b"\x1b[F", b"\x1b[H", b"\x1b[6~"
QUIET_S = 0.4
ABOUT = b"no process of"
MOVED_S = 2.0


class Terminal:
    def __init__(self, *words: str) -> None:
        self.began_s = time.perf_counter()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "LINES": "30", "COLUMNS": "100"}
            os.execv(sys.executable, [sys.executable, "-m", "tests.bench.tui_host", *words])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))

    def read(self, timeout_s: float) -> bytes:
        if not select.select([self.fd], [], [], timeout_s)[0]:
            return b""
        return os.read(self.fd, 1 << 16)

    def until(self, words: bytes, within_s: float = 60.0) -> float:
        """Seconds since the start until `words` were drawn."""
        seen = b""
        while words not in seen:
            if time.perf_counter() - self.began_s > within_s:
                raise TimeoutError(seen[-500:])
            seen += self.read(1.0)
        return time.perf_counter() - self.began_s

    def settle(self) -> None:
        while self.read(QUIET_S):
            pass

    def key_ms(self, key: bytes) -> float | None:
        """From the key until the line below the list, which is drawn last, tells of another incident; None where the
        cursor was there already (news may have moved its row)."""
        while self.read(0.0):
            pass
        began_s = time.perf_counter()
        os.write(self.fd, key)
        seen = b""
        while ABOUT not in seen:
            if time.perf_counter() - began_s > MOVED_S:
                return None
            seen += self.read(0.1)
        return (time.perf_counter() - began_s) * 1000


@contextlib.contextmanager
def terminal(*words: str) -> Iterator[Terminal]:
    made = Terminal(*words)
    try:
        yield made
    finally:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)
        os.close(made.fd)


def first_paint_ms(*words: str) -> float:
    found = []
    for _ in range(ROUNDS):
        with terminal(*words) as it:
            found.append(it.until(b"Incidents") * 1000)
    return round(statistics.median(found), 1)


def keys(*words: str) -> dict[str, float]:
    with terminal(*words) as it:
        it.until(ABOUT)
        if words[-1] not in ("0", "bare"):
            time.sleep(2.0)
        else:
            it.settle()
        times = [it.key_ms(key) for _ in range(KEYS // 4) for key in (DOWN, PAGE, END, HOME)]
        pss = pss_kib(it.pid)
    found = sorted(ms for ms in times if ms is not None)
    return {
        "keys": len(found),
        "median_ms": round(statistics.median(found), 2),
        "p95_ms": round(found[int(len(found) * 0.95)], 2),
        "pss_mib": round(pss / 1024, 1),
    }


def wall_ms(*argv: str) -> float:
    found = []
    for _ in range(ROUNDS):
        began_s = time.perf_counter()
        subprocess.run(argv, capture_output=True, check=True)
        found.append((time.perf_counter() - began_s) * 1000)
    return round(statistics.median(found), 1)


def main() -> None:
    healctl = str(Path(sys.executable).with_name("healctl"))
    result = {
        "first_paint_ms": {
            "board": round(first_paint_ms("10", "0"), 1),
            "textual_least": round(first_paint_ms("bare"), 1),
        },
        "keys": {
            "10000_incidents": keys("10000", "0"),
            "10000_incidents_1000_events_s": keys("10000", "1000"),
            "30_incidents": keys("30", "0"),
            "textual_least": keys("bare"),
        },
        "wall_ms": {
            "healctl_help": wall_ms(healctl, "--help"),
            "healctl_tui_help": wall_ms(healctl, "tui", "--help"),
            "python": wall_ms(sys.executable, "-c", "pass"),
        },
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
