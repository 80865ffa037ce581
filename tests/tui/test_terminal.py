"""`healctl tui` as a person starts it, on a pty, on a real daemon: what a terminal, a shell and a signal do to it."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import proc
from tests.lab import sshd
from tests.lab.daemon import HEALCTL, Daemon, site, until
from tests.tui.terminal import Terminal, terminal
from tui import acting

pytestmark = pytest.mark.req("FR-007")

LEFT_ON = {"7", "25"}  # what a terminal has of itself: lines wrap, the cursor is seen
HOSTILE = r"""
from tests.tui.recorded import Recorded, incident, snapshot
from tui.app import Board
bad = "A\x1b]0;owned\x07\x1b[2J\x9b5n[red]x[/red]\u202e\u200d" + "e\u0301\u65e5\u672c" * 3 + "Z" * 3000
row = incident("web", evidence=bad, target_id=bad, anomaly_type=bad, severity=bad, state=bad, hint=bad, runbook_id=bad)
Board(Recorded([snapshot([row])], {"targets": {"targets": []}})).run()
"""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One whose service has died and waits for a person."""
    with site() as here:
        yield here.down()[0]


def argv(daemon: Daemon, *more: str) -> list[str]:
    return [str(HEALCTL), "-c", str(daemon.config_file), "tui", *more]


def state(it: Terminal) -> str:
    found = proc.stat(it.pid)
    return found.state if found is not None else ""


def test_each_tab_shows_what_this_daemon_says(daemon: Daemon) -> None:
    """At 80 by 24, the foot included; the report, too, whose question has an argument."""
    with terminal(argv(daemon)) as it:
        it.until("1 wait for you")
        it.until("q Quit")
        for key, words in (
            ("2", "notifier                + ready"),
            ("3", "rb-restart-service           dry_run"),
            ("4", "process_dead"),
            ("5", "pages repeated"),
        ):
            it.press(key)
            it.until(words)
        it.press("1")
        it.until("AGE")
        it.press("\r")
        it.until("may not run by itself")
        it.until("Readings:")
        assert all(len(line) <= 80 for line in it.lines())


@pytest.mark.parametrize("where", ["the list", "a question"])
def test_ctrl_c_ends_it_wherever_it_is(daemon: Daemon, where: str) -> None:
    with terminal(argv(daemon)) as it:
        before = termios.tcgetattr(it.fd)
        it.until("1 wait for you")
        assert termios.tcgetattr(it.fd) != before
        if where == "a question":
            it.press("x")
            it.until("type toy")
        it.press("\x03")
        assert it.ended(10.0) == 0
        assert (it.modes, termios.tcgetattr(it.fd)) == (LEFT_ON, before)


def test_ctrl_z_gives_the_terminal_back_to_the_shell_and_fg_returns(daemon: Daemon) -> None:
    with terminal(argv(daemon)) as it:
        before = termios.tcgetattr(it.fd)
        it.until("1 wait for you")
        it.press("\x1a")
        it.until(lambda: state(it) == "T")
        it.until(lambda: (it.modes, termios.tcgetattr(it.fd)) == (LEFT_ON, before))
        os.kill(it.pid, signal.SIGCONT)
        it.until(lambda: "1049" in it.modes and "1 wait for you" in it.text())
        it.press("q")
        assert it.ended() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(daemon: Daemon, number: signal.Signals) -> None:
    with terminal(argv(daemon)) as it:
        before = termios.tcgetattr(it.fd)
        it.until("1 wait for you")
        os.kill(it.pid, number)
        assert it.ended(10.0) == 128 + number
        assert (it.modes, termios.tcgetattr(it.fd)) == (LEFT_ON, before)


def test_a_terminal_that_takes_nothing_holds_up_neither_the_daemon_nor_the_end(daemon: Daemon) -> None:
    with terminal(argv(daemon)) as it:
        it.until("1 wait for you")
        for _ in range(300):  # nobody reads what it draws for these: its writer stands still, and it with that
            it.press("\x1b[B3?q1")
            time.sleep(0.002)
        daemon.kill_worker("host")
        until("a new one", lambda: daemon.workers().get("host"))
        daemon.ask("status")
        os.kill(it.pid, signal.SIGTERM)
        until("its end", it.gone, 60.0)
        assert it.status == 128 + signal.SIGTERM


