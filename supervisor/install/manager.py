"""systemd, asked and told by systemctl: the system's manager or a user's. Only what was asked for is done."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from supervisor.errors import HealError, Refused
from supervisor.install.unit import SERVICE
from supervisor.notifier import program

ASK_S = 10.0
START_S = 120.0  # systemd itself gives a start or a stop 90 s
VERIFY_S = 60.0
_PROPERTIES = ("LoadState", "ActiveState", "UnitFileState", "MainPID", "NeedDaemonReload")


class Standing(msgspec.Struct, frozen=True):
    """What systemd says of the unit. `stale`: its file is another one than that which systemd has read."""

    masked: bool = False
    stale: bool = False
    active: bool = False
    enabled: bool = False
    failed: bool = False
    main_pid: int = 0


class Manager:
    """`said`: every command that changed something (of a dry run: would change), as one would type it."""

    def __init__(self, *, user: bool, dry_run: bool) -> None:
        self._argv = ("systemctl", "--user") if user else ("systemctl",)
        self._dry_run = dry_run
        self.said: list[str] = []

    @property
    def control(self) -> str:
        return " ".join(self._argv)

    def standing(self) -> Standing:
        """Raises Refused where no such manager answers."""
        words = ("show", f"--property={','.join(_PROPERTIES)}", "--", SERVICE)
        try:
            done = asyncio.run(program.run((*self._argv, *words), ASK_S))
        except program.NotStarted as error:
            raise Refused("systemctl is not found: this machine does not run systemd", str(error)) from error
        except program.ProgramFailed as error:
            raise Refused(f"systemd does not answer: {error}") from error
        if done.code != 0:
            raise Refused(f"{self.control} does not reach systemd: {_words(done.stderr)}")
        told = dict(line.split("=", 1) for line in done.stdout.decode(errors="replace").splitlines() if "=" in line)
        return Standing(
            masked=told.get("LoadState") == "masked",
            stale=told.get("NeedDaemonReload") == "yes",
            active=told.get("ActiveState") in ("active", "reloading"),  # "activating": `start` waits for its end
            enabled=told.get("UnitFileState") == "enabled",
            failed=told.get("ActiveState") == "failed",
            main_pid=int(told["MainPID"]) if told.get("MainPID", "").isdigit() else 0,
        )

    def do(self, *words: str) -> None:
        """Raises HealError with what systemctl says."""
        command = " ".join((*self._argv, *words))
        if self._dry_run:
            self.said.append(command)
            return
        try:
            done = asyncio.run(program.run((*self._argv, *words), START_S))
        except program.ProgramFailed as error:
            raise HealError(f"{command}: {error}") from error
        if done.code != 0:
            raise HealError(f"{command}: {_words(done.stderr) or f'exit {done.code}'}")
        self.said.append(command)


def verified(units: Mapping[str, str], *, user: bool) -> list[str]:
    """What systemd-analyze(1) has to say of these units (name -> text), and systemd would only log; nothing where it
    is not installed. Raises HealError for a unit that systemd would not take."""
    try:
        return _verified(units, "--user" if user else "--system")
    except (OSError, program.ProgramFailed) as error:
        return [] if isinstance(error, program.NotStarted) else [f"systemd-analyze could not look: {error}"]


def _verified(units: Mapping[str, str], manager: str) -> list[str]:
    with tempfile.TemporaryDirectory(prefix="healctl-install-") as folder:
        for name, text in units.items():
            Path(folder, name).write_text(text)
        names = tuple(name.replace("@", "@check") for name in units)  # a template alone is no unit
        words = ("systemd-analyze", manager, "verify", *(f"{folder}/{name}" for name in names))
        done = asyncio.run(program.run(words, VERIFY_S))
    said = done.stderr.decode(errors="replace").splitlines()
    ours = [line.removeprefix(f"{folder}/") for line in said if folder in line or line.startswith(names)]
    if done.code != 0 and ours:
        raise HealError(f"systemd would not take the unit: {'; '.join(ours)}", "nothing was changed")
    return ours


def _words(stderr: bytes) -> str:
    return "; ".join(line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip())[:500]
