"""The pipeline probe on real state files and a real brain.db: where a task stands, and who spoke of it last."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from probes import pipeline
from probes.base import Refused
from probes.pipeline import PipelineProbe
from supervisor.clock import local_naive_iso
from supervisor.config import (
    Config,
    Duration,
    HealctlSection,
    NotifySection,
    PipelineSection,
    StoreSection,
    SynapseSection,
)
from supervisor.incidents.model import Channel, OutboxRow, Tier
from supervisor.incidents.readings import HealthReading, PipelineData, SourceReading, Unavailable
from supervisor.store.synapse import Synapse
from tests.lab.daemon import locked
from tests.lab.probes import Told, database, watching, write

DEADLINE_S = 5.0
TASK = "pipeline:task-001-shiny"


def config_of(folder: Path, **keys: object) -> Config:
    section = PipelineSection(state_file=str(folder / "state.json"), stage_done=("/bin/true",), **keys)  # type: ignore[arg-type]
    return Config(pipeline={"main": section}, healctl=HealctlSection(state_dir=str(folder / "own")))


def task(task_id: str = "task-001-shiny", stage: object = "build", **keys: object) -> dict[str, Any]:
    return {"task_id": task_id, "title": "Something shiny", "phase": "x", "status": "in_progress",
            "current_stage": stage, "stages_completed": [], "stages_blocked": [], **keys}  # fmt: skip


def state(folder: Path, *tasks: object, name: str = "state.json", **keys: object) -> Path:
    whole = {"pipeline_version": "2", "active_tasks": list(tasks), "completed_tasks": [{"task_id": 7}], **keys}
    return write(folder / name, msgspec.json.encode(whole))


def read(probe: PipelineProbe, target_id: str = TASK) -> HealthReading:
    return asyncio.run(probe.read(target_id, DEADLINE_S))


def data(reading: HealthReading) -> PipelineData:
    assert isinstance(reading.data, PipelineData), reading.error
    return reading.data


def names(probe: PipelineProbe) -> list[str]:
    return [source.source_id for source in probe.sources()]


# --- the state file -------------------------------------------------------------------------------------------------


@pytest.mark.req("FR-001")
def test_each_active_task_is_a_source_known_from_the_first_moment_on(tmp_path: Path) -> None:
    state(tmp_path, task(), task("task-002", "test", updated_at="2026-02-18T09:30:00Z"))
    probe = PipelineProbe(config_of(tmp_path, interval=Duration(90)))
    assert names(probe) == [TASK, "pipeline:task-002"]
    assert probe.sources()[0].poll_interval_ms == 90_000
    found = data(read(probe))
    assert (found.task_id, found.pipeline, found.stage, found.status) == (
        "task-001-shiny",
        "main",
        "build",
        "in_progress",
    )
    assert (found.moving, found.title, found.stuck_after_s) == (True, "Something shiny", 3600)
    assert (found.messages_known, found.message_wall_s, found.updated_wall_s) == (True, None, None)
    assert data(read(probe, "pipeline:task-002")).updated_wall_s == 1_771_407_000


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"completed_at": "2026-02-18"}, "completed"),
        ({"stage": "done"}, "done"),
        ({"status": "Blocked"}, "Blocked"),
        ({"status": "failed"}, "failed"),
        ({"status": "finished", "stage": None}, "finished"),
        ({"stages_blocked": ["build"]}, "blocked"),
    ],
)
def test_a_task_that_is_finished_or_blocked_moves_no_more(tmp_path: Path, keys: dict[str, Any], words: str) -> None:
    state(tmp_path, task(**keys))
    found = data(read(PipelineProbe(config_of(tmp_path))))
    assert found.moving is False
    assert words in found.detail


@pytest.mark.req("FR-002")
def test_a_task_in_another_stage_than_the_blocked_one_moves(tmp_path: Path) -> None:
    state(tmp_path, task(stages_blocked=["test"], completed_at=None, updated_at="nonsense"))
    found = data(read(PipelineProbe(config_of(tmp_path))))
    assert (found.moving, found.updated_wall_s) == (True, None)


@pytest.mark.req("R9")
@pytest.mark.parametrize("content", [None, b"{", b"[]"])
def test_a_state_file_that_was_never_readable_does_not_go_unnoticed(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        write(tmp_path / "state.json", content)
    probe = PipelineProbe(config_of(tmp_path))
    assert names(probe) == ["pipeline:main"]
    found = read(probe, "pipeline:main")
    assert (found.available, found.reason) == (False, Unavailable.BAD_DATA if content else Unavailable.MISSING)
    state(tmp_path, task())
    assert data(read(probe, "pipeline:main")).detail == "its state file names 1 active tasks"
    assert names(probe) == [TASK]


@pytest.mark.req("FR-002")
def test_a_task_that_has_left_the_list_is_answered_for(tmp_path: Path) -> None:
    state(tmp_path, task())
    probe = PipelineProbe(config_of(tmp_path))
    state(tmp_path)
    found = data(read(probe))
    assert (found.moving, found.task_id) == (False, "task-001-shiny")
    assert "not among the active tasks" in found.detail
    assert names(probe) == ["pipeline:main"], "a pipeline without tasks is a target itself"
    assert data(read(probe, "pipeline:main")).moving is False
    assert probe.source(TASK) is not None
    assert data(read(probe, "pipeline:task-999")).moving is False
    for strange in (
        "pipeline:",
        "pipeline:task-1",
        "pipeline:task-001;rm",
        "pipeline:TASK-001",
        "task-001",
        "pipeline:task-٠٠١",
    ):
        assert probe.source(strange) is None
        assert not read(probe, strange).available


@pytest.mark.req("R11")
def test_ids_and_stages_of_another_form_are_reported_once_and_not_watched(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    strange = [
        task("task-1"), task("task-0001; rm -rf"), task("task-001\n"), task("TASK-001"), task("task-٠٠١"),
        task("task-001" + "x" * 61),
        task(7), task(None), "task-005", None, 7, [], {}, task("task-010", "Build"), task("task-011", "a" * 42),
        task("task-012", "build --force"), task("task-013", None), task("task-014", ["build"]), task("task-015", ""),
        task("task-001-shiny", "test"),
    ]  # fmt: skip
    state(tmp_path, task(), *strange)
    with caplog.at_level(logging.WARNING):
        probe = PipelineProbe(config_of(tmp_path))
        assert names(probe) == [TASK]
        told = len(caplog.records)
        assert told == len(strange) - 3  # three say the same as others: no id, no id, 7
        assert data(read(probe)).stage == "build"
        assert len(caplog.records) == told
    reading = read(probe, "pipeline:task-010")
    assert (reading.available, reading.reason) == (False, Unavailable.BAD_DATA)
    assert "'Build'" in reading.error


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Unavailable.BAD_DATA),
        (b"{", Unavailable.BAD_DATA),
        (b"[]", Unavailable.BAD_DATA),
        (b"{}", Unavailable.BAD_DATA),
        (b'{"active_tasks": {}}', Unavailable.BAD_DATA),
        (b'{"active_tasks": null}', Unavailable.BAD_DATA),
        (b'{"active_tasks": [}', Unavailable.BAD_DATA),
        (b"[" * 200_000, Unavailable.BAD_DATA),
        (b'{"active_tasks": [' + b"[" * 200_000, Unavailable.BAD_DATA),
        (b"\xff", Unavailable.BAD_DATA),
        (None, Unavailable.MISSING),
    ],
)
def test_a_state_file_that_cannot_be_read_never_makes_a_task_gone(
    tmp_path: Path, content: bytes | None, reason: Unavailable
) -> None:
    path = state(tmp_path, task())
    probe = PipelineProbe(config_of(tmp_path))
    path.unlink()
    if content is not None:
        write(path, content)
    for target_id in (TASK, "pipeline:task-777"):
        reading = read(probe, target_id)
        assert (reading.available, reading.reason, reading.data) == (False, reason, None)
    assert names(probe) == [TASK]


@pytest.mark.req("R9")
def test_a_fifo_a_directory_and_a_huge_file_do_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "STATE_BYTES_MAX", 1000)
    path = tmp_path / "state.json"
    for make in (os.mkfifo, os.mkdir, lambda path: write(path, b" " * 1001)):
        make(path)
        reading = read(PipelineProbe(config_of(tmp_path)))
        assert reading.reason is Unavailable.BAD_DATA
        path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.req("R9")
def test_a_state_file_that_hangs_delays_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state(tmp_path, task(), name="a.json")
    state(tmp_path, task("task-002"), name="b.json")
    sections = {n: PipelineSection(state_file=str(tmp_path / f"{n}.json"), stage_done=("x",)) for n in "ab"}
    probe = PipelineProbe(Config(pipeline=sections, healctl=HealctlSection(state_dir=str(tmp_path))))
    over, real = threading.Event(), pipeline.load

    def load(path: str, *rest: object) -> object:
        if path.endswith("a.json"):
            over.wait(20)
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "load", load)

    async def script() -> None:
        hung, well = await asyncio.gather(probe.read(TASK, 0.4), probe.read("pipeline:task-002", DEADLINE_S))
        assert (hung.available, hung.reason) == (False, Unavailable.DEADLINE)
        assert data(well).moving
        over.set()
        assert data(await probe.read(TASK, DEADLINE_S)).moving

    asyncio.run(script())


@pytest.mark.req("R8", "FR-001")
def test_tasks_come_change_and_go_as_the_kernel_tells(tmp_path: Path) -> None:
    async def script() -> None:
        probe = PipelineProbe(config_of(tmp_path, interval=Duration(3600)))
        told: Told = await watching(probe)
        await told.until(lambda: "main" in probe._pollers)
        await asyncio.to_thread(lambda: None)
        state(tmp_path, task())
        await told.until(lambda: names(probe) == [TASK])
        state(tmp_path, task(stage="test"))
        await told.soon(TASK)
        state(tmp_path, task(stage="test"), task("task-002"))
        await told.until(lambda: len(names(probe)) == 2)
        state(tmp_path, task("task-002"))
        await told.until(lambda: names(probe) == ["pipeline:task-002"])
        changes, since = told.changes, len(told.wishes)
        write(tmp_path / "state.json", "{")
        await told.soon("pipeline:task-002", since)  # it is told that it cannot be read
        assert told.changes == changes
        probe.close()

    asyncio.run(script())


@pytest.mark.req("FR-001")
def test_without_the_kernels_word_each_poll_finds_new_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.inotify._libc.inotify_add_watch", lambda *_: -1, raising=False)

    async def script() -> None:
        probe = PipelineProbe(config_of(tmp_path, interval=Duration(0.1)))
        told = await watching(probe)
        state(tmp_path, task())
        await told.until(lambda: names(probe) == [TASK])
        probe.close()

    asyncio.run(script())


@pytest.mark.req("R8")
def test_reconfiguring_keeps_what_has_not_changed(tmp_path: Path) -> None:
    state(tmp_path, task(), name="a.json")
    state(tmp_path, task("task-002"), name="b.json")
    sections = {n: PipelineSection(state_file=str(tmp_path / f"{n}.json"), stage_done=("x",)) for n in "ab"}

    async def script() -> None:
        probe = PipelineProbe(Config(pipeline=sections))
        told = await watching(probe)
        assert names(probe) == [TASK, "pipeline:task-002"]
        kept = probe._looks["a"], probe._pollers["a"]
        probe.reconfigure(Config(pipeline={"a": sections["a"]}))
        assert (probe._looks["a"], probe._pollers["a"]) == kept
        assert names(probe) == [TASK]
        changed = msgspec.structs.replace(sections["a"], stuck_after=Duration(5))
        probe.reconfigure(Config(pipeline={"a": changed, "b": sections["b"]}))
        await told.until(lambda: names(probe) == [TASK, "pipeline:task-002"])
        assert data(await probe.read(TASK, DEADLINE_S)).stuck_after_s == 5
        assert probe._looks["a"] is not kept[0]
        probe.close()

    asyncio.run(script())


# --- messages -------------------------------------------------------------------------------------------------------

MESSAGES = """CREATE TABLE messages (id TEXT PRIMARY KEY, thread_id TEXT NOT NULL, from_agent TEXT NOT NULL,
    to_agent TEXT, subject TEXT, body TEXT NOT NULL, created_at TEXT NOT NULL, metadata TEXT)"""
THREADS = "CREATE TABLE threads (id TEXT PRIMARY KEY, subject TEXT, created_by TEXT, created_at TEXT NOT NULL)"


def brain(folder: Path, *messages: dict[str, Any], threads: tuple[tuple[str, str], ...] = ()) -> Config:
    """Another program's brain.db with these messages, and the configuration that names it."""
    path = folder / "brain.db"
    database(path, MESSAGES, THREADS)
    quote = lambda value: "NULL" if value is None else "'" + str(value).replace("'", "''") + "'"  # noqa: E731
    rows = []
    for number, keys in enumerate(messages):
        row = {"id": f"syn_{number:012x}", "thread_id": "thr_1", "from_agent": "oracle", "subject": "", "body": "",
               "created_at": local_naive_iso(time.time() - 60), "metadata": None, **keys}  # fmt: skip
        rows.append(f"INSERT INTO messages ({', '.join(row)}) VALUES ({', '.join(map(quote, row.values()))})")
    rows += [f"INSERT INTO threads (id, subject, created_at) VALUES ('{i}', '{s}', '')" for i, s in threads]
    database(path, *rows)
    config = config_of(folder)
    return msgspec.structs.replace(config, store=StoreSection(brain_db=str(path)))


