"""`healctl ack` and `healctl stats`: small questions to the running daemon."""

from __future__ import annotations

import click

from supervisor.cli import output
from supervisor.cli.heal import Answer, ask
from supervisor.cli.options import with_output


def _show_acknowledged(answer: Answer) -> None:
    output.say(f"{output.plain(answer['incident_id'])} is acknowledged; its page is not repeated")


@click.command(epilog="\b\nExample:\n  healctl ack inc-01")
@click.argument("incident")
@with_output
def ack(incident: str) -> None:
    """Acknowledge INCIDENT: you know, and its page is not repeated. It stays open until it is resolved."""
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


@click.command(epilog="\b\nExample:\n  healctl stats --json | jq .self_healing_status")
@with_output
def stats() -> None:
    """Show counts and last times: the `self_healing_status` section of `cortex stats` (FR-008)."""
    ask("stats", None, _show_stats)
