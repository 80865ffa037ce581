"""`healctl probe TARGET`: the running daemon reads one target now."""

from __future__ import annotations

import click

from supervisor.cli import output
from supervisor.cli.heal import Answer, ask
from supervisor.cli.options import with_output

PROBE_S = 12.0


def _show(answer: Answer) -> None:
    words = f"{output.plain(answer['target_id'])}: {output.state(answer['outcome'])} ({answer['took_ms']:.0f} ms)"
    output.say(words + (f"  {output.plain(answer['says'])}" if answer["says"] else ""))


@click.command(
    epilog="\b\nExamples:\n  healctl probe augur-executor\n  healctl probe disk:/ --json | jq .data.used_share\n\n"
    "\b\nExit codes: 0 it was asked, whatever it said; 1 nobody answered; 3 no daemon is running; 4 no such target."
)
@click.argument("target")
@with_output
def probe(target: str) -> None:
    """Read TARGET now and say what that would be by itself.

    As JSON: {target_id, family, outcome: clear|firing|pending|unknown|unavailable, says, available, reason, error,
    captured_at, took_ms, freshness_ms, data, anomalies: [{anomaly_type, status, severity, evidence, hint}]}.
    """
    ask("probe", {"target_id": target}, _show, PROBE_S)
