"""`healctl replay`: a recording of `[healctl] record` through the engine again, here, without a daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from supervisor import clock
from supervisor.cli import output
from supervisor.cli.options import settings, with_output
from supervisor.cli.waiting import LOOK_MS, Line

if TYPE_CHECKING:
    from supervisor.incidents.world import Decision
    from supervisor.recording import Given, Replayed


@click.command(
    epilog="\b\nExamples:\n  healctl replay ~/.local/state/healctl/recordings/*.rec\n"
    "  healctl replay epoch-000012-0001.rec --show\n  healctl replay epoch-000012-0001.rec --json | jq .[0].different"
)
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--show", is_flag=True, help="One line for each event: when, what, and how much was decided.")
@with_output
def replay(files: tuple[Path, ...], show: bool) -> int:
    """Decide again what is recorded in FILES, and compare each decision, byte for byte. Exit 1 if one differs.

    Nothing is done, and no daemon is asked. `[healctl] record = "64MiB"` makes recordings, one file for each start of
    the healer or more, in recordings/ of state_dir. They hold everything that the engine was given, unredacted:
    readings, command lines, outputs, orders. An event that the engine died of is the last of its file, and is tried
    again.
    """
    import msgspec

    from supervisor import recording

    chosen = settings()
    found: list[Replayed] = []
    line = Line()
    for file in files:
        try:
            one = recording.replay(file, _teller(line) if show and not chosen.json else None, _reader(line, file))
        finally:
            line.clear()
        found.append(one)
        if not chosen.json:
            _show(one)
    if chosen.json:
        output.show_json(msgspec.json.encode(found, enc_hook=repr))
    return 0 if all(one.same and not one.died for one in found) else 1


def _reader(line: Line, file: Path) -> Callable[[int], None]:
    """How far it is, LOOK_MS apart, on a terminal."""
    size, due_s = file.stat().st_size, clock.monotonic_s() + LOOK_MS / 1000

    def read(done: int) -> None:
        nonlocal due_s
        if line.seen and (now_s := clock.monotonic_s()) >= due_s:
            due_s = now_s + LOOK_MS / 1000
            line.show(output.plain(f"{file.name}: {min(1.0, done / size):.0%} of {size / 1024**2:.1f} MiB"))

    return read


def _teller(line: Line) -> Callable[[Given, Decision], None]:
    def tell(given: Given, decision: Decision) -> None:
        line.clear()
        when = clock.rfc3339(given.at.wall_s)
        counted = f"{len(decision.records)} records, {len(decision.effects)} effects, {len(decision.probes)} probes"
        output.say(f"{when}  {given.kind}: {counted}")

    return tell


def _show(one: Replayed) -> None:
    events = ", ".join(f"{count} {kind}" for kind, count in one.events.items())
    same = "all the same" if one.same else "one differs"
    name = output.plain(one.file)
    output.say(f"{name} (healctl {output.plain(one.version)}): {one.decisions} decisions, {same}")
    output.say(f"  {events}")
    if one.cut_off:
        output.say("  its end was cut off, in a crash")
    if one.died:
        output.say(f"  the engine died of its last event: {output.plain(one.died)}")
    if one.different is not None:
        it = one.different
        where = f"decision {it['decision']}, {it['event']} at {clock.rfc3339(it['at_wall_s'])}"
        output.say(f"  {where}: {output.plain(it.get('part', 'it'))} {it.get('index', '')}")
        output.say(f"    recorded: {output.plain(it.get('recorded'))}")
        output.say(f"    replayed: {output.plain(it['replayed'])}")
