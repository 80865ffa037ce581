"""The open trades of a trades database, and which of them a live signal accounts for (FR-002 `phantom_position`).

It only reads: the database through `sqlite_file`, which leaves no file behind (R9).
"""

from __future__ import annotations

import sqlite3

import msgspec

from supervisor.incidents.readings import Position, Unavailable
from supervisor.signals import Signal, side_of, symbol_key
from supervisor.sqlite_file import CannotOpen, open_readonly, reason_of

ROWS_MAX = 10_000
PHANTOMS_MAX = 500  # in one reading: it must stay a small message
TEXT_CHARS_MAX = 60
KEY = "id"
_NEEDED = (KEY, "symbol", "side", "status")
_OPTIONAL = ("opened_at", "closed_at")


class Book(msgspec.Struct, frozen=True):
    """The open trades; `reason` other than NONE: they cannot be told, `detail` says why."""

    trades: tuple[Position, ...] = ()
    detail: str = ""
    reason: Unavailable = Unavailable.NONE


class Row(msgspec.Struct, frozen=True):
    """An open row as SQLite has it, by its columns' names."""

    values: dict[str, object]

    def position(self) -> Position:
        return Position(*(_text(self.values.get(name)) for name in (KEY, "symbol", "side", "opened_at")))


class OpenRows(msgspec.Struct, frozen=True):
    """`closed_like`: how the times of closed trades are written there, None when none is."""

    rows: tuple[Row, ...]
    closed_like: object


class _Unfit(Exception):
    """It is a database, but its table is not what it should be."""


def open_trades(path: str, table: str) -> Book:
    """Blocking."""
    try:
        with open_readonly(path) as connection:
            found = _select(connection, path, table)
    except CannotOpen as error:
        return Book(reason=error.reason, detail=str(error))
    except _Unfit as error:
        return Book(reason=Unavailable.BAD_DATA, detail=str(error))
    except sqlite3.Error as error:
        return Book(reason=reason_of(error), detail=f"{path}: {error}")
    more = len(found.rows) > ROWS_MAX
    detail = f"more than {ROWS_MAX} open trades; only the first are compared" if more else ""
    return Book(tuple(row.position() for row in found.rows[:ROWS_MAX]), detail)


def open_rows(path: str, table: str) -> OpenRows:
    """The open trades as they stand there, to be written by their keys. Blocking. Raises CannotOpen."""
    try:
        with open_readonly(path) as connection:
            return _select(connection, path, table)
    except _Unfit as error:
        raise CannotOpen(Unavailable.BAD_DATA, str(error)) from error
    except sqlite3.Error as error:
        raise CannotOpen(reason_of(error), f"{path}: {error}") from error


def _select(connection: sqlite3.Connection, path: str, table: str) -> OpenRows:
    present = {row[0].casefold() for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    if not present:
        raise _Unfit(f"{path} has no table {table}")
    missing = [name for name in _NEEDED if name not in present]
    if missing:
        raise _Unfit(f"table {table} of {path} lacks {', '.join(missing)}")
    columns = tuple(name for name in (*_NEEDED, *_OPTIONAL) if name in present)
    # `table` is a plain name by its form in the configuration; no value from data is ever put into a statement.
    query = f"SELECT {', '.join(columns)} FROM \"{table}\" WHERE lower(trim(status)) = 'open' ORDER BY id LIMIT ?"
    rows = tuple(Row(dict(zip(columns, row, strict=True))) for row in connection.execute(query, (ROWS_MAX + 1,)))
    closed = None
    if "closed_at" in present:
        query = f'SELECT closed_at FROM "{table}" WHERE closed_at IS NOT NULL ORDER BY id DESC LIMIT 1'
        closed = next((value for (value,) in connection.execute(query)), None)
    return OpenRows(rows, closed)


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
