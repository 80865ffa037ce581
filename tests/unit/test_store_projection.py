"""The projections on real files: SITE.md's columns, each record exactly once, whatever happens to the target."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor import clock
from supervisor.clock import monotonic_s
from supervisor.incidents import model as m
from supervisor.incidents import records as rec
from supervisor.store import projection
from supervisor.store.ledger import Ledger
from supervisor.store.metrics import MetricsDb
from supervisor.synapse_ids import message_id, thread_id
from tests.process import storelab as lab


@pytest.fixture
def book(tmp_path: Path) -> Iterator[lab.Book]:
    with closing(Ledger(tmp_path / "ledger.db")) as ledger:
        yield lab.Book(ledger)


def bodies(path: Path) -> list[str]:
    return [body for (body,) in lab.rows(path, "SELECT body FROM messages ORDER BY rowid")]


@pytest.mark.req("FR-004", "R14")
def test_an_incident_and_its_whole_trail_stand_in_the_sites_columns(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    stepped = m.TrailEntry(
        "inc-000001", 2, 1_700_000_002.0, m.State.REMEDIATING, "executor", "started", step_id="start",
        execution_id="exe-1", success=True, output="ok", duration_ms=12.5,
    )  # fmt: skip
    with lab.following(lab.brain(path), book.ledger.path) as it:
        book.add(rec.PutIncident(lab.incident(1)), rec.AddTrail(lab.trail(1, 1)))
        it.reaches(*book.at)
        closed = lab.incident(
            1, state=m.State.RESOLVED, resolved_wall_s=1_700_000_003.5, runbook_id="rb-restart-service",
            tier=m.Tier.PAGE, tier_reason=m.TierReason.CRITICAL, escalated_wall_s=1_700_000_003.0, detections=7,
        )  # fmt: skip
        book.add(rec.PutIncident(closed), rec.AddTrail(stepped))
        it.reaches(*book.at)
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        (found,) = map(dict, connection.execute("SELECT * FROM incidents"))
    trail, details = json.loads(found.pop("audit_trail")), json.loads(found.pop("details"))
    assert found == {
        "id": "inc-000001",
        "anomaly_type": "process_dead",
        "target_id": "svc-1",
        "severity": "critical",
        "state": "resolved",
        "runbook_id": "rb-restart-service",
        "detected_at": "2023-11-14T22:13:21.500Z",
        "state_changed_at": "2023-11-14T22:13:22.000Z",
        "resolved_at": "2023-11-14T22:13:23.500Z",
        "escalation_tier": 3,
        "escalated_at": "2023-11-14T22:13:23.000Z",
        "dismiss_until": None,
        "schema_version": 1,
        "last_seen_at": "2023-11-14T22:13:23.000Z",
        "detections": 7,
    }
    assert details["family"] == "process"
    assert details["evidence"] == closed.evidence
    first = {"timestamp": "2023-11-14T22:13:21.000Z", "state": "detected", "actor": "healctl"}
    assert trail[0] == first | {"note": "process_dead was seen"}
    assert trail[1]["step_id"] == "start"
    assert trail[1]["output"] == "ok"


@pytest.mark.req("FR-006")
def test_runbooks_are_listed_with_what_was_decided_about_them(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    restart, rotate = lab.RUNBOOK, msgspec.structs.replace(lab.RUNBOOK, id="rb-rotate-logs")
    with lab.following(lab.brain(path), book.ledger.path) as it:
        book.add(rec.PutRunbook(restart, restart.version()), rec.PutRunbook(rotate, rotate.version()))
        book.add(rec.PutRunbookState(m.RunbookState("unregistered", "*", m.Mode.DRY_RUN, 0.5, "v")))
        it.reaches(*book.at)
        query = "SELECT id, mode, confidence, auto_approve_whitelist, applies_to, approved_at FROM runbooks ORDER BY id"
        assert lab.rows(path, query) == [
            ("rb-restart-service", "dry_run", 0.5, 0, '["process_dead"]', None),
            ("rb-rotate-logs", "auto_execute", 1.0, 1, '["process_dead"]', None),
        ]
        book.add(
            rec.PutRunbookState(
                m.RunbookState(restart.id, "*", m.Mode.AUTO_EXECUTE, 0.8, restart.version(), approved_at_wall_s=0.0)
            )
        )
        it.reaches(*book.at)
        assert lab.rows(path, query)[0][:3] == ("rb-restart-service", "auto_execute", 0.8)
        assert lab.rows(path, query)[0][5] == "1970-01-01T00:00:00.000Z"


@pytest.mark.req("FR-008", "R14")
def test_each_metric_is_one_row(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "metrics.db"
    with lab.following(MetricsDb(path, own=True), book.ledger.path) as it:
        book.add(rec.AddMetric(lab.metric(1)), rec.AddMetric(lab.metric(1)), rec.AddMetric(lab.metric(2)))
        it.reaches(*book.at)
    assert lab.rows(path, "SELECT task_id, stage, result, timestamp, incident_id FROM heal_metrics") == [
        ("heal_anomaly_detected", "process_dead", "detected", "2023-11-14T22:13:20.000Z", "inc-000001"),
        ("heal_anomaly_detected", "process_dead", "detected", "2023-11-14T22:13:20.000Z", "inc-000002"),
    ]


@pytest.mark.req("FR-005", "NFR-004")
def test_messages_arrive_once_in_order_in_one_thread_per_incident(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    with lab.following(lab.synapse(path), book.ledger.path) as it:
        book.add(rec.PutOutbox(lab.message(2)), rec.PutOutbox(lab.message(1, channel=m.Channel.SIGNAL)))
        book.add(rec.PutOutbox(lab.message(3)))
        it.reaches(*book.at)
        book.add(rec.PutOutbox(lab.message(2, state=m.OutboxState.DELIVERED, receipt="syn_x")))
        book.add(rec.PutOutbox(lab.message(4)))
        it.reaches(*book.at)
    assert bodies(path) == ["message 2", "message 3", "message 4"]
    first = lab.rows(path, "SELECT id, thread_id, from_agent, to_agent, priority, created_at FROM messages")[0]
    created_at = clock.local_naive_iso(lab.message(2).created_wall_s)
    assert first == (
        message_id("out-000002"), thread_id(lab.message(2)), "helios", "all", "urgent", created_at,
    )  # fmt: skip
    assert len(first[0]) == len("syn_") + 12
    threads = lab.rows(path, "SELECT id, message_count, created_by FROM threads ORDER BY rowid")
    assert threads == [(thread_id(lab.message(2)), 2, "helios"), (thread_id(lab.message(4)), 1, "helios")]


class TestTheSitesOwnDatabase:
    def test_its_tables_are_used_as_they_are(self, book: lab.Book, tmp_path: Path) -> None:
        path = tmp_path / "site.db"
        lab.site_database(path, lab.SITE_THREADS, lab.SITE_MESSAGES)
        with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
            book.add(rec.PutOutbox(lab.message(1)))
            it.reaches(*book.at)
        assert bodies(path) == ["message 1"]

    def test_threads_without_created_by(self, book: lab.Book, tmp_path: Path) -> None:
        path = tmp_path / "site.db"
        lab.site_database(
            path, "CREATE TABLE threads (id TEXT PRIMARY KEY, subject TEXT, created_at TEXT)", lab.SITE_MESSAGES
        )
        with lab.following(lab.synapse(path, own=False), book.ledger.path) as it:
            book.add(rec.PutOutbox(lab.message(1)))
            it.reaches(*book.at)
        assert lab.rows(path, "SELECT subject FROM threads") == [("svc-1 is down",)]

    @pytest.mark.parametrize(
        ("threads", "messages", "words"),
        [
            (lab.SITE_THREADS, "CREATE TABLE notes (x)", "messages of .* does not exist"),
            (lab.SITE_THREADS, "CREATE TABLE messages (id TEXT PRIMARY KEY, thread_id TEXT)", "lacks body, created_at"),
            (
                lab.SITE_THREADS,
                lab.SITE_MESSAGES.replace("context TEXT", "mood TEXT NOT NULL"),
                "wants a value for mood",
            ),
            (lab.SITE_THREADS, lab.SITE_MESSAGES.replace("TEXT PRIMARY KEY", "TEXT"), "no primary key"),
        ],
    )
    def test_a_misfit_is_said_and_harms_nothing_until_it_is_mended(
        self, book: lab.Book, tmp_path: Path, threads: str, messages: str, words: str
    ) -> None:
        path = tmp_path / "site.db"
        lab.site_database(path, threads, messages)
        with (
            lab.following(lab.synapse(path, own=False), book.ledger.path) as it,
            lab.following(lab.brain(path, own=False), book.ledger.path) as incidents,
        ):
            book.add(rec.PutIncident(lab.incident(1)), rec.PutOutbox(lab.message(1)))
            incidents.reaches(*book.at)
            it.until(words, lambda f: re.search(words, f.error))
            assert it.follower.status(*book.at).behind > 0
            lab.site_database(path, "DROP TABLE IF EXISTS messages", lab.SITE_MESSAGES)
            it.reaches(*book.at)
        assert bodies(path) == ["message 1"]

    def test_an_incidents_table_of_the_site_gets_our_columns_and_a_strangers_is_left_alone(
        self, book: lab.Book, tmp_path: Path
    ) -> None:
        path, foreign = tmp_path / "site.db", tmp_path / "foreign.db"
        columns = (
            "id TEXT PRIMARY KEY, anomaly_type TEXT, target_id TEXT, severity TEXT, state TEXT, runbook_id TEXT,"
            " detected_at TEXT, state_changed_at TEXT, resolved_at TEXT, escalation_tier INTEGER, escalated_at TEXT,"
            " dismiss_until TEXT, audit_trail TEXT, details TEXT, schema_version INTEGER"
        )
        lab.site_database(path, f"CREATE TABLE incidents ({columns})")
        lab.site_database(foreign, "CREATE TABLE incidents (id INTEGER PRIMARY KEY, title TEXT)")
        book.add(rec.PutIncident(lab.incident(1, detections=3)))
        with lab.following(lab.brain(path, own=False), book.ledger.path) as it:
            it.reaches(*book.at)
        assert lab.rows(path, "SELECT detections FROM incidents") == [(3,)]
        with lab.following(lab.brain(foreign, own=False), book.ledger.path) as it:
            it.fails("another program's table")
        assert lab.rows(foreign, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("incidents",)]


@pytest.mark.req("AC-011", "R9")
def test_a_locked_database_is_waited_for_and_then_gets_everything_once_in_order(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    with lab.following(lab.synapse(path), book.ledger.path) as it:
        book.add(rec.PutOutbox(lab.message(0)))
        it.reaches(*book.at)
        with lab.holding_the_lock(path):
            for number in range(1, 30):
                book.add(rec.PutOutbox(lab.message(number)))
                book.add(rec.PutOutbox(lab.message(number, attempts=1)))
                it.follower.wake(*book.at)
            it.fails("locked by another program")
            status = it.follower.status(*book.at)
            assert status.behind > 0
            assert status.behind_for_s > 0
        it.reaches(*book.at)
        assert it.follower.status(*book.at).behind == 0
    assert bodies(path) == [f"message {number}" for number in range(30)]


@pytest.mark.req("R14")
def test_it_takes_the_write_lock_at_most_ten_times_a_second(
    book: lab.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program that meets it waits at least a millisecond each time."""
    target = lab.brain(tmp_path / "brain.db")
    write, taken = target.write, []

    def counted(connection: sqlite3.Connection, rows: tuple[Any, ...]) -> None:
        taken.append(monotonic_s())
        write(connection, rows)

    monkeypatch.setattr(target, "write", counted)
    began_s, between = monotonic_s(), threading.Event()
    with lab.following(target, book.ledger.path) as it:
        for number in range(60):
            book.add(*lab.decision(0, 0, number).records)
            it.follower.wake(*book.at)
            between.wait(0.01)
        it.reaches(*book.at)
    assert 2 <= len(taken) <= 2 + (monotonic_s() - began_s) / projection.PACE_S


