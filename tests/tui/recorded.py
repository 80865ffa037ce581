"""A feed that was recorded: the app is the real one, its daemon a list of what one said."""

from __future__ import annotations

from typing import Any

from supervisor import clock
from supervisor.cli.item import SNAPSHOT, Item
from supervisor.errors import HealError, UnknownId

Json = dict[str, Any]
NOW_S = 1_771_407_000.0


def stamp(ago_s: float) -> str:
    return clock.rfc3339(clock.wall_s() - ago_s)


def incident(name: str, severity: str = "high", state: str = "escalated", ago_s: float = 300.0, **more: Any) -> Json:
    row: Json = {
        "id": f"inc_{name}",
        "anomaly_type": "process_dead",
        "target_id": name,
        "severity": severity,
        "state": state,
        "runbook_id": "rb-restart-service",
        "detected_at": stamp(ago_s),
        "state_changed_at": stamp(ago_s / 2),
        "last_seen_at": stamp(1.0),
        "detections": 3,
        "escalation_tier": 2,
        "escalation_reason": "needs_approval",
        "evidence": f"no process of {name} is alive",
        "hint": "",
        "waiting_for": None,
        "execution_id": None,
        "acknowledged_at": None,
        "audit_trail": [{"timestamp": stamp(ago_s), "state": "detected", "actor": "engine", "note": "it is down"}],
    }
    return row | more


def snapshot(incidents: list[Json], seq: int = 1, **more: Any) -> Item:
    children = [
        {"name": name, "state": "ready", "pid": 0, "restarts": 0, "last_exit": None, "since": stamp(3600.0)}
        for name in ("store", "healer", "executor", "notifier", "process", "host", "database")
    ]
    data: Json = {
        "seq": seq,
        "open_incidents": incidents,
        "children": children,
        "halted": [],
        "paused": [],
        "at_work": [],
        **more,
    }
    return Item(seq, SNAPSHOT, NOW_S, data)


class Recorded:
    """`items` come at once, more by `push`. `answers` by action: a value, an error, or a function of the arguments."""

    def __init__(self, items: list[Item], answers: Json | None = None) -> None:
        self._items = list(items)
        self.answers = answers or {}
        self.asked: list[tuple[str, Json]] = []
        self.said = ""

    def start(self) -> None:
        pass

    def drain(self) -> list[Item]:
        items, self._items = self._items, []
        return items

    def push(self, *items: Item) -> None:
        self._items.extend(items)

    def trouble(self) -> str:
        return self.said

    def ask(self, action: str, args: Json, deadline_s: float) -> Json:
        self.asked.append((action, args))
        answer = self.answers.get(action)
        if callable(answer):
            answer = answer(args)
        if isinstance(answer, HealError):
            raise answer
        if answer is None:
            raise UnknownId(f"no {action} was recorded", "")
        found: Json = answer
        return found

    def close(self) -> None:
        pass
