"""`healctl feed`: readings and insights of others, handed to the running daemon over `feed.sock`.

Sends one line and waits for its answer before the next, so that what was taken is known at any moment.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.client import not_running
from supervisor.cli.options import settings, with_output
from supervisor.errors import HealError

SOCKET = "feed.sock"
LINE_BYTES_MAX = 64 * 1024
ANSWER_S = 20.0
TOO_FAST = "too_fast"

EPILOG = """\b
Each line is one JSON object, a reading or an insight:
  {"source_id": "augur.signals", "captured_at": "2026-02-18T09:30:00Z", "freshness_ms": 60000,
   "available": true, "data": {"symbol": "BTC", "side": "long", "updated_at": "2026-02-18T09:29:58Z"}}
  {"type": "anomaly", "target_id": "augur-executor", "text": "anything for people"}

\b
Examples:
  healctl feed readings.jsonl --json
  my-poller | healctl feed

\b
Exit codes: 0 all were taken, 1 some were refused or the daemon went away, 3 no daemon is running."""


class Feeder:
    """A connection to the daemon's feed. Use it as a context manager."""

    def __init__(self, runtime_dir: Path) -> None:
        self.taken = 0
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(ANSWER_S)
        try:
            self._socket.connect(os.fsencode(runtime_dir / SOCKET))
        except OSError as error:
            self._socket.close()
            raise not_running(runtime_dir) from error
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> Feeder:
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def send(self, line: bytes) -> dict[str, Any]:
        """The daemon's answer to this line. Raises HealError when the daemon has gone away."""
        while True:
            answer = self._exchange(line)
            if answer.get("code") != TOO_FAST:
                self.taken += answer["ok"] is True
                return answer

    def _exchange(self, line: bytes) -> dict[str, Any]:
        try:
            self._socket.sendall(line + b"\n")
            raw = self._answers.readline()
        except OSError as error:
            raise self._gone(str(error) or "no answer in time") from error
        if not raw.endswith(b"\n"):
            raise self._gone("it closed the connection")
        answer: dict[str, Any] = msgspec.json.decode(raw)
        return answer

    def _gone(self, why: str) -> HealError:
        hint = "look at healctl status, then send the rest again"
        return HealError(f"healctl went away ({why}); {self.taken} lines were taken", hint)


def _lines(source: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number and text of each line that is not blank; None for one that is too long to be sent."""
    number = 0
    while raw := source.readline(LINE_BYTES_MAX):
        number += 1
        text = raw.rstrip(b"\r\n")
        if len(raw) == LINE_BYTES_MAX and not raw.endswith(b"\n"):
            while (raw := source.readline(LINE_BYTES_MAX)) and not raw.endswith(b"\n"):
                pass
            yield number, None
        elif text.strip():
            yield number, text


@click.command(epilog=EPILOG)
@click.argument("file", type=click.File("rb"), default="-")
@with_output
def feed(file: BinaryIO) -> int:
    """Hand in readings and insights of other programs: JSON lines from FILE, or from standard input until its end.

    A reading replaces healctl's own poll of its target while it is fresh; it may raise an alarm, which healctl's own
    probe then confirms before anything is done. It never proves that something works again.
    """
    chosen = settings()
    refused = 0
    with Feeder(chosen.dirs().runtime_dir) as feeder:
        for number, line in _lines(file):
            if line is None:
                answer: dict[str, Any] = {"ok": False, "error": f"longer than {LINE_BYTES_MAX} bytes", "code": "usage"}
            else:
                answer = feeder.send(line)
            refused += answer["ok"] is not True
            _show({"line": number, **answer}, json=chosen.json)
        if not chosen.json:
            output.say(f"{feeder.taken} taken, {refused} refused")
    return 1 if refused else 0


def _show(answer: dict[str, Any], *, json: bool) -> None:
    if json:
        output.say(msgspec.json.encode(answer).decode())
    elif answer["ok"] is True:
        about = answer.get("source_id") or f"our own probe looks at {answer.get('probing')}"
        output.say(f"{answer['line']:>6}  {output.coloured('taken', 'green')}    {output.plain(about)}")
    else:
        hint = f" ({answer['hint']})" if answer.get("hint") else ""
        output.say(f"{answer['line']:>6}  {output.coloured('refused', 'red')}  {output.plain(answer['error'] + hint)}")
