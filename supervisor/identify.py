"""Who is alive for a target's `pid_file` and `match`: the one rule that probes and remediators share.

It only reads: it never creates, removes or repairs a pid file, and it never signals. Nothing that stands in a pid file
is believed unless the process table agrees: numbers are recycled, files outlive their writers.

The rule: a pid file that names a live process of this target (`PidFile.OK`) is the answer. Otherwise every live
process whose command line `match`es is. healctl's own processes are never the answer: the command line of
`healctl heal execute --target NAME` matches NAME too.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import stat as stat_module
from collections.abc import Mapping, Set

import msgspec

from supervisor import proc
from supervisor.incidents.readings import PidFile, ProcessRef

PID_FILE_BYTES_MAX = 4096  # PostgreSQL's has eight short lines; anything larger is not a pid file
PID_MAX = 2**22  # proc(5): the highest value of /proc/sys/kernel/pid_max
PM2_TITLE = r"^PM2 v\d|\bpm2\b"  # the command line of a PM2 daemon
YOUNGER_S = 2.0  # a process that started this much later than its pid file was written did not write it


class Finding(msgspec.Struct, frozen=True):
    """What a pid file says. `process` is set for OK, and for a zombie (then `status` is STALE, R12)."""

    status: PidFile
    process: ProcessRef | None = None
    detail: str = ""


def read_pid_file(path: str, match: str = "") -> Finding:
    """Judges the pid file at `path`; never blocks (FIFOs, devices) and never raises for what stands in it."""
    try:
        text, written_wall_s = _first_line(path)
    except (FileNotFoundError, NotADirectoryError):
        return Finding(PidFile.MISSING, detail=f"{path} does not exist")
    except OSError as error:
        return Finding(PidFile.UNREADABLE, detail=f"{path}: {error.strerror}")
    except ValueError as error:
        return Finding(PidFile.MALFORMED, detail=f"{path}: {error}")
    if not (text.isascii() and text.isdigit()) or not 1 < int(text[:10]) <= PID_MAX:
        return Finding(PidFile.MALFORMED, detail=f"{path} holds {text[:40]!r}, expected the number of a process")
    return _judge(int(text), written_wall_s, path, match)


def live_processes(pid_file: str, match: str, exclude: Set[int] = frozenset()) -> list[ProcessRef]:
    """Every live process of the target, none of `exclude` and none of healctl's own.

    Raises PermissionError when the pid file exists but nobody can tell whom it names, and there is no `match` to ask
    the process table with: "cannot tell" must not look like "not running" (R9).
    """
    if pid_file:
        finding = read_pid_file(pid_file, match)
        if finding.status is PidFile.OK and finding.process is not None and finding.process.pid not in exclude:
            return [finding.process]
        if finding.status is PidFile.UNREADABLE and not match:
            raise PermissionError(errno.EACCES, finding.detail)
    return matching(match, exclude) if match else []


def matching(match: str, exclude: Set[int] = frozenset()) -> list[ProcessRef]:
    """Every live process, by pid, in whose command line the regular expression `match` is found; see `matches`."""
    found = []
    for pid in sorted(proc.pids()):
        if pid in exclude or pid == os.getpid():
            continue
        words = proc.command_line(pid)
        if words and not is_healctl(words) and matches(match, words):
            status = proc.stat(pid)
            if status is not None and status.live:
                found.append(status.ref)
    return found


def matches(match: str, words: tuple[str, ...]) -> bool:
    """Is `match` found in the command line, its arguments joined by one space? Raises re.error."""
    return _compiled(match).search(" ".join(words)) is not None


def is_healctl(words: tuple[str, ...]) -> bool:
    """One of our own: a titled process of the tree, or the command line, run by its script or by an interpreter."""
    titled = bool(words) and words[0].startswith("healctl:")
    return titled or any(os.path.basename(word) == "healctl" for word in words[:2])


def manager_environment(manager: str, env: Mapping[str, str]) -> dict[str, str]:
    """What a service manager's own program ("systemd" | "pm2") needs to find its daemon, with `env` (the target's
    restart_env) above it: the same for asking and for acting. Empty for any other `manager`, but for `env`."""
    ours: dict[str, str] = {}
    if manager == "systemd":
        ours = {"XDG_RUNTIME_DIR": f"/run/user/{os.geteuid()}"}  # where logind puts it (pam_systemd(8))
        names = ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")
        ours |= {name: os.environ[name] for name in names if name in os.environ}
    elif manager == "pm2" and "PM2_HOME" in os.environ:
        ours = {"PM2_HOME": os.environ["PM2_HOME"]}
    return {**ours, **env}


def pm2_home(env: Mapping[str, str]) -> str:
    """Where the PM2 of `manager_environment("pm2", ...)` keeps its pid file and its sockets."""
    return env.get("PM2_HOME") or os.path.join(env.get("HOME") or os.path.expanduser("~"), ".pm2")


@functools.lru_cache(maxsize=65_536)  # more than there are targets: else each pass would compile all of them anew
def _compiled(match: str) -> re.Pattern[str]:
    return re.compile(match)


def _first_line(path: str) -> tuple[str, float]:
    """The first line, stripped, and the time of writing in seconds since the epoch. ValueError: not a pid file."""
    if not stat_module.S_ISREG(os.stat(path).st_mode):  # before opening: opening a device can do things
        raise ValueError("not a regular file")
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat_module.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > PID_FILE_BYTES_MAX:
            raise ValueError(f"{status.st_size} bytes, a pid file has at most {PID_FILE_BYTES_MAX}")
        raw = os.read(fd, PID_FILE_BYTES_MAX)
    finally:
        os.close(fd)
    return raw.partition(b"\n")[0].strip().decode(errors="replace"), status.st_mtime


def _judge(pid: int, written_wall_s: float, path: str, match: str) -> Finding:
    """The process table's word on `pid`. The pidfd tells a process from a mere thread, and "hidden" from "gone"."""
    try:
        os.close(os.pidfd_open(pid))
    except ProcessLookupError:
        return Finding(PidFile.STALE, detail=f"{path} names process {pid}, which does not exist")
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOENT):
            raise
        return Finding(PidFile.RECYCLED, detail=f"{path} names {pid}, which is now a thread of another process")
    try:
        status = proc.stat(pid)
    except PermissionError:
        status = None
    if status is None:
        return _hidden_or_gone(pid, path)
    if not status.live:
        return Finding(PidFile.STALE, status.ref, f"{path} names process {pid}, which is a zombie")
    words = proc.command_line(pid)
    if match:
        # A matching command line outweighs the file's age: the wall clock may have been set since (no RTC, NTP).
        if words and matches(match, words) and not is_healctl(words):
            return Finding(PidFile.OK, status.ref)
        return Finding(PidFile.RECYCLED, detail=f"{path} names process {pid} ({status.name}), which does not match")
    late_s = proc.started_wall_s(status.ref) - written_wall_s
    if late_s > YOUNGER_S or (words and is_healctl(words)):
        why = f"started {late_s:.0f} s after the file was written" if late_s > YOUNGER_S else "is healctl's own"
        return Finding(PidFile.RECYCLED, detail=f"{path} names process {pid} ({status.name}), which {why}")
    return Finding(PidFile.OK, status.ref)


def _hidden_or_gone(pid: int, path: str) -> Finding:
    try:
        os.close(os.pidfd_open(pid))
    except OSError:
        return Finding(PidFile.STALE, detail=f"{path} names process {pid}, which has just ended")
    return Finding(PidFile.UNREADABLE, detail=f"{path} names process {pid}, which /proc hides from us (hidepid)")
