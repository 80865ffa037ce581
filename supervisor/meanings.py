"""What an operator's commands mean to healctl, by the configuration: the restart of a declared service by whatever
manager, a gateway's restart, a declared command. Pure but for what `targets` reads; nothing here is ever run.
"""

from __future__ import annotations

from supervisor.config import Config, RestartSection
from supervisor.incidents.matching import Command, Meaning

RESTART, GATEWAY = "rb-restart-service", "rb-gateway-restart"


def meanings(config: Config) -> tuple[Meaning, ...]:
    """Every command line that is known, with its program by its bare name."""
    found = []
    for name, section in config.process.items():
        if section.restart is not None:
            found += [Meaning(argv, RESTART, name) for argv in _restarts(section.restart)]
    for name, gateway in config.gateway.items():
        if gateway.restart:
            found.append(Meaning(_bare(gateway.restart), GATEWAY, name))
    for book in config.runbook.values():  # a declared command stands in the steps that use it, resolved
        for step in book.steps:
            argv = dict(step.params).get("argv")
            if step.kind == "run-command" and isinstance(argv, tuple):
                found.append(Meaning(_bare(argv), step=step))
    return tuple(found)


def _restarts(section: RestartSection) -> list[Command]:
    if section.argv:
        return [_bare(section.argv)]
    if section.pm2:
        return [("pm2", verb, section.pm2) for verb in ("restart", "start", "reload")]
    units = {section.systemd, section.systemd.removesuffix(".service"), section.systemd.split(".")[0] + ".service"}
    scopes: tuple[Command, ...] = (("--user",),) if section.user else ((), ("--system",))
    found: list[Command] = [
        ("systemctl", *scope, verb, unit)
        for unit in sorted(units)
        for scope in scopes
        for verb in ("restart", "start", "try-restart", "reload-or-restart")
    ]
    if not section.user:
        found += [("service", unit, verb) for unit in sorted(units) for verb in ("restart", "start")]
    return found


def _bare(argv: Command) -> Command:
    return (argv[0].rpartition("/")[2], *argv[1:])
