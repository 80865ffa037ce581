"""`healctl report`: how well healctl does, from what it has recorded."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.heal import Answer, ask
from supervisor.cli.options import duration_s, with_output
from supervisor.wire import HISTORY

DEADLINE_S = 120.0  # years of incidents are read a page at a time


@click.command(
    epilog="\b\nExamples:\n  healctl report\n  healctl report --since 90d --by runbook\n"
    "  healctl report --json | jq .mttr.median_s"
)
@click.option("--since", default="30d", show_default=True, metavar="D", help="How far back; what is archived, too.")
@click.option("--by", type=click.Choice(["anomaly", "target", "runbook"]), help="The same for each of these.")
@with_output
def report(since: str, by: str | None) -> None:
    """Show how well healctl does: how fast it detects and repairs, what it heals without you, what it should not have
    done, and how often it pages you.

    \b
    Detected at most: since the probe's last look that was well. It broke later than that, nobody knows when.
    Detected at least: since the look that found it began. It had broken by then.
      The true time lies between the two; an incident without an earlier look counts in neither upper figure.
    Went away: nothing was done, and it was well again.
    Ended: from the detection to the end, of all that ended, except what was dismissed.
    Healed by healctl: of what was resolved, the share that a runbook resolved and no person.
    Actions: what healctl did by itself, looking not counted. False: undone, or for an incident that
      `healctl heal mark` says it should not have touched.
    Pages: first messages for which Signal gave a receipt; repetitions apart, and what has no receipt (it still waits,
      was given up, or no way to Signal is configured). A span shorter than a week counts as a week.
    A drill counts nowhere.
    p95: the smallest value that 95 % of them do not exceed.
    """
    since_s = duration_s(since, "--since")
    if not since_s:
        raise click.BadParameter("more than 0, e.g. 30d", param_hint="--since")
    args: dict[str, Any] = {"since_s": since_s} | ({"by": by} if by else {})
    ask("report", args, _show, DEADLINE_S, works_on=HISTORY)


def _show(answer: Answer) -> None:
    found = answer["incidents"]
    recorded = output.local_time(answer["recorded_since"])
    if not (found["detected"] or answer["actions"] or answer["pages"] or answer["pages_without_receipt"]):
        output.say(f"Nothing to report since {output.local_time(answer['since'])}: no incident, no action, no page.")
    else:
        output.say(f"Since {recorded}:")
        output.table(("WHAT", "COUNT", "MEDIAN", "P95", ""), _rows(answer))
        for group in answer.get("groups", ()):
            output.say()
            output.say(output.plain(group["name"]))
            output.table(("WHAT", "COUNT", "MEDIAN", "P95", ""), _rows(group))
        if left := answer.get("groups_left_out"):
            output.say(f"{left} more are left out.")
    for what in answer["passed_over"]:
        output.say(f"Not read: {output.plain(what)}")


def _rows(it: Answer) -> list[tuple[object, ...]]:
    found = it["incidents"]
    ends = f"{found['self_resolved']} went away, {found['dismissed']} dismissed, {found['open']} open"
    return [
        ("incidents", found["detected"], "", "", ends),
        _spread("detected, at most", it["mttd"]["at_most"]),
        _spread("detected, at least", it["mttd"]["at_least"]),
        _spread("ended", it["mttr"]),
        _spread("repaired by a runbook", it["mttr_by_runbook"]),
        ("healed by healctl", found["resolved_by_runbook"], "", "", _share(it["auto_resolved_percent"], "resolved")),
        ("actions", it["actions"], "", "", ""),
        ("false actions", it["false_actions"], "", "", _share(it["false_action_percent"], "actions")),
        ("pages", it["pages"], "", "", f"{it['pages_per_week']:g} a week, {it['pages_repeated']} repeated"),
        ("pages without receipt", it["pages_without_receipt"], "", "", ""),
    ]


def _share(percent: float | None, of: str) -> str:
    return "" if percent is None else f"{percent:g} % of the {of}"


def _spread(what: str, it: Answer) -> tuple[object, ...]:
    return (what, it["count"], _seconds(it["median_s"]), _seconds(it["p95_s"]), "")


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    for size, unit in ((86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s")):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value * 1000:.0f} ms"
