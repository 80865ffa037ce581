"""What a real daemon said on Synapse, in whichever of its two ways, in the order in which it arrived."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from tests.doubles.synapse_double import SynapseDouble
from tests.lab.daemon import Daemon, until

WAYS = ("brain_db", "rest")


class Told(msgspec.Struct, frozen=True):
    """One message as others find it."""

    thread: str
    priority: str
    subject: str
    body: str


class Synapse:
    """`toml` configures the way; `told` is what has arrived."""

    def __init__(self, double: SynapseDouble | None) -> None:
        self.double = double

    @property
    def toml(self) -> str:
        return f'[notify.synapse]\ntransport = "{self.double.url}"\n' if self.double is not None else ""

    def told(self, daemon: Daemon) -> list[Told]:
        if self.double is not None:
            sent: list[dict[str, Any]] = list(self.double.sent)
            return [Told(one["thread"], one["priority"], one["subject"], one["content"]) for one in sent]
        with contextlib.suppress(sqlite3.OperationalError):  # not made yet
            return [Told(row["thread_id"], row["priority"], row["subject"], row["body"]) for row in daemon.synapse()]
        return []

    def wait(self, daemon: Daemon, what: str, true: Callable[[list[Told]], bool]) -> list[Told]:
        """Until `true` of what has arrived."""

        def look() -> list[Told] | None:
            found = self.told(daemon)
            return found if true(found) else None

        found: list[Told] = until(what, look)
        return found


@contextlib.contextmanager
def synapse(way: str) -> Iterator[Synapse]:
    if way == "brain_db":
        yield Synapse(None)
        return
    with SynapseDouble() as double:
        yield Synapse(double)
