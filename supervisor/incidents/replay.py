"""Replay before trust: what a runbook would have done in recorded incidents, had it been approved (R4). Pure.

It tells only what was written down. Whether it would have acted is judged anew from the reading on which the decision
rested, by the same rules as then; whether it would have helped, from what ran (this version, or the same steps) or
from what its dry run said. What nobody recorded is unknown, and is counted as that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from supervisor.incidents.classify import Classifier
from supervisor.incidents.judge import Judge
from supervisor.incidents.ladder import fits
from supervisor.incidents.model import (
    Authority,
    Execution,
    ExecutionState,
    Incident,
    Instant,
    Runbook,
    StageEntry,
    State,
    Status,
    Target,
    TrailEntry,
)
from supervisor.incidents.policy import ladder
from supervisor.incidents.readings import HealthReading, PipelineData
from supervisor.incidents.views import Json, stamp

NAMED_MAX = 20  # targets, and incidents in which it would have acted on a healthy target


class Past(msgspec.Struct, frozen=True):
    """One incident as it was recorded."""

    incident: Incident
    trail: tuple[TrailEntry, ...]
    executions: tuple[Execution, ...] = ()


class Act(StrEnum):
    """Would it have acted?"""

    YES = "would_act"
    HEALED_BEFORE = "healed_before"  # its fresh probe read clear first
    NOT_REACHED = "not_reached"  # the rung before it had ended it
    CANNOT = "cannot_run"  # it does not fit the target, or that is configured no more
    UNDECIDED = "undecided"  # it ended, or stands, before anything was decided
    UNKNOWN = "grounds_unknown"  # the reading was not recorded, or says nothing by itself


class Help(StrEnum):
    """Would it have helped?"""

    RAN = "ran_and_verified"
    PREDICTED = "predicted_by_dry_run"
    FAILED = "ran_and_failed"
    TOLD = "ran_and_told"  # it is none that cures
    NOT_PREDICTED = "not_predicted_by_dry_run"
    UNKNOWN = "outcome_unknown"


class Replay:
    """Takes incidents one by one; `body` is the sum."""

    def __init__(self, runbook: Runbook, runbooks: Sequence[Runbook]) -> None:
        self.runbook = runbook
        self._version = runbook.version()
        self._runbooks = runbooks
        self._seen: set[str] = set()
        self._sums: Counter[str] = Counter()
        self._targets: dict[str, Counter[str]] = {}
        self._healthy: list[str] = []
        self._passed_over: list[str] = []

    def take(self, past: Past, target: Target | None) -> None:
        """`target` as it is configured now; None when it is not any more. One that comes twice counts once."""
        if past.incident.id in self._seen:  # in the archive, and in the ledger still
            return
        self._seen.add(past.incident.id)
        sums = self._targets.setdefault(past.incident.target_id, Counter())
        act, helped, healthy = self._judge(past, target)
        found = ["incidents", act.value]
        if act is Act.YES:
            found.append(helped.value)
            if helped in (Help.RAN, Help.PREDICTED):
                found.append("would_resolve")
        if healthy:
            found.append("acted_on_healthy")
            self._healthy.append(past.incident.id)
        for counter in (self._sums, sums):
            counter.update(found)

    def passed_over(self, what: str) -> None:
        """Something could not be read."""
        self._passed_over.append(what)

    def _judge(self, past: Past, target: Target | None) -> tuple[Act, Help, bool]:
        helped = self._help(past)
        by_itself = [x for x in past.executions if self._same(x) and x.authority is not Authority.PERSON]
        healthy = any(_was(past, _entry_of(past, x), x.reading) is Status.CLEAR for x in by_itself)
        if not fits(self.runbook, target) or not self.runbook.is_for(past.incident.target_id):
            return Act.CANNOT, helped, healthy
        before = self._before(past.incident)
        if any(x.verified and x.runbook.id in before for x in past.executions):
            return Act.NOT_REACHED, helped, healthy
        entry = next((one for one in past.trail if one.state in _DECIDED), None)
        if entry is None or entry.actor != "engine":  # what a person did there and then says nothing of us
            healed = past.incident.state is State.SELF_RESOLVED
            return (Act.HEALED_BEFORE if healed else Act.UNDECIDED), helped, healthy
        was = _was(past, entry, entry.reading)
        if was is Status.FIRING:
            return Act.YES, helped, healthy
        # Decided on a reading that was clear: that is what a replay is to find.
        return Act.UNKNOWN, helped, healthy or was is Status.CLEAR

    def _before(self, incident: Incident) -> set[str]:
        """The rungs that stand before it."""
        ids = [rung.id for rung in ladder(self._runbooks, incident.anomaly, incident.target_id)]
        return set(ids[: ids.index(self.runbook.id)]) if self.runbook.id in ids else set()

    def _same(self, execution: Execution) -> bool:
        same = execution.version == self._version or execution.runbook.steps == self.runbook.steps
        return execution.runbook.id == self.runbook.id and same

    def _help(self, past: Past) -> Help:
        """By the newest of what ran; else by its dry run."""
        for execution in reversed([x for x in past.executions if self._same(x)]):
            if not self.runbook.verifies and execution.state is ExecutionState.SUCCEEDED:
                return Help.TOLD  # whatever became of the anomaly: it cures nothing
            if execution.verified:
                return Help.RAN
            if execution.verified is False or execution.state is ExecutionState.FAILED:
                return Help.FAILED
        for run in past.incident.dry_runs:
            if (run.runbook_id, run.version) == (self.runbook.id, self._version):
                return Help.PREDICTED if run.predicts_clear else Help.NOT_PREDICTED
        return Help.UNKNOWN

    def body(self, since_wall_s: float, target_id: str | None) -> Json:
        most = sorted(self._targets.items(), key=lambda it: (-it[1]["incidents"], it[0]))[:NAMED_MAX]
        return {
            "runbook_id": self.runbook.id,
            "version": self._version,
            "mode": "dry_run",
            "history": True,
            "target_id": target_id,
            "since": stamp(since_wall_s),
            **self._told(self._sums),
            "acted_on_healthy_incidents": self._healthy[:NAMED_MAX],
            "targets": [{"target_id": name, **self._told(sums)} for name, sums in most],
            "passed_over": self._passed_over,
        }

    def _told(self, sums: Counter[str]) -> Json:
        names = ("incidents", *Act, "would_resolve", *Help, "acted_on_healthy")
        return {str(name): sums[str(name)] for name in names}


_DECIDED = frozenset({State.REMEDIATING, State.ESCALATED})


def _entry_of(past: Past, execution: Execution) -> TrailEntry | None:
    return next((one for one in past.trail if one.reading is not None and one.reading == execution.reading), None)


def _was(past: Past, entry: TrailEntry | None, reading: HealthReading | None) -> Status:
    """What this reading says of the incident's anomaly, judged anew as it was then."""
    if reading is None:
        return Status.UNKNOWN
    stage = entry.stage if entry is not None else None
    if isinstance(reading.data, PipelineData) and stage is None:
        return Status.UNKNOWN  # how long the task had stood there is not in the reading
    now = Instant(_steady_s(stage, reading), reading.taken_wall_s, reading.taken_mono_s)
    anomaly = past.incident.anomaly
    verdicts = Classifier().observe(Judge(reading, now, anomaly.__eq__, stage))
    return next((verdict.status for verdict in verdicts if verdict.anomaly is anomaly), Status.UNKNOWN)


def _steady_s(stage: StageEntry | None, reading: HealthReading) -> float:
    """The steady clock at the reading, as far as a rule asks for it: since when the task stood in its stage."""
    if stage is None:
        return reading.taken_wall_s
    return stage.entered_steady_s + reading.taken_wall_s - stage.entered_wall_s
