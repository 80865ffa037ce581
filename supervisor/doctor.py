"""`healctl doctor`: what on this host would bite sooner or later, and how to mend it. It looks, and changes nothing.

Each check is a function of the host and the configuration that yields findings; the list at the end is all of them. A
check that cannot look says so as a finding: silence means well.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import resource
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

import msgspec

from supervisor import config as conf
from supervisor import identify, plugins, transports
from supervisor.config import Config
from supervisor.errors import HealError
from supervisor.places import Dirs
from supervisor.tree.lock import holder
from supervisor.units import OFF, parse_listen

SOCKET_PATH_BYTES_MAX = 107  # unix(7), less the byte that ends it
LONGEST_SOCKET = "control.sock"
FREE_BYTES_MIN = 512 * 1024 * 1024
WATCHES_MIN = 8192
FILES_MIN = 1024
CONNECT_S = 2.0
REMOTE_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph", "glusterfs"})
TIME_ERROR = 5  # ntp_adjtime(3): the clock is not synchronised


class Level(StrEnum):
    WELL = "well"
    WARN = "warn"  # something will be worse than it could be
    BAD = "bad"  # something will not work


class Finding(msgspec.Struct, frozen=True):
    """`mend`: what to do about it; empty when it is well."""

    check: str
    level: Level
    says: str
    mend: str = ""


class Host(msgspec.Struct, frozen=True):
    """What is looked at; `file` is the configuration's. `proc`, `var` and `run` stand elsewhere in tests only."""

    config: Config
    env: dict[str, str]
    euid: int
    user: str
    proc: Path = Path("/proc")
    var: Path = Path("/var")
    run: Path = Path("/run")
    file: Path | None = None

    @property
    def dirs(self) -> Dirs:
        return conf.dirs(self.config)


def this_host(config: Config, file: Path | None) -> Host:
    """As who asks sees it."""
    euid = os.geteuid()
    try:
        user = pwd.getpwuid(euid).pw_name
    except KeyError:  # a container's user without an entry
        user = str(euid)
    return Host(config, dict(os.environ), euid, user, file=file)


def directories(host: Host) -> Iterator[Finding]:
    for name, path in zip(("state_dir", "runtime_dir"), host.dirs, strict=True):
        there = next((p for p in (path, *path.parents) if p.exists()), Path("/"))
        if not os.access(there, os.W_OK | os.X_OK):
            yield Finding(name, Level.BAD, f"{there} cannot be written by {host.user}", f"chown {host.user} {there}")
            continue
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            yield Finding(name, Level.WARN, f"{path} is open to other users", f"chmod 700 {path}")
        kind = _file_system(host, there)
        if kind in REMOTE_FILE_SYSTEMS:
            where = f"[healctl] {name} on a local disk"
            yield Finding(name, Level.BAD, f"{path} is on {kind}: SQLite and sockets do not work there", where)
        free = shutil.disk_usage(there).free
        if name == "state_dir" and free < FREE_BYTES_MIN:
            says = f"{there} has {free // 2**20} MiB left; the ledger may need {FREE_BYTES_MIN // 2**20}"
            yield Finding(name, Level.WARN, says, f"make room there, or [healctl] {name} elsewhere")
    longest = len(os.fsencode(host.dirs.runtime_dir / LONGEST_SOCKET))
    if longest > SOCKET_PATH_BYTES_MAX:
        says = f"the sockets' paths would have {longest} bytes, {SOCKET_PATH_BYTES_MAX} are possible (unix(7))"
        yield Finding("runtime_dir", Level.BAD, says, "[healctl] runtime_dir with a shorter path")


def _file_system(host: Host, path: Path) -> str:
    """Its type, by the longest mount point above it."""
    best, kind = "", ""
    for line in (host.proc / "self/mounts").read_text(errors="replace").splitlines():
        fields = line.split()
        mount = fields[1].replace("\\040", " ")
        if len(mount) > len(best) and (path == Path(mount) or Path(mount) in path.parents):
            best, kind = mount, fields[2]
    return kind


def sockets(host: Host) -> Iterator[Finding]:
    """Sockets of a daemon that is gone: the next start takes them away; whoever else connects waits for ever."""
    runtime = host.dirs.runtime_dir
    if not runtime.is_dir() or not os.access(runtime, os.R_OK | os.X_OK) or holder(runtime) is not None:
        return
    stale = sorted(path.name for path in runtime.iterdir() if path.is_socket())
    if stale:
        says = f"no healctl runs, but {runtime} holds {', '.join(stale[:5])}: it was killed"
        yield Finding("sockets", Level.WARN, says, "healctl start takes them away")