@pytest.mark.req("FR-002")
@pytest.mark.parametrize(
    ("message", "about"),
    [
        ({"subject": "Task-001-shiny: still at it"}, True),
        ({"body": "I wait for (task-001-shiny)."}, True),
        ({"thread_id": "pipeline-task-001-shiny"}, False),
        ({"thread_id": "pipeline:task-001-shiny"}, True),
        ({"thread_id": "thr_9"}, True),
        ({"from_agent": "task-001-shiny"}, True),
        ({"from_agent": "build"}, True),
        ({"from_agent": "Build-Agent"}, True),
        ({"from_agent": "build_agent"}, True),
        ({"body": "ask the build agent"}, True),
        ({"from_agent": "build-agent", "body": "task-002 goes on"}, False),
        ({"from_agent": "build-agent", "body": "task-002 goes on, and task-001-shiny"}, True),
        ({"from_agent": "test-agent"}, False),
        ({"from_agent": "rebuild-agent"}, False),
        ({"body": "the build is red"}, False),
        ({"body": "task-001"}, False),
        ({"body": "task-001-shiny-too"}, False),
        ({"body": "subtask-001-shiny"}, False),
        ({"body": "task-001_shiny task-001%"}, False),
        ({"from_agent": "%"}, False),
        ({}, False),
    ],
)
def test_a_message_is_about_a_task_that_it_names(tmp_path: Path, message: dict[str, Any], about: bool) -> None:
    config = brain(tmp_path, message, threads=(("thr_9", "About task-001-shiny"), ("thr_1", "Else")))
    state(tmp_path, task())
    found = data(read(PipelineProbe(config)))
    assert found.messages_known
    assert (found.message_wall_s is not None) is about
    if found.message_wall_s is not None:
        assert 55 < time.time() - found.message_wall_s < 70


