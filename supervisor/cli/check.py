"""`healctl check`: the configuration in force, and with --live what each of its targets reads now. Starts nothing."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.options import settings, with_output

if TYPE_CHECKING:
    from supervisor.config import Config
    from supervisor.incidents.looks import Look

# What the families find by themselves has no name in the configuration.
FOUND = {"host": "disks: found at run time", "pipeline": "tasks: found at run time", "fleet": "hosts of its file"}
FOUND_BY_PLUGIN = "targets: found at run time, by a plugin"
WELL = ("clear", "unknown")

EPILOG = """\b
Examples:
  healctl check
  healctl check -c new.toml && healctl reload
  healctl check --live --json | jq '.targets[] | select(.outcome != "clear")'

\b
JSON: {ok, file, targets: [ID], families: {FAMILY: [ID]}, found_at_run_time: [FAMILY],
  runbooks: [{id, label, author, version, applies_to, targets}] (your own),
  plugins: [{name, part, distribution, version, entry, anomalies}] (part: probe, step or channel),
  transports: [{transport, kind, ok, says}] (ok: its program is found, too)}; with --live
  {ok, file, took_ms, targets: [{target_id, family, outcome, says, available, reason, error, captured_at, took_ms,
  freshness_ms, data, anomalies: [{anomaly_type, status, severity, evidence, hint}]}]}, where outcome is
    clear        read, and well
    unknown      read, but a check in the background has not finished, or nobody can tell yet
    pending      abnormal; more readings must say so before it is an anomaly
    unavailable  it cannot be read; reason and error say why
    firing       the daemon would open an incident

\b
Exit codes: 0 the configuration is good; with --live also every target was read and none is ill (clear or unknown).
  1 with --live: something is firing, pending or unavailable. 78 the configuration is wrong."""


@click.command(epilog=EPILOG)
@click.option("--configured", is_flag=True, help="Only tell, by exit 0 or 1, whether there is a configuration file.")
@click.option("--live", is_flag=True, help="Also read every target now: no daemon needed, nothing written; 5 s or so.")
@with_output
def check(configured: bool, live: bool) -> int:
    """Check the configuration in force and its runbooks without starting anything; exit 78 names every fault."""
    from supervisor import places

    chosen = settings()
    file = places.locate(chosen.config_path, os.environ)
    if configured:
        return 0 if file is not None else 1
    loaded = chosen.load()
    if live:
        return _live(loaded, file, json=chosen.json)
    _configured(loaded, file, json=chosen.json)
    return 0


def _configured(loaded: Config, file: Path | None, *, json: bool) -> None:
    from supervisor.targets import families, open_families, targets

    names = {family: [t.target_id for t in targets(loaded) if t.family == family] for family in families(loaded)}
    found = sorted(open_families(loaded))
    every = [name for group in names.values() for name in group]
    if json:
        body = {"ok": True, "file": str(file) if file else None, "targets": every}
        own = [
            {"id": book.id, "label": book.label, "author": book.author, "version": book.version(),
             "applies_to": book.applies_to, "targets": book.targets}
            for book in loaded.runbook.values()
        ]  # fmt: skip
        more = {"families": names, "found_at_run_time": found, "runbooks": own, "transports": _transports(loaded)}
        output.show_json(msgspec.json.encode({**body, **more, "plugins": list(loaded.piece.values())}))
        return
    output.say(f"{file or 'built-in defaults'}: ok, {len(every)} targets")
    told = {
        family: [*group, FOUND.get(family, FOUND_BY_PLUGIN)] if family in found else group
        for family, group in names.items()
    }
    rows = [(family, ", ".join(group)) for family, group in told.items()]
    if loaded.runbook:
        rows.append(("runbooks", ", ".join(f"{book.id} ({book.version()})" for book in loaded.runbook.values())))
    rows += [("plugin", piece.words) for piece in loaded.piece.values()]
    if ways := _transports(loaded):
        rows.append(("signal", ", ".join(f"{way['transport']} ({way['says']})" for way in ways)))
    width = max(len(family) for family, _ in rows)
    for family, listed in rows:
        output.say(f"{family.ljust(width)}  {listed}")


def _transports(loaded: Config) -> list[dict[str, Any]]:
    """How each way to Signal is understood, and whether its program is found here. (What is not well formed is a fault
    of the configuration.)"""
    import shutil

    from supervisor.notifier.program import environment
    from supervisor.transports import parse

    told = []
    for way in map(parse, loaded.notify.signal.transports):
        found, says = True, f"signal-cli's daemon over {way.kind.upper()}, well formed"
        if not way.kind.is_daemon:
            program = shutil.which(way.path, path=environment(os.environ)["PATH"])
            found, says = program is not None, f"program {program}" if program else "well formed, but not found"
        told.append({"transport": way.text, "kind": way.kind.value, "ok": found, "says": says})
    return told


def _live(loaded: Config, file: Path | None, *, json: bool) -> int:
    from probes import live
    from supervisor.incidents.looks import look_json

    done = 0

    def told(look: Look) -> None:
        nonlocal done
        done += 1
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done} read, last {output.plain(look.reading.target_id)[:50]}\x1b[K")
            sys.stderr.flush()

    looks, took_s = live.run(loaded, told)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    ill = [look for look in looks if look.outcome.value not in WELL]
    if json:
        body: dict[str, Any] = {"ok": not ill, "file": str(file) if file else None, "took_ms": round(took_s * 1000)}
        output.show_json(msgspec.json.encode({**body, "targets": [look_json(look) for look in looks]}))
    else:
        rows = [
            (look.reading.target_id, look.reading.family, look.outcome.value, _ms(look.reading.took_ms), look.says)
            for look in looks
        ]
        output.table(("TARGET", "FAMILY", "OUTCOME", "TOOK", "SAYS"), rows)
        output.say(f"{len(looks)} targets in {took_s:.1f} s, {len(ill) or 'none'} ill")
    code = 1 if ill else 0
    if threading.active_count() > 1:
        # A look that hangs in the kernel (a dead mount) would keep the interpreter from ending.
        sys.stdout.flush()
        os._exit(code)
    return code


def _ms(took_ms: float) -> str:
    return f"{took_ms:.0f} ms"
