"""Logs for tests: text like a service's, archives read back by gzip itself, and a writer that never pauses."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

MIB = 1024**2
DAY_S = 86400.0


def text(count: int, seed: int = 1) -> bytes:
    """So many bytes of lines that compress about as a service's do."""
    source = random.Random(seed)
    words = [f"{source.choice('abcdefghij')}{source.getrandbits(40):x}" for _ in range(400)]
    at_s, made, lines = 0.0, 0, []
    while made < count:
        at_s += source.random() / 10
        line = (
            f"2026-11-25T10:{int(at_s / 60) % 60:02d}:{at_s % 60:06.3f}Z {source.choice(('INFO', 'DEBUG', 'WARN'))} "
            f"[{source.choice(words)}] id={source.getrandbits(48):012x} path=/api/v1/{source.choice(words)} "
            f"status={source.choice((200, 200, 404, 500))} took={source.random() * 100:.2f}ms\n"
        )
        lines.append(line)
        made += len(line)
    return "".join(lines).encode()[:count]


def write(path: Path | bytes, content: bytes, days_old: float = 0.0) -> None:
    """A log that was last written so many days ago."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    with open(fd, "wb") as file:
        file.write(content)
    at_s = time.time() - days_old * DAY_S
    os.utime(path, (at_s, at_s))


def archives(folder: Path) -> list[Path]:
    """The published ones, the oldest first."""
    inside = folder / ".archive"
    found = [path for path in inside.iterdir() if not path.name.startswith(".")] if inside.is_dir() else []
    return sorted(found, key=lambda path: (path.stat().st_ctime_ns, path.name))


def unpacked(path: Path) -> bytes:
    """By the gzip that everybody has, not by ours."""
    done = subprocess.run(["gzip", "-dc"], input=path.read_bytes(), capture_output=True, check=True, timeout=120)
    return done.stdout


def leftovers(folder: Path) -> list[str]:
    """What no finished rotation leaves in `.archive`."""
    inside = folder / ".archive"
    return [name for name in os.listdir(inside) if name.startswith(".")] if inside.is_dir() else []


def everything(folder: Path, log: Path) -> bytes:
    """What was ever written to the only log of this folder: its archives, and what it still holds."""
    kept = log.read_bytes() if log.exists() else b""
    head = len(kept) - len(kept.lstrip(b"\0"))
    return b"".join(gzip.decompress(path.read_bytes()) for path in archives(folder)) + kept[head:]


class Writer:
    """A program that writes numbered lines as fast as it can: "append" by O_APPEND, "offset" where its own offset is;
    "steady" by O_APPEND, too, but slowly after its first 12 MB."""

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        argv = [sys.executable, "-S", "-E", "-c", _WRITER, str(path), mode]
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"writing\n"

    def stop(self) -> int:
        """How many lines it has written."""
        self.process.terminate()
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0
        return int(out)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


@contextlib.contextmanager
def writing(path: Path, mode: str = "append") -> Iterator[Writer]:
    writer = Writer(path, mode)
    try:
        yield writer
    finally:
        writer.close()


def line(number: int) -> bytes:
    return b"%012d the quick brown fox jumps over the lazy dog again and again\n" % number


_WRITER = """
import os, signal, sys, time
going = [True]
signal.signal(signal.SIGTERM, lambda *_: going.clear())
flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if sys.argv[2] != "offset" else 0)
fd = os.open(sys.argv[1], flags, 0o640)
if sys.argv[2] == "offset":
    os.lseek(fd, 0, os.SEEK_END)
print("writing", flush=True)
number = 0
while going:
    data = b"%012d the quick brown fox jumps over the lazy dog again and again\\n" % number
    assert os.write(fd, data) == len(data)
    number += 1
    if sys.argv[2] == "steady" and number > 180_000:
        time.sleep(0.001)
print(number)
"""
