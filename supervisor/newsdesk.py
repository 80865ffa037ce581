"""The feed: every durable record and every tree event, numbered, for `events --follow` and the dashboard. What people
read in the log of an incident's course, each line with the incident's id, is written here as well."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from supervisor.bus import Publisher
from supervisor.house import reload_json
from supervisor.incidents import codes, views
from supervisor.incidents.records import (
    AddMetric,
    AddTrail,
    PutExecution,
    PutIncident,
    PutOutbox,
    Record,
)
from supervisor.messages import Event, Reloaded, TreeEvent
from supervisor.visible import visible

log = logging.getLogger(__name__)


class NewsDesk:
    """Publishes; `seq` is the number of the newest event.

    Kinds: incident, trail, execution, message, metric, tree, reload, progress.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.seq = 0

    def records(self, records: list[Record], wall_s: float) -> None:
        targets = {
            record.incident.id: record.incident.target_id for record in records if isinstance(record, PutIncident)
        }
        for record in records:
            match record:
                case PutIncident(incident):
                    row = views.incident_json(incident, ())
                    del row["audit_trail"]
                    self._publish("incident", row, wall_s)
                case AddTrail(entry):
                    target = targets.get(entry.incident_id, "")
                    words = f"{target} is {entry.state} ({entry.actor}): {visible(entry.note)}"
                    log.info("incident=%s %s", entry.incident_id, words)  # read by `tree.lines`
                    self._publish("trail", {"incident_id": entry.incident_id, **views.trail_json(entry)}, wall_s)
                case PutExecution(execution):
                    self._publish("execution", views.execution_answer(execution), wall_s)
                case PutOutbox(row):
                    # What agents may hear: a page's code is for the person alone (R15).
                    shown = msgspec.structs.replace(row, body=codes.masked(row.body)) if row.offer_id else row
                    self._publish("message", msgspec.to_builtins(shown), wall_s)
                case AddMetric(metric):
                    self._publish("metric", msgspec.to_builtins(metric), wall_s)
                case _:
                    pass  # timers, breakers, runbook states: in the snapshot, not news

    def tree(self, event: TreeEvent) -> None:
        self._publish("tree", msgspec.to_builtins(event), event.at_wall_s)

    def reloaded(self, news: Reloaded) -> None:
        self._publish("reload", reload_json(news) or {}, news.at_wall_s)

    def progress(self, told: dict[str, Any], wall_s: float) -> None:
        self._publish("progress", told, wall_s)

    def close(self) -> None:
        self._publisher.close()

    def _publish(self, kind: str, data: dict[str, Any], wall_s: float) -> None:
        self.seq += 1
        self._publisher.publish(Event(self.seq, kind, wall_s, msgspec.json.encode(data)))
