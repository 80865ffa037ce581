"""Who spoke of a pipeline's task last? Synapse's messages in brain.db, read only (SITE.md, FR-002 `pipeline_stuck`).

A message is about a task when its subject, body, thread or sender names the task's id, or the agent of its stage
("build-agent"; as a sender "build", too); not when it names other tasks only. Ours never count: their ids are derived
from the outbox row that their metadata names. Where that cannot be seen (no column metadata, or Synapse's REST side
writes them, under ids of its own) no message of our sender counts.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from supervisor import clock
from supervisor.config import Config, dirs
from supervisor.incidents.readings import Unavailable
from supervisor.sqlite_file import CannotOpen, open_readonly, reason_of
from supervisor.stamps import CLOCKS_APART_S, BadStamp, wall_s_of
from supervisor.synapse_ids import message_id
from supervisor.tasks import Task

ROWS_MAX = 5000  # the newest; what is older has been talked over
BODY_CHARS_MAX = 20_000
AGAIN_ROWS = 200  # of those read before: SQLite gives a deleted row's number to the next
LONGER_S = 2 * 86_400.0  # than the longest limit: messages older than that change nothing, whatever their zone
_NEEDED = frozenset({"thread_id", "from_agent", "body", "created_at"})
_TEXTS = ("subject", "body", "thread_id", "from_agent")
_TASK = re.compile(r"(?a:(?<![a-z0-9-])task-\d{3}[a-z0-9-]*)")


class Mail(msgspec.Struct, frozen=True):
    """Per task the time of the newest message about it (wall seconds); `trouble`: why none can be told."""

    newest: Mapping[str, float] = {}
    trouble: str = ""


class Where(msgspec.Struct, frozen=True):
    """`own`: brain.db is healctl's own, where a missing file or table means that nobody has written anything."""

    path: str
    own: bool
    sender: str
    by_rest: bool
    reach_s: float


class _Memory(msgspec.Struct, frozen=True):
    """What the rows up to number `mark` say of `stages` (task -> stage); only what came later is read again."""

    stages: Mapping[str, str] = {}
    newest: Mapping[str, float] = {}
    mark: int = 0


