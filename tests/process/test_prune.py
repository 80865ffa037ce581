"""The program that removes old files: in the configured places only, and there only what nobody can miss (FR-003)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest

from remediators.pruning import Job, Report, Walk, What
from tests.lab import mounts
from tests.process.test_rotate import HOSTILE

ARGV = (sys.executable, "-P", "-m", "remediators.pruning")
AGE_S = 0.2  # `ctime` cannot be set back: in these tests that is old


def job(place: Path, what: What = What.TMP, *, keep: tuple[str, ...] = (), older_than_s: float = AGE_S) -> Job:
    return Job(what, (str(place),), keep, older_than_s, 60.0)


def prune(said: Job, **how: object) -> Report:
    argv = (*ARGV, msgspec.json.encode(said).decode())
    done = subprocess.run(argv, capture_output=True, check=False, timeout=100, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Report)


def aged(*paths: Path) -> None:
    """Until the files are as old as is old here: the kernel's own time of change is what counts."""
    for path in paths:
        while time.time() - path.lstat().st_ctime <= AGE_S:
            threading.Event().wait(0.01)


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> object:
    point = tmp_path / "disk"
    make = mounts.tmpfs(point, "size=8m,mode=755") if request.param == "tmpfs" else mounts.ext4(point, "16M")
    with make as made:
        yield made


@pytest.mark.req("FR-003", "NFR-001")
def test_only_old_files_that_nobody_has_open_go(disk: Path) -> None:
    place, outside = disk / "tmp", disk / "outside"
    (place / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    goes = [place / "x.tmp", place / "a" / "y", place / "a" / "b" / "z"]
    stays = [place / "service.pid", place / "lock", place / "x.lock", outside / "precious", place / "kept-stop"]
    for path in (*goes, *stays, place / "opened"):
        path.write_bytes(b"x" * 5000)
    (place / "link").symlink_to(outside)
    (place / "file-link").symlink_to(outside / "precious")
    os.link(outside / "precious", place / "second-name")
    os.mkfifo(place / "fifo")
    with socket.socket(socket.AF_UNIX) as bound, (place / "opened").open("rb"):
        bound.bind(str(place / "listening"))
        aged(*goes, *stays)
        said = job(place, keep=(str(place / "kept-stop"),))
        dry = Walk(said, act=False).run()
        assert all(path.exists() for path in goes), "a plan changes nothing"
        report = prune(said)
    assert (dry.files, dry.freed_bytes) == (report.files, report.freed_bytes)
    assert report.files == 3
    assert not any(path.exists() for path in goes)
    assert all(path.exists() for path in stays)
    left = {"service.pid", "lock", "x.lock", "kept-stop", "opened", "link", "file-link", "second-name", "fifo", "a"}
    assert {path.name for path in place.iterdir()} == left | {"listening"}
    assert (place / "a" / "b").is_dir(), "no folder goes"
    (place / "young").touch()
    assert prune(job(place, older_than_s=3600)).files == 0


@pytest.mark.req("FR-003")
def test_of_pycache_folders_the_compiled_files_go_and_the_empty_folder(disk: Path) -> None:
    for name in (
        "p/__pycache__/m.cpython-311.pyc",
        "p/m.pyc",
        "p/m.py",
        "q/__pycache__/m.pyc",
        "q/__pycache__/note.txt",
    ):
        (disk / name).parent.mkdir(parents=True, exist_ok=True)
        (disk / name).write_bytes(b"x")
        aged(disk / name)
    assert prune(job(disk, What.PYCACHE)).files == 2
    left = sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if "lost+found" not in path.parts)
    assert left == ["p", "p/m.py", "p/m.pyc", "q", "q/__pycache__", "q/__pycache__/note.txt"]


@pytest.mark.req("FR-003", "NFR-001")
def test_it_stays_on_its_file_system_and_out_of_what_everybody_may_exchange(tmp_path: Path) -> None:
    place = tmp_path / "place"
    with mounts.tmpfs(place / "below", "size=1m") as below:
        (below / "other").touch()
        aged(below / "other")
        assert prune(job(place)).files == 0
    (place / "old").touch()
    aged(place / "old")
    place.chmod(0o777)
    report = prune(job(place))
    assert (report.files, report.troubles) == (0, 1)
    place.chmod(0o1777)
    assert prune(job(place)).files == 1


@pytest.mark.req("FR-003", "NFR-001")
def test_what_is_bound_into_a_place_from_the_same_file_system_is_not_of_that_place(tmp_path: Path) -> None:
    place, home = tmp_path / "place", tmp_path / "home"
    (place / "chroot" / "home").mkdir(parents=True)
    home.mkdir()
    (home / "letter").touch()
    (place / "old").touch()
    aged(home / "letter", place / "old")
    with mounts.bound(home, place / "chroot" / "home"):
        assert prune(job(place)).files == 1
    assert (home / "letter").exists()
    assert not (place / "old").exists()


@pytest.mark.req("FR-003", "NFR-001", "R11")
def test_names_of_any_bytes_are_only_names(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    for name in HOSTILE:
        Path(os.fsdecode(os.path.join(os.fsencode(place), name))).write_bytes(b"x")
    aged(*place.iterdir())
    report = prune(job(place), cwd=tmp_path)
    assert report.files == len(HOSTILE)
    assert os.listdir(tmp_path) == ["place"]
    assert all(name.isprintable() for name in report.names)


@pytest.mark.req("FR-003")
def test_another_user_removes_only_what_is_its_own() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    with tempfile.TemporaryDirectory(prefix="hc") as folder:
        place = Path(folder)
        place.chmod(0o1777)
        for name, owner in (("mine", 65534), ("roots", 0)):
            (place / name).touch()
            os.chown(place / name, owner, owner)
            aged(place / name)
        child = os.fork()
        if child == 0:  # no exec: the other user may not be allowed to read our modules
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            os._exit(Walk(job(place), act=True).run().files)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        assert [path.name for path in place.iterdir()] == ["roots"]


@pytest.mark.req("FR-003", "NFR-001")
def test_folders_swapped_for_links_thousands_of_times_lead_nowhere(tmp_path: Path) -> None:
    place, victim = tmp_path / "place", tmp_path / "victim"
    place.mkdir()
    victim.mkdir()
    names = [f"{number}" for number in range(30)]
    for name in names:
        (victim / name).write_bytes(b"precious")
    over, swaps = threading.Event(), 0

    def attack() -> None:
        nonlocal swaps
        while not over.is_set():
            (place / "d").mkdir()
            os.rename(place / "d", tmp_path / "aside")
            os.symlink(victim, place / "d")
            os.unlink(place / "d")
            os.rename(tmp_path / "aside", place / "d")
            os.rmdir(place / "d")
            swaps += 1

    aged(*victim.iterdir())
    attacker = threading.Thread(target=attack)
    attacker.start()
    try:
        while swaps < 2_000:
            Walk(job(place), act=True).run()
    finally:
        over.set()
        attacker.join()
    assert sorted(path.name for path in victim.iterdir()) == sorted(names)
