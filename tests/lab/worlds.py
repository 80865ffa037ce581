"""Worlds as values, for tests that walk from one to many: cheap copies, a ledger in memory, a comparable form.

`Ledger` is what `supervisor.store` does with records, as plain dictionaries that share what did not change; that it
does the same is itself a test (tests/model/test_exhaustive.py). Nothing here decides anything.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable
from copy import copy, deepcopy
from dataclasses import fields
from typing import Any

import msgspec

from supervisor.incidents import records as r
from supervisor.incidents.model import Execution, OutboxState, Program, TrailEntry, is_over
from supervisor.incidents.policy import Policy
from supervisor.incidents.world import Storm, World

_FIELDS = tuple(field.name for field in fields(World))
_SHARED = frozenset({"runbooks", "targets", "tallies", "limits"})  # dictionaries of plain values


def copied(world: World) -> World:
    """A world of its own: what is frozen is shared."""
    new: World = World.__new__(World)
    for name in _FIELDS:
        value = getattr(world, name)
        kind = type(value)
        if kind is dict:
            value = {key: _copied(it) for key, it in value.items()} if name not in _SHARED else dict(value)
        elif kind in (list, set, deque):
            value = copy(value)
        elif name == "classifier":
            value = copy(value)
            value.counts = dict(value.counts)
        elif name == "paging":
            value = deepcopy(value)
        setattr(new, name, value)
    return new


def _copied(value: Any) -> Any:
    if type(value) in (list, set):
        return copy(value)
    return Storm(list(value.canaries), set(value.verified), value.witness) if type(value) is Storm else value


class Ledger:
    """What has been written. `after` gives the ledger with more records; this one stays as it is.

    Claims and programs are columns of the store's own, which no decision overwrites.
    """

    TABLES = ("incidents", "trail", "executions", "outbox", "states", "timers", "breakers", "pauses", "known", "halts",
              "tallies", "claims", "programs", "operator_pauses")  # fmt: skip

    def __init__(self) -> None:
        self.tables: dict[str, dict[Any, Any]] = {name: {} for name in self.TABLES}

    def __getitem__(self, table: str) -> dict[Any, Any]:
        return self.tables[table]

    def after(self, records: Iterable[r.Record]) -> Ledger:
        new = Ledger.__new__(Ledger)
        new.tables = dict(self.tables)
        own: set[str] = set()
        for record in records:
            for table, key, value in _writes(record):
                if table not in own:
                    own.add(table)
                    new.tables[table] = dict(new.tables[table])
                rows = new.tables[table]
                if value is None:
                    rows.pop(key, None)
                elif table == "trail":
                    assert key not in rows, f"the audit trail would be overwritten: {key}"
                    rows[key] = value
                else:
                    rows[key] = value
        return new

    def claimed(self, execution_id: str, by: str, programs: tuple[Program, ...]) -> Ledger:
        """The executor's compare-and-set: the first claim stands."""
        new = self.after(())
        if execution_id not in self["claims"]:
            new.tables["claims"] = {**self["claims"], execution_id: by}
            new.tables["programs"] = {**self["programs"], execution_id: programs}
        return new

    def execution(self, execution_id: str) -> Execution | None:
        """As the store answers FetchExecution."""
        found: Execution | None = self["executions"].get(execution_id)
        if found is None:
            return None
        programs = self["programs"].get(execution_id, ())
        return msgspec.structs.replace(found, claimed_by=self["claims"].get(execution_id, ""), programs=programs)

    def trails(self) -> dict[str, list[TrailEntry]]:
        """Of the open incidents."""
        found: dict[str, list[TrailEntry]] = {}
        for incident_id, n in sorted(self["trail"]):
            if self["incidents"][incident_id].open:
                found.setdefault(incident_id, []).append(self["trail"][incident_id, n])
        return found

    def snapshot(self, epoch: int, ledger_id: str) -> r.Snapshot:
        executions = [self.execution(execution_id) for execution_id in self["executions"]]
        rows = self["incidents"].values()
        return r.Snapshot(
            ledger_id=ledger_id,
            epoch=epoch,
            open_incidents=tuple(i for i in rows if i.open),
            recent_closed=tuple(i for i in rows if not i.open),
            executions=tuple(x for x in executions if x is not None and not is_over(x)),
            recent_executions=tuple(x for x in executions if x is not None),
            outbox=tuple(row for row in self["outbox"].values() if row.state is OutboxState.PENDING),
            runbook_states=tuple(self["states"].values()),
            timers=tuple(self["timers"].values()),
            breakers=tuple(self["breakers"].values()),
            pauses=tuple(self["pauses"].values()),
            known=tuple(self["known"].values()),
            halts=tuple(self["halts"].values()),
            operator_pauses=tuple(self["operator_pauses"].values()),
            tallies=tuple(self["tallies"].values()),
        )

    def forget(self, now_wall_s: float, policy: Policy) -> Ledger:
        """Without what a snapshot would not give either: long closed, long run, and delivered."""
        recent = now_wall_s - policy.reopen_window_s

        def kept(incident: Any) -> bool:
            dismissed = (incident.dismiss_until_wall_s or 0.0) > now_wall_s
            return bool(incident.open or dismissed or (incident.resolved_wall_s or 0.0) >= recent)

        new = self.after(())
        incidents = {key: it for key, it in self["incidents"].items() if kept(it)}
        if len(incidents) < len(self["incidents"]):
            new.tables["incidents"] = incidents
            new.tables["trail"] = {key: it for key, it in self["trail"].items() if key[0] in incidents}
        needed = {i.execution_id for i in incidents.values() if i.open}
        since = now_wall_s - policy.breaker_window_s
        new.tables["executions"] = {
            key: it
            for key, it in self["executions"].items()
            if not is_over(it) or key in needed or it.created_wall_s >= since
        }
        return new


