"""What runs on this host that healctl could watch: asked once, for `healctl init`, by looking only.

Services of systemd are those whose unit somebody has put here (under /etc, in a home), not what came with the
distribution; of PM2 all; of pid files those that name a live process which no manager stands behind.
What cannot be asked (no systemd, no PM2, a file of another user) is said, and is no error.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import msgspec

from probes import command, managers
from probes.disk import Disks
from supervisor import identify, proc
from supervisor.config import DiskSection
from supervisor.incidents.readings import PidFile
from supervisor.targets import PM2, SYSTEMCTL

ASK_S = 5.0
FOUND_MAX = 50  # of each kind: more is no configuration that anybody would read
PID_FILES = ("/run/*.pid", "/run/*/*.pid", "/tmp/*.pid", "{home}/*.pid", "{home}/.local/state/*/*.pid")
DATABASES = (
    "{home}/.openclaw/*.db",
    "{home}/.openclaw/workspace/*.db",
    "{home}/.openclaw/workspace/memory/*.db",
    "{home}/.local/share/*/*.db",
    "{home}/.local/share/*/*.sqlite*",
    "{home}/Projects/*/*.db",
    "/var/lib/*/*.db",
    "/srv/*/*.db",
)
SQLITE = b"SQLite format 3\x00"
FLEET = "{home}/.openclaw/workspace/fleet.json"
SIGNAL = re.compile(r"signal-cli.* daemon( |$)")
_HTTP = re.compile(r" --http(?:[= ](?!-)(\S+))?")
_SOCKET = re.compile(r" --socket(?:[= ](?!-)(\S+))?")
_TCP = re.compile(r" --tcp(?:[= ](?!-)(\S+))?")
_ACCOUNT = re.compile(r" (?:-a|-u|--account)[= ](\+\d{5,15})")
_UNITS_HERE = ("/etc/", "/home/", "/usr/local/")


class Service(msgspec.Struct, frozen=True):
    """One that could be a `[process.NAME]`: exactly one of systemd, pm2 and pid_file is set."""

    name: str
    systemd: str = ""
    user: bool = False
    pm2: str = ""
    pid_file: str = ""
    pid: int = 0
    command: str = ""


class SignalDaemon(msgspec.Struct, frozen=True):
    transports: tuple[str, ...]
    account: str


class Survey(msgspec.Struct, frozen=True):
    """`unasked`: what could not be asked, and why."""

    services: tuple[Service, ...] = ()
    signal: SignalDaemon | None = None
    openclaw: str = ""  # the program
    mounts: tuple[str, ...] = ()  # what [disk] watches without being told
    databases: tuple[str, ...] = ()
    fleet: str = ""
    unasked: tuple[str, ...] = ()


async def survey(env: Mapping[str, str]) -> Survey:
    """Looks at everything once; each manager has ASK_S. Raises nothing."""
    home = env.get("HOME", "/")
    unasked: list[str] = []
    services = [*await _units(False, unasked), *await _units(True, unasked), *await _apps(env, unasked)]
    managed = {service.pid for service in services if service.pid}
    services += _pid_files(home, managed)
    return Survey(
        services=tuple(_named(services)),
        signal=_signal(),
        openclaw=shutil.which("openclaw", path=env.get("PATH")) or "",
        mounts=Disks(DiskSection()).points,
        databases=tuple(_databases(home)),
        fleet=next(iter(glob.glob(FLEET.format(home=home))), ""),
        unasked=tuple(unasked),
    )


async def _ask(argv: list[str], unasked: list[str], what: str) -> str:
    try:
        answer = await command.run(argv, ASK_S)
    except command.CommandFailed as error:
        unasked.append(f"{what}: {error.message}")
        return ""
    if answer.code != 0:
        said = answer.stderr.decode(errors="replace").strip().partition("\n")[0]
        unasked.append(f"{what}: {said or f'exit {answer.code}'}")
        return ""
    return answer.stdout.decode(errors="replace")


async def _units(user: bool, unasked: list[str]) -> list[Service]:
    base = [SYSTEMCTL, *(["--user"] if user else [])]
    what = "systemd of this user" if user else "systemd"
    listed = await _ask(
        [
            *base,
            "list-units",
            "--type=service",
            "--state=active,failed,activating",
            "--plain",
            "--no-legend",
            "--no-pager",
        ],
        unasked,
        what,
    )
    names = [line.split()[0] for line in listed.splitlines() if line.split()][:500]
    names = [name for name in names if name.endswith(".service") and "@" not in name]
    if not names:
        return []
    shown = await _ask([*base, "show", "--no-pager", "-p", "Id,FragmentPath,MainPID,Type", "--", *names], unasked, what)
    found = []
    for block in shown.split("\n\n"):
        told = dict(line.partition("=")[::2] for line in block.splitlines())
        unit, path = told.get("Id", ""), told.get("FragmentPath", "")
        here = user or path.startswith(_UNITS_HERE)
        if unit and here and told.get("Type") != "oneshot" and not unit.startswith("healctl"):
            pid = int(told.get("MainPID") or 0)
            found.append(Service(unit.removesuffix(".service"), systemd=unit, user=user, pid=pid, command=_line(pid)))
    return found[:FOUND_MAX]


async def _apps(env: Mapping[str, str], unasked: list[str]) -> list[Service]:
    if shutil.which(PM2, path=env.get("PATH")) is None:
        return []
    try:
        apps = await managers.apps(env, ASK_S)
    except command.CommandFailed as error:
        unasked.append(f"PM2: {error.message}")
        return []
    return [Service(name, pm2=name, pid=pid, command=_line(pid)) for name, pid in apps.items()][:FOUND_MAX]


def _pid_files(home: str, managed: set[int]) -> list[Service]:
    """Of live processes of nobody else's: not a manager's service, not systemd's own, not healctl, not seen twice."""
    found: dict[int, Service] = {}
    for pattern in PID_FILES:
        for path in sorted(glob.glob(pattern.format(home=glob.escape(home)))):
            told = identify.read_pid_file(path)
            if told.status is not PidFile.OK or told.process is None:
                continue
            pid = told.process.pid
            line = proc.command_line(pid)
            if pid in managed or pid in found or identify.is_healctl(line) or _by_systemd(pid):
                continue
            found[pid] = Service(Path(path).stem, pid_file=path, pid=pid, command=_line(pid))
    return list(found.values())[:FOUND_MAX]


