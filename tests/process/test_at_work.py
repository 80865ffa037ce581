"""Our own long programs: they tell how far they are, stop where nothing is half done, and never past their bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from remediators.log_choice import LogsJob
from remediators.rotating import Job
from supervisor import at_work, backups, proc
from supervisor.store.backup import Report
from tests.lab.daemon import until
from tests.lab.databases import overwrite_page
from tests.lab.logs import MIB, archives, leftovers, text, unpacked, write
from tests.process.restorelab import NAME, ROOT, Site


def stopped(argv: list[str], me: str, point: str, token: Path) -> subprocess.Popen[bytes]:
    """The program, stopped at `point` (SIGSTOP)."""
    token.touch()
    env = {**os.environ, "HEALCTL_TEST_CRASH": f"{me}:{point}:{token}:stop"}
    program = subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def there() -> bool:
        found = proc.stat(program.pid)
        assert program.poll() is None, program.communicate()
        return found is not None and found.state == "T"

    until(f"{me} at {point}", there)
    return program


def asked(program: subprocess.Popen[bytes]) -> tuple[int, bytes]:
    """It is asked to stop while it stands still, and goes on."""
    program.send_signal(signal.SIGTERM)
    program.send_signal(signal.SIGCONT)
    out, _ = program.communicate(timeout=60)
    return program.returncode, out


def store_program(site: Site, module: str, *words: str) -> list[str]:
    argv = [sys.executable, "-m", f"supervisor.store.{module}", "--source", site.live, "--folder", site.copies]
    return [*map(str, argv), "--name", NAME, *words]


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.req("R10", "R15")
@pytest.mark.parametrize(
    ("module", "words", "point"),
    [
        ("backup", (), "backup.page"),
        ("backup", (), "backup.copied"),
        ("backup", ("--raw",), "raw.file"),
        ("restore", (), "restore.kept"),
        ("restore", (), "restore.chosen"),
    ],
)
def test_a_copy_or_restore_that_is_asked_to_stop_leaves_everything_as_it_was(
    tmp_path: Path, module: str, words: tuple[str, ...], point: str
) -> None:
    site = Site(tmp_path, 2_500)
    assert site.run("backup")[0] == 0
    before, live = everything(site.copies), site.live.read_bytes()
    code, out = asked(stopped(store_program(site, module, *words), module, point, tmp_path / "token"))
    report = msgspec.json.decode(out, type=Report)
    assert (code, report.ok) == (1, False)
    assert "stopped before it had changed anything" in report.said
    assert everything(site.copies) == before, "nothing new, and nothing half done"
    assert site.live.read_bytes() == live
    assert site.run(module)[0] == 0, "and it can be ordered again"


@pytest.mark.req("R10", "R15")
def test_a_restore_that_writes_already_goes_on_to_its_end_and_says_so(tmp_path: Path) -> None:
    site = Site(tmp_path, 2_500)
    assert site.run("backup")[0] == 0
    overwrite_page(site.live)
    program = stopped(store_program(site, "restore"), "restore", "restore.page", tmp_path / "token")
    told = backups.progress(site.copies)
    assert told is not None
    assert (told.stage, told.final) == ("restore", True)
    code, out = asked(program)
    assert (code, msgspec.json.decode(out, type=Report).ok) == (0, True)
    assert backups.progress(site.copies) is None


LONG = """
import sqlite3, sys
from supervisor import at_work
at_work.heed()
db = sqlite3.connect(":memory:")
print("begun", flush=True)
try:
    with at_work.interruptible(db):
        db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n").fetchone()
except at_work.Stopped as error:
    print(error)
"""


@pytest.mark.req("R15")
def test_a_statement_that_would_never_end_is_interrupted() -> None:
    program = subprocess.Popen([sys.executable, "-c", LONG], cwd=ROOT, stdout=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stdout.readline() == b"begun\n"
    program.send_signal(signal.SIGTERM)
    out, _ = program.communicate(timeout=60)
    assert (program.returncode, out) == (0, b"it was stopped before it had changed anything\n")


@pytest.mark.req("FR-003", "R13", "R15")
@pytest.mark.parametrize("days_old", [0.0, 8.0])
def test_a_rotation_that_is_asked_to_stop_leaves_the_present_log_as_it_was(tmp_path: Path, days_old: float) -> None:
    logs, told = tmp_path / "logs", tmp_path / "told"
    logs.mkdir()
    small, large = text(MIB // 2, 1), text(6 * MIB, 2)
    write(logs / "a.log", small, days_old=8)
    write(logs / "b.log", large, days_old)
    wanted = LogsJob("app", (f"{logs}/*.log",), 7 * 86400.0, MIB)
    job = msgspec.json.encode(Job((wanted,), 7, 60.0, str(tmp_path / "spare"), progress=str(told))).decode()
    program = stopped([sys.executable, "-m", "remediators.rotating", job], "rotate", "rotate.after", tmp_path / "token")
    code, out = asked(program)  # the first log is archived, the second not begun
    report = msgspec.json.decode(out)
    assert (code, report["stopped"], report["files"], report["whole"]) == (0, True, 1, True)
    assert "1 of 2 logs archived" in report["said"]
    assert "it was stopped, the rest is as it was" in report["said"]
    assert (logs / "b.log").read_bytes() == large
    assert [unpacked(path) for path in archives(logs)] == [small]
    assert leftovers(logs) == []
    assert not told.exists()


@pytest.mark.req("FR-003")
def test_how_far_a_program_is_is_written_twice_a_second_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(at_work, "monotonic_s", lambda: now_s[0])
    teller, seen = at_work.Teller(tmp_path / "told"), []
    for done in range(1, 1001):  # a thousand pages in two seconds
        now_s[0] += 0.002
        teller.tell("copy", done, 1000, "pages")
        told = at_work.read(tmp_path / "told")
        assert told is not None
        if told.done not in seen:
            seen.append(told.done)
    assert len(seen) <= 2 / at_work.TELL_S + 2
    assert seen[-1] == 1000, "its end is told whenever it comes"
    teller.over()
    assert everything(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"pid": "x"}'])
def test_what_is_no_progress_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "told").write_bytes(content)
    assert at_work.read(tmp_path / "told") is None
