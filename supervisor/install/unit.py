"""The two units of systemd, as text. `etc/systemd/` holds what this makes when nothing is known of a configuration.

Pure. Words are escaped as systemd.syntax(7) and systemd.service(5) want it; what cannot stand in a unit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from supervisor.errors import UsageError

SERVICE, FAILURE = "healctl.service", "healctl-failure@.service"
WANTED_BY = "default.target"
CONFIGURATION, STATE = (
    "# Configuration: ",
    "# State: ",
)  # how an installed unit tells `healctl uninstall` where they are

_PLAIN = re.compile(r"[A-Za-z0-9/._:=+-]+")
_ANY = """\
# healctl as a service, of the system or of a user: the same file for both. `healctl install` writes one that fits a
# configuration, and puts it in its place. By hand (ExecStart may need the program's whole path):
#   system: /etc/systemd/system/        then  systemctl daemon-reload && systemctl enable --now healctl
#   user:   ~/.config/systemd/user/     then  systemctl --user daemon-reload && systemctl --user enable --now healctl
# healctl-failure@.service belongs beside it.
"""
_FITTED = f"""\
# healctl as a service of {{scope}}, as `healctl install` has made it for this configuration. It overwrites nothing
# that was changed here by hand: what you change goes into a drop-in (systemctl edit healctl).
{CONFIGURATION}{{configuration}}
{STATE}{{state}}
"""
_UNKNOWN = "# No sandbox: it depends on the configuration, which this file does not know (`healctl install` does).\n"

_SERVICE = """\
{head}[Unit]
Description=healctl: detect, diagnose, remediate, verify, escalate
# What fails at each start is given up after five, and paged by the unit below. What takes longer to fail (a full disk
# under the ledger: a minute) is tried for ever, and healctl pages that by itself.
StartLimitIntervalSec=5min
StartLimitBurst=5
OnFailure=healctl-failure@%n.service

[Service]
Type=notify
NotifyAccess=main
ExecStart={program} start
ExecReload=/bin/kill -HUP $MAINPID
# Pages when systemd had to end it: by its watchdog, say.
ExecStopPost=-{program} page --unit %n --restarted
# Fed for each round of the engine that became durable. healctl replaces a worker of its own that hangs within 71 s.
WatchdogSec=90
Restart=on-failure
RestartSec=5
# 78: the configuration is wrong, and would be at the next start.
RestartPreventExitStatus=78
# healctl stops its own workers, and they die with it. What it has started of yours is to live on.
KillMode=process
# Not set, since it would hide what is watched, or keep it from being mended: PrivateTmp= (pid files and sockets in
# /tmp), ProtectProc= and PrivatePIDs= (others' processes), ProtectHome=, PrivateNetwork=, PrivateDevices= (disks).
{sandbox}
[Install]
WantedBy=default.target
"""

_FAILURE = """\
# Pages that the unit %i (healctl.service) has failed and is not started again. Needs no daemon.
[Unit]
Description=Page that %i has failed

[Service]
Type=oneshot
ExecStart={program} page --unit %i
TimeoutStartSec=60
{environment}"""


class Fitted(msgspec.Struct, frozen=True):
    """What an installed unit has beyond the one of `etc/systemd`. `scope`: "the system" or "a user"."""

    scope: str
    configuration: str
    state: str
    sandbox: tuple[str, ...]  # lines of [Service], each directive after the comment that explains it
    environment: tuple[str, ...] = ()  # of both units


def service(program: Sequence[str] = ("healctl",), fitted: Fitted | None = None) -> str:
    """The text of SERVICE. `program`: what `healctl` is there, e.g. its whole path and `-c FILE`. Raises UsageError."""
    if fitted is None:
        return _SERVICE.format(head=_ANY, program=_command(program), sandbox=_UNKNOWN)
    head = _FITTED.format(scope=fitted.scope, configuration=_shown(fitted.configuration), state=_shown(fitted.state))
    lines = "\n".join((*fitted.environment, *fitted.sandbox)) + "\n"
    return _SERVICE.format(head=head, program=_command(program), sandbox=lines)


def failure(program: Sequence[str] = ("healctl",), fitted: Fitted | None = None) -> str:
    """The text of FAILURE. Raises UsageError."""
    lines = "".join(f"{line}\n" for line in fitted.environment) if fitted else ""
    return _FAILURE.format(program=_command(program), environment=lines)


def told(text: str, prefix: str) -> str:
    """What an installed unit says behind CONFIGURATION or STATE; empty when it says nothing."""
    return next((line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)), "")


def _shown(path: str) -> str:
    """On one line: what follows another line of a comment would be a directive."""
    return path if path.isprintable() else ascii(path)


def _command(program: Sequence[str]) -> str:
    first, *others = program
    if any(char in first for char in "\"'\\"):
        raise UsageError(
            f"{first!r}: systemd runs no program whose path has a quote or a backslash", "install healctl elsewhere"
        )
    # Variables are expanded in the arguments, not in the program's own path (systemd.service(5), "Command lines").
    return " ".join([quoted(first), *(quoted(word.replace("$", "$$")) for word in others)])


def quoted(word: str) -> str:
    """One word of a unit (systemd.syntax(7), "Quoting"); a specifier's % is doubled. Raises UsageError."""
    if not word.isprintable():
        raise UsageError(f"{word!r} cannot stand in a unit of systemd", "a path of printable characters")
    word = word.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return word if _PLAIN.fullmatch(word) else f'"{word}"'
