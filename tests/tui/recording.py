"""What a real daemon said while services died: its snapshot, its events, and its answers, as the wire gave them.

`python -m tests.tui.recording` makes `recording.json.gz` anew. The tests play it to the real app, and hold its names to
those of a daemon of today, so that it cannot grow old unseen.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from supervisor import clock
from supervisor.cli.feed import SNAPSHOT, Feed, Item
from tests.lab.daemon import ROOT, WAIT_S, Daemon, Service, site, until
from tests.tui.recorded import Json, Recorded

FILE = Path(__file__).with_name("recording.json.gz")
RUNBOOK = "rb-restart-service"


class Answered(msgspec.Struct, frozen=True):
    action: str
    args: Json
    answer: Json


class Recording(msgspec.Struct):
    """`items`: the snapshot first, another of the end last, the events between them."""

    items: list[Item] = []
    answers: list[Answered] = []


class Recorder:
    def __init__(self, daemon: Daemon, feed: Feed) -> None:
        self.found = Recording([feed.snapshot()])
        self._daemon, self._feed = daemon, feed

    def ask(self, action: str, **args: Any) -> Json:
        answer = self._daemon.ask(action, **args)
        self.found.answers.append(Answered(action, args, answer))
        return answer

    def until(self, what: str, true: Callable[[Item], bool]) -> Item:
        """Takes events down until one is this."""

        def look() -> Item | None:
            item = self._feed.next(100)
            if item is not None:
                self.found.items.append(item)
            return item if item is not None and true(item) else None

        found: Item = until(what, look, WAIT_S)
        return found

    def state(self, service: Service, state: str) -> str:
        """Until its incident stands there; the incident's id."""
        item = self.until(
            f"{service.name} {state}",
            lambda it: (it.kind, it.data.get("target_id"), it.data.get("state")) == ("incident", service.name, state),
        )
        found: str = item.data["id"]
        return found

    def told(self, incident_id: str) -> None:
        """Until its page has its receipt."""
        self.until(
            "a page",
            lambda it: it.kind == "message" and it.data["incident_id"] == incident_id and it.data["receipt"] != "",
        )

    def end(self) -> None:
        """A snapshot, after the events that it holds."""
        data = self._daemon.ask("snapshot")
        if self.found.items[-1].seq < data["seq"]:
            self.until("the last event of it", lambda it: it.seq == data["seq"])
        self.found.items.append(Item(data["seq"], SNAPSHOT, clock.wall_s(), data))


def live() -> Recording:
    """api heals by itself, web when it is approved, batch is dismissed, a worker is killed, and cron stays down."""
    with site() as here:
        api, web, batch, cron = services = [here.service(name) for name in ("api", "web", "batch", "cron")]
        for service in services:
            service.start()
        daemon = here.daemon("".join(service.toml(auto_restart=service is api) for service in services))
        daemon.start()
        daemon.wait_known(*services)
        with Feed(daemon.runtime_dir) as feed:
            it = Recorder(daemon, feed)
            _course(it, daemon, api, web, batch, cron)
            it.end()
        return msgspec.json.decode(_without_places(msgspec.json.encode(it.found), here.folder), type=Recording)


def _course(it: Recorder, daemon: Daemon, api: Service, web: Service, batch: Service, cron: Service) -> None:
    api.kill()
    ids = [it.state(api, "resolved")]
    web.kill()
    ids.append(it.state(web, "escalated"))
    it.told(ids[-1])
    it.ask("dry_run", runbook_id=RUNBOOK, target_id="web")
    it.ask("ack", incident_id=ids[-1])
    it.ask("approve", runbook_id=RUNBOOK, target_id="web")
    it.state(web, "resolved")
    batch.kill()
    ids.append(it.state(batch, "escalated"))
    it.ask("dismiss", incident_id=ids[-1], reason="it is not needed any more")
    it.state(batch, "dismissed")
    daemon.kill_worker("executor")
    it.until("a new one", lambda at: at.kind == "tree" and (at.data["child"], at.data["kind"]) == ("executor", "ready"))
    it.ask("pause", target_id="cron", for_s=3600.0, reason="at work on it")
    cron.kill()
    ids.append(it.state(cron, "escalated"))
    it.told(ids[-1])
    for action in ("tree", "targets", "list_runbooks"):
        it.ask(action)
    it.ask("report", since_s=86_400.0)
    for incident_id in ids:
        it.ask("incident", incident_id=incident_id)
    it.ask("resume", target_id="cron")


def _without_places(raw: bytes, folder: Path) -> bytes:
    for place, name in ((str(folder), "/srv/site"), (sys.executable, "/usr/bin/python3"), (str(ROOT), "/opt/healctl")):
        raw = raw.replace(place.encode(), name.encode())
    return raw


def kept() -> Recording:
    """The one in this folder."""
    return msgspec.json.decode(gzip.decompress(FILE.read_bytes()), type=Recording)


class Played(Recorded):
    """A feed that says the first `count` items of a recording at once, the others when it is told to `go_on`."""

    def __init__(self, recording: Recording, count: int = 1) -> None:
        super().__init__(recording.items[:count])
        self._left = recording.items[count:-1]
        for row in recording.answers:
            self.answers.setdefault(row.action, row.answer)
        by_id = {row.args["incident_id"]: row.answer for row in recording.answers if row.action == "incident"}
        self.answers["incident"] = lambda args: by_id[args["incident_id"]]

    def go_on(self, true: Callable[[Item], bool] = lambda _: False) -> Item | None:
        """The next items, up to one that is this; all when none is."""
        while self._left:
            item = self._left.pop(0)
            self.push(item)
            if true(item):
                return item
        return None


def names(recording: Recording) -> dict[str, list[str]]:
    """Event, or action with brackets -> what its data are called, as deep as they go."""
    found: dict[str, set[str]] = {}
    for item in recording.items:
        found.setdefault(item.kind, set()).update(_paths(item.data, ""))
    for row in recording.answers:
        found.setdefault(f"{row.action}()", set()).update(_paths(row.answer, ""))
    return {kind: sorted(paths) for kind, paths in sorted(found.items())}


def _paths(value: object, at: str) -> list[str]:
    if isinstance(value, dict):
        return [path for name, it in value.items() for path in [f"{at}.{name}", *_paths(it, f"{at}.{name}")]]
    if isinstance(value, list):
        return [path for it in value for path in _paths(it, f"{at}[]")]
    return []


def main() -> None:
    found = live()
    FILE.write_bytes(gzip.compress(msgspec.json.encode(found), mtime=0))
    print(f"{FILE}: {len(found.items)} items, {len(found.answers)} answers, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
