"""`healctl tui`: the dashboard. Its libraries are imported when it is called, since nothing else needs them."""

from __future__ import annotations

import os
import sys

import click

from supervisor.cli.options import settings, with_config
from supervisor.errors import UsageError

MANY_COLOURS = ("256color", "direct", "kitty")  # how the names of terminals end that promise more than sixteen


@click.command(epilog="\b\nExamples:\n  healctl tui\n  healctl tui --read-only\n  ssh -t host healctl tui --colours 16")
@click.option("--read-only", is_flag=True, help="Show everything, take no orders.")
@click.option(
    "--colours", type=click.Choice(["auto", "16", "full"]), default="auto", show_default=True, help="How many."
)
@with_config
def tui(read_only: bool, colours: str) -> None:
    """Watch incidents, workers, runbooks and targets as they change, and decide what is yours to decide.

    It goes on over restarts of the daemon, and never holds it up. Press ? for its keys.
    """
    name = os.environ.get("TERM", "dumb")
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or name == "dumb":
        raise UsageError("tui needs a terminal", "for scripts: healctl events --follow --json")
    from tui.app import Board
    from tui.source import Daemon

    few = os.environ.get("COLORTERM", "") not in ("truecolor", "24bit") and not name.endswith(MANY_COLOURS)
    board = Board(
        Daemon(settings().dirs().runtime_dir),
        read_only=read_only,
        sixteen=few if colours == "auto" else colours == "16",
    )
    board.run()
    sys.exit(board.return_code)
