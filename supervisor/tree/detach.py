"""Into the background: the caller goes on when the tree is ready, or learns why it is not.

Two forks, so that the daemon leads no session and never gets a terminal again. It keeps the working directory: the
relative paths of a configuration then mean the same as in the foreground.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from supervisor.errors import CoreGaveUp, HealError
from supervisor.tree.output import Output
from supervisor.tree.spawn import assert_forkable

log = logging.getLogger(__name__)

Serve = Callable[[Output, Callable[[], None]], tuple[int, str]]  # (output, on_ready) -> exit code, reason


class Outcome(msgspec.Struct, frozen=True):
    """What the daemon tells its caller, once: exit code 0 means ready, and it goes on by itself."""

    exit_code: int
    pid: int = 0
    message: str = ""


def detach(serve: Serve, log_path: Path) -> int:
    """Runs `serve` in the background. Returns 0 when it is ready; else its exit code, its error on stderr."""
    assert_forkable()
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    middle = os.fork()
    if middle == 0:
        _in_the_middle(serve, log_path, writing)
    os.close(writing)
    os.waitpid(middle, 0)
    with open(reading, "rb") as told:
        raw = told.read()  # the end of file comes when the daemon has spoken, or has died without a word
    outcome = msgspec.json.decode(raw, type=Outcome) if raw else Outcome(CoreGaveUp.exit_code, message="it died")
    if outcome.exit_code == 0:
        sys.stderr.write(f"healctl runs in the background (pid {outcome.pid}), its log is {log_path}\n")
    else:
        sys.stderr.write(f"healctl did not start: {outcome.message}\n  its log is {log_path}\n")
    return outcome.exit_code


def _in_the_middle(serve: Serve, log_path: Path, writing: int) -> NoReturn:
    """Neither of the two children may ever return into the caller's stack."""
    code = 1
    try:
        os.setsid()
        code = _daemon(serve, log_path, writing) if os.fork() == 0 else 0
    except BaseException:
        log.exception("cannot detach")
    finally:
        os._exit(code)


def _daemon(serve: Serve, log_path: Path, writing: int) -> int:
    told = False

    def tell(outcome: Outcome) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writing, msgspec.json.encode(outcome))  # smaller than a pipe's buffer: never waits
            os.close(writing)

    try:
        output = Output.to_file(log_path)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.dup2(output.fd, 1)
        os.dup2(output.fd, 2)
        code, reason = serve(output, lambda: tell(Outcome(0, pid=os.getpid())))
    except HealError as error:
        code, reason = error.exit_code, str(error)
    except Exception as error:
        log.exception("the root failed")
        code, reason = CoreGaveUp.exit_code, f"{type(error).__name__}: {error}"
    tell(Outcome(code or 1, message=reason[:4000] or "it was stopped"))
    return code
