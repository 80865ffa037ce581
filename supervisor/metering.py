"""What Prometheus is shown of the engine, the tree and the store (FR-008, R14): families of samples, made when asked.

Counters and durations are what the ledger has acknowledged, so that they go back over no restart. Labels are words of
our own, of the configuration or of its runbooks, never of a reading, so that their number is bounded; what there may be
thousands of (incidents, breakers, pauses) is counted, not named. It must never decide anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

from supervisor import __version__
from supervisor.incidents import drill, drill_run, views
from supervisor.incidents.model import BUCKETS_S, AnomalyType, Channel, Tally
from supervisor.incidents.records import PutTally, Record
from supervisor.incidents.world import World
from supervisor.messages import Family, Listening, Sample, StoreStatus

Labels = tuple[tuple[str, str], ...]

# Of `Metric` (and so of heal_metrics, where each is one row): what its `stage` is, and what is counted.
COUNTERS = {
    "heal_anomaly_detected": ("anomaly", "Incidents opened, by anomaly."),
    "heal_remediation_started": ("runbook", "Runbooks whose run was decided and written, by runbook."),
    "heal_remediation_success": ("runbook", "Repairs that the anomaly's own probe called well, by runbook."),
    "heal_remediation_failed": ("runbook", "Repairs after which the probe did not read clear in time, by runbook."),
    "heal_escalation_fired": ("tier", "Incidents that were escalated to tier 1 or above, by tier."),
    "heal_signal_sent": ("tier", "Tier 3 messages that Signal gave a receipt for."),
    "heal_runbook_created": ("", "Runbooks drafted from what people did."),
    "heal_runbook_graduated": ("runbook", "Runbooks that went from dry_run to auto_execute, by runbook."),
    "heal_db_halted": ("database", "Halts of a database, put and lifted."),
    "heal_reply_refused": ("", "Signal messages of people who may give no orders, as far as they were audited."),
    "heal_limit_reached": ("limit", "Limits of healctl's own that were reached."),
}
HISTOGRAMS = {
    "heal_detection_duration_seconds": (
        "family",
        "From the beginning of the look that found an anomaly to the decision on its incident.",
    ),
    "heal_remediation_duration_seconds": ("runbook", "From the decision on a run to the end of its last step."),
    "heal_verification_duration_seconds": ("runbook", "From the last step's end to the verdict on the repair."),
    "heal_delivery_duration_seconds": ("channel", "From the writing of a message to its receipt."),
}
_BY_RUNBOOK = ("heal_remediation_started", "heal_remediation_success", "heal_remediation_failed")
_RESULT = {
    "heal_anomaly_detected": "detected",
    "heal_remediation_started": "started",
    "heal_remediation_success": "pass",
    "heal_remediation_failed": "fail",
    "heal_escalation_fired": "fired",
    "heal_signal_sent": "sent",
    "heal_runbook_created": "created",
}


class Metering:
    """The tallies as the ledger has them, and where the metrics worker listens."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
        self._tallies = {(it.name, it.stage, it.result): it for it in tallies}
        self.listening: Listening | None = None

    def durable(self, records: Iterable[Record]) -> None:
        """A decision is in the ledger."""
        for record in records:
            if isinstance(record, PutTally):
                it = record.tally
                self._tallies[it.name, it.stage, it.result] = it

    def moved(self, address: str) -> None:
        """Another configuration: what was told of another address is over."""
        if self.listening is not None and self.listening.address != address:
            self.listening = None

    def families(
        self, world: World, children: list[dict[str, Any]], status: StoreStatus | None, trouble: str, wall_s: float
    ) -> tuple[Family, ...]:
        """Everything, now. `children`: the tree's rows; `trouble`: why the ledger takes no records."""
        return (
            _gauge("heal_build_info", "Which healctl this is.", ((("version", __version__),), 1)),
            *(self._counter(world, name) for name in COUNTERS),
            *(self._histogram(name) for name in HISTOGRAMS),
            *_engine(world),
            *_outbox(world, wall_s),
            *_tree(children),
            *_store(status, trouble),
        )

    def _counter(self, world: World, name: str) -> Family:
        label, help_text = COUNTERS[name]
        counts: Counter[Labels] = Counter({_of(label, stage, _RESULT[name]): 0 for stage in _expected(world, name)})
        for tally in self._tallies.values():
            if tally.name == name:
                counts[_of(label, tally.stage, tally.result)] += tally.count
        samples = tuple(Sample(labels, count) for labels, count in sorted(counts.items()))
        return Family(f"{name}_total", "counter", help_text, samples)

    def _histogram(self, name: str) -> Family:
        label, help_text = HISTOGRAMS[name]
        samples: list[Sample] = []
        for tally in sorted((it for it in self._tallies.values() if it.name == name), key=lambda it: it.stage):
            if len(tally.buckets) != len(BUCKETS_S):
                continue  # of another version: it begins anew with the next duration
            mine = ((label, tally.stage),)
            for bound, count in zip(BUCKETS_S, accumulate(tally.buckets), strict=True):
                samples.append(Sample((*mine, ("le", f"{bound:g}")), count, "_bucket"))
            samples.append(Sample((*mine, ("le", "+Inf")), tally.count, "_bucket"))
            samples.append(Sample(mine, tally.sum_s, "_sum"))
            samples.append(Sample(mine, tally.count, "_count"))
        return Family(name, "histogram", help_text, tuple(samples))


