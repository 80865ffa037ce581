"""The command line in rough conditions: one clear sentence and the right exit code, never a traceback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from supervisor.cli import client
from supervisor.cli.main import COMMANDS
from tests.acceptance.conftest import here as here
from tests.lab import mounts
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


def told(
    *words: str | bytes,
    stdout: int | None = subprocess.PIPE,
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    done = subprocess.run([*prefix, str(HEALCTL), *words], stdout=stdout, stderr=subprocess.PIPE, timeout=60,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})}, check=False)  # fmt: skip
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


def lines_of_start(config: Path) -> tuple[int, list[dict[str, Any]]]:
    """(exit code, what `start` has said): every line of it is JSON where stderr is a pipe."""
    done = subprocess.run([str(HEALCTL), "start", "-c", str(config)], capture_output=True, timeout=60, check=False)
    assert done.stdout == b""
    return done.returncode, [msgspec.json.decode(line) for line in done.stderr.splitlines()]


@pytest.mark.req("NFR-002")
def test_a_refusal_to_start_is_a_line_of_the_log_like_any_other(here: Site) -> None:
    daemon = here.daemon("")
    config = daemon.config_file
    config.write_text(config.read_text().replace('log_format = "text"\n', ""))
    bad = here.folder / "bad.toml"
    bad.write_text("[healctl]\nnope = 1\n")
    code, rows = lines_of_start(bad)
    assert (code, [(it["level"], it["worker"]) for it in rows]) == (78, [("error", "root")])
    assert "unknown key\n  [healctl] may hold: state_dir" in rows[0]["message"], "the next step belongs to it"

    daemon.state_dir.mkdir(mode=0o700)
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "ledger.db")) as other:
        other.execute("CREATE TABLE mine (x)")
    code, rows = lines_of_start(config)
    assert code == 78
    assert any("database of another program" in it["message"] for it in rows)
    (daemon.state_dir / "ledger.db").unlink()

    daemon.start()
    code, rows = lines_of_start(config)
    assert (code, len(rows), rows[0]["level"]) == (1, 1, "error")
    assert "already running" in rows[0]["message"]
    plain = config.with_name("plain.toml")
    plain.write_text(config.read_text().replace("[healctl]\n", '[healctl]\nlog_format = "text"\n'))
    for words in (["start", "--detach", "-c", str(config)], ["start", "-c", str(plain)]):
        code, text = told(*words)
        assert code == 1
        assert text.startswith("healctl: healctl is already running in "), "for people"
    ours, theirs = os.openpty()
    done = subprocess.run([str(HEALCTL), "start", "-c", str(config)], stderr=theirs, timeout=60, check=False)
    os.close(theirs)
    assert (done.returncode, os.read(ours, 4096)[:35]) == (1, b"healctl: healctl is already running")
    os.close(ours)
    daemon.stop()


def everything(folder: Path) -> dict[str, bytes | None]:
    """Each name below `folder` with what is in it."""
    return {str(it.relative_to(folder)): it.read_bytes() if it.is_file() else None for it in folder.rglob("*")}


@pytest.mark.req("NFR-002", "FR-007")
@pytest.mark.parametrize("trouble", ["No space left on device", "Permission denied"])
def test_where_nothing_can_be_written_it_is_one_sentence_and_all_stays(here: Site, trouble: str) -> None:
    daemon = here.daemon("")
    with mounts.tmpfs(here.folder / "disk", "size=256k") as disk:
        env = {"XDG_CONFIG_HOME": f"{disk}/config", "XDG_DATA_HOME": f"{disk}/data", "XDG_RUNTIME_DIR": f"{disk}/none"}
        (disk / "mine.toml").write_text("# mine\n")
        prefix: list[str] = []
        if trouble == "Permission denied":  # to root, too, once it may not pass over permissions
            disk.chmod(0o500)
            prefix = ["setpriv", "--bounding-set", "-dac_override"]
        else:
            with (disk / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
                while fill.write(bytes(1024)):
                    pass
        before = everything(disk)
        install = ["install", "--user", "--no-enable", "-c", str(daemon.config_file)]
        own, new = str(disk / "mine.toml"), str(disk / "new.toml")
        for words in (install, ["init", "-c", own, "--force"], ["init", "-c", new]):
            code, text = told(*words, prefix=prefix, env=env)
            assert (code, trouble in text, "nothing was changed" in text) == (1, True, True), (words, text)
            assert everything(disk) == before, words

        config = here.folder / "there.toml"
        for key in ("state_dir", "runtime_dir"):
            places = {"state_dir": here.folder / "s", "runtime_dir": here.folder / "r", key: disk / key}
            config.write_text("[healctl]\n" + "".join(f'{name} = "{path}"\n' for name, path in places.items()))
            for words in (["start", "-c", str(config)], ["start", "--detach", "-c", str(config)]):
                code, text = told(*words, prefix=prefix)
                assert code in {1, 78}, (words, text)
                assert re.search(rf"{disk}/{key}\b.*{trouble}", text), text
                assert "[healctl]" in text, "the next step"


@pytest.mark.req("FR-007")
def test_of_a_daemon_that_is_held_it_is_said_how_to_let_it_go_on(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-Z in the terminal of `healctl start` holds it and all its workers: nobody is left who would restart them."""
    daemon = here.daemon("")
    daemon.start()
    root = daemon.process
    assert root is not None
    held = [root.pid, daemon.workers()["healer"].pid]
    for pid in held:
        os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(client, "DEADLINE_S", 1.0)
    with pytest.raises(client.NoAnswer) as refused, client.Control(daemon.runtime_dir) as control:
        control.ask("execute", {}, deadline_s=10_000.0)
    assert f"pid {root.pid}) is held" in refused.value.message
    for words in (["stop", "--timeout", "100ms"], ["reload", "--timeout", "100ms"], ["status"]):
        code, text = told("-c", str(daemon.config_file), *words)
        assert code == 1, words
        assert f"kill -CONT {root.pid}" in text, text
    for pid in reversed(held):
        os.kill(pid, signal.SIGCONT)
    assert root.wait(30) == 0, "what it was told meanwhile it does then"


@pytest.mark.req("FR-007")
def test_no_more_descriptors_are_one_sentence(here: Site) -> None:
    daemon = here.daemon("")
    daemon.start()
    code, text = told("-c", str(daemon.config_file), "heal", "status", prefix=["prlimit", "--nofile=8"])
    assert code == 1
    assert "Too many open files" in text
    daemon.stop()


def test_json_is_utf_8_whatever_the_locale_is() -> None:
    argv = [str(HEALCTL), "-c", "/nowhere/\u00fc.toml", "check", "--json"]
    done = subprocess.run(argv, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert done.returncode == 78
    assert "/nowhere/\u00fc.toml" in msgspec.json.decode(done.stdout)["error"]
