"""The program that rotates, on real file systems: nothing lost, twice or outside, whatever happens to it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

import msgspec
import pytest

from remediators.log_choice import LogsJob
from remediators.rotating import Job, Report
from tests.lab import mounts
from tests.lab.logs import DAY_S, MIB, archives, everything, leftovers, line, text, unpacked, write, writing

KILLS = 40
POINTS = ("member", "written", "pending", "taken", "freed", "after")
ARGV = (sys.executable, "-P", "-m", "remediators.rotating")
# The same program, which says when it begins: starting an interpreter takes what it takes.
BEGINS = "import remediators.rotating, sys; print(flush=True); sys.exit(remediators.rotating.main())"


@pytest.fixture(autouse=True)
def spare(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of our own that stands in where a disk is full; in the environment only for `job` below."""
    path = tmp_path_factory.mktemp("spare")
    monkeypatch.setenv("TEST_SPARE", str(path))
    return path


def job(*patterns: str, max_bytes: int = 100 * MIB, spare: Path | None = None, within_s: float = 100.0) -> str:
    logs = LogsJob("app", tuple(patterns), 7 * DAY_S, max_bytes)
    return msgspec.json.encode(Job((logs,), 7, within_s, str(spare or os.environ["TEST_SPARE"]))).decode()


def rotate(said: str, **how: object) -> Report:
    done = subprocess.run([*ARGV, said], capture_output=True, check=False, timeout=100, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, done.stderr.decode()
    return msgspec.json.decode(done.stdout, type=Report)


def crashed(said: str, point: str, token: Path) -> bool:
    """Runs it with its death at this point; whether it came there."""
    token.touch()
    env = {**os.environ, "HEALCTL_TEST_CRASH": f"rotate:rotate.{point}:{token}"}
    done = subprocess.run([*ARGV, said], capture_output=True, check=False, timeout=100, env=env)
    assert done.returncode in (0, -9), done.stderr.decode()
    token.unlink(missing_ok=True)
    return done.returncode == -9


@pytest.mark.req("FR-003", "R13")
def test_what_is_old_moves_to_the_archive_as_it_was_and_nothing_else_does(tmp_path: Path) -> None:
    content = text(3 * MIB + 17)
    write(tmp_path / "old.log", content, days_old=8)
    os.chmod(tmp_path / "old.log", 0o604)
    before = (tmp_path / "old.log").stat()
    write(tmp_path / "young.log", content, days_old=6)
    write(tmp_path / "old.log.2.gz", b"\x1f\x8bwhatever", days_old=90)
    write(tmp_path / "empty.log", b"", days_old=90)
    write(tmp_path / "wtmp", content, days_old=90)
    write(tmp_path / "state.log", b"SQLite format 3\0" + content, days_old=90)
    write(tmp_path / "system.journal", content, days_old=90)
    for name in ("000123.log", "00000000000000000000.log", "1234567.log"):
        write(tmp_path / name, content, days_old=90)
    os.link(tmp_path / "young.log", tmp_path / "second-name.log")
    os.utime(tmp_path / "young.log", (0, 0))
    report = rotate(job(f"{tmp_path}/*"))
    assert report.files == 1
    assert report.whole
    (archive,) = archives(tmp_path)
    assert archive.name == "old.log.gz"
    assert unpacked(archive) == content
    after = archive.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert after.st_mtime_ns == before.st_mtime_ns
    left = {".archive", "young.log", "second-name.log", "old.log.2.gz", "empty.log", "wtmp", "state.log"}
    left |= {"system.journal", "000123.log", "00000000000000000000.log", "1234567.log"}
    assert {path.name for path in tmp_path.iterdir()} == left
    assert "it has a second name" in report.said
    assert report.freed_bytes > 2 * MIB
    assert rotate(job(f"{tmp_path}/*")).files == 0, "a second run finds nothing to do"
    write(tmp_path / "old.log", content, days_old=8)
    assert rotate(job(f"{tmp_path}/*")).files == 1
    assert len(archives(tmp_path)) == 2, "the second archive of a name gets one of its own"


@pytest.mark.req("FR-003", "R13")
@pytest.mark.parametrize("mark", ["CURRENT", "MANIFEST-000007"])
def test_what_lies_in_a_database_s_folder_is_its_own(tmp_path: Path, mark: str) -> None:
    for name in ("database/1.log", "database/2.log", "logs/1.log"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, text(2 * MIB), days_old=8)
    write(tmp_path / "database" / mark, b"MANIFEST-000007")
    report = rotate(job(f"{tmp_path}/*/*.log", max_bytes=MIB))
    assert report.archives == (f"{tmp_path}/logs/.archive/1.log.gz",)
    assert f"{tmp_path}/database/1.log is not rotated by healctl: its folder is a database's" in report.said
    assert {path.name for path in (tmp_path / "database").iterdir()} == {"1.log", "2.log", mark}


@pytest.mark.req("FR-003", "R13")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
@pytest.mark.parametrize("mode", ["append", "offset"])
def test_not_a_line_of_a_hard_writer_is_lost(tmp_path: Path, kind: str, mode: str) -> None:
    make = mounts.tmpfs(tmp_path / "disk", "size=600m") if kind == "tmpfs" else mounts.ext4(tmp_path / "disk", "600M")
    with make as disk:
        log = disk / "app.log"
        with writing(log, mode) as writer:
            taken = 0
            for _ in range(4):
                _grow(log, 4 * MIB)
                taken += rotate(job(f"{disk}/*.log", max_bytes=2 * MIB)).files
            count = writer.stop()
        assert taken >= 3
        assert leftovers(disk) == []
        kept = everything(disk, log)
        assert len(kept) == count * len(line(0))
        assert kept == b"".join(line(number) for number in range(count))
        if mode == "append" and kind == "ext4":
            assert not log.read_bytes().startswith(b"\0"), "what was archived is taken out at the head"


def _grow(log: Path, count: int) -> None:
    """Until it takes so much room."""
    waiting = threading.Event()
    while log.stat().st_blocks * 512 < count:
        waiting.wait(0.01)


@pytest.mark.req("FR-003")
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("how", ["old", "grown"])
def test_killed_at_each_point_and_again_nothing_is_lost_or_twice(tmp_path: Path, point: str, how: str) -> None:
    """The content repeats itself, so that no checksum alone could tell what has been archived already."""
    folder = tmp_path / "logs"
    folder.mkdir()
    log = folder / "app.log"
    content = b"y" * 63 + b"\n"
    write(log, content * (5 * MIB // 64), days_old=8 if how == "old" else 0)
    said = job(f"{folder}/*.log", max_bytes=MIB)
    came = crashed(said, point, tmp_path / "token")
    assert came == (point != "taken" or how == "old")
    crashed(said, point, tmp_path / "token")
    report = rotate(said)
    assert leftovers(folder) == [], report.said
    assert everything(folder, log) == content * (5 * MIB // 64)
    assert log.exists() == (how == "grown")
    assert len(archives(folder)) == 1


@pytest.mark.req("FR-003")
def test_killed_again_and_again_at_any_moment_of_its_work_beside_a_writer(tmp_path: Path) -> None:
    log = tmp_path / "app.log"
    for number in range(20):
        write(tmp_path / f"other{number}.log", text(MIB // 4, number), days_old=8)
    said = job(f"{tmp_path}/*.log", max_bytes=MIB // 2)
    killed = 0
    with writing(log, "steady") as writer:
        for number in range(KILLS):
            with Popen([sys.executable, "-P", "-c", BEGINS, said], stdout=PIPE) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"\n"
                with contextlib.suppress(TimeoutExpired):
                    child.wait(0.003 * number)
                killed += child.poll() is None
                child.kill()
        count = writer.stop()
    assert killed >= KILLS / 4
    rotate(said)
    assert leftovers(tmp_path) == []
    names = [path for path in archives(tmp_path) if path.name.startswith("app.log")]
    kept = b"".join(unpacked(path) for path in names) + log.read_bytes().lstrip(b"\0")
    assert kept == b"".join(line(at) for at in range(count))
    for number in range(20):
        assert unpacked(tmp_path / ".archive" / f"other{number}.log.gz") == text(MIB // 4, number)
        assert not (tmp_path / f"other{number}.log").exists()


@pytest.mark.req("FR-003")
@pytest.mark.parametrize("ours", ["on another disk", "on the same disk"])
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_on_a_disk_without_a_single_free_block(tmp_path: Path, spare: Path, kind: str, ours: str) -> None:
    """As nobody in particular: root would still have ext4's reserved blocks, so here there are none."""
    point = tmp_path / "disk"
    make = mounts.tmpfs(point, "size=40m") if kind == "tmpfs" else mounts.ext4(point, "48M", "-m", "0")
    with make as disk:
        logs = disk / "logs"
        logs.mkdir()
        if ours == "on the same disk":
            spare = disk / "state"
            rotate(job(f"{logs}/*.log", spare=spare))  # the run before, when there was room
        contents = {f"{size}.log": text(size * MIB // 2, size) for size in range(1, 9)}
        for name, content in contents.items():
            write(logs / name, content, days_old=8)
        fill_up(disk)
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize < 4096
        report = rotate(job(f"{logs}/*.log", spare=spare))
        assert [path.name for path in logs.iterdir()] == [".archive"], report.said
        assert leftovers(logs) == []
        for name, content in contents.items():
            mine = [path for path in archives(logs) if path.name.startswith(f"{name}.")]
            assert b"".join(unpacked(path) for path in mine) == content
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize > 8 * MIB
        assert [path.name for path in spare.iterdir()] == ["reserve"], "nothing is left in our own folder"


def fill_up(disk: Path) -> None:
    """To the last block."""
    with (disk / "fill").open("ab", buffering=0) as file:
        for size in (MIB, 4096):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


HOSTILE = (
    b"-rf", b"--", b"a b", b"new\nline", b"quo'te\"s", b"$(touch owned)", b"`touch owned`", b";touch owned;",
    b"\xff\xfe\x80", b"a" * 255, b"\xc3\xa9" * 127, b"|touch owned", b"tab\there", b"..log", b"*", b"[x]", b"\\",
    b"~", b"%s%n", b"\x1b[2J",
)  # fmt: skip


@pytest.mark.req("FR-003", "NFR-001", "R11")
def test_names_of_any_bytes_are_names_and_nothing_else(tmp_path: Path) -> None:
    inside = os.fsencode(tmp_path / "logs")
    os.mkdir(inside)
    content = text(20_000)
    for name in HOSTILE:
        write(os.path.join(inside, name), content, days_old=8)
    report = rotate(job(f"{tmp_path}/logs/*"), cwd=tmp_path)
    left = [name for name in os.listdir(inside) if name != b".archive"]
    assert left == [b"..log"], "a name with a dot in front is not meant by *"
    assert report.files == len(HOSTILE) - 1
    assert [unpacked(path) == content for path in archives(tmp_path / "logs")] == [True] * (len(HOSTILE) - 1)
    assert os.listdir(tmp_path) == ["logs"], "nothing was started"
    assert report.said.isprintable()


@pytest.mark.req("FR-003", "NFR-001")
def test_a_folder_swapped_for_a_link_thousands_of_times_leads_nowhere(tmp_path: Path) -> None:
    """An attacker exchanges the folder of the logs for a link to a victim's, as fast as it can."""
    victim, logs, spare = tmp_path / "victim", tmp_path / "site" / "logs", tmp_path / "spare"
    for folder in (victim, logs):
        folder.mkdir(parents=True)
    for number in range(KILLS):
        write(victim / f"{number}.log", b"precious\n" * 200, days_old=90)
    before = {path.name: path.stat() for path in victim.iterdir()}
    over = threading.Event()
    swaps = 0

    def attack() -> None:
        nonlocal swaps
        while not over.is_set():
            os.rename(logs, spare)
            os.symlink(victim, logs)
            os.unlink(logs)
            os.rename(spare, logs)
            swaps += 1

    inside = os.open(logs, os.O_RDONLY | os.O_DIRECTORY)
    for number in range(KILLS):
        write(Path(f"/proc/self/fd/{inside}/{number}.log"), text(5_000), days_old=8)
    attacker = threading.Thread(target=attack)
    attacker.start()
    rounds = 0
    try:
        while rounds < 10 or swaps <= 2_000:  # a busy machine swaps slower: as many rounds as it takes
            assert attacker.is_alive(), "the folder could not be swapped any more"
            for pattern in ("*/*.log", "logs/*.log", "**/*.log"):
                rotate(job(f"{tmp_path}/site/{pattern}"))
            rounds += 1
    finally:
        over.set()
        attacker.join()
        os.close(inside)
    assert {name: (s.st_ino, s.st_size) for name, s in before.items()} == {
        path.name: (path.stat().st_ino, path.stat().st_size) for path in victim.iterdir()
    }
