"""A unit of ours has failed for good, or was ended from outside: one page, with no daemon to send it.

Run by systemd (`OnFailure=`, `ExecStopPost=`). It needs the configuration alone, and of that only what says how to
page: whatever else is wrong in it may be what the daemon failed of. systemd and its journal are asked what they know;
where they cannot tell, the page goes out without.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import msgspec

from supervisor import config, places, redact
from supervisor.config import Config
from supervisor.errors import ConfigError
from supervisor.incidents.plain_text import clean, lines
from supervisor.notifier import program
from supervisor.schema import Reader

PAGE_CHARS_MAX = 590  # with the line about the host below Signal's 600 (NFR-003)
LINES_MAX = 6  # of the journal
LINE_CHARS_MAX = 160
ASK_S = 4.0
PROPERTIES = ("Result", "ExecMainCode", "ExecMainStatus", "NRestarts")
# What systemd ends a unit with from outside, so that nobody has told yet (systemd.exec(5), $SERVICE_RESULT).
FROM_OUTSIDE = frozenset({"watchdog", "oom-kill", "signal", "core-dump", "timeout"})

_RESULTS = {
    "start-limit-hit": "it failed too often, one start after another",
    "watchdog": "its engine completed no round within WatchdogSec",
    "timeout": "a start or a stop took too long",
    "oom-kill": "the kernel ended it for want of memory",
    "resources": "systemd had no resources for it",
    "protocol": "it ended before it was ready",
}
_CODES = {"1": "exited", "2": "killed", "3": "dumped"}  # waitid(2)'s si_code, as systemctl shows it
_EXITS = {"70": "the core gave up", "78": "its configuration is wrong: healctl check"}


class Facts(msgspec.Struct, frozen=True):
    """What is known of the end of a unit; empty: unknown. `status`: an exit code, or a signal's name or number."""

    unit: str
    result: str = ""
    status: str = ""
    killed: bool = False
    restarts: int = 0
    lines: tuple[str, ...] = ()  # its last words
    fault: str = ""  # of the configuration


def configuration(path: Path | None, env: Mapping[str, str]) -> tuple[Config, str]:
    """What says how to page, and what is wrong with the rest. Raises ConfigError when that much cannot be read."""
    try:
        return config.load(path, env), ""
    except ConfigError as error:
        file = places.locate(path, env)
        if file is None:
            raise
        table = places.toml(places.read(file), str(file))
        needed: dict[str, object] = {name: table[name] for name in ("healctl", "notify") if name in table}
        tables = Reader().struct(config.Tables, needed, ())
        if tables is None:
            raise
        return Config(**msgspec.structs.asdict(tables)), error.message


async def learn(unit: str, env: Mapping[str, str], *, user: bool, fault: str) -> Facts:
    """From systemd's variables ($MONITOR_*, $SERVICE_RESULT; systemd.exec(5)), from systemd, and from its journal."""
    manager = ("--user",) if user else ()
    show = ("systemctl", *manager, "show", "--property=" + ",".join(PROPERTIES), "--", unit)
    journal = (
        "journalctl", *manager, f"--unit={unit}", f"--lines={LINES_MAX}", "--output=cat", "--no-pager", "--quiet",
        "_TRANSPORT=stdout",
    )  # fmt: skip
    told, words = await asyncio.gather(_ask(show), _ask(journal))
    known = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    told_by = "MONITOR_" if "MONITOR_SERVICE_RESULT" in env else ""  # of another unit, or of the one that we belong to
    status = env.get(f"{told_by}EXIT_STATUS") or known.get("ExecMainStatus", "")
    how = env.get(f"{told_by}EXIT_CODE") or _CODES.get(known.get("ExecMainCode", ""), "")
    restarts = known.get("NRestarts", "")
    return Facts(
        unit=unit,
        result=env.get(f"{told_by}SERVICE_RESULT") or known.get("Result", ""),
        status=status if how else "",
        killed=how in ("killed", "dumped"),
        restarts=int(restarts) if restarts.isdigit() else 0,
        lines=tuple(line for line in words.splitlines() if line.strip()),
        fault=fault,
    )


async def _ask(argv: tuple[str, ...]) -> str:
    """Its standard output; nothing when it cannot tell, which keeps no page from leaving."""
    try:
        output = await program.run(argv, ASK_S)
    except program.ProgramFailed:
        return ""
    return output.stdout.decode(errors="replace")


def words(facts: Facts, host: str, *, user: bool, restarted: bool) -> str:
    """The page. What a log says is put on one line each, without control characters and secrets (R11)."""
    control = "systemctl --user" if user else "systemctl"
    unit = facts.unit
    if restarted:
        head = f"healctl was ended on {host}: {unit} ({_why(facts)}). systemd starts it again."
        decide = f"Nothing to decide now; if it comes again, look: `{_journal(unit, user=user)}`."
    else:
        head = f"healctl is down on {host}: {unit} failed ({_why(facts)}), and systemd does not start it again."
        head += " Nothing is watched or healed."
        decide = (
            f"Decide: look why (`{_journal(unit, user=user)}`), then `{control} reset-failed {unit}` and"
            f" `{control} start {unit}`."
        )
    told = [facts.fault] if facts.fault else list(facts.lines)
    left = PAGE_CHARS_MAX - len(head) - len(decide) - len("\nLast words:\n\n")
    kept: list[str] = []
    for line in reversed([clean(redact.text(line), LINE_CHARS_MAX) for line in told]):
        if left < len(line) + 1:
            break
        left -= len(line) + 1
        kept.insert(0, line)
    quoted = ["Last words:", *kept] if kept else []
    return lines("\n".join([head, *quoted, decide]), PAGE_CHARS_MAX)


def _why(facts: Facts) -> str:
    parts = [_RESULTS.get(facts.result, "")]
    if facts.status:
        what = f"killed by {_signal(facts.status)}" if facts.killed else f"exit {clean(facts.status, 20)}"
        means = "" if facts.killed else _EXITS.get(facts.status, "")
        parts.append(what + (f": {means}" if means else ""))
    elif not parts[0]:
        parts.append(clean(facts.result, 40) or "systemd does not say why")
    if facts.restarts:
        parts.append(f"after {facts.restarts} restarts")
    return "; ".join(part for part in parts if part)


def _signal(status: str) -> str:
    """systemd says SIGKILL by its number to some, "KILL" to others."""
    if status.isdigit() and int(status) in set(signal.Signals):
        return signal.Signals(int(status)).name
    return clean(status, 20) if status.isdigit() else f"SIG{clean(status, 20)}"


def _journal(unit: str, *, user: bool) -> str:
    return f"journalctl {'--user ' if user else ''}-u {unit}"
