"""What the healer knows of the tree: the root's events as a table for `healctl status`, and what they mean for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.incidents import events as e
from supervisor.incidents import views
from supervisor.incidents.model import AnomalyType
from supervisor.messages import TreeEvent, TreeKind

ALIVE = frozenset({TreeKind.STARTED, TreeKind.READY, TreeKind.HUNG})
FAILURES_MAX = 3  # within FAILURES_S: it is failing
FAILURES_S = 600.0  # what the root counts over (`supervisor.tree.model`)

_STATE = {
    TreeKind.STARTED: "starting",
    TreeKind.READY: "ready",
    TreeKind.EXITED: "exited",
    TreeKind.HUNG: "hung",
    TreeKind.BACKOFF: "backoff",
    TreeKind.QUARANTINED: "quarantined",
}


class _Row(msgspec.Struct):
    state: str = "unknown"
    pid: int = 0
    incarnation: str = ""
    restarts: int = 0
    last_exit: str = ""
    last_words: str = ""
    since_wall_s: float = 0.0


class TreeTable:
    """`delivers`: is this the name of a worker that delivers messages?"""

    def __init__(self, delivers: Callable[[str], bool] = lambda name: name == "notifier") -> None:
        self._rows: dict[str, _Row] = {}
        self._delivers = delivers

    def observe(self, event: TreeEvent) -> list[e.Event]:
        """Notes the event; returns what the engine has to hear of it."""
        if event.kind is TreeKind.ITEM_QUARANTINED:
            evidence = f"it was in work both times that {event.child} died ({event.exit_text})"
            return [e.OwnPart(item, AnomalyType.ITEM_QUARANTINED, True, evidence) for item in event.items]
        if event.kind is TreeKind.STOPPED:
            self._rows.pop(event.child, None)  # it left the tree; one that starts anew says so
            return self._reactions(event)
        row = self._rows.setdefault(event.child, _Row())
        row.state = _STATE[event.kind]
        row.pid = event.pid
        row.incarnation = event.incarnation
        row.restarts = event.restarts
        row.since_wall_s = event.at_wall_s
        if event.exit_text:
            row.last_exit, row.last_words = event.exit_text, event.last_words
        return self._reactions(event)

    def _reactions(self, event: TreeEvent) -> list[e.Event]:
        part = f"worker:{event.child}"
        # Of a traceback the last line says what it was; a message has room for little more.
        last_line = event.last_words.rstrip().rpartition("\n")[2].strip()
        told = f"({event.exit_text}): {last_line[:300]}".strip()
        match event.kind, event.child:
            case TreeKind.QUARANTINED, _:
                return [
                    e.OwnPart(part, AnomalyType.WORKER_QUARANTINED, True, f"it failed too often {told}"),
                    e.OwnPart(part, AnomalyType.WORKER_FAILING, False, "it is quarantined"),
                ]
            case TreeKind.READY, "executor":
                return [e.OwnPart(part, AnomalyType.WORKER_QUARANTINED, False, ""), e.ExecutorIs(event.incarnation)]
            case TreeKind.READY, name if self._delivers(name):
                return [e.OwnPart(part, AnomalyType.WORKER_QUARANTINED, False, ""), e.NotifierIsBack()]
            case TreeKind.READY, _:
                return [e.OwnPart(part, AnomalyType.WORKER_QUARANTINED, False, "")]
            case TreeKind.STOPPED, _:
                gone: list[e.Event] = [e.ExecutorIs("")] if event.child == "executor" else []
                for anomaly in (AnomalyType.WORKER_QUARANTINED, AnomalyType.WORKER_FAILING):
                    gone.append(e.OwnPart(part, anomaly, False, "it was stopped as ordered"))
                return gone
            case TreeKind.EXITED, _:
                return self._failures(event, part, told)
            case TreeKind.STARTED, "healer":  # whose death it cannot have heard of
                return self._failures(event, part, told)
            case _:
                return []

    def _failures(self, event: TreeEvent, part: str, told: str) -> list[e.Event]:
        found: list[e.Event] = [e.ExecutorIs("")] if event.child == "executor" else []
        if event.failures >= FAILURES_MAX:
            evidence = f"it has failed {event.failures} times within {FAILURES_S / 60:g} minutes {told}"
            found.append(e.OwnPart(part, AnomalyType.WORKER_FAILING, True, evidence))
        return found

    def rows(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "state": row.state,
                "pid": row.pid,
                "restarts": row.restarts,
                "last_exit": row.last_exit or None,
                "last_words": row.last_words or None,
                "since": views.stamp(row.since_wall_s),
            }
            for name, row in self._rows.items()
        ]
