"""What the dashboard knows: the daemon's snapshot, brought forward by its events. Pure: time is an argument."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from supervisor.cli.item import SNAPSHOT, Item
from supervisor.incidents.model import Severity, State
from tui.look import wall_s

Json = dict[str, Any]

STANDING = "standing"  # an item that is no event: what `healctl status` shows
OVER_MAX = 500  # incidents that ended while we looked on
_GRAVEST = [Severity.CRITICAL, Severity.HIGH, Severity.MEDIUM]
_RANK = {severity.value: n for n, severity in enumerate(_GRAVEST)}  # words, not members: thousands are sorted by them
_ESCALATED = State.ESCALATED.value
_ENDED = frozenset({State.RESOLVED.value, State.SELF_RESOLVED.value, State.DISMISSED.value})

SORTS: dict[str, Callable[[Json], tuple[Any, ...]]] = {
    "severity": lambda it: (rank(it["severity"]), it["detected_at"] or ""),
    "age": lambda it: (it["detected_at"] or "",),
    "target": lambda it: (it["target_id"], it["detected_at"] or ""),
    "state": lambda it: (it["state"], it["detected_at"] or ""),
    "anomaly": lambda it: (it["anomaly_type"], it["target_id"]),
}


def rank(severity: str) -> int:
    return _RANK.get(severity, len(_RANK))


class Model:
    """`version` changes with whatever is shown: who shows it need not compare."""

    def __init__(self) -> None:
        self.incidents: dict[str, Json] = {}
        self.over: OrderedDict[str, Json] = OrderedDict()
        self.children: dict[str, Json] = {}
        self.halted: list[Json] = []
        self.paused: list[Json] = []
        self.missed: list[str] = []  # were open at the snapshot before the last, and ended when nobody listened
        self.at_work: dict[str, Json] = {}  # execution, or target of a check -> how far it is
        self.known = False  # a snapshot has come
        self.version = 0
        self._asked: tuple[str, str, bool] | None = None
        self._order: list[tuple[Any, ...]] = []  # what `select` found last for that: what it is sorted by, and the ids
        self._stale: set[str] = set()  # incidents that have changed since

    def apply(self, item: Item) -> None:
        self.version += 1
        data = item.data
        match item.kind:
            case _ if item.kind == SNAPSHOT:
                self._replace(data)
            case "incident":
                self._incident(data)
            case "trail":
                known = self.incidents.get(data["incident_id"]) or self.over.get(data["incident_id"])
                if known is not None:
                    known["note"] = data["note"]
                    self._stale.add(data["incident_id"])
            case _ if item.kind == STANDING:
                before = self.halted, self.paused
                self.halted, self.paused = data["halted"], data["pauses"]
                self.version -= before == (self.halted, self.paused)
            case "progress":
                self._progress(data)
            case "execution" if data["execution_id"] in self.at_work and data["state"] != "claimed":
                del self.at_work[data["execution_id"]]
            case "tree":
                self._tree(data, item.at_wall_s)
            case _:
                self.version -= 1

    def _replace(self, data: Json) -> None:
        self.known, self._asked = True, None
        self.halted, self.paused = data["halted"], data["paused"]
        before, self.incidents = self.incidents, {}
        self.at_work = {}
        for told in data["at_work"]:
            self._progress(told)
        for incident in data["open_incidents"]:
            trail = incident.pop("audit_trail", None) or [{}]
            self.incidents[incident["id"]] = incident | {"note": trail[-1].get("note", "")}
        self.missed = [id for id in before if id not in self.incidents][-OVER_MAX:]
        self.children = {row["name"]: row for row in data["children"]}

    def _progress(self, data: Json) -> None:
        key = data["execution_id"] or data["target_id"]
        if data["over"]:
            self.at_work.pop(key, None)
        else:
            self.at_work[key] = data

    def progress(self, target_id: str, execution_id: str | None = None) -> Json | None:
        """How far it is with what is at work: this execution, or else whatever works on the target."""
        on_it = (it for it in self.at_work.values() if it["target_id"] == target_id)
        return self.at_work.get(execution_id or "") or next(on_it, None)

    def _incident(self, data: Json) -> None:
        known = self.incidents.pop(data["id"], None) or self.over.pop(data["id"], None) or {}
        merged = {"note": ""} | known | data
        self._stale.add(data["id"])
        if data["state"] in _ENDED:
            self.over[data["id"]] = merged
            if len(self.over) > OVER_MAX:
                self._stale.add(self.over.popitem(last=False)[0])
        else:
            self.incidents[data["id"]] = merged

    def _tree(self, data: Json, at_wall_s: float) -> None:
        if data["kind"] not in _CHILD and data["kind"] != "stopped":
            return
        if data["kind"] == "stopped":
            self.children.pop(data["child"], None)
            return
        row = self.children.setdefault(data["child"], {"name": data["child"], "last_exit": None, "last_words": None})
        row |= {"state": _CHILD.get(data["kind"], row.get("state", "")), "pid": data["pid"]}
        row |= {"restarts": data.get("restarts", 0), "since_wall_s": at_wall_s}
        if data.get("exit_text"):
            row["last_exit"] = data["exit_text"]
        if data.get("last_words"):
            row["last_words"] = data["last_words"]

    def select(self, order: str, *, reverse: bool, words: str, ended: bool) -> list[str]:
        """The ids of the incidents to show: open ones, and with `ended` those that are over, that hold every word."""
        asked = order, words, ended
        if asked != self._asked:
            self._asked, self._order, self._stale = asked, [], {*self.incidents, *self.over}
        key, wanted = SORTS[order], words.lower().split()
        self._order = [it for it in self._order if it[-1] not in self._stale]
        for id in self._stale:
            it = self.incidents.get(id) or (self.over.get(id) if ended else None)
            if it is not None and (not wanted or _holds(it, wanted)):
                self._order.append((*key(it), id))
        self._stale = set()
        self._order.sort()  # in one run but for what has changed: thousands are merged, not sorted
        return [it[-1] for it in (reversed(self._order) if reverse else self._order)]

    def get(self, incident_id: str) -> Json | None:
        return self.incidents.get(incident_id) or self.over.get(incident_id)

    def about_target(self, target_id: str) -> list[Json]:
        """What is open of it."""
        return [it for it in self.incidents.values() if it["target_id"] == target_id]

    def counts(self) -> dict[str, int]:
        """Open incidents by severity; those that wait for a person under `waiting`."""
        found = Counter(it["severity"] for it in self.incidents.values())
        found["waiting"] = sum(it["state"] == _ESCALATED for it in self.incidents.values())
        return found


def _holds(incident: Json, words: list[str]) -> bool:
    names = ("target_id", "anomaly_type", "severity", "state", "runbook_id", "evidence", "note", "id")
    text = " ".join(str(incident.get(name) or "") for name in names).lower()
    return all(word in text for word in words)


def age_s(incident: Json, now_wall_s: float) -> float | None:
    """How long it has been open, or was."""
    began = wall_s(incident.get("detected_at"))
    ended = wall_s(incident.get("state_changed_at")) if incident["state"] in _ENDED else now_wall_s
    return None if began is None or ended is None else ended - began


_CHILD = {
    "started": "starting",
    "ready": "ready",
    "exited": "exited",
    "hung": "hung",
    "backoff": "backoff",
    "quarantined": "quarantined",
}
