"""One guarded write into a configured trades database: by primary key, all rows or none, or not at all (R15).

The database is somebody else's, who goes on writing it: our transaction is short, waits for locks for a moment only,
and nothing is checkpointed by ourselves (docs/adr/0001-sqlite.md). A row is written only while it still holds what the
caller saw in it; that is also how a write that was asked for twice is known to stand already. It blocks, so it runs in
a thread; it must never create a file, a table or a column, nor touch a database that is halted (R10).
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from supervisor import clock, crashpoint
from supervisor.config import Config
from supervisor.errands import Cell, GuardedRow, GuardedWrite
from supervisor.messages import Ack, Nack
from supervisor.store import sqlite
from supervisor.store.sqlite import Fault

ROWS_MAX = 500


class _Refused(Exception):
    """Nothing was written; the text says why."""


def write(request: GuardedWrite, config: Config, halted: frozenset[str]) -> Ack | Nack:
    """`halted`: the files of databases that nobody may write."""
    section = config.trading.get(request.name)
    if section is None or not section.trades_db:
        return Nack("refused", f"[trading.{request.name}] has no trades_db in the configuration in force")
    if not 1 <= len(request.rows) <= ROWS_MAX:
        return Nack("refused", f"{len(request.rows)} rows, expected 1 to {ROWS_MAX}")
    path = Path(os.path.realpath(section.trades_db))
    if str(path) in {os.path.realpath(each) for each in halted}:
        return Nack("refused", f"{path} is halted: nobody writes it until it is found well")
    if clock.monotonic_s() >= request.until_mono_s:
        return Nack("refused", "it came too late")
    try:
        connection = sqlite.open_target(path, create=False)
        try:
            return _write(connection, section.table, request)
        finally:
            connection.close()
    except _Refused as refused:
        return Nack("refused", f"{path}: {refused}")
    except sqlite3.Error as error:
        code = "busy" if sqlite.fault_of(error) is Fault.BUSY else "refused"
        return Nack(code, f"{path}: {sqlite.describe(error)}")


def _write(connection: sqlite3.Connection, table: str, request: GuardedWrite) -> Ack:
    connection.execute("PRAGMA trusted_schema=OFF")  # what stands in a schema is data, not something to run for us
    connection.execute("BEGIN IMMEDIATE")
    try:
        name, columns = _columns(connection, table, request)
        put = [row for row in request.rows if not _holds(connection, name, columns, request, row, row.put)]
        if put and len(put) < len(request.rows):
            raise _Refused("some of the rows have been changed meanwhile; nothing was written")
        for row in put:
            if not _holds(connection, name, columns, request, row, row.expect):
                raise _Refused(f"row {row.key!r} has been changed or removed meanwhile; nothing was written")
            _update(connection, name, columns, request, row)
        crashpoint.reach("guarded.before")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    crashpoint.reach("guarded.after")
    return Ack()


def _columns(connection: sqlite3.Connection, table: str, request: GuardedWrite) -> tuple[str, dict[str, str]]:
    """The table's own name and those of its columns, by their lower case, quoted. Raises _Refused for what is not
    there: nothing but a name that the schema itself has gets into a statement."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name = ? COLLATE NOCASE", (table,)
    ).fetchall()
    if len(names) != 1:
        raise _Refused(f"it has no table {table}")
    rows = connection.execute("SELECT name, pk FROM pragma_table_info(?)", (names[0][0],)).fetchall()
    keys = [name for name, pk in rows if pk]
    if [key.casefold() for key in keys] != [request.key_column.casefold()]:
        raise _Refused(f"{request.key_column} is not the primary key of table {table}")
    columns = {name.casefold(): _quoted(name) for name, _ in rows}
    wanted = {column.casefold() for row in request.rows for column in (*row.expect, *row.put)}
    if missing := sorted(wanted - columns.keys()):
        raise _Refused(f"table {table} has no column {', '.join(missing)}")
    return _quoted(names[0][0]), columns


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _holds(
    connection: sqlite3.Connection,
    table: str,
    columns: dict[str, str],
    request: GuardedWrite,
    row: GuardedRow,
    values: dict[str, Cell],
) -> bool:
    where = "".join(f" AND {columns[name.casefold()]} IS ?" for name in values)
    query = f"SELECT 1 FROM {table} WHERE {columns[request.key_column.casefold()]} = ?{where}"
    return connection.execute(query, (row.key, *values.values())).fetchone() is not None


def _update(
    connection: sqlite3.Connection, table: str, columns: dict[str, str], request: GuardedWrite, row: GuardedRow
) -> None:
    sets = ", ".join(f"{columns[name.casefold()]} = ?" for name in row.put)
    query = f"UPDATE {table} SET {sets} WHERE {columns[request.key_column.casefold()]} = ?"
    changed = connection.execute(query, (*row.put.values(), row.key)).rowcount
    if changed != 1 or not _holds(connection, table, columns, request, row, row.put):
        raise _Refused(f"row {row.key!r} cannot be written as wanted ({changed} rows changed); nothing was written")
