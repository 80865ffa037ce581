"""One healctl for one runtime directory: a flock, taken before anything binds (binding a path in use steals it).

The lock is the kernel's and ends with its holder; what the file says (pid, start time, boot) is for `stop` and for
the message to whoever comes second. The file is never removed: two holders of two files of one name would be worse.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path
from types import TracebackType

from supervisor import clock, proc
from supervisor.errors import AlreadyRunning, ConfigError, Refused
from supervisor.incidents.readings import ProcessRef

NAME = "healctl.lock"
SAID_BYTES_MAX = 200
STOPPED = ("T", "t")  # proc(5)
DYING_S = 1.0  # a killed holder, or a child of it, may keep the lock until the kernel has ended it
LOOK_AGAIN_S = 0.005


class Lock:
    """Held until `release`, or the end of this process. Children must close `fd` first thing."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path

    def intact(self) -> bool:
        """Whether the file that we hold is still the one that others will find."""
        try:
            found = os.lstat(self.path)
        except OSError:
            return False
        mine = os.fstat(self.fd)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def take_again(self) -> None:
        """The file was removed: a new one, and the directory too. Raises AlreadyRunning, Refused, OSError."""
        fresh = acquire(self.path.parent)
        os.close(self.fd)
        self.fd = fresh.fd

    def release(self) -> None:
        if self.fd >= 0:
            os.ftruncate(self.fd, 0)
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Lock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def prepare(runtime_dir: Path) -> None:
    """Creates the runtime directory, mode 0700. Raises Refused if it is not ours alone."""
    try:
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(runtime_dir)
    except OSError as error:
        raise Refused(
            f"cannot use {runtime_dir} as runtime directory: {error.strerror}", "set runtime_dir in [healctl]"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise Refused(f"{runtime_dir} is not a directory", "set runtime_dir in [healctl]")
    if found.st_uid != os.geteuid():
        raise Refused(
            f"{runtime_dir} belongs to uid {found.st_uid}, not to us ({os.geteuid()})", "set runtime_dir in [healctl]"
        )
    if found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise Refused(f"{runtime_dir} is open to others (mode {mode:04o})", f"chmod 700 {runtime_dir}")


def acquire(runtime_dir: Path) -> Lock:
    """Raises AlreadyRunning, naming the holder's pid; Refused when the directory is not ours alone."""
    prepare(runtime_dir)
    return claim(runtime_dir)


def claim(directory: Path) -> Lock:
    """The lock alone, in a directory that exists (two daemons on one ledger would undo each other).

    Raises AlreadyRunning; Refused when what stands there is no lock file, or the disk does not take our name.
    """
    path = directory / NAME
    fd = _open(path)
    until_s = clock.monotonic_s() + DYING_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            other = holder(directory)
            if other is not None or clock.monotonic_s() >= until_s:
                os.close(fd)
                who = f"pid {other.pid}" if other is not None else "a process that has not said who it is"
                raise AlreadyRunning(
                    f"healctl is already running: {who} holds {path}", "healctl stop ends it; healctl status shows it"
                ) from None
            time.sleep(LOOK_AGAIN_S)
    me = proc.stat(os.getpid())
    assert me is not None
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{me.pid} {me.start_ticks} {me.ref.boot_id}\n".encode(), 0)
    except OSError as error:
        os.close(fd)
        hint = f"make room on the disk of {directory}, or set another directory in [healctl]"
        raise Refused(f"{path} cannot be written: {error.strerror}", hint) from error
    return Lock(fd, path)


def _open(path: Path) -> int:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise Refused(f"cannot use {path} as lock file: {error.strerror}", f"look at {path}, and remove it") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise Refused(f"{path} is not a regular file, so that it cannot be our lock", f"look at {path}, and remove it")
    return fd


def holder(runtime_dir: Path) -> ProcessRef | None:
    """Who runs healctl here; None when nobody does (a file left behind by one that was killed says nothing)."""
    try:
        fd = os.open(runtime_dir / NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        regular = stat.S_ISREG(os.fstat(fd).st_mode)
        words = os.read(fd, SAID_BYTES_MAX).decode("ascii", errors="replace").split() if regular else []
    finally:
        os.close(fd)
    if len(words) != 3 or not words[0].isdigit() or not words[1].isdigit():
        return None
    ref = ProcessRef(boot_id=words[2], pid=int(words[0]), start_ticks=int(words[1]))
    found = proc.same(ref)
    return ref if found is not None and found.live else None


def stopped(ref: ProcessRef) -> bool:
    """Whether it does nothing until somebody lets it go on: Ctrl-Z, SIGSTOP, a debugger."""
    found = proc.same(ref)
    return found is not None and found.state in STOPPED


def make_state_dir(path: Path) -> None:
    """Creates it 0700. Raises ConfigError when it cannot be made, is not ours, or others may write it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
    except OSError as error:
        hint = "set state_dir in [healctl] to a directory that you may write"
        raise ConfigError(f"{path} cannot be used as state_dir: {error.strerror}", hint) from error
    if found.st_uid != os.geteuid():
        raise ConfigError(f"{path} belongs to user {found.st_uid}", "set state_dir in [healctl] to one of your own")
    if found.st_mode & 0o022:
        raise ConfigError(f"{path} can be written by others (mode {found.st_mode & 0o7777:04o})", f"chmod 700 {path}")