class Mailbox:
    """One for all pipelines of a worker; `read` is called by one thread at a time."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._memory = _Memory()

    def read(self, tasks: Iterable[Task]) -> Mail:
        """Blocking."""
        tasks = tuple(tasks)
        try:
            with open_readonly(self.where.path) as connection:
                memory = self._read(connection, tasks)
        except CannotOpen as error:
            if self.where.own and error.reason is Unavailable.MISSING:
                return Mail()
            return Mail(trouble=str(error))
        except sqlite3.Error as error:
            return Mail(trouble=f"{self.where.path}: {error} ({reason_of(error)})")
        if isinstance(memory, str):
            return Mail(trouble=memory)
        self._memory = memory  # not before the block's end: what was read may turn out to be worthless there
        return Mail(memory.newest)

    def _read(self, connection: sqlite3.Connection, tasks: tuple[Task, ...]) -> _Memory | str:
        present = _columns(connection, "messages")
        if not present:
            return _Memory() if self.where.own else f"{self.where.path} has no table messages"
        missing = sorted(_NEEDED - present)
        if missing:
            return f"table messages of {self.where.path} lacks {', '.join(missing)}"
        (last,) = connection.execute("SELECT coalesce(max(rowid), 0) FROM messages").fetchone()
        before, stages = self._memory, {task.task_id: task.stage for task in tasks}
        if before.stages != stages or last < before.mark:
            before = _Memory()
        now_s, newest, mark, topics = clock.wall_s(), dict(before.newest), last, _Topics(tasks)
        since = clock.local_naive_iso(now_s - self.where.reach_s)[:10]
        after = max(before.mark - AGAIN_ROWS, last - ROWS_MAX)
        for rowid, message in _rows(connection, present, after, since):
            at_s = _time(message["created_at"], now_s)
            if at_s is None:
                mark = min(mark, rowid - 1)  # one yet to come will have come when it is read again
            elif not self._ours(message, known="metadata" in present):
                for task in topics.of(message):
                    newest[task.task_id] = max(newest.get(task.task_id, at_s), at_s)
        return _Memory(stages, newest, mark)

    def _ours(self, message: Mapping[str, Any], *, known: bool) -> bool:
        if (self.where.by_rest or not known) and message["from_agent"] == self.where.sender:
            return True
        if not isinstance(message["metadata"], str):
            return False
        try:
            outbox_id = msgspec.json.decode(message["metadata"], type=_Metadata).outbox_id
        except (msgspec.DecodeError, RecursionError):
            return False
        return bool(outbox_id) and message_id(outbox_id) == message["id"]


class _Metadata(msgspec.Struct):
    outbox_id: str = ""


def where_of(config: Config) -> Where:
    longest_s = max((float(section.stuck_after) for section in config.pipeline.values()), default=0.0)
    return Where(
        path=config.store.brain_db or str(dirs(config).state_dir / "brain.db"),
        own=not config.store.brain_db,
        sender=config.notify.synapse.sender,
        by_rest=config.notify.synapse.transport != "brain_db",
        reach_s=longest_s + LONGER_S,
    )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _rows(
    connection: sqlite3.Connection, present: set[str], after: int, since: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The messages with a row number beyond `after` and of `since` (a date) or later, with their threads' subjects.

    Only what is an ISO date can be earlier by its text; a time in another form (epoch seconds) is left to be read.
    """
    names = ("id", "subject", "body", "thread_id", "from_agent", "created_at", "metadata")
    columns = [f"m.{name}" if name in present else "NULL" for name in names]
    columns[2] = f"substr(m.body, 1, {BODY_CHARS_MAX})"
    threads = {"id", "subject"} <= _columns(connection, "threads")
    columns.append("t.subject" if threads else "NULL")
    join = "LEFT JOIN threads t ON t.id = m.thread_id" if threads else ""
    late = "NOT (m.created_at < ? AND m.created_at GLOB '????-*')"
    query = f"SELECT m.rowid, {', '.join(columns)} FROM messages m {join} WHERE m.rowid > ? AND {late}"
    for rowid, *row in connection.execute(query, (after, since)):
        yield rowid, dict(zip((*names, "thread"), row, strict=True))


class _Topics:
    """Which of the tasks a message is about; one pass over its text, however many tasks there are."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._by_id = {task.task_id.rstrip("-"): task for task in tasks}
        self._by_stage: dict[str, list[Task]] = {}
        for task in tasks:
            self._by_stage.setdefault(task.stage, []).append(task)
        stages = "|".join(re.escape(stage) for stage in sorted(self._by_stage, key=len, reverse=True))
        self._agents = re.compile(rf"(?<![a-z0-9])({stages})[-_ ]?agent(?![a-z0-9])")

    def of(self, message: Mapping[str, Any]) -> list[Task]:
        text = "\n".join(str(message[name]) for name in (*_TEXTS, "thread") if message[name] is not None).casefold()
        named = {found.rstrip("-") for found in _TASK.findall(text)} if "task-" in text else set()
        if named:
            return [self._by_id[task_id] for task_id in named if task_id in self._by_id]
        stages = set(self._agents.findall(text)) if "agent" in text else set()
        stages.add(str(message["from_agent"]).strip().casefold().removeprefix("agent-"))
        return [task for stage in stages for task in self._by_stage.get(stage, ())]


def _time(value: object, now_s: float) -> float | None:
    """None for what is no time, or one to come: that says nothing about when somebody spoke."""
    try:
        at_s = wall_s_of(value, now_s + CLOCKS_APART_S)
    except BadStamp:
        return None
    return at_s if at_s <= now_s + CLOCKS_APART_S else None
