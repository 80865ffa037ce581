"""`healctl doctor`: what would bite on this host, before it does."""

from __future__ import annotations

import os

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import settings, with_output

COLOURS = {"well": "green", "warn": "yellow", "bad": "red"}


@click.command(
    epilog="""\b
Examples:
  healctl doctor
  healctl doctor --json | jq '.findings[] | select(.level == "bad")'

\b
Exit codes: 0 nothing bad (warnings allowed), 1 something will not work, 78 the configuration is wrong.
"""
)
@with_output
def doctor() -> int:
    """Look for what would bite: permissions, linger, kernel features, clock, SQLite, ports, stale sockets, PrivateTmp,
    and a unit that was installed for another configuration.

    Says how to mend each. Changes nothing; run it as the user who runs healctl.
    """
    from supervisor import doctor as rooms
    from supervisor import places

    chosen = settings()
    found = rooms.examine(rooms.this_host(chosen.load(), places.locate(chosen.config_path, os.environ)))
    bad = any(it.level is rooms.Level.BAD for it in found)
    if chosen.json:
        output.show_json(msgspec.json.encode({"ok": not bad, "findings": found}))
    else:
        for it in found:
            output.say(
                f"{output.coloured(it.level.value.ljust(4), COLOURS[it.level])}  {it.check}: {output.plain(it.says)}"
            )
            if it.mend:
                output.say(f"      mend: {output.plain(it.mend)}")
    return 1 if bad else 0
