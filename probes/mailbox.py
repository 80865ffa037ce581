"""Who spoke of a pipeline's task last? Synapse's messages in brain.db, read only (SITE.md, FR-002 `pipeline_stuck`).

A message is about a task when its subject, body, thread or sender names the task's id, or the agent of its stage
("build-agent"; as a sender "build", too); not when it names other tasks only. Ours never count: their ids are derived
from the outbox row that their metadata names. Where that cannot be seen (no column metadata, or Synapse's REST side
writes them, under ids of its own) no message of our sender counts.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from probes.base import CLOCKS_APART_S
from probes.sqlite_file import CannotOpen, open_readonly, reason_of
from probes.stamps import BadStamp, wall_s_of
from probes.tasks import Task
from supervisor import clock
from supervisor.config import Config, dirs
from supervisor.incidents.readings import Unavailable
from supervisor.synapse_ids import message_id

ROWS_MAX = 5000  # the newest; what is older has been talked over
BODY_CHARS_MAX = 20_000
LONGER_S = 2 * 86_400.0  # than the longest limit: messages older than that change nothing, whatever their zone
_NEEDED = frozenset({"thread_id", "from_agent", "body", "created_at"})
_TEXTS = ("subject", "body", "thread_id", "from_agent")
_TASK = re.compile(r"(?a:(?<![a-z0-9-])task-\d{3}[a-z0-9-]*)")


class Mail(msgspec.Struct, frozen=True):
    """Per task the time of the newest message about it (wall seconds); `trouble`: why none can be told."""

    newest: Mapping[str, float] = {}
    trouble: str = ""


class Mailbox(msgspec.Struct, frozen=True):
    """`own`: brain.db is healctl's own, where a missing file or table means that nobody has written anything."""

    path: str
    own: bool
    sender: str
    by_rest: bool
    reach_s: float

    def read(self, tasks: Iterable[Task]) -> Mail:
        """Blocking."""
        tasks = tuple(tasks)
        try:
            with open_readonly(self.path) as connection:
                return self._read(connection, tasks)
        except CannotOpen as error:
            if self.own and error.reason is Unavailable.MISSING:
                return Mail()
            return Mail(trouble=str(error))
        except sqlite3.Error as error:
            return Mail(trouble=f"{self.path}: {error} ({reason_of(error)})")

    def _read(self, connection: sqlite3.Connection, tasks: tuple[Task, ...]) -> Mail:
        present = _columns(connection, "messages")
        if not present:
            return Mail() if self.own else Mail(trouble=f"{self.path} has no table messages")
        missing = sorted(_NEEDED - present)
        if missing:
            return Mail(trouble=f"table messages of {self.path} lacks {', '.join(missing)}")
        names = ("id", "subject", "body", "thread_id", "from_agent", "created_at", "metadata")
        columns = [f"m.{name}" if name in present else "NULL" for name in names]
        columns[2] = f"substr(m.body, 1, {BODY_CHARS_MAX})"
        threads = {"id", "subject"} <= _columns(connection, "threads")
        columns.append("t.subject" if threads else "NULL")
        join = "LEFT JOIN threads t ON t.id = m.thread_id" if threads else ""
        since = clock.local_naive_iso(clock.wall_s() - self.reach_s)
        query = (
            f"SELECT {', '.join(columns)} FROM messages m {join} "
            "WHERE m.rowid > (SELECT max(rowid) FROM messages) - ? AND m.created_at >= ?"
        )
        newest: dict[str, float] = {}
        now_s = clock.wall_s()
        for row in connection.execute(query, (ROWS_MAX, since[:10])):
            message = dict(zip((*names, "thread"), row, strict=True))
            at_s = _time(message["created_at"], now_s)
            if at_s is None or self._ours(message, known="metadata" in present):
                continue
            for task in _about(message, tasks):
                newest[task.task_id] = max(newest.get(task.task_id, at_s), at_s)
        return Mail(newest)

    def _ours(self, message: Mapping[str, Any], *, known: bool) -> bool:
        if (self.by_rest or not known) and message["from_agent"] == self.sender:
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


def mailbox_of(config: Config) -> Mailbox:
    longest_s = max((float(section.stuck_after) for section in config.pipeline.values()), default=0.0)
    return Mailbox(
        path=config.store.brain_db or str(dirs(config).state_dir / "brain.db"),
        own=not config.store.brain_db,
        sender=config.notify.synapse.sender,
        by_rest=config.notify.synapse.transport != "brain_db",
        reach_s=longest_s + LONGER_S,
    )


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def _about(message: Mapping[str, Any], tasks: Iterable[Task]) -> list[Task]:
    text = "\n".join(str(message[name]) for name in (*_TEXTS, "thread") if message[name] is not None).casefold()
    named = {found.rstrip("-") for found in _TASK.findall(text)}
    sender = str(message["from_agent"]).strip().casefold()
    return [
        task
        for task in tasks
        if task.task_id.rstrip("-") in named or (not named and _names_agent(text, sender, task.stage))
    ]


def _names_agent(text: str, sender: str, stage: str) -> bool:
    agent = rf"(?<![a-z0-9]){re.escape(stage)}[-_ ]?agent(?![a-z0-9])"
    return sender in (stage, f"agent-{stage}") or re.search(agent, text) is not None


def _time(value: object, now_s: float) -> float | None:
    """None for what is no time, or one to come: that says nothing about when somebody spoke."""
    try:
        at_s = wall_s_of(value)
    except BadStamp:
        return None
    return at_s if at_s <= now_s + CLOCKS_APART_S else None