@pytest.mark.req("FR-002")
def test_the_newest_message_counts_and_none_that_is_yet_to_come(tmp_path: Path) -> None:
    times = [local_naive_iso(time.time() - ago_s) for ago_s in (600, 300, 900, -3600)]
    config = brain(tmp_path, *({"body": "task-001-shiny", "created_at": at} for at in (*times, "nonsense")))
    state(tmp_path, task())
    found = data(read(PipelineProbe(config)))
    assert found.message_wall_s is not None
    assert 295 < time.time() - found.message_wall_s < 310


@pytest.mark.req("FR-002")
def test_a_message_counts_in_whatever_form_its_time_is_written(tmp_path: Path) -> None:
    """One that is passed over by its text would leave a task stuck of which somebody speaks."""
    wall_s = int(time.time()) - 60
    for at in (local_naive_iso(wall_s), f"{wall_s}", f"{wall_s * 1000:.0f}"):
        folder = tmp_path / at
        folder.mkdir()
        state(folder, task())
        found = data(read(PipelineProbe(brain(folder, {"body": "task-001-shiny", "created_at": at}))))
        assert found.message_wall_s == pytest.approx(wall_s, abs=1), at


@pytest.mark.req("FR-002")
def test_our_own_messages_never_count_and_others_of_our_name_do(tmp_path: Path) -> None:
    config = brain(tmp_path)
    path = tmp_path / "brain.db"
    subject, body = "pipeline:task-001-shiny is stuck", "task-001-shiny stands still"
    row = OutboxRow(
        "out_1", "inc_1", ("inc_1",), Channel.SYNAPSE, Tier.ASK, "approval", "action", subject, body, time.time()
    )
    synapse = Synapse(path, own=False, sender="helios", to="all")
    with closing(sqlite3.connect(path)) as connection:
        synapse.write(connection, (row,))
        connection.commit()
    state(tmp_path, task())
    assert data(read(PipelineProbe(config))).message_wall_s is None
    # The agent whose name we use, on its own account; and a forgery, whose id is not derived from what it names.
    now = local_naive_iso(time.time() - 60)
    for number, metadata in enumerate(("NULL", "'{'", "'[]'", "'{\"outbox_id\": 7}'", '\'{"outbox_id": "out_1"}\'')):
        database(path, "DELETE FROM messages WHERE id LIKE 'syn_x%'")
        assert data(read(PipelineProbe(config))).message_wall_s is None
        insert = "INSERT INTO messages (id, thread_id, from_agent, body, created_at, metadata)"
        database(path, f"{insert} VALUES ('syn_x{number}', 't', 'helios', 'task-001-shiny', '{now}', {metadata})")
        assert data(read(PipelineProbe(config))).message_wall_s is not None


