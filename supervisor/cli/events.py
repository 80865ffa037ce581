"""`healctl events`: what is open now, or everything as it happens.

The feed may lose what a slow reader does not take; its sequence numbers show it, and a new snapshot mends it. The
daemon may be restarted underneath: the feed goes on with the next one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import zmq

from supervisor import clock
from supervisor.cli import output
from supervisor.cli.client import Control, is_running
from supervisor.cli.options import settings, with_output
from supervisor.errors import HealError, NotRunning
from supervisor.sockets import endpoint, new_context, open_socket
from supervisor.wire import Event, decode

LOOK_MS = 500
SNAPSHOT = "snapshot"


class Item(msgspec.Struct, frozen=True):
    """One line of the feed: `kind` is the daemon's word, or "snapshot". `at` is RFC 3339 UTC."""

    seq: int
    kind: str
    at: str
    data: msgspec.Raw


class Feed:
    """The items in order. Use it as a context manager."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._context = new_context()
        self._socket = open_socket(self._context, zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint(runtime_dir, "events"))
        self._seq = -1

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def snapshot(self) -> Item:
        """What is open now. Raises NotRunning, RemoteError, HealError."""
        with Control(self._runtime_dir) as control:
            body = control.ask(SNAPSHOT)
        self._seq = msgspec.json.decode(body)["seq"]
        return Item(self._seq, SNAPSHOT, clock.rfc3339(clock.wall_s()), msgspec.Raw(body))

    def next(self, timeout_ms: int) -> list[Item]:
        """The next items: one event, preceded by a snapshot after a gap; none when nothing came in time."""
        if not self._socket.poll(timeout_ms):
            return []
        try:
            body = decode(self._socket.recv()).body
        except msgspec.DecodeError as error:
            hint = "is the daemon of another version? healctl stop, then healctl start"
            raise HealError(f"the feed cannot be read: {error}", hint) from error
        if not isinstance(body, Event):
            return []
        known = self._seq
        if known < 0 or body.seq == known + 1:
            self._seq = body.seq
            return [Item(body.seq, body.kind, clock.rfc3339(body.at_wall_s), msgspec.Raw(body.data))]
        fresh = self.snapshot()
        if body.seq <= known <= fresh.seq:
            self._seq = known  # it was on its way when the last snapshot was taken, which holds it already
            return []
        return [fresh]


def describe(item: Item) -> str:
    """One line for people."""
    data: Any = msgspec.json.decode(item.data)
    if not isinstance(data, dict):
        data = {"data": data}
    words = [str(data[key]) for key in ("target_id", "child", "state", "kind", "note", "subject") if data.get(key)]
    text = "  ".join(output.plain(word) for word in words) or output.plain(bytes(item.data).decode())
    return f"{output.coloured(item.at[11:23], 'dim')}  {item.kind:<12} {text}"


def _show(item: Item, *, json: bool) -> None:
    if json:
        output.say(msgspec.json.encode(item).decode())
    elif item.kind == SNAPSHOT:
        _show_snapshot(msgspec.json.decode(item.data))
    else:
        output.say(describe(item))


def _show_snapshot(data: dict[str, Any]) -> None:
    incidents = data.get("open_incidents", [])
    if not incidents:
        output.say("No open incidents.")
        return
    rows = [(i["id"], i["target_id"], i["anomaly_type"], i["severity"], i["state"]) for i in incidents]
    output.table(("INCIDENT", "TARGET", "ANOMALY", "SEVERITY", "STATE"), rows)


@click.command(
    epilog="\b\nExamples:\n  healctl events\n  healctl events --follow --json | jq -c 'select(.kind != \"tree\")'"
)
@click.option("--follow", is_flag=True, help="Go on with every event as it happens; over restarts of the daemon too.")
@with_output
def events(follow: bool) -> None:
    """Show the open incidents; with --follow then one line for each event, until Ctrl-C."""
    chosen = settings()
    runtime_dir = chosen.dirs().runtime_dir
    with Feed(runtime_dir) as feed:
        first = feed.snapshot()
        if not follow:
            if chosen.json:
                output.show_json(bytes(first.data))
            else:
                _show(first, json=False)
            return
        _show(first, json=chosen.json)
        gone = False
        while True:
            try:
                items = feed.next(LOOK_MS)
            except NotRunning:
                items = []  # it went away in the middle of a gap: the next one brings its own snapshot
            for item in items:
                _show(item, json=chosen.json)
            running = bool(items) or is_running(runtime_dir)
            if gone == running:
                gone = not running
                output.note("healctl is back" if running else "healctl is gone; waiting for it to come back")
