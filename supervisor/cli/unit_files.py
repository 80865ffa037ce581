"""The systemd units that come with healctl (`etc/systemd/`), as they are installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import supervisor
from supervisor.errors import HealError

SERVICE, FAILURE = "healctl.service", "healctl-failure@.service"


def unit_file(name: str, program: Sequence[str] = ("healctl",)) -> str:
    """The text of SERVICE or FAILURE. `program`: what `healctl` is there, e.g. its whole path and `-c FILE`."""
    words = " ".join(_quoted(word) for word in program)
    lines = _shipped(name).splitlines()
    for number, line in enumerate(lines):
        key, _, command = line.partition("=")
        minus = "-" if command.startswith("-") else ""
        if key in ("ExecStart", "ExecStopPost") and command.startswith(f"{minus}healctl "):
            lines[number] = f"{key}={minus}{words}{command.removeprefix(f'{minus}healctl')}"
    return "\n".join(lines) + "\n"


def _shipped(name: str) -> str:
    """In a checkout beside the package; else where the wheel has put it (`data-files` in pyproject.toml)."""
    beside = Path(supervisor.__file__).parents[1] / "etc/systemd" / name
    for file in (beside, Path(sys.prefix) / "share/healctl/systemd" / name):
        if file.is_file():
            return file.read_text()
    raise HealError(f"{name} did not come with this installation of healctl", "take it from etc/systemd of its source")


def _quoted(word: str) -> str:
    """One word of a command line for systemd (systemd.service(5), "Command lines")."""
    word = word.replace("%", "%%").replace("$", "$$").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{word}"' if not word.isalnum() else word
