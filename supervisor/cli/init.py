"""`healctl init`: looks at this host and writes a configuration to begin with, in which nothing new runs by itself."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import settings, with_output
from supervisor.errors import HealError, Refused

if TYPE_CHECKING:
    from probes.survey import Service, Survey

HEAD = """\
# Written by `healctl init` after a look at this host. healctl watches what is named here, asks and tells. Of what
# changes anything only rb-rotate-logs and rb-gc-trigger run by themselves. Remove the # before an auto_restart when
# you have read what is above it: that is your written review. etc/healctl.toml of the source shows every key.
# Then: healctl check --live, healctl install (or healctl start).
"""


# Each line but the first is one of the configuration behind its "# ".
NO_SERVICE = """\
# No service was found. This is what one looks like; take the # away and put your own in:
# [process.web]
# pid_file = "/run/web.pid"
# match = "/usr/local/bin/web"                # a regular expression on its command line
# restart = { argv = ["/usr/local/bin/web", "--port", "8000"] }   # or { systemd = "web.service" }, { pm2 = "web" }
# auto_restart = true                         # your review: it may be started when nothing of it runs
"""


@click.command(
    epilog="\b\nExamples:\n  healctl init --print\n  healctl init\n  healctl init -c /etc/healctl/healctl.toml --force"
)
@click.option("--print", "only_print", is_flag=True, help="Write to standard output, to no file.")
@click.option("--force", is_flag=True, help="Replace a file that is there; it is kept beside it as FILE.before.")
@with_output
def init(only_print: bool, force: bool) -> None:
    """Look at this host and write a commented configuration: services of systemd and PM2, pid files, signal-cli,
    OpenClaw, mounts, databases in the usual places, a fleet file.

    It only looks, and runs `systemctl show` and `pm2 jlist` at most. -c FILE says where to; else
    $XDG_CONFIG_HOME/healctl/healctl.toml; as root, where that is not set, /etc/healctl/healctl.toml.
    """
    from probes.survey import survey
    from supervisor import config, places

    chosen = settings()
    file = chosen.config_path or places.default_file(os.environ)
    if not only_print and file.exists() and not force:
        raise Refused(f"{file} is there already", "--force replaces it and keeps it beside; --print only shows")
    found = asyncio.run(survey(os.environ))
    text = written(found)
    config.accept(text, file)  # what does not pass `check` is not handed out
    if only_print:
        output.say(text.rstrip("\n"))
        return
    put(file, text)
    if chosen.json:
        body: dict[str, Any] = {"file": str(file), "found": found}
        output.show_json(msgspec.json.encode(body))
        return
    for what in found.unasked:
        output.note(f"not asked: {output.plain(what)}")
    output.say(f"{file}: {len(found.services)} services, {len(found.databases)} databases")
    if not found.services:
        output.say("It shows, commented out, how a service is written down; disks, memory and logs are watched anyway")
    output.say("Next: read it, then `healctl check --live`")


def put(file: Path, text: str) -> None:
    """In one rename; what was there is kept beside it. Raises HealError."""
    from supervisor.install.files import place

    try:
        place([(file, text.encode())], mode=0o600, keep=lambda path: True, kept=".before")
    except HealError as error:
        raise HealError(error.message, f"{error.hint}; -c FILE says where to") from error


def written(found: Survey) -> str:
    """The configuration as TOML."""
    parts = [HEAD]
    for what in found.unasked:
        parts.append(f"# Not asked: {_comment(what)}\n")
    parts += [_service(service) for service in found.services] or [NO_SERVICE]
    if found.signal is not None:
        parts.append(_signal_cli(found))
    if found.openclaw:
        parts.append(
            "# OpenClaw's gateway. restart is its own command; it takes 18 to 36 s.\n[gateway.openclaw-gateway]\n"
            f'status = [{_text(found.openclaw)}, "gateway", "status", "--json"]\n'
            f'restart = [{_text(found.openclaw)}, "gateway", "restart", "--json"]\n# auto_restart = true\n'
        )
    if found.fleet:
        parts.append(f"[fleet]\nhosts_file = {_text(found.fleet)}\n")
    for number, path in enumerate(found.databases, 1):
        parts.append(f"[database.{_database_name(path, number)}]\npath = {_text(path)}\n")
    disks = _comment(", ".join(found.mounts) or "no mount")
    parts.append(
        f"# Watched anyway: the disks under {disks}, and any other as it is mounted; memory, and the usual logs.\n"
        "# [disk], [memory] and [logs.NAME] change how.\n"
    )
    return "\n".join(parts)


def _service(service: Service) -> str:
    lines = [f"# {_comment(service.command)}"] if service.command else []
    lines.append(f"[process.{service.name}]")
    if service.pid_file:
        lines.append(f"pid_file = {_text(service.pid_file)}")
        lines.append("# How it is started, so that healctl can: an argument list, no shell.")
        lines.append('# restart = { argv = ["/path/to/program", "argument"] }')
    else:
        lines.append("# Found through its manager; a match (a regular expression) tells its process from others.")
        lines.append(f"match = {_text(_match(service))}")
        if service.systemd:
            user = ", user = true" if service.user else ""
            lines.append(f"restart = {{ systemd = {_text(service.systemd)}{user} }}")
        else:
            lines.append(f"restart = {{ pm2 = {_text(service.pm2)} }}")
    lines.append("# auto_restart = true")
    return "\n".join(lines) + "\n"


def _match(service: Service) -> str:
    """Its command line as it is now, or its name when it does not run."""
    return re.escape(service.command or service.name).replace("\\ ", " ").replace("\\-", "-").replace("\\/", "/")


def _signal_cli(found: Survey) -> str:
    assert found.signal is not None
    ways = ", ".join(map(_text, found.signal.transports))
    account = found.signal.account or "+15550100"
    http = next((way for way in found.signal.transports if way.startswith("http")), "")
    endpoint = f"endpoint = {_text(http + '/api/v1/check')}\n" if http else ""
    return (
        f"[process.signal-cli]\nmatch = 'signal-cli.* daemon( |$)'\n{endpoint}\n"
        "# Who is paged: put a number there and remove the #.\n# [notify.signal]\n"
        f'# transports = [{ways}]\n# account = {_text(account)}\n# recipient = "+15550101"\n'
    )


def _database_name(path: str, number: int) -> str:
    stem = re.sub(r"[^a-z0-9._-]+", "-", Path(path).stem.lower()).strip("-._") or "database"
    return f"{stem[:40]}-{number}"


def _text(value: str) -> str:
    """A TOML basic string."""
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007F")


def _comment(text: str) -> str:
    return output.plain(text)
