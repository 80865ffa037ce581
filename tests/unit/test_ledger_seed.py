"""What is salvaged of a damaged ledger, and what the healer then writes over it: nothing known is lost or doubled."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import LedgerUnusable
from supervisor.incidents import events as e
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.incidents import seed
from supervisor.incidents.policy import Policy
from supervisor.incidents.readings import PidFile, ProcessData, ProcessRef
from supervisor.incidents.recover import rebuild
from supervisor.incidents.world import World
from supervisor.messages import Ack, Commit, EpochOpened, Nack, OpenEpoch
from supervisor.store import salvage, sqlite
from supervisor.store.ledger import Ledger
from tests.lab.engine import BOOT, EMPTY, Lab, service
from tests.process import storelab as lab


def opened(ledger: Ledger, incarnation: str) -> EpochOpened:
    answer = ledger.open_epoch(OpenEpoch(incarnation, 1e9, 1e9))
    assert isinstance(answer, EpochOpened), answer
    return answer


def filled(path: Path, count: int) -> None:
    with closing(Ledger(path)) as ledger:
        book = lab.Book(ledger)
        for number in range(count):
            book.add(
                rec.PutIncident(lab.incident(number, trail_length=1)),
                rec.AddTrail(lab.trail(number, 0)),
                rec.AddMetric(lab.metric(number)),
                rec.PutOutbox(lab.message(number)),
                rec.SetTimer(lab.timer(number)),
            )


def spoil(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * 4096)
            file.write(os.urandom(4096))


def leaves(path: Path, table: str) -> list[int]:
    """The leaf pages of a table, found by what stands in them (no dbstat in every SQLite): type 13."""
    with closing(sqlite3.connect(path)) as db:
        ((root,),) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchall()
    raw = path.read_bytes()
    page = raw[(root - 1) * 4096 : root * 4096]
    assert page[0] == 5, "the table has more than one page"
    cells = int.from_bytes(page[3:5], "big")
    offsets = [int.from_bytes(page[12 + 2 * n : 14 + 2 * n], "big") for n in range(cells)]
    return [int.from_bytes(page[at : at + 4], "big") for at in offsets]


@pytest.mark.req("FR-004")
def test_rows_before_behind_and_between_damaged_pages_are_salvaged(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, 300)
    pages = leaves(path, "incidents")
    spoil(path, pages[1], pages[len(pages) // 2])
    before = path.read_bytes()
    with closing(Ledger(path)) as ledger:
        ledger.set_aside("the test spoiled it")
        snapshot = opened(ledger, "new").snapshot
        found = {it.id for it in snapshot.open_incidents}
        assert 200 < len(found) < 300
        assert {"inc-000000", "inc-000299"} <= found
        assert found <= {f"inc-{n:06d}" for n in range(300)}
        assert len(snapshot.outbox) == len(snapshot.timers) == 300
        assert lab.rows(path, "SELECT count(*) FROM trail") == [(len(found),)], "no trail without its incident"
        assert lab.rows(path, "PRAGMA integrity_check") == [("ok",)]
        (kept,) = ledger.damaged()
        assert Path(kept).read_bytes() == before
        assert ledger.rev > 0


def test_a_closed_incident_without_its_whole_trail_is_left_to_brain_db(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(Ledger(path)) as ledger:
        book = lab.Book(ledger)
        for number, length in ((1, 1), (2, 2)):
            closed = lab.incident(number, state=m.State.RESOLVED, trail_length=length)
            book.add(rec.PutIncident(closed), rec.AddTrail(lab.trail(number, 0)))
        ledger.set_aside("the test says so")
        assert lab.rows(path, "SELECT id FROM incidents") == [("inc-000001",)]
        assert lab.rows(path, "SELECT incident_id FROM trail") == [("inc-000001",)]


def test_each_damaged_ledger_is_kept_under_a_name_of_its_own_and_the_clock_goes_on(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        before = ledger.clock.now()
        for n in range(3):
            ledger.set_aside("again")
            assert len(ledger.damaged()) == n + 1
        after = ledger.clock.now()
        assert after.steady_s - before.steady_s == pytest.approx(after.mono_s - before.mono_s, abs=1e-3)


def test_an_exchange_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    path, fresh = tmp_path / "ledger.db", tmp_path / "ledger.db.new"
    filled(fresh, 3)
    with closing(Ledger(path)) as ledger:  # the old one had been renamed already
        assert len(opened(ledger, "a").snapshot.open_incidents) == 3
    assert not fresh.exists()
    fresh.write_bytes(b"half of one")
    with closing(Ledger(path)) as ledger:
        assert len(opened(ledger, "b").snapshot.open_incidents) == 3
    assert not fresh.exists()


def test_bad_bodies_stay_behind(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    filled(path, 3)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE incidents SET body = '{\"id\": 1}' WHERE id = 'inc-000001'")
        db.execute("UPDATE outbox SET body = x'ff00' WHERE id = 'out-000002'")
        db.commit()
    with closing(Ledger(tmp_path / "other.db")) as new:
        found = salvage.salvage(path, new._connection)
        assert not found.whole
        assert (found.rows["incidents"], found.rows["outbox"]) == (2, 2)
    nothing = salvage.salvage(tmp_path / "missing.db", sqlite.open_ledger(tmp_path / "third.db"))
    assert (nothing.rows, nothing.whole) == ({}, False)


def a_world() -> World:
    """What a healer has in memory."""
    world = World("boot", "old", 1, Policy(), {lab.RUNBOOK.id: lab.RUNBOOK}, {})
    running = lab.execution(1, state=m.ExecutionState.CLAIMED)
    world.executions[running.id] = running
    incident = lab.incident(1, trail_length=2, execution_id=running.id)
    world.incidents[incident.id] = incident
    world.trails[incident.id] = [lab.trail(1, 0), lab.trail(1, 1)]
    world.closed[incident.anomaly, "svc-2"] = [lab.incident(2, state=m.State.RESOLVED)]
    world.outbox["out-000004"] = lab.message(4)
    world.arm(lab.timer(1))
    world.stages["pipeline:a"] = m.StageEntry("pipeline:a", "build", 5.0, 6.0)
    world.pauses["fleet"] = m.FamilyPause("fleet", 1.0, "canaries")
    world.runbook_states["rb", "*"] = m.RunbookState("rb", "*", m.Mode.DRY_RUN, 0.5, "v")
    world.known["svc-1"] = lab.program(77).process
    world.halts["brain-db"] = m.Halt("brain-db", "/b", 1.0, m.HaltPhase.HELD, "inc-000001", "damaged")
    world.breakers["rb", "x"] = m.Breaker("rb", "x", 1.0, 1.0, 2.0, "3 runs")
    return world


def sow(ledger: Ledger, world: World, *waiting: rec.Record) -> EpochOpened:
    epoch = opened(ledger, f"sow-{os.urandom(3).hex()}").snapshot.epoch
    parts = seed.parts(world, waiting)
    answers = ledger.write([Commit(epoch, n, part, seed=True) for n, part in enumerate(parts, 1)])
    assert set(map(type, answers)) == {Ack}, answers
    return opened(ledger, f"look-{os.urandom(3).hex()}")


@pytest.mark.req("FR-004", "FR-005")
def test_the_seed_holds_everything_that_a_snapshot_gives(tmp_path: Path) -> None:
    world = a_world()
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        found = sow(ledger, world).snapshot
        assert found.open_incidents == tuple(world.incidents.values())
        assert found.executions == tuple(world.executions.values())
        assert found.outbox == tuple(world.outbox.values())
        assert found.timers == tuple(world.timers.values())
        assert found.stages == tuple(world.stages.values())
        assert found.pauses == tuple(world.pauses.values())
        assert found.runbook_states == tuple(world.runbook_states.values())
        assert found.halts == tuple(world.halts.values())
        assert found.breakers == tuple(world.breakers.values())
        assert {one.target_id: one.process for one in found.known} == world.known
        assert [it.id for it in found.recent_closed] == ["inc-000002"]
        assert ledger.trails(["inc-000001"]) == (msgspec.json.encode(world.trails["inc-000001"]),)


def test_memory_wins_over_what_was_salvaged_and_keeps_claims_and_programs(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    world = a_world()
    with closing(Ledger(path)) as ledger:
        book = lab.Book(ledger)
        stale = lab.incident(9, target="svc-1", trail_length=1)  # closed since; svc-1 has another one open now
        execution = lab.execution(1, state=m.ExecutionState.CLAIMED, claimed_by="x-1", programs=(lab.program(5),))
        book.add(
            rec.PutIncident(stale),
            rec.AddTrail(lab.trail(9, 0)),
            rec.PutExecution(execution),
            rec.PutExecution(lab.execution(8)),
            rec.SetTimer(lab.timer(8)),
            rec.PutOutbox(lab.message(8)),
            rec.AddTrail(lab.trail(1, 0, "older words")),
            rec.AddMetric(lab.metric(1)),
            rec.PutIncident(lab.incident(5, state=m.State.RESOLVED)),
        )
        ledger.set_aside("the test says so")
        found = sow(ledger, world, rec.AddMetric(lab.metric(2)), rec.SetTimer(lab.timer(3))).snapshot
        assert found.open_incidents == tuple(world.incidents.values())
        (running,) = found.executions
        assert (running.claimed_by, running.programs) == ("x-1", (lab.program(5),))
        assert found.timers == tuple(world.timers.values()), "a timer that was dropped since does not come back"
        assert found.outbox == tuple(world.outbox.values())
        assert lab.rows(path, "SELECT id FROM metrics ORDER BY id") == [("met-000001",), ("met-000002",)]
        assert ledger.trails(["inc-000001"]) == (msgspec.json.encode(world.trails["inc-000001"]),)
        assert ("inc-000005",) in lab.rows(path, "SELECT id FROM incidents"), "history stays"


def test_what_waited_is_in_the_seed_once_in_its_last_state(tmp_path: Path) -> None:
    world = a_world()
    first, last = lab.incident(6), lab.incident(6, state=m.State.RESOLVED, trail_length=1)
    again = lab.incident(7, target=first.target_id)
    world.incidents[again.id] = again
    waiting = (rec.PutIncident(first), rec.AddTrail(lab.trail(6, 0)), rec.PutIncident(last), rec.PutIncident(again))
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        found = sow(ledger, world, *waiting).snapshot
        assert {it.id for it in found.open_incidents} == {"inc-000001", "inc-000007"}
        assert last in found.recent_closed
        assert ledger.trails(["inc-000006"]) != (b"[]",)


def test_a_large_memory_goes_in_parts_that_a_message_can_carry() -> None:
    world = a_world()
    for number in range(100, 3000):
        world.incidents[f"inc-{number:06d}"] = lab.incident(number, waiting_for="x" * 4000)
    parts = seed.parts(world, ())
    assert len(parts) > 3
    assert max(len(msgspec.msgpack.encode(part)) for part in parts) < 8 * 1024 * 1024
    assert [type(record) for record in parts[0]] == [rec.PutExecution]


def test_an_epoch_that_this_ledger_never_had_is_told_from_one_that_is_over(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        for incarnation in ("a", "b"):
            opened(ledger, incarnation)
        answers = ledger.write([Commit(1, 1, ()), Commit(99, 1, ())])
        codes = [answer.code for answer in answers if isinstance(answer, Nack)]
        assert codes == ["old_epoch", "new_ledger"]


def test_another_programs_database_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE accounts (id)")
        db.execute("PRAGMA user_version=3")
    before = path.read_bytes()
    with pytest.raises(LedgerUnusable, match="another program"):
        Ledger(path)
    assert path.read_bytes() == before


def test_a_directory_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").mkdir()
    with pytest.raises(LedgerUnusable, match="cannot be used"):
        Ledger(tmp_path / "ledger.db")


@pytest.mark.req("FR-003", "R3")
def test_a_known_process_is_known_again_after_a_ledger_was_begun_anew() -> None:
    """It was written without how it was sought, and then taken for another program's: its service could be doubled."""
    lab_ = Lab(targets=(msgspec.structs.replace(service("toy"), pid_file="/run/toy.pid"),))
    lab_.poll("toy")
    data = ProcessData(True, ProcessRef(BOOT, 7, 7), PidFile.OK, sought=lab_.targets[0].sought)
    lab_.advance(1.0)
    lab_.feed(e.ReadingSeen(lab_.reading("toy", data=data)))
    known = lab_.engine.world.known
    assert list(known) == ["toy"]
    written = [
        record for part in seed.parts(lab_.engine.world, []) for record in part if isinstance(record, rec.PutKnown)
    ]
    snapshot = msgspec.structs.replace(EMPTY, known=tuple(written))
    again = rebuild(snapshot, BOOT, lab_.policy, lab_.runbooks, lab_.targets, frozenset(), {})
    assert again.known == known
