"""What a worker cannot tell in any other way, since nothing leaves before it is written: a page by the one-shot pager.

One at a time, and the same text not again within an hour: the worker may have been started anew meanwhile.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from supervisor import clock
from supervisor.tree import pager
from supervisor.tree.spawn import Child, ChildMain

NAME = "alarm"
WITHIN_S = 60.0  # each transport has 10 s
AGAIN_S = 3600.0


class Host(Protocol):
    def spawn(self, name: str, incarnation: str, main: ChildMain) -> Child: ...

    def log(self, level: str, name: str, text: str) -> None: ...


class Alarm:
    def __init__(self, host: Host, page: pager.Pager, root_pid: int, level: str) -> None:
        self._host = host
        self._page = page
        self._root_pid = root_pid
        self._level = level
        self._told: dict[str, float] = {}
        self._child: Child | None = None
        self.due_s = float("inf")  # when the pager has taken too long

    def sound(self, who: str, text: str) -> None:
        """Pages `text`, unless that was just done."""
        now_s = clock.monotonic_s()
        self._told = {old: at_s for old, at_s in self._told.items() if now_s - at_s < AGAIN_S}
        if text in self._told or self._child is not None:
            return
        self._host.log("error", who, f"asks for a page: {text}")
        try:
            self._child = self._host.spawn(NAME, "", partial(pager.main, self._page, text, self._root_pid, self._level))
        except OSError as error:
            self._host.log("error", "root", f"cannot start the pager: {error}")
            return
        self._told[text] = now_s
        self.due_s = now_s + WITHIN_S

    def ended(self, code: int) -> None:
        self._child, self.due_s = None, float("inf")
        self._host.log("info" if code == 0 else "error", "root", "paged" if code == 0 else "the page was not sent")

    def look(self, now_s: float) -> None:
        if self._child is not None and now_s >= self.due_s:
            self._host.log("error", "root", "the page took too long")
            self.due_s = float("inf")
            self._child.kill_group()
