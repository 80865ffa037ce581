"""DESIGN §8's invariants, judged from outside: by what became durable, by what was done to the world, by what arrived.

Nothing here asks the engine, or uses its rules: what it decides by is written down a second time, from the documents,
so that an engine that is wrong is found out. `Broken` carries the invariant's name; the first one ends the run.

What "a false action" means (`acts`). A change of the world that is not a person's order is false if the anomaly for
which it is made is not there when it is made, and was not there either `RACE_S` before: the executor begins only with
a reading that is at most 5 s old (DESIGN §2.3), and then takes at most 2 s to write down what was there (the
evidence). What healed by itself within that time nobody can know; such runs are counted as `race`. Two kinds of change
have no such allowance, since a fence looks in the very moment: to end a live process under R3 (a) to (c), and to start
a service that is alive. The fence of a gateway is a question over HTTP, which takes `ASKED_S`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

from supervisor.incidents import records as r
from supervisor.incidents.drill_run import RUNBOOK as DRILL
from supervisor.incidents.escalation import DRILL_BY_SIGNAL
from supervisor.incidents.model import (
    ActedBy,
    AnomalyType,
    Authority,
    Channel,
    Effect,
    Execution,
    ExecutionState,
    Incident,
    Mode,
    OutboxRow,
    OutboxState,
    RunbookState,
    Severity,
    State,
    Tier,
    is_over,
)
from supervisor.messages import Body, Commit, Deliver, Dispatch
from tests.sim.cancels import Cancels
from tests.sim.coverage import Coverage
from tests.sim.drills import Drills
from tests.sim.invariants_more import More
from tests.sim.loop import STEADY_AHEAD_S
from tests.sim.replies import Replies
from tests.sim.storms import Storms
from tests.sim.world import OUR_PARTS_FAMILY, World

GROUNDS_S = 5.0
EVIDENCE_S = 2.0
RACE_S = GROUNDS_S + EVIDENCE_S + 0.1
ASKED_S = 0.003
HOUR_S = 3600.0
WHITELIST = frozenset({"rb-rotate-logs", "rb-gc-trigger"})  # R3 (b), NFR-001
RESTARTS = frozenset({"start-service", "restart-gateway"})
COMES_AND_GOES = frozenset(  # R6
    {
        AnomalyType.FLEET_UNREACHABLE,
        AnomalyType.GATEWAY_UNRESPONSIVE,
        AnomalyType.MEMORY_PRESSURE,
        AnomalyType.MEMORY_CRITICAL,
    }
)
# Between two marks they count as ill; what a reading from outside opened ends at the upper one.
LEVELS = frozenset(
    {
        AnomalyType.DISK_PRESSURE, AnomalyType.DISK_CRITICAL, AnomalyType.MEMORY_PRESSURE, AnomalyType.MEMORY_CRITICAL,
        AnomalyType.LOG_BLOAT,
    }
)  # fmt: skip
# The records that `Watch.durable` looks at; most others are timers and counters.
HEARD = frozenset(
    {
        r.PutIncident, r.AddTrail, r.PutExecution, r.PutOutbox, r.PutOperatorPause, r.DropOperatorPause, r.PutPause,
        r.AddAudit, r.DropPause, r.PutRunbookState,
    }
)  # fmt: skip
# DESIGN §3, by states alone.
MOVES = {
    State.DETECTED: {State.DIAGNOSING},
    State.DIAGNOSING: {
        State.REMEDIATING, State.ESCALATED, State.SELF_RESOLVED, State.RESOLVED, State.DISMISSED,
    },
    State.REMEDIATING: {State.VERIFYING, State.REMEDIATION_FAILED, State.DIAGNOSING, State.DISMISSED},
    State.VERIFYING: {State.RESOLVED, State.REMEDIATION_FAILED, State.ESCALATED, State.DISMISSED},
    State.REMEDIATION_FAILED: {State.ESCALATED},
    State.ESCALATED: {State.REMEDIATING, State.RESOLVED, State.SELF_RESOLVED, State.DISMISSED},
}  # fmt: skip


class Broken(Exception):
    """An invariant does not hold."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