def test_a_terminal_that_is_hung_up_ends_it(daemon: Daemon) -> None:
    with terminal(argv(daemon)) as it:
        it.until("1 wait for you")
        os.close(it.fd)
        until("its end", it.gone, 60.0)


def test_a_healer_that_hangs_is_said_and_does_not_hold_up_the_end(daemon: Daemon) -> None:
    healer = daemon.worker("healer")
    with terminal(argv(daemon)) as it:
        it.until("1 wait for you")
        assert proc.send_signal(healer, signal.SIGSTOP)
        try:
            it.until("its healer does not answer", 60.0)
            assert "!! toy" in it.text()
            it.press("5\x1b[B1")  # questions that nobody answers
            it.until("!! toy")
            began_s = time.monotonic()
            it.press("q")
            assert it.ended() == 0
            assert time.monotonic() - began_s < acting.PLAN_S, "no question's deadline was waited for"
        finally:
            proc.send_signal(healer, signal.SIGCONT)
    daemon.wait_ready()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("missing", "not running; waiting for it"),
        ("a file/run", "not running; waiting for it"),
        ("a loop", "not running; waiting for it"),
        ("x" * 150, "xxxx/events.so"),  # which is longer than a socket's name may be
    ],
)
def test_a_directory_without_a_daemon_is_said_and_is_not_called_well(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "a loop").symlink_to("a loop")
    config = tmp_path / "healctl.toml"
    config.write_text(f'[healctl]\nstate_dir = "{tmp_path}/state"\nruntime_dir = "{tmp_path}/{name}"\n')
    with terminal([str(HEALCTL), "-c", str(config), "tui"]) as it:
        it.until(lambda: said in it.text().replace("\n", ""))
        it.until("nothing is known yet")
        assert "Nothing is broken" not in it.text()
        it.press("12345akq")
        assert it.ended(10.0) == 0


def test_sixteen_colours_are_enough_none_are_and_a_terminal_without_a_cursor_is_refused(daemon: Daemon) -> None:
    with terminal(argv(daemon), TERM="xterm-16color", COLORTERM="") as it:
        it.until("1 wait for you")
        assert b"38;2;" not in it.raw
        assert b"38;5;" not in it.raw
        assert b"40m" not in it.raw, "its owner's background is kept"
    with terminal(argv(daemon), NO_COLOR="1", COLORTERM="") as it:
        it.until("!! toy")
    with terminal(argv(daemon), TERM="dumb") as it:
        assert it.ended() == 2
        assert "needs a terminal" in it.text()


@pytest.mark.skipif(bool(sshd.missing()), reason=sshd.missing())
def test_over_ssh_without_a_mouse_it_is_the_same_and_a_line_that_is_cut_leaves_nothing(
    daemon: Daemon, tmp_path: Path
) -> None:
    lab = sshd.Lab(tmp_path)
    server = lab.sshd("127.0.79.1")
    far = ["/usr/bin/ssh", "-tt", "-F", "none", "-i", str(lab.login), "-p", str(sshd.PORT)]
    far += ["-o", f"UserKnownHostsFile={lab.known_hosts}", server.address, shlex.join(argv(daemon, "--read-only"))]
    try:
        with terminal(far) as it:
            it.until("1 wait for you")
            it.until("read-only")
            for key, words in (("2", "notifier"), ("4", "process_dead"), ("1", "AGE")):
                it.press(key)
                it.until(words)
            it.press("\r")
            it.until("What happened")
            far_away = [pid for pid in server.processes() if "tui" in proc.command_line(pid)]
            assert len(far_away) == 1
            os.kill(it.pid, signal.SIGKILL)  # the line is cut
            until("its end there", lambda: proc.stat(far_away[0]) is None, 60.0)
    finally:
        lab.close()


def test_no_byte_that_a_service_printed_is_obeyed_by_the_terminal() -> None:
    with terminal([sys.executable, "-c", HOSTILE]) as it:
        it.until("1 open")
        for keys in ("x", "\x1b", "a", "\x1b", "i", "\x1b", "k", "\r"):
            it.press(keys)
            it.read(0.3)
        it.press("\x03")
        it.ended()
        for bad in (b"\x1b]0;owned", b"owned\x07", b"\x1b[2J[red]", b"\xc2\x9b", "\u202e".encode(), "\u200d".encode()):
            assert bad not in it.raw, bad
        assert b"[red]x" in it.raw
