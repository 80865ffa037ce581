"""The log's three forms (NFR-002: everything written down): for people, JSON lines, journald."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import msgspec
import pytest

from supervisor.errors import ConfigError
from supervisor.tree.lines import fitting, line
from supervisor.units import LogFormat
from tests.lab.daemon import HEALCTL

AT_WALL_S = 1_770_000_000.5
NASTY = 'supervisor.newsdesk: incident=inc_0123456789ab web is detected (healer): "\x1b[2J"\nsecond'


@pytest.mark.req("NFR-002")
def test_json_has_the_incident_as_a_field_of_its_own_and_is_one_line_whatever_is_said() -> None:
    raw = line(LogFormat.JSON, "info", "healer", NASTY, AT_WALL_S)
    assert raw.count("\n") == 1
    assert raw.isascii() or "\x1b" not in raw
    assert msgspec.json.decode(raw) == {
        "time": "2026-02-02T02:40:00.500Z",
        "level": "info",
        "worker": "healer",
        "incident": "inc_0123456789ab",
        "message": 'supervisor.newsdesk: web is detected (healer): "\x1b[2J"\nsecond',
    }
    plain = msgspec.json.decode(line(LogFormat.JSON, "out", "web", "said incident=inc_0123456789ab x", AT_WALL_S))
    assert "incident" not in plain, "what a program prints is not taken for ours"


def test_a_terminal_is_sent_no_control_character_and_a_line_break_is_indented() -> None:
    raw = line(LogFormat.TEXT, "info", "healer", NASTY, AT_WALL_S)
    assert raw[8:].startswith(" info [healer] supervisor.newsdesk: incident=inc_0123456789ab web is detected")
    assert raw.endswith('"\\x1b[2J"\n    second\n')


def test_journald_gets_a_priority_for_each_line_and_no_time() -> None:
    """sd-daemon(3): a line's `<N>` is its syslog(3) priority."""
    raw = line(LogFormat.JOURNAL, "error", "host", "first\nsecond", AT_WALL_S)
    assert raw == "<3>[host] first\n<3>[host] second\n"
    assert line(LogFormat.JOURNAL, "out", "host", "printed", AT_WALL_S).startswith("<6>")


def test_what_fits_a_descriptor(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with (tmp_path / "log").open("wb") as file:
        at = os.fstat(file.fileno())
        assert fitting(theirs, {}) is LogFormat.TEXT
        assert fitting(file.fileno(), {}) is LogFormat.JSON
        assert fitting(file.fileno(), {"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"}) is LogFormat.JOURNAL
        assert fitting(file.fileno(), {"JOURNAL_STREAM": "1:2"}) is LogFormat.JSON, "inherited, and redirected since"
    os.close(ours)
    os.close(theirs)


@pytest.mark.req("NFR-003")
@pytest.mark.parametrize("form", [LogFormat.JSON, LogFormat.JOURNAL, LogFormat.TEXT])
def test_a_path_that_is_no_utf8_is_shown_in_each_form(form: LogFormat) -> None:
    """`os.fsdecode` makes surrogates of it, which JSON cannot hold: the line was lost, and its logger raised."""
    path = os.fsdecode(b"/var/log/\xff")
    made = line(form, "error", "root", f"cannot rotate {path}", 0.0)
    assert b"cannot rotate /var/log/" in made.encode()
    assert "udcff" in made


def test_why_it_does_not_start_is_an_error_in_the_journal_and_plain_words_elsewhere(tmp_path: Path) -> None:
    """journald takes a bare line for news (sd-daemon(3)); `journalctl -p err` must show it."""
    for form, prefix, command in ((LogFormat.JOURNAL, "<3>", "start"), (LogFormat.JSON, "", "stop")):
        with (tmp_path / form).open("w+") as file:
            at = os.fstat(file.fileno())
            stream = f"{at.st_dev}:{at.st_ino}" if form is LogFormat.JOURNAL else "1:2"
            words = [HEALCTL, "-c", str(tmp_path / "none.toml"), command]
            done = subprocess.run(words, stderr=file, env={**os.environ, "JOURNAL_STREAM": stream}, check=False)
            assert done.returncode == ConfigError.exit_code
            file.seek(0)
            told = file.read().splitlines()
        assert told[0].startswith(f"{prefix}healctl: ")
        assert all(line.startswith(prefix) for line in told)