class Watch:
    """Hears everything that can be seen from outside; keeps its own books."""

    def __init__(self, world: World, coverage: Coverage, fail: Callable[[Broken], None]) -> None:
        self.world = world
        self.coverage = coverage
        self._fail = fail
        self.loop = world.loop
        self.incidents: dict[str, Incident] = {}
        self.open: dict[tuple[AnomalyType, str], str] = {}
        self.opened_s: dict[str, float] = {}
        self.seen_s: dict[str, float] = {}  # incident -> when the reading was taken that opened it (monotonic)
        self.trail: dict[str, int] = {}
        self.steps_told: set[tuple[str, str]] = set()
        self.executions: dict[str, Execution] = {}
        self.claims: dict[str, str] = {}
        self.began: dict[tuple[str, int], float] = {}  # step -> how long the machine had stood still by then
        self.at_work: dict[str, str] = {}  # execution -> incarnation of the executor that runs it
        self.died_at_work: dict[str, float] = {}  # executions that were cut off, and when
        self.acted: set[str] = set()  # executions that have changed the world, or tried to
        self.auto_runs: defaultdict[str, deque[tuple[float, str]]] = defaultdict(deque)
        self.rows: dict[str, OutboxRow] = {}
        self.pages: defaultdict[str, list[str]] = defaultdict(list)  # incident -> its rows of the first page
        self.paged_s: dict[str, float] = {}
        self.phone: Counter[str] = Counter()
        self.pauses: dict[str, Any] = {}
        self.family_pauses: set[str] = set()
        self.states: dict[tuple[str, str], RunbookState] = {}
        self.dry_clear: defaultdict[tuple[str, str], set[str]] = defaultdict(set)  # runbook, target -> incidents
        self.projected: set[str] = set()
        self.notifier_deaths = 0
        self.approved_s = float("-inf")  # when a person last approved anything
        self.races = 0
        self.changes = 0
        self.more = More(self)
        self.storms = Storms(self)
        self.cancels = Cancels(self)
        self.replies = Replies(self)
        self.drills = Drills(self)

    def fail(self, name: str, text: str) -> None:
        self._fail(Broken(name, text))

    # --- what becomes durable ------------------------------------------------------------------------------------

    def epoch(self, number: int) -> None:
        pass

    def durable(self, commit: Commit) -> None:
        """One decision is in the ledger."""
        moved: dict[str, State] = {}
        noted: defaultdict[str, list[Any]] = defaultdict(list)
        for record in commit.records:
            if type(record) not in HEARD:
                continue
            match record:
                case r.PutIncident(it):
                    if (old := self.incidents.get(it.id)) is None or old.state is not it.state:
                        moved[it.id] = it.state
                        if not commit.seed:  # which tells what has become of it, and not how
                            self._transition(old, it)
                        self.more.moved(old, it)
                    self._put_incident(old, it)
                case r.AddTrail(it) if commit.seed and it.n < self.trail.get(it.incident_id, 0):
                    pass  # told again to a ledger that is begun anew
                case r.AddTrail(it):
                    self._note(it)
                    noted[it.incident_id].append(it)
                case r.PutExecution(it):
                    self._put_execution(it)
                case r.PutOutbox(it):
                    self._put_row(it)
                case r.PutOperatorPause(it):
                    self.pauses[it.key] = it
                case r.DropOperatorPause(key):
                    self.pauses.pop(key, None)
                case r.PutPause(it):
                    self.family_pauses.add(it.family)
                case r.AddAudit(it) if it.action in ("approve", "confirm"):
                    self.approved_s = self.loop.time()
                case r.DropPause(family):
                    self.family_pauses.discard(family)
                case r.PutRunbookState(it):
                    self._put_state(it, commit)
        self.more.durable(commit)
        for incident_id, state in moved.items():
            if all(entry.state is not state for entry in noted[incident_id]):
                self.fail(
                    "every transition is in the trail", f"{incident_id} is {state}, and its trail does not say so"
                )
            if self.incidents[incident_id].trail_length != self.trail.get(incident_id, 0):
                self.fail("every transition is in the trail", f"the trail of {incident_id} has gaps")

    def _transition(self, old: Incident | None, new: Incident) -> None:
        if old is None:
            return
        # One decision may take several; each of them is written.
        if new.state not in MOVES.get(old.state, ()):
            self.fail("legal transitions only", f"{new.id}: {old.state} -> {new.state}")

    def _put_incident(self, old: Incident | None, it: Incident) -> None:
        key = (it.anomaly, it.target_id)
        if old is None:
            self.opened_s[it.id] = it.detected_steady_s - STEADY_AHEAD_S  # it may be durable much later
            self.coverage.see("anomaly", it.anomaly)
        if it.open:
            if self.open.setdefault(key, it.id) != it.id:
                self.fail("one open incident per key", f"{it.id} beside {self.open[key]}: {key}")
        elif self.open.get(key) == it.id:
            del self.open[key]
            self._closed(old, it)
        if it.tier_reason is not None and (old is None or old.tier_reason is not it.tier_reason):
            self.coverage.see("reason", it.tier_reason)
        if old is None or old.tier is not it.tier or (old.open and not it.open):
            self.coverage.see("tier", int(it.tier))
        for run in it.dry_runs:
            if run.predicts_clear:
                self.dry_clear[run.runbook_id, it.target_id].add(it.id)
        self.incidents[it.id] = it
        self.storms.moved(old, it)

    def _closed(self, old: Incident | None, it: Incident) -> None:
        """R6, R7: what is closed was read well, after it had been opened; what comes and goes, for a while."""
        if it.family == OUR_PARTS_FAMILY or it.state is State.DISMISSED or it.anomaly is AnomalyType.PROBE_UNAVAILABLE:
            return
        told = self.world.told.get(it.target_id)
        if told is None or told[0] < self.opened_s[it.id] - 1.0 - GROUNDS_S:
            self.fail("closed by a clear reading only", f"{it.id} ({it.anomaly} of {it.target_id}) had none")
        else:
            self._read_well(old, it)
        if it.state is State.SELF_RESOLVED and it.acted_by is not ActedBy.NOBODY:
            self.fail("resolved or self-resolved", f"{it.id} healed by itself, but {it.acted_by} had acted")

    def _read_well(self, old: Incident | None, it: Incident) -> None:
        """The readings that can have reached the engine by now: one of the newest of them was clear."""
        seen = self.world.seen_ill[it.target_id]
        recent = [at_s for at_s in seen if at_s > self.seen_s.get(it.id, self.opened_s[it.id] - GROUNDS_S)]
        clear = [at_s for at_s in recent if it.anomaly not in seen[at_s]]
        if not clear and old is not None and old.outside and it.anomaly in LEVELS:
            return
        if not clear:
            self.fail("closed by a clear reading only", f"{it.id} ({it.anomaly} of {it.target_id}): all were ill")
            return
        if it.anomaly in COMES_AND_GOES and old is not None and old.state is not State.DIAGNOSING:
            span_s = max(clear) - min(clear)
            if span_s < 55.0:
                text = f"{it.id} ({it.anomaly}) was closed after {span_s:.0f} s of clear readings"
                self.fail("three clear readings for what comes and goes", text)

    def _note(self, entry: Any) -> None:
        n = self.trail.get(entry.incident_id, 0)
        if entry.n != n:
            self.fail("the trail is whole", f"{entry.incident_id}: entry {entry.n} after {n - 1}")
        self.trail[entry.incident_id] = n + 1
        if n == 0 and entry.reading is not None:
            self.seen_s[entry.incident_id] = entry.reading.taken_mono_s
        if entry.step_id is not None and entry.execution_id is not None:
            self.steps_told.add((entry.execution_id, entry.step_id))

    def _put_state(self, it: Any, commit: Commit) -> None:
        """R3 (d), R4: it runs by itself once a person approved it, or three dry runs foresaw the cure."""
        before = self.states.get((it.runbook_id, it.target_id))
        self.states[it.runbook_id, it.target_id] = it
        if it.mode is not Mode.AUTO_EXECUTE or (before is not None and before.mode is Mode.AUTO_EXECUTE):
            return
        ordered = any(
            isinstance(one, r.AddAudit) and one.entry.action in ("approve", "confirm") for one in commit.records
        )
        if ordered:
            self.coverage.see("graduation", "approved")
            return
        self.coverage.see("graduation", "graduated")
        if len(self.dry_clear[it.runbook_id, it.target_id]) < 3:
            text = f"{it.runbook_id} for {it.target_id}, after {len(self.dry_clear[it.runbook_id, it.target_id])}"
            self.fail("three dry runs graduate", text)

    # --- executions ----------------------------------------------------------------------------------------------

    def _put_execution(self, it: Execution) -> None:
        if it.id not in self.executions:
            self._intent(it)
        if it.state not in (ExecutionState.INTENDED, ExecutionState.CLAIMED):
            self.at_work.pop(it.id, None)
        self.storms.told(self.executions.get(it.id), it)
        self.cancels.told(it)
        self.executions[it.id] = it

    def _intent(self, it: Execution) -> None:
        """A new intent: was it allowed?"""
        self.coverage.see("authority", it.authority)
        if any(not is_over(other) and other.resource == it.resource for other in self.executions.values()):
            self.fail("one execution per resource", f"{it.id} on {it.resource}")
        running = [e for e in self.executions.values() if not is_over(e) and e.state is not ExecutionState.SUCCEEDED]
        running = [e for e in running if DRILL not in (e.runbook.id, it.runbook.id)]  # it takes no real repair's place
        if it.incident_id is not None and it.authority is not Authority.PERSON and len(running) >= 8:
            self.fail("at most eight at once", it.id)
        changes = any(step.effect in (Effect.CHANGE, Effect.DESTROY) for step in it.runbook.steps)
        if changes:
            self._not_paused(it)
        if it.authority is Authority.PERSON:
            return
        self._permitted(it)
        self._again(it)
        self.cancels.intent(it)
        if changes:
            self.storms.begins(it)

    def _permitted(self, it: Execution) -> None:
        """R3."""
        target, steps = it.target, it.runbook.steps
        match it.authority:
            case Authority.HARMLESS:
                allowed = all(step.effect in (Effect.OBSERVE, Effect.PROTECT) for step in steps)
            case Authority.WHITELIST:
                allowed = it.runbook.id in WHITELIST
            case Authority.NOT_RUNNING:
                allowed = target.auto_restart and target.recipe is not None and it.runbook.starts_service
            case _:
                own, every = (self.states.get((it.runbook.id, scope)) for scope in (target.target_id, "*"))
                demoted = own is not None and own.demoted and own.mode is not Mode.AUTO_EXECUTE
                allowed = not demoted and any(one is not None and one.mode is Mode.AUTO_EXECUTE for one in (own, every))
        if not allowed:
            self.fail("nothing runs that R3 forbids", f"{it.runbook.id} for {target.target_id}: {it.authority}")

    def _again(self, it: Execution) -> None:
        """An interrupted execution is never blindly repeated."""
        for old in self.executions.values():
            if old.id in self.died_at_work and old.incident_id == it.incident_id and old.runbook.id == it.runbook.id:
                refused = old.state is ExecutionState.EXPIRED and (old.id, 0) not in self.began  # before it died
                if it.incident_id is None or refused:
                    continue
                if not is_over(old):
                    self.fail("an interrupted execution is never blindly repeated", f"{it.id} while {old.id} is open")
                again = self.approved_s > self.died_at_work[old.id]  # a person's word, with the trail before them
                if not again and not all(step.idempotent for step in old.runbook.steps):
                    self.fail("an interrupted execution is never blindly repeated", f"{it.runbook.id}: {it.id}")

    def _not_paused(self, it: Execution) -> None:
        """R15: a person's pause holds back every change."""
        keys = {"all:", f"family:{it.target.family}"}
        keys |= {f"target:{name}" for name in (it.target.target_id, it.target.service_id)}
        service = self.world.targets.get(it.target.service_id)
        if service is not None:
            keys.add(f"family:{service.family}")
        if standing := keys & self.pauses.keys():
            self.fail("a pause holds", f"{it.id} ({it.runbook.id} for {it.target.target_id}) under {sorted(standing)}")

    def claimed(self, it: Execution, incarnation: str) -> None:
        if self.claims.setdefault(it.id, incarnation) != incarnation:
            self.fail("no duplicate executions", f"{it.id} was claimed by {self.claims[it.id]} and {incarnation}")
        incident = self.incidents.get(it.incident_id or "")
        if incident is not None and not incident.open and not it.undoes:
            self.fail("nothing begins for what is over", f"{it.id}: {incident.id} is {incident.state}")

    def executor_died(self, incarnation: str) -> None:
        for execution_id, mine in list(self.at_work.items()):
            if mine == incarnation:
                del self.at_work[execution_id]
                self.died_at_work[execution_id] = self.loop.time()
        for execution_id, mine in self.claims.items():
            found = self.executions.get(execution_id)
            if mine == incarnation and found is not None and not is_over(found) and found.state != "succeeded":
                self.died_at_work[execution_id] = self.loop.time()

    # --- what is done to the world -------------------------------------------------------------------------------

    def step_begins(self, it: Execution, index: int, *, undo: bool) -> None:
        """A step's `run` is called."""
        incarnation = self.claims.get(it.id)
        if incarnation is None:
            self.fail("nothing runs unclaimed", it.id)
            return
        self.at_work[it.id] = incarnation
        if (it.id, index) in self.began:
            self.fail("no duplicate executions", f"step {index} of {it.id} began twice")
        self.began[it.id, index] = self.world.stood_still_s
        self.cancels.step_begins(it)
        if it.authority is not Authority.PERSON and not undo and index == 0:
            self._first_step(it)

    def step_ends(self, it: Execution) -> None:
        """It has returned, or failed."""
        self.more.step_ended_s[it.id] = self.loop.time()

    def _first_step(self, it: Execution) -> None:
        """The first step of an automatic run: on a failing reading that is fresh, in the limits of the breakers."""
        now_s = self.loop.time()
        age_s = now_s - it.grounds_mono_s if it.grounds_mono_s is not None else float("inf")
        if age_s > GROUNDS_S + EVIDENCE_S + 0.1:
            self.fail("no step without a fresh failing reading", f"{it.id}: its grounds are {age_s:.1f} s old")
        if it.incident_id is not None:
            incident = self.incidents[it.incident_id]
            if incident.family != OUR_PARTS_FAMILY:
                self._grounds(it, incident)
            if it.runbook.id != DRILL:  # of which no breaker hears
                self._breakers(it, now_s)

    def _grounds(self, it: Execution, incident: Incident) -> None:
        seen = self.world.seen_ill.get(it.target.target_id, {})
        ill = seen.get(it.grounds_mono_s or 0.0)
        if ill is None or incident.anomaly not in ill:
            what = "no reading of ours" if ill is None else "a reading that was well"
            self.fail("no step without a fresh failing reading", f"{it.id} ({incident.anomaly}) rests on {what}")
        # A safeguard acts on the verdict at hand (R7); everything else on a look that began after the detection.
        if it.authority is not Authority.HARMLESS and (it.grounds_mono_s or 0.0) < self.opened_s[incident.id] - 1e-6:
            self.fail("no step without a fresh failing reading", f"{it.id}: its grounds are from before its incident")

    def _breakers(self, it: Execution, now_s: float) -> None:
        """DESIGN §2.8: three on one resource, twenty of one runbook within an hour; restarts count together."""
        restarts = any(step.kind in RESTARTS for step in it.runbook.steps)
        for key, limit in (
            (f"{'restart' if restarts else it.runbook.id} {it.resource}", 3),
            (f"{'restart' if restarts else it.runbook.id} *", 20),
        ):
            runs = self.auto_runs[key]
            while runs and runs[0][0] < now_s - HOUR_S:
                runs.popleft()
            runs.append((it.created_steady_s - STEADY_AHEAD_S, it.id))
            if len(runs) > limit:
                self.fail("breakers hold", f"{len(runs)} automatic runs of {key} within an hour")

    def acts(self, it: Execution | None, index: int, what: str, target_id: str, *, ends_live: bool) -> None:
        """The world is changed by our hands, in this very moment."""
        self.changes += 1
        if it is None:
            self.fail("nothing runs unclaimed", f"{what} {target_id} by nobody's order")
            return
        self.acted.add(it.id)
        self.drills.acts(it, what, target_id)
        if what.startswith("DOUBLE"):
            self.fail("no duplicate executions", f"{it.id}: {what}")
        if it.id == "dry-run":
            self.fail("a dry run changes nothing", f"{what} {target_id}")
        if it.authority is Authority.PERSON:
            return
        if ends_live and it.authority is not Authority.APPROVED and not self._while_it_was_asked(what, target_id):
            self.fail("no false action", f"{it.id} ({it.authority}) ends a live process: {what} {target_id}")
        self.more.acts(it)
        # A safeguard (R3 a) acts on the verdict at hand, however long its check took (R7), and is no change.
        if index == 0 and it.incident_id is not None and it.authority is not Authority.HARMLESS:
            self._false_action(it, what, target_id)

    def _while_it_was_asked(self, what: str, target_id: str) -> bool:
        """Whether a gateway runs, only an answer of its own tells, and that may be older than what came up since."""
        came_s = self.world.gateway_came_s.get(target_id, float("-inf"))
        if what != "restart" or self.loop.time() - came_s > ASKED_S:
            return False
        self.races += 1
        self.coverage.see("race", "a gateway that was asked")
        return True

    def _false_action(self, it: Execution, what: str, target_id: str) -> None:
        incident, now_s = self.incidents[it.incident_id or ""], self.loop.time()
        if incident.family == OUR_PARTS_FAMILY or self.world.ill(incident.anomaly, incident.target_id):
            return
        well_s = now_s - self.world.well_s.get((incident.anomaly, incident.target_id), float("-inf"))
        still_s = self.world.stood_still_s  # in the midst of the step, so that it could not look
        well_s -= still_s - self.began.get((it.id, 0), still_s)
        if well_s <= RACE_S:
            self.races += 1
            self.coverage.see("race", incident.anomaly)
            return
        text = f"{it.id} ({it.runbook.id}, {it.authority}): {what} {target_id}, which is well for {well_s:.1f} s"
        self.fail("no false action", text)

    def plans(self, it: Execution, plan: Callable[[], Any]) -> Any:
        before = self.changes, len(self.world.processes)
        answer = plan()
        if (self.changes, len(self.world.processes)) != before:
            self.fail("a dry run changes nothing", f"{it.runbook.id} for {it.target.target_id}")
        return answer

    # --- what leaves ---------------------------------------------------------------------------------------------

    def leaves(self, to: str, body: Body) -> None:
        """Nothing leaves before it is written (DESIGN §2.1)."""
        if type(body) is Dispatch and body.execution.id not in self.executions:
            self.fail("nothing leaves before it is written", f"execution {body.execution.id}")
        if type(body) is Deliver and body.row.id not in self.rows:
            self.fail("nothing leaves before it is written", f"message {body.row.id}")

    def _put_row(self, row: OutboxRow) -> None:
        old = self.rows.get(row.id)
        self.rows[row.id] = row
        arrived = row.receipt and (row.channel is not Channel.SIGNAL or self.phone[row.id])
        if row.state is OutboxState.DELIVERED and not arrived:
            self.fail("nothing is marked sent without a receipt", f"{row.id} ({row.kind})")
        if old is not None:
            if old.state == "delivered" and row.state != "delivered":
                self.fail("a message is never lost", f"{row.id} was delivered and is {row.state}")
            return
        self.more.new_row(row)
        if row.channel is Channel.SIGNAL and row.kind in ("page", "outcome", "grouped"):
            for incident_id in row.covers:
                self._page(incident_id, row)

    def _page(self, incident_id: str, row: OutboxRow) -> None:
        """R2: one page per incident. A message for many may speak of a paged one again only as its closing message or
        its repeat would: once it is over, or after an hour."""
        before, now_s = self.pages[incident_id], self.loop.time()
        incident = self.incidents.get(incident_id)
        later = before and (now_s - self.paged_s[incident_id] >= HOUR_S - 1.5 or incident is None or not incident.open)
        if before and not (row.kind == "grouped" and later):
            kinds = [self.rows[one].kind for one in (*before, row.id)]
            self.fail("one page per incident", f"{incident_id} has {kinds}")
        before.append(row.id)
        self.paged_s[incident_id] = now_s

    def received(self, row: OutboxRow) -> int:
        """The phone has it. A copy is allowed where a receipt was lost in a crash only (R2)."""
        self.phone[row.id] += 1
        copies = sum(count - 1 for count in self.phone.values())
        if copies > self.notifier_deaths * 16:  # those that one notifier has in work
            self.fail("a message is sent once", f"{row.id} came {self.phone[row.id]} times")
        return self.phone[row.id]

    def projects(self, target: Any) -> None:
        self.more.projects(target)

    def decided(self, world: Any) -> None:
        """After every decision: the engine's memory agrees with itself, and nothing in it can be stuck for ever."""
        for incident in world.incidents.values():
            if not incident.open or world.by_key.get((incident.anomaly, incident.target_id)) != incident.id:
                self.fail("the engine's memory is whole", incident.id)
        for execution in world.executions.values():
            if is_over(execution):
                self.fail("the engine's memory is whole", execution.id)

    # --- at the end ----------------------------------------------------------------------------------------------

    def unfinished(self) -> list[str]:
        """What has not come to an end."""
        open_now = [i for i in self.incidents.values() if i.open]
        found = [
            f"{i.id}: {i.anomaly} of {i.target_id} is {i.state} ({i.tier_reason}, {i.waiting_for})" for i in open_now
        ]
        found += [f"{e.id}: {e.runbook.id} is {e.state}" for e in self.executions.values() if not is_over(e)]
        found += [
            f"{row.id}: {row.channel} {row.kind} is {row.state}: {row.last_error}"
            for row in self.rows.values()
            if row.state == "pending"
        ]
        found += [f"family {family} is paused" for family in sorted(self.family_pauses)]
        found += self.replies.unfinished() + self.drills.unfinished()
        gathered = ((i, row_id) for i in self.incidents.values() for row_id in (i.page_id, i.told_in) if row_id)
        found += [f"{i.id} is told of in {row_id}, which waits" for i, row_id in gathered if row_id not in self.rows]
        return found

    def final(self) -> None:
        """Everything that can be said only at the end."""
        for incident in self.incidents.values():
            told = self.pages.get(incident.id, ())
            if incident.tier is Tier.PAGE and not told and not self._untold(incident):
                self.fail("a page is never lost", f"{incident.id} ({incident.anomaly}) is of tier 3, and no row is")
            elif any(not self._arrived(row_id) for row_id in told):
                self.fail("a page is never lost", f"{incident.id}: {told} did not arrive")
        for execution_id, index in self.began:
            execution = self.executions[execution_id]
            if index < len(execution.results):
                continue
            if execution.state is ExecutionState.SUCCEEDED and execution_id not in self.died_at_work:
                self.fail("every step is in the ledger", f"step {index} of {execution_id}")
        self._trails()
        self.more.closed_with_a_word()

    def _untold(self, incident: Incident) -> bool:
        """Of tier 3 without a page, and rightly: it is about Signal itself; a person has dismissed it; or whenever it
        rested, it was over or taken up again while its family's page was still being gathered (45 s)."""
        by_signal = incident.anomaly is AnomalyType.DELIVERY_FAILING or incident.target_id == DRILL_BY_SIGNAL
        if by_signal or incident.state is State.DISMISSED:
            return True
        gathered = incident.family in ("fleet", "gateway") and incident.severity is not Severity.CRITICAL
        return gathered and self.more.rested_s.get(incident.id, float("inf")) < 46.0

    def _arrived(self, row_id: str) -> bool:
        row = self.rows[row_id]
        return row.state == "quarantined" or (self.phone[row_id] > 0 and row.state == "delivered")

    def _trails(self) -> None:
        """Every step's result is in the trail of the incident that it was for."""
        for execution in self.executions.values():
            incident = self.incidents.get(execution.incident_id or "")
            if incident is None or execution.undoes or incident.state is State.DISMISSED:
                continue
            for result in execution.results:
                if (execution.id, result.step_id) not in self.steps_told:
                    self.fail("every step is in the trail", f"{result.step_id} of {execution.id}")


def critical_unpaged(watch: Watch, hold_s: float) -> str:
    """R2: a critical incident that is open for longer than the hold has its page; empty when all have."""
    now_s = watch.loop.time()
    for incident in watch.incidents.values():
        waits = incident.open and incident.severity is Severity.CRITICAL and not incident.outside
        if waits and now_s - watch.opened_s[incident.id] > hold_s and incident.page_id is None:
            return f"{incident.id} ({incident.anomaly} of {incident.target_id}) is open for {hold_s:.0f} s unpaged"
    return ""
