"""Whom `rb-force-gc` may end, and whom never (FR-003). Who may not be ended is found first, and doubt protects.

Never: process 1 and the kernel's threads; healctl's own, what they have started, and what they descend from; what is
declared as a service, a gateway, or a way to page, with what it has started and what it descends from; sshd, login
shells, terminal multiplexers and whatever leads a session on a terminal; the system's own daemons; what `[memory]
protect` names; what its owner has told the kernel never to kill; and another user's processes, unless we are root.
While a declared service may be up and nobody can tell who it is, nobody may be ended. It only reads.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping, Set
from urllib.parse import urlsplit

import msgspec

from remediators import service
from remediators.base import StepFailed
from remediators.processes import Memory, Process, ancestors, descendants, memory_of
from supervisor import identify, targets
from supervisor.config import Config, ProcessSection
from supervisor.incidents.model import Recipe
from supervisor.incidents.readings import PidFile

MEASURED_MAX = 40  # of the largest by RSS the share is measured; a share is never more than that
PASSED_OVER_MAX = 6
_SYSTEM = re.compile(
    r"systemd.*|\(sd-pam\)|init|sshd.*|login|a?getty|dbus-.*|tmux.*|screen|SCREEN|mosh-server|dropbear|supervisord|"
    r"runsv(dir)?|s6-.*|tini|dumb-init|catatonit|containerd.*|dockerd|crond?|atd|rsyslogd|syslog-ng|auditd|polkitd|"
    r"NetworkManager|wpa_supplicant|dhclient|dhcpcd|chronyd|ntpd|udevd|elogind.*|gdm.*|sddm|lightdm|Xorg|Xwayland"
)
_INTERPRETER = re.compile(r"(python|node|ruby|perl|bash|sh|dash|env|sudo|java|npx|bun|deno|systemctl)[\d.]*")


# Who listens for another, or starts it elsewhere: the kernel cuts names to 15 bytes.
_STAND_IN = re.compile(
    r"docker.*|podman|conmon|nerdctl|containerd.*|rootlessport|rootlesskit|slirp4netns|pasta.*|gvproxy|kubectl|kube-proxy|"
    r"socat|haproxy|nginx|envoy|traefik|caddy|stunnel4?|pgbouncer|pgpool|sshd?|sshd-.*|autossh|x?inetd|systemd.*|init"
)
HINT = "set pid_file or match, which name its own process, or critical = false"


class _Listeners(msgspec.Struct, frozen=True):
    """At an address: does anything listen there, who is seen to, and of whom it cannot be seen (they count, too)."""

    there: bool = False
    seen: frozenset[int] = frozenset()
    hidden: frozenset[int] = frozenset()


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
    """The processes of what is declared, by its table: by pid file and match, by its manager, by what listens at its
    address, by the program that starts it. Raises StepFailed when it may be up and nobody can tell who it is."""
    found: dict[str, set[int]] = {}
    recipes = {target.target_id: target.recipe for target in targets.targets(config) if target.family == "process"}
    for name, section in config.process.items():
        if section.critical:
            found[f"[process.{name}]"] = _service(of, name, section, recipes[name], ours)
    for name, gateway in config.gateway.items():
        program, status = _program(gateway.status), gateway.status
        named = {p.pid for p in of.values() if _runs(p.words, program) and p.words[-len(status) :] != status}
        listeners = _listening(of, gateway.health_url)
        _refuse_unknown(of, f"[gateway.{name}]", set(), named, listeners, "start it, or set its own health_url")
        found[f"[gateway.{name}]"] = named | listeners.seen | listeners.hidden
    for url in config.notify.signal.transports:
        listeners = _listening(of, url)
        found[f"[notify.signal] {url}"] = {*listeners.seen, *listeners.hidden}
    return found


def _service(
    of: Mapping[int, Process], name: str, section: ProcessSection, recipe: Recipe | None, ours: Set[int]
) -> set[int]:
    """Every process that may be this service. Raises StepFailed when it may be up and nobody can tell who it is."""
    try:
        told = {ref.pid for ref in identify.live_processes(section.pid_file, section.match, ours)}
    except PermissionError as error:
        raise StepFailed(f"cannot tell which process is {name}: {error.strerror}; nothing was ended", HINT) from error
    if section.match:  # the pid file names one of them; it may have others
        told |= {ref.pid for ref in identify.matching(section.match, ours)}
    kin: set[int] = set()
    beside: set[int] = set()
    if recipe is not None and recipe.manager:
        managed = {p.pid for p in of.values() if service.runs_under(recipe, p.ref)}
        # PM2 has other programs, too: that one of them lives tells nothing of this one.
        kin, beside = (managed, set()) if recipe.manager == "systemd" else (set(), managed)
    elif recipe is not None:
        kin = {p.pid for p in of.values() if p.words[-len(recipe.argv) :] == recipe.argv}
    listeners = _listening(of, section.endpoint)
    unclear = not section.match and identify.read_pid_file(section.pid_file).status is PidFile.MALFORMED
    if (section.match or section.pid_file) and not (told or unclear or listeners.there):
        return kin | beside  # it is down
    _refuse_unknown(of, f"[process.{name}]", told, kin, listeners, HINT)
    return told | kin | beside | listeners.seen | listeners.hidden


def _refuse_unknown(
    of: Mapping[int, Process], table: str, told: set[int], kin: set[int], listeners: _Listeners, hint: str
) -> None:
    """Raises StepFailed unless somebody is the service: by its owner's word (`told`), by what listens, or, while
    nothing does, by its kin. Who only passes on what it gets, or only asks for a container, is not the service."""
    known = {*listeners.seen} if listeners.there else kin
    if told or any(pid in of and not _STAND_IN.fullmatch(of[pid].stat.name) for pid in known):
        return
    named = ", ".join(f"{of[pid].stat.name} ({pid})" for pid in sorted(known) if pid in of)
    why = f"only {named} stands in for it" if named else "none is known to be it"
    if listeners.there and not named:
        why = "nobody is seen to hold the socket that listens at its address"
    raise StepFailed(f"cannot tell which process is {table}: {why}, and it may be any; nothing was ended", hint)


def _program(argv: tuple[str, ...]) -> str:
    """What a command runs: not its interpreter."""
    names = (os.path.basename(word) for word in argv if not word.startswith("-"))
    return next((name for name in names if not _INTERPRETER.fullmatch(name)), "")


def _runs(words: tuple[str, ...], program: str) -> bool:
    """Is it this program, by one of its first words, or by the title that it has given itself?"""
    return program != "" and any(os.path.basename(word).startswith(program) for word in words[:3])


def _listening(of: Mapping[int, Process], address: str) -> _Listeners:
    """Who holds the socket that listens at the address's port, on whichever address of this machine."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(address)} if address else set()
    if not sockets:
        return _Listeners()
    held = {pid: _holds(pid, sockets) for pid in of}
    seen = frozenset(pid for pid, it in held.items() if it)
    return _Listeners(_here(address), seen, frozenset(pid for pid, it in held.items() if it is None))


def _here(address: str) -> bool:
    """Is it an address of this machine's, in our own network namespace? A name is not looked up: that could hang."""
    host = urlsplit(address).hostname or ""
    if "unix:" in address or host == "localhost":
        return True
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as one:
            one.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


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


def _holds(pid: int, sockets: Set[str]) -> bool | None:
    """None: it hides its descriptors, so that nobody can tell."""
    folder = f"/proc/{pid}/fd"
    try:
        return any(os.readlink(f"{folder}/{fd}") in sockets for fd in os.listdir(folder))
    except OSError as error:
        return None if error.errno in (errno.EACCES, errno.EPERM) else False