def _of(label: str, stage: str, result: str) -> Labels:
    if label == "tier":
        stage = stage.removeprefix("tier")
    return (*(((label, stage),) if label else ()), ("result", result))


def _expected(world: World, name: str) -> Iterable[str]:
    """What is shown as 0 before it happens first: else its first time would be no increase."""
    if name == "heal_anomaly_detected":
        return [anomaly for anomaly in AnomalyType if anomaly is not AnomalyType.DRILL]
    if name in _BY_RUNBOOK:
        return [runbook_id for runbook_id in world.runbooks if runbook_id != drill_run.RUNBOOK]
    return {
        "heal_escalation_fired": ("tier1", "tier2", "tier3"),
        "heal_signal_sent": ("tier3",),
        "heal_runbook_created": ("",),
    }.get(name, ())


def _gauge(name: str, help_text: str, *samples: tuple[Labels, float], kind: str = "gauge") -> Family:
    return Family(name, kind, help_text, tuple(Sample(labels, value) for labels, value in samples))


def _counted(name: str, help_text: str, labels: tuple[str, ...], found: Iterable[tuple[str, ...]]) -> Family:
    counts = Counter(found)
    samples = ((tuple(zip(labels, values, strict=True)), count) for values, count in sorted(counts.items()))
    return _gauge(name, help_text, *samples)


def _engine(world: World) -> Iterable[Family]:
    yield _counted(
        "heal_open_incidents",
        "Incidents that are open.",
        ("anomaly", "severity", "state"),
        ((i.anomaly, i.severity, i.state) for i in world.incidents.values() if i.anomaly is not AnomalyType.DRILL),
    )
    halted = (((("database", h.database), ("phase", h.phase.value)), 1) for h in world.halts.values())
    yield _gauge("heal_database_halted", "Databases that nobody may write (R10).", *halted)
    pauses = [("engine", "family") for _ in world.pauses]
    pauses += [("person", pause.scope.value) for pause in world.operator_pauses.values()]
    yield _counted("heal_pauses", "Pauses of automatic change, by who set them.", ("by", "scope"), pauses)
    yield _counted(
        "heal_breakers",
        "Breakers that are open, or allow one more try.",
        ("runbook", "state"),
        ((b.runbook_id, "half_open" if b.half_open else "open") for b in world.breakers.values()),
    )
    stats = views.stats(world)["self_healing_status"]
    modes = (((("mode", mode),), count) for mode, count in stats["runbooks_by_mode"].items())
    yield _gauge("heal_runbooks", "Runbooks by mode.", *modes)
    yield _gauge("heal_targets", "Targets of the configuration.", ((), len(world.targets)))
    last = {
        "remediation": world.last_remediation_wall_s,
        "escalation": world.last_escalation_wall_s,
        "signal_sent": world.last_signal_wall_s,
        "drill": drill.last_wall_s(world),
    }
    for what, at_wall_s in last.items():
        shown = () if at_wall_s is None else (((), at_wall_s),)
        words = what.replace("_", " ")
        yield _gauge(f"heal_last_{what}_timestamp_seconds", f"When the last {words} was, Unix time.", *shown)
    good = drill.passed(world)
    shown = () if good is None else (((), float(good)),)
    yield _gauge("heal_last_drill_success", "Whether the last drill reached every stage, 1 or 0.", *shown)


def _outbox(world: World, wall_s: float) -> Iterable[Family]:
    rows = [row for row in world.outbox.values() if not row.held]  # what waits for the morning is not late
    pending = Counter(row.channel for row in rows)
    oldest = dict.fromkeys(Channel, wall_s)
    for row in rows:
        oldest[row.channel] = min(oldest[row.channel], row.created_wall_s)
    counts = (((("channel", channel.value),), pending[channel]) for channel in Channel)
    yield _gauge("heal_outbox_pending", "Messages without a receipt.", *counts)
    ages = (((("channel", channel.value),), wall_s - oldest[channel]) for channel in Channel)
    yield _gauge("heal_outbox_oldest_age_seconds", "Age of the oldest message without a receipt, 0 without one.", *ages)


def _tree(children: list[dict[str, Any]]) -> Iterable[Family]:
    rows = [((("worker", row["name"]),), row) for row in children]
    up = ((labels, float(row["state"] == "ready")) for labels, row in rows)
    yield _gauge("heal_worker_up", "Whether a worker of healctl's own is ready.", *up)
    restarts = ((labels, row["restarts"]) for labels, row in rows)
    help_text = "How often it was restarted since healctl was started."
    yield _gauge("heal_worker_restarts_total", help_text, *restarts, kind="counter")


def _store(status: StoreStatus | None, trouble: str) -> Iterable[Family]:
    yield _gauge("heal_ledger_up", "Whether the ledger takes records.", ((), float(not trouble)))
    size = () if status is None else (((), status.ledger_bytes),)
    yield _gauge("heal_ledger_size_bytes", "Size of the ledger with its log.", *size)
    found = () if status is None else status.projections
    behind = (((("projection", it.name),), it.behind) for it in found)
    yield _gauge("heal_projection_behind_revisions", "Revisions of the ledger that it does not have yet.", *behind)
    lag = (((("projection", it.name),), it.behind_for_s) for it in found)
    yield _gauge("heal_projection_behind_seconds", "For how long it has not been up to date.", *lag)
