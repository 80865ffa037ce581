"""`python -m remediators.unrotating JOB`: puts back the logs that one run archived as a whole (R15), all or none.

Every log is unpacked and made durable beside its place first; then each gets its name back, if nobody has taken it;
only then the archives go. Whatever fails before that leaves the archives as they are, and the folders as they were.
"""

from __future__ import annotations

import contextlib
import os
import sys
import zlib
from urllib.parse import unquote_to_bytes

import msgspec

from remediators import gzip_members, safe_dir
from remediators.archive_dir import PART, Folder
from remediators.gzip_members import NoArchive, Record
from remediators.rotate_file import same_owner
from remediators.safe_dir import Unsafe


class Undo(msgspec.Struct, frozen=True):
    """`folders` are percent-encoded, as `rotating.Report` has them."""

    run: int
    folders: tuple[str, ...]


class Job(msgspec.Struct, frozen=True):
    undo: Undo
    paths: tuple[str, ...]  # the configured patterns


class Report(msgspec.Struct, frozen=True):
    said: str
    files: int = 0


class _Archive(msgspec.Struct, frozen=True):
    folder: Folder
    name: str
    record: Record

    @property
    def log(self) -> str:
        return os.fsdecode(self.record.name)

    @property
    def part(self) -> str:
        return f".{self.name}{PART}"


def put_back(job: Job) -> Report:
    """Raises Unsafe, OSError, zlib.error: then everything is as it was."""
    written = safe_dir.written_folders(job.paths)
    with contextlib.ExitStack() as stack:
        archives: list[_Archive] = []
        for path in job.undo.folders:
            folder = stack.enter_context(Folder(os.fsdecode(unquote_to_bytes(path)), written))
            if folder.open_archive(make=False):
                archives += _of_run(folder, job.undo.run)
        if not archives:
            raise Unsafe("its archives are not there any more")
        try:
            for archive in archives:
                _unpack(archive)
            _name(archives)
        finally:
            for archive in archives:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(archive.part, dir_fd=archive.folder.archive_fd)
        for archive in archives:
            os.unlink(archive.name, dir_fd=archive.folder.archive_fd)
        return Report(f"{len(archives)} logs stand in their places again", len(archives))


def _of_run(folder: Folder, run: int) -> list[_Archive]:
    found = []
    for name in sorted(os.listdir(folder.archive_fd)):
        if name.startswith(".") or not name.endswith(".gz"):
            continue
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder.archive_fd)
        try:
            record = gzip_members.read_record(fd)
        except NoArchive:
            continue
        finally:
            os.close(fd)
        if record.run == run:
            found.append(_Archive(folder, name, record))
    return found


def _unpack(archive: _Archive) -> None:
    """Beside it, complete and durable. What did not go as a whole cannot be put back."""
    record, folder = archive.record, archive.folder
    if not record.whole:
        raise Unsafe(f"{archive.name} holds a part of a log that goes on")
    if archive.log in os.listdir(folder.fd):
        raise Unsafe("another log stands in its place already")
    source = os.open(archive.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder.archive_fd)
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        out = os.open(archive.part, flags, 0o600, dir_fd=folder.archive_fd)
        try:
            length = gzip_members.unpack(source, out, record.start)
            os.ftruncate(out, record.size)
            if length != record.end - record.start or gzip_members.crc_of(out, record.start, record.end) != record.crc:
                raise Unsafe(f"{archive.name} is damaged")
            same_owner(out, os.fstat(source))
            os.fsync(out)
        finally:
            os.close(out)
    finally:
        os.close(source)


def _name(archives: list[_Archive]) -> None:
    """Each gets its name; if one cannot, none keeps it."""
    done: list[_Archive] = []
    try:
        for archive in archives:
            folder = archive.folder
            safe_dir.rename_if_free(folder.archive_fd, archive.part, folder.fd, archive.log)
            done.append(archive)
            os.fsync(folder.fd)
    except OSError:
        for archive in done:
            os.rename(archive.log, archive.part, src_dir_fd=archive.folder.fd, dst_dir_fd=archive.folder.archive_fd)
        raise


def main() -> int:
    os.umask(0o077)
    try:
        report = put_back(msgspec.json.decode(sys.argv[1], type=Job))
    except (Unsafe, OSError, zlib.error) as error:
        report = Report(f"nothing was put back: {error}")
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
