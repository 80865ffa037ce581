"""Two rotations at once, and a log that changes under one: what they share, and what neither may take for its own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remediators.archive_dir import PART, Folder
from remediators.rotate_file import Log, Rotation
from remediators.rotate_spare import HOME
from remediators.safe_dir import Unsafe
from tests.lab import mounts
from tests.lab.logs import MIB, archives, text, write
from tests.process.test_rotate import fill_up, job, rotate

BUSY = "another rotation is at work there"


@contextlib.contextmanager
def at_work_in(folder: Path) -> Iterator[None]:
    """As another rotation would be."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


@pytest.mark.req("FR-003")
def test_what_another_one_makes_in_the_spare_folder_is_not_swept_settled_or_brought_home(tmp_path: Path) -> None:
    logs, spare = tmp_path / "logs", tmp_path / "spare"
    place = spare / "0123456789abcdef"
    for folder in (logs, place):
        folder.mkdir(parents=True)
    (place / HOME).write_bytes(os.fsencode(logs))
    half = place / f".app.log.gz{PART}"
    half.write_bytes(b"half of it")
    write(logs / "old.log", text(MIB), days_old=8)
    with at_work_in(spare):
        report = rotate(job(f"{logs}/*.log", spare=spare))
    assert half.read_bytes() == b"half of it"
    assert f"{spare}: {BUSY}" in report.said
    assert report.files == 1, "what needs no spare folder goes on"
    rotate(job(f"{logs}/*.log", spare=spare))
    assert not place.exists(), "once the other one has ended it is looked after"


@pytest.mark.req("FR-003")
@pytest.mark.parametrize("where", ["spare", "logs"])
def test_a_full_disk_s_log_is_not_archived_elsewhere_beside_another_rotation(tmp_path: Path, where: str) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    with mounts.tmpfs(tmp_path / "disk", "size=8m") as disk:
        logs = disk / "logs"
        logs.mkdir()
        content = text(2 * MIB)
        write(logs / "app.log", content, days_old=8)
        fill_up(disk)
        with at_work_in(spare if where == "spare" else logs):
            report = rotate(job(f"{logs}/*.log", spare=spare))
        assert report.files == 0
        assert BUSY in report.said
        assert (logs / "app.log").read_bytes() == content
        assert list(spare.glob("*/*.gz")) == []
        assert rotate(job(f"{logs}/*.log", spare=spare)).files, "and once it is alone, it is"


@pytest.mark.req("FR-003")
def test_an_archive_that_another_one_exchanged_is_never_taken_for_the_whole(tmp_path: Path) -> None:
    content = text(3 * MIB)
    write(tmp_path / "app.log", content)
    part = tmp_path / ".archive" / f".app.log.gz{PART}"

    def exchange() -> None:
        part.unlink()
        part.write_bytes(b"half of another")

    with Folder(str(tmp_path), (str(tmp_path),)) as folder:
        folder.open_archive(make=True)
        with Log(folder, "app.log") as log, pytest.raises(Unsafe, match="exchanged for another"):
            Rotation(folder, 7, exchange).part(log, 0)
    assert (tmp_path / "app.log").read_bytes() == content
    assert part.read_bytes() == b"half of another", "nor removed"
    assert archives(tmp_path) == []
