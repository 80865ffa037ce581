"""A halted database is written by nobody: not by the store, and not by others while the lock is held (R10)."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest

from supervisor import clock
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.messages import Ack, Commit
from tests.lab.databases import destroy_header, make, program
from tests.lab.halted import bytes_of, tried
from tests.process import storelab as lab
from tests.process.test_store_process import Peer, peer, runtime_dir, store

__all__ = ["runtime_dir", "store"]


def halt(path: Path, phase: m.HaltPhase = m.HaltPhase.HELD) -> m.Halt:
    return m.Halt("brain-db", str(path), clock.wall_s(), phase, "inc-000001", "page 7 is bad")


async def send(healer: Peer, epoch: int, numbers: range) -> None:
    assert set(await asyncio.gather(*(healer.ask(lab.decision(epoch, n)) for n in numbers))) == {Ack()}


def says_halted(healer: Peer) -> Callable[[], bool]:
    return lambda: (
        healer.status is not None
        and any("halted" in it.last_error and it.behind for it in healer.status.projections if it.name == "brain_db")
    )


async def projected(brain: Path, count: int) -> None:
    """Until so many incidents are in brain.db."""
    query = "SELECT count(*) FROM incidents"
    await asyncio.to_thread(lab.wait_for, "its tables", lambda: tried(brain, query) == "ok")
    await asyncio.to_thread(lab.wait_for, "the projection", lambda: lab.rows(brain, query) == [(count,)])


@pytest.mark.req("AC-005", "R10")
def test_once_a_halt_is_acknowledged_the_store_writes_that_database_no_more(store: lab.Store) -> None:
    brain = store.state_dir / "brain.db"

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            storm = [healer.link.ask(lab.decision(epoch, n)) for n in range(1, 201)]  # its projection is under way
            halted = await healer.ask(Commit(epoch, 201, (rec.PutHalt(halt(brain)),)))
            with lab.holding_the_lock(brain):  # a transaction that was under way then is over
                before = bytes_of(brain)
            assert halted == Ack()
            assert {await answer for answer in storm} == {Ack()}
            await send(healer, epoch, range(202, 402))
            await healer.until(says_halted(healer))
            assert bytes_of(brain) == before
            await asyncio.to_thread(store.kill)
            await asyncio.to_thread(store.start)
            await send(healer, epoch, range(402, 412))
            await healer.until(says_halted(healer))
            assert bytes_of(brain) == before, "a new store obeys it from its start"
            metrics = store.state_dir / "metrics.db"
            lab.wait_for(
                "metrics.db goes on", lambda: lab.rows(metrics, "SELECT count(*) FROM heal_metrics")[0][0] > 405
            )
            assert (await healer.open("healer-2")).halts == (halt_of(store),)
            assert await healer.ask(Commit(epoch + 1, 1, (rec.DropHalt("brain-db"),))) == Ack()
            await projected(brain, 410)

    asyncio.run(scenario())
    assert lab.rows(brain, "SELECT count(*), count(DISTINCT id) FROM incidents") == [(410, 410)]
    assert store.stop() == "exit 0"


def halt_of(store: lab.Store) -> m.Halt:
    ((body,),) = lab.rows(store.state_dir / "ledger.db", "SELECT body FROM halts")
    return msgspec.json.decode(body, type=m.Halt)


@pytest.mark.req("R10")
def test_an_old_decision_that_is_sent_again_halts_nothing_anew(store: lab.Store) -> None:
    brain = store.state_dir / "brain.db"

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            first = Commit(epoch, 1, (rec.PutHalt(halt(brain)),))
            assert await healer.ask(first) == Ack()
            assert await healer.ask(Commit(epoch, 2, (rec.DropHalt("brain-db"),))) == Ack()
            assert await healer.ask(first) == Ack()
            await send(healer, epoch, range(3, 5))
            await projected(brain, 2)

    asyncio.run(scenario())


@pytest.mark.req("R10")
@pytest.mark.parametrize("point", ["commit.after", "ack.before", "project.before"])
def test_killed_while_it_takes_a_halt_the_next_store_obeys_it(tmp_path: Path, runtime_dir: Path, point: str) -> None:
    token, brain = tmp_path / "token", tmp_path / "brain.db"
    it = lab.Store(tmp_path, runtime_dir)

    async def scenario() -> None:
        async with peer(it) as healer:
            epoch = (await healer.open()).epoch
            lab.wait_for("brain.db", lambda: tried(brain, "SELECT count(*) FROM incidents") == "ok")
            token.touch()
            both = (*lab.decision(epoch, 1).records, rec.PutHalt(halt(brain)))
            if point == "project.before":
                both = lab.decision(epoch, 1).records
            answer = healer.link.ask(Commit(epoch, 1, both))
            assert await asyncio.to_thread(it.ended) == "signal 9"
            assert not token.exists()
            if point == "project.before":
                assert lab.rows(brain, "SELECT count(*) FROM incidents") == [(0,)]
            await asyncio.to_thread(it.start)
            assert await asyncio.wait_for(answer, lab.DEADLINE_S) == Ack()
            await healer.open()  # the same epoch; the store tells how far it is
            if point == "project.before":
                await projected(brain, 1)
                return
            await send(healer, epoch, range(2, 12))
            await healer.until(says_halted(healer))
            assert lab.rows(brain, "SELECT count(*) FROM incidents") == [(0,)]

    it.start(crash=f"store:{point}:{token}")
    try:
        asyncio.run(scenario())
    finally:
        it.close()


@pytest.mark.req("R10")
def test_while_it_is_restored_the_store_has_the_file_closed(store: lab.Store) -> None:
    brain = store.state_dir / "brain.db"

    def has_it_open() -> bool:
        return str(brain) in _open_files(store.pid)

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            await send(healer, epoch, range(1, 3))
            await projected(brain, 2)
            assert await healer.ask(Commit(epoch, 3, (rec.PutHalt(halt(brain)),))) == Ack()
            await send(healer, epoch, range(4, 6))
            await healer.until(says_halted(healer))
            assert has_it_open(), "its last close could write to the damaged file"
            restoring = rec.PutHalt(halt(brain, m.HaltPhase.RESTORING))
            assert await healer.ask(Commit(epoch, 6, (restoring,))) == Ack()
            await asyncio.to_thread(lab.wait_for, "the file closed", lambda: not has_it_open())
            assert await healer.ask(Commit(epoch, 7, (rec.DropHalt("brain-db"),))) == Ack()
            await projected(brain, 4)

    asyncio.run(scenario())


@pytest.mark.req("R10")
def test_a_store_that_stops_while_it_is_halted_leaves_file_and_log_as_they_are(store: lab.Store) -> None:
    brain = store.state_dir / "brain.db"

    async def scenario() -> None:
        async with peer(store) as healer:
            epoch = (await healer.open()).epoch
            await send(healer, epoch, range(1, 3))
            await projected(brain, 2)
            assert await healer.ask(Commit(epoch, 3, (rec.PutHalt(halt(brain)),))) == Ack()
            await send(healer, epoch, range(4, 6))
            await healer.until(says_halted(healer))

    asyncio.run(scenario())
    before = bytes_of(brain)
    assert before[1], "there is a log that a last close would copy back"
    assert store.stop() == "exit 0"
    assert bytes_of(brain) == before


def _open_files(pid: int) -> set[str]:
    found = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(fd))
        except FileNotFoundError:
            continue
    return found


# --- the lock ------------------------------------------------------------------------------------------------------

_HOLDER = """
import setproctitle, sys
from pathlib import Path
from supervisor.store.hold import Lock
setproctitle.setproctitle("healctl: hold:" + sys.argv[2])
lock = Lock(Path(sys.argv[1]))
for _ in sys.stdin:
    try:
        print("held" if lock.take() else "busy", "by hand" if lock.by_hand else "", flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


class Holder:
    """`supervisor.store.hold.Lock` in a process of its own, as `hold:NAME` has it."""

    def __init__(self, path: Path, name: str = "x") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=lab.ROOT,
        )

    def take(self) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@contextmanager
