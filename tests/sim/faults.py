"""What can go wrong besides the world: messages, crashes, clocks, disks. Armed by the schedule, counted when they hit.

A fault of the schedule is armed for a while and hits the next messages of its kind, or the next process that reaches
its point; so every single one can be left out when a failure is shrunk.
"""

from __future__ import annotations

from supervisor.messages import (
    Ack,
    Acks,
    Cancel,
    Claim,
    ClaimAnswer,
    Claimed,
    Commit,
    Deliver,
    DeliveryReport,
    Dispatch,
    EpochOpened,
    ExecutionFound,
    ExecutionRefused,
    FetchExecution,
    LedgerTrouble,
    Nack,
    OpenEpoch,
    PlanAnswer,
    PlanRequest,
    ProbeNow,
    ProgramExited,
    ProgramStarted,
    Readings,
    Reply,
    ReplyReceived,
    Request,
    Settle,
    Settled,
    StepReport,
)
from tests.sim.coverage import Coverage

# What the brief calls the kinds of messages; whatever stands nowhere here travels undisturbed (Hello, status, ...).
KIND_OF = {
    Dispatch: "dispatch",
    Claim: "claim",
    ClaimAnswer: "claim",
    Claimed: "claimed",
    StepReport: "step_report",
    ExecutionRefused: "step_report",
    ProgramExited: "step_report",
    ProgramStarted: "program",
    Readings: "readings",
    ProbeNow: "probe_now",
    DeliveryReport: "delivery_report",
    Deliver: "deliver",
    Commit: "commit",
    Acks: "ack",
    Ack: "ack",
    Nack: "ack",
    LedgerTrouble: "ack",
    Cancel: "cancel",
    Settle: "settle",
    Settled: "settle",
    FetchExecution: "fetch",
    ExecutionFound: "fetch",
    PlanRequest: "plan",
    PlanAnswer: "plan",
    OpenEpoch: "epoch",
    EpochOpened: "epoch",
    Request: "order",
    Reply: "order",
    ReplyReceived: "reply",
}
MESSAGES = tuple(sorted({*KIND_OF.values(), "tree"}))
# Root and child share a socket pair, which loses nothing and keeps the order.
NEVER_LOST = frozenset({"tree"})
POINTS = {
    "healer": ("decide.before", "decide.after", "dispatch.before", "dispatch.after", "publish.before"),
    "store": ("commit.before", "commit.after", "ack.before", "ack.after"),
    "executor": (
        "claim.before", "claim.after", "evidence.after", "program.before", "program.recorded", "program.released",
        "result.before", "result.after",
    ),
    "notifier": ("send.before", "send.after", "receipt.before", "receipt.after"),
}  # fmt: skip
OWNER = {point: name for name, points in POINTS.items() for point in points}
LATENCY_S = 0.001
ARMED_S = 120.0  # a fault that has met nothing by then is over


class Fates:
    """What becomes of each message, and who dies where."""

    def __init__(self, coverage: Coverage) -> None:
        self._coverage = coverage
        self.armed: dict[str, list[list[object]]] = {}  # kind of message -> faults
        self.points: dict[str, float] = {}
        self.disk_slow_until_s = 0.0
        self.disk_slow_s = 0.0
        self.hits = 0

    def arm_message(self, kind: str, what: str, count: int, seconds: float, now_s: float) -> None:
        self.armed.setdefault(kind, []).append([what, count, seconds, now_s + ARMED_S])

    def arm_point(self, point: str, now_s: float) -> None:
        self.points[point] = now_s + ARMED_S

    def clear(self) -> None:
        """The faults are over."""
        self.armed.clear()
        self.points.clear()
        self.disk_slow_until_s = 0.0

    def dies_at(self, point: str, now_s: float) -> bool:
        until_s = self.points.get(point)
        if until_s is None:
            return False
        del self.points[point]
        if now_s > until_s:
            return False
        self.hit("crash", point)
        return True

    def hit(self, what: str, which: str) -> None:
        self.hits += 1
        self._coverage.fault(what, which)

    def of(self, body: object, now_s: float) -> tuple[float, ...]:
        """How long the message travels; none: it is lost; two: it comes twice."""
        kind = KIND_OF.get(type(body))
        return (LATENCY_S,) if kind is None else self.of_kind(kind, now_s)

    def of_kind(self, kind: str, now_s: float) -> tuple[float, ...]:
        armed = self.armed.get(kind)
        while armed:
            fault = armed[0]
            what, left, seconds, until_s = fault
            if left == 0 or now_s > until_s:  # type: ignore[operator]
                armed.pop(0)
                continue
            fault[1] = left - 1  # type: ignore[operator]
            self.hit(str(what), kind)
            if what == "lose":
                return ()
            if what == "double":
                return (LATENCY_S, LATENCY_S + seconds)  # type: ignore[operator]
            return (LATENCY_S + seconds,)  # type: ignore[operator]
        return (LATENCY_S,)
