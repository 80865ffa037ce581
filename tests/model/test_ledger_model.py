"""The ledger against a model: random decisions, repeats, lost answers, stale epochs, claims, crashes, projections.

Invariants (DESIGN §8): no acknowledged record is missing or doubled, in the ledger or in a projection; at most one
incident is open for each key; an execution is claimed by one executor at most, and its claim is never taken back.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import Ack, Claim, ClaimAnswer, Commit, EpochOpened, Nack, OpenEpoch, ProgramStarted
from supervisor.store.brain_db import BrainDb
from supervisor.store.ledger import Ledger
from supervisor.store.metrics import MetricsDb
from supervisor.store.projection import Follower
from supervisor.store.synapse import Synapse
from tests.process import storelab as lab

TARGETS = ("augur", "signal-cli", "gateway")
WINDOW_S = 1e9


class LedgerMachine(RuleBasedStateMachine):
    """`incidents` and the like are what the model holds of acknowledged decisions."""

    @initialize()
    def begin(self) -> None:
        self.dir = Path(tempfile.mkdtemp(prefix="hc"))
        self.ledger = Ledger(self.dir / "ledger.db")
        self.healers = 0
        self.numbers = 0
        self.incidents: dict[str, m.Incident] = {}
        self.trail: dict[str, list[m.TrailEntry]] = {}
        self.metrics: list[str] = []
        self.messages: list[m.OutboxRow] = []
        self.timers: dict[tuple[str, str], m.Timer] = {}
        self.executions: dict[str, m.Execution] = {}
        self.sent: list[tuple[Commit, object]] = []
        self.new_healer()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
            shutil.rmtree(self.dir)

    # --- the healer ---

    @rule()
    def new_healer(self) -> None:
        self.healers += 1
        answer = self.ledger.open_epoch(OpenEpoch(f"healer-{self.healers}", WINDOW_S, WINDOW_S))
        assert isinstance(answer, EpochOpened)
        assert answer.snapshot.epoch == self.healers
        self.epoch, self.n, self.old = self.healers, 0, self.sent
        self.sent = []
        self.check_snapshot(answer.snapshot)

    def check_snapshot(self, found: rec.Snapshot) -> None:
        assert {it.id: it for it in (*found.open_incidents, *found.recent_closed)} == self.incidents
        assert all(it.open for it in found.open_incidents)
        keys = Counter((it.anomaly, it.target_id) for it in found.open_incidents)
        assert all(count == 1 for count in keys.values())
        assert {it.id: it for it in found.recent_executions} == self.executions
        assert {(it.kind.value, it.subject): it for it in found.timers} == self.timers
        assert list(found.outbox) == self.messages
        kept = lab.rows(self.ledger.path, "SELECT id FROM metrics ORDER BY rev")
        assert [key for (key,) in kept] == self.metrics

    def decide(self, *batches: tuple[rec.Record, ...], lost: bool = False) -> list[object]:
        """One batch of decisions; with `lost` their answers are lost and they are sent again."""
        commits = []
        for records in batches:
            self.n += 1
            commits.append(Commit(self.epoch, self.n, records))
        answers = self.ledger.write(commits)
        if lost:
            assert self.ledger.write(commits) == answers
        self.sent += zip(commits, answers, strict=True)
        return list(answers)

    def detect_records(self, number: int, target: str) -> tuple[rec.Record, ...]:
        return (
            rec.AddMetric(lab.metric(number)),
            rec.AddTrail(lab.trail(number, 1)),
            rec.PutIncident(lab.incident(number, target=target)),
            rec.PutOutbox(lab.message(number)),
            rec.SetTimer(lab.timer(number)),
        )

    @rule(names=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=5), lost=st.booleans())
    def detect(self, names: list[str], lost: bool) -> None:
        first = self.numbers + 1
        self.numbers += len(names)
        batches = [self.detect_records(first + i, target) for i, target in enumerate(names)]
        for i, (target, answer) in enumerate(zip(names, self.decide(*batches, lost=lost), strict=True)):
            number = first + i
            doubled = any(it.open and it.target_id == target for it in self.incidents.values())
            if doubled:
                assert isinstance(answer, Nack)
                assert answer.code == "rejected"
                continue
            assert answer == Ack()
            incident = lab.incident(number, target=target)
            self.incidents[incident.id] = incident
            self.trail[incident.id] = [lab.trail(number, 1)]
            self.metrics.append(lab.metric(number).id)
            self.messages.append(lab.message(number))
            self.timers["recheck", incident.id] = lab.timer(number)

    @precondition(lambda self: any(it.open for it in self.incidents.values()))
    @rule(data=st.data(), lost=st.booleans())
    def resolve(self, data: st.DataObject, lost: bool) -> None:
        incident = data.draw(st.sampled_from([it for it in self.incidents.values() if it.open]))
        closed = msgspec.structs.replace(incident, state=m.State.RESOLVED, resolved_wall_s=1.5)
        entry = m.TrailEntry(incident.id, len(self.trail[incident.id]) + 1, 2.0, m.State.RESOLVED, "x", "well")
        records = (rec.PutIncident(closed), rec.AddTrail(entry), rec.DropTimer(m.TimerKind.RECHECK, incident.id))
        assert self.decide(records, lost=lost) == [Ack()]
        self.incidents[incident.id] = closed
        self.trail[incident.id].append(entry)
        self.timers.pop(("recheck", incident.id), None)

    @precondition(lambda self: self.trail)
    @rule(data=st.data())
    def note(self, data: st.DataObject) -> None:
        """An entry alone, its incident unchanged."""
        incident_id = data.draw(st.sampled_from(list(self.trail)))
        entry = m.TrailEntry(incident_id, len(self.trail[incident_id]) + 1, 2.0, m.State.DETECTED, "x", "noted")
        assert self.decide((rec.AddTrail(entry),)) == [Ack()]
        self.trail[incident_id].append(entry)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        commit, answer = data.draw(st.sampled_from(self.sent))
        assert self.ledger.write([commit]) == [answer]

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def a_dead_healer_speaks(self, data: st.DataObject) -> None:
        commit, _ = data.draw(st.sampled_from(self.old))
        (answer,) = self.ledger.write([commit])
        assert isinstance(answer, Nack)
        assert answer.code == "old_epoch"

    @rule()
    def a_frame_was_lost(self) -> None:
        (answer,) = self.ledger.write([Commit(self.epoch, self.n + 2, (rec.PutIncident(lab.incident(999_999)),))])
        assert isinstance(answer, Nack)
        assert answer.code == "gap"

    # --- the executor ---

    @rule()
    def intend(self) -> None:
        self.numbers += 1
        execution = lab.execution(self.numbers)
        assert self.decide((rec.PutExecution(execution),)) == [Ack()]
        self.executions[execution.id] = execution

    @precondition(lambda self: self.executions)
    @rule(data=st.data(), incarnation=st.sampled_from(("x-1", "x-2")), lost=st.booleans())
    def claim(self, data: st.DataObject, incarnation: str, lost: bool) -> None:
        execution = data.draw(st.sampled_from(list(self.executions.values())))
        request = Claim(execution.id, incarnation)
        answers = self.ledger.write([request] * (1 + lost))
        free = execution.state is m.ExecutionState.INTENDED
        mine = execution.state is m.ExecutionState.CLAIMED and execution.claimed_by == incarnation
        for answer in answers:
            assert isinstance(answer, ClaimAnswer)
            assert answer.granted == (free or mine)
        if free:
            self.executions[execution.id] = msgspec.structs.replace(
                execution, state=m.ExecutionState.CLAIMED, claimed_by=incarnation
            )

    @precondition(lambda self: self.executions)
    @rule(data=st.data(), pid=st.integers(1, 3))
    def start_program(self, data: st.DataObject, pid: int) -> None:
        execution = data.draw(st.sampled_from(list(self.executions.values())))
        (answer,) = self.ledger.write([ProgramStarted(execution.id, lab.program(pid))])
        if execution.state is not m.ExecutionState.CLAIMED:
            assert isinstance(answer, Nack)
        else:
            assert answer == Ack()
            if lab.program(pid) not in execution.programs:
                programs = (*execution.programs, lab.program(pid))
                self.executions[execution.id] = msgspec.structs.replace(execution, programs=programs)

    @precondition(lambda self: self.executions)
    @rule(
        data=st.data(),
        state=st.sampled_from(
            (m.ExecutionState.INTENDED, m.ExecutionState.SUCCEEDED, m.ExecutionState.FAILED, m.ExecutionState.EXPIRED)
        ),
    )
    def the_engine_puts_what_it_knows(self, data: st.DataObject, state: m.ExecutionState) -> None:
        """It may know nothing of the claim and of the programs."""
        execution = data.draw(st.sampled_from(list(self.executions.values())))
        put = msgspec.structs.replace(execution, state=state, claimed_by="", programs=(), deaths=execution.deaths + 1)
        assert self.decide((rec.PutExecution(put),)) == [Ack()]
        self.executions[execution.id] = msgspec.structs.replace(
            put,
            state=execution.state if state is m.ExecutionState.INTENDED else state,
            claimed_by=execution.claimed_by,
            programs=execution.programs,
        )

    # --- crashes and projections ---

    @rule()
    def the_store_dies(self) -> None:
        """A killed process leaves the files as they are: the state of a copy taken without closing."""
        copy = Path(tempfile.mkdtemp(prefix="hc"))
        for path in self.dir.glob("*"):
            shutil.copy(path, copy / path.name)
        self.ledger.close()
        shutil.rmtree(self.dir)
        for shm in copy.glob("*-shm"):
            shm.unlink()
        self.dir = copy
        self.ledger = Ledger(self.dir / "ledger.db")

    @rule()
    def a_transaction_is_cut_off(self) -> None:
        """What was written and never committed is gone."""
        self.ledger._connection.execute("BEGIN IMMEDIATE")
        self.ledger._records.put(rec.PutIncident(lab.incident(888_888, target="nobody")))
        self.the_store_dies()

    @rule()
    def project(self) -> None:
        brain = self.dir / "brain.db"
        targets = (
            BrainDb(brain, own=True, whitelist=frozenset()),
            Synapse(brain, own=True, sender="helios", to="all"),
            MetricsDb(self.dir / "metrics.db", own=True),
        )
        for target in targets:
            follower = Follower(target, self.ledger.path, lambda: None)
            follower.stop()  # one round, in this thread
            follower.run()
            assert follower.error == ""
            assert follower.done_rev(self.ledger.ledger_id) == self.ledger.rev
        found = dict(lab.rows(brain, "SELECT id, state || json_array_length(audit_trail) FROM incidents"))
        assert found == {it.id: f"{it.state}{len(self.trail[it.id])}" for it in self.incidents.values()}
        assert [body for (body,) in lab.rows(brain, "SELECT body FROM messages ORDER BY rowid")] == [
            row.body for row in self.messages
        ]
        assert [key for (key,) in lab.rows(self.dir / "metrics.db", "SELECT id FROM heal_metrics ORDER BY rowid")] == (
            self.metrics
        )

    @invariant()
    def the_trail_is_whole(self) -> None:
        if not getattr(self, "incidents", None):
            return
        ids = list(self.trail)
        decode = msgspec.json.Decoder(list[m.TrailEntry]).decode
        assert [decode(raw) for raw in self.ledger.trails(ids)] == [self.trail[it] for it in ids]


TestLedgerModel = LedgerMachine.TestCase
TestLedgerModel.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLedgerModel = pytest.mark.req("FR-004", "FR-008", "R14")(TestLedgerModel)