@pytest.mark.req("FR-002")
def test_what_was_read_before_is_not_read_again_and_nothing_new_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.mailbox.AGAIN_ROWS", 0)
    config, path = brain(tmp_path, {"body": "task-001-shiny"}), tmp_path / "brain.db"
    state(tmp_path, task())
    probe = PipelineProbe(config)
    first = data(read(probe)).message_wall_s
    assert first is not None

    def say(ago_s: float, body: str) -> None:
        at = local_naive_iso(time.time() - ago_s)
        insert = "INSERT INTO messages (id, thread_id, from_agent, body, created_at)"
        database(path, f"{insert} VALUES ('{body}{ago_s}', 't', 'oracle', '{body}', '{at}')")

    say(30, "something else")
    assert data(read(probe)).message_wall_s == first
    say(20, "task-001-shiny")
    second = data(read(probe)).message_wall_s
    assert second is not None
    assert second > first
    say(-20, "task-001-shiny")
    assert data(read(probe)).message_wall_s == second
    later = time.time() + 30
    monkeypatch.setattr("probes.mailbox.clock.wall_s", lambda: later)
    assert data(read(probe)).message_wall_s == pytest.approx(time.time() + 20, abs=10), "what was yet to come has come"
    say(8, "task-003")
    assert data(read(probe)).message_wall_s is not None
    state(tmp_path, task(stage="test"), task("task-002"), task("task-003"))
    assert data(read(probe)).message_wall_s is not None
    assert data(read(probe, "pipeline:task-003")).message_wall_s is not None, "said before the task was there"
    assert data(read(probe, "pipeline:task-002")).message_wall_s is None
    say(5, "task-002")
    assert data(read(probe, "pipeline:task-002")).message_wall_s is not None
    database(path, "DELETE FROM messages WHERE body = 'task-002'", "DELETE FROM messages WHERE rowid > 1")
    assert data(read(probe)).message_wall_s == first, "another database stands there now: all of it is read"


