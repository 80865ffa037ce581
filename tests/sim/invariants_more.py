"""The second half of the invariants: messages in time, what people have decided, halts, and what proves a repair.

Judged from outside, like `invariants.py`, whose books it reads.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from supervisor.incidents import records as r
from supervisor.incidents.drill_run import KIND as DRILL_KIND
from supervisor.incidents.drill_run import RUNBOOK as DRILL
from supervisor.incidents.model import (
    AnomalyType,
    Authority,
    Channel,
    Execution,
    ExecutionState,
    Incident,
    Mode,
    OutboxRow,
    OutboxState,
    Severity,
    State,
)
from supervisor.incidents.readings import ProcessData
from supervisor.messages import Body, Commit, DeliveryReport, ReplyReceived, StepReport
from tests.sim.cancels import stopped
from tests.sim.loop import STEADY_AHEAD_S

if TYPE_CHECKING:
    from tests.sim.invariants import Watch

HOLD_S = 60.0  # R2
REPEAT_S = (3_600.0, 4 * 3_600.0, 86_400.0)  # R2
SLACK_S = 1.5
LATE_S = 100.0  # so much later may a decision be durable that a fault of the store keeps waiting
SETTLE_S, VERIFIED_WITHIN_S = 1.0, 30.0  # R6
HEARD = frozenset({
    r.AddAudit, r.PutExecution, r.PutIncident, r.PutHalt, r.DropHalt, r.PutReply, r.PutRunbookState, r.SetTimer,
    r.DropTimer,
})  # fmt: skip


class More:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.step_ended_s: dict[str, float] = {}
        self._told_s: defaultdict[str, list[float]] = defaultdict(list)  # incident -> when Signal spoke of it
        self._dismissed: dict[tuple[AnomalyType, str], float] = {}  # key -> until when (steady)
        self._undone: set[tuple[str, str]] = set()  # runbook, target: a person has taken it back
        self._halted: dict[str, str] = {}  # path -> database
        self._intended: set[str] = set()  # executions that are known
        self.over_s: dict[str, float] = {}  # incident -> when it ended
        self._escalated_s: dict[str, float] = {}  # incident -> when it began to rest with a person, the last time
        self.rested_s: dict[str, float] = {}  # incident -> how long it did at the longest
        self._row_s: dict[str, float] = {}  # row -> when it was written
        self.calm = lambda: True  # no fault has hit yet

    def _now_steady_s(self) -> float:
        return self.watch.loop.time() + STEADY_AHEAD_S

    def is_quiet(self, anomaly: AnomalyType) -> bool:
        """A person has dismissed it, of whatever target, and it stays quiet still."""
        now_s = self._now_steady_s()
        return any(until_s > now_s for (what, _), until_s in self._dismissed.items() if what is anomaly)

    # -- decisions as a whole --

    def durable(self, commit: Commit) -> None:
        heard = [record for record in commit.records if type(record) in HEARD]
        orders = [record.entry for record in heard if isinstance(record, r.AddAudit)]
        if orders or any(type(record) is r.PutReply for record in heard):
            self.watch.replies.durable(commit, orders)
        if any(type(record) in (r.SetTimer, r.DropTimer) for record in heard):
            self.watch.drills.durable(commit, orders)
        for order in orders:
            if order.action in ("approve", "confirm"):
                self._undone.clear()  # of whichever runbook: a person has spoken
        for record in heard:
            match record:
                case r.PutExecution(it):
                    self._execution(it, commit, orders)
                case r.PutIncident(it) if it.state is State.DETECTED:
                    self._opened(it, commit)
                case r.PutHalt(it):
                    self._halted[it.path] = it.database
                case r.DropHalt(database):
                    self._halted = {path: name for path, name in self._halted.items() if name != database}
                case r.PutRunbookState(it):
                    self._record(it)
                case r.PutIncident(it) if it.state is State.RESOLVED:
                    self._said(it, commit)

    def _execution(self, it: Execution, commit: Commit, orders: list[Any]) -> None:
        if defects := [result.output for result in it.results if "a defect of healctl" in result.output]:
            self.watch.fail("no part of healctl fails by itself", f"{it.id}: {defects[0]}")
        told = [result.step_id for result in it.results]
        if told != [step.step_id for step in it.steps][: len(told)]:
            self.watch.fail("each step is told once", f"{it.id}: {told}")
        new = it.id not in self._intended
        self._intended.add(it.id)
        key = (it.runbook.id, it.target.target_id)
        if new and it.authority is Authority.PERSON and not it.undoes:
            by = [order.actor for order in orders if order.action in ("execute", "confirm")]
            if not by or any(actor.startswith("agent:") for actor in by):
                self.watch.fail("only a person executes", f"{it.id} ({it.runbook.id}) by {by or 'nobody'}")
        if new and key in self._undone and it.authority not in (Authority.PERSON, Authority.HARMLESS):
            self.watch.fail("what was undone waits for a person", f"{it.runbook.id} for {it.target.target_id}: {it.id}")
        if it.undoes and it.state is ExecutionState.SUCCEEDED:
            self._undone.add((it.runbook.id.removeprefix("undo:"), it.target.target_id))
        if it.verified is False and it.authority is Authority.APPROVED and it.runbook.verifies:
            states = [record.state for record in commit.records if isinstance(record, r.PutRunbookState)]
            mine = [s for s in states if (s.runbook_id, s.target_id) == key and s.mode is Mode.DRY_RUN]
            if not mine:
                self.watch.fail("what does not hold is demoted", f"{it.runbook.id} for {it.target.target_id}: {it.id}")

    def _opened(self, it: Incident, commit: Commit) -> None:
        """FR-007: what a person has dismissed stays quiet. R10: what is damaged and ours is halted at once."""
        until_s = self._dismissed.get((it.anomaly, it.target_id), 0.0)
        ordered = it.anomaly is AnomalyType.DRILL  # which is no alert
        if it.detected_steady_s < until_s - SLACK_S and not ordered:
            self.watch.fail("what was dismissed stays quiet", f"{it.id}: {it.anomaly} of {it.target_id}")
        ours = it.target_id in self.watch.world.written and it.anomaly is AnomalyType.DB_CORRUPTION
        halted = it.target_id in self._halted.values() or any(isinstance(one, r.PutHalt) for one in commit.records)
        if ours and not it.outside and not halted:
            self.watch.fail("a damaged database is halted at once", f"{it.target_id}: {it.id}")

        paged = any(isinstance(one, r.PutIncident) and one.incident.page_id is not None for one in commit.records)
        if it.anomaly is AnomalyType.DISK_CRITICAL and not it.outside and not paged:
            self.watch.fail("a full disk is paged at once", f"{it.target_id}: {it.id}")

    def _record(self, it: Any) -> None:
        """R4, R5: what counts as a success of a runbook is a run of it that its probe has verified; no dry run does.
        R15: what a person has stopped before it was done counts as no failure."""
        if it.runbook_id == DRILL:  # which counts whole drills
            return
        key = (it.runbook_id, it.target_id)
        runs = [e for e in self.watch.executions.values() if (e.runbook.id, e.target.target_id) == key]
        if it.successes > sum(bool(e.verified) for e in runs):
            self.watch.fail("a success was verified", f"{it.runbook_id} for {it.target_id}: {it.successes}")
        if it.failures > sum(not e.verified and not stopped(e) for e in runs):
            self.watch.fail("a failure has failed", f"{it.runbook_id} for {it.target_id}: {it.failures}")

    def _said(self, it: Incident, commit: Commit) -> None:
        """R1, tier 0: R3 let it run, it was verified, and it is not critical: that is nobody's business."""
        run = self.watch.executions.get(it.execution_id or "")
        if it.severity is Severity.CRITICAL or it.escalated_wall_s is not None or it.page_id is not None:
            return
        rows = [one.row for one in commit.records if isinstance(one, r.PutOutbox) and one.row.kind != DRILL_KIND]
        if run is not None and not run.runbook.summary and any(it.id in row.covers for row in rows):
            self.watch.fail("a silent repair says nothing", f"{it.id} ({it.anomaly} of {it.target_id})")

    def moved(self, old: Incident | None, new: Incident) -> None:
        self.watch.replies.moved(old, new)
        now_s = self.watch.loop.time()
        if not new.open:
            self.over_s[new.id] = now_s
        if new.state is State.ESCALATED and (old is None or old.state is not State.ESCALATED):
            self._escalated_s[new.id] = now_s
        elif old is not None and old.state is State.ESCALATED and new.state is not State.ESCALATED:
            rested_s = now_s - self._escalated_s[new.id]
            self.rested_s[new.id] = max(rested_s, self.rested_s.get(new.id, 0.0))
        if new.state is State.DISMISSED and new.dismiss_until_steady_s is not None:
            self._dismissed[new.anomaly, new.target_id] = new.dismiss_until_steady_s
        if old is not None and old.state is State.VERIFYING and new.state is State.RESOLVED:
            self._proved(new)
        if old is not None and old.state is State.VERIFYING and new.state is not State.DISMISSED:
            self._judged_in_time(new)

    def _judged_in_time(self, it: Incident) -> None:
        """R6: what is not well 30 s after the last step has failed; a database's check may take longer (R9)."""
        ended_s = self.step_ended_s.get(it.execution_id or "", float("inf"))
        late = self.watch.loop.time() - ended_s > VERIFIED_WITHIN_S + 2 * SLACK_S
        if late and not it.intermittent and it.family != "database" and self.calm():
            self.watch.fail("a repair is judged in time", f"{it.id} ({it.anomaly} of {it.target_id})")

    def _proved(self, it: Incident) -> None:
        """R6: a look that began after the last step found it well."""
        ended_s = self.step_ended_s.get(it.execution_id or "")
        world = self.watch.world
        clear = [at_s for at_s, ills in world.seen_ill.get(it.target_id, {}).items() if it.anomaly not in ills]
        if it.target_id in world.checks:
            clear = [began_s for began_s, found in (world.checks[it.target_id],) if not found]
        since = [at_s for at_s in clear if ended_s is not None and at_s >= ended_s - 0.001]
        if ended_s is not None and not since:
            self.watch.fail("a repair is proved by its probe", f"{it.id} ({it.anomaly} of {it.target_id})")
        elif since and it.anomaly is AnomalyType.PROCESS_DEAD and max(since) - min(since) < SETTLE_S - 0.01:
            self.watch.fail("what was started has settled", f"{it.id} ({it.anomaly} of {it.target_id})")

    # -- what is done, and what is taken for done --

    def acts(self, it: Execution) -> None:
        """R8: whoever has a service manager is left to it for so long (as the grounds have it, which are not ours)."""
        data = it.reading.data if it.reading is not None else None
        if isinstance(data, ProcessData) and data.alive is False and data.dead_for_s < data.act_after_s - 0.01:
            self.watch.fail("a manager is given its time", f"{it.id}: {data.dead_for_s:.1f} s after the death")

    def acknowledged(self, body: Body) -> None:
        """Whatever brought a report hears that it was taken only when it is written down (DESIGN §2.1)."""
        match body:
            case StepReport(execution_id, index):
                run = self.watch.executions.get(execution_id)
                under_way = run is not None and run.state in (ExecutionState.INTENDED, ExecutionState.CLAIMED)
                if run is not None and under_way and len(run.results) <= index:
                    self.watch.fail("a report is taken when it is written", f"step {index} of {execution_id}")
            case ReplyReceived(reply):
                self.watch.replies.acknowledged(reply.key)
            case DeliveryReport(row_id, receipt=receipt) if receipt:
                row = self.watch.rows.get(row_id)
                if row is not None and row.state is OutboxState.PENDING:
                    self.watch.fail("a report is taken when it is written", f"the receipt of {row_id}")

    # -- messages --

    def new_row(self, row: OutboxRow) -> None:
        self._row_s[row.id] = self.watch.loop.time()
        if row.offer_id:
            self.watch.replies.new_row(row)
        if row.channel is not Channel.SIGNAL or row.kind not in ("page", "outcome", "grouped", "repeat"):
            return
        now_s = self.watch.loop.time()
        for incident_id in row.covers:
            before, incident = self._told_s[incident_id], self.watch.incidents.get(incident_id)
            if row.kind == "repeat" and incident is not None:
                self._repeat(incident, before, now_s)
            elif incident is not None and row.kind in ("page", "outcome"):
                self._in_time(incident, row, now_s)
            before.append(now_s)

    def _in_time(self, incident: Incident, row: OutboxRow, now_s: float) -> None:
        """R2, AC-004, AC-005: a critical one that nobody could judge so far is paged when its hold is over; in a storm
        its message is gathered then (DESIGN §5), and is its page from that moment on."""
        hold_s = {AnomalyType.DISK_CRITICAL: 1.0, AnomalyType.DB_CORRUPTION: 10.0}.get(incident.anomaly, HOLD_S)
        late = now_s - self.watch.opened_s[incident.id] > hold_s + SLACK_S
        waited = incident.severity is Severity.CRITICAL and incident.escalated_wall_s is None and not incident.outside
        if late and waited and incident.page_id != row.id and self.calm():
            self.watch.fail("a page comes in time", f"{row.id} for {incident.id} ({incident.anomaly})")

    def _repeat(self, incident: Incident, before: list[float], now_s: float) -> None:
        """R2: after 1 h, 4 h, then daily; not once somebody has acknowledged it."""
        if incident.acknowledged_wall_s is not None or not incident.open:
            self.watch.fail("only what nobody acknowledged is repeated", incident.id)
        slack_s = SLACK_S if self.calm() else LATE_S
        if before and now_s - before[-1] < REPEAT_S[0] - slack_s:
            text = f"{incident.id} after {now_s - before[-1]:.0f} s"
            self.watch.fail("a page is repeated after an hour at the earliest", text)

    def closed_with_a_word(self) -> None:
        """R2: one short closing message if the page left before the end; of a page for many, when the last is over."""
        by_page: defaultdict[str, list[Incident]] = defaultdict(list)
        for incident in self.watch.incidents.values():
            if incident.page_id in self._row_s:
                by_page[incident.page_id].append(incident)
        for page_id, told in by_page.items():
            if not all(it.id in self.over_s for it in told):
                continue
            over_s = max(self.over_s[it.id] for it in told)
            ends = {it.id for it in told if self.over_s[it.id] == over_s}  # some end in one moment
            last = next(it for it in told if it.id in ends)
            if last.state is State.DISMISSED or self._row_s[page_id] >= over_s:
                continue
            later = (row for row in self.watch.rows.values() if row.id != page_id and ends.intersection(row.covers))
            words = (row for row in later if row.channel is Channel.SIGNAL and row.kind in ("closing", "grouped"))
            if not any(self._row_s[row.id] >= over_s for row in words):
                self.watch.fail("what was paged is said to be over", f"{last.id} ({last.anomaly} of {last.target_id})")

    # -- halts --

    def projects(self, target: Any) -> None:
        """R10: nobody writes a halted database."""
        if str(target.path) in self._halted:
            self.watch.fail("nobody writes a halted database", str(target.path))
