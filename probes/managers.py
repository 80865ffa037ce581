"""What a target's own service manager says of it: systemd, of the system or a user, and PM2 (R8).

It only asks. `systemctl show` changes nothing. `pm2` is another matter: with no daemon of its own running, whatever it
is asked, it starts one, and with its socket gone a second one. So it is asked only while its pid file names a live PM2
that answers a connect. What `pm2 jlist` tells includes the whole environment of every service: only the fields named
here are taken out of it, the rest is never decoded.

"Cannot be asked" is an answer of its own (`Manager.UNKNOWN`), never "stopped" and never "failed".
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping

import msgspec

from probes import command
from supervisor import identify, proc
from supervisor.config import RestartSection
from supervisor.incidents.readings import Manager, PidFile
from supervisor.targets import PM2, SYSTEMCTL

PROPERTIES = "LoadState,ActiveState,SubState,Result,MainPID,NRestarts,ExecMainStatus"
JLIST_BYTES_MAX = 16 * 1024 * 1024  # every service with its environment
WORDS_CHARS_MAX = 200

# ActiveState -> what that is for us (systemd's unit states; org.freedesktop.systemd1(5)).
_UNIT_STATES = {
    "active": Manager.RUNNING,
    "reloading": Manager.RUNNING,
    "refreshing": Manager.RUNNING,
    "activating": Manager.RESTARTING,  # auto-restart, or its start is under way
    "deactivating": Manager.RESTARTING,  # an ordered stop, or what follows a failure: it is at it
    "maintenance": Manager.RESTARTING,
    "failed": Manager.FAILED,
}
# Of PM2's own list of states (its constants.js).
_APP_STATES = {
    "online": Manager.RUNNING,
    "one-launch-status": Manager.RUNNING,
    "launching": Manager.RESTARTING,
    "waiting restart": Manager.RESTARTING,
    "stopping": Manager.RESTARTING,
    "stopped": Manager.STOPPED,
    "errored": Manager.FAILED,
}
# Of several instances of one app the first of these that any is in; all stopped is stopped.
_FIRST = (Manager.RESTARTING, Manager.RUNNING, Manager.UNKNOWN, Manager.FAILED, Manager.STOPPED)
# The PM2 whose `_tree_pids` tell an ordered stop from an end; of any other, "stopped" is believed as it stands.
_TELLS_ORDERS = re.compile(r"^PM2 v7\.")


class Told(msgspec.Struct, frozen=True):
    """`words`: the same for people."""

    manager: Manager
    words: str


class _AppEnv(msgspec.Struct):
    status: str = ""
    autorestart: bool | str | None = None
    tree_pids: list[int] | None = msgspec.field(name="_tree_pids", default=None)  # whom its last ordered stop has ended


class _App(msgspec.Struct):
    name: str
    pm2_env: _AppEnv
    pid: int | None = None


_jlist = msgspec.json.Decoder(list[_App])


async def ask(restart: RestartSection, env: Mapping[str, str], last_pid: int, timeout_s: float) -> Told:
    """One question, answered within `timeout_s`; never raises for what a manager does.

    `env` is the target's `restart_env`; `last_pid` the number that the service last had, 0 when it was never seen.
    """
    try:
        if restart.systemd:
            return await _systemd(restart.systemd, restart.user, env, timeout_s)
        return await _pm2(restart.pm2, env, last_pid, timeout_s)
    except command.CommandFailed as error:
        return Told(Manager.UNKNOWN, error.message[:WORDS_CHARS_MAX])


# --- systemd ---------------------------------------------------------------------------------------------------------


async def _systemd(unit: str, user: bool, env: Mapping[str, str], timeout_s: float) -> Told:
    argv = [SYSTEMCTL, *(["--user"] if user else []), "show", "--no-pager", "-p", PROPERTIES, "--", unit]
    answer = await command.run(argv, timeout_s, env=identify.manager_environment("systemd", env))
    if answer.code != 0:
        why = answer.stderr.decode(errors="replace").strip().partition("\n")[0] or f"exit {answer.code}"
        return Told(Manager.UNKNOWN, f"systemd cannot be asked: {why}"[:WORDS_CHARS_MAX])
    lines = (line.partition("=") for line in answer.stdout.decode(errors="replace").splitlines())
    return judge_unit(unit, {key: value for key, _, value in lines})


def judge_unit(unit: str, told: Mapping[str, str]) -> Told:
    """The properties of `systemctl show` as an answer.

    What systemd counts as success (an ordered stop, an exit with 0, a SIGTERM) is STOPPED: from outside these look the
    same, and a service that was told to stop must not be started. Nor must one that is masked.
    """
    load, active, result = told.get("LoadState", ""), told.get("ActiveState", ""), told.get("Result", "")
    if load == "masked":
        return Told(Manager.STOPPED, f"systemd: {unit} is masked")
    if load in ("not-found", "bad-setting", "error"):
        return Told(Manager.FAILED, f"systemd knows no usable unit {unit} ({load})")
    why = f", {result}" if result not in ("", "success") else ""
    words = f"systemd: {unit} is {active} ({told.get('SubState', '')}{why})"
    if active == "inactive":
        return Told(Manager.FAILED if why else Manager.STOPPED, words)
    return Told(_UNIT_STATES.get(active, Manager.UNKNOWN), words)


# --- PM2 -------------------------------------------------------------------------------------------------------------


async def _pm2(name: str, env: Mapping[str, str], last_pid: int, timeout_s: float) -> Told:
    title, stdout = await _list(env, timeout_s)
    return judge_apps(name, stdout, last_pid, tells_orders=_TELLS_ORDERS.match(title) is not None)


async def apps(env: Mapping[str, str], timeout_s: float) -> dict[str, int]:
    """The apps that PM2 has, each with the process id of an instance, 0 for none. Raises command.CommandFailed."""
    _, stdout = await _list(env, timeout_s)
    try:
        return {app.name: app.pid or 0 for app in _apps(stdout)}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise command.CommandFailed(command.Kind.ERROR, "it answered with what is not its list") from None


async def _list(env: Mapping[str, str], timeout_s: float) -> tuple[str, bytes]:
    """PM2's title, and what `pm2 jlist` printed. Raises command.CommandFailed: it cannot be asked."""
    env = identify.manager_environment("pm2", env)
    title, problem = _daemon(identify.pm2_home(env))
    if problem:
        raise command.CommandFailed(command.Kind.ERROR, problem)
    answer = await command.run([PM2, "jlist"], timeout_s, env=env, stdout_bytes_max=JLIST_BYTES_MAX)
    if answer.code != 0:
        raise command.CommandFailed(command.Kind.ERROR, f"PM2 cannot be asked: exit {answer.code}")
    return title, answer.stdout


