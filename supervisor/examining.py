"""A configuration that names plugins is read by a program of its own (`supervisor.plugged`), and by nobody else.

Whoever asks imports nothing of theirs. Import hangs, exits and crashes become a ConfigError that names the piece.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

from supervisor.config import Accepted
from supervisor.errors import ConfigError
from supervisor.schema import Problem, report

WITHIN_S = 8  # a reload is over within ten


class Job(msgspec.Struct, frozen=True):
    text: str
    file: str
    within_s: int


class At(msgspec.Struct, frozen=True, tag="at"):
    what: str


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    message: str
    hint: str


class Broke(msgspec.Struct, frozen=True, tag="broke"):
    """What it was at has raised, where no piece may raise."""

    error: str


class Found(msgspec.Struct, frozen=True, tag="found"):
    accepted: Accepted


def examine(text: str, file: Path) -> Accepted:
    """The `text` of `file`, its plugins and its runbooks. Raises ConfigError."""
    job = msgspec.json.encode(Job(text, str(file), WITHIN_S + 2))
    # -P: no directory of anybody's is put in front of the path; what is installed is what runs.
    argv = (sys.executable, "-P", "-m", "supervisor.plugged")
    child = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        out, _ = child.communicate(job, timeout=WITHIN_S)
        why = _ended(child.returncode)
    except subprocess.TimeoutExpired as error:
        out, why = error.output or b"", f"did not end within {WITHIN_S} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                pipe.close()
    return _answer(out, why, text, file)


def _answer(out: bytes, why: str, text: str, file: Path) -> Accepted:
    at = "the plugins"
    for line in out.splitlines():
        try:
            told = msgspec.json.decode(line, type=At | Fault | Broke | Found)
        except msgspec.DecodeError:  # cut off
            break
        if isinstance(told, Fault):
            raise ConfigError(told.message, told.hint)
        if isinstance(told, Found):
            return told.accepted
        if isinstance(told, Broke):
            why = f"raised {told.error}"
            break
        at = told.what
    problem = Problem(("healctl", "plugins"), f"{at}: importing and checking it {why}")
    raise ConfigError(report([problem], text, str(file)))


def _ended(code: int) -> str:
    return f"killed the process by {signal.Signals(-code).name}" if code < 0 else f"ended the process (exit {code})"
