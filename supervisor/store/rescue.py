"""A new database from what is readable of a damaged one: every whole row, whatever lies around it (R10).

It works on a copy of the damaged file, merges its log first, and takes the schema from it; where page 1 is destroyed,
from the newest good copy. What it cannot tell it leaves behind and counts: it invents no row, and does not bring back
what was deleted. `heal_projection` is left out, so that our own records are told again from the ledger, each once.

An index of texts is built again from the texts. Any other virtual table (an r-tree, vectors of a module that is not
here) is kept as it stands: the tables in which its module stores it are copied like others.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import groupby, islice, starmap
from pathlib import Path

import msgspec

from supervisor.errors import StoreError
from supervisor.store import pages, sqlite
from supervisor.store.pages import Bad, Gap, Image, Value

POSITION = "heal_projection"
_BATCH = 500
_WAL = 2  # bytes 18 and 19 of the header: its file format versions
_ENCODINGS = {"utf-8": "UTF-8", "utf-16-le": "UTF-16le", "utf-16-be": "UTF-16be"}
_ROWID_NAMES = ("rowid", "_rowid_", "oid")
_VACUUMS = ("NONE", "FULL", "INCREMENTAL")
_TEXT_INDEX = re.compile(r"\bUSING\s+fts[345]\b", re.IGNORECASE)
_CONTENTLESS = re.compile(r"\bcontent\s*=\s*(''|\"\")", re.IGNORECASE)


class Rescued(msgspec.Struct, frozen=True):
    """Rows by table that came over; what did not; and what else should be known."""

    rows: dict[str, int]
    pages_lost: int
    rows_lost: int
    notes: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return not (self.pages_lost or self.rows_lost or self.notes)


class _Thing(msgspec.Struct, frozen=True):
    """A row of the schema."""

    kind: str
    name: str
    root: int
    sql: str


class _Table(msgspec.Struct, frozen=True):
    """Where a table's rows go: `insert` by number of fields is made of `stored` (in the record's order)."""

    thing: _Thing
    stored: tuple[str, ...]  # empty: a generated column, which is not inserted
    alias: str  # the column that is the rowid
    rowid: str  # the name by which the rowid is inserted, when no column is its alias
    keyed: bool
    own: bool  # SQLite makes it by itself beside another table


def rescue(work: Path, target: Path, like: Path | None, told: Callable[[int, int], None]) -> Rescued:
    """Writes `target` anew from `work`, a copy of the damaged file that may be changed. `like`: a good older copy.

    Raises StoreError when nothing can be made of it, sqlite3.Error, OSError.
    """
    notes: list[str] = []
    size, wal = _make_legible(work, like, notes)
    _merge_log(work, notes)
    image = Image(work, size)
    try:
        with closing(sqlite.open_copy(target)) as new:
            new.execute(f"PRAGMA page_size={size}")
            new.execute(f"PRAGMA auto_vacuum={_vacuum(image)}")
            new.execute(f"PRAGMA encoding='{_ENCODINGS[image.encoding]}'")
            found = _Rescue(image, new, notes, told).run(like)
            if wal:
                new.execute("PRAGMA journal_mode=WAL")
            return found
    finally:
        image.close()


def _make_legible(work: Path, like: Path | None, notes: list[str]) -> tuple[int, bool]:
    """The page size, and whether it was in WAL mode; a destroyed first page is taken from the older copy."""
    with work.open("r+b") as file:
        header = file.read(pages.HEADER_BYTES)
        try:
            return pages.page_size_of(header), _WAL in header[18:20]
        except Bad as error:
            if like is None:
                raise StoreError("its header is destroyed, and no good copy has the schema", "") from error
        with like.open("rb") as other:
            size = pages.page_size_of(other.read(pages.HEADER_BYTES))
            other.seek(0)
            first = bytearray(other.read(size))
        file.seek(0, 2)
        wal = _WAL in first[18:20]
        first[28:32] = (max(1, file.tell() // size)).to_bytes(4, "big")
        first[92:96] = first[24:28]
        first[32:40] = bytes(8)  # its free list says nothing about this file
        first[18:20] = b"\2\2" if Path(f"{work}-wal").exists() else b"\1\1"
        file.seek(0)
        file.write(first)
    notes.append("page 1 was destroyed: the schema is the last good copy's")
    return size, wal


def _merge_log(work: Path, notes: list[str]) -> None:
    """What was committed to the log, or must be rolled back by the journal, goes into the copy."""
    if not any(Path(f"{work}{suffix}").exists() for suffix in ("-wal", "-journal")):
        return
    try:
        with closing(sqlite.open_damaged(work)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    except sqlite3.Error as error:
        if sqlite.fault_of(error) in sqlite.DISK_FAULTS:
            raise
        notes.append(f"its log could not be merged ({sqlite.describe(error)})")


class _Rescue:
    def __init__(
        self, image: Image, new: sqlite3.Connection, notes: list[str], told: Callable[[int, int], None]
    ) -> None:
        self._image = image
        self._new = new
        self._notes = notes
        self._told = told
        self._gaps: dict[str, list[Gap]] = {}
        self._rows: dict[str, int] = {}
        self._refused = 0
        self._tables: dict[str, _Table] = {}

    def run(self, like: Path | None) -> Rescued:
        image, new = self._image, self._new
        things = self._schema(like)
        pages.mark_free(image)
        new.execute("BEGIN")
        virtual = [it for it in things if it.kind == "table" and it.root == 0]
        texts = [it for it in virtual if _is_built_from_its_texts(it.sql) and self._make(it)]
        ours = {str(row[0]) for row in new.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        tables = [it for it in things if it.kind == "table" and it.root > 0]
        for thing in sorted(tables, key=lambda it: it.name == "sqlite_sequence"):  # which others bring with them
            shadow = thing.name in ours
            if shadow and not thing.name.endswith(("_content", "_config")):
                self._pass_by(thing)  # an index of its text, which is built again from the text
                continue
            if thing.name.startswith("sqlite_") and thing.name != "sqlite_sequence":
                self._pass_by(thing)
                continue
            own = shadow or thing.name == "sqlite_sequence"
            if self._is_there(thing) if own else self._make(thing):
                self._tables[thing.name] = self._table(thing, own=own)
        for thing in things:
            if thing.kind == "index" and thing.sql.upper().split()[:2] == ["CREATE", "UNIQUE"]:
                self._make(thing)
        for table in self._tables.values():
            self._copy(table)
        self._stray_leaves()
        for kind in ("index", "view", "trigger"):
            for thing in things:
                if thing.kind == kind and thing.sql.upper().split()[:2] != ["CREATE", "UNIQUE"]:
                    self._make(thing)
        self._rebuild(texts)
        self._keep([it for it in virtual if it not in texts])
        if self._rows.pop(POSITION, None) is not None:  # there is none where nobody projected
            new.execute(f"DELETE FROM {POSITION}")
        new.execute("COMMIT")
        new.execute(f"PRAGMA user_version={image.number(60)}")
        new.execute(f"PRAGMA application_id={_signed(image.number(68))}")
        gaps = [gap for found in self._gaps.values() for gap in found]
        return Rescued(self._rows, pages.count_gaps(gaps), image.lost + self._refused, tuple(self._notes))

    def _schema(self, like: Path | None) -> list[_Thing]:
        """The schema as it stands in the file, and what of it only the older copy has, if pages of it are lost."""
        gaps: list[Gap] = []
        found = list(_things(row for _, row in pages.rows(self._image, 1, gaps)))
        if (gaps or self._image.lost or not found) and like is not None:
            with closing(sqlite.open_unchanging(like)) as older:
                rows = older.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema").fetchall()
            known = {it.name for it in found}
            found += [it for it in _things(list(row) for row in rows) if it.name not in known]
        if gaps:
            self._gaps["the schema"] = gaps
        if not found:
            raise StoreError("its schema cannot be read, and no good copy has one")
        return found

    def _make(self, thing: _Thing) -> bool:
        if not thing.sql:
            return False
        try:
            self._new.execute(thing.sql)
        except sqlite3.Error as error:
            if sqlite.fault_of(error) in sqlite.DISK_FAULTS:
                raise
            self._notes.append(f"{thing.kind} {thing.name} could not be made: {sqlite.describe(error)}")
            return False
        return True

    def _is_there(self, thing: _Thing) -> bool:
        found = self._new.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (thing.name,)).fetchone()
        return found is not None

    def _table(self, thing: _Thing, *, own: bool) -> _Table:
        columns = self._new.execute(
            "SELECT name, type, pk, hidden FROM pragma_table_xinfo(?) WHERE hidden <> 2 ORDER BY cid", (thing.name,)
        ).fetchall()
        stored = tuple("" if hidden else str(name) for name, _, _, hidden in columns)
        key = self._new.execute("SELECT name FROM pragma_index_list(?) WHERE origin = 'pk'", (thing.name,)).fetchone()
        keyed = self._new.execute("SELECT wr FROM pragma_table_list(?)", (thing.name,)).fetchone() == (1,)
        if keyed and key is not None:
            order = self._new.execute("SELECT name FROM pragma_index_xinfo(?) ORDER BY seqno", key).fetchall()
            return _Table(thing, tuple(str(row[0]) for row in order), "", "", True, own)
        keys = [(str(name), str(kind)) for name, kind, pk, _ in columns if pk]
        alias = keys[0][0] if len(keys) == 1 and keys[0][1].upper() == "INTEGER" and key is None else ""
        names = {name.lower() for name in stored}
        rowid = "" if alias else next((name for name in _ROWID_NAMES if name not in names), "")
        return _Table(thing, stored, alias, rowid, False, own)

    def _pass_by(self, thing: _Thing) -> None:
        """Its pages are accounted for, so that nobody takes them for another's; its rows do not come over."""
        walk = pages.keyed if pages.is_keyed(self._image, thing.root) else pages.rows
        for _ in walk(self._image, thing.root, self._gaps.setdefault(thing.name, [])):
            pass

    def _copy(self, table: _Table) -> None:
        gaps = self._gaps.setdefault(table.thing.name, [])
        if table.own:
            self._new.execute(f"DELETE FROM {_quoted(table.thing.name)}")  # what a new one begins with
        found: Iterator[tuple[int, list[Value]]]
        if table.keyed:
            found = ((0, record) for record in pages.keyed(self._image, table.thing.root, gaps))
        else:
            found = pages.rows(self._image, table.thing.root, gaps)
        self._put(table, found)

    def _put(self, table: _Table, found: Iterable[tuple[int, list[Value]]]) -> None:
        """Inserts them; what the table's own rules refuse (half a row, one that is there already) is counted."""
        name = table.thing.name
        seen = put = 0
        unique = table.keyed or bool(table.alias or table.rowid)

        def counted() -> Iterator[tuple[int, list[Value]]]:
            nonlocal seen
            for seen, one in enumerate(found, 1):
                if seen % _BATCH == 0:
                    self._told(len(self._image.seen), self._image.count)
                yield one

        for fields, many in groupby(counted(), lambda one: len(one[1])):
            if fields <= len(table.stored):
                statement, row_of = _insert(table, fields)
                rows = starmap(row_of, many)
                while batch := list(islice(rows, _BATCH)):
                    put += self._insert_all(statement, batch, unique=unique)
        self._refused += seen - put
        if not table.own:
            self._rows[name] = self._rows.get(name, 0) + put

    def _insert_all(self, statement: str, rows: list[list[Value]], *, unique: bool) -> int:
        """How many were taken. One that OR IGNORE does not ignore (of a STRICT table, say) must not cost the others.

        The copy has no journal, so there is no going back: what went in before such a row is ignored the second time,
        since each row has a key (`unique`).
        """
        before = self._new.total_changes
        if unique:
            with contextlib.suppress(sqlite3.IntegrityError, sqlite3.DataError):
                return self._new.executemany(statement, rows).rowcount
        for row in rows:
            with contextlib.suppress(sqlite3.IntegrityError, sqlite3.DataError):
                self._new.execute(statement, row)
        return self._new.total_changes - before

    def _stray_leaves(self) -> None:
        """Leaves under an interior page that is gone: they belong to the one table that misses just these rowids."""
        missing = [(self._tables.get(name), gaps) for name, gaps in self._gaps.items() if gaps]
        if not any(table for table, _ in missing):
            return
        untold = 0
        for n, found in pages.strays(self._image):
            ids = [rowid for rowid, _ in found]
            fields = max(len(record) for _, record in found)
            fits = [
                table
                for table, gaps in missing
                if (table is None or (not table.keyed and fields <= len(table.stored)))
                and any(gap.after < min(ids) and max(ids) <= gap.up_to for gap in gaps)
            ]
            if len(fits) == 1 and fits[0] is not None:
                self._image.seen.add(n)
                self._put(fits[0], found)
            elif any(fits):
                untold += len(found)
        if untold:
            self._notes.append(f"{untold} rows could be of more than one table, and were left behind")

    def _rebuild(self, texts: list[_Thing]) -> None:
        for thing in texts:
            name = _quoted(thing.name)
            try:
                self._new.execute(f"INSERT INTO {name} ({name}) VALUES ('rebuild')")
            except sqlite3.Error as error:
                if sqlite.fault_of(error) in sqlite.DISK_FAULTS:
                    raise
                self._notes.append(f"the text index {thing.name} could not be built: {sqlite.describe(error)}")

    def _keep(self, virtual: list[_Thing]) -> None:
        """The declarations as they stand, without asking a module that may not be here, or would begin it anew."""
        for thing in virtual:
            if self._is_there(thing):
                continue  # told twice, by a page that is in two places
            try:
                with closing(sqlite3.connect(":memory:", isolation_level=None)) as trial:
                    _declare(thing, trial)
                    trial.execute("PRAGMA writable_schema=RESET")  # it is read, as whoever opens it will
                    trial.execute("SELECT 1 FROM sqlite_schema").fetchall()
            except sqlite3.Error as error:
                self._notes.append(f"table {thing.name} could not be kept: {sqlite.describe(error)}")
                continue
            _declare(thing, self._new)
            lost = [name for name, gaps in self._gaps.items() if gaps and name.startswith(f"{thing.name}_")]
            if lost:
                self._notes.append(f"{thing.name} is no longer whole: pages of {', '.join(lost)} are lost")