def _by_systemd(pid: int) -> bool:
    """Its control group is a system service's: systemd stands behind it."""
    try:
        return ".service" in Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return False  # it has just ended


def _signal() -> SignalDaemon | None:
    for pid in proc.pids():
        line = " ".join(proc.command_line(pid))
        if SIGNAL.search(line):
            return signal_daemon(line)
    return None


def signal_daemon(line: str) -> SignalDaemon:
    """What its command line says of it, with signal-cli's own defaults (its man page): a socket's depends on who has
    started it, and is left out."""
    ways = []
    if found := _HTTP.search(line):
        ways.append(f"http://{found[1] or 'localhost:8080'}")
    if (found := _SOCKET.search(line)) and found[1]:
        ways.append(f"unix:{found[1]}")
    if found := _TCP.search(line):
        ways.append(f"tcp://{found[1] or 'localhost:7583'}")
    account = _ACCOUNT.search(line)
    return SignalDaemon(tuple(ways), account[1] if account else "")


def _databases(home: str) -> list[str]:
    found: dict[tuple[int, int], str] = {}
    for pattern in DATABASES:
        for path in sorted(glob.glob(pattern.format(home=glob.escape(home)))):
            try:
                status = os.stat(path)
                with open(path, "rb") as file:
                    if file.read(len(SQLITE)) == SQLITE and os.path.isfile(path):
                        found.setdefault((status.st_dev, status.st_ino), path)
            except OSError:
                continue  # another user's: it could not be watched either
    return list(found.values())[:FOUND_MAX]


def _line(pid: int) -> str:
    return " ".join(proc.command_line(pid))[:200] if pid else ""


def _named(services: list[Service]) -> list[Service]:
    """Each under a name that a configuration takes, and no two under one."""
    taken: set[str] = set()
    named = []
    for service in services:
        base = re.sub(r"[^a-z0-9._-]+", "-", service.name.lower()).strip("-._")[:50] or "service"
        name, number = base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name)
        named.append(msgspec.structs.replace(service, name=name))
    return named
