"""A `.gz` in the making: one gzip member for each MiB of the log, after an empty one that says what this archive is.

Every reader of gzip takes the members for one stream (RFC 1952). A disk that fills up in the middle costs the last
member only: what stands is whole up to a known place in the log. Nothing here reads a log or removes anything.
"""

from __future__ import annotations

import os
import struct
import zlib

import msgspec
from isal import isal_zlib

MEMBER_BYTES = 1024**2  # of the log: much more than gzip's window of 32 KiB, little enough to be held in memory
LEVEL = 2
_WHOLE_GZIP = 31  # zlib's word for "with gzip's header and trailer"
_FLAGS = 0x04 | 0x08  # FEXTRA, FNAME
_MARK = b"HC"
_FORM = struct.Struct("<QQqqqqIIQ")
_NAME_AT = 16  # of the record, in the file
_EMPTY = b"\x03\x00" + struct.pack("<II", 0, 0)  # no data: deflate's shortest, CRC and length of nothing


class Record(msgspec.Struct, frozen=True):
    """Of which log this is [start, end); `whole`: all that it had, and it is gone from its place."""

    device: int
    inode: int
    start: int
    end: int
    size: int
    mtime_ns: int
    crc: int
    whole: bool
    run: int  # the run of rotate-logs that made it
    name: bytes = b""


class NoArchive(ValueError):
    """The file is no archive of ours."""


class Writer:
    """Into an open, empty file. `taken` is how much of the log stands in it, whole."""

    def __init__(self, fd: int, record: Record) -> None:
        self.taken = 0
        self.crc = 0
        self._fd = fd
        self._record = record
        self.bytes = 0
        self._put(_header(record))

    def add(self, chunk: bytes) -> None:
        """Raises OSError; the file then ends with the member before."""
        self._put(isal_zlib.compress(chunk, LEVEL, _WHOLE_GZIP))
        self.crc = isal_zlib.crc32(chunk, self.crc)
        self.taken += len(chunk)

    def close(self, record: Record) -> None:
        """Writes down what it has become, and makes it durable."""
        header = _header(record)
        assert len(header) == len(_header(self._record))
        os.pwrite(self._fd, header, 0)
        os.fsync(self._fd)

    def _put(self, data: bytes) -> None:
        view, at = memoryview(data), self.bytes
        try:
            while view:
                done = os.pwrite(self._fd, view, at)
                view, at = view[done:], at + done
        except OSError:
            os.ftruncate(self._fd, self.bytes)
            raise
        self.bytes = at


def _header(record: Record) -> bytes:
    said = _FORM.pack(
        record.device,
        record.inode,
        record.start,
        record.end,
        record.size,
        record.mtime_ns,
        record.crc,
        int(record.whole),
        record.run,
    )
    extra = _MARK + struct.pack("<H", len(said)) + said
    mtime_s = min(max(record.mtime_ns // 10**9, 0), 2**32 - 1)
    fixed = struct.pack("<BBBBIBBH", 0x1F, 0x8B, 8, _FLAGS, mtime_s, 0, 3, len(extra))
    return fixed + extra + record.name + b"\0" + _EMPTY


def read_record(fd: int) -> Record:
    """Raises NoArchive, OSError."""
    head = os.pread(fd, 12 + 4 + _FORM.size + 256, 0)
    if len(head) < 16 + _FORM.size or head[:2] != b"\x1f\x8b" or head[3] != _FLAGS or head[12:14] != _MARK:
        raise NoArchive("its head is not one of ours")
    device, inode, start, end, size, mtime_ns, crc, whole, run = _FORM.unpack_from(head, _NAME_AT)
    name = head[16 + _FORM.size :].partition(b"\0")[0]
    return Record(device, inode, start, end, size, mtime_ns, crc, bool(whole), run, name)


def crc_of(fd: int, start: int, end: int) -> int | None:
    """Of that part of a file; None when it is shorter."""
    crc, at = 0, start
    while at < end:
        chunk = os.pread(fd, min(MEMBER_BYTES, end - at), at)
        if not chunk:
            return None
        crc, at = isal_zlib.crc32(chunk, crc), at + len(chunk)
    return crc


def share_left(sample: bytes) -> float:
    """What compressing leaves of it, as a share."""
    return min(1.0, len(isal_zlib.compress(sample, LEVEL)) / len(sample)) if sample else 0.0


def unpack(fd: int, out: int, at: int) -> int:
    """Writes what the archive holds into `out` from `at` on; how many bytes. Raises zlib.error, OSError."""
    began, position = at, 0
    stream = isal_zlib.decompressobj(_WHOLE_GZIP)
    while chunk := os.pread(fd, MEMBER_BYTES, position):
        position += len(chunk)
        while chunk:
            data = stream.decompress(chunk)
            at += _write(out, data, at)
            chunk = stream.unused_data if stream.eof else b""
            if stream.eof:
                stream = isal_zlib.decompressobj(_WHOLE_GZIP)
    if position == 0:
        raise zlib.error("it is empty")
    return at - began


def _write(fd: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done
    return len(data)
