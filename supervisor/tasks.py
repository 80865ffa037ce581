"""A pipeline's state file: {active_tasks: [{task_id, current_stage, status, ...}], ...} (SITE.md). Pure.

Only ids and stages of the form that may become part of a command are watched (R11); what else stands there is told.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from supervisor.jsonfile import BadJson
from supervisor.stamps import BadStamp, wall_s_of

TASK_ID = re.compile(r"(?a:task-\d{3}[a-z0-9-]{0,60})")
STAGE = re.compile(r"[a-z][a-z0-9_-]{0,40}")
STATE_BYTES_MAX = 8 * 1024 * 1024
TASKS_MAX = 1000
TEXT_CHARS_MAX = 120
PROBLEMS_MAX = 20
_ENDED = frozenset(
    {
        "finished", "done", "complete", "completed", "closed", "archived", "cancelled", "canceled", "aborted",
        "blocked", "failed", "paused",
    }
)  # fmt: skip


class Task(msgspec.Struct, frozen=True):
    """One active task. `moving` False: nothing is expected of it, `why` says so."""

    task_id: str
    stage: str
    moving: bool
    status: str = ""
    title: str = ""
    why: str = ""
    updated_wall_s: float | None = None


class State(msgspec.Struct, frozen=True):
    """`tasks`: those that can be watched, by id. `odd`: well-formed ids that cannot, and why. `problems`: to log."""

    tasks: dict[str, Task]
    odd: dict[str, str] = {}
    problems: tuple[str, ...] = ()


class _File(msgspec.Struct):
    """Of the whole file only this is decoded: it keeps every task that ever was."""

    active_tasks: list[msgspec.Raw]


def decode(content: bytes) -> State:
    """Raises BadJson when the file as a whole is not what it should be; a task that is not is among `odd`, or told."""
    try:
        found = msgspec.json.decode(content, type=_File)
    except msgspec.ValidationError as error:
        raise BadJson(f"is no state of a pipeline: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadJson(f"is not readable as JSON: {error}") from error
    tasks: dict[str, Task] = {}
    odd: dict[str, str] = {}
    problems = []
    for raw in found.active_tasks[:TASKS_MAX]:
        given = _object(raw)
        task_id = given.get("task_id")
        if not isinstance(task_id, str) or not TASK_ID.fullmatch(task_id):
            problems.append(f"the task id {_shown(task_id)} is not of the form task-123-words; it is not watched")
            continue
        if task_id in tasks or task_id in odd:
            problems.append(f"{task_id} stands there twice; the first is watched")
            continue
        task = _task(task_id, given)
        if task.moving and not STAGE.fullmatch(task.stage):
            odd[task_id] = f"the stage {_shown(given.get('current_stage'))} of {task_id} is no stage's name"
            problems.append(f"{odd[task_id]}; it is not watched")
        else:
            tasks[task_id] = task
    if len(found.active_tasks) > TASKS_MAX:
        problems.append(f"{len(found.active_tasks)} active tasks; only the first {TASKS_MAX} are watched")
    return State(tasks, odd, tuple(problems[:PROBLEMS_MAX]))


def _object(raw: msgspec.Raw) -> dict[str, Any]:
    """Anything but an object has no task id, and is told as that."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {"task_id": found}


def _task(task_id: str, given: dict[str, Any]) -> Task:
    stage, status = _text(given.get("current_stage")), _text(given.get("status"))
    blocked = given.get("stages_blocked")
    why = ""
    if given.get("completed_at"):
        why = "it is completed"
    elif stage == "done":
        why = "it is in stage done"
    elif status.casefold() in _ENDED:
        why = f"its status is {status}"
    elif isinstance(blocked, list) and stage in blocked:
        why = f"its stage {stage} is blocked"
    return Task(
        task_id=task_id,
        stage=stage,
        moving=not why,
        status=status,
        title=_text(given.get("title")),
        why=why,
        updated_wall_s=_time(given.get("updated_at")),
    )


def _time(value: object) -> float | None:
    """What cannot be read as a time says nothing; the stage then counts from when we first saw it."""
    try:
        return wall_s_of(value)
    except BadStamp:
        return None


def _text(value: object) -> str:
    return value.strip()[:TEXT_CHARS_MAX] if isinstance(value, str) else ""


def _shown(value: object) -> str:
    return "(none)" if value is None else repr(value)[:TEXT_CHARS_MAX]
