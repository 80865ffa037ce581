"""The steps about one database: copy it, and put a good copy in its place (R10).

Both run programs of the store (`supervisor.store.backup`, `supervisor.store.restore`), never open the database here,
and read what those say: one line of JSON. A program that was killed in between has changed nothing that counts.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from remediators import command
from remediators.base import Context, Outcome, Step, StepFailed, Stops
from supervisor import backups
from supervisor.at_work import Progress
from supervisor.incidents.model import Authority, Effect, Recipe, StepResult
from supervisor.messages import StepPlan

REPORT_CHARS_MAX = 2_000


def path_of(ctx: Context) -> str:
    """The database's file. Raises StepFailed for a target that is none."""
    if not ctx.target.path:
        raise StepFailed(f"{ctx.target.target_id} is no database with a file", "see [database.NAME]")
    return os.path.realpath(ctx.target.path)


def is_ledger(ctx: Context) -> bool:
    """healctl's own, which the store itself sets aside when it is damaged (ADR 0002)."""
    return path_of(ctx) == os.path.realpath(ctx.state_dir / "ledger.db")


def folder_of(ctx: Context) -> Path:
    return backups.folder(ctx.state_dir, ctx.target.target_id)


def program_of(ctx: Context, module: str, *words: str) -> Recipe:
    """A program of ours in the same Python as we are, for this database's file and folder."""
    file, folder, name = path_of(ctx), str(folder_of(ctx)), ctx.target.target_id
    common = ("--source", file, "--folder", folder, "--name", name)
    # -P: no directory of ours or anybody's is put in front of the path; what is installed is what runs.
    return Recipe((sys.executable, "-P", "-m", module, *common, *words))


async def run_program(ctx: Context, module: str, *words: str) -> dict[str, Any]:
    """Runs it to its end. Raises StepFailed with its own words when it did not do what it is for."""
    code, output = await command.run_to_completion(ctx.programs, program_of(ctx, module, *words))
    line = output.strip().rpartition("\n")[2]
    try:
        report = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StepFailed(f"{module}: {command.exit_text(code)}: {output[-REPORT_CHARS_MAX:].strip()}") from error
    if code != 0 or not report.get("ok"):
        raise StepFailed(str(report.get("said") or f"{module}: {command.exit_text(code)}")[:REPORT_CHARS_MAX])
    return report


class _CopyStep(Step):
    """One whose program works in the database's folder of copies, and says there how far it is."""

    stops = Stops.ASKED

    def progress(self, ctx: Context) -> Progress | None:
        return backups.progress(folder_of(ctx))


class BackupDatabase(_CopyStep):
    """A verified good copy by SQLite's backup API; of a damaged database raw copies with checksums first (R10).

    `emergency`: the raw copies are what counts, and that no good copy can be had is no failure.
    """

    kind = "backup-database"
    effect = Effect.PROTECT
    module = "supervisor.store.backup"

    def plan(self, ctx: Context) -> StepPlan:
        file, folder = Path(path_of(ctx)), folder_of(ctx)
        problem = "" if file.is_file() else f"{file} does not exist"
        size = 0 if problem else file.stat().st_size
        text = f"copy {file} ({size} bytes) to {folder}, and check the copy before it counts"
        return StepPlan(self.spec.step_id, f"{text}: this would fail: {problem}" if problem else text, not problem)

    async def run(self, ctx: Context) -> Outcome:
        raw = ("--raw",) if self._emergency(ctx) else ()
        report = await run_program(ctx, self.module, *raw)
        places = tuple(str(report[key]) for key in ("damaged", "good") if report.get(key))
        return Outcome(str(report["said"]), places)

    def _emergency(self, ctx: Context) -> bool:
        """The same step serves the daily copy and the emergency: the runbook that has an incident to it says which."""
        return "halt-writes" in {spec.kind for spec in ctx.execution.runbook.steps}


class VerifyBackup(_CopyStep):
    """The newest good copy again: its checksum and its integrity. Reads only."""

    kind = "verify-backup"
    effect = Effect.OBSERVE

    def plan(self, ctx: Context) -> StepPlan:
        kept = backups.good(folder_of(ctx))
        if not kept:
            return StepPlan(self.spec.step_id, f"there is no good copy of {ctx.target.target_id} to check", False)
        return StepPlan(self.spec.step_id, f"check {kept[0].path} by its checksum and integrity", True)

    async def run(self, ctx: Context) -> Outcome:
        report = await run_program(ctx, BackupDatabase.module, "--verify")
        return Outcome(str(report["said"]), (str(report["good"]),), changed=False)


class RestoreDatabase(_CopyStep):
    """The newest good copy, or what can be salvaged of the damaged file, whichever holds more, in its place (R10).

    It is all or nothing, and keeps the damaged file; a second run begins with what the first has left. Putting the
    damaged file back is the undo, and keeps the restored one in its turn. What is whole by now, only a person's own
    order replaces: the check of a large database takes minutes, in which somebody may have mended it.
    """

    kind = "restore-database"
    effect = Effect.DESTROY
    undoable = True
    module = "supervisor.store.restore"

    def plan(self, ctx: Context) -> StepPlan:
        _refuse_the_ledger(ctx)
        file, kept = Path(path_of(ctx)), backups.good(folder_of(ctx))
        is_there = file.is_file() and file.stat().st_size > 0
        newest = kept[0].manifest if kept else None
        rows = f"{sum(newest.rows.values())} rows in {len(newest.rows)} tables" if newest else ""
        choices = [f"the good copy of {newest.at} ({rows})"] if newest else []
        choices += [f"what can be salvaged of {file} ({file.stat().st_size} bytes)"] if is_there else []
        if not choices:
            text = f"this would fail: there is neither a good copy of {file} nor the file itself"
            return StepPlan(self.spec.step_id, text, False)
        kept_in = f"the file as it is now is kept in {folder_of(ctx)}"
        which = " or ".join(choices) + (", whichever holds more rows" if len(choices) > 1 else "")
        return StepPlan(self.spec.step_id, f"put {which}, in the place of {file}; {kept_in}", True)

    async def run(self, ctx: Context) -> Outcome:
        _refuse_the_ledger(ctx)
        unless_whole = () if ctx.execution.authority is Authority.PERSON else ("--unless-whole",)
        report = await run_program(ctx, self.module, *unless_whole)
        places = tuple(str(report[key]) for key in ("damaged", "good") if report.get(key))
        kept = str(report.get("damaged") or "")
        undo = msgspec.json.encode(kept).decode() if kept else ""
        return Outcome(str(report["said"]), places, changed=bool(report["replaced"]), undo=undo)

    async def undo(self, ctx: Context, result: StepResult) -> Outcome:
        _refuse_the_ledger(ctx)
        kept = msgspec.json.decode(result.undo, type=str)
        if not Path(kept).is_dir():
            raise StepFailed(f"{kept} is not there any more: the damaged file was not kept for ever", "see db status")
        report = await run_program(ctx, self.module, "--undo", kept)
        return Outcome(str(report["said"]), tuple(str(report[key]) for key in ("damaged",) if report.get(key)))


def _refuse_the_ledger(ctx: Context) -> None:
    """What is in it has been done: an older one would not know of it, and do it again."""
    if is_ledger(ctx):
        raise StepFailed(
            "healctl's own ledger is never set back: a damaged one is set aside and begun anew from memory",
            "its copies are for looking at",
        )
