"""The step `rotate-logs`: the logs of a target, or for a disk those that lie on it, are archived (FR-003, R13).

The work is done by a program of our own (`remediators.rotating`), which gets the configuration's words and nothing
else. The plan looks at the same files in the same way and touches none.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from remediators import command, gzip_members, log_choice, safe_dir, unrotating
from remediators.base import Context, Cut, NoParams, Outcome, Step, StepFailed, Stops
from remediators.log_choice import Chosen, LogsJob
from remediators.rotating import TOLD_MAX, Job, Report
from remediators.unrotating import Undo
from supervisor import at_work, clock, logfiles, targets
from supervisor.aside import aside
from supervisor.at_work import Progress
from supervisor.incidents.judge import size
from supervisor.incidents.model import Effect, Recipe, StepResult, StepSpec
from supervisor.incidents.resources import disk_clears_below
from supervisor.messages import StepPlan

T = TypeVar("T", bound=msgspec.Struct)
MODULE = "remediators.rotating"
DISK = "disk:"
SPARE = "rotation"  # in our state directory
MARGIN_S = 5.0  # between the program's own end and the one that the executor puts to it
PLAN_S = 2.0  # for one step's looking at all its files
SAMPLED_MAX = 40  # files
SAMPLE_BYTES = 64 * 1024
JOB_BYTES_MAX = 100_000  # one argument has at most 128 KiB


class RotateParams(NoParams, frozen=True):
    """`needed`: that there is nothing to archive is a failure."""

    needed: bool = True


class RotateLogs(Step):
    """Raises StepFailed when no log was archived."""

    kind = "rotate-logs"
    effect = Effect.CHANGE
    undoable = True
    stops = Stops.ASKED
    Params = RotateParams

    def plan(self, ctx: Context) -> StepPlan:
        device = device_of(ctx)
        logs = _logs(ctx)
        written = {job.name: safe_dir.written_folders(job.paths) for job in logs}
        choice = log_choice.choose(logs, device, written, clock.monotonic_s() + look_s(ctx))
        frees = _estimate(choice.chosen)
        if not choice.chosen:
            return StepPlan(self.spec.step_id, "; ".join((_nothing(ctx), *choice.notes, *choice.too_large)), False)
        total = sum(file.bytes for file in choice.chosen)
        named = ", ".join(logfiles.printable(file.path) for file in choice.chosen[-3:])
        text = f"archive {len(choice.chosen)} logs with {size(total)} to .archive/ beside them, {named} among them"
        said = "; ".join((f"{text}: about {size(frees)} are freed", *choice.notes, *choice.too_large))
        artifacts = tuple(logfiles.printable(file.path) for file in choice.chosen[-TOLD_MAX:])
        return StepPlan(self.spec.step_id, said, not choice.too_large and disk_clears(ctx, frees), artifacts, frees)

    async def run(self, ctx: Context) -> Outcome:
        run = int.from_bytes(hashlib.sha256(f"{ctx.execution.id} {self.spec.step_id}".encode()).digest()[:8], "big")
        device = await asyncio.wrap_future(aside(lambda: device_of(ctx), "device"))
        told = str(_told(ctx))
        job = Job(_logs(ctx), run, within_s(self.spec), str(ctx.state_dir / SPARE), device, told)
        try:
            report = await run_program(ctx, MODULE, msgspec.json.encode(job).decode(), Report)
        finally:
            _told(ctx).unlink(missing_ok=True)  # of a program that was killed
        needed = isinstance(self.params, RotateParams) and self.params.needed
        if not report.files and not report.settled and (needed or report.chosen):
            raise StepFailed(report.said if report.chosen else f"{_nothing(ctx)}; {report.said}")
        undo = Undo(run, report.folders) if report.files and report.whole and report.folders else None
        said = msgspec.json.encode(undo).decode() if undo is not None else ""
        if report.stopped:
            raise Cut(report.said, said)
        return Outcome(report.said, report.archives, changed=bool(report.files or report.settled), undo=said)

    def progress(self, ctx: Context) -> Progress | None:
        return at_work.read(_told(ctx))

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        """Puts every log back that the run archived, while no other has come into its place."""
        if not result.undo:
            raise StepFailed("a log that goes on was archived in part, or nothing was: that cannot be put back")
        wanted = msgspec.json.decode(result.undo, type=Undo)
        paths = tuple(path for logs in _logs(ctx) for path in logs.paths)
        job = msgspec.json.encode(unrotating.Job(wanted, paths)).decode()
        report = await run_program(ctx, unrotating.__name__, job, unrotating.Report)
        if not report.files:
            raise StepFailed(report.said)
        return Outcome(report.said)


def _told(ctx: Context) -> Path:
    """Where the program says how far it is."""
    return ctx.state_dir / f"{ctx.execution.id}.progress"


def _logs(ctx: Context) -> tuple[LogsJob, ...]:
    """Those of the target, or for a disk all that are configured."""
    sections = targets.logs(ctx.config)
    name = ctx.target.target_id
    if not name.startswith(DISK) and name not in sections:
        raise StepFailed(f"{name} is neither a disk nor a [logs.NAME]", "rotate-logs is for those")
    chosen = sections if name.startswith(DISK) else {name: sections[name]}
    return tuple(
        LogsJob(key, section.paths, float(section.archive_after), int(section.max_size))
        for key, section in chosen.items()
    )


def device_of(ctx: Context) -> int | None:
    """Blocking: a mount may hang. Raises OSError."""
    name = ctx.target.target_id
    return os.stat(name.removeprefix(DISK)).st_dev if name.startswith(DISK) else None


def look_s(ctx: Context) -> float:
    """How long a plan may look at files."""
    return max(0.0, min(PLAN_S, ctx.look_until_mono_s - clock.monotonic_s()))


def _nothing(ctx: Context) -> str:
    name = ctx.target.target_id
    where = f"on {name.removeprefix(DISK)} " if name.startswith(DISK) else ""
    return f"no configured log {where}is older than its archive_after or larger than its max_size"


def _estimate(files: Sequence[Chosen]) -> int:
    """What archiving them would free: the largest are sampled, the others taken to be like them."""
    shares: dict[str, float] = {}
    for file in files[-SAMPLED_MAX:]:
        sample = _sample(file)
        if sample:
            shares[file.path] = gzip_members.share_left(sample)
    usual = sum(shares.values()) / len(shares) if shares else 1.0
    return round(sum(file.bytes * (1.0 - shares.get(file.path, usual)) for file in files))


def _sample(file: Chosen) -> bytes:
    """A little from the middle; of what cannot be opened, nothing."""
    try:
        folder = safe_dir.open_folder(file.folder, file.written)
    except (OSError, safe_dir.Unsafe):
        return b""
    try:
        fd = safe_dir.open_quietly(os.path.basename(file.path), folder)
        try:
            length = os.fstat(fd).st_size
            return os.pread(fd, SAMPLE_BYTES, max(0, length // 2 - SAMPLE_BYTES))
        finally:
            os.close(fd)
    except OSError:
        return b""
    finally:
        os.close(folder)


def disk_clears(ctx: Context, frees_bytes: int) -> bool:
    """Would its probe read clear with so much more room? Of what is no disk: yes."""
    name = ctx.target.target_id
    if not name.startswith(DISK):
        return True
    disk, now = ctx.config.disk, os.statvfs(name.removeprefix(DISK))
    used = (now.f_blocks - now.f_bfree) * now.f_frsize
    whole = used + now.f_bavail * now.f_frsize
    limit = disk.critical if used > whole * disk.critical else disk.pressure
    inodes_full = now.f_files and (now.f_files - now.f_ffree) / now.f_files >= disk_clears_below(limit)
    return not inodes_full and (used - frees_bytes) / whole < disk_clears_below(limit)


def within_s(spec: StepSpec) -> float:
    """The program's own time: it ends by itself, between two files, before the executor ends it."""
    return max(spec.timeout_s - MARGIN_S, spec.timeout_s / 2)


async def run_program(ctx: Context, module: str, job: str, answer: type[T]) -> T:
    """Runs one of our programs on files to its end. Raises StepFailed."""
    if len(job) > JOB_BYTES_MAX:
        raise StepFailed("the configured paths are too long for one program", "use fewer patterns")
    # -P: no directory of ours or anybody's is put in front of the path; what is installed is what runs.
    code, output = await command.run_to_completion(ctx.programs, Recipe((sys.executable, "-P", "-m", module, job)))
    try:
        return msgspec.json.decode(output.strip().rpartition("\n")[2], type=answer)
    except msgspec.DecodeError as error:
        raise StepFailed(f"{module}: {command.exit_text(code)}: {output[-500:].strip()}") from error
