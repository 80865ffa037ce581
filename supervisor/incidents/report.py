"""How well healctl does: times to detect and to repair, what healed by itself, false actions, pages (DESIGN §6). Pure.

A page counts when it has a receipt; what was written and has none (nobody took it, or no way to Signal is configured)
is told beside it. A drill counts nowhere (`store.reporting` leaves it out).

What is told is what was written down. When something broke nobody knows exactly: it was later than its probe's last
look that was well, and earlier than the look that found it. Both bounds of the time to detection are told, never a
point between them; an incident without an earlier look (the first since a start) counts in neither upper figure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import TypeVar

import msgspec

from supervisor.errors import Refused
from supervisor.incidents.counted import PastAction, PastIncident, PastMark, PastPage
from supervisor.incidents.model import ActedBy, State
from supervisor.incidents.orders import Verdict
from supervisor.incidents.views import Json, stamp

WEEK_S = 7 * 86_400.0
GROUPS_MAX = 50  # with the most incidents
ROWS_MAX = 250_000  # of a kind: some 300 MiB of memory while it is added up (tests/bench/bench_report.py)
NONE = "-"  # the group of what is nobody's: an incident without a runbook, a page about none


_WORDS = ("anomaly", "target_id", "state", "runbook_id", "acted_by")
Row = TypeVar("Row", PastIncident, PastAction)


class By(StrEnum):
    ANOMALY = "anomaly"
    TARGET = "target"
    RUNBOOK = "runbook"


class Report:
    """Takes what was recorded, in any order; what comes twice (in the archive, and in the ledger still) counts once."""

    def __init__(self, since_wall_s: float, now_wall_s: float) -> None:
        self._since = since_wall_s
        self._now = now_wall_s
        self._oldest = now_wall_s
        self._incidents: dict[str, PastIncident] = {}
        self._actions: dict[str, PastAction] = {}
        self._pages: dict[str, PastPage] = {}
        self._marks: dict[str, PastMark] = {}
        self._undone: set[str] = set()
        self._passed_over: list[str] = []
        self._words: dict[str, str] = {}

    def take(
        self,
        incidents: Iterable[PastIncident],
        actions: Iterable[PastAction],
        pages: Iterable[PastPage],
        marks: Iterable[PastMark],
    ) -> None:
        for incident in incidents:
            self._incidents[incident.id] = self._slim(incident)
        for action in actions:
            if action.undoes:
                self._undone.add(action.undoes)
            elif action.by_itself and action.acts and action.ran:
                self._actions[action.id] = self._slim(action)
        self._pages |= {it.id: it for it in pages}
        for mark in marks:
            old = self._marks.get(mark.incident_id)
            if old is None or old.at_wall_s <= mark.at_wall_s:
                self._marks[mark.incident_id] = mark

        if max(len(self._incidents), len(self._actions), len(self._pages)) > ROWS_MAX:
            raise Refused(
                f"more than {ROWS_MAX} incidents, actions or pages are too many for one report", "less --since"
            )

    def _slim(self, row: Row) -> Row:
        """The same with its words shared: there are few, and many rows."""
        words = {name: value for name in _WORDS if isinstance(value := getattr(row, name, None), str)}
        return msgspec.structs.replace(row, **{name: self._words.setdefault(it, it) for name, it in words.items()})

    def reaches_back(self, oldest_wall_s: float) -> None:
        """Something is recorded of that time."""
        self._oldest = min(self._oldest, oldest_wall_s)

    def passed_over(self, what: str) -> None:
        """Something could not be read."""
        self._passed_over.append(what)

    def body(self, by: By | None = None) -> Json:
        """The report; with `by` its figures for each group, too."""
        since, actions = max(self._since, min(self._oldest, self._now)), list(self._actions.values())
        pages = list(self._pages.values())
        weeks = max(self._now - since, WEEK_S) / WEEK_S
        answer: Json = {
            "since": stamp(self._since),
            "until": stamp(self._now),
            "recorded_since": stamp(since),
            **self._figures(list(self._incidents.values()), actions, pages, weeks),
            "passed_over": self._passed_over,
        }
        if by is not None:
            answer |= {"by": by.value, **self._groups(by, actions, pages, weeks)}
        return answer

    def _groups(self, by: By, actions: Sequence[PastAction], pages: Sequence[PastPage], weeks: float) -> Json:
        found: dict[str, tuple[list[PastIncident], list[PastAction], list[PastPage]]] = {}
        for incident in self._incidents.values():
            found.setdefault(_group(by, incident), ([], [], []))[0].append(incident)
        for action in actions:
            if by is By.ANOMALY:
                name = _group(by, self._incidents.get(action.incident_id or ""))
            else:
                name = action.target_id if by is By.TARGET else action.runbook_id
            found.setdefault(name, ([], [], []))[1].append(action)
        for page in pages:
            name = _group(by, self._incidents.get(page.incident_id or ""))
            found.setdefault(name, ([], [], []))[2].append(page)
        most = sorted(found.items(), key=lambda it: (-len(it[1][0]), it[0]))
        groups = [{"name": name, **self._figures(*parts, weeks)} for name, parts in most[:GROUPS_MAX]]
        return {"groups": groups, "groups_left_out": max(0, len(most) - GROUPS_MAX)}

    def _figures(
        self,
        incidents: Sequence[PastIncident],
        actions: Sequence[PastAction],
        pages: Sequence[PastPage],
        weeks: float,
    ) -> Json:
        over = [it for it in incidents if it.resolved_wall_s is not None]
        resolved = [it for it in over if it.state == State.RESOLVED]
        healed = [it for it in resolved if it.acted_by == ActedBy.RUNBOOK]
        ended = [it for it in over if it.state != State.DISMISSED]
        false = [it for it in actions if it.id in self._undone or self._should_not_have(it)]
        arrived = [page for page in pages if page.delivered]
        first = sum(1 for page in arrived if page.first)
        return {
            "incidents": {
                "detected": len(incidents),
                "open": len(incidents) - len(over),
                "resolved": len(resolved),
                "resolved_by_runbook": len(healed),
                "self_resolved": sum(1 for it in over if it.state == State.SELF_RESOLVED),
                "dismissed": sum(1 for it in over if it.state == State.DISMISSED),
            },
            "mttd": {
                "at_most": _spread((it.well_wall_s, it.detected_wall_s) for it in incidents),
                "at_least": _spread((it.looked_wall_s, it.detected_wall_s) for it in incidents),
            },
            "mttr": _spread((it.detected_wall_s, it.resolved_wall_s) for it in ended),
            "mttr_by_runbook": _spread((it.detected_wall_s, it.resolved_wall_s) for it in healed),
            "auto_resolved_percent": _percent(len(healed), len(resolved)),
            "actions": len(actions),
            "false_actions": len(false),
            "false_action_percent": _percent(len(false), len(actions)),
            "pages": first,
            "pages_repeated": len(arrived) - first,
            "pages_without_receipt": len(pages) - len(arrived),
            "pages_per_week": round(first / weeks, 2),
        }

    def _should_not_have(self, action: PastAction) -> bool:
        mark = self._marks.get(action.incident_id or "")
        return mark is not None and mark.verdict == Verdict.SHOULD_NOT_HAVE


def _group(by: By, incident: PastIncident | None) -> str:
    if incident is None:
        return NONE
    return {By.ANOMALY: incident.anomaly, By.TARGET: incident.target_id, By.RUNBOOK: incident.runbook_id or NONE}[by]


def _spread(spans: Iterable[tuple[float | None, float | None]]) -> Json:
    """Median and p95 by nearest rank, of those whose both ends are known; None of nothing. A wall clock that was set
    back makes none negative."""
    ordered = sorted(max(0.0, end - begin) for begin, end in spans if begin is not None and end is not None)
    return {"count": len(ordered), "median_s": rank(ordered, 0.5), "p95_s": rank(ordered, 0.95)}


def rank(ordered: Sequence[float], share: float) -> float | None:
    """The smallest of `ordered` that at least this share of them does not exceed."""
    return round(ordered[math.ceil(share * len(ordered)) - 1], 3) if ordered else None


def _percent(part: int, whole: int) -> float | None:
    return round(100.0 * part / whole, 1) if whole else None
