"""The database probe on real files: whole, damaged, locked, gone, and in use while it looks (FR-001, FR-002, R9)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from probes import database, integrity
from probes.base import Events
from probes.database import EMPTIED, EMPTIED_AGAIN_S, DatabaseProbe
from supervisor import clock
from supervisor.config import Config, DatabaseSection, Duration, HealctlSection
from supervisor.incidents.judge import Judge
from supervisor.incidents.model import Instant, Severity, Status
from supervisor.incidents.readings import DatabaseData, HealthReading, Integrity, Unavailable
from supervisor.incidents.resources import database as rule
from supervisor.messages import AtWork
from tests.lab import mounts
from tests.lab.databases import (
    change_index_key,
    cut_off,
    destroy_header,
    listing,
    make,
    overwrite_page,
    program,
    run,
)

WITHIN_S = 60.0
# Keeps a check at work until it is interrupted: as long a check as one likes.
ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c, (SELECT * FROM t)"


class Wishes(Events):
    """What the probe tells its runner."""

    def __init__(self) -> None:
        self.soon = asyncio.Event()
        self.told: list[AtWork] = []

    def read_soon(self, target_id: str, in_s: float) -> None:
        assert in_s in (0, EMPTIED_AGAIN_S)
        self.soon.set()

    def tell(self, work: AtWork) -> None:
        self.told.append(work)

    def sources_changed(self) -> None:
        raise AssertionError("its sources are configured")


class Lab:
    """A probe of `paths`, by their stems; every reading leaves the folder as it was."""

    def __init__(self, folder: Path, *paths: Path, watch: bool = True) -> None:
        self.folder = folder
        sections = {path.stem: DatabaseSection(path=str(path), interval=Duration(1)) for path in paths}
        self.probe = DatabaseProbe(Config(healctl=HealctlSection(state_dir=str(folder / "state")), database=sections))
        self.wishes = Wishes()
        if watch:
            self.probe.watch(self.wishes)

    async def read(self, name: str) -> HealthReading:
        began_s = clock.monotonic_s()
        reading = await self.probe.read(name, 5.0)
        assert clock.monotonic_s() - began_s < 5.0, "R9"
        return reading

    async def told(self, name: str) -> HealthReading:
        """The reading after the check that this one begins has ended."""
        before = listing(self.folder)
        asked_s = clock.monotonic_s()
        async with asyncio.timeout(WITHIN_S):
            reading = await self.read(name)
            while reading.available and (reading.checked_mono_s or 0.0) < asked_s:
                await self.wishes.soon.wait()
                self.wishes.soon.clear()
                reading = await self.read(name)
        assert listing(self.folder) == before
        return reading


def data(reading: HealthReading) -> DatabaseData:
    assert reading.available, (reading.reason, reading.error)
    assert isinstance(reading.data, DatabaseData)
    return reading.data


def lab(test: Callable[[Lab], Awaitable[None]], folder: Path, *paths: Path, watch: bool = True) -> None:
    async def main() -> None:
        made = Lab(folder, *paths, watch=watch)
        try:
            await test(made)
        finally:
            made.probe.close()

    asyncio.run(main())


def reading_of(path: Path) -> HealthReading:
    found: list[HealthReading] = []

    async def test(lab: Lab) -> None:
        found.append(await lab.told(path.stem))

    lab(test, path.parent, path)
    return found[0]


def no_verdict(path: Path) -> tuple[Unavailable, str]:
    reading = reading_of(path)
    assert not reading.available, reading
    assert reading.data is None
    return reading.reason, reading.error


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001", "R9")
def test_an_index_on_an_expression_is_no_damage(tmp_path: Path) -> None:
    """json_extract() in a schema that is not trusted reads as "malformed database schema": a healthy database would
    have been halted for it."""
    path = make(tmp_path / "a.db")
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE notes (body TEXT)")
        db.execute("CREATE INDEX notes_kind ON notes (json_extract(body, '$.kind'))")
    db.close()
    found = data(reading_of(path))
    assert (found.verdict, found.errors) == (Integrity.OK, ())


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize("wal", [False, True])
def test_a_whole_database_is_ok_only_by_the_full_check(tmp_path: Path, wal: bool) -> None:
    reading = reading_of(make(tmp_path / "a.db", wal=wal))
    found = data(reading)
    assert (found.verdict, found.check, found.errors) == (Integrity.OK, "integrity_check", ())
    assert reading.checked_mono_s is not None
    assert found.checked_wall_s is not None
    assert found.size_bytes == (tmp_path / "a.db").stat().st_size


@pytest.mark.req("FR-001", "R9")
def test_one_in_use_and_one_whose_writer_was_killed_are_ok(tmp_path: Path) -> None:
    made = make(tmp_path / "a.db", wal=True)
    with program("db.execute('DELETE FROM t WHERE id = 1')", made):
        assert data(reading_of(made)).verdict is Integrity.OK
    assert (tmp_path / "a.db-wal").stat().st_size > 0
    assert data(reading_of(made)).verdict is Integrity.OK


@pytest.mark.req("FR-002")
@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize(
    ("damage", "check"),
    [
        (overwrite_page, "quick_check"),
        (change_index_key, "integrity_check"),
        (cut_off, "opening it"),
        (destroy_header, "opening it"),
    ],
)
def test_damage_is_corrupt(tmp_path: Path, damage: Callable[[Path], None], check: str, wal: bool) -> None:
    made = make(tmp_path / "a.db", wal=wal)
    damage(made)
    found = data(reading_of(made))
    assert found.verdict is Integrity.CORRUPT
    assert found.check == check
    assert found.errors
    assert found.header_destroyed is (damage is destroy_header)


@pytest.mark.req("FR-002")
def test_a_check_that_raises_instead_of_telling_is_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full check may raise where quick_check only tells: so ask it first."""
    made = make(tmp_path / "a.db")
    overwrite_page(made)
    real = integrity._rows

    def rows(db: sqlite3.Connection, check: str) -> tuple[str, ...]:
        return () if check == "quick_check" else real(db, check)

    monkeypatch.setattr(integrity, "_rows", rows)
    found = data(reading_of(made))
    assert found.verdict is Integrity.CORRUPT
    assert found.check == "integrity_check"
    assert "SQLITE_CORRUPT" in found.errors[0]


