"""What a step asks of healer and store: its part of `supervisor.messages`. Values only."""

from __future__ import annotations

import msgspec

from supervisor.incidents.model import AnomalyType

Cell = int | float | str | None  # a value of a database; binary data is none that we write


class GuardedRow(msgspec.Struct, frozen=True):
    """One row by its primary key: written only while it holds `expect`; then it holds `put`. Both name columns."""

    key: int | str
    expect: dict[str, Cell]
    put: dict[str, Cell]


class GuardedWrite(msgspec.Struct, frozen=True, tag="guarded_write"):
    """Executor -> store: all of these rows of a configured trades database ([trading.NAME]), in one transaction, or
    none. Acked when it stands; asking again is acked again, since rows that hold what was to be put have been written.

    Nacked with `refused` (nothing was written, and will not be), or `busy` (nothing was written; try again). Not begun
    after `until_mono_s`, so that whoever has given up knows that nothing comes after.
    """

    name: str
    key_column: str
    rows: tuple[GuardedRow, ...]
    until_mono_s: float


class ReadNow(msgspec.Struct, frozen=True, tag="read_now"):
    """Executor -> healer: have this target read afresh by its probe, and say what that means. Answered by ReadSays, or
    Nack when nobody could read it."""

    target_id: str


class ReadSays(msgspec.Struct, frozen=True, tag="read_says"):
    """`firing`, `clear`: anomaly types by what the reading alone says of them; `says` is the same in words."""

    firing: tuple[AnomalyType, ...]
    clear: tuple[AnomalyType, ...]
    says: str
