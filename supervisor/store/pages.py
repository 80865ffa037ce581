"""Reads rows out of a database file page by page, without SQLite, wherever the pages themselves are whole.

After https://www.sqlite.org/fileformat2.html. What SQLite gives up at the first bad page, this walks around: a bad leaf
costs its own rows; under a bad interior page the leaves are found again by the rowids that must be missing there.
Pure but for the file, which is only read. It never guesses: a cell that does not fit its record's own lengths is lost.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

MAGIC = b"SQLite format 3\0"
HEADER_BYTES = 100
INDEX_INTERIOR, TABLE_INTERIOR, INDEX_LEAF, TABLE_LEAF = 2, 5, 10, 13
DEPTH_MAX = 40
ROWID_MIN, ROWID_MAX = -(2**63), 2**63 - 1
_ENCODINGS = {2: "utf-16-le", 3: "utf-16-be"}
_NUMBER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8}

Value = None | int | float | str | bytes
Row = tuple[int, list[Value]]


class Bad(Exception):
    """What stands there cannot be what it should be."""


class Gap(msgspec.Struct, frozen=True):
    """Rows that must be missing: those with `after` < rowid <= `up_to`, because of page `page`."""

    page: int
    after: int
    up_to: int


class Image:
    """A database file, read only. `seen`: pages that are accounted for; `lost`: cells that were no records."""

    def __init__(self, path: Path, page_size: int) -> None:
        with path.open("rb") as file:
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.page_size = page_size
        self.count = len(self._bytes) // page_size
        self.usable = page_size - self._bytes[20]
        self.encoding = _ENCODINGS.get(self.number(56), "utf-8")
        self.seen: set[int] = set()
        self.lost = 0

    def close(self) -> None:
        self._bytes.close()

    def number(self, at: int) -> int:
        """A number of the header."""
        return int.from_bytes(self._bytes[at : at + 4], "big")

    def page(self, n: int) -> bytes:
        if not 1 <= n <= self.count:
            raise Bad(f"there is no page {n}")
        return self._bytes[(n - 1) * self.page_size : n * self.page_size]

    def take(self, n: int) -> bytes:
        """The page, which belongs to one place only."""
        page = self.page(n)
        if n in self.seen:
            raise Bad(f"page {n} is in use elsewhere")
        self.seen.add(n)
        return page


def page_size_of(header: bytes) -> int:
    """Raises Bad for what is no header."""
    size = int.from_bytes(header[16:18], "big")
    size = 65536 if size == 1 else size
    if not header.startswith(MAGIC) or size < 512 or size & (size - 1):
        raise Bad("its header is destroyed")
    return size


def rows(image: Image, root: int, gaps: list[Gap]) -> Iterator[Row]:
    """The rows of a table in order of their rowids; what must be missing is added to `gaps`."""
    stack = [(root, ROWID_MIN, ROWID_MAX, 0)]
    while stack:
        n, after, up_to, depth = stack.pop()
        try:
            page = image.take(n)
            start = HEADER_BYTES if n == 1 else 0
            if page[start] == TABLE_LEAF:
                yield from _leaf(image, page, start)
                continue
            if page[start] != TABLE_INTERIOR or depth > DEPTH_MAX:
                raise Bad(f"page {n} is no page of a table")
            children = _children(image, page, start)
        except Bad:
            gaps.append(Gap(n, after, up_to))
            continue
        lower = after
        below = []
        for child, key in children:
            upper = up_to if key is None else key
            below.append((child, lower, upper, depth + 1))
            lower = upper
        stack.extend(reversed(below))


def keyed(image: Image, root: int, gaps: list[Gap]) -> Iterator[list[Value]]:
    """The records of a WITHOUT ROWID table (or an index), in the order in which they are stored."""
    stack = [(root, 0)]
    while stack:
        n, depth = stack.pop()
        try:
            page = image.take(n)
            start = HEADER_BYTES if n == 1 else 0
            kind = page[start]
            if kind not in (INDEX_INTERIOR, INDEX_LEAF) or depth > DEPTH_MAX:
                raise Bad(f"page {n} is no page of an index")
            interior = kind == INDEX_INTERIOR
            cells = _cells(image, page, start)
        except Bad:
            gaps.append(Gap(n, ROWID_MIN, ROWID_MAX))
            continue
        for at in cells:
            try:
                yield _record(image, page, at + 4 if interior else at, of_table=False)[1]
            except Bad:
                image.lost += 1
        if interior:
            stack += [(int.from_bytes(page[at : at + 4], "big"), depth + 1) for at in cells]
            stack.append((int.from_bytes(page[start + 8 : start + 12], "big"), depth + 1))


def is_keyed(image: Image, root: int) -> bool:
    """Is what begins there stored like an index, as far as its root can tell?"""
    return 1 < root <= image.count and image.page(root)[0] in (INDEX_INTERIOR, INDEX_LEAF)


def strays(image: Image) -> Iterator[tuple[int, list[Row]]]:
    """Leaves that no walk has come to and that are not free: (page, its rows), only those that are whole."""
    for n in range(2, image.count + 1):
        if n in image.seen:
            continue
        page = image.page(n)
        if page[0] != TABLE_LEAF:
            continue
        before, lost = set(image.seen), image.lost
        try:
            found = list(_leaf(image, page, 0))
        except Bad:  # no leaf, though its first byte says so
            continue
        if found and image.lost == lost:
            yield n, found
        else:
            image.seen, image.lost = before, lost


def mark_free(image: Image) -> None:
    """The pages of the free list: what stands on them was deleted, and must not come back."""
    trunk = image.number(32)
    while trunk:
        try:
            page = image.take(trunk)
        except Bad:
            return
        count = min(int.from_bytes(page[4:8], "big"), image.usable // 4 - 2)
        image.seen.update(struct.unpack(f">{count}I", page[8 : 8 + 4 * count]))
        trunk = int.from_bytes(page[:4], "big")


# --- one page --------------------------------------------------------------------------------------------------------


def _cells(image: Image, page: bytes, start: int) -> list[int]:
    """Where the cells of a page begin."""
    count = int.from_bytes(page[start + 3 : start + 5], "big")
    first = start + (12 if page[start] in (INDEX_INTERIOR, TABLE_INTERIOR) else 8)
    end = first + 2 * count
    if end > image.usable:
        raise Bad("more cells than fit")
    found = list(struct.unpack(f">{count}H", page[first:end]))
    if found and not end <= min(found) <= max(found) < image.usable - 3:
        raise Bad("a cell lies outside of its page")
    return found


def _children(image: Image, page: bytes, start: int) -> list[tuple[int, int | None]]:
    """The pages below, each with the greatest rowid that it may have; None for the last."""
    found: list[tuple[int, int | None]] = []
    last = ROWID_MIN
    for at in _cells(image, page, start):
        key, _ = _varint(page, at + 4)
        if key < last:
            raise Bad("its keys are not in order")
        last = key
        found.append((int.from_bytes(page[at : at + 4], "big"), key))
    return [*found, (int.from_bytes(page[start + 8 : start + 12], "big"), None)]


def _leaf(image: Image, page: bytes, start: int) -> Iterator[Row]:
    for at in _cells(image, page, start):
        try:
            yield _record(image, page, at, of_table=True)
        except Bad:
            image.lost += 1


def _varint(page: bytes, at: int) -> tuple[int, int]:
    if at < len(page) and page[at] < 0x80:  # nearly all are one byte
        return page[at], at + 1
    value = 0
    for n, byte in enumerate(page[at : at + 9], 1):
        if n == 9:
            value = (value << 8) | byte
            return (value - 2**64 if value >= 2**63 else value), at + n
        value = (value << 7) | (byte & 0x7F)
        if byte < 0x80:
            return value, at + n
    raise Bad("cut off")


def _record(image: Image, page: bytes, at: int, *, of_table: bool) -> Row:
    length, at = _varint(page, at)
    rowid = 0
    if of_table:
        rowid, at = _varint(page, at)
    if not 1 <= length <= image.count * image.page_size:
        raise Bad("a record of no possible length")
    usable = image.usable
    most = usable - 35 if of_table else (usable - 12) * 64 // 255 - 23
    least = (usable - 12) * 32 // 255 - 23
    if length <= most:
        end = at + length
        if end > usable:
            raise Bad("a record that leaves its page")
        return rowid, values(page[at:end], image.encoding)
    local = least + (length - least) % (usable - 4)
    local = local if local <= most else least
    if at + local + 4 > usable:
        raise Bad("a record that leaves its page")
    payload = bytearray(page[at : at + local])
    following = int.from_bytes(page[at + local : at + local + 4], "big")
    taken = []
    while len(payload) < length:
        more = image.page(following)
        if following in image.seen or following in taken:
            raise Bad("a page of a long record is in use elsewhere")
        taken.append(following)
        payload += more[4 : 4 + min(usable - 4, length - len(payload))]
        following = int.from_bytes(more[:4], "big")
    found = values(bytes(payload), image.encoding)
    image.seen.update(taken)
    return rowid, found


def values(payload: bytes, encoding: str) -> list[Value]:
    """A record's values. Raises Bad when its lengths do not add up."""
    head, at = _varint(payload, 0)
    if not at <= head <= len(payload):
        raise Bad("a record's head is longer than the record")
    kinds = []
    while at < head:
        kind, at = (payload[at], at + 1) if payload[at] < 0x80 else _varint(payload, at)
        kinds.append(kind)
    if at != head:
        raise Bad("a record's head does not end where it says")
    found: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, kind, at, encoding)
        found.append(value)
    if at != len(payload):
        raise Bad("a record's values do not fill it")
    return found


def _value(payload: bytes, kind: int, at: int, encoding: str) -> tuple[Value, int]:
    if kind in (0, 8, 9):
        return (None if kind == 0 else kind - 8), at
    if kind in (10, 11) or kind < 0:
        raise Bad("a value of no kind")
    end = at + ((kind - 12) // 2 if kind >= 12 else _NUMBER_BYTES[kind])
    if end > len(payload):
        raise Bad("a value that leaves its record")
    raw = payload[at:end]
    if kind >= 12:
        return (raw if kind % 2 == 0 else raw.decode(encoding, "replace")), end
    if kind == 7:
        return float(struct.unpack(">d", raw)[0]), end
    return int.from_bytes(raw, "big", signed=True), end


def count_gaps(gaps: list[Gap]) -> int:
    """How many pages could not be read."""
    return len({gap.page for gap in gaps})
