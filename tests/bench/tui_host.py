"""The dashboard on a recorded feed of so many incidents and so many events a second, for `bench_tui` to look at.

`python -m tests.bench.tui_host INCIDENTS EVENTS_PER_S`, or `bare` for textual's own least.
"""

from __future__ import annotations

import sys
import threading
import time

from textual.app import App, ComposeResult
from textual.widgets import Static

from supervisor.cli.item import Item
from tests.tui.recorded import NOW_S, Recorded, incident, snapshot
from tui.app import Board


class Bare(App[None]):
    pressed = 0

    def compose(self) -> ComposeResult:
        yield Static("healctl Incidents: no process of 0", id="line")

    def on_key(self) -> None:
        self.pressed += 1
        self.query_one("#line", Static).update(f"healctl Incidents: no process of {self.pressed}", layout=False)


def stream(source: Recorded, per_s: int, incidents: int) -> None:
    """Changes of incidents, evenly, for ever."""
    seq = 2
    while True:
        time.sleep(0.01)
        for _ in range(per_s // 100):
            row = incident(f"target-{seq % incidents}", ago_s=seq % 9000)
            del row["audit_trail"]
            source.push(Item(seq, "incident", NOW_S, row))
            seq += 1


def main() -> None:
    if sys.argv[1] == "bare":
        Bare().run()
        return
    incidents, per_s = int(sys.argv[1]), int(sys.argv[2])
    severities = ("critical", "high", "medium")
    source = Recorded([snapshot([incident(f"target-{n}", severities[n % 3], ago_s=n) for n in range(incidents)])])
    if per_s:
        threading.Thread(target=stream, args=(source, per_s, incidents), daemon=True).start()
    Board(source).run()


if __name__ == "__main__":
    main()
