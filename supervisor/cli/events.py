"""`healctl events`: what is open now, or everything as it happens."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from supervisor import clock
from supervisor.cli import output
from supervisor.cli.client import is_running
from supervisor.cli.feed import SNAPSHOT, Feed, Item, Narrator
from supervisor.cli.options import settings, with_output
from supervisor.errors import NotRunning

LOOK_MS = 500


@click.command(
    epilog="\b\nExamples:\n  healctl events\n  healctl events --follow --json | jq -c 'select(.kind == \"trail\")'"
)
@click.option("--follow", is_flag=True, help="Go on with every event as it happens; over restarts of the daemon too.")
@with_output
def events(follow: bool) -> None:
    """Show the open incidents; with --follow then one line for each event, until Ctrl-C.

    As JSON each line is {seq, kind, at, data}; kinds: snapshot, incident, trail, execution, message, metric,
    tree, reload, and progress, of work that takes long.
    """
    chosen = settings()
    runtime_dir = chosen.dirs().runtime_dir
    with Feed(runtime_dir) as feed:
        first = feed.snapshot()
        if follow:
            _follow(feed, first, runtime_dir, json=chosen.json)
        elif chosen.json:
            output.show_json(msgspec.json.encode(first.data))
        else:
            _show(first, Narrator(), json=False)


def _follow(feed: Feed, first: Item, runtime_dir: Path, *, json: bool) -> None:
    """Until it is interrupted."""
    narrator = Narrator()
    _show(first, narrator, json=json)
    gone = False
    while True:
        try:
            item = feed.next(LOOK_MS)
        except NotRunning:
            item = None  # it went away in the middle of a gap: the next daemon's first event brings a snapshot
        if item is not None:
            _show(item, narrator, json=json)
        running = item is not None or is_running(runtime_dir)
        if gone == running:
            gone = not running
            output.note("healctl is back" if running else "healctl is gone; waiting for it to come back")


def _show(item: Item, narrator: Narrator, *, json: bool) -> None:
    if json:
        output.say(item.line())
    elif item.kind == SNAPSHOT:
        narrator.learn(item)
        _show_snapshot(item)
    elif line := narrator.tell(item):
        output.say(f"{output.coloured(clock.rfc3339(item.at_wall_s)[11:23], 'dim')}  {line}")


def _show_snapshot(item: Item) -> None:
    incidents = item.data["open_incidents"]
    if not incidents:
        output.say("No open incidents.")
        return
    rows = [(i["id"], i["target_id"], i["anomaly_type"], i["severity"], i["state"]) for i in incidents]
    output.table(("INCIDENT", "TARGET", "ANOMALY", "SEVERITY", "STATE"), rows)
