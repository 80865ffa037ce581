"""A drill as values: what it is known by, how far it has come, and its words for people (DESIGN §6). Pure.

A drill is an incident of an anomaly, a family and a target of its own, so that nobody can take it for a real one; it
goes the same way as any other, to real receipts. `drill.py` lets it begin and end.
"""

from __future__ import annotations

from typing import Any

import msgspec

from supervisor.incidents.judge import Judge
from supervisor.incidents.model import AnomalyType, Channel, Instant, Severity, Status, Verdict
from supervisor.incidents.readings import DrillData

FAMILY = "drill"
TARGET = "healctl:drill"  # no configuration can name it: a colon is not allowed there
RUNBOOK = "rb-drill"
KIND = "drill"  # of its outbox rows
KEY = (AnomalyType.DRILL, TARGET)
STAGES = frozenset({str(AnomalyType.DRILL), RUNBOOK})  # of FR-008's events: those of a drill are none
LABEL = "DRILL: this is a drill, nothing is wrong"
NO_PAGE = "no page can be sent: [notify.signal] transports names no way to Signal"

# Every stage of a good drill; then one for each channel, and CLOSED.
DETECTED, DURABLE, FRESH_PROBE, DISPATCHED = "detected", "durable", "fresh_probe", "dispatched"
STEP_ENDED, VERIFIED, CLOSED = "step_ended", "verified", "closed"
ALWAYS = (DETECTED, DURABLE, FRESH_PROBE, DISPATCHED, STEP_ENDED, VERIFIED)
ASKED = "asked"  # of the process around the engine: make the trouble that the probe shall see
OVER = "over"  # of the same: take away whatever of it is left


class Stage(msgspec.Struct, frozen=True):
    """One stage that was reached: when, how long after the drill began, and what proves it."""

    name: str
    at_wall_s: float
    after_s: float
    detail: str = ""


class DrillRun(msgspec.Struct, frozen=True):
    """One drill, in memory alone: one that a restart cuts off has failed. `passed` is None until it is over."""

    id: str
    by: str
    channels: tuple[Channel, ...]
    timeout_s: float
    began_steady_s: float
    began_wall_s: float
    pages: bool = True  # somebody is configured to be paged
    incident_id: str = ""
    stages: tuple[Stage, ...] = ()
    passed: bool | None = None
    why: str = ""  # it failed
    cancelled: bool = False  # by a person, whom `why` names: it has not passed, and it has not failed

    @property
    def over(self) -> bool:
        return self.passed is not None

    def has(self, name: str) -> bool:
        return any(stage.name == name for stage in self.stages)

    def reached(self, name: str, now: Instant, detail: str = "") -> DrillRun:
        """With this stage, unless it has it already."""
        if self.has(name):
            return self
        stage = Stage(name, now.wall_s, max(0.0, now.steady_s - self.began_steady_s), detail)
        return msgspec.structs.replace(self, stages=(*self.stages, stage))

    def missing(self) -> tuple[str, ...]:
        """The stages that it has not reached, in their order."""
        return tuple(name for name in (*ALWAYS, *self.channels) if not self.has(name))


def rule(judge: Judge, data: DrillData) -> tuple[Verdict, ...]:
    """The made-up trouble is there, or it is not."""
    evidence = "this is a drill: its made-up trouble is there" if data.staged else "no drill's trouble is there"
    status = Status.FIRING if data.staged else Status.CLEAR
    return (judge.verdict(AnomalyType.DRILL, status, Severity.HIGH, evidence, "nothing is wrong, wait for its end"),)


def body(run: DrillRun, channel: Channel) -> str:
    """What its page says. It speaks of no trouble, since there is none (NFR-003)."""
    took_s = run.stages[-1].after_s if run.stages else 0.0
    lines = [
        f"{LABEL}.",
        f"A made-up incident was found, repaired and verified in {took_s:.2f} s; this message is its page.",
        "Nothing to decide.",
    ]
    if channel is Channel.SYNAPSE:
        lines += [f"Asked for by {run.by}.", f"Incident: {run.incident_id}"]
    return "\n".join(lines)


def verdict(run: DrillRun) -> str:
    """One sentence for people: did it pass, and what did it not try?"""
    if not run.over:
        return "it is under way"
    if not run.passed:
        return run.why if run.cancelled else f"FAILED: {run.why}"
    receipts = " and ".join(channel.value.capitalize() for channel in run.channels)
    text = f"passed: every stage was reached, {receipts} gave a receipt"
    if Channel.SIGNAL in run.channels:
        return text
    return f"{text}; Signal was not tried" + ("" if run.pages else f", {NO_PAGE}")


def run_json(run: DrillRun, stamp: Any) -> dict[str, Any]:
    """`stamp` turns a wall clock's time into text (`views.stamp`)."""
    return {
        "drill_id": run.id,
        "by": run.by,
        "incident_id": run.incident_id or None,
        "channels": [channel.value for channel in run.channels],
        "pages_configured": run.pages,
        "began_at": stamp(run.began_wall_s),
        "timeout_s": run.timeout_s,
        "over": run.over,
        "passed": run.passed,
        "cancelled": run.cancelled,
        "verdict": verdict(run),
        "stages": [
            {"stage": it.name, "at": stamp(it.at_wall_s), "after_ms": round(it.after_s * 1000, 3), "detail": it.detail}
            for it in run.stages
        ],
        "missing": list(run.missing()),
    }
