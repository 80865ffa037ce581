"""Where the configuration file, the state and the sockets are. Apart from `config`, because every command asks this.

Reads; creates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from supervisor.errors import ConfigError

FILE_BYTES_MAX = 1024 * 1024
CAPTURING = "capturing"  # in the runtime directory: it stands while a person's commands are worth reporting (FR-006)


class Dirs(NamedTuple):
    state_dir: Path
    runtime_dir: Path


def locate(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """The configuration file in force, by DESIGN §6's order; None: the built-in defaults.

    A file that was named (`-c`, $HEALCTL_CONFIG) must exist; the two standard places may be empty.
    """
    if path is not None:
        return path
    if env.get("HEALCTL_CONFIG"):
        return Path(env["HEALCTL_CONFIG"])
    home = env.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    for candidate in (Path(home, "healctl/healctl.toml"), Path("/etc/healctl/healctl.toml")):
        if candidate.exists():
            return candidate
    return None


def default_file(env: Mapping[str, str]) -> Path:
    """Where a configuration is written when nobody says: of the standard places the one that is this user's."""
    home = env.get("XDG_CONFIG_HOME")
    if os.geteuid() == 0 and not home:
        return Path("/etc/healctl/healctl.toml")
    return Path(home or os.path.expanduser("~/.config"), "healctl/healctl.toml")


def load_dirs(path: Path | None, env: Mapping[str, str]) -> Dirs:
    """Where the daemon of the configuration in force lives, for a client that asks it something.

    Looks at `[healctl]` alone: a fault elsewhere must not keep anybody from asking or stopping a running daemon.
    """
    file = locate(path, env)
    if file is None:
        return dirs("", "")
    text = read(file)
    section = toml(text, str(file)).get("healctl", {})
    state, runtime = (_directory(section, key) for key in ("state_dir", "runtime_dir"))
    if state is None or runtime is None:
        from supervisor import config

        return config.dirs(config.parse(text, str(file)))  # raises, with what is wrong and where
    return dirs(state, runtime)


def _directory(section: object, key: str) -> str | None:
    """The configured directory, empty when there is none; None when it is not of the right form."""
    text = section.get(key, "") if isinstance(section, dict) else None
    if not isinstance(text, str):
        return None
    path = os.path.expanduser(text)
    return path if path == "" or os.path.isabs(path) else None


def dirs(state: str, runtime: str) -> Dirs:
    """The configured directories, or (empty) their defaults: the service's for root, XDG's for others."""
    if os.geteuid() == 0:
        return Dirs(Path(state or "/var/lib/healctl"), Path(runtime or "/run/healctl"))
    if not (state and runtime):
        import warnings

        import platformdirs

        state = state or platformdirs.user_state_dir("healctl", appauthor=False)
        with warnings.catch_warnings():  # of a login without XDG_RUNTIME_DIR (su, cron): its fallback is safe, too
            warnings.simplefilter("ignore")
            runtime = runtime or platformdirs.user_runtime_dir("healctl", appauthor=False)
    return Dirs(Path(state), Path(runtime))


def read(file: Path) -> str:
    """The file's text. Raises ConfigError."""
    try:
        with file.open("rb") as source:
            raw = source.read(FILE_BYTES_MAX + 1)  # no more, whatever it says of its size: /dev/zero has no end
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot be read: {error.strerror}",
            "name another with -c FILE or $HEALCTL_CONFIG, or write it: etc/healctl.toml lists every key",
        ) from error
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{file}: expected at most {FILE_BYTES_MAX} bytes")
    return decoded(raw, str(file))


def decoded(raw: bytes, source: str) -> str:
    """`raw` as text. Raises ConfigError, naming `source` and the line."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError(f"{source}:{line}: not UTF-8 text: {error.reason}") from error


def toml(text: str, source: str) -> dict[str, Any]:
    """The parsed text. Raises ConfigError, naming `source` and the line."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        words = place.rstrip(")").replace(",", "").split()
        line = words[1] if words[:1] == ["line"] else str(text.count("\n") + 1)
        raise ConfigError(f"{source}:{line}: not TOML: {message}", "see https://toml.io") from error
    except RecursionError as error:
        raise ConfigError(f"{source}: its tables or lists are nested too deeply") from error
    except ValueError as error:  # Python reads no number of more than 4300 digits
        raise ConfigError(f"{source}: a number in it cannot be read: {str(error).partition(';')[0]}") from error
