"""Synapse's rows in brain.db: one thread for an incident, counted right, in tables of others as they happen to be."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import clock
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.store.ledger import Ledger
from supervisor.synapse_ids import message_id, thread_id
from tests.process import storelab as lab

pytestmark = pytest.mark.req("FR-005", "R14")
THREADS = "SELECT id, subject, message_count, last_message_at, status FROM threads ORDER BY rowid"
# The other program's, which knows neither who began a thread nor a state of it.
SHORT_THREADS = (
    "CREATE TABLE threads (id TEXT PRIMARY KEY, subject TEXT, created_at TEXT, last_message_at TEXT,"
    " message_count INTEGER DEFAULT 0)"
)


@pytest.fixture
def book(tmp_path: Path) -> Iterator[lab.Book]:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield lab.Book(ledger)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.db"


def about(number: int, *incidents: str, **more: Any) -> m.OutboxRow:
    """Message `number`, about these incidents."""
    fields = {"incident_id": incidents[0] if incidents else None, "covers": incidents} | more
    return msgspec.structs.replace(lab.message(number), **fields)


def told(path: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM messages ORDER BY rowid")]


def write_all(path: Path, book: lab.Book, *rows: m.OutboxRow) -> None:
    """Each row in a decision of its own, all of them in Synapse when it returns."""
    with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
        for row in rows:
            book.add(rec.PutOutbox(row))
        it.reaches(*book.at)


KINDS = ("approval", "page", "note", "repeat", "outcome", "closing")


@pytest.mark.parametrize("threads", [lab.SITE_THREADS, SHORT_THREADS], ids=["created_by", "without"])
def test_everything_about_one_incident_is_one_thread_with_the_first_subject(
    book: lab.Book, path: Path, threads: str
) -> None:
    lab.site_database(path, threads, lab.SITE_MESSAGES)
    rows = [about(n, "inc_a", kind=kind, subject=f"subject {n}") for n, kind in enumerate(KINDS)]
    other = about(50, "inc_b")
    write_all(path, book, *rows[:3], other, *rows[3:])
    thread = thread_id(rows[0])
    assert thread.startswith("thr_")
    assert len(thread) == len("thr_") + 12
    assert [one["thread_id"] for one in told(path)] == [thread] * 3 + [thread_id(other)] + [thread] * 3
    query = "SELECT id, subject, message_count, last_message_at FROM threads ORDER BY rowid"
    assert lab.rows(path, query) == [
        (thread, "subject 0", len(KINDS), clock.local_naive_iso(rows[-1].created_wall_s)),
        (thread_id(other), other.subject, 1, clock.local_naive_iso(other.created_wall_s)),
    ]
    if threads == lab.SITE_THREADS:
        assert lab.rows(path, "SELECT DISTINCT status, created_by FROM threads") == [("active", "helios")]


def test_a_group_has_a_thread_of_its_own_that_names_its_incidents(book: lab.Book, path: Path) -> None:
    lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
    page, again = about(1, "inc_a", "inc_b", "inc_c"), about(2, "inc_c", "inc_a", "inc_b")
    closing_a, nobodys = about(3, "inc_a"), about(4)
    write_all(path, book, page, again, closing_a, nobodys)
    assert thread_id(page) == thread_id(again)
    assert len({thread_id(row) for row in (page, closing_a, nobodys, about(5), about(6, "inc_b"))}) == 5
    metadata = [json.loads(one["metadata"]) for one in told(path)]
    assert [(one["incident_id"], one["covers"]) for one in metadata] == [
        (None, ["inc_a", "inc_b", "inc_c"]), (None, ["inc_c", "inc_a", "inc_b"]), ("inc_a", ["inc_a"]), (None, []),
    ]  # fmt: skip
    assert [count for _, _, count, *_ in lab.rows(path, THREADS)] == [2, 1, 1]


class TestCounted:
    def test_told_again_from_the_beginning_nothing_changes(self, book: lab.Book, path: Path) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        write_all(path, book, *(about(n, "inc_a") for n in range(5)))
        before = (told(path), lab.rows(path, THREADS))
        lab.site_database(path, "DELETE FROM heal_projection")
        write_all(path, book)
        assert (told(path), lab.rows(path, THREADS)) == before

    def test_an_older_brain_db_in_its_place_gets_what_it_lacks(self, book: lab.Book, path: Path) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        write_all(path, book, *(about(n, "inc_a") for n in range(2)))
        copy = path.with_suffix(".copy")
        with closing(sqlite3.connect(path)) as live, closing(sqlite3.connect(copy)) as older:
            live.backup(older)
        with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
            book.add(rec.PutOutbox(about(2, "inc_a")))
            it.reaches(*book.at)
            with closing(sqlite3.connect(copy)) as older, closing(sqlite3.connect(path, timeout=10)) as live:
                older.backup(live)  # as a restore does, under the follower's hands
            book.add(rec.PutOutbox(about(3, "inc_a")))
            it.reaches(*book.at)
        assert [one["body"] for one in told(path)] == [f"message {n}" for n in range(4)]
        assert [count for _, _, count, *_ in lab.rows(path, THREADS)] == [4]

    def test_replies_of_others_stay_counted_and_the_last_is_the_latest(self, book: lab.Book, path: Path) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        first, second = about(1, "inc_a"), about(2, "inc_a")
        write_all(path, book, first)
        later = clock.local_naive_iso(second.created_wall_s + 7_200.0)
        thread = thread_id(first)
        lab.site_database(
            path,
            "INSERT INTO messages (id, thread_id, from_agent, body, created_at) VALUES"
            f" ('syn_x', '{thread}', 'matthew', 'on it', '{later}')",
            f"UPDATE threads SET last_message_at = '{later}', message_count = message_count + 1 WHERE id = '{thread}'",
        )
        write_all(path, book, second)
        assert [row[2:4] for row in lab.rows(path, THREADS)] == [(3, later)]

    @pytest.mark.parametrize("count", ["NULL", "7"])
    def test_a_thread_that_was_cleared_away_is_counted_anew(self, book: lab.Book, path: Path, count: str) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES.replace(" REFERENCES threads(id)", ""))
        write_all(path, book, about(1, "inc_a"), about(2, "inc_a"))
        lab.site_database(path, "DELETE FROM threads" if count == "7" else "UPDATE threads SET message_count = NULL")
        write_all(path, book, about(3, "inc_a"))
        assert [row[2] for row in lab.rows(path, THREADS)] == [3]


def test_messages_stand_in_order_even_in_the_hour_that_summer_time_repeats(
    book: lab.Book, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        half_past_two = 1_792_888_200.0  # 2026-10-25 02:30 in summer time; 40 minutes later it is 02:10 in winter time
        minutes = (0, 40, 40, 41, 95)
        write_all(
            path, book, *(about(n, "inc_a", created_wall_s=half_past_two + 60 * at) for n, at in enumerate(minutes))
        )
        found = told(path)
        stamps = [one["created_at"] for one in found]
        assert stamps[0] == "2026-10-25T02:30:00"
        assert stamps[-1] == "2026-10-25T03:05:00"
        assert stamps == sorted(set(stamps)), "Synapse sorts by this text"
        exact = [json.loads(one["metadata"])["at"] for one in found]
        assert exact[1] == "2026-10-25T01:10:00.000Z"
        assert lab.rows(path, THREADS)[0][2:4] == (5, stamps[-1])
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_clock_that_was_wrong_for_days_does_not_bind_what_follows(book: lab.Book, path: Path) -> None:
    lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
    wrong, right = about(1, "inc_a", created_wall_s=1_900_000_000.0), about(2, "inc_a")
    write_all(path, book, wrong, right)
    assert told(path)[1]["created_at"] == clock.local_naive_iso(right.created_wall_s)


def test_what_the_rest_side_makes_memory_rows_of_is_not_written(book: lab.Book, path: Path) -> None:
    lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
    write_all(path, book, about(1, "inc_a", body="@Atom it CAUSES svc-triggers", subject="down because of @remember"))
    (one,) = told(path)
    assert (one["body"], one["subject"]) == ("(at)Atom it brings about svc-t·riggers", "down since of (at)remember")
    assert lab.rows(path, "SELECT subject FROM threads") == [(one["subject"],)]


class TestTablesOfOthers:
    @pytest.mark.parametrize("column", ["subject", "created_by", "last_message_at", "message_count", "status", "tags"])
    def test_a_thread_column_that_is_not_there_is_left_out(self, book: lab.Book, path: Path, column: str) -> None:
        lab.site_database(path, lab.SITE_THREADS, f"ALTER TABLE threads DROP COLUMN {column}", lab.SITE_MESSAGES)
        write_all(path, book, about(1, "inc_a"), about(2, "inc_a"))
        assert len(told(path)) == 2
        assert lab.rows(path, "SELECT count(*) FROM threads") == [(1,)]

    @pytest.mark.parametrize("column", ["to_agent", "priority", "subject", "metadata", "context"])
    def test_a_message_column_that_is_not_there_is_left_out(self, book: lab.Book, path: Path, column: str) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES, f"ALTER TABLE messages DROP COLUMN {column}")
        write_all(path, book, about(1, "inc_a"))
        assert len(told(path)) == 1

    @pytest.mark.parametrize(
        ("spoil", "words", "mend"),
        [
            (("ALTER TABLE messages DROP COLUMN body",), "table messages of {path} lacks body",
             "ALTER TABLE messages ADD COLUMN body TEXT"),
            (("ALTER TABLE messages DROP COLUMN from_agent",), "table messages of {path} lacks from_agent",
             "ALTER TABLE messages ADD COLUMN from_agent TEXT"),
            (("ALTER TABLE threads DROP COLUMN created_at",), "table threads of {path} lacks created_at",
             "ALTER TABLE threads ADD COLUMN created_at TEXT"),
            (("DROP TABLE messages", "DROP TABLE threads", lab.SITE_MESSAGES.replace(" REFERENCES threads(id)", "")),
             "table threads of {path} does not exist", lab.SITE_THREADS),
            (("DROP TABLE threads", lab.SITE_THREADS.replace("tags TEXT", "owner TEXT NOT NULL, team TEXT NOT NULL")),
             "table threads of {path} wants a value for owner, team", "DROP TABLE threads; " + lab.SITE_THREADS),
            (("DROP TABLE threads", lab.SITE_THREADS.replace("id TEXT PRIMARY", "id INTEGER PRIMARY")),
             "column id of table threads of {path} is an INTEGER key", "DROP TABLE threads; " + lab.SITE_THREADS),
            (("DROP TABLE threads", "CREATE TABLE all_threads (id TEXT PRIMARY KEY, created_at TEXT)",
              "CREATE VIEW threads AS SELECT * FROM all_threads"),
             "table threads of {path} is a view", "DROP VIEW threads; " + lab.SITE_THREADS),
            (("CREATE TRIGGER nobody BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'not you'); END",),
             "refuse message syn_", "DROP TRIGGER nobody"),
            (("DROP TABLE threads", lab.SITE_THREADS.replace("subject TEXT", "subject TEXT CHECK (subject = 'x')")),
             "CHECK constraint failed: subject = 'x'", "DROP TABLE threads; " + lab.SITE_THREADS),
            (("DROP TABLE threads", lab.SITE_THREADS.replace("id TEXT PRIMARY", "id INT PRIMARY") + " STRICT"),
             "cannot store TEXT value in INT column threads.id", "DROP TABLE threads; " + lab.SITE_THREADS),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_named_nothing_is_written_and_it_goes_on_when_it_is_mended(
        self, book: lab.Book, path: Path, spoil: tuple[str, ...], words: str, mend: str
    ) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
            it.reaches(*book.at)  # it has seen them whole
            lab.site_database(path, *spoil)
            book.add(rec.PutOutbox(about(1, "inc_a")))
            it.follower.wake(*book.at)
            it.fails(words.format(path=path))
            with closing(sqlite3.connect(path, timeout=10)) as connection:
                if "is a view" not in words:
                    assert connection.execute("SELECT count(*) FROM messages").fetchone() == (0,)
                for statement in mend.split("; "):
                    connection.execute(statement)
                connection.commit()
            it.reaches(*book.at)
        assert [one["id"] for one in told(path)] == [message_id(about(1, "inc_a").id)]
        assert lab.rows(path, "SELECT count(*) FROM threads") == [(1,)]

    def test_a_brain_db_that_was_exchanged_for_one_of_another_shape(self, book: lab.Book, path: Path) -> None:
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        other = path.with_suffix(".other")
        lab.site_database(other, SHORT_THREADS, lab.SITE_MESSAGES.replace("metadata TEXT,", ""))
        with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
            book.add(rec.PutOutbox(about(1, "inc_a")))
            it.reaches(*book.at)
            other.rename(path)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            book.add(rec.PutOutbox(about(2, "inc_a")))
            it.reaches(*book.at)
        assert [one["body"] for one in told(path)] == ["message 1", "message 2"]
        assert lab.rows(path, "SELECT message_count FROM threads") == [(2,)]

    def test_receipts_and_acknowledgements_are_left_alone_and_their_index_is_kept_by_their_trigger(
        self, book: lab.Book, path: Path
    ) -> None:
        first = message_id(about(1, "inc_a").id)
        lab.site_database(
            path, lab.SITE_THREADS, lab.SITE_MESSAGES,
            "CREATE TABLE read_receipts (message_id TEXT REFERENCES messages(id), agent_id TEXT, read_at TEXT)",
            "CREATE TABLE acks (message_id TEXT REFERENCES messages(id), agent_id TEXT, ack_body TEXT, acked_at TEXT)",
            "CREATE VIRTUAL TABLE messages_fts USING fts5(subject, body)",
            "CREATE TRIGGER indexed AFTER INSERT ON messages BEGIN"
            " INSERT INTO messages_fts(rowid, subject, body) VALUES (new.rowid, new.subject, new.body); END",
        )  # fmt: skip
        write_all(path, book, about(1, "inc_a"))
        lab.site_database(
            path,
            f"INSERT INTO read_receipts VALUES ('{first}', 'matthew', 'now')",
            f"INSERT INTO acks VALUES ('{first}', 'matthew', 'seen', 'now')",
            "DELETE FROM heal_projection",
        )
        write_all(path, book, about(2, "inc_a"))
        assert lab.rows(path, "SELECT message_id FROM read_receipts") == [(first,)]
        assert lab.rows(path, "SELECT message_id FROM acks") == [(first,)]
        assert lab.rows(path, "SELECT body FROM messages_fts WHERE messages_fts MATCH 'message'") == [
            ("message 1",), ("message 2",),
        ]  # fmt: skip