@pytest.mark.req("FR-002")
def test_the_rule_fires_on_what_the_probe_found(tmp_path: Path) -> None:
    made, twin = make(tmp_path / "a.db"), make(tmp_path / "b.db")
    overwrite_page(made)
    now = Instant(steady_s=0.0, wall_s=0.0, mono_s=0.0)
    (verdict,) = rule(Judge(reading_of(made), now), data(reading_of(made)))
    assert (verdict.status, verdict.severity) == (Status.FIRING, Severity.CRITICAL)
    assert "quick_check found errors" in verdict.evidence
    (verdict,) = rule(Judge(reading_of(twin), now), data(reading_of(twin)))
    assert verdict.status is Status.CLEAR


@pytest.mark.req("R9")
def test_functions_that_only_its_program_has_are_no_damage(tmp_path: Path) -> None:
    made = tmp_path / "a.db"
    code = (
        "db = sqlite3.connect(sys.argv[1]); db.create_function('mine', 1, lambda x: 1, deterministic=True)\n"
        "db.execute('CREATE TABLE t (x CHECK (mine(x)))'); db.execute('INSERT INTO t VALUES (1)')\n"
        "if sys.argv[2:]: db.execute('CREATE INDEX i ON t (mine(x))')\ndb.commit()"
    )
    run(code, made)
    assert data(reading_of(made)).verdict is Integrity.OK
    run(code, tmp_path / "b.db", "index")
    reason, error = no_verdict(tmp_path / "b.db")
    assert reason is Unavailable.ERROR
    assert "mine" in error


# --- no verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.req("R9")
def test_what_cannot_be_checked_is_unavailable_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    os.mkfifo(tmp_path / "f")
    (tmp_path / "e").touch()
    assert no_verdict(tmp_path / "none")[0] is Unavailable.MISSING
    assert no_verdict(tmp_path / "d")[0] is Unavailable.BAD_DATA
    assert no_verdict(tmp_path / "f")[0] is Unavailable.BAD_DATA
    assert no_verdict(tmp_path / "e")[0] is Unavailable.BAD_DATA
    made = make(tmp_path / "a.db", wal=True)
    run("db = sqlite3.connect(sys.argv[1]); db.execute('DELETE FROM t'); db.commit(); os._exit(0)", made)
    (tmp_path / "a.db-shm").unlink()
    reason, error = no_verdict(made)
    assert reason is Unavailable.BAD_DATA
    assert "write-ahead log" in error


