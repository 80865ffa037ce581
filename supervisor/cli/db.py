"""`healctl db ...`: the databases, their good copies, and putting one in a damaged one's place (R10).

The daemon's hands do the work; this shows how far they are, from what they write down beside the copies, and opens no
database itself.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import settings, with_output

PLAN_S = 30.0

Answer = dict[str, Any]


class Names(msgspec.Struct, frozen=True):
    """What the configuration in force calls the databases: name -> path, and which is brain.db."""

    paths: dict[str, str]
    written: frozenset[str]
    brain: str
    state_dir: Path

    def one(self, name: str | None) -> str:
        """Raises UnknownId."""
        from supervisor.errors import UnknownId

        chosen = name or self.brain
        if chosen not in self.paths:
            raise UnknownId(f"no database {chosen!r}", f"known: {', '.join(self.paths)}")
        return chosen


def names() -> Names:
    """Raises ConfigError."""
    from supervisor import config, targets

    loaded = settings().load()
    state_dir = config.dirs(loaded).state_dir
    paths = {name: section.path for name, section in targets.databases(loaded).items()}
    brain = loaded.store.brain_db or str(state_dir / "brain.db")
    found = next(name for name, path in paths.items() if path == brain)
    return Names(paths, frozenset(targets.written(loaded)), found, state_dir)


@click.group(
    epilog="""\b
Examples:
  healctl db status
  healctl db backup && healctl db verify
  healctl db restore --dry-run
  healctl db restore brain-db --confirm
"""
)
def db() -> None:
    """Databases: their good copies, and putting one in the place of a damaged one."""


# --- status ----------------------------------------------------------------------------------------------------------


@db.command(epilog="\b\nExample:\n  healctl db status --json | jq '.databases[] | {name, newest_good}'")
@with_output
def status() -> None:
    """Show every database: size, whether it is halted, its copies, and what is at work on it."""
    known = names()
    halted = _halted()
    found = [_one(known, name, halted) for name in known.paths]
    if settings().json:
        output.show_json(msgspec.json.encode({"daemon": halted is not None, "databases": found}))
        return
    rows = [
        (
            it["name"],
            _size(it["bytes"]),
            "?" if it["halted"] is None else (it["halted"] or "-"),
            it["good_copies"] if it["written"] or it["good_copies"] else "-",
            output.local_time(it["newest_good"]),
            it["damaged_copies"],
            it["at_work"],
            it["path"],
        )
        for it in found
    ]
    output.table(("DATABASE", "SIZE", "HALTED", "GOOD COPIES", "NEWEST", "RAW COPIES", "AT WORK", "PATH"), rows)
    for it in found:
        if it["problem"]:
            output.note(f"healctl: the copies of {it['name']} cannot be looked at: {it['problem']}")
    if halted is None:
        output.note("healctl: no daemon answers: nobody can tell what is halted, and no copies are made")


def _halted() -> dict[str, str] | None:
    """database -> phase of its halt; None when no daemon answers."""
    from supervisor.cli.client import Control, NoAnswer
    from supervisor.errors import NotRunning

    try:
        with Control(settings().dirs().runtime_dir) as control:
            answer = msgspec.json.decode(control.ask("tree"))
    except (NotRunning, NoAnswer):
        return None
    return {halt["database"]: halt["phase"] for halt in answer["halted"]}


def _one(known: Names, name: str, halted: dict[str, str] | None) -> Answer:
    from supervisor import backups

    where = backups.folder(known.state_dir, name)
    try:
        good, damaged, problem = backups.good(where), backups.damaged(where), ""
    except OSError as error:
        good, damaged, problem = (), (), f"{where}: {error.strerror}"
    newest = good[0].manifest if good else None
    return {
        "name": name,
        "path": known.paths[name],
        "bytes": _bytes(known.paths[name]),
        "written": name in known.written,
        "halted": None if halted is None else halted.get(name, ""),
        "good_copies": len(good),
        "newest_good": newest.at if newest else None,
        "newest_good_path": str(good[0].path) if good else None,
        "newest_good_rows": newest.rows if newest else None,
        "damaged_copies": len(damaged),
        "folder": str(where),
        "at_work": _at_work(where),
        "problem": problem,
    }


def _bytes(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _size(size: int | None) -> str:
    return "missing" if size is None else f"{size / 1024**2:.1f} MiB"


def _at_work(where: Path) -> str:
    """What a program is doing there now, in words; empty when none is."""
    from supervisor import backups, proc

    with suppress(OSError):
        told = backups.progress(where)
        if told is not None and proc.stat(told.pid) is not None:
            share = f" {told.done / told.total:.0%}" if told.total > 1 else ""
            return f"{told.stage}{share}"
    return ""


# --- what the hands do -----------------------------------------------------------------------------------------------


@db.command(epilog="\b\nExample:\n  healctl db backup brain-db")
@click.argument("name", required=False)
@with_output
def backup(name: str | None) -> int:
    """Make a verified good copy of NAME (default: brain.db); exit 1 when it cannot be had."""
    return _execute("rb-db-backup", name)


@db.command(epilog="\b\nExample:\n  healctl db verify")
@click.argument("name", required=False)
@with_output
def verify(name: str | None) -> int:
    """Check the newest good copy of NAME again: its checksum and its integrity. Exit 1 when it has rotted."""
    return _execute("rb-db-verify", name)


@db.command(epilog="\b\nExamples:\n  healctl db restore --dry-run\n  healctl db restore brain-db --confirm")
@click.argument("name", required=False)
@click.option("--dry-run", is_flag=True, help="Only say what would be put there; changes nothing.")
@click.option("--confirm", is_flag=True, help="Really do it; refused (exit 5) without.")
@with_output
def restore(name: str | None, dry_run: bool, confirm: bool) -> int:
    """Put the newest good copy of NAME, or what can be salvaged, in its place, and prove that it is whole."""
    from supervisor.errors import NeedsConfirm, UsageError

    if dry_run and confirm:
        raise UsageError("--dry-run and --confirm contradict each other")
    if dry_run:
        from supervisor.cli.heal import ask, show_plan

        target = names().one(name)
        plan = ask("dry_run", {"runbook_id": "rb-db-restore", "target_id": target}, show_plan, PLAN_S)
        return 0 if plan["predicts_clear"] else 1
    if not confirm:
        raise NeedsConfirm(
            "a restore replaces the database: it must be told --confirm", "--dry-run shows what would be put there"
        )
    return _execute("rb-db-restore", name)


def _execute(runbook: str, name: str | None) -> int:
    from supervisor.cli.heal import ACT_S, ask

    target = names().one(name)
    args = {"runbook_id": runbook, "target_id": target, "confirm": True}
    answer = ask("execute", args, _show, ACT_S, works_on=target)
    return 0 if answer["success"] else 1


def _show(answer: Answer) -> None:
    for step in answer["steps_executed"]:
        word = output.state(step["status"])
        output.say(f"{word} in {step['duration_ms'] / 1000:.1f} s: {output.plain(step['output'])}")
    if answer["verification_passed"] is not None:
        output.say(f"A fresh check of it {'is clear' if answer['verification_passed'] else 'is NOT clear'}.")
