"""The daemon's feed as the command line follows it: snapshots, events, and both in words.

The feed may lose what a slow reader does not take; its sequence numbers show it, and a new snapshot mends it. The
daemon may be restarted underneath: the feed goes on with the next one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import zmq

from supervisor import clock
from supervisor.cli import output
from supervisor.cli.client import Control
from supervisor.cli.item import SNAPSHOT as SNAPSHOT
from supervisor.cli.item import Item as Item
from supervisor.errors import HealError
from supervisor.sockets import endpoint, new_context, open_socket
from supervisor.wire import Event, decode

INCIDENTS_KNOWN_MAX = 10_000


class Feed:
    """The items in order. Use it as a context manager."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir
        self._context = new_context()
        self._socket = open_socket(self._context, zmq.SUB)
        self._socket.connect(endpoint(runtime_dir, "events"))
        self._seq = -1

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def snapshot(self) -> Item:
        """What is open now. Raises NotRunning, RemoteError, NoAnswer."""
        with Control(self._runtime_dir) as control:
            data = msgspec.json.decode(control.ask(SNAPSHOT))
        self._seq = data["seq"]
        return Item(self._seq, SNAPSHOT, clock.wall_s(), data)

    def next(self, timeout_ms: int) -> Item | None:
        """The next event, or after a gap a new snapshot instead; None when nothing (new) came in time."""
        if not self._socket.poll(timeout_ms):
            return None
        try:
            body = decode(self._socket.recv()).body
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            hint = "is the daemon of another version? healctl stop, then healctl start"
            raise HealError(f"the feed cannot be read: {error}", hint) from error
        if not isinstance(body, Event):
            return None
        known = self._seq
        if known < 0 or body.seq == known + 1:
            self._seq = body.seq
            return Item(body.seq, body.kind, body.at_wall_s, msgspec.json.decode(body.data))
        fresh = self.snapshot()
        if body.seq <= known <= fresh.seq:
            self._seq = known  # it was on its way when the last snapshot was taken, which holds it already
            return None
        return fresh


class Narrator:
    """Items in words. Remembers which incident is about what, since an event names it by its id alone."""

    def __init__(self) -> None:
        self._about: dict[str, str] = {}

    def tell(self, item: Item) -> str:
        """One line for people; empty for what only programs want to know."""
        data = item.data
        match item.kind:
            case "incident":
                if len(self._about) >= INCIDENTS_KNOWN_MAX:
                    self._about.clear()
                self._about[data["id"]] = f"{data['target_id']} {data['anomaly_type']}"
                return ""  # its trail says the same, with the reason
            case "trail":
                about = self._about.get(data["incident_id"], data["incident_id"])
                return f"{output.plain(about)}  {output.state(data['state'])}  {output.plain(data['note'])}"
            case "message":
                sent = "delivered" if data["receipt"] else data["last_error"] or data["state"]
                words = f"{data['channel']} {data['kind']} (tier {data['tier']}): {data['subject']}"
                return f"{output.plain(words)}  {output.plain(sent)}"
            case "tree":
                words = f"worker {data['child']}: {data['kind']}, pid {data['pid']}"
                return output.plain(words + (f" ({data['exit_text']})" if data.get("exit_text") else ""))
            case "execution":
                return output.plain(f"{data['runbook_id']} on {data['target_id']}: {data['state']}")
            case _:
                return ""

    def learn(self, snapshot: Item) -> None:
        for incident in snapshot.data["open_incidents"]:
            self._about[incident["id"]] = f"{incident['target_id']} {incident['anomaly_type']}"
