"""A small service for tests: it writes its pid file and waits, in the ways in which services differ.

    toy_service.py [--pid-file F] [--daemonize] [--ignore-term] [--exit-after S --exit-code N]
                   [--children N] [--own-session-child] [--environment F] [--say TEXT] [--fail N] [--flood BYTES]
                   [--starts F]

It sleeps in the kernel until a signal ends it; nothing in it polls.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from pathlib import Path


def main() -> int:
    options = _options()
    if options.starts:
        with open(options.starts, "a") as starts:
            starts.write(f"{os.getpid()}\n")
    if options.say:
        print(options.say, flush=True)
    if options.fail:
        return int(options.fail)
    if options.flood:
        sys.stdout.write("x" * options.flood)
        sys.stdout.flush()
    # Blocked from here on, and waited for at the end: a signal that comes early is not lost.
    waited = {signal.SIGTERM, signal.SIGINT, signal.SIGALRM}
    signal.pthread_sigmask(signal.SIG_BLOCK, waited)
    if options.daemonize and os.fork():
        return 0
    if options.daemonize:
        os.setsid()
    children = [_child(options) for _ in range(options.children)]
    if options.environment:
        _write(options.environment, json.dumps(dict(os.environ)))
    if options.pid_file:
        _write(options.pid_file, f"{os.getpid()}\n")
    if options.exit_after is not None:
        signal.setitimer(signal.ITIMER_REAL, max(options.exit_after, 0.001))
    while True:
        number = signal.sigwait(waited)
        if number == signal.SIGALRM:
            return int(options.exit_code)
        if not options.ignore_term:
            break
    for child in children:
        os.kill(child, signal.SIGKILL)
    if options.pid_file:
        Path(options.pid_file).unlink(missing_ok=True)
    return 0


def _child(options: argparse.Namespace) -> int:
    pid = os.fork()
    if pid == 0:
        if options.own_session_child:
            os.setsid()
        while True:
            signal.pause()
    return pid


def _write(path: str, text: str) -> None:
    """In one rename: whoever sees the file sees all of it."""
    temporary = Path(f"{path}.{os.getpid()}")
    temporary.write_text(text)
    temporary.rename(path)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pid-file", default="")
    parser.add_argument("--starts", default="", help="a line is added to this file at every start")
    parser.add_argument("--daemonize", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--exit-after", type=float)
    parser.add_argument("--exit-code", type=int, default=0)
    parser.add_argument("--children", type=int, default=0)
    parser.add_argument("--own-session-child", action="store_true")
    parser.add_argument("--environment", default="")
    parser.add_argument("--say", default="")
    parser.add_argument("--fail", type=int, default=0)
    parser.add_argument("--flood", type=int, default=0)
    parser.add_argument("--name", help="means nothing: a word for `match` to find")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
