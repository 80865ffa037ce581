"""The open trades of a trades database, and which of them a live signal accounts for (FR-002 `phantom_position`).

It only reads: the database through `sqlite_file`, which leaves no file behind (R9).
"""

from __future__ import annotations

import sqlite3

import msgspec

from probes.signals import Signal, side_of, symbol_key
from probes.sqlite_file import CannotOpen, open_readonly, reason_of
from supervisor.incidents.readings import Position, Unavailable

ROWS_MAX = 10_000
PHANTOMS_MAX = 500  # in one reading: it must stay a small message
TEXT_CHARS_MAX = 60
_NEEDED = ("id", "symbol", "side", "status")


class Book(msgspec.Struct, frozen=True):
    """The open trades; `reason` other than NONE: they cannot be told, `detail` says why."""

    trades: tuple[Position, ...] = ()
    detail: str = ""
    reason: Unavailable = Unavailable.NONE


def open_trades(path: str, table: str) -> Book:
    """Blocking."""
    try:
        with open_readonly(path) as connection:
            return _read(connection, path, table)
    except CannotOpen as error:
        return Book(reason=error.reason, detail=str(error))
    except sqlite3.Error as error:
        return Book(reason=reason_of(error), detail=f"{path}: {error}")


def _read(connection: sqlite3.Connection, path: str, table: str) -> Book:
    present = {row[0].casefold() for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    if not present:
        return Book(reason=Unavailable.BAD_DATA, detail=f"{path} has no table {table}")
    missing = [name for name in _NEEDED if name not in present]
    if missing:
        detail = f"table {table} of {path} lacks {', '.join(missing)}"
        return Book(reason=Unavailable.BAD_DATA, detail=detail)
    opened_at = "opened_at" if "opened_at" in present else "NULL"
    # `table` is a plain name by its form in the configuration; no value from data is ever put into a statement.
    query = (
        f"SELECT id, symbol, side, {opened_at} FROM \"{table}\" WHERE lower(trim(status)) = 'open' ORDER BY id LIMIT ?"
    )
    rows = connection.execute(query, (ROWS_MAX + 1,)).fetchall()
    detail = f"more than {ROWS_MAX} open trades; only the first are compared" if len(rows) > ROWS_MAX else ""
    return Book(tuple(Position(*(_text(value) for value in row)) for row in rows[:ROWS_MAX]), detail)


def account(book: Book, signal: Signal) -> tuple[tuple[Position, ...], str]:
    """The open trades that the live signal does not account for, and what else is to be said.

    A hold accounts for either side of its symbol, flat for none. A trade whose own side nobody can tell is not called
    a phantom while there is a signal for its symbol.
    """
    found, notes = [], [book.detail] if book.detail else []
    wanted = symbol_key(signal.symbol)
    for trade in book.trades:
        side = side_of(trade.side)
        same = signal.side != "flat" and symbol_key(trade.symbol) == wanted
        if same and side not in ("long", "short"):
            notes.append(f"the side {trade.side!r} of trade {trade.trade_id} cannot be compared")
        elif not same or signal.side not in ("hold", side):
            found.append(trade)
    if len(found) > PHANTOMS_MAX:
        notes.append(f"{len(found)} trades without a signal, the first {PHANTOMS_MAX} are named")
    return tuple(found[:PHANTOMS_MAX]), "; ".join(notes[:3])


def _text(value: object) -> str:
    if value is None:
        return ""
    return (value.decode(errors="replace") if isinstance(value, bytes) else str(value))[:TEXT_CHARS_MAX]