@pytest.mark.req("FR-002")
def test_where_ours_cannot_be_told_nothing_of_our_sender_counts(tmp_path: Path) -> None:
    config = brain(tmp_path, {"from_agent": "helios", "body": "task-001-shiny"})
    state(tmp_path, task())
    rest = NotifySection(synapse=SynapseSection(transport="http://127.0.0.1:8031"))
    assert data(read(PipelineProbe(config))).message_wall_s is not None
    assert data(read(PipelineProbe(msgspec.structs.replace(config, notify=rest)))).message_wall_s is None
    database(tmp_path / "brain.db", "ALTER TABLE messages DROP COLUMN metadata")
    assert data(read(PipelineProbe(config))).message_wall_s is None


@pytest.mark.req("R9")
@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (("DROP TABLE messages",), "no table messages"),
        (("ALTER TABLE messages RENAME COLUMN created_at TO at",), "lacks created_at"),
    ],
)
def test_a_brain_db_with_another_schema_tells_nothing(tmp_path: Path, statements: tuple[str, ...], words: str) -> None:
    config = brain(tmp_path)
    database(tmp_path / "brain.db", *statements)
    state(tmp_path, task())
    found = data(read(PipelineProbe(config)))
    assert (found.moving, found.messages_known) == (True, False)
    assert words in found.detail


