"""What the parts tell of how they stand: the store of itself, the healer of everything to whoever exposes it.

A part of `supervisor.messages`, where the others find it.
"""

from __future__ import annotations

import msgspec


class ProjectionStatus(msgspec.Struct, frozen=True):
    """One projection: how many ledger revisions it is behind, since when, and why."""

    name: str
    path: str
    behind: int
    behind_for_s: float
    last_error: str


class StoreStatus(msgspec.Struct, frozen=True, tag="store_status"):
    """Store -> healer, unacked, once a second while something changes.

    `ledger_id`: another than the healer's means that the ledger was begun anew. `damaged`: ledgers that were set aside
    and are still kept; `damage`: what is known of the newest, in words.
    """

    ledger_path: str
    ledger_bytes: int
    reserve_ok: bool
    sqlite_version: str
    projections: tuple[ProjectionStatus, ...]
    ledger_id: str = ""
    damaged: tuple[str, ...] = ()
    damage: str = ""


class Listening(msgspec.Struct, frozen=True, tag="listening"):
    """Metrics -> healer, unacked, whenever it tries to listen: where, and why it cannot (empty: it does)."""

    address: str
    error: str = ""


class PingNow(msgspec.Struct, frozen=True, tag="ping_now"):
    """Healer -> notifier, answered by Pinged when that ping has ended: the engine has gone round, let it be known
    outside. One at a time; what it says is not queued."""


class Pinged(msgspec.Struct, frozen=True, tag="pinged"):
    """What came of it. `error`: why it did not arrive, else empty. `good_wall_s`: the last that did, as far as this
    notifier knows, so that a new healer knows it, too."""

    error: str = ""
    good_wall_s: float | None = None


class FetchMetrics(msgspec.Struct, frozen=True, tag="fetch_metrics"):
    """Metrics -> healer: everything that is exposed, as it is now. Answer: MetricsFound."""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One line. `suffix` follows the family's name: "_bucket", "_sum" and "_count" of a histogram."""

    labels: tuple[tuple[str, str], ...]
    value: float
    suffix: str = ""


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric in Prometheus' sense. `kind`: counter | gauge | histogram."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]


class MetricsFound(msgspec.Struct, frozen=True, tag="metrics_found"):
    families: tuple[Family, ...]
