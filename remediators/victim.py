"""Whom `rb-force-gc` may end, and whom never (FR-003). Who may not be ended is found first, and doubt protects.

Never: process 1 and the kernel's threads; healctl's own, what they have started, and what they descend from; what is
declared as a service, a gateway, or a way to page, with what it has started and what it descends from; sshd, login
shells, terminal multiplexers and whatever leads a session on a terminal; the system's own daemons; what `[memory]
protect` names; what its owner has told the kernel never to kill; and another user's processes, unless we are root. It
only reads.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Mapping, Set
from urllib.parse import urlsplit

import msgspec

from remediators.base import StepFailed
from remediators.processes import Memory, Process, ancestors, descendants, memory_of
from supervisor import identify
from supervisor.config import Config

MEASURED_MAX = 40  # of the largest by RSS the share is measured; a share is never more than that
PASSED_OVER_MAX = 6
_SYSTEM = re.compile(
    r"systemd.*|\(sd-pam\)|init|sshd.*|login|a?getty|dbus-.*|tmux.*|screen|SCREEN|mosh-server|dropbear|supervisord|"
    r"runsv(dir)?|s6-.*|tini|dumb-init|catatonit|containerd.*|dockerd|crond?|atd|rsyslogd|syslog-ng|auditd|polkitd|"
    r"NetworkManager|wpa_supplicant|dhclient|dhcpcd|chronyd|ntpd|udevd|elogind.*|gdm.*|sddm|lightdm|Xorg|Xwayland"
)
_INTERPRETER = re.compile(r"(python|node|ruby|perl|bash|sh|dash|env|sudo|java|npx|bun|deno|systemctl)[\d.]*")


class Victim(msgspec.Struct, frozen=True):
    process: Process
    memory: Memory


class Choice(msgspec.Struct, frozen=True):
    """`victim` None: nothing that may be ended holds enough. `passed_over`: what holds more, and why it stays."""

    victim: Victim | None
    passed_over: tuple[tuple[Process, str], ...]


def choose(
    of: Mapping[int, Process], protected: Mapping[int, str], inside: Set[int] | None, least_bytes: float
) -> Choice:
    """The unprotected process that holds most, of at least `least_bytes`. `inside`: only one of these would help."""
    free = [p for p in of.values() if p.pid not in protected and (inside is None or p.pid in inside)]
    free.sort(key=lambda p: (-p.stat.rss_bytes, p.pid))
    measured = [Victim(p, memory_of(p)) for p in free[:MEASURED_MAX] if p.stat.rss_bytes >= least_bytes]
    largest = max(measured, key=lambda v: (v.memory.share_bytes, -v.process.pid), default=None)
    if largest is not None and largest.memory.share_bytes < least_bytes:
        largest = None
    floor = largest.memory.share_bytes if largest is not None else least_bytes
    larger = [p for p in of.values() if p.stat.rss_bytes > floor and p.pid in protected]
    larger += [p for p in of.values() if p.stat.rss_bytes > floor and p.pid not in protected and p not in free]
    larger.sort(key=lambda p: -p.stat.rss_bytes)
    outside = "it is not in the control group whose limit is reached"
    return Choice(largest, tuple((p, protected.get(p.pid, outside)) for p in larger[:PASSED_OVER_MAX]))


def protections(of: Mapping[int, Process], config: Config, ours: Set[int], uid: int) -> dict[int, str]:
    """Why each process that may not be ended may not. Raises StepFailed when nobody can tell who a service is."""
    why: dict[int, str] = {}

    def protect(pids: Iterable[int], reason: str) -> None:
        for pid in pids:
            why.setdefault(pid, reason)

    own = set(ours) | {p.pid for p in of.values() if identify.is_healctl(p.words)}
    protect([1], "it is process 1")
    protect((p.pid for p in of.values() if p.stat.kernel), "it is a thread of the kernel")
    # Where healctl is process 1 itself every orphan descends from it; its workers are known by their titles.
    protect(descendants(of, own - {1}), "it is healctl's own")
    protect(ancestors(of, own), "healctl descends from it")
    for name, pids in declared(of, config, ours).items():
        protect(descendants(of, pids), f"it belongs to {name}")
        protect(ancestors(of, pids), f"{name} descends from it")
    for process in of.values():
        if reason := _by_itself(process, of, config, uid):
            protect([process.pid], reason)
    return why


def _by_itself(process: Process, of: Mapping[int, Process], config: Config, uid: int) -> str:
    """The reason that a process carries itself; empty for none."""
    stat, words = process.stat, process.words
    parent = of.get(stat.parent_pid)
    if _SYSTEM.fullmatch(stat.name) or re.search(identify.PM2_TITLE, " ".join(words[:2])):
        return f"{stat.name} is a part of the system"
    if stat.session == stat.pid and stat.terminal:
        return "it leads a session on a terminal"
    if words and words[0].startswith("-"):
        return "it is a login shell"
    if parent is not None and parent.stat.name.startswith("sshd"):
        return "it is a session of ssh"
    if pattern := next((pattern for pattern in config.memory.protect if identify.matches(pattern, words)), ""):
        return f"[memory] protect names it ({pattern})"
    if uid not in (0, process.uid):
        return "it belongs to another user"
    return "its owner has told the kernel never to kill it" if process.never_oom else ""


def declared(of: Mapping[int, Process], config: Config, ours: Set[int]) -> dict[str, set[int]]:
    """The processes of what is declared, by its table: by pid file and match, by what listens at its address, by the
    program that starts it. Raises StepFailed when a pid file cannot be read: any process could be that service."""
    found: dict[str, set[int]] = {}
    addresses: dict[str, str] = {}
    for name, section in config.process.items():
        if not section.critical:
            continue
        table = f"[process.{name}]"
        try:
            live = identify.live_processes(section.pid_file, section.match, ours)
        except PermissionError as error:
            raise StepFailed(f"cannot tell which process is {name}: {error.strerror}; nothing was ended") from error
        found[table] = {ref.pid for ref in live}
        if section.restart is not None and section.restart.argv:
            argv = section.restart.argv
            found[table] |= {p.pid for p in of.values() if p.words[-len(argv) :] == argv}
        addresses[table] = section.endpoint
    for name, gateway in config.gateway.items():
        table, addresses[table] = f"[gateway.{name}]", gateway.health_url
        found[table] = {p.pid for p in of.values() if _runs(p.words, _program(gateway.status))}
    for url in config.notify.signal.transports:
        addresses[f"[notify.signal] {url}"] = url
    for table, address in addresses.items():
        if address:
            found[table] = found.get(table, set()) | _listening(of, address)
    return found


def _program(argv: tuple[str, ...]) -> str:
    """What a command runs: not its interpreter."""
    names = (os.path.basename(word) for word in argv if not word.startswith("-"))
    return next((name for name in names if not _INTERPRETER.fullmatch(name)), "")


def _runs(words: tuple[str, ...], program: str) -> bool:
    """Is it this program, by one of its first words, or by the title that it has given itself?"""
    return program != "" and any(os.path.basename(word).startswith(program) for word in words[:3])


def _listening(of: Mapping[int, Process], address: str) -> set[int]:
    """Who holds the socket that listens there; the address's host does not matter, for we look at this one."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(address)}
    return {pid for pid in of if _holds(pid, sockets)} if sockets else set()


def _inodes(address: str) -> set[str]:
    _, unix, path = address.partition("unix:")
    try:
        if unix:
            with open("/proc/net/unix") as file:
                return {line[6] for line in map(str.split, file) if len(line) > 7 and line[7] == path}
        parts = urlsplit(address)
        port = f":{parts.port or 80:04X}"
        found: set[str] = set()
        for family in ("tcp", "tcp6"):
            if os.path.exists(f"/proc/net/{family}"):
                with open(f"/proc/net/{family}") as file:
                    lines = [line.split() for line in file]
                found |= {line[9] for line in lines[1:] if line[3] == "0A" and line[1].endswith(port)}
        return found
    except (OSError, ValueError) as error:
        raise StepFailed(f"cannot tell who listens at {address}: {error}; nothing was ended") from error


def _holds(pid: int, sockets: Set[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{fd}") in sockets for fd in os.listdir(folder))
    except OSError as error:
        # Of a process that hides its descriptors nobody can tell: it is counted among those who listen.
        return error.errno in (errno.EACCES, errno.EPERM)