@pytest.mark.req("R9")
def test_messages_without_threads_or_subjects_are_read_all_the_same(tmp_path: Path) -> None:
    config = brain(tmp_path, {"body": "task-001-shiny"})
    database(tmp_path / "brain.db", "DROP TABLE threads", "ALTER TABLE messages DROP COLUMN subject")
    state(tmp_path, task())
    assert data(read(PipelineProbe(config))).message_wall_s is not None


@pytest.mark.req("R9")
def test_a_brain_db_that_is_locked_missing_or_none_tells_nothing_and_nothing_is_made(tmp_path: Path) -> None:
    config = brain(tmp_path, {"body": "task-001-shiny"})
    state(tmp_path, task())
    path = tmp_path / "brain.db"
    with locked(path):
        found = data(read(PipelineProbe(config)))
        assert (found.moving, found.messages_known) == (True, False)
        assert "locked" in found.detail
    before = sorted(tmp_path.iterdir())
    assert data(read(PipelineProbe(config))).messages_known
    assert sorted(tmp_path.iterdir()) == before
    path.write_bytes(b"no database, " * 100)
    assert data(read(PipelineProbe(config))).messages_known is False
    path.unlink()
    assert data(read(PipelineProbe(config))).messages_known is False
    assert not path.exists()


def test_a_brain_db_of_our_own_that_is_not_there_yet_has_no_message(tmp_path: Path) -> None:
    state(tmp_path, task())
    found = data(read(PipelineProbe(config_of(tmp_path))))
    assert (found.messages_known, found.message_wall_s) == (True, None)


# --- from outside ---------------------------------------------------------------------------------------------------


def given(*tasks: object, source_id: str = "pipeline.state", ago_s: float = 0.0, **keys: Any) -> SourceReading:
    whole = {"data_json": msgspec.json.encode({"active_tasks": tasks}), "available": True, **keys}
    return SourceReading(source_id, time.time() - ago_s, 600_000, **whole)


@pytest.mark.req("NFR-004", "R7")
@pytest.mark.parametrize("source_id", ["pipeline.state", "main.state"])
def test_a_state_from_outside_stands_for_every_task(tmp_path: Path, source_id: str) -> None:
    state(tmp_path, task(), task("task-002"))
    probe = PipelineProbe(config_of(tmp_path))
    readings = probe.outside(given(task(stage="test"), task("task-003"), task("bad"), source_id=source_id))
    found = {reading.target_id: data(reading) for reading in readings}
    assert found.keys() == {TASK, "pipeline:task-002", "pipeline:task-003"}
    assert all(reading.external for reading in readings)
    assert (found[TASK].stage, found[TASK].moving, found[TASK].messages_known) == ("test", True, False)
    assert found["pipeline:task-002"].moving is False
    assert names(probe) == [TASK, "pipeline:task-002"], "what is watched our own file says"


@pytest.mark.req("NFR-004", "R9")
@pytest.mark.parametrize(
    "hostile",
    [
        given(source_id="other.state"),
        given(source_id="main"),
        given(source_id="pipeline"),
        given(source_id=".state"),
        given(source_id=""),
        given(available=False),
        given(task(), ago_s=601),
        given(task(), ago_s=-3600),
        given(data_json=b"{}"),
        given(data_json=b"null"),
        given(data_json=b"["),
        given(data_json=b'{"active_tasks": 7}'),
        given(data_json=b'{"active_tasks": ["' + b"x" * 1024 * 1024 + b'"]}'),
    ],
)
def test_hostile_states_from_outside_are_refused_in_a_sentence(tmp_path: Path, hostile: SourceReading) -> None:
    state(tmp_path, task())
    with pytest.raises(Refused) as refused:
        PipelineProbe(config_of(tmp_path)).outside(hostile)
    assert str(refused.value)


@pytest.mark.req("NFR-004")
def test_of_several_pipelines_it_must_be_said_which(tmp_path: Path) -> None:
    sections = {n: PipelineSection(state_file=str(tmp_path / n), stage_done=("x",)) for n in "ab"}
    probe = PipelineProbe(Config(pipeline=sections))
    with pytest.raises(Refused):
        probe.outside(given(task()))
    (reading,) = probe.outside(given(task(), source_id="b.state"))
    assert data(reading).pipeline == "b"
