"""What the root offers to the parts of it that stand in files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from supervisor.config import Config
from supervisor.messages import Down
from supervisor.tree.model import KernelEvent, State
from supervisor.tree.spawn import Child
from supervisor.worker import Factory


class Host(Protocol):
    """`config` and `factories` are those of the next fork; `children` those that live; `holds` the halted databases."""

    config: Config
    factories: dict[str, Factory]
    children: dict[str, Child]
    state: State
    runtime_dir: Path
    holds: tuple[str, ...]

    def apply(self, event: KernelEvent) -> None:
        """Tells the kernel, and carries out what it wants."""

    def spawn(self, name: str, incarnation: str, main: Any) -> Child:
        """Raises OSError."""

    def tell(self, child: Child, message: Down) -> None:
        """Queued; sent at the end of the turn."""

    def log(self, level: str, name: str, text: str) -> None:
        """A line of the daemon's log."""

    def ready_again(self) -> None:
        """systemd is told that a reload is over."""
