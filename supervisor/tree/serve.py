"""The daemon's two ways to run: in the foreground, and in the background. Takes the locks, then becomes the root."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.config import Config
from supervisor.tree import lock, spec
from supervisor.tree.detach import detach as to_background
from supervisor.tree.output import STDERR, Output
from supervisor.tree.reload import Source
from supervisor.tree.root import Root

LOG_NAME = "healctl.log"


def run(config: Config, state_dir: Path, runtime_dir: Path, source: Source) -> int:
    """Our tree in the foreground, until it is stopped. Returns the exit code; raises HealError when it cannot start.

    `source` is where `config` came from, and is read again at SIGHUP.
    """
    with _locks(state_dir, runtime_dir) as locks:
        return _root(config, state_dir, runtime_dir, source, locks, Output(STDERR)).run()


def detach(config: Config, state_dir: Path, runtime_dir: Path, source: Source) -> int:
    """The same in the background. Returns 0 when the tree is ready, else what it failed with, shown on stderr."""

    def serve(output: Output, on_ready: Callable[[], None]) -> tuple[int, str]:
        with _locks(state_dir, runtime_dir) as locks:
            root = _root(config, state_dir, runtime_dir, source, locks, output, on_ready)
            return root.run(), root.exit_reason

    return to_background(serve, state_dir / LOG_NAME)


def _root(
    config: Config,
    state_dir: Path,
    runtime_dir: Path,
    source: Source,
    locks: list[lock.Lock],
    output: Output,
    on_ready: Callable[[], None] | None = None,
) -> Root:
    tree = spec.healctl_tree(config)
    return Root(tree, config, state_dir, runtime_dir, source=source, locks=locks, output=output, on_ready=on_ready)


@contextlib.contextmanager
def _locks(state_dir: Path, runtime_dir: Path) -> Iterator[list[lock.Lock]]:
    """One healctl for these sockets, and one for this ledger."""
    with contextlib.ExitStack() as locks:
        held = [locks.enter_context(lock.acquire(runtime_dir))]
        if state_dir.resolve() != runtime_dir.resolve():
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            held.append(locks.enter_context(lock.claim(state_dir)))
        yield held