def _is_built_from_its_texts(sql: str) -> bool:
    return _TEXT_INDEX.search(sql) is not None and _CONTENTLESS.search(sql) is None


def _declare(thing: _Thing, connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA writable_schema=ON")
    put = "INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql) VALUES ('table', ?, ?, 0, ?)"
    connection.execute(put, (thing.name, thing.name, thing.sql))


def _vacuum(image: Image) -> str:
    """Its auto_vacuum, by the header."""
    return _VACUUMS[0 if not image.number(52) else 2 if image.number(64) else 1]


def _things(rows: Iterable[list[Value]]) -> Iterator[_Thing]:
    for row in rows:
        if len(row) != 5:
            continue
        kind, name, _, root, sql = row
        if isinstance(kind, str) and isinstance(name, str) and isinstance(sql, str | None):
            yield _Thing(kind, name, root if isinstance(root, int) else 0, sql or "")


def _insert(table: _Table, fields: int) -> tuple[str, Callable[[int, list[Value]], list[Value]]]:
    """The statement for records of so many fields, and what makes its values of such a record."""
    stored = table.stored[:fields]
    columns = [name for name in stored if name] + ([table.rowid] if table.rowid else [])
    names = ", ".join(_quoted(name) for name in columns)
    marks = ", ".join("?" * len(columns))
    alias = columns.index(table.alias) if table.alias and table.alias in stored else -1

    def row_of(rowid: int, record: list[Value]) -> list[Value]:
        row = [value for value, column in zip(record, stored, strict=True) if column]
        if alias >= 0:
            row[alias] = rowid
        if table.rowid:
            row.append(rowid)
        return row

    return f"INSERT OR IGNORE INTO {_quoted(table.thing.name)} ({names}) VALUES ({marks})", row_of


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _signed(number: int) -> int:
    return number - 2**32 if number >= 2**31 else number
