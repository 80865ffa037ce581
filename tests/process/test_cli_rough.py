"""The command line in rough conditions: one clear sentence and the right exit code, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.cli.main import COMMANDS
from tests.acceptance.conftest import here as here
from tests.lab.daemon import HEALCTL, Site

WORDS = {
    "db": ["db", "status"],
    "capture": ["capture", "hook", "bash"],
    "mcp": ["mcp", "--help"],
    "heal": ["heal", "status"],
    "ack": ["ack", "inc_1"],
    "events": ["events"],
    "feed": ["feed", "--help"],
    "probe": ["probe", "web"],
    "start": ["start", "--help"],
    "stop": ["stop", "--help"],
    "demo": ["demo", "--help"],
    "tui": ["tui", "--help"],
    "page": ["page", "--help"],
    "replay": ["replay", "--help"],
    "reload": ["reload"],
}


def told(*words: str | bytes, stdout: int | None = subprocess.PIPE) -> tuple[int, str]:
    done = subprocess.run([str(HEALCTL), *words], stdout=stdout, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                          timeout=60, check=False)  # fmt: skip
    text = done.stderr.decode(errors="replace") + (done.stdout or b"").decode(errors="replace")
    assert "Traceback" not in text, text
    return done.returncode, text


@pytest.mark.req("FR-007")
def test_a_full_disk_behind_the_output_is_one_sentence(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    with open("/dev/full", "wb") as full:
        for name in COMMANDS:
            words = WORDS.get(name, [name])
            code, text = told("-c", str(daemon.config_file), *words, stdout=full.fileno())
            assert code == 1, (words, code, text)
            assert "No space left on device" in text, words
    daemon.stop()


@pytest.mark.parametrize(("words", "code"), [
    ([b"-c", b"/nowhere/\xff.toml", b"check"], 78),
    ([b"heal", b"status", b"\xff"], 2),
    ([b"\xff"], 2),
])  # fmt: skip
def test_arguments_that_are_no_text(words: list[bytes], code: int) -> None:
    assert told(*words)[0] == code


def test_a_login_without_a_runtime_directory_is_no_warning(tmp_path: Path) -> None:
    """`su` and cron leave none: a line from inside a library, before every answer, would tell nobody anything."""
    script = "import os, sys; os.geteuid = lambda: 65534; from supervisor import places; places.dirs('', '')"
    env = {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert done.stderr == ""


@pytest.mark.req("FR-007")
def test_an_id_that_is_no_text_reaches_nobody(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    code, text = told("-c", str(daemon.config_file), "heal", "approve", b"rb\xff")
    assert code == 2
    assert "not UTF-8" in text
    daemon.stop()


def test_a_program_argument_with_a_nul_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "n.toml"
    file.write_text('[process.a]\nmatch = "x"\nauto_restart = true\nrestart = { argv = ["/bin/a\\u0000b"] }\n')
    code, text = told("-c", str(file), "check")
    assert code == 78
    assert "NUL" in text


@pytest.mark.parametrize("kind", ["fifo", "directory", "link", "binary"])
def test_what_is_no_lock_file_is_named(here: Site, kind: str) -> None:
    daemon = here.daemon("")
    daemon.runtime_dir.mkdir(mode=0o700)
    path = daemon.runtime_dir / "healctl.lock"
    match kind:
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(here.folder / "elsewhere")
        case "binary":
            path.write_bytes(os.urandom(4096))
    assert told("-c", str(daemon.config_file), "stop")[0] == 3
    if kind == "binary":  # a file like any other: it is ours as soon as the lock is
        daemon.start()
        daemon.stop()
        return
    code, text = told("-c", str(daemon.config_file), "start")
    assert code == 1
    assert str(path) in text


@pytest.mark.req("FR-007")
def test_closed_streams_are_no_traceback_and_no_database_takes_their_place(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    for closed in ("<&- >&-", "2>&-", "<&- >&- 2>&-"):
        script = f'"$@" {closed}; echo "$? done" >&9'
        read, write = os.pipe()
        words = ["bash", "-c", f"exec 9>&{write}; {script}", "-", str(HEALCTL), "-c", str(daemon.config_file), "status"]
        done = subprocess.run(words, pass_fds=[write], capture_output=True, timeout=60, check=False)
        os.close(write)
        with os.fdopen(read) as said:
            assert said.read() == "0 done\n", (closed, done.stderr)
        assert b"Traceback" not in done.stderr
    daemon.stop()
    script = '"$@" <&- >&- 2>&-'
    start = ["bash", "-c", script, "-", str(HEALCTL), "start", "--detach", "-c", str(daemon.config_file)]
    assert subprocess.run(start, timeout=60, check=False).returncode == 0
    assert told("-c", str(daemon.config_file), "status")[0] == 0
    assert told("-c", str(daemon.config_file), "stop")[0] == 0
