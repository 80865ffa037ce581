"""Another configuration while healctl runs (DESIGN §7): a bad file changes nothing and says so.

The file and its runbooks are read by a one-shot child, since a dead mount or a FIFO in its place would otherwise stop
the root. What the child has accepted stands in one file of the runtime directory: the root takes it from there, and so
do the workers.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import msgspec

from supervisor import config as configuration
from supervisor import places
from supervisor.config import Accepted, Config
from supervisor.errors import ConfigError, HealError
from supervisor.messages import Refusal, Reloaded, encode
from supervisor.plugins import Part
from supervisor.tree import spec
from supervisor.tree.model import TreeSpec
from supervisor.worker import PACKET_BYTES_MAX, Factory, settle_in

log = logging.getLogger(__name__)

NAME = "reload"  # of the one-shot
ACCEPTED = "accepted.json"
OUTCOME = "reload.json"
WITHIN_S = 10.0
ERROR_CHARS_MAX = 4_000
HINT = "nothing was changed; correct the file and reload again, or restart healctl"
# What a worker keeps for its whole life, so that it starts anew when it changes.
READ_ONCE: tuple[tuple[str, Callable[[Config], object]], ...] = (
    ("notifier", lambda config: (config.notify.signal, config.notify.synapse)),
    ("metrics", lambda config: config.metrics),
    ("healer", lambda config: config.healctl.record),
    ("store", lambda config: (config.notify.synapse, config.policy.auto_execute)),
)


class Source(msgspec.Struct, frozen=True):
    """Where the configuration comes from: a file; None: the standard places of `env`, should there be one by now."""

    file: Path | None
    env: Mapping[str, str]

    def read(self) -> tuple[Config, str, str]:
        """What stands there now, its text, and its name for people. Raises ConfigError."""
        file = self.file or places.locate(None, self.env)
        if file is None:
            return Config(), "", "built-in defaults"
        text = places.read(file)
        return configuration.accept(text, file), text, str(file)


class Fitting(msgspec.Struct, frozen=True):
    """An accepted configuration, ready to be put in force. `again`: who starts anew. `changes`: in words."""

    config: Config
    tree: TreeSpec
    factories: dict[str, Factory]
    again: frozenset[str]
    changes: tuple[str, ...]


def fit(old: Config, new: Config, name: str, holds: tuple[str, ...] = ()) -> Fitting:
    """`new` (of the file `name`) as the successor of `old`; `holds` as in `healctl_tree`.

    Raises ConfigError: the tree would be wrong, or it needs a restart.
    """
    moved = [
        key
        for key, before, after in (
            ("healctl.state_dir", configuration.dirs(old).state_dir, configuration.dirs(new).state_dir),
            ("healctl.runtime_dir", configuration.dirs(old).runtime_dir, configuration.dirs(new).runtime_dir),
            ("store.brain_db", old.store.brain_db, new.store.brain_db),
            ("store.metrics_db", old.store.metrics_db, new.store.metrics_db),
        )
        if before != after
    ]
    if moved:
        raise ConfigError(f"{name}: {', '.join(moved)} cannot change while healctl runs: this needs a restart")
    tree = spec.healctl_tree(new, holds)
    again = frozenset(child for child, read in READ_ONCE if read(old) != read(new)) | _other_plugins(old, new)
    return Fitting(new, tree, spec.preload(tree), again, changes(old, new))


def _other_plugins(old: Config, new: Config) -> frozenset[str]:
    """Those of another version, whose module a process that lives has imported already, and channels, which are made
    once for each life."""
    return frozenset(
        name
        for name, piece in new.piece.items()
        if (name in old.piece and old.piece[name] != piece)
        or (piece.part is Part.CHANNEL and old.plugin.get(name) != new.plugin.get(name))
    )


def changes(old: Config, new: Config) -> tuple[str, ...]:
    """What differs, by table: `process.web added`, `policy changed`. Empty: nothing does."""
    found = []
    for field in msgspec.structs.fields(Config):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        if not isinstance(before, dict):
            found.append(f"{field.name} changed")
            continue
        for name in sorted({*before, *after}):
            if name not in after:
                found.append(f"{field.name}.{name} removed")
            elif name not in before:
                found.append(f"{field.name}.{name} added")
            elif before[name] != after[name]:
                found.append(f"{field.name}.{name} changed")
    return tuple(found)


def main(source: Source, old: Config, runtime_dir: Path, root_pid: int, uplink: socket.socket, output: int) -> NoReturn:
    """The whole life of the one-shot: exit 0 when what it wrote to ACCEPTED can be put in force."""
    code = 1
    try:
        settle_in(NAME, root_pid, uplink.fileno(), output, old.healctl.log_level)
        new, text, name = source.read()
        fit(old, new, name)
        accepted = Accepted(text, tuple(new.runbook.values()), tuple(new.piece.values()))
        write(runtime_dir / ACCEPTED, msgspec.json.encode(accepted))
        code = 0
    except HealError as error:
        uplink.send(encode(Refusal(str(error)[:ERROR_CHARS_MAX])))
    except BaseException as error:
        log.exception("the configuration could not be read")
        uplink.send(encode(Refusal(f"it could not be read: {type(error).__name__}: {error}"[:ERROR_CHARS_MAX])))
    finally:
        sys.stderr.flush()
        os._exit(code)


def write(path: Path, raw: bytes) -> None:
    """As a whole or not at all, readable by nobody else. Raises OSError."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as file:
        file.write(raw)
    os.replace(beside, path)


def outcome(runtime_dir: Path) -> Reloaded | None:
    """What became of the newest reload here; None when there was none. For `healctl reload`."""
    try:
        return msgspec.json.decode((runtime_dir / OUTCOME).read_bytes(), type=Reloaded)
    except (OSError, msgspec.DecodeError):
        return None


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that has not hung up (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True


assert PACKET_BYTES_MAX > 8 * ERROR_CHARS_MAX
