"""A line of the log in each of its forms: for people, as JSON, for journald. Pure, but for `fitting`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

import msgspec

from supervisor.clock import rfc3339
from supervisor.units import LogFormat
from supervisor.visible import visible

JOURNAL_PRIORITY = {"debug": 7, "info": 6, "out": 6, "warning": 4, "error": 3}  # syslog(3), sd-daemon(3)
# How `newsdesk` says which incident its line is about, after the name of its logger.
_INCIDENT = re.compile(r"((?:[\w.]+: )?)incident=(inc_[0-9a-z]+) ")


def fitting(fd: int, environ: Mapping[str, str]) -> LogFormat:
    """What `log_format = "auto"` means for a log that goes to `fd`: for people on a terminal, for journald where it is
    the reader (JOURNAL_STREAM is this very descriptor, systemd.exec(5)), JSON otherwise."""
    if os.isatty(fd):
        return LogFormat.TEXT
    at = os.fstat(fd)
    is_journal = environ.get("JOURNAL_STREAM") == f"{at.st_dev}:{at.st_ino}"
    return LogFormat.JOURNAL if is_journal else LogFormat.JSON


def line(form: LogFormat, level: str, name: str, text: str, wall_s: float) -> str:
    """One record of the log in `form` (not AUTO), with its line break; `name` is the worker's, or "root"."""
    if form is LogFormat.JSON:
        return _json(level, name, text, wall_s)
    body = [visible(part) for part in text.split("\n")]
    if form is LogFormat.JOURNAL:  # a record for each line, and the time is the journal's own
        return "".join(f"<{JOURNAL_PRIORITY[level]}>[{name}] {part}\n" for part in body)
    head = time.strftime("%H:%M:%S", time.localtime(wall_s))
    return f"{head} {level} [{name}] " + "\n    ".join(body) + "\n"


def _json(level: str, name: str, text: str, wall_s: float) -> str:
    """`{"time", "level", "worker", "message"}`, and `"incident"` where the line is about one."""
    text = text.encode(errors="backslashreplace").decode()  # a path that is no UTF-8 comes with surrogates
    row = {"time": rfc3339(wall_s), "level": level, "worker": name}
    found = _INCIDENT.match(text)
    if found:
        row["incident"] = found[2]
        text = found[1] + text[found.end() :]
    return msgspec.json.encode(row | {"message": text}).decode() + "\n"
