"""Where things go: for the system what its administrator has put there (never a package's place), for a user XDG's.

Reads the environment and who we are; writes nothing.
"""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from supervisor.errors import HealError

SHELLS = ("bash", "zsh", "fish")


class Scope(msgspec.Struct, frozen=True):
    """`user`: a unit of a user's systemd, else of the system's."""

    user: bool
    units: Path
    manuals: Path
    completions: dict[str, Path]  # shell -> file

    @property
    def name(self) -> str:
        return "user" if self.user else "system"


def scope(env: Mapping[str, str], *, user: bool) -> Scope:
    if not user:
        share = Path("/usr/local/share")
        shells = {
            "bash": share / "bash-completion/completions/healctl",
            "zsh": share / "zsh/site-functions/_healctl",
            "fish": Path("/etc/fish/completions/healctl.fish"),
        }
        return Scope(False, Path("/etc/systemd/system"), share / "man/man1", shells)
    config, data = _xdg(env, "XDG_CONFIG_HOME", "~/.config"), _xdg(env, "XDG_DATA_HOME", "~/.local/share")
    # Several since bash-completion 2.12, as in PATH; the first is looked into first.
    first = env.get("BASH_COMPLETION_USER_DIR", "").partition(":")[0]
    bash = Path(first) if os.path.isabs(first) else data / "bash-completion"
    shells = {
        "bash": bash / "completions/healctl",
        "zsh": data / "zsh/site-functions/_healctl",
        "fish": config / "fish/completions/healctl.fish",
    }
    return Scope(True, config / "systemd/user", data / "man/man1", shells)


def _xdg(env: Mapping[str, str], name: str, default: str) -> Path:
    """A relative one counts as none (XDG Base Directory Specification). Raises HealError for a HOME that is none."""
    found = env.get(name, "")
    if os.path.isabs(found):
        return Path(found)
    home = env.get("HOME", os.path.expanduser("~"))
    if not os.path.isabs(home):
        raise HealError(f"HOME is {home!r}, which is no absolute path: nothing was changed", "set HOME")
    return Path(default.replace("~", home, 1)) if default.startswith("~/") else Path(default)


def healctl() -> Path:
    """The program that is being run, by its absolute path; a link to it stays one, since it outlives an upgrade."""
    for path in (Path(sys.argv[0]), Path(sys.executable).with_name("healctl")):
        if path.name == "healctl" and os.access(path, os.X_OK) and path.is_file():
            return path.absolute()
    raise HealError("healctl does not know its own program's path", "run it by its absolute path")


def others_who_may_change(path: Path) -> Iterator[str]:
    """Who but root could put something else in the place of a file that root runs or reads, in words."""
    for link in dict.fromkeys((path.absolute(), path.resolve())):
        for part in (link, *link.parents):
            found = part.lstat()
            writers = stat.S_IWOTH | (stat.S_IWGRP if found.st_gid != 0 else 0)
            if found.st_uid != 0:
                yield f"user {found.st_uid} owns {part}"
            elif found.st_mode & writers and not stat.S_ISLNK(found.st_mode) and not found.st_mode & stat.S_ISVTX:
                yield f"{part} has mode {stat.S_IMODE(found.st_mode):04o}"


def shells_here(env: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(shell for shell in SHELLS if shutil.which(shell, path=env.get("PATH")) is not None)