def lingering(host: Host) -> Iterator[Finding]:
    """A user's systemd ends with their last login, and everything under it (loginctl(1))."""
    systemd = (host.run / "systemd/system").exists()
    if host.euid == 0 or not systemd or (host.var / "lib/systemd/linger" / host.user).exists():
        return
    says = f"what {host.user} starts under systemd ends with the last logout"
    yield Finding("linger", Level.WARN, says, f"loginctl enable-linger {host.user}")


def kernel(host: Host) -> Iterator[Finding]:
    if not hasattr(os, "pidfd_open") or not _pidfd_works():
        says = "this kernel has no pidfd (Linux 5.3): deaths could not be seen at once, nor signals be fenced"
        yield Finding("kernel", Level.BAD, says, "a kernel of 5.3 or later")
    pressure = host.proc / "pressure/memory"
    if not os.access(pressure, os.R_OK | os.W_OK):
        says = "memory pressure cannot be watched (PSI): [memory] is polled alone"
        yield Finding("kernel", Level.WARN, says, "boot with psi=1; as another user than root it needs Linux 6.5")
    for name, least in (("max_user_watches", WATCHES_MIN), ("max_user_instances", 128)):
        path = host.proc / "sys/fs/inotify" / name
        try:
            found = int(path.read_text())
        except (OSError, ValueError) as error:
            yield Finding("kernel", Level.WARN, f"{path} cannot be read: {error}", "changes of files may go unseen")
            continue
        if found < least:
            says = f"fs.inotify.{name} is {found}: changes of many files will be seen late"
            yield Finding("kernel", Level.WARN, says, f"sysctl fs.inotify.{name}={least}")
    mounts = (host.proc / "self/mounts").read_text(errors="replace").splitlines()
    if host.euid != 0 and any("hidepid" in line for line in mounts if " /proc " in line):
        says = "/proc hides other users' processes (hidepid): their services look dead"
        yield Finding("kernel", Level.BAD, says, "run healctl as their user or as root, or mount /proc without it")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files < FILES_MIN:
        yield Finding("kernel", Level.WARN, f"at most {files} open files", f"ulimit -n {FILES_MIN}")


def _pidfd_works() -> bool:
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError:
        return False
    return True


def clock(host: Host) -> Iterator[Finding]:
    """An unsynchronised clock makes wrong times in pages and records; what healctl decides does not depend on it."""
    libc = ctypes.CDLL(None, use_errno=True)
    state = libc.adjtimex(ctypes.create_string_buffer(512))  # struct timex, all zero: it only asks
    if state == TIME_ERROR:
        says = "this machine's clock is not synchronised: times in pages and records may be wrong"
        yield Finding("clock", Level.WARN, says, "timedatectl set-ntp true, or install chrony")


def sqlite(host: Host) -> Iterator[Finding]:
    from supervisor.store.sqlite import VERSION, has_wal_reset_bug

    if has_wal_reset_bug():
        says = f"SQLite {VERSION} can lose a commit when two programs checkpoint a database at once (WAL reset bug)"
        yield Finding("sqlite", Level.WARN, says, "SQLite 3.51.3, 3.50.7 or 3.44.6; healctl avoids it on its own files")
    if not sqlite3.threadsafety:
        yield Finding("sqlite", Level.BAD, "this SQLite may not be used by threads", "another build of Python")


def ports(host: Host) -> Iterator[Finding]:
    listen = host.config.metrics.listen
    where = parse_listen(listen) if listen != OFF else None
    if where is not None and holder(host.dirs.runtime_dir) is None:
        address, port = where
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            socket.create_server((address, port), family=family).close()
        except OSError as error:
            says = f"[metrics] listen {listen}: {error.strerror}"
            yield Finding("ports", Level.BAD, says, "another port there, or end who has it")
    for text in host.config.notify.signal.transports:
        way = transports.parse(text)
        if way.kind.is_daemon and (why := _refused(way)):
            stale = way.path and Path(way.path).is_socket() and "refused" in why.lower()
            mend = (
                f"its socket is stale: rm {way.path}, then start signal-cli" if stale else "start signal-cli's daemon"
            )
            yield Finding("signal", Level.BAD, f"{text}: {why}", mend)
        elif not way.kind.is_daemon and shutil.which(way.path, path=host.env.get("PATH")) is None:
            yield Finding("signal", Level.BAD, f"{text} is not found in PATH", "its absolute path in transports")
    if not host.config.notify.signal.transports:
        says = "nobody can be paged: [notify.signal] has no transports"
        yield Finding("signal", Level.WARN, says, "transports, account and recipient in [notify.signal]")


