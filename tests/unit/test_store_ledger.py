"""The ledger on real files: what it takes, what it refuses, and that nothing acts twice."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import LedgerUnusable, StoreError
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import (
    Ack,
    Claim,
    ClaimAnswer,
    Commit,
    EpochOpened,
    LedgerTrouble,
    Nack,
    OpenEpoch,
    ProgramStarted,
)
from supervisor.store import reserve
from supervisor.store.ledger import Ledger
from tests.process import storelab as lab

WINDOW_S = 3600.0


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with closing(Ledger(tmp_path / "ledger.db")) as it:
        yield it


def opened(ledger: Ledger, incarnation: str = "healer-1") -> EpochOpened:
    answer = ledger.open_epoch(OpenEpoch(incarnation, WINDOW_S, WINDOW_S))
    assert isinstance(answer, EpochOpened), answer
    return answer


def take(ledger: Ledger, *records: rec.Record) -> None:
    """One decision of an epoch of its own, which must be taken."""
    epoch = opened(ledger, os.urandom(4).hex()).snapshot.epoch
    assert ledger.write([Commit(epoch, 1, records)]) == [Ack()]


def metrics(ledger: Ledger) -> int:
    ((count,),) = lab.rows(ledger.path, "SELECT count(*) FROM metrics")
    return int(count)


@pytest.mark.req("FR-004", "R14")
def test_every_record_comes_back_exactly_as_it_was_sent(ledger: Ledger) -> None:
    closed = lab.incident(2, state=m.State.RESOLVED, resolved_wall_s=1.5, acted_by=m.ActedBy.RUNBOOK)
    running = lab.execution(1, results=(m.StepResult("start", True, "ok\n", 12.25, ("a.log",)),))
    page = lab.message(9, channel=m.Channel.SIGNAL)
    state = m.RunbookState("rb-restart-service", "*", m.Mode.AUTO_EXECUTE, 0.8, "abc", approved_at_wall_s=3.5)
    breaker = m.Breaker("rb-restart-service", "service:a", 1.0, 2.0, 3.0, "three in an hour", True)
    pause = m.FamilyPause("process", 4.0, "its canaries failed")
    take(
        ledger,
        rec.PutRunbook(lab.RUNBOOK, lab.RUNBOOK.version()),
        rec.PutIncident(lab.incident(1)),
        rec.AddTrail(lab.trail(1, 1)),
        rec.AddTrail(lab.trail(1, 2, "second")),
        rec.PutIncident(closed),
        rec.PutExecution(running),
        rec.PutOutbox(page),
        rec.PutRunbookState(state),
        rec.AddMetric(lab.metric(1)),
        rec.AddMetric(lab.metric(2)),
        rec.SetTimer(lab.timer(1)),
        rec.PutBreaker(breaker),
        rec.PutPause(pause),
    )
    found = opened(ledger).snapshot
    assert found == rec.Snapshot(
        ledger_id=ledger.ledger_id,
        epoch=2,
        open_incidents=(lab.incident(1),),
        recent_closed=(closed,),
        executions=(running,),
        recent_executions=(running,),
        outbox=(page,),
        runbook_states=(state,),
        timers=(lab.timer(1),),
        breakers=(breaker,),
        pauses=(pause,),
    )
    assert ledger.execution(running.id) == running
    assert metrics(ledger) == 2
    decode = msgspec.json.Decoder(list[m.TrailEntry]).decode
    known, unknown = ledger.trails(["inc-000001", "nobody"])
    assert decode(known) == [lab.trail(1, 1), lab.trail(1, 2, "second")]
    assert decode(unknown) == []


def test_what_is_dropped_or_over_is_not_in_the_snapshot(ledger: Ledger) -> None:
    take(
        ledger,
        rec.SetTimer(lab.timer(1)),
        rec.PutBreaker(m.Breaker("rb", "r", 1.0, 2.0, 3.0, "x")),
        rec.PutPause(m.FamilyPause("process", 1.0, "x")),
        rec.PutOutbox(lab.message(1)),
        rec.PutOutbox(lab.message(2)),
        rec.PutOutbox(lab.message(3)),
    )
    delivered = lab.message(1, channel=m.Channel.SIGNAL, state=m.OutboxState.DELIVERED, delivered_wall_s=77.0)
    quarantined = lab.message(2, state=m.OutboxState.QUARANTINED)
    take(
        ledger,
        rec.DropTimer(m.TimerKind.RECHECK, "inc-000001"),
        rec.DropBreaker("rb", "r"),
        rec.DropPause("process"),
        rec.PutOutbox(delivered),
        rec.PutOutbox(quarantined),
    )
    found = opened(ledger).snapshot
    assert (found.timers, found.breakers, found.pauses) == ((), (), ())
    assert found.outbox == (lab.message(3),)
    assert found.last_signal_wall_s == 77.0


def test_an_execution_that_still_has_to_be_verified_is_in_the_snapshot_however_old(ledger: Ledger) -> None:
    old = lab.execution(1, state=m.ExecutionState.SUCCEEDED, created_steady_s=5.0, ended_wall_s=9.0)
    over = msgspec.structs.replace(old, id="exe-over", verified=True)
    take(ledger, rec.PutExecution(old), rec.PutExecution(over))
    assert opened(ledger, "first").snapshot.executions == (old,)
    tried = lab.incident(1, execution_id="exe-over")
    take(ledger, rec.PutIncident(tried))
    found = opened(ledger, "second").snapshot
    assert {it.id for it in found.executions} == {old.id, over.id}, "what an open incident tried last, too"
    assert found.recent_executions == ()


def test_recently_closed_and_still_dismissed_incidents_are_in_the_snapshot(ledger: Ledger) -> None:
    now_s = ledger.clock.now().steady_s
    dismissed = lab.incident(1, state=m.State.DISMISSED, dismiss_until_steady_s=now_s + 86_400)
    over = lab.incident(2, state=m.State.DISMISSED, dismiss_until_steady_s=now_s - 1)
    take(ledger, rec.PutIncident(dismissed), rec.PutIncident(over), rec.PutIncident(lab.incident(3)))
    answer = ledger.open_epoch(OpenEpoch("late", WINDOW_S, closed_window_s=-1.0))
    assert isinstance(answer, EpochOpened)
    assert answer.snapshot.recent_closed == (dismissed,)
    assert {it.id for it in opened(ledger, "now").snapshot.recent_closed} == {dismissed.id, over.id}


def test_a_decision_sent_again_is_acknowledged_and_does_nothing(ledger: Ledger) -> None:
    opened(ledger)
    first, second = lab.decision(1, 1), lab.decision(1, 2)
    assert ledger.write([first, second, first]) == [Ack()] * 3
    rev = ledger.rev
    assert ledger.write([second]) == [Ack()]
    assert ledger.rev == rev
    assert metrics(ledger) == 2


def test_a_gap_and_an_old_epoch_are_refused(ledger: Ledger) -> None:
    opened(ledger)
    gap, after = ledger.write([lab.decision(1, 2), lab.decision(1, 1)])
    assert isinstance(gap, Nack)
    assert gap.code == "gap"
    assert after == Ack()
    opened(ledger, "healer-2")
    (old,) = ledger.write([lab.decision(1, 2)])
    assert isinstance(old, Nack)
    assert old.code == "old_epoch"


def test_an_epoch_belongs_to_one_incarnation(ledger: Ledger) -> None:
    assert opened(ledger, "a").snapshot.epoch == 1
    assert ledger.write([lab.decision(1, 1)]) == [Ack()]
    again = opened(ledger, "a")
    assert again.snapshot.epoch == 1
    assert len(again.snapshot.open_incidents) == 1
    assert ledger.write([lab.decision(1, 1), lab.decision(1, 2)]) == [Ack(), Ack()]
    assert opened(ledger, "b").snapshot.epoch == 2
    late = ledger.open_epoch(OpenEpoch("a", WINDOW_S, WINDOW_S))
    assert isinstance(late, Nack)
    assert late.code == "old_epoch"


@pytest.mark.req("FR-004")
def test_a_second_open_incident_of_one_key_is_rejected_alone(ledger: Ledger, tmp_path: Path) -> None:
    opened(ledger)
    first = Commit(1, 1, (rec.PutIncident(lab.incident(1, target="augur")), rec.AddMetric(lab.metric(1))))
    doubled = Commit(1, 2, (rec.AddMetric(lab.metric(2)), rec.PutIncident(lab.incident(2, target="augur"))))
    answers = ledger.write([first, doubled, lab.decision(1, 3)])
    assert answers[0] == answers[2] == Ack()
    assert isinstance(answers[1], Nack)
    assert answers[1].code == "rejected"
    assert metrics(ledger) == 2
    assert ledger.write([doubled]) == [answers[1]], "a rejected decision stays rejected when it is sent again"
    closed = lab.incident(1, target="augur", state=m.State.RESOLVED)
    reopened = Commit(1, 4, (rec.PutIncident(closed), rec.PutIncident(lab.incident(2, target="augur"))))
    assert ledger.write([reopened]) == [Ack()]


def test_what_stands_beside_a_rejected_decision_is_taken_once(ledger: Ledger) -> None:
    opened(ledger)
    requests = [
        Commit(1, 1, (rec.PutExecution(lab.execution(1)), rec.AddMetric(lab.metric(1)))),
        Claim("exe-000001", "x-1"),
        Commit(1, 2, (rec.AddMetric(lab.metric(2)), rec.AddTrail(lab.trail(9, 1)), rec.AddTrail(lab.trail(9, 1)))),
        Claim("exe-000001", "x-2"),
        lab.decision(1, 3),
    ]
    first, claimed, refused, late, last = ledger.write(requests)
    assert (first, claimed, last) == (Ack(), ClaimAnswer(True), Ack())
    assert isinstance(refused, Nack)
    assert late == ClaimAnswer(False, "another executor has claimed it")
    revs = [
        rev for (rev,) in lab.rows(ledger.path, "SELECT rev FROM metrics UNION ALL SELECT rev FROM trail ORDER BY 1")
    ]
    assert revs == [1, 3, 4], "the changes that a projection follows are numbered without gaps"
    assert lab.rows(ledger.path, "SELECT last_n, rev FROM head") == [(3, 4)]


def test_the_trail_is_never_overwritten(ledger: Ledger) -> None:
    opened(ledger)
    (answer,) = ledger.write([Commit(1, 1, (rec.AddTrail(lab.trail(1, 1)), rec.AddTrail(lab.trail(1, 1, "other"))))])
    assert isinstance(answer, Nack)
    assert ledger.trails(["inc-000001"]) == (b"[]",)


def test_numbers_that_no_database_holds_are_rejected(ledger: Ledger) -> None:
    opened(ledger)
    bad = Commit(1, 1, (rec.AddTrail(msgspec.structs.replace(lab.trail(1, 1), n=2**63)),))
    answers = ledger.write([bad, lab.decision(1, 2)])
    assert isinstance(answers[0], Nack)
    assert answers[1] == Ack()


class TestClaims:
    def test_one_executor_gets_it_and_may_ask_again(self, ledger: Ledger) -> None:
        take(ledger, rec.PutExecution(lab.execution(1)))
        answers = ledger.write([Claim("exe-000001", "x-1"), Claim("exe-000001", "x-2"), Claim("exe-000001", "x-1")])
        assert answers == [
            ClaimAnswer(True),
            ClaimAnswer(False, "another executor has claimed it"),
            ClaimAnswer(True),
        ]
        found = ledger.execution("exe-000001")
        assert found is not None
        assert (found.state, found.claimed_by) == (m.ExecutionState.CLAIMED, "x-1")
        assert opened(ledger).snapshot.last_remediation_wall_s == found.created_wall_s

    def test_what_expired_is_of_another_boot_or_unknown_is_not_granted(self, ledger: Ledger) -> None:
        take(
            ledger,
            rec.PutExecution(lab.execution(1, expires_in_s=-0.001)),
            rec.PutExecution(lab.execution(2, boot_id="another")),
            rec.PutExecution(lab.execution(3, state=m.ExecutionState.SUCCEEDED)),
        )
        answers = ledger.write([Claim(f"exe-00000{n}", "x-1") for n in (1, 2, 3, 4)])
        assert answers == [
            ClaimAnswer(False, "it expired"),
            ClaimAnswer(False, "it was meant for an earlier boot"),
            ClaimAnswer(False, "it is succeeded"),
            ClaimAnswer(False, "no such execution"),
        ]

    def test_a_decision_that_did_not_know_of_the_claim_does_not_take_it_back(self, ledger: Ledger) -> None:
        intended = lab.execution(1)
        take(ledger, rec.PutExecution(intended))
        program = lab.program(4711)
        started = ProgramStarted(intended.id, program)
        assert ledger.write([Claim(intended.id, "x-1"), started, started]) == [ClaimAnswer(True), Ack(), Ack()]
        take(ledger, rec.PutExecution(intended))
        expected = msgspec.structs.replace(
            intended, state=m.ExecutionState.CLAIMED, claimed_by="x-1", programs=(program,)
        )
        assert ledger.execution(intended.id) == expected
        result = m.StepResult("start", True, "ok", 1.0)
        done = msgspec.structs.replace(intended, state=m.ExecutionState.SUCCEEDED, results=(result,), verified=True)
        take(ledger, rec.PutExecution(done))
        merged = msgspec.structs.replace(done, claimed_by="x-1", programs=(program,))
        assert ledger.execution(intended.id) == merged
        assert opened(ledger).snapshot.recent_executions == (merged,)

    def test_no_program_starts_for_what_was_given_up(self, ledger: Ledger) -> None:
        take(ledger, rec.PutExecution(lab.execution(1)))
        started = ProgramStarted("exe-000001", lab.program(4711))
        (early,) = ledger.write([started])
        ledger.write([Claim("exe-000001", "x-1")])
        take(ledger, rec.PutExecution(lab.execution(1, state=m.ExecutionState.INTERRUPTED)))
        late, unknown = ledger.write([started, ProgramStarted("nothing", lab.program(1))])
        assert [answer.code for answer in (early, late, unknown) if isinstance(answer, Nack)] == [
            "not_claimed",
            "not_claimed",
            "unknown_id",
        ]


def test_it_is_private_durable_and_in_wal_mode(ledger: Ledger, tmp_path: Path) -> None:
    opened(ledger)
    for name in ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.reserve"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
    connection = ledger._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    assert (tmp_path / "ledger.reserve").stat().st_blocks * 512 >= reserve.RESERVE_BYTES
    assert ledger.reserve_ok


def test_everything_is_there_after_a_new_start_and_the_clock_goes_on(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as first:
        opened(first)
        assert first.write([lab.decision(1, 1)]) == [Ack()]
        offset_s = first.clock.now().steady_s - first.clock.now().mono_s
        ledger_id, rev = first.ledger_id, first.rev
    with closing(Ledger(tmp_path / "ledger.db")) as second:
        assert (second.ledger_id, second.epoch, second.rev) == (ledger_id, 1, rev)
        assert second.write([lab.decision(1, 1), lab.decision(1, 2)]) == [Ack(), Ack()]
        assert second.clock.now().steady_s - second.clock.now().mono_s == pytest.approx(offset_s, abs=0.001)


def test_a_newer_ledger_is_not_touched(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        ledger._connection.execute("PRAGMA user_version=99")
    with pytest.raises(LedgerUnusable, match="schema 99"):
        Ledger(tmp_path / "ledger.db")


def test_a_file_that_is_no_ledger_is_kept_and_a_new_one_begins(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "ledger.db").write_bytes(b"no database at all" * 500)
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        assert opened(ledger).snapshot.epoch > 1_000_000, "no decision of the lost ledger's epochs can fit"
    (kept,) = tmp_path.glob("ledger.db.damaged-*")
    assert kept.read_bytes().startswith(b"no database")
    assert "damaged" in caplog.text


def test_a_ledger_that_breaks_while_it_is_open_is_kept_and_a_new_one_begins(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        epoch = opened(ledger).snapshot.epoch
        assert set(map(type, ledger.write([lab.decision(epoch, n) for n in range(1, 500)]))) == {Ack}
        old_id = ledger.ledger_id
        ledger._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        ledger._connection.execute("PRAGMA shrink_memory")
        size = (tmp_path / "ledger.db").stat().st_size
        with (tmp_path / "ledger.db").open("r+b") as file:
            file.seek(4096)
            file.write(os.urandom(size - 4096))
        answers = ledger.write([lab.decision(epoch, n) for n in range(500, 520)])
        assert set(map(type, answers)) == {LedgerTrouble}
        assert ledger.ledger_id != old_id
        assert list(tmp_path.glob("ledger.db.damaged-*"))
        (refused,) = ledger.write([lab.decision(epoch, 520)])
        assert isinstance(refused, Nack)
        assert refused.code == "new_ledger", "a healer that is not new writes down what it knows"
        assert opened(ledger, "after").snapshot.open_incidents == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with lab.small_disk(tmp_path / "disk", "24m") as disk:
        yield disk


def fill(disk: Path) -> None:
    """Takes every free block."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        chunk = bytes(64 * 1024)
        while chunk:
            try:
                file.write(chunk)
            except OSError:
                chunk = chunk[: len(chunk) // 2]


def test_a_full_disk_costs_the_reserve_and_then_time_but_never_a_record(
    small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Ledger(small_disk / "ledger.db")) as ledger:
        opened(ledger)
        assert ledger.reserve_ok
        fill(small_disk)
        n = taken = 0
        while ledger.reserve_ok or taken < 20:  # the first that finds no space gets the reserve
            n += 1
            assert ledger.write([lab.decision(1, n)]) == [Ack()], n
            taken += not ledger.reserve_ok
        fill(small_disk)
        while isinstance(ledger.write([lab.decision(1, n + 1)])[0], Ack):
            n += 1
        for _ in range(3):
            assert isinstance(ledger.write([lab.decision(1, n + 1), Claim("x", "y")])[0], LedgerTrouble)
        assert caplog.text.count("cannot take records") == 1, "a lasting fault is said once"
        ledger.mend_reserve()
        assert not ledger.reserve_ok, "there is no space for it"
        assert ledger.trails([f"inc-{n:06d}"]) != (b"[]",), "reading goes on"
        assert isinstance(ledger.open_epoch(OpenEpoch("another", WINDOW_S, WINDOW_S)), LedgerTrouble)
        (small_disk / "ballast").unlink()
        assert ledger.write([lab.decision(1, n + 1)]) == [Ack()]
        ledger.mend_reserve()
        assert ledger.reserve_ok
        assert len(opened(ledger).snapshot.open_incidents) == n + 1


def test_sqlite_is_the_one_of_python() -> None:
    loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "sqlite3" in line}
    libraries = {name for name in loaded if "libsqlite3" in name}
    assert len(libraries) <= 1, libraries
    assert sqlite3.threadsafety == 3


def test_a_start_on_a_full_disk_gets_the_reserve_and_without_one_is_tried_again(small_disk: Path) -> None:
    path = small_disk / "ledger.db"
    with closing(Ledger(path)) as ledger:
        opened(ledger)
        assert ledger.write([lab.decision(1, 1)]) == [Ack()]
    fill(small_disk)
    with closing(Ledger(path)) as ledger:
        assert ledger.write([lab.decision(1, 2)]) == [Ack()]
    (small_disk / "ledger.reserve").unlink(missing_ok=True)
    fill(small_disk)
    refused = ""
    try:
        with closing(Ledger(path)) as ledger:
            (answer,) = ledger.write([lab.decision(1, 3)])
            assert isinstance(answer, LedgerTrouble)
    except StoreError as error:  # no room for the files beside it, either
        refused = error.message
    assert refused == "" or "cannot be opened now" in refused
    (small_disk / "ballast").unlink()
    with closing(Ledger(path)) as ledger:
        assert ledger.write([lab.decision(1, 3)]) == [Ack()]
