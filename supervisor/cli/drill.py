"""`healctl drill`: a made-up incident goes through every real stage, to real receipts, and each stage is shown."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from supervisor.cli import output
from supervisor.cli.client import Control, NoAnswer, RemoteError, is_running, not_running
from supervisor.cli.options import duration_s, settings, with_output
from supervisor.errors import Refused, UnknownId

WAIT_S = 15.0  # for one more stage; then asked again, in case the daemon is gone
MARGIN_S = 15.0  # the daemon ends a drill by itself: so much later it should have said so

Answer = dict[str, Any]


@click.command(
    epilog="""\b
Examples:
  healctl drill
  healctl drill --channel signal --timeout 30s
  healctl drill -o json | jq -r '.stages[] | [.stage, .after_ms] | @tsv'

\b
Exit codes: 0 every stage was reached, and every channel that is configured gave a receipt; 1 it failed, was
  cancelled, or another is under way; 2 usage; 3 no daemon is running; 130 Ctrl-C: the drill goes on in the daemon.
"""
)
@click.option(
    "--channel",
    type=click.Choice(["signal", "synapse", "all"]),
    default="all",
    show_default=True,
    help="Which messages are sent.",
)
@click.option(
    "--timeout", default="60s", show_default=True, metavar="DURATION", help="Not through by then: it has failed."
)
@with_output
def drill(channel: str, timeout: str) -> int:
    """Send a made-up incident through the running daemon, from its detection to the receipt of its page.

    Its messages say that they are a drill. It counts in no figure and stops no real repair. A drill that fails is an
    incident of healctl's own, which ends with the next good one. [drill] in the configuration runs one by itself.

    As JSON: {drill_id, channels, passed, verdict, stages: [{stage, at, after_ms, detail}], missing, ...}.
    """
    limit_s = duration_s(timeout, "--timeout")
    chosen = settings()
    runtime_dir = chosen.dirs().runtime_dir
    begun: Answer = {"drill_id": "healctl:drill"}  # until the daemon has answered
    with Control(runtime_dir) as control:
        told = 0
        try:
            raw = control.ask("drill", {"channel": channel, "timeout_s": limit_s}, actor=chosen.actor)
            begun = msgspec.json.decode(raw)
            for answer in _stages(control, begun, runtime_dir, limit_s):
                told = _progress(answer, told)
                begun = answer
        except KeyboardInterrupt:
            output.note(f"\nthe drill goes on in the daemon, for at most {timeout}: healctl status says how it ended;")
            output.note(f"healctl heal cancel {begun['drill_id']} ends it")
            raise
    if chosen.json:
        output.show_json(msgspec.json.encode(begun))
    else:
        _show(begun)
    return 0 if begun["passed"] else 1


def _stages(control: Control, begun: Answer, runtime_dir: Any, limit_s: float) -> Iterator[Answer]:
    """The drill each time it has come further, the last time when it is over."""
    silent_s, answer = 0.0, begun
    while not answer["over"]:
        try:
            body = control.ask("drill_wait", {"drill_id": begun["drill_id"], "seen": len(answer["stages"])}, WAIT_S)
        except RemoteError as error:
            if error.code != UnknownId.code:
                raise
            said = "healctl was restarted in the middle of the drill, which counts as failed"
            raise Refused(said, "healctl status; then try again") from error
        except NoAnswer:
            silent_s += WAIT_S
            if not is_running(runtime_dir):
                raise not_running(runtime_dir) from None
            if silent_s > limit_s + MARGIN_S:
                raise
            continue
        answer = msgspec.json.decode(body)
        yield answer


def _progress(answer: Answer, told: int) -> int:
    """New stages on stderr, for a person who waits."""
    if sys.stderr.isatty() or not settings().json:
        for stage in answer["stages"][told:]:
            detail = f"  {output.plain(stage['detail'])}" if stage["detail"] else ""
            output.note(f"{stage['after_ms']:9.1f} ms  {stage['stage']}{detail}")
    return len(answer["stages"])


def _show(answer: Answer) -> None:
    rows: list[tuple[object, ...]] = [
        (it["stage"], output.local_time(it["at"]), f"{it['after_ms']:.1f} ms", it["detail"]) for it in answer["stages"]
    ]
    rows += [(name, "-", "not reached", "") for name in answer["missing"]]
    output.table(("STAGE", "AT", "AFTER", "DETAIL"), rows)
    output.say(f"Drill {output.plain(answer['drill_id'])}: {output.plain(answer['verdict'])}")
