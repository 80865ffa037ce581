"""PNG in few colours, small enough to be kept (W3C PNG, third edition): without a library, so that none is needed.

Reads what a browser's screenshot is (8 bits a channel, not interlaced), writes one byte a pixel.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MAGIC = b"\x89PNG\r\n\x1a\n"
COLOURS = 32  # what a terminal's few and their blends at the edges of letters need
SOURCE = b"Source"  # the keyword of our one textual chunk
_CHANNELS = {2: 3, 6: 4}  # colour type: red, green, blue; with alpha

Pixels = list[list[bytes]]


def chunks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    """(type, data) of each, as far as their checksums hold."""
    raw = path.read_bytes()
    assert raw.startswith(MAGIC), path
    at = len(MAGIC)
    while at < len(raw):
        (length,) = struct.unpack_from(">I", raw, at)
        kind, data = raw[at + 4 : at + 8], raw[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", raw, at + 8 + length) == (zlib.crc32(kind + data),), path
        yield kind, data
        at += 12 + length


def source(path: Path) -> str:
    """Of what it is a picture, as `write` was told."""
    texts = [data.partition(b"\0") for kind, data in chunks(path) if kind == b"tEXt"]
    return next((text.decode() for keyword, _, text in texts if keyword == SOURCE), "")


def read(path: Path) -> Pixels:
    """Rows of red, green, blue."""
    parts = list(chunks(path))
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", parts[0][1])
    assert (depth, interlaced) == (8, 0), path
    step = _CHANNELS[colour]
    raw = zlib.decompress(b"".join(data for kind, data in parts if kind == b"IDAT"))
    line, rows = bytes(width * step), []
    for y in range(height):
        at = y * (width * step + 1)
        line = _unfiltered(raw[at], bytearray(raw[at + 1 : at + 1 + width * step]), line, step)
        rows.append([line[i : i + 3] for i in range(0, width * step, step)])
    return rows


def _unfiltered(kind: int, line: bytearray, above: bytes, step: int) -> bytes:
    """One row; §9.2 numbers the filters: none, sub, up, average, Paeth."""
    for i in range(len(line)) if kind else ():
        left, corner = (line[i - step], above[i - step]) if i >= step else (0, 0)
        up = above[i]
        match kind:
            case 1:
                guess = left
            case 2:
                guess = up
            case 3:
                guess = (left + up) >> 1
            case _:
                guess = min((left, up, corner), key=lambda it, at=left + up - corner: abs(at - it))  # type: ignore[misc]
        line[i] = (line[i] + guess) & 0xFF
    return bytes(line)


def write(path: Path, rows: Pixels, of: str) -> None:
    """In COLOURS, any other as the nearest of these; `of` is what `source` gives."""
    palette, number = _palette(Counter(pixel for row in rows for pixel in row))
    raw = b"".join(b"\0" + bytes(number[pixel] for pixel in row) for row in rows)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 3, 0, 0, 0)),
        (b"PLTE", b"".join(palette)),
        (b"tEXt", SOURCE + b"\0" + of.encode()),
        (b"IDAT", zlib.compress(raw, 9)),
        (b"IEND", b""),
    )
    path.write_bytes(MAGIC + b"".join(_chunk(kind, data) for kind, data in parts))


def _palette(counts: Counter[bytes]) -> tuple[list[bytes], dict[bytes, int]]:
    """The most frequent, then each time what is worst served so far; and for each colour the number of its nearest."""
    first = max(counts, key=lambda it: (counts[it], it))
    palette, number = [first], dict.fromkeys(counts, 0)
    far = {it: _distance(it, first) for it in counts}
    while len(palette) < COLOURS and (worst := max(counts, key=lambda it: (counts[it] * far[it], it))) not in palette:
        palette.append(worst)
        for it in counts:
            if (there := _distance(it, worst)) < far[it]:
                far[it], number[it] = there, len(palette) - 1
    return palette, number


def _distance(one: bytes, other: bytes) -> int:
    return sum((a - b) ** 2 for a, b in zip(one, other, strict=True))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