@pytest.mark.req("R9")
def test_a_locked_one_is_locked_for_its_whole_budget_and_read_when_it_is_free(tmp_path: Path) -> None:
    made = make(tmp_path / "a.db")

    async def test(lab: Lab) -> None:
        with program("db.execute('BEGIN EXCLUSIVE')", made):
            reading = await lab.read("a")
            assert not reading.available
            assert reading.reason is Unavailable.LOCKED
        assert data(await lab.told("a")).verdict is Integrity.OK

    lab(test, tmp_path, made)


@pytest.mark.req("R9")
@pytest.mark.parametrize("wal", [False, True])
def test_one_that_is_vacuumed_all_the_time_is_never_called_corrupt(tmp_path: Path, wal: bool) -> None:
    made = make(tmp_path / "a.db", wal=wal)
    vacuum = (
        "import threading\ndef work():\n    while True:\n        try: db.execute('VACUUM')\n"
        "        except sqlite3.OperationalError: pass\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10, check_same_thread=False)\n"
        "threading.Thread(target=work, daemon=True).start()"
    )
    found = []

    async def test(lab: Lab) -> None:
        with program(vacuum, made):
            for _ in range(3):
                found.append(await lab.read("a"))

    lab(test, tmp_path, made)
    assert [one.reason for one in found if not one.available and one.reason is not Unavailable.LOCKED] == []
    assert {data(one).verdict for one in found if one.available} <= {Integrity.OK, Integrity.UNKNOWN}


# --- the background -------------------------------------------------------------------------------------------------


@pytest.mark.req("R9")
def test_a_reading_before_any_verdict_tells_progress_and_the_next_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "VERDICT_WAIT_S", 0.0)  # any check is now a long one
    made = make(tmp_path / "a.db", 100_000)

    async def test(lab: Lab) -> None:
        first = data(await lab.read("a"))
        assert first.verdict is Integrity.UNKNOWN
        seen = [first.progress]
        async with asyncio.timeout(WITHIN_S):
            while not lab.wishes.soon.is_set():
                seen.append(data(await lab.read("a")).progress)
                await asyncio.sleep(0)
        numbers = [progress for progress in seen if progress is not None]
        assert numbers == sorted(numbers)
        assert all(0 <= number < 1 for number in numbers)
        last = await lab.read("a")
        assert data(last).verdict is Integrity.OK
        assert data(last).progress is None, "what tells a check's end begins no other"

    lab(test, tmp_path, made)


@pytest.mark.req("R9", "R7")
def test_every_reading_asked_for_is_a_new_check(tmp_path: Path) -> None:
    made = make(tmp_path / "a.db")

    async def test(lab: Lab) -> None:
        first = await lab.told("a")
        asked_s = clock.monotonic_s()
        overwrite_page(made)
        second = await lab.told("a")
        assert data(first).verdict is Integrity.OK
        assert data(second).verdict is Integrity.CORRUPT
        assert second.checked_mono_s is not None
        assert second.checked_mono_s >= asked_s

    lab(test, tmp_path, made)


def _endless(monkeypatch: pytest.MonkeyPatch, during: Callable[[], None]) -> None:
    """The first check takes for ever; once it has begun, `during` happens in another thread."""
    real = integrity._rows
    begun: list[str] = []

    def rows(db: sqlite3.Connection, check: str) -> tuple[str, ...]:
        if not begun:
            begun.append(check)
            integrity.threading.Thread(target=during, daemon=True).start()  # type: ignore[attr-defined]
            db.execute(ENDLESS).fetchall()
        return real(db, check)

    monkeypatch.setattr(integrity, "_rows", rows)


@pytest.mark.req("R9", "R15", "FR-001")
def test_a_check_tells_how_far_it_is_and_is_cancelled_until_its_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "a.db")
    _endless(monkeypatch, lambda: None)

    async def test(lab: Lab) -> None:
        assert data(await lab.read("a")).verdict is Integrity.UNKNOWN
        async with asyncio.timeout(WITHIN_S):
            while not lab.wishes.told:
                await asyncio.sleep(0.01)
        told = lab.wishes.told[0]
        assert (told.target_id, told.stage, told.unit, told.over) == ("a", "quick_check", "bytes", False)
        assert 0 <= told.done < told.total == made.stat().st_size
        assert lab.probe.cancel("a", "anna") == ""
        async with asyncio.timeout(WITHIN_S):
            await lab.wishes.soon.wait()
            while not lab.wishes.told[-1].over:
                await asyncio.sleep(0.01)
        cut = await lab.read("a")
        assert (cut.available, cut.reason) == (False, Unavailable.ERROR)
        assert "its check was cancelled by anna" in cut.error
        assert lab.probe.cancel("a", "anna") == "no integrity check of a is running"
        assert data(await lab.told("a")).verdict is Integrity.OK, "the next poll begins another"

    lab(test, tmp_path, made)


