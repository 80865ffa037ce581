"""A drill in the simulation, and what it may do, judged from outside (DESIGN §6).

Its made-up trouble is a file of the runtime directory, which outlives every process. A drill ends as passed, as failed
or as cancelled; it touches nothing else, and nothing of it stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from supervisor.incidents import records as r
from supervisor.incidents.drill import RUN
from supervisor.incidents.drill_run import KIND, RUNBOOK, TARGET
from supervisor.incidents.model import AnomalyType, Channel, Execution, OutboxState, RunbookState, State, TimerKind
from supervisor.messages import Commit
from supervisor.staged import Staged

if TYPE_CHECKING:
    from tests.sim.invariants import Watch
    from tests.sim.world import World

ENDS = tuple(f"drill {how}" for how in ("passed", "failed", "cancelled"))


class SimStaged(Staged):
    """The file, in the simulated world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _make(self, drill_id: str) -> None:
        self._world.set_drill(drill_id)

    def read(self) -> str:
        return self._world.drill

    def clear(self) -> str:
        found = self._world.drill
        self._world.set_drill("")
        return found


class Drills:
    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._under_way = ""
        self._record: RunbookState | None = None

    def durable(self, commit: Commit, orders: Iterable[Any]) -> None:
        for record in commit.records:
            match record:
                case r.SetTimer(timer) if timer.kind is TimerKind.DRILL and timer.subject.startswith(RUN):
                    self._begins(timer.subject, commit)
                case r.DropTimer(kind, subject) if kind is TimerKind.DRILL and subject.startswith(RUN):
                    self._ends(subject, commit, orders)

    def _begins(self, subject: str, commit: Commit) -> None:
        if self._under_way and not commit.seed:
            self._watch.fail("one drill at a time", f"{subject} beside {self._under_way}")
        self._under_way = subject

    def _ends(self, subject: str, commit: Commit, orders: Iterable[Any]) -> None:
        """It is known how, and nothing of it is open any more."""
        watch, before = self._watch, self._record
        if subject != self._under_way:
            watch.fail("a drill ends once", subject)
        self._under_way = ""
        states = [one.state for one in commit.records if isinstance(one, r.PutRunbookState)]
        after = next((state for state in reversed(states) if state.runbook_id == RUNBOOK), None)
        open_now = [it.id for it in watch.incidents.values() if it.open and it.anomaly is AnomalyType.DRILL]
        if open_now:
            watch.fail("nothing of a drill stays", f"{open_now} is open after the end of {subject}")
        if after is None:
            how = "cancelled"
            if not any(order.action == "cancel" for order in orders):
                watch.fail("a drill passes or fails", f"{subject} did neither, and nobody has cancelled it")
        else:
            self._record = after
            how = "passed" if after.successes > (before.successes if before is not None else 0) else "failed"
            self._judged(subject, how)
        watch.coverage.see("drill", how)

    def _judged(self, subject: str, how: str) -> None:
        failed = any(it.open and it.anomaly is AnomalyType.DRILL_FAILED for it in self._watch.incidents.values())
        if how == "failed" and not failed and not self._watch.more.is_quiet(AnomalyType.DRILL_FAILED):
            self._watch.fail("that a drill failed is an incident", subject)
        if how == "passed":
            self._passed(subject)

    def _passed(self, subject: str) -> None:
        """Every stage was real: the repair was verified, and each message has arrived."""
        watch = self._watch
        mine = [it for it in watch.incidents.values() if it.anomaly is AnomalyType.DRILL]
        newest = max(mine, key=lambda it: watch.opened_s[it.id], default=None)
        run = watch.executions.get(newest.execution_id or "") if newest is not None else None
        if newest is None or newest.state is not State.RESOLVED or run is None or not run.verified:
            watch.fail("a drill that passed was repaired", f"{subject}: {newest}")
            return
        rows = [row for row in watch.rows.values() if row.kind == KIND and newest.id in row.covers]
        lost = [row.id for row in rows if row.state is not OutboxState.DELIVERED]
        lost += [row.id for row in rows if row.channel is Channel.SIGNAL and not watch.phone[row.id]]
        if not rows or lost:
            watch.fail("a drill that passed has arrived", f"{subject}: {lost or 'it had no message'}")

    def acts(self, it: Execution, what: str, target_id: str) -> None:
        if it.runbook.id == RUNBOOK and target_id != TARGET:
            self._watch.fail("a drill touches nothing else", f"{it.id}: {what} {target_id}")

    def unfinished(self) -> list[str]:
        found = [f"the drill {self._under_way} is under way"] if self._under_way else []
        if self._watch.world.drill:
            found.append(f"the made-up trouble of {self._watch.world.drill} is there")
        return found
