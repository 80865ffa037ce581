"""The plain part of a `Turn`: what is put into the world or dropped from it, and noted as a record. Pure."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from typing import TYPE_CHECKING

from supervisor.incidents.drill_run import STAGES as DRILL_STAGES
from supervisor.incidents.model import (
    BUCKETS_S,
    Breaker,
    FamilyPause,
    Halt,
    Instant,
    Metric,
    Runbook,
    StageEntry,
    Tally,
    Timer,
    TimerKind,
)
from supervisor.incidents.orders import AuditEntry, Offer, OperatorPause, TakenReply
from supervisor.incidents.readings import ProcessRef
from supervisor.incidents.records import (
    AddAudit,
    AddMetric,
    DropBreaker,
    DropHalt,
    DropKnown,
    DropOperatorPause,
    DropPause,
    DropReply,
    DropRequest,
    DropStage,
    DropTimer,
    PutBreaker,
    PutHalt,
    PutKnown,
    PutOperatorPause,
    PutPause,
    PutReply,
    PutRequest,
    PutRunbook,
    PutStage,
    PutTally,
    Record,
    SetTimer,
)

if TYPE_CHECKING:
    from supervisor.incidents.world import World


TALLIES_MAX = 2_000  # kinds of events that are counted apart: runbooks come and go
OTHERS = "others"


class Putting:
    """Base of `Turn`, which see."""

    def __init__(self, world: World, now: Instant) -> None:
        self.world = world
        self.now = now
        self.records: list[Record] = []

    def new_id(self, prefix: str) -> str:
        """Ids are derived, not drawn: the same history gives the same ids (replay), no two ledgers share them."""
        self.world.counter += 1
        seed = f"{self.world.ledger_id}:{self.world.epoch}:{self.world.counter}"
        return f"{prefix}_{hashlib.sha256(seed.encode()).hexdigest()[:12]}"

    def id_of(self, prefix: str, token: str) -> str:
        """Of what one request leads to: the same request, sent again, gets the same."""
        return f"{prefix}_{hashlib.sha256(f'{self.world.ledger_id}:{token}'.encode()).hexdigest()[:12]}"

    def await_execution(self, execution_id: str, token: str) -> None:
        """Whoever asked under this token is answered when the execution is over."""
        tokens = self.world.waiters.setdefault(execution_id, [])
        if token not in tokens:
            tokens.append(token)

    def set_timer(self, kind: TimerKind, subject: str, after_s: float) -> None:
        timer = Timer(kind, subject, self.now.steady_s + after_s)
        self.world.arm(timer)
        self.records.append(SetTimer(timer))

    def drop_timer(self, kind: TimerKind, subject: str) -> None:
        if self.world.timers.pop((kind, subject), None) is not None:
            self.records.append(DropTimer(kind, subject))

    def put_breaker(self, breaker: Breaker) -> None:
        self.world.breakers[breaker.runbook_id, breaker.resource] = breaker
        self.records.append(PutBreaker(breaker))

    def drop_breaker(self, runbook_id: str, resource: str) -> None:
        if self.world.breakers.pop((runbook_id, resource), None) is not None:
            self.records.append(DropBreaker(runbook_id, resource))

    def put_pause(self, pause: FamilyPause) -> None:
        self.world.pauses[pause.family] = pause
        self.records.append(PutPause(pause))

    def drop_pause(self, family: str) -> None:
        if self.world.pauses.pop(family, None) is not None:
            self.records.append(DropPause(family))

    def put_operator_pause(self, pause: OperatorPause) -> None:
        self.world.operator_pauses[pause.key] = pause
        self.records.append(PutOperatorPause(pause))

    def drop_operator_pause(self, key: str) -> None:
        if self.world.operator_pauses.pop(key, None) is not None:
            self.records.append(DropOperatorPause(key))

    def put_draft(self, runbook: Runbook) -> None:
        self.world.drafts[runbook.id] = self.world.runbooks[runbook.id] = runbook
        self.records.append(PutRunbook(runbook, runbook.version()))

    def put_request(self, request: Offer) -> None:
        self.world.requests[request.id] = request
        self.records.append(PutRequest(request))

    def drop_request(self, request_id: str) -> None:
        if self.world.requests.pop(request_id, None) is not None:
            self.records.append(DropRequest(request_id))

    def put_reply(self, reply: TakenReply) -> None:
        self.world.replies[reply.key] = reply
        self.records.append(PutReply(reply))

    def drop_reply(self, key: str) -> None:
        if self.world.replies.pop(key, None) is not None:
            self.records.append(DropReply(key))

    def put_stage(self, stage: StageEntry) -> None:
        self.world.stages[stage.target_id] = stage
        self.records.append(PutStage(stage))

    def drop_stage(self, target_id: str) -> None:
        """Its task moves no more, or is not watched any more."""
        self.drop_timer(TimerKind.STUCK, target_id)
        if self.world.stages.pop(target_id, None) is not None:
            self.records.append(DropStage(target_id))

    def put_halt(self, halt: Halt) -> None:
        self.world.halts[halt.database] = halt
        self.records.append(PutHalt(halt))

    def drop_halt(self, database: str) -> None:
        if self.world.halts.pop(database, None) is not None:
            self.records.append(DropHalt(database))

    def put_known(self, target_id: str, process: ProcessRef, sought: tuple[str, str]) -> None:
        """The process last seen to be this service, written only when it is another one than before. One that was
        sought by another configuration's pid_file and match is another program's: it might be ended in its place."""
        target = self.world.target(target_id)
        if target is None or target.sought != sought:
            return
        if self.world.known.get(target_id) != process:
            self.world.known[target_id] = process
            self.records.append(PutKnown(target_id, process, sought))

    def drop_known(self, target_id: str) -> None:
        """What was that service is none any more: its target is gone, or is another program now."""
        if self.world.known.pop(target_id, None) is not None:
            self.records.append(DropKnown(target_id))

    def audit(self, token: str, actor: str, action: str, args: str) -> None:
        """One line for one order; the same order again leaves no second one."""
        self.records.append(AddAudit(AuditEntry(self.id_of("ord", token), self.now.wall_s, actor, action, args)))

    def metric(self, name: str, stage: str, result: str, incident_id: str | None = None) -> None:
        """FR-008, in SITE.md's form; and one more of its kind, in the same transaction. A drill counts nowhere."""
        if stage in DRILL_STAGES:
            return
        self.records.append(AddMetric(Metric(self.new_id("met"), name, stage, result, self.now.wall_s, incident_id)))
        old = self._tally(name, stage, result)
        self._put_tally(Tally(name, old.stage, result, old.count + 1))

    def took(self, name: str, stage: str, seconds: float) -> None:
        """One more duration, but for a drill's. A wall clock that was set back makes none negative."""
        if stage in DRILL_STAGES:
            return
        seconds = max(0.0, seconds)
        old = self._tally(name, stage, "")
        # Of another version's bounds nothing can be told in ours: then it begins anew.
        old = old if len(old.buckets) == len(BUCKETS_S) else Tally(name, old.stage, "", 0, 0.0, (0,) * len(BUCKETS_S))
        at = bisect_left(BUCKETS_S, seconds)
        buckets = tuple(count + (n == at) for n, count in enumerate(old.buckets))
        self._put_tally(Tally(name, old.stage, "", old.count + 1, old.sum_s + seconds, buckets))

    def _tally(self, name: str, stage: str, result: str) -> Tally:
        known = self.world.tallies
        if (name, stage, result) not in known and len(known) >= TALLIES_MAX:
            self.world.limits["tallies"] = f"{TALLIES_MAX} kinds of events are counted, more only as {OTHERS!r}"
            stage = OTHERS
        return known.get((name, stage, result)) or Tally(name, stage, result, 0)

    def _put_tally(self, tally: Tally) -> None:
        self.world.tallies[tally.name, tally.stage, tally.result] = tally
        self.records.append(PutTally(tally))
