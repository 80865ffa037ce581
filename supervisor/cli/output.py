"""What goes to the terminal: JSON or tables on stdout, diagnostics on stderr, and nothing a service printed raw.

Text that came from a service (its output, its command line) may hold terminal escapes: `plain` makes them visible.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from supervisor.visible import plain as plain

if TYPE_CHECKING:
    from supervisor.units import LogFormat

COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
STATE_COLOURS = {
    "resolved": "green",
    "self_resolved": "green",
    "ready": "green",
    "escalated": "red",
    "remediation_failed": "red",
    "critical": "red",
    "quarantined": "red",
    "high": "yellow",
    "backoff": "yellow",
    "remediating": "yellow",
    "verifying": "yellow",
}
CELL_MAX = 60


def say(text: str = "") -> None:
    """One line on stdout, at once (a pipe's reader must not wait for a full buffer)."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fault(text: str, log_format: LogFormat | None = None) -> None:
    """What went wrong, on stderr; where journald reads that, as an error (sd-daemon(3)): it takes a bare line for news,
    and `journalctl -p warning` would not show why a unit did not start. `log_format`: of the log that stderr is, where
    whatever reads it as JSON must find nothing else."""
    from supervisor import clock
    from supervisor.tree import lines
    from supervisor.tree.output import STDERR
    from supervisor.units import LogFormat

    fitting = lines.fitting(STDERR, os.environ)
    if (fitting if log_format is LogFormat.AUTO else log_format) is LogFormat.JSON:
        sys.stderr.write(lines.line(LogFormat.JSON, "error", "root", text, clock.wall_s()))
        sys.stderr.flush()
        return
    text = f"healctl: {text}"
    if fitting is LogFormat.JOURNAL:
        text = "\n".join(f"<{lines.JOURNAL_PRIORITY['error']}>{line}" for line in text.split("\n"))
    note(text)


def coloured(text: str, colour: str) -> str:
    """`text` in a colour when stdout is a terminal and NO_COLOR (no-color.org) is unset."""
    if not colour or os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        return text
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m"


def state(word: object) -> str:
    text = plain(word)
    return coloured(text, STATE_COLOURS.get(text, ""))


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Aligned columns; long cells are cut, known states coloured."""
    cells = [[plain(cell)[:CELL_MAX] for cell in row] for row in rows]
    widths = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(header)]
    say(coloured("  ".join(n.ljust(w) for n, w in zip(header, widths, strict=True)).rstrip(), "bold"))
    for row in cells:
        parts = [
            coloured(cell, STATE_COLOURS.get(cell, "")) + " " * (width - len(cell))
            for cell, width in zip(row, widths, strict=True)
        ]
        say("  ".join(parts).rstrip())


def show_json(body: bytes) -> None:
    """JSON as the daemon sent it: indented for people, one line for programs."""
    say((msgspec.json.format(body, indent=2) if sys.stdout.isatty() else body).decode())


def show_error(*, json: bool, message: str, code: str, hint: str, log_format: LogFormat | None = None) -> None:
    """A refusal: an object on stdout for programs (SITE.md's `error`), words on stderr for people, or for a log."""
    message = message.encode(errors="backslashreplace").decode()  # a file's name may be no text
    if json:
        body: dict[str, Any] = {"error": message, "code": code}
        if hint:
            body["hint"] = hint
        say(msgspec.json.encode(body).decode())
        return
    fault(message + (f"\n  {hint}" if hint else ""), log_format)


def halted(halt: dict[str, Any]) -> str:
    """One line on a database that nobody writes (R10)."""
    what = "being restored" if halt["phase"] == "restoring" else "halted, nobody writes it"
    return f"Database {plain(halt['database'])}: {what}, since {local_time(halt['since'])}: {plain(halt['why'])}"


def paused(pause: dict[str, Any]) -> str:
    """One line on what is left alone, by whom, until when."""
    until = f" until {local_time(pause['until'])}" if pause["until"] else ""
    why = f": {plain(pause['reason'])}" if pause["reason"] else ""
    what = plain(pause["scope"]) + (f" {plain(pause['name'])}" if pause["name"] else "")
    return f"Paused: {what}{until}, by {plain(pause['by'])} since {local_time(pause['since'])}{why}"


def working(told: dict[str, Any]) -> str:
    """One line on work that takes long: how far it is, how fast, and how long it will take at that pace."""
    text = f"{plain(told['what'])} on {plain(told['target_id'])}: {plain(told['stage'])}"
    if told["total"]:
        text += f" {told['done'] / told['total']:.0%} of {_amount(told['total'], told['unit'])}"
    if told["rate_per_s"]:
        text += f", {_amount(told['rate_per_s'], told['unit'])}/s"
    if told["left_s"]:
        text += f", {told['left_s']:.0f} s left"
    return text + ("" if told["can_be_cancelled"] else ", not to be cancelled")


def _amount(count: float, unit: str) -> str:
    return f"{count / 1024**2:.1f} MiB" if unit == "bytes" else f"{count:.0f} {unit}".strip()


def drill(found: dict[str, Any]) -> str:
    """One line on the last drill, and the schedule of the next."""
    ended = "passed" if found["passed"] else "FAILED"
    ended += f"; not proved since it failed: {plain(found['why'])}" if found["why"] else ""
    words = f"{local_time(found['last_at'])} {ended}" if found["last_at"] else "there was none yet (healctl drill)"
    planned = f"; by itself {plain(found['schedule'])}" if found["schedule"] else ""
    return f"Last drill: {words}{planned}" + ("; one is under way" if found["under_way"] else "")


def local_time(text: object) -> str:
    """RFC 3339 UTC to whole seconds, for columns: `2026-02-18T09:30:00.123Z` -> `2026-02-18 09:30:00Z`."""
    whole = plain(text)
    return whole[:19].replace("T", " ") + "Z" if len(whole) >= 20 and whole[10:11] == "T" else whole