def holder(path: Path, name: str = "x") -> Iterator[Holder]:
    it = Holder(path, name)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.communicate(timeout=60)


READ = "SELECT count(*) FROM t"


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_while_it_is_held_others_read_and_nobody_writes(tmp_path: Path, wal: bool) -> None:
    path = make(tmp_path / "x.db", wal=wal)
    with holder(path) as held:
        assert held.take() == "held"
        assert held.take() == "held", "again changes nothing"
        assert (tried(path), tried(path, READ)) == ("SQLITE_BUSY", "ok")
        before = bytes_of(path)
    assert bytes_of(path) == before
    assert tried(path) == "ok", "it goes with the process"


@pytest.mark.req("R10")
def test_it_waits_its_turn_behind_another_writer(tmp_path: Path) -> None:
    path = make(tmp_path / "x.db", wal=True)
    with holder(path) as held:
        with lab.holding_the_lock(path):
            assert held.take() == "busy"
        assert held.take() == "held"
        assert tried(path) == "SQLITE_BUSY"


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_with_the_header_destroyed_who_has_it_open_is_locked_out_by_hand(tmp_path: Path, wal: bool) -> None:
    path = make(tmp_path / "x.db", wal=wal)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("INSERT INTO t (name) VALUES ('before')")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute(READ).fetchall()
        destroy_header(path)
        if wal:  # what this is for: it does not read the header again
            other.execute("INSERT INTO t (name) VALUES ('written into a destroyed file')")
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            destroy_header(path)
        with holder(path) as held:
            assert held.take() == "held by hand"
            with pytest.raises(sqlite3.DatabaseError, match="locked" if wal else "not a database"):
                other.execute("INSERT INTO t (name) VALUES ('after')")
            assert tried(path) == "SQLITE_NOTADB"
            assert held.take() == "held by hand"
            with pytest.raises(sqlite3.DatabaseError, match="locked" if wal else "not a database"):
                other.execute("INSERT INTO t (name) VALUES ('after')")


