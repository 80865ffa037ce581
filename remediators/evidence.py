"""What was there before the first change: a file for each execution, so that people can see later what was acted on.

`evidence/EXECUTION.json` in the state directory: 0600, whole or not at all, durable, bounded, secrets taken out. It
only reads what it tells of, in a thread and with a deadline: a disk that hangs or is full costs a repair its evidence,
never its turn. Only a step that says so (`Step.needs_evidence`) does not run without.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from remediators import command, processes, service
from remediators.base import Context, StepFailed
from remediators.processes import Memory, Process
from supervisor import clock, config, crashpoint, identify, proc, redact
from supervisor.aside import aside
from supervisor.incidents.readings import DiskData, LogsData

FOLDER = "evidence"
WITHIN_S = 2.0  # no repair waits longer for its evidence
FILE_BYTES_MAX = 256 * 1024
WRITING_MAX = 16  # at once: one for each execution at work, and as many that hang
FILES_MAX = 500
FEWER = 50  # so many are removed at once, the oldest first
COMMAND_CHARS_MAX = 500
LARGEST_MAX = 20
AVAILABLE = "MemAvailable"
MEMINFO = "/proc/meminfo"
PRESSURE = "/proc/pressure/memory"
_writing: set[Future[Path]] = set()  # those that hang among them


class Largest(msgspec.Struct, frozen=True):
    process: Process
    memory: Memory


async def snapshot(ctx: Context) -> Path:
    """Writes the file and returns it. Raises StepFailed when it could not be written in time."""
    try:
        async with asyncio.timeout(WITHIN_S):
            path = await asyncio.wrap_future(_begun(ctx))
    except TimeoutError as error:
        raise StepFailed(f"the evidence could not be written within {WITHIN_S:g} s") from error
    except OSError as error:
        raise StepFailed(f"the evidence could not be written: {error.strerror or error}") from error
    crashpoint.reach("evidence.after")
    return path


def _begun(ctx: Context) -> Future[Path]:
    """In a thread that keeps nobody from ending. Raises StepFailed while too many before it hang."""
    _writing.difference_update([future for future in _writing if future.done()])
    if len(_writing) >= WRITING_MAX:
        raise StepFailed(f"the evidence could not be written: {WRITING_MAX} before it have not come to an end")
    future = aside(partial(_write, ctx), "evidence")
    _writing.add(future)
    return future


def _write(ctx: Context) -> Path:
    """Raises OSError."""
    folder = ctx.state_dir / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / f"{ctx.execution.id}.json"
    text = encoded(_gathered(ctx))
    beside = path.with_suffix(".new")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            written = os.write(fd, text)
            if written < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):  # what is left is told, and overwritten by the next
            beside.unlink()
        raise
    _sync(folder)
    _forget_oldest(folder)
    return path


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _forget_oldest(folder: Path) -> None:
    found = []
    for entry in os.scandir(folder):
        if entry.name.endswith((".json", ".new")):
            with contextlib.suppress(FileNotFoundError):  # another execution has just given it its name
                found.append((entry.stat().st_mtime, entry.path))
    for _, path in sorted(found)[: len(found) - FILES_MAX + FEWER if len(found) > FILES_MAX else 0]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def encoded(gathered: dict[str, Any]) -> bytes:
    """As JSON, without secrets; what makes it too large is left out, the facts before the head."""
    clean = _clean(gathered)
    text = msgspec.json.format(msgspec.json.encode(clean), indent=1)
    for part in ("facts", "reading"):
        if len(text) > FILE_BYTES_MAX:
            clean[part] = f"left out: more than {FILE_BYTES_MAX // 1024} KiB"
            text = msgspec.json.format(msgspec.json.encode(clean), indent=1)
    return text + b"\n"


def _clean(value: Any) -> Any:
    match value:
        case str():
            return redact.text(value)
        case dict():
            return {key: _clean(one) for key, one in value.items()}
        case list() | tuple():
            return [_clean(one) for one in value]
    return value


def _gathered(ctx: Context) -> dict[str, Any]:
    execution = ctx.execution
    return {
        "execution_id": execution.id,
        "incident_id": execution.incident_id,
        "runbook_id": execution.runbook.id,
        "version": execution.version,
        "target_id": execution.target.target_id,
        "authority": execution.authority,
        "at": clock.rfc3339(clock.wall_s()),
        "reading": msgspec.to_builtins(execution.reading),
        "facts": {name: _fact(look, ctx) for name, look in _looks(ctx).items()},
    }


_Look = Callable[[Context], Any]


def _looks(ctx: Context) -> Mapping[str, _Look]:
    """What is looked at, by what the target is; of every other family the reading says it all."""
    target = ctx.target
    data = ctx.execution.reading.data if ctx.execution.reading is not None else None
    if target.recipe is not None or target.pid_file or target.match:
        return {"processes": _service, "pid_file": _pid_file, "last_output": _last_output}
    if target.target_id == config.MEMORY_TARGET:
        return {"meminfo": _meminfo, "pressure": _pressure, "processes": _top}
    if isinstance(data, DiskData | LogsData):
        return {"file_systems": _file_systems}
    return {}


def _fact(look: _Look, ctx: Context) -> Any:
    """One fact, or why it cannot be had: that one is missing must not cost the others."""
    try:
        return look(ctx)
    except (OSError, StepFailed, ValueError) as error:
        return f"not known: {error}"


def _service(ctx: Context) -> Any:
    target, known = ctx.target, ctx.execution.known
    found = identify.live_processes(target.pid_file, target.match, ctx.exclude)
    table = [*found, known] if known is not None and known not in found else found
    return [
        {
            "pid": ref.pid,
            "started": clock.rfc3339(proc.started_wall_s(ref)),
            "state": status.state,
            "parent_pid": status.parent_pid,
            "rss_bytes": status.rss_bytes,
            "command": _command(proc.command_line(ref.pid)),
        }
        if (status := proc.same(ref)) is not None
        else {"pid": ref.pid, "state": "gone"}
        for ref in table
    ]


def _pid_file(ctx: Context) -> Any:
    if not ctx.target.pid_file:
        return None
    finding = identify.read_pid_file(ctx.target.pid_file, ctx.target.match)
    return {"path": ctx.target.pid_file, "status": finding.status, "detail": finding.detail}


def _last_output(ctx: Context) -> Any:
    path = service.output_path(ctx)
    return {"path": str(path), "end": service.tail(path, 0)} if path.exists() else None


def _meminfo(ctx: Context) -> Any:
    return meminfo()


def _pressure(ctx: Context) -> Any:
    return Path(PRESSURE).read_text().splitlines()


def _top(ctx: Context) -> Any:
    return [
        {
            "pid": one.process.pid,
            "name": one.process.stat.name,
            "parent_pid": one.process.stat.parent_pid,
            "uid": one.process.uid,
            "rss_bytes": one.process.stat.rss_bytes,
            "share_bytes": one.memory.share_bytes,
            "command": _command(one.process.words),
        }
        for one in largest(processes.table())
    ]


def _file_systems(ctx: Context) -> Any:
    data = ctx.execution.reading.data if ctx.execution.reading is not None else None
    folders = [data.mount] if isinstance(data, DiskData) else []
    if isinstance(data, LogsData):
        folders = sorted({os.path.dirname(file.path) for file in data.largest})
    found = {}
    for folder in folders:
        status = os.statvfs(folder)
        found[folder] = {
            "size_bytes": status.f_blocks * status.f_frsize,
            "available_bytes": status.f_bavail * status.f_frsize,
            "inodes_available": status.f_favail,
        }
    return found


def _command(words: tuple[str, ...]) -> str:
    return command.words(redact.words(words))[:COMMAND_CHARS_MAX]


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes. Raises OSError when it does not tell what is available."""
    found: dict[str, int] = {}
    for line in Path(MEMINFO).read_text().splitlines():
        name, _, rest = line.partition(":")
        value, _, unit = rest.strip().partition(" ")
        if value.isascii() and value.isdigit() and unit == "kB":
            found[name] = int(value) * 1024
    if not {AVAILABLE, "MemTotal"} <= found.keys():
        raise OSError(errno.EINVAL, f"{MEMINFO} does not tell what is available")
    return found


def largest(of: Mapping[int, Process]) -> list[Largest]:
    """The processes that hold most, the largest first."""
    by_rss = sorted(of.values(), key=lambda process: -process.stat.rss_bytes)[:LARGEST_MAX]
    return sorted((Largest(p, processes.memory_of(p)) for p in by_rss), key=lambda one: -one.memory.share_bytes)
