"""Processes by identity: /proc, pidfds, and signals that cannot hit a recycled pid (DESIGN §2.4, pidfd_open(2)).

Shared by the probes (who lives), the remediators (whom to end) and the tree (who are our own). It starts nothing.
"""

from __future__ import annotations

import os
import signal
import time

import msgspec

from supervisor import clock
from supervisor.incidents.readings import ProcessRef

_boot_id = ""
READ_BYTES = 4096
CLK_TCK = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PF_KTHREAD = 0x00200000  # linux/sched.h


def this_boot() -> str:
    """The boot id, read once (it cannot change under us)."""
    global _boot_id
    if not _boot_id:
        _boot_id = clock.boot_id()
    return _boot_id


class Stat(msgspec.Struct, frozen=True):
    """The fields of /proc/PID/stat that we use. `state` is one letter: R S D T Z X ...; `terminal` is 0 without one."""

    pid: int
    name: str
    state: str
    parent_pid: int
    group: int
    session: int
    start_ticks: int
    terminal: int = 0
    kernel: bool = False  # a thread of the kernel
    rss_bytes: int = 0
    threads: int = 1

    @property
    def live(self) -> bool:
        """Neither a zombie nor dead: it can still do work (R12). A main thread that has left while others work on
        reads Z, too, with more than one thread: that process is alive."""
        return self.state not in "ZXx" or self.threads > 1

    @property
    def is_zombie(self) -> bool:
        """It has ended whole, and its parent has not reaped it."""
        return self.state == "Z" and not self.live

    @property
    def ref(self) -> ProcessRef:
        return ProcessRef(this_boot(), self.pid, self.start_ticks)


def _read(path: str) -> bytes:
    """A whole file of /proc. A detection reads half a dozen, and `Path.read_bytes` would cost three times as much."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = b""
        while more := os.read(fd, READ_BYTES):
            raw += more
        return raw
    finally:
        os.close(fd)


def stat(pid: int) -> Stat | None:
    """What the process table says of `pid`; None when there is no such process."""
    try:
        raw = _read(f"/proc/{pid}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses and may itself hold spaces and parentheses: split after the last one.
    head, _, tail = raw.rpartition(b")")
    fields = tail.split()
    return Stat(
        pid=pid,
        name=head.partition(b"(")[2].decode(errors="replace"),
        state=fields[0].decode(),
        parent_pid=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        start_ticks=int(fields[19]),
        terminal=int(fields[4]),
        kernel=bool(int(fields[6]) & PF_KTHREAD),
        rss_bytes=int(fields[21]) * PAGE_BYTES,
        threads=int(fields[17]),
    )


def command_line(pid: int) -> tuple[str, ...]:
    """The arguments of `pid`; empty for a zombie, a kernel thread, or a process that is gone or not ours to read."""
    try:
        raw = _read(f"/proc/{pid}/cmdline")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ()
    return tuple(part.decode(errors="replace") for part in raw.rstrip(b"\0").split(b"\0")) if raw else ()


def pids() -> list[int]:
    """Every process that this user can see, in no particular order."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def started_wall_s(ref: ProcessRef) -> float:
    """When the process started, in seconds since the epoch; start times count suspended time (CLOCK_BOOTTIME)."""
    since_boot_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    return clock.wall_s() - since_boot_s + ref.start_ticks / CLK_TCK


def same(ref: ProcessRef) -> Stat | None:
    """The stat of exactly this process, a zombie included; None when it is gone or its number has been given away."""
    if ref.boot_id != this_boot():
        return None
    found = stat(ref.pid)
    return found if found is not None and found.start_ticks == ref.start_ticks else None


def open_pidfd(ref: ProcessRef) -> int | None:
    """A pidfd of exactly this process, None when it is gone. The caller closes it.

    The order matters: the descriptor is taken first and the start time compared afterwards; a pid that was recycled
    in between shows another start time, and the descriptor of the stranger is closed unused.
    """
    if ref.boot_id != this_boot():
        return None
    try:
        fd = os.pidfd_open(ref.pid)
    except ProcessLookupError:
        return None
    if same(ref) is None:
        os.close(fd)
        return None
    return fd


def send_signal(ref: ProcessRef, number: int) -> bool:
    """Signals exactly this process; False when it is gone. Raises PermissionError."""
    fd = open_pidfd(ref)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True