def _writes(record: r.Record) -> list[tuple[str, Any, Any]]:
    """(table, key, value; None deletes)."""
    match record:
        case r.PutIncident(it):
            return [("incidents", it.id, it)]
        case r.AddTrail(it):
            return [("trail", (it.incident_id, it.n), it)]
        case r.PutExecution(it):
            return [("executions", it.id, it)]
        case r.PutOutbox(it):
            return [("outbox", it.id, it)]
        case r.PutRunbookState(it):
            return [("states", (it.runbook_id, it.target_id), it)]
        case r.SetTimer(it):
            return [("timers", (it.kind, it.subject), it)]
        case r.DropTimer(kind, subject):
            return [("timers", (kind, subject), None)]
        case r.PutBreaker(it):
            return [("breakers", (it.runbook_id, it.resource), it)]
        case r.DropBreaker(runbook_id, resource):
            return [("breakers", (runbook_id, resource), None)]
        case r.PutPause(it):
            return [("pauses", it.family, it)]
        case r.DropPause(family):
            return [("pauses", family, None)]
        case r.PutOperatorPause(it):
            return [("operator_pauses", it.key, it)]
        case r.DropOperatorPause(key):
            return [("operator_pauses", key, None)]
        case r.PutKnown(target_id):
            return [("known", target_id, record)]
        case r.DropKnown(target_id):
            return [("known", target_id, None)]
        case r.PutHalt(it):
            return [("halts", it.database, it)]
        case r.DropHalt(database):
            return [("halts", database, None)]
        case r.PutTally(it):
            return [("tallies", (it.name, it.stage, it.result), it)]
        case r.PutRunbook() | r.AddMetric() | r.AddAudit():
            return []
        case _:
            raise NotImplementedError(f"this ledger takes no {type(record).__name__}")


# Where something happens in the engine's life; between two of them it makes no difference when.
MARKS_S = (0.5, 3.0, 8.0, 32.0, 62.0, 310.0, 660.0, 3_700.0, 14_500.0, 86_500.0)


def span(seconds: float | None) -> int:
    """A duration as the number of its bucket; -1 for none."""
    return -1 if seconds is None else bisect_left(MARKS_S, seconds)
