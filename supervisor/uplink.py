"""What root and child say to each other over their socket pair, one message a packet.

A part of `supervisor.messages`, which has the two directions' codecs.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class TreeKind(StrEnum):
    STARTED = "started"
    READY = "ready"
    EXITED = "exited"
    HUNG = "hung"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    ITEM_QUARANTINED = "item_quarantined"
    STOPPED = "stopped"


class TreeEvent(msgspec.Struct, frozen=True, tag="tree_event"):
    """What happened to one child. `items`: what it had in work when it died; `last_words`: the tail of its output."""

    kind: TreeKind
    child: str
    pid: int
    incarnation: str
    at_wall_s: float
    restarts: int = 0
    exit_text: str = ""
    items: tuple[str, ...] = ()
    last_words: str = ""
    delay_s: float = 0.0
    failures: int = 0  # of this child within `supervisor.tree.model.FAILURES_S`


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Child -> root: everything it needs is open; dependants may start."""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Child -> root, from the work loop: `done` counts finished work, `oldest_s` is the age of the oldest in hand."""

    done: int
    oldest_s: float


class Working(msgspec.Struct, frozen=True, tag="working"):
    """Child -> root, before an item that could kill it is touched; `item` e.g. `outbox:ID`, `execution:ID`."""

    item: str


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    item: str


class Alarm(msgspec.Struct, frozen=True, tag="alarm"):
    """Child -> root: page this; nothing else can tell, since nothing can be written."""

    text: str


class Refusal(msgspec.Struct, frozen=True, tag="refusal"):
    """The one-shot that reads the configuration anew -> root: why it cannot be taken, in the words of `check`."""

    error: str


class Holds(msgspec.Struct, frozen=True, tag="holds"):
    """Healer -> root: the databases for which a `hold:NAME` must live, and no others (R10). Sent at the healer's start
    and whenever it changed, after the change is durable."""

    databases: tuple[str, ...]


class Round(msgspec.Struct, frozen=True, tag="round"):
    """Healer -> root: a decision that began at a beat has gone through the engine and is durable in the ledger."""


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Root -> child: finish what is in hand within the child's `shutdown`, then exit 0."""


class Reload(msgspec.Struct, frozen=True, tag="reload"):
    """Root -> child: another configuration is in force; what was accepted stands in the file `path`."""

    path: str


class Reloaded(msgspec.Struct, frozen=True, tag="reloaded"):
    """Root -> healer, and (in a file) -> `healctl reload`: what became of the newest order to reload.

    `began_mono_s`: a reload that began after an order has seen what was in the file then. `changes`: what differs, in
    words. `error`: why nothing was changed; empty when `ok`.
    """

    ok: bool
    began_mono_s: float
    at_wall_s: float
    changes: tuple[str, ...] = ()
    error: str = ""


Up = Ready | Beat | Working | Finished | Refusal | Holds | Alarm | Round
Down = Stop | Reload | Reloaded | TreeEvent
