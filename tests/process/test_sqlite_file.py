"""Opening somebody's database to read it: what can be read is read, what cannot is told apart, no file is left (R9)."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from supervisor import sqlite_file
from supervisor.incidents.readings import Unavailable
from supervisor.sqlite_file import CannotOpen, Damaged, Overtaken, open_readonly, reason_of, writer_waits
from tests.lab import mounts
from tests.lab.daemon import until
from tests.lab.databases import destroy_header, listing, make, program, run

HOT = (
    "db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('PRAGMA cache_size=1'); db.execute('BEGIN');"
    "db.execute('UPDATE t SET body = zeroblob(180)'); os._exit(0)"
)
KILLED = "db = sqlite3.connect(sys.argv[1]); db.execute('DELETE FROM t WHERE id = 1'); db.commit(); os._exit(0)"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Whatever a test does with it, nothing of ours stays open."""
    yield tmp_path
    assert sqlite_file._held == {}
    inside = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert [path for path in inside if path.startswith(str(tmp_path))] == []


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def count(path: Path, timeout_s: float = 0.5) -> int:
    """The rows of `t`; the folder must be as it was."""
    before = listing(path.parent)
    try:
        with open_readonly(str(path), timeout_s) as db:
            return int(db.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        assert listing(path.parent) == before


def refused(path: Path, reason: Unavailable) -> str:
    with pytest.raises(CannotOpen) as caught:
        count(path, 0.1)
    assert caught.value.reason is reason, caught.value
    return str(caught.value)


@pytest.mark.req("FR-001", "R9")
@pytest.mark.parametrize("wal", [False, True])
@pytest.mark.parametrize("name", ["a.db", "sp ace ?mode=rwc#%41.db", "\udcff.db", "-wal"])
def test_a_closed_database_is_read_and_no_file_is_left(folder: Path, name: str, wal: bool) -> None:
    made = make(folder / "plain.db", 10, wal=wal)
    made.rename(folder / name)
    assert count(folder / name) == 10


@pytest.mark.req("R9")
@pytest.mark.parametrize("wal", [False, True])
def test_a_database_that_is_open_elsewhere_is_read_with_its_newest_commit(folder: Path, wal: bool) -> None:
    made = make(folder / "a.db", 10, wal=wal)
    with program("db.execute('DELETE FROM t WHERE id = 1')", made):
        assert count(made) == 9


@pytest.mark.req("R9")
def test_the_log_of_a_killed_writer_counts(folder: Path) -> None:
    made = make(folder / "a.db", 10, wal=True)
    run(KILLED, made)
    assert (folder / "a.db-wal").stat().st_size > 0
    assert count(made) == 9


@pytest.mark.req("R9")
def test_a_log_without_its_index_cannot_be_read_unless_it_is_empty(folder: Path) -> None:
    made = make(folder / "a.db", 10, wal=True)
    run(KILLED, made)
    (folder / "a.db-shm").unlink()
    assert "without its index" in refused(made, Unavailable.BAD_DATA)
    os.truncate(folder / "a.db-wal", 0)
    assert count(made) == 10


@pytest.mark.req("R9")
def test_an_index_without_its_log_is_told(folder: Path) -> None:
    made = make(folder / "a.db", 10, wal=True)
    (folder / "a.db-shm").touch()
    assert "but not the log itself" in refused(made, Unavailable.BAD_DATA)


@pytest.mark.req("R9")
@pytest.mark.parametrize("wal", [False, True])
def test_one_that_another_program_holds_for_itself_is_locked(folder: Path, wal: bool) -> None:
    made = make(folder / "a.db", 10, wal=wal)
    alone = "db.execute('PRAGMA locking_mode=exclusive'); db.execute('DELETE FROM t WHERE id = 1')"
    with program(alone, made):
        assert "locked" in refused(made, Unavailable.LOCKED)


@pytest.mark.req("R9")
def test_a_hot_journal_is_told_and_left_alone(folder: Path) -> None:
    made = make(folder / "a.db", 2000)
    run(HOT, made)
    assert "hot" in refused(made, Unavailable.BAD_DATA)
    with closing(sqlite3.connect(made)) as db:  # a writer rolls it back
        assert db.execute("SELECT count(*) FROM t WHERE body = zeroblob(180)").fetchone() == (0,)
    assert count(made) == 2000


@pytest.mark.req("R9")
def test_what_is_not_there_is_missing_and_not_made(folder: Path) -> None:
    refused(folder / "none.db", Unavailable.MISSING)
    (folder / "file").write_text("x")
    with pytest.raises(CannotOpen) as caught, open_readonly(str(folder / "file" / "none.db")):
        pass
    assert caught.value.reason is Unavailable.MISSING
    (folder / "link.db").symlink_to("nowhere")
    refused(folder / "link.db", Unavailable.MISSING)


@pytest.mark.req("R9")
def test_what_is_no_file_is_told_and_never_waited_for(folder: Path) -> None:
    (folder / "d").mkdir()
    os.mkfifo(folder / "f")
    (folder / "null").symlink_to("/dev/null")
    (folder / "loop").symlink_to("loop")
    assert "directory" in refused(folder / "d", Unavailable.BAD_DATA)
    assert "FIFO" in refused(folder / "f", Unavailable.BAD_DATA)
    refused(folder / "null", Unavailable.BAD_DATA)
    refused(folder / "loop", Unavailable.ERROR)
    with pytest.raises(CannotOpen) as caught, open_readonly("a\0b"):
        pass
    assert caught.value.reason is Unavailable.ERROR


@pytest.mark.req("R9")
def test_an_empty_file_is_no_database_yet(folder: Path) -> None:
    (folder / "a.db").touch()
    assert "empty" in refused(folder / "a.db", Unavailable.BAD_DATA)


@pytest.mark.req("R9")
@pytest.mark.parametrize("size", [1, 99, 100, 600, 4096])
def test_what_sqlite_refuses_is_damaged(folder: Path, size: int) -> None:
    made = make(folder / "a.db", 10, wal=True)
    if size < 4096:
        os.truncate(made, size)
    else:
        destroy_header(made)
    before = listing(folder)
    with pytest.raises(Damaged) as caught, open_readonly(str(made)):
        pass
    assert caught.value.reason is Unavailable.BAD_DATA
    assert caught.value.header_destroyed is (size in (1, 99, 4096))
    assert listing(folder) == before


@pytest.mark.req("R9")
def test_a_database_of_a_newer_sqlite_is_not_called_damaged(folder: Path) -> None:
    made = make(folder / "a.db", 10)
    content = made.read_bytes()
    newer = content.replace(b"CREATE TABLE t (", b"CREATE TABLX t (").replace(content[96:100], b"\x00\x98\x96\x80", 1)
    made.write_bytes(newer)
    assert "newer SQLite" in refused(made, Unavailable.BAD_DATA)


@pytest.mark.req("R9")
def test_what_was_read_while_somebody_wrote_is_worth_nothing(folder: Path) -> None:
    """A closed WAL database is read without locks; who begins to write it meanwhile is noticed."""
    made = make(folder / "a.db", 10, wal=True)
    write = "db = sqlite3.connect(sys.argv[1]); db.execute('DELETE FROM t'); db.commit(); db.close()"

    def read_while(other: Callable[[], None]) -> None:
        with open_readonly(str(made)) as db:
            db.execute("SELECT count(*) FROM t").fetchone()
            other()

    def torn() -> None:
        with program("db.execute('INSERT INTO t VALUES (1, 2, 3)')", made):  # still open: its log shows it
            raise sqlite3.DatabaseError("torn")

    with pytest.raises(Overtaken) as caught:
        read_while(lambda: run(write, made))
    assert caught.value.reason is Unavailable.LOCKED
    with pytest.raises(Overtaken):
        read_while(torn)
    with closing(sqlite3.connect(made)) as db:
        db.execute("SELECT * FROM t").fetchone()
    assert count(made) == 1


@pytest.mark.req("R9")
def test_nothing_can_be_written_through_it(folder: Path) -> None:
    made = make(folder / "a.db", 10)
    with open_readonly(str(made)) as db:
        for statement in ("DELETE FROM t", "CREATE TABLE u (x)", "PRAGMA user_version=7", "VACUUM"):
            with pytest.raises(sqlite3.OperationalError):
                db.execute(statement)
        with pytest.raises(sqlite3.OperationalError):
            db.execute("SELECT load_extension('x')")
    assert count(made) == 10


@pytest.mark.req("R9")
def test_text_that_is_not_utf_8_is_read(folder: Path) -> None:
    made = make(folder / "a.db", 1)
    with closing(sqlite3.connect(made)) as db:
        db.execute("UPDATE t SET body = CAST(x'61ff62' AS TEXT)")
        db.commit()
    with open_readonly(str(made)) as db:
        assert db.execute("SELECT body FROM t").fetchone() == ("a�b",)


@pytest.mark.req("R9")
def test_a_second_look_at_the_same_file_does_not_drop_the_locks_of_the_first(folder: Path) -> None:
    """Closing any descriptor of a file drops the process's POSIX locks on it: header reads must not."""
    made = make(folder / "a.db", 10)
    os.link(made, folder / "b.db")
    commit = (
        "db = sqlite3.connect(sys.argv[1], timeout=0); db.execute('DELETE FROM t')\n"
        "try: db.commit()\nexcept sqlite3.OperationalError: sys.exit(0)\nsys.exit('committed beside a reader')"
    )
    with open_readonly(str(made)) as first:
        first.execute("BEGIN")
        first.execute("SELECT count(*) FROM t").fetchone()  # from here on it holds a shared lock
        assert count(folder / "b.db") == 10
        second = threading.Thread(target=count, args=(made,))
        second.start()
        second.join()
        run(commit, made)
    assert count(made) == 10


@pytest.mark.req("R9")
def test_a_writer_that_waits_for_us_shows(folder: Path) -> None:
    made = make(folder / "a.db", 10)
    assert not writer_waits(str(made))
    waits = (
        "import threading\ndb.close()\ndef work():\n"
        "    db = sqlite3.connect(sys.argv[1], timeout=60); db.execute('DELETE FROM t'); db.commit()\n"
        "threading.Thread(target=work, daemon=True).start()"
    )
    with open_readonly(str(made)) as db:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM t").fetchone()
        with program("db.execute('BEGIN IMMEDIATE'); db.execute('DELETE FROM t')", made):
            assert not writer_waits(str(made)), "it has not come so far that we would keep it waiting"
        with program(waits, made):
            until("the writer waits", lambda: writer_waits(str(made)))
    run("db = sqlite3.connect(sys.argv[1]); db.execute('DELETE FROM t'); db.commit()", made)
    assert count(made) == 0


@pytest.mark.req("R9")
def test_another_users_file_is_a_matter_of_permission(folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to be somebody else")
    made = make(folder / "a.db", 10)
    made.chmod(0o600)
    (folder / "shut").mkdir(mode=0o700)
    make(folder / "shut" / "b.db", 10)
    for parent in (folder, *folder.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    code = (
        "import os, sys; from supervisor.sqlite_file import *\n"  # imported while we still may
        "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        with open_readonly(path): print('opened')\n"
        "    except CannotOpen as error: print(error.reason)\n"
    )
    words = [sys.executable, "-c", code, str(made), str(folder / "shut" / "b.db")]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["permission", "permission"], done


@pytest.mark.req("R9")
def test_a_dead_mount_hangs_nobody_but_its_own_thread(folder: Path) -> None:
    made = make(folder / "a.db", 10)
    errors: list[Exception] = []

    def look() -> None:
        try:
            with open_readonly(str(folder / "dead" / "a.db")):
                pass
        except CannotOpen as error:
            errors.append(error)

    with mounts.hung(folder / "dead"):
        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        wchan = Path(f"/proc/self/task/{thread.native_id}/wchan")
        until("the thread waits for the server", lambda: "fuse" in wchan.read_text() or "wait" in wchan.read_text())
        with open_readonly(str(made)) as db:
            assert db.execute("SELECT count(*) FROM t").fetchone() == (10,)
        assert thread.is_alive()
    thread.join(60)
    assert len(errors) == 1


@pytest.mark.req("R9")
def test_the_reasons_of_sqlites_errors() -> None:
    def made(code: int) -> sqlite3.Error:
        error = sqlite3.OperationalError("x")
        error.sqlite_errorcode = code
        return error

    assert reason_of(made(sqlite3.SQLITE_BUSY_SNAPSHOT)) is Unavailable.LOCKED
    assert reason_of(made(sqlite3.SQLITE_LOCKED)) is Unavailable.LOCKED
    assert reason_of(made(sqlite3.SQLITE_CORRUPT_INDEX)) is Unavailable.BAD_DATA
    assert reason_of(made(sqlite3.SQLITE_READONLY_ROLLBACK)) is Unavailable.BAD_DATA
    assert reason_of(made(sqlite3.SQLITE_IOERR)) is Unavailable.ERROR
    assert reason_of(made(sqlite3.SQLITE_PERM)) is Unavailable.PERMISSION
    assert reason_of(sqlite3.OperationalError("raised by Python's module itself")) is Unavailable.ERROR