@pytest.mark.req("R14", "FR-004")
def test_what_a_damaged_ledger_lost_of_a_trail_stays_in_brain_db(book: lab.Book, tmp_path: Path) -> None:
    path = tmp_path / "brain.db"
    entries = [rec.AddTrail(lab.trail(1, n, f"entry {n}")) for n in range(3)]
    book.add(*entries, rec.PutIncident(lab.incident(1, trail_length=3)))
    with lab.following(lab.brain(path), book.ledger.path) as following:
        following.reaches(*book.at)
        book.ledger._connection.execute("DELETE FROM trail WHERE n < 2")  # as a salvage leaves it
        book.add(rec.AddTrail(lab.trail(1, 3, "entry 3")), rec.PutIncident(lab.incident(1, trail_length=4)))
        following.reaches(*book.at)
    ((told,),) = lab.rows(path, "SELECT audit_trail FROM incidents")
    assert [entry["note"] for entry in json.loads(told)] == [f"entry {n}" for n in range(4)]


def test_what_a_start_finds_unwritten_is_no_storm(
    book: lab.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "STORM_PAUSE_S", 10 * lab.DEADLINE_S)
    monkeypatch.setattr(projection, "STORM_OVER_S", 10 * lab.DEADLINE_S)
    book.add(*(rec.AddTrail(lab.trail(1, n)) for n in range(1, 2 * projection.STORM_REVS)))
    with lab.following(lab.brain(tmp_path / "brain.db"), book.ledger.path) as following:
        following.reaches(*book.at)


def test_in_a_storm_the_ledger_goes_first_and_when_it_is_over_the_rest_follows_at_once(
    book: lab.Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "STORM_PAUSE_S", 10 * lab.DEADLINE_S)
    book.add(rec.AddTrail(lab.trail(1, 1)))
    with lab.following(lab.brain(tmp_path / "brain.db"), book.ledger.path) as following:
        following.reaches(*book.at)
        book.add(*(rec.AddTrail(lab.trail(1, n)) for n in range(2, 2 * projection.STORM_REVS)))
        following.reaches(*book.at)
