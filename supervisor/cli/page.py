"""`healctl page`: what the shipped systemd units run when healctl itself has failed. It needs no daemon."""

from __future__ import annotations

import asyncio
import os
import re
import socket

import click

from supervisor.cli import output
from supervisor.cli.options import settings, with_config
from supervisor.errors import UsageError

# What systemd.unit(5) lets a unit's name be made of; no option of systemctl is one.
UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]{0,254}")

EPILOG = """\b
Examples:
  healctl page --unit healctl.service               as healctl-failure@.service does (OnFailure=)
  healctl page --unit healctl.service --restarted   as healctl.service does (ExecStopPost=)

\b
It asks systemd and its journal what they know, and of the configuration needs only [notify.signal]. The same unit is
paged for once an hour; a page that could not be sent does not count.

\b
Exit codes: 0 paged, or there was nothing to page. 1 nobody was reached. 78 the configuration does not say whom."""


@click.command(epilog=EPILOG)
@click.option("--unit", required=True, metavar="UNIT", help="The unit that failed, e.g. healctl.service.")
@click.option("--restarted", is_flag=True, help="It is started again; page only if it was ended from outside.")
@click.option(
    "--user/--system", "user", default=None, help="Whose systemd it is. Default: that which has started this command."
)
@with_config
def page(unit: str, restarted: bool, user: bool | None) -> None:
    """Page over Signal that a systemd unit has failed, with the reason and its last words. Needs no daemon."""
    from supervisor import clock
    from supervisor.config import dirs
    from supervisor.notifier import failure, oneshot, paged

    if not UNIT.fullmatch(unit):
        raise UsageError(f"{unit!r} is not the name of a unit", "e.g. --unit healctl.service")
    if restarted and os.environ.get("SERVICE_RESULT", "") not in failure.FROM_OUTSIDE:
        return  # stopped in good order, or it has told by itself
    if user is None:
        user = "MANAGERPID" in os.environ  # set by a user's systemd alone (systemd.exec(5))
    config, fault = failure.configuration(settings().config_path, os.environ)
    state_dir, key = dirs(config).state_dir, f"{unit} restarted" if restarted else unit
    if (before_s := paged.before_s(state_dir, key, clock.wall_s())) is not None:
        output.note(f"{unit}: paged {before_s / 60:.0f} minutes ago, not again within the hour")
        return
    facts = asyncio.run(failure.learn(unit, os.environ, user=user, fault=fault))
    oneshot.page(config, failure.words(facts, socket.gethostname(), user=user, restarted=restarted))
    try:
        paged.note(state_dir, key, clock.wall_s())
    except OSError as error:
        output.fault(f"{state_dir}: {error.strerror}: the page was sent, and may be sent again")
    output.note(f"{unit}: paged")
