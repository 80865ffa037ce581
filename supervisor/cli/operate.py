"""`healctl ack`, `pause`, `resume`, `audit`, `stats`: small questions and orders to the running daemon."""

from __future__ import annotations

from typing import Any

import click

from supervisor.cli import output
from supervisor.cli.heal import Answer, ask, which
from supervisor.cli.options import Command, duration_s, with_output


def _show_acknowledged(answer: Answer) -> None:
    output.say(f"{which(answer)} is acknowledged; its page is not repeated")


@click.command(epilog="\b\nExamples:\n  healctl ack web\n  healctl ack inc_1f2e3d4c5b6a")
@click.argument("incident")
@with_output
def ack(incident: str) -> None:
    """Acknowledge INCIDENT: you know, and its page is not repeated. It stays open until it is resolved.

    INCIDENT is an id, or the name of a target that has one open incident only.
    """
    ask("ack", {"incident_id": incident}, _show_acknowledged)


def _show_stats(answer: Answer) -> None:
    health = answer["self_healing_status"]
    modes = health["runbooks_by_mode"]
    output.say(f"Open incidents:    {health['open_incident_count']}")
    output.say(f"Runbooks:          {modes['auto_execute']} auto_execute, {modes['dry_run']} dry_run")
    for label, key in (
        ("Last remediation: ", "last_remediation_at"),
        ("Last escalation:  ", "last_escalation_at"),
        ("Last Signal sent: ", "last_signal_sent_at"),
    ):
        output.say(f"{label} {output.local_time(health[key])}")
    output.table(("METRIC", "EVENTS"), list(health["metrics"].items()))


@click.command(epilog="\b\nExample:\n  healctl stats --json | jq .self_healing_status")
@with_output
def stats() -> None:
    """Show counts and last times: the `self_healing_status` section of `cortex stats` (FR-008)."""
    ask("stats", None, _show_stats)


def _scope(command: Command) -> Command:
    target = click.option("--target", metavar="T", help="One target.")
    family = click.option("--family", metavar="F", help="Every target of a family: process, host, fleet ...")
    every = click.option("--all", "everything", is_flag=True, help="Everything.")
    return target(family(every(command)))


def _scope_args(target: str | None, family: str | None, everything: bool) -> dict[str, Any]:
    """Exactly one of the three; the daemon says so when it is not."""
    args: dict[str, Any] = {"target_id": target, "family": family, "all": everything or None}
    return {key: value for key, value in args.items() if value is not None}


def _show_paused(answer: Answer) -> None:
    output.say(output.paused(answer["paused"]))
    if answer["still_running"]:
        output.say(f"What already runs goes on: {', '.join(map(output.plain, answer['still_running']))}")


@click.command(
    epilog="\b\nExamples:\n  healctl pause --target web --for 2h --reason 'moving the disk'\n  healctl pause --all"
)
@_scope
@click.option("--for", "span", metavar="DURATION", help="How long, e.g. 2h (default: until resumed).")
@click.option("--reason", default="", metavar="R", help="Why; shown to whoever asks.")
@with_output
def pause(target: str | None, family: str | None, everything: bool, span: str | None, reason: str) -> None:
    """Let healctl change nothing about a target, a family or anything, for a while.

    It goes on watching, protecting and telling; neither a runbook nor `heal execute` changes anything meanwhile.
    """
    args = _scope_args(target, family, everything) | {"reason": reason}
    if span is not None:
        args["for_s"] = duration_s(span, "--for")
    ask("pause", args, _show_paused)


def _show_resumed(answer: Answer) -> None:
    resumed, waiting = answer["resumed"], answer["running_for"]
    output.say(f"{output.plain(resumed['name'] or 'everything')} is no longer paused")
    if waiting:
        output.say(f"Looked at afresh: {', '.join(map(output.plain, waiting))}")


@click.command(epilog="\b\nExamples:\n  healctl resume --target web\n  healctl resume --all")
@_scope
@with_output
def resume(target: str | None, family: str | None, everything: bool) -> None:
    """End a pause; what it held back is looked at afresh, and repaired if it is still so."""
    ask("resume", _scope_args(target, family, everything), _show_resumed)


def _show_audit(answer: Answer) -> None:
    rows = [
        (output.local_time(it["at"]), it["actor"], it["action"], ", ".join(f"{k}={v}" for k, v in it["args"].items()))
        for it in answer["orders"]
    ]
    output.table(("AT", "WHO", "ORDER", "WHAT"), rows)


@click.command(epilog="\b\nExample:\n  healctl audit --limit 20 --json")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many, newest first.")
@with_output
def audit(limit: int) -> None:
    """Show who ordered what: approvals, executions, undos, pauses, dismissals, acknowledgements."""
    ask("audit", {"limit": limit}, _show_audit)