def _refused(way: transports.Transport) -> str:
    unix = bool(way.path)
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ":" in way.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(way.path if unix else (way.host, way.port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def targets(host: Host) -> Iterator[Finding]:
    """Services that could be seen, but not be ended or started, by this user; and what nobody can look at."""
    for name, section in host.config.process.items():
        for ref in identify.live_processes(section.pid_file, section.match)[:1]:
            owner = (host.proc / str(ref.pid)).stat().st_uid
            if host.euid not in (0, owner):
                says = f"{name} (pid {ref.pid}) belongs to user {owner}: {host.user} can neither end nor restart it"
                yield Finding("permissions", Level.WARN, says, "run healctl as that user or as root")
        program = section.restart.argv[0] if section.restart and section.restart.argv else ""
        if program and shutil.which(program) is None:
            yield Finding(
                "permissions", Level.BAD, f"[process.{name}] restart: {program} cannot be run", "its path, +x"
            )
    paths = [(f"database.{name}", it.path) for name, it in host.config.database.items()]
    for name, path in paths:
        expanded = os.path.expanduser(path)
        if os.path.exists(expanded) and not os.access(expanded, os.R_OK):
            yield Finding(
                "permissions", Level.BAD, f"[{name}] {path} cannot be read", f"setfacl -m u:{host.user}:r {path}"
            )


def private_tmp(host: Host) -> Iterator[Finding]:
    """A unit with PrivateTmp= sees a temp directory of its own: pid files of others are not in it."""
    mounts = (host.proc / "self/mountinfo").read_text(errors="replace")
    if "/systemd-private-" not in mounts:
        return
    named = [f"[process.{name}]" for name, it in host.config.process.items() if _in_tmp(it.pid_file, it.stop_file)]
    if named:
        says = f"{', '.join(named)}: files in a temp directory that this unit does not see (PrivateTmp)"
        yield Finding("private_tmp", Level.BAD, says, "PrivateTmp=no in healctl's unit, or the files elsewhere")


def unit(host: Host) -> Iterator[Finding]:
    """What `healctl install` has written was computed from a configuration, which may be another by now."""
    from probes.mounts import MountTable, parse
    from supervisor.install.files import Found, judged, text
    from supervisor.install.sandbox import sandbox
    from supervisor.install.scope import scope
    from supervisor.install.unit import CONFIGURATION, SERVICE, told

    user = host.euid != 0
    path = scope(host.env, user=user).units / SERVICE
    if host.file is None or judged(path) is not Found.OURS:
        return  # none, or somebody's own, which is theirs to judge
    written = text(path)
    if told(written, CONFIGURATION) != str(host.file.absolute()):
        return
    table = MountTable(parse((host.proc / "self/mountinfo").read_text(errors="replace")))
    mounts = [mount.point for mount in table.by_point.values() if mount.worth_watching]
    if "\n".join(sandbox(host.config, user=user, mounts=mounts)) not in written:
        says = f"{path} was made for another state of the configuration: its sandbox does not fit any more"
        yield Finding("unit", Level.WARN, says, "healctl install")


def _in_tmp(*paths: str) -> bool:
    return any(path.startswith(("/tmp/", "/var/tmp/")) for path in paths)


def pieces(host: Host) -> Iterator[Finding]:
    """What runs of plugins, and what is installed and does not."""
    for piece in host.config.piece.values():
        yield Finding("plugins", Level.WELL, f"{piece.words}: imported, it keeps to api {plugins.API}")
    named = {piece.distribution for piece in host.config.piece.values()}
    for name in plugins.installed():
        if name not in named:
            yield Finding("plugins", Level.WELL, f"{name} is installed and not named: nothing of it runs")


CHECKS: dict[str, Callable[[Host], Iterator[Finding]]] = {
    "directories": directories,
    "sockets": sockets,
    "linger": lingering,
    "kernel": kernel,
    "clock": clock,
    "sqlite": sqlite,
    "ports": ports,
    "permissions": targets,
    "private_tmp": private_tmp,
    "unit": unit,
    "plugins": pieces,
}


def examine(host: Host) -> list[Finding]:
    """Every check's findings, or that it is well; one that fails is a finding, too."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        try:
            mine = list(check(host))
        except (OSError, HealError) as error:
            mine = [Finding(name, Level.WARN, f"cannot look: {error}", "run doctor as the user who runs healctl")]
        found += mine or [Finding(name, Level.WELL, "well")]
    return found
