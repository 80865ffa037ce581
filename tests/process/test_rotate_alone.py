"""A rotation that is not alone: beside another one, beside writers that it cannot see, and with a log that changes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remediators.archive_dir import PART, Folder
from remediators.rotate_file import Log, Rotation
from remediators.rotate_spare import HOME
from remediators.safe_dir import Unsafe
from tests.lab import mounts
from tests.lab.logs import MIB, archives, everything, leftovers, text, unpacked, write
from tests.process.test_rotate import ARGV, fill_up, job, rotate

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

    def exchange(_: int) -> None:
        part.unlink()
        part.write_bytes(b"half of another")

    with Folder(str(tmp_path), (str(tmp_path),)) as folder:
        folder.open_archive(make=True)
        with Log(folder, "app.log") as log, pytest.raises(Unsafe, match="exchanged for another"):
            Rotation(folder, 7, exchange).part(log, 0)
    assert (tmp_path / "app.log").read_bytes() == content
    assert part.read_bytes() == b"half of another", "nor removed"
    assert archives(tmp_path) == []


@pytest.mark.req("FR-003")
@pytest.mark.parametrize("size", [2 * MIB, 5 * MIB])
@pytest.mark.parametrize("new_size", [MIB, 9 * MIB])
def test_a_log_that_was_cut_off_and_written_anew_while_it_was_read_is_left_alone(
    tmp_path: Path, size: int, new_size: int
) -> None:
    """As `logrotate` does with copytruncate: by its size alone it looks as if it had grown."""
    log, old, new = tmp_path / "app.log", text(size, 1), text(new_size, 2)
    write(log, old)
    part = tmp_path / ".archive" / f".app.log.gz{PART}"

    def cut_off(_: int) -> None:
        if log.stat().st_size == size and part.stat().st_size > MIB // 20:  # the first member stands in it
            write(log, new)

    with Folder(str(tmp_path), (str(tmp_path),)) as folder:
        folder.open_archive(make=True)
        with Log(folder, "app.log") as held, pytest.raises(Unsafe, match="cut off while it was"):
            Rotation(folder, 7, cut_off).part(held, 0)
    assert log.read_bytes() == new
    assert leftovers(tmp_path) == []
    assert all(unpacked(path)[:MIB] == old[:MIB] for path in archives(tmp_path)), "and what was read is kept"
    assert bool(archives(tmp_path)) == (new_size >= size), "where all of it could be read"


UNPRIVILEGED = ("setpriv", "--bounding-set", "-lease,-sys_ptrace", "--")
OTHER_UID = 65_534


@contextlib.contextmanager
def open_in_another_s_process(path: Path) -> Iterator[None]:
    """It has the file open for writing, and belongs to a user into whose processes root needs a capability to look."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv")
    with path.open("ab") as file:
        process = subprocess.Popen(["sleep", "600"], stdout=file, user=OTHER_UID)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.req("FR-003")
def test_a_log_stays_in_its_place_where_nobody_can_say_whether_it_is_written(tmp_path: Path) -> None:
    log, content = tmp_path / "app.log", text(MIB)
    write(log, content, days_old=8)
    os.chown(log, OTHER_UID, -1)
    before = log.stat().st_ino
    with open_in_another_s_process(log):
        done = subprocess.run(
            [*UNPRIVILEGED, *ARGV, job(f"{tmp_path}/*.log", spare=tmp_path / "spare")], capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert log.exists(), "its writer would write into what is gone"
        assert log.stat().st_ino == before
    assert len(archives(tmp_path)) == 1, "what stands in it is archived all the same"
    assert everything(tmp_path, log) == content


@pytest.mark.req("FR-003")
def test_where_there_are_no_leases_a_process_that_cannot_be_looked_at_may_be_a_writer(tmp_path: Path) -> None:
    """A pipe has none, as little as a file on some file systems."""
    said = "import os; from remediators import holes\nwith holes.unwritten(os.pipe()[0]): pass"
    look = (sys.executable, "-P", "-c", said)
    unlisted = 'mount -t proc -o hidepid=2,gid=65533 proc /proc && exec "$@"'
    with open_in_another_s_process(tmp_path / "other"):
        seen = _said("unshare", "--fork", "--pid", "--mount-proc", *look)
        unseen = _said(*UNPRIVILEGED, *look)
        hidden = _said("unshare", "--mount", "sh", "-c", unlisted, "sh", *UNPRIVILEGED, *look)
    assert seen == b"", "alone in its world it sees everybody"
    assert b"HasWriter" in unseen
    assert b"HasWriter" in hidden


def _said(*argv: str) -> bytes:
    return subprocess.run(argv, capture_output=True, check=False, timeout=60).stderr