@pytest.mark.req("R9")
def test_a_check_gives_way_to_whoever_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rollback journal a reader keeps everybody from committing; the writer must not fail at its timeout."""
    made = make(tmp_path / "a.db")
    wrote = threading.Event()

    def write() -> None:
        run("db = sqlite3.connect(sys.argv[1], timeout=60); db.execute('DELETE FROM t'); db.commit()", made)
        wrote.set()

    _endless(monkeypatch, write)

    async def test(lab: Lab) -> None:
        async with asyncio.timeout(WITHIN_S):
            reading = await lab.read("a")
            while data(reading).verdict is Integrity.UNKNOWN:
                reading = await lab.read("a")
        assert data(reading).verdict is Integrity.OK

    lab(test, tmp_path, made)
    assert wrote.wait(WITHIN_S)


@pytest.mark.req("R9")
def test_one_that_is_written_all_the_time_is_locked_and_each_poll_is_one_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(tmp_path / "a.db")
    monkeypatch.setattr(integrity, "_rows", lambda db, check: db.execute(ENDLESS).fetchall())
    monkeypatch.setattr(integrity, "FIRST_PAUSE_S", 0.05)
    writing = (
        "import threading\ndef work():\n"
        "    while True: db.execute('UPDATE t SET body = 1 WHERE id = 1'); time.sleep(0.05)\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10, check_same_thread=False)\n"
        "threading.Thread(target=work, daemon=True).start()"
    )

    async def test(lab: Lab) -> None:
        with program(writing, made):
            first = await lab.read("a")
            assert data(first).verdict is Integrity.UNKNOWN
            async with asyncio.timeout(WITHIN_S):
                await lab.wishes.soon.wait()
            lab.wishes.soon.clear()
            assert (await lab.read("a")).reason is Unavailable.LOCKED
            again = await lab.read("a")
            assert again.reason is Unavailable.LOCKED
            assert "written too often" in again.error
            assert "journal_mode=WAL" in again.error, "and what would help"

    lab(test, tmp_path, made)


@pytest.mark.req("R9")
def test_one_that_is_deleted_while_it_is_checked_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "a.db")
    _endless(monkeypatch, made.unlink)

    async def test(lab: Lab) -> None:
        async with asyncio.timeout(WITHIN_S):
            while (reading := await lab.read("a")).available:
                assert data(reading).verdict is Integrity.UNKNOWN
        assert reading.reason is Unavailable.MISSING

    lab(test, tmp_path, made)


@pytest.mark.req("FR-002", "R9")
def test_one_that_is_emptied_is_corrupt_when_it_is_still_so(tmp_path: Path) -> None:
    """Not at once: who copies over it empties it first. One that never held anything is no database yet."""
    path, empty = make(tmp_path / "x.db"), tmp_path / "empty.db"
    empty.touch()

    async def test(lab: Lab) -> None:
        assert data(await lab.read("x")).verdict is Integrity.OK
        content = path.read_bytes()
        os.truncate(path, 0)
        assert (await lab.read("x")).reason is Unavailable.BAD_DATA
        path.write_bytes(content)
        assert data(await lab.read("x")).verdict is Integrity.OK
        os.truncate(path, 0)
        assert (await lab.read("x")).reason is Unavailable.BAD_DATA
        for _ in range(2):
            found = data(await lab.read("x"))
            assert (found.verdict, found.errors) == (Integrity.CORRUPT, (EMPTIED,))
        for _ in range(3):
            assert (await lab.read("empty")).reason is Unavailable.BAD_DATA

    lab(test, tmp_path, path, empty)


@pytest.mark.req("R9")
def test_a_verdict_is_about_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, whole = make(tmp_path / "a.db"), make(tmp_path / "whole")
    overwrite_page(made)

    async def test(lab: Lab) -> None:
        assert data(await lab.told("a")).verdict is Integrity.CORRUPT
        whole.rename(made)
        monkeypatch.setattr(integrity, "_rows", lambda db, check: db.execute(ENDLESS).fetchall())
        assert data(await lab.read("a")).verdict is Integrity.UNKNOWN

    lab(test, tmp_path, made)


@pytest.mark.req("R9")
def test_one_that_is_replaced_while_it_is_checked_is_checked_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, damaged = make(tmp_path / "a.db"), make(tmp_path / "b.db")
    overwrite_page(damaged)
    _endless(monkeypatch, lambda: damaged.replace(made))

    async def test(lab: Lab) -> None:
        async with asyncio.timeout(WITHIN_S):
            while data(reading := await lab.read("a")).verdict is Integrity.UNKNOWN:
                pass
        assert data(reading).verdict is Integrity.CORRUPT

    lab(test, tmp_path, made)


@pytest.mark.req("R9")
def test_a_check_ends_with_its_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(tmp_path / "a.db")
    monkeypatch.setattr(integrity, "BUDGET_S", 0.2)
    _endless(monkeypatch, lambda: None)
    reason, error = no_verdict(made)
    assert reason is Unavailable.DEADLINE
    assert "budget" in error


@pytest.mark.req("R9")
def test_one_on_a_dead_mount_delays_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MOVES_WITHIN_S", 0.5)
    monkeypatch.setattr(database, "OPEN_WAIT_S", 1.0)
    made = make(tmp_path / "a.db")
    with mounts.hung(tmp_path / "dead"):
        dead = [tmp_path / "dead" / f"{name}.db" for name in ("x", "y", "z")]

        async def test(lab: Lab) -> None:
            lost = [asyncio.create_task(lab.read(path.stem)) for path in dead]
            async with asyncio.timeout(WITHIN_S):
                while data(await lab.read("a")).verdict is Integrity.UNKNOWN:
                    pass
                readings = await asyncio.gather(*lost)
                while any(reading.available for reading in readings):  # still waiting for its turn
                    readings = [await lab.read(path.stem) for path in dead]
            assert {reading.reason for reading in readings} == {Unavailable.DEADLINE}

        lab(test, tmp_path / "state", made, *dead)


@pytest.mark.req("FR-001")
def test_our_own_databases_are_awaited_at_the_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()

    async def test(lab: Lab) -> None:
        assert {source.source_id for source in lab.probe.sources()} == {"brain-db", "metrics-db", "ledger"}
        (state / "ledger.db").touch()
        asked = asyncio.create_task(lab.read("ledger"))
        await asyncio.sleep(0)
        make(state / "new.db").replace(state / "ledger.db")
        await asked
        assert data(await lab.told("ledger")).verdict is Integrity.OK

    lab(test, tmp_path)


@pytest.mark.req("FR-001")
def test_a_check_is_made_at_a_priority_that_is_lower_already_and_never_raises_it(tmp_path: Path) -> None:
    """Going back up takes a privilege: where healctl runs under `nice`, each check would end with that."""
    made, found = make(tmp_path / "a.db"), []

    def nicer() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, integrity.NICE + 5)
        found.append(integrity.Check(str(made)).run().verdict)
        found.append(os.getpriority(os.PRIO_PROCESS, thread))

    worker = threading.Thread(target=nicer)
    worker.start()
    worker.join()
    assert found == [Integrity.OK, integrity.NICE + 5]


@pytest.mark.req("FR-001")
def test_a_new_configuration_leaves_alone_what_has_not_changed(tmp_path: Path) -> None:
    made, other = make(tmp_path / "a.db"), make(tmp_path / "b.db")

    async def test(lab: Lab) -> None:
        first = await lab.told("a")
        sections = {"a": DatabaseSection(path=str(made), interval=Duration(9)), "b": DatabaseSection(path=str(other))}
        lab.probe.reconfigure(Config(healctl=HealctlSection(state_dir=str(tmp_path / "s")), database=sections))
        assert {"a", "b"} <= {source.source_id for source in lab.probe.sources()}
        assert lab.probe._targets["a"].verdict is not None
        assert lab.probe._targets["a"].verdict.began_mono_s == first.checked_mono_s
        assert data(await lab.told("b")).verdict is Integrity.OK
        lab.probe.reconfigure(Config(healctl=HealctlSection(state_dir=str(tmp_path / "s"))))
        gone = await lab.probe.read("a", 5.0)
        assert not gone.available

    lab(test, tmp_path, made)
