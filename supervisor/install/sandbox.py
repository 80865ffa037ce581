"""What a unit may take away from healctl without hiding a target, by its configuration; and where it finds programs.

A restart that is an argument list, PM2 and a declared command are started by healctl itself, in a scope of their own,
but with what it may see and do: what the unit took away from it would be taken from the service, too, for as long as
that lives. So such a configuration gets no sandbox, and the unit says which table is the reason. A service of systemd
is started by systemd.

Reads of this machine only where PATH leads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from supervisor import transports
from supervisor.config import Config, dirs
from supervisor.install.unit import quoted
from supervisor.targets import PM2, databases, logs

# What ProtectSystem=full makes read-only (systemd.exec(5)).
PROTECTED = ("/usr", "/boot", "/efi", "/etc")
# Where systemd lets a unit look for programs (systemd.exec(5), "Environment Variables in Spawned Processes").
UNIT_PATH = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
_GLOB = frozenset("*?[")
_NAMED_MAX = 2  # reasons in a comment

# Each with what it keeps; a user's manager can set these too, and no more than these.
_ANY = (
    "# None of its own programs (systemctl) needs to become another user by a set-user-ID file.",
    "NoNewPrivileges=yes",
    "RestrictRealtime=yes",
    "LockPersonality=yes",
    "SystemCallArchitectures=native",
)
_SYSTEM = (
    "# It makes no namespaces, loads no kernel modules and sets nothing of the kernel's; it reads /proc and /sys.",
    "RestrictNamespaces=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
)


def programs(config: Config) -> Iterator[tuple[str, str]]:
    """(the table that names it, its name or path) of every program that healctl starts by itself."""
    for name, process in config.process.items():
        if process.restart is not None and process.restart.argv:
            yield f"[process.{name}] restart", process.restart.argv[0]
        elif process.restart is not None and process.restart.pm2:
            yield f"[process.{name}] restart", PM2
    for name, gateway in config.gateway.items():
        yield f"[gateway.{name}] status", gateway.status[0]
        if gateway.restart:
            yield f"[gateway.{name}] restart", gateway.restart[0]
    for name, pipeline in config.pipeline.items():
        yield f"[pipeline.{name}] stage_done", pipeline.stage_done[0]
    for name, command in config.command.items():
        yield f"[command.{name}]", command.argv[0]
    for way in map(transports.parse, config.notify.signal.transports):
        if not way.kind.is_daemon:
            yield "[notify.signal] transports", way.path


def sandbox(config: Config, *, user: bool, mounts: Iterable[str]) -> tuple[str, ...]:
    """Lines of [Service], each directive after its reason. `mounts`: of what can be written."""
    started = list(dict.fromkeys(table for table, _ in programs(config)))
    if started:
        named = ", ".join(started[:_NAMED_MAX]) + (" and others" if len(started) > _NAMED_MAX else "")
        return (
            f"# No sandbox: healctl starts programs of yours ({named}),",
            "# and what it may not do, nor may they and what they start (ProtectSystem=, NoNewPrivileges= ...).",
        )
    if user:
        return ("# The sandbox that a user's systemd can make. It hides no file and no process.", *_ANY)
    return (*_ANY, *_SYSTEM, *_protected(config, mounts))


def _protected(config: Config, mounts: Iterable[str]) -> Iterator[str]:
    """Not ProtectSystem=strict: the watch for full disks passes over what is read-only, and all would look so."""
    yield "# The system's own files are read-only to it. Not strict: every disk would look read-only, and go unwatched."
    yield "ProtectSystem=full"
    writes = {part for path in map(os.path.realpath, _written(config)) for part in _inside(path)}
    watched = {part for point in mounts for part in _inside(point) if point != "/"} - writes
    if writes:
        yield "# But for what this configuration lets it write there: logs to rotate, databases, places to clean up."
        yield _writable(writes)
    if watched:
        yield "# But for these file systems, which it watches: they would look read-only."
        yield _writable(watched)


def _written(config: Config) -> Iterator[str]:
    """Folders in which healctl may write. A database's readers need the files beside it (WAL)."""
    for path in dirs(config):
        yield str(path)
    for database in databases(config).values():
        yield os.path.dirname(database.path)
    for section in logs(config).values():
        for pattern in section.paths:
            yield _fixed(pattern)
    yield from config.cleanup.tmp_dirs
    yield from config.cleanup.pycache_dirs


def _fixed(pattern: str) -> str:
    """The deepest folder of a pattern that is no pattern itself."""
    parts = PurePosixPath(pattern).parent.parts
    kept = [part for number, part in enumerate(parts) if not any(_GLOB & set(it) for it in parts[: number + 1])]
    return str(PurePosixPath(*kept)) if kept else "/"


def _inside(path: str) -> tuple[str, ...]:
    """What of it is PROTECTED; a pattern such as /*/log lies everywhere."""
    if path == "/":
        return PROTECTED
    return (path,) if any(path == top or path.startswith(f"{top}/") for top in PROTECTED) else ()


def _writable(paths: Iterable[str]) -> str:
    """They need not be there when the unit starts: hence the minus (systemd.exec(5))."""
    return "ReadWritePaths=" + " ".join(quoted(f"-{path}") for path in sorted(paths))


def search_path(config: Config, path: str) -> tuple[list[str], list[str]]:
    """(folders that PATH must have beside UNIT_PATH, "TABLE: PROGRAM" of what is found nowhere in `path`)."""
    folders: list[str] = []
    missing: list[str] = []
    for table, program in programs(config):
        if "/" in program or shutil.which(program, path=":".join((*UNIT_PATH, *folders))) is not None:
            continue
        found = shutil.which(program, path=path)
        if found is None:
            missing.append(f"{table}: {program}")
        elif os.path.isabs(found):
            folders.append(os.path.dirname(found))
    return folders, missing