def _apps(stdout: bytes) -> list[_App]:
    line = next((line for line in reversed(stdout.splitlines()) if line.startswith(b"[")), b"")
    return _jlist.decode(line)


def _daemon(home: str) -> tuple[str, str]:
    """The title of the living PM2 of this home, and why it cannot be asked if it cannot."""
    found = identify.read_pid_file(os.path.join(home, "pm2.pid"), identify.PM2_TITLE)
    if found.status is not PidFile.OK or found.process is None:
        return "", f"PM2 is not running: {found.detail}"
    path = os.path.join(home, "rpc.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect(path)
        except OSError as error:  # BlockingIOError too: its backlog is full, nobody accepts
            return "", f"PM2 is running, but does not listen at {path}: {error.strerror or error}"
    return " ".join(proc.command_line(found.process.pid)), ""


def judge_apps(name: str, stdout: bytes, last_pid: int, *, tells_orders: bool) -> Told:
    """What `pm2 jlist` printed, as an answer about the app `name`, all its instances together."""
    try:
        apps = [app for app in _apps(stdout) if app.name == name]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Told(Manager.UNKNOWN, "PM2 answered with what is not its list")
    if not apps:
        return Told(Manager.FAILED, f"PM2 knows no app {name}")
    states = [_judge_app(app.pm2_env, last_pid, tells_orders=tells_orders) for app in apps]
    manager = next(state for state in _FIRST if state in states)
    shown = ", ".join(sorted({app.pm2_env.status[:40] for app in apps}))
    by_itself = "; it ended by itself, and PM2 is not to restart it" if "errored" not in shown else ""
    return Told(manager, f"PM2: {name} is {shown}{by_itself if manager is Manager.FAILED else ''}")


def _judge_app(app: _AppEnv, last_pid: int, *, tells_orders: bool) -> Manager:
    """With `autorestart: false` PM2 calls "stopped" also what has died. An ordered stop notes whom it has stopped."""
    state = _APP_STATES.get(app.status, Manager.UNKNOWN)
    if state is Manager.STOPPED and tells_orders and app.autorestart in (False, "false"):
        ended = app.tree_pids or []
        ordered = last_pid in ended if last_pid else bool(ended)
        return Manager.STOPPED if ordered else Manager.FAILED
    return state