@pytest.mark.req("R10")
def test_another_file_in_its_place_is_locked_too(tmp_path: Path) -> None:
    path, new = make(tmp_path / "x.db"), make(tmp_path / "new.db")
    with holder(path) as held:
        assert held.take() == "held"
        shutil.move(new, path)
        assert tried(path) == "ok"
        assert held.take() == "held"
        assert tried(path) == "SQLITE_BUSY"


@pytest.mark.req("R10")
@pytest.mark.parametrize("headless", [True, False])
def test_behind_a_symbolic_link_it_is_held_and_seen_to_be(tmp_path: Path, headless: bool) -> None:
    """SQLite's log and its index lie beside the file, not beside the link."""
    (tmp_path / "real").mkdir()
    path, link = make(tmp_path / "real" / "x.db", wal=True), tmp_path / "link.db"
    link.symlink_to(path)
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as other:
        other.execute("INSERT INTO t (name) VALUES ('before')")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute(READ).fetchall()
        if headless:
            destroy_header(path)
        with holder(link) as held:
            assert held.take() == ("held by hand" if headless else "held")
            code, seen = witness(link, 10)
            assert (code, seen["pid"]) == (0, held.process.pid), seen
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO t (name) VALUES ('after')")


@pytest.mark.req("R10")
def test_a_missing_file_is_said_and_not_made(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with holder(path) as held:
        assert held.take().startswith("FileNotFoundError")
        path.mkdir()
        assert "Error" in held.take()
        path.rmdir()
        make(path)
        assert held.take() == "held"


# --- the witness ---------------------------------------------------------------------------------------------------


def witness(path: Path, within_s: float, name: str = "x") -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.store.witness", str(path), name, str(within_s)],
        stdout=subprocess.PIPE,
        cwd=lab.ROOT,
        check=False,
        timeout=60,
    )
    answer: dict[str, object] = msgspec.json.decode(done.stdout)
    return done.returncode, answer


@pytest.mark.req("R10")
@pytest.mark.parametrize("wal", [True, False])
def test_the_witness_believes_only_the_kernel_about_who_has_the_lock(tmp_path: Path, wal: bool) -> None:
    path = make(tmp_path / "x.db", wal=wal)
    before = bytes_of(path)
    code, seen = witness(path, 0.05)
    assert (code, seen["said"]) == (1, "any program can write it")
    with program("db.execute('BEGIN IMMEDIATE')", path) as other:
        code, seen = witness(path, 0.05)
        assert (code, seen["pid"]) == (1, other.pid), "another program's lock is no halt"
    with holder(path, "y") as held:
        assert held.take() == "held"
        assert witness(path, 0.05)[0] == 1, "the hold of another database"
    with holder(path, "x") as held:
        assert held.take() == "held"
        code, seen = witness(path, 10)
        assert (code, seen["state"], seen["pid"]) == (0, "held", held.process.pid)
    assert bytes_of(path) == before


@pytest.mark.req("R10", "AC-005")
def test_the_witness_says_that_writing_is_impossible_and_whether_who_has_it_open_is_locked_out(tmp_path: Path) -> None:
    path = make(tmp_path / "x.db", wal=True)
    destroy_header(path)
    code, seen = witness(path, 0.05)
    assert (code, seen["state"]) == (1, "impossible")
    assert "may still write" in str(seen["said"])
    with holder(path) as held:
        assert held.take() == "held by hand"
        code, seen = witness(path, 10)
        assert (code, seen["state"], seen["pid"]) == (0, "impossible", held.process.pid)


@pytest.mark.req("R10")
def test_the_witness_of_what_is_not_there_says_so(tmp_path: Path) -> None:
    code, seen = witness(tmp_path / "none.db", 0.05)
    assert (code, seen["ok"]) == (1, False)
    assert not (tmp_path / "none.db").exists()
